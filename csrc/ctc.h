// What the files of the CTC loss share: a call, the memory of a thread, a sample, and rows of its frames.
//
// Blanks and labels are two arrays (label j, blank after label j, j = 0 before the first), so that the recursion is
// made of shifted contiguous loops that vectorise:
//     blank[j] <- (blank[j] + label[j]) p(blank)
//     label[j] <- (label[j] + blank[j - 1] + [label j differs from j - 1] label[j - 1]) p(label j)
#pragma once

#include <memory>

#include "lattice.h"

namespace losskit {
namespace {

using enum wire::ctc::Violation;

constexpr int64_t kRescale = 8;  // frames between two rescalings

struct Job : Batch {
  static constexpr size_t kFirstParameter = wire::ctc::kFirstParameter;
  int64_t frames = 0, classes = 0, blank = 0;
  double limit = infinity<double>;                    // of log-probabilities
  int64_t strides[3] = {}, gradient_strides[3] = {};  // by frame, sample, class
  const char* input = nullptr;
  DType dtype = DType::kFloat;
  const char* targets = nullptr;
  DType target_dtype = DType::kLong;
  int64_t target_stride = 1;
  std::vector<int64_t> input_lengths, target_lengths, target_offsets;
  int64_t size = 0;     // of the targets' last dimension
  bool padded = false;  // targets are rows, not one after another
  bool adds_up = true;  // the lengths of targets one after another

  bool read(const Inputs& in);
  void outputs(const Inputs& in, Result& result);
  Work divide();
  void conclude();
  // Take note of what is refused. Lengths are told before labels, and these before log-probabilities.
  void refuse(wire::ctc::Violation violation, int64_t order, int64_t place, std::variant<double, int64_t> value) {
    const int64_t rank = violation == kInputLength ? 0 : violation == kTargetLength ? 1 : violation == kLabel ? 2 : 3;
    if (options.checks == kRaise) report({rank, order, violation, place, value});
  }
};

// Buffers of one thread. Rows have `width` doubles, padded by zeros, with one more zero before them.
template <class T> struct Scratch {
  std::vector<int64_t> labels, first, repeated;  // label j; where its class occurs first; those that occurred before
  std::vector<int64_t> classes, where, which, seen;  // distinct classes, the blank in [0]; where they occur first; j's
  std::vector<double> skip, skip_next, distinct;  // factors 0 or 1: label j differs from j - 1, j + 1, is a first one
  std::vector<double> exponentials, beta_blank[2], beta_label[2], posterior, difference, log_emission;
  std::vector<T> frame, gathered, values, row, narrowed;
  std::vector<T> others;  // a factor: 0 for the classes of the target, 1 for the rest
  std::vector<double> blank, total, rest,
      logs;             // per frame: emission of the blank; sums of all exponentials, of others
  std::vector<T> most;  // per frame: the largest score
  bool kept = false;    // rows of the gradient hold exponentials from forward to backward
  std::unique_ptr<double[]> rows;
  int64_t capacity = 0;
};

template <class T> struct Sample {
  const Job& job;
  Scratch<T>& own;
  int64_t index, frames, length, width, stride;
  double* alpha_blank;
  double* alpha_label;
  double* emission;
  double* row(double* rows, int64_t t) const { return rows + t * stride + kLanes; }
};

template <class T> LOSSKIT_INLINE const T* frame_of(const Sample<T>& sample, int64_t t) {
  constexpr DType own = sizeof(T) == 4 ? DType::kFloat : DType::kDouble;
  const Job& job = sample.job;
  const char* data = job.input + (t * job.strides[0] + sample.index * job.strides[1]) * size_of(job.dtype);
  if (job.dtype == own && job.strides[2] == 1) return reinterpret_cast<const T*>(data);
  read_run(job.dtype, data, job.strides[2], job.classes, sample.own.frame.data());
  return sample.own.frame.data();
}

// Prefetches a frame: the frames of a sample are too far apart in memory for the hardware's prefetchers.
LOSSKIT_INLINE void announce(const char* data, const int64_t* strides, int64_t t, int64_t index, int64_t classes,
                             int64_t size) {
  if (strides[2] != 1) return;
  data += (t * strides[0] + index * strides[1]) * size;
  const int64_t bytes = std::min<int64_t>(classes * size, 2048);
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(data + i);
}

LOSSKIT_INLINE bool scores(const Job& job) { return wire::ctc::from_scores(job.options.family); }

// --------------------------------------------------------------------------------------------------------
// Rows of the gradient

template <class T> struct Row {
  constexpr static DType own = sizeof(T) == 4 ? DType::kFloat : DType::kDouble;
  const Job& job;
  Scratch<T>& scratch;
  char* place;
  Row(const Job& job, Scratch<T>& scratch, int64_t index, int64_t t)
      : job(job),
        scratch(scratch),
        place(job.gradients[0] +
              (t * job.gradient_strides[0] + index * job.gradient_strides[1]) * size_of(job.gradient_dtypes[0])) {}
  bool in_place() const { return job.gradient_dtypes[0] == own && job.gradient_strides[2] == 1; }
  T* data() { return in_place() ? reinterpret_cast<T*>(place) : scratch.row.data(); }
  void write() {
    if (in_place()) return;
    const DType dtype = job.gradient_dtypes[0];
    if (job.gradient_strides[2] == 1) return write_run(dtype, scratch.row.data(), job.classes, place);
    char* narrowed = reinterpret_cast<char*>(scratch.values.data());
    write_run(dtype, scratch.row.data(), job.classes, narrowed);
    scatter(narrowed, size_of(dtype), job.classes, job.gradient_strides[2], place);
  }
};

template <class T> void fill(const Job& job, Scratch<T>& own, int64_t index, int64_t begin, double value) {
  if (!job.gradients[0]) return;
  for (int64_t t = begin; t < job.frames; ++t) {
    Row<T> row(job, own, index, t);
    std::fill_n(row.data(), job.classes, static_cast<T>(value));
    row.write();
  }
}

}  // namespace
}  // namespace losskit
