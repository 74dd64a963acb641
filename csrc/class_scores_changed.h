// Class scores, scores that are changed: a formula makes the score of the own class, and all are multiplied by a
// number.
//
// 1. The formula takes the own class's score, then what multiplies the row's scores where that is an operand, then a
//    number of the class where it asks for one. The second is there for its domain alone.
// 2. Everything here is double, whatever the scores are: what is left of an angle near 0 has the digits of its cosine.
#pragma once

#include "class_scores_memory.h"

namespace losskit {
namespace {

// A vector with an entry per class; false if the tensor is something else.
template <class T> bool class_vector(const Tensor& tensor, int64_t classes, std::vector<T>& values) {
  const DType dtype = dtype_of(tensor);
  if (!known(dtype) || !floating(dtype) || !tensor.is_cpu() || tensor.dim() != 1 || tensor.sizes()[0] != classes)
    return false;
  values.resize(classes);
  read_run(dtype, tensor.data_ptr(), tensor.strides()[0], classes, values.data());
  return true;
}

// The operands behind the target. False if the kernel takes others.
template <class T> bool read_changes(Job<T>& job, const Inputs& in) {
  const bool by_row = std::isnan(in.numbers[wire::class_scores::kMultiple]);
  if (!job.plain || job.picked || job.probabilities || !job.kernel || job.kernel->abi != kAbi) return false;
  const int of_class = job.kernel->operands - 1 - by_row;
  const size_t last = 2 + by_row;
  if (of_class < 0 || of_class > 1 || in.operands.size() != last + of_class) return false;
  if (job.options.gradients >> last || (job.options.gradients & ~1 && !(job.options.gradients & 1))) return false;
  if (of_class && !class_vector(in.operands[last], job.classes, job.made)) return false;
  if (!by_row) {
    job.multiple = in.numbers[wire::class_scores::kMultiple];
    return true;
  }
  // A gradient by what multiplies several rows is a sum, which is left to torch.
  const bool one_each = in.operands[kMultiplePosition].numel() == job.walk.numel;
  return (one_each || !(job.options.gradients >> kMultiplePosition & 1)) &&
         attach(job.walk, in.operands[kMultiplePosition], true, job.sources[kMultiple]);
}

// The scores of a block's own classes.
template <class T> void own_scores(const Job<T>& job, int64_t begin, int64_t n, Scratch<T>& s, double* to) {
  const Source& source = job.sources[kScores];
  const Runs& from = runs_of<T>(job, kScores, begin, n, s.runs[kScores]);
  const int64_t step = job.class_strides[kScores];
  for (int64_t r = 0, j = 0; r < from.count; j += from.lengths[r++])
    as_floating(source.dtype, row_of(job, kScores, from.offsets[r]), [&]<class From>(const From* z) {
      for (int64_t i = 0; i < from.lengths[r]; ++i) to[j + i] = widen<double>(z[i * from.stride + s.own[j + i] * step]);
    });
}

// Takes out the rows that count and have a number outside the domain of the formula's operand `k`. False if the call is
// refused.
template <class T>
bool admit(Job<T>& job, int k, const double* x, double slack, wire::class_scores::Violation violation, int64_t begin,
           int64_t n, Scratch<T>& s) {
  const Domain& domain = job.kernel->domains[k];
  if (job.options.checks == kOff || domain.kind == kAnything) return true;
  const double* const seen = settled(domain, slack, x, n, s.lost);
  bool all = true;
  for (int64_t j = 0; j < n; ++j) {
    if (!outside(domain, seen[j]) || s.state[j] != kCounts) continue;
    s.state[j] = kBad;
    all = s.uniform = false;
    if (job.options.checks != kRaise) continue;
    const int64_t row = place_of(job.walk, begin + j);
    job.report({k + 1, row, violation, violation == kOwnScore ? row * job.classes + s.own[j] : row, x[j]});
  }
  return all || job.options.checks != kRaise;
}

// Sets what changes the scores of a block. False if the call is refused.
template <class T> bool change(Job<T>& job, int64_t begin, int64_t n, const double* factor, Scratch<T>& s) {
  double *const score = s.dots, *const of_class = s.rest_lost;
  own_scores(job, begin, n, s, score);
  bool goes_on = admit(job, 0, score, slack_of(job.sources[kScores].dtype), kOwnScore, begin, n, s);
  if (job.sources[kMultiple].present()) {
    const double* const found = fetch(job.walk, job.sources[kMultiple], begin, n, s.multiple);
    if (found != s.multiple) std::copy(found, found + n, s.multiple);
    goes_on &= admit(job, 1, s.multiple, 0.0, kMultipleOfRow, begin, n, s);
  } else {
    std::fill(s.multiple, s.multiple + n, job.multiple);
  }
  const double* operands[kOperands] = {score, s.multiple};
  if (!job.made.empty()) {
    for (int64_t j = 0; j < n; ++j) of_class[j] = job.made[s.own[j]];
    operands[job.kernel->operands - 1] = of_class;
  }
  double* gradients[kOperands] = {s.slope};
  job.kernel->f64[job.gradients[0] ? kPredictions : kNone](n, operands, job.parameters, 1.0, s.own_given, gradients);
  for (int64_t j = 0; j < n; ++j) {
    s.own_given[j] *= s.multiple[j];
    s.scale[j] = (factor ? factor[j] : 1.0) * job.scale * s.multiple[j];
  }
  return goes_on;
}

}  // namespace
}  // namespace losskit
