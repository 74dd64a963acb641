// The loop of the score-margins family: a formula of the difference between the score of a target class and that of
// another class, summed over the pairs of a row.
//
// 1. A segment is one row against one of its targets: the differences to all classes. Differences to targets are
//    computed too and zeroed afterwards: a store or two are cheaper than compacting the array. The block function sees
//    as many segments at a time as its 1024 numbers hold, so that short rows fill vectors; longer rows are cut into
//    tiles.
// 2. Floats are computed as floats and summed in double, four at a time. A batch with a sum that is not finite is
//    computed once more in double, where intermediate results do not overflow. So is a batch with a long list: a class
//    would add up too many slopes as floats.
// 3. The gradient of a target's score is minus the sum of the other classes' gradients, taken in double.
// 4. With one target a row, the formula writes into the gradient itself, unless scaling or conversion must follow.
// 5. Rows of few classes lie side by side (margins_few.h, margins_few_lists.h).
// 6. A list of targets ends at the first -1; what comes after it is never looked at. A row whose targets are not
//    classes is a violation, NaN where that is not raised. So is a batch in which all rows are 0 and 1 to their end:
//    a mask, not lists.
#include "margins_batch.h"
#include "margins_few_lists.h"

namespace losskit {
namespace {

template <class T> void run_batches(int64_t begin, int64_t end, void* context) {
  Job& job = *static_cast<Job*>(context);
  Scratch<T, T> scratch;
  FewScratch few;
  FewListsScratch lists;
  std::unique_ptr<Scratch<T, double>> wide;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t first = i * job.batch, rows = std::min(job.batch, job.rows - first);
    if (job.few && (job.many ? run_few_lists(job, first, rows, few, lists) : run_few(job, first, rows, few))) continue;
    const bool finite = Batch<T, T>{job, scratch, first, rows}.run();
    if (finite || sizeof(T) == 8) continue;
    if (!wide) wide = std::make_unique<Scratch<T, double>>();
    Batch<T, double>{job, *wide, first, rows}.run();
  }
}

// Whether the targets of a row are 0 and 1 alone, to its end.
bool looks_like_mask(const Job& job, int64_t row) {
  for (int64_t j = 0; j < job.classes; ++j) {
    const int64_t at = row * job.target_steps[0] + j * job.target_steps[1];
    if (static_cast<uint64_t>(integer_at(job.target_dtype, job.targets, at)) > 1) return false;
  }
  return true;
}

// Whether all rows that count look like masks: one of them may be a list with repetitions, but hardly all.
bool given_mask(const Job& job, Weights& scratch) {
  if (!job.many || job.options.checks == kOff || job.classes <= 2) return false;
  bool any = false;
  for (int64_t begin = 0; begin < job.rows; begin += kBlock) {
    const int64_t n = std::min(kBlock, job.rows - begin);
    const float* mask = mask_of(job, begin, n, scratch);
    for (int64_t i = 0; i < n; ++i) {
      if (mask && mask[i] == 0.0f) continue;
      if (!looks_like_mask(job, begin + i)) return false;
      any = true;
    }
  }
  return any;
}

bool Job::read(const Inputs& in) {
  const Tensor& a = in.operands[0];
  many = wire::margins::many(options.family);
  const int dims = static_cast<int>(a.dim());
  if (in.operands.size() != 2 || dims < 1 || dims > 2 || !a.is_cpu() || !in.operands[1].is_cpu()) return false;
  const Tensor& b = in.operands[1];
  const auto sizes = a.sizes(), target_sizes = b.sizes();
  const auto strides = a.strides(), target_strides = b.strides();
  result = score_dtype = gradient_dtypes[0] = dtype_of(a);
  target_dtype = dtype_of(b);
  if (!floating(score_dtype) || !known(target_dtype) || !is_integer(target_dtype)) return false;
  if (kernel->abi != kAbi || kernel->operands != 1) return false;
  if (static_cast<int>(b.dim()) != (many ? dims : dims - 1)) return false;
  for (int64_t i = 0; i < b.dim(); ++i)
    if (target_sizes[i] != sizes[i]) return false;
  classes = sizes[dims - 1];
  rows = dims == 2 ? sizes[0] : 1;
  if (classes == 0) return false;
  score_steps[0] = dims == 2 ? strides[0] : 0;
  score_steps[1] = strides[dims - 1];
  if (dims == 2) target_steps[0] = target_strides[0];
  if (many) target_steps[1] = target_strides[dims - 1];
  scores = static_cast<const char*>(a.data_ptr());
  targets = static_cast<const char*>(b.data_ptr());
  if (in.weight) {
    weight_dtype = dtype_of(*in.weight);
    if (many || !in.weight->is_cpu() || !floating(weight_dtype) || in.weight->dim() != 1) return false;
    if (in.weight->sizes()[0] != classes) return false;
    if (size_of(weight_dtype) < 4 && size_of(score_dtype) >= 4) return false;  // Python refuses it
    weights = static_cast<const char*>(in.weight->data_ptr());
    weight_step = in.weight->strides()[0];
  }
  const int64_t one = 1;
  start(walk, dims - 1, sizes.data(), &one);
  return true;
}

void Job::outputs(const Inputs& in, Result& out) {
  const Tensor& a = in.operands[0];
  const int dims = static_cast<int>(a.dim());
  const auto dense = allocate_like(*this, out, 0, a);
  gradient_steps[0] = dims == 2 ? dense[0] : 0;
  gradient_steps[1] = dense[dims - 1];
}

Work Job::divide() {
  Weights scratch;
  mask_given = given_mask(*this, scratch);
  width = std::min(classes, kBlock);
  batch = kBlock / width;
  few = takes_few(*this);
  if (few) batch -= batch % kSideBySide;
  return {(rows + batch - 1) / batch, batch * classes,
          score_dtype == DType::kDouble ? run_batches<double> : run_batches<float>};
}

}  // namespace

Result margins(const Inputs& in) {
  Job job;
  return drive(job, in);
}

}  // namespace losskit

LOSSKIT_OP(margins)
