// The transducer loss (RNN-T): a lattice of frames and labels for each sample, a softmax over classes at each node.
//
// 1. A node (t, u) has seen t frames and u labels. Its blank leads to (t + 1, u), its next label to (t, u + 1); the
// blank
//    of the last node ends. Nodes lie along anti-diagonals t + u in memory, so that a diagonal is a loop that
//    vectorises.
// 2. Masses are in log space, in double, relative to the largest of their diagonal: rounding errors are then those of
//    numbers near 1, not of losses of some hundreds. A diagonal's posteriors are divided by their own sum.
// 3. The exponentials of the log-softmax are written where the gradient will be, where that has room for them; a last
//    pass multiplies each node's by one number and puts in the two classes that an arc has.
// 4. The gradient of these two is a difference of two products of positive numbers, none of which is 1 - p by
//    subtraction: p(blank) P(label) - P(blank) (1 - p(blank)), P the posterior of an arc.
// 5. Samples are independent: one after another per thread, the same bits for any number of threads.
#pragma once

#include <memory>

#include "lattice.h"

namespace losskit {
namespace {

using enum wire::rnnt::Violation;

struct Job : Batch {
  static constexpr size_t kFirstParameter = wire::rnnt::kFirstParameter;
  int64_t frames = 0, columns = 0, classes = 0, blank = 0;
  double clamp = -1, emission = 1, limit = infinity<double>;
  int64_t strides[4] = {}, gradient_strides[4] = {};  // by sample, frame, label, class
  const char* input = nullptr;
  DType dtype = DType::kFloat;
  const char* targets = nullptr;
  DType target_dtype = DType::kLong;
  int64_t target_strides[2] = {0, 1};
  std::vector<int64_t> input_lengths, target_lengths;

  bool softmax() const { return wire::rnnt::from_scores(options.family); }
  bool read(const Inputs& in);
  void outputs(const Inputs& in, Result& result);
  Work divide();
  void conclude();
  // Take note of what is refused. Lengths are told before labels, and these before log-probabilities.
  void refuse(wire::rnnt::Violation violation, int64_t order, std::variant<double, int64_t> value) {
    const int64_t rank = violation == kInputLength ? 0 : violation == kTargetLength ? 1 : violation == kLabel ? 2 : 3;
    if (options.checks == kRaise) report({rank, order, violation, order, value});
  }
};

// Buffers of one thread.
template <class T> struct Scratch {
  std::vector<int64_t> labels;
  std::vector<T> node, row, narrowed;
  std::unique_ptr<double[]> memory;
  int64_t capacity = 0;
};

// f(u) for the entries of a diagonal.
template <class F> LOSSKIT_INLINE void each(int64_t low, int64_t end, const F& f) {
  for (int64_t i = low; i < end; i += kLanes) {
#pragma GCC ivdep
    for (int64_t k = 0; k < kLanes; ++k) f(i + k);
  }
}

// A sample and its lattice: arrays of diagonals, an entry for each u. They are -inf where there is no node, and have an
// entry before and some behind.
template <class T> struct Sample {
  Job& job;
  Scratch<T>& own;
  int64_t index, frames, labels, stride;
  bool gradient, kept;          // kept: exponentials stay in the rows of the gradient
  double *v, *r;                // forward masses
  double *blank, *label;        // log-probabilities of the arcs; backward leaves the gradients of these classes here
  double *of_blank, *of_label;  // their scores less the top of the node
  double *rest, *lift;          // what the softmax of a node leaves (rnnt_nodes.h)
  int64_t diagonals() const { return frames + labels; }
  int64_t low(int64_t d) const { return std::max<int64_t>(0, d - frames + 1); }
  // In whole lanes from the lowest node on: entries behind the highest are -inf and stay so.
  int64_t end(int64_t d) const {
    const int64_t nodes = std::min(d, labels) + 1 - low(d);
    return low(d) + (nodes + kLanes - 1) / kLanes * kLanes;
  }
  int64_t at(int64_t t, int64_t u) const { return (t + u) * stride + kLanes + u; }
};

constexpr int kArrays = 8;

template <class T> constexpr DType own_dtype = sizeof(T) == 4 ? DType::kFloat : DType::kDouble;

template <class T> LOSSKIT_INLINE const T* node_of(const Sample<T>& sample, int64_t t, int64_t u) {
  const Job& job = sample.job;
  const int64_t at = sample.index * job.strides[0] + t * job.strides[1] + u * job.strides[2];
  const char* data = job.input + at * size_of(job.dtype);
  if (job.dtype == own_dtype<T> && job.strides[3] == 1) return reinterpret_cast<const T*>(data);
  read_run(job.dtype, data, job.strides[3], job.classes, sample.own.node.data());
  return sample.own.node.data();
}

// The gradient of a node: in place, or in a row that `write` puts there.
template <class T> struct Row {
  const Job& job;
  Scratch<T>& scratch;
  char* place;
  Row(const Job& job, Scratch<T>& scratch, int64_t index, int64_t t, int64_t u) : job(job), scratch(scratch) {
    const int64_t* step = job.gradient_strides;
    place = job.gradients[0] + (index * step[0] + t * step[1] + u * step[2]) * size_of(job.gradient_dtypes[0]);
  }
  bool in_place() const { return job.gradient_dtypes[0] == own_dtype<T> && job.gradient_strides[3] == 1; }
  T* data() { return in_place() ? reinterpret_cast<T*>(place) : scratch.row.data(); }
  void write() {
    if (in_place()) return;
    const DType dtype = job.gradient_dtypes[0];
    if (job.gradient_strides[3] == 1) return write_run(dtype, scratch.row.data(), job.classes, place);
    char* narrowed = reinterpret_cast<char*>(scratch.narrowed.data());
    write_run(dtype, scratch.row.data(), job.classes, narrowed);
    scatter(narrowed, size_of(dtype), job.classes, job.gradient_strides[3], place);
  }
};

// The gradient of the nodes in the lattice (`inside`) or of the others.
template <class T>
void fill(const Job& job, Scratch<T>& own, int64_t i, int64_t frames, int64_t labels, bool inside, double value) {
  if (!job.gradients[0]) return;
  for (int64_t t = 0; t < job.frames; ++t)
    for (int64_t u = 0; u < job.columns; ++u) {
      if ((t < frames && u <= labels) != inside) continue;
      Row<T> row(job, own, i, t, u);
      std::fill_n(row.data(), job.classes, static_cast<T>(value));
      row.write();
    }
}

}  // namespace
}  // namespace losskit
