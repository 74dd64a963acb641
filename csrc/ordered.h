// What the files of the ordered family share: a call, its units, and passes over arrays (ordered.cpp explains them).
#pragma once

#include "ordered_sort.h"
#include "primitives.h"

namespace losskit {
namespace {

using wire::ordered::Statistic, wire::ordered::Violation;
constexpr int kTensors = 4;

struct Job : Call {
  static constexpr size_t kFirstParameter = wire::ordered::kFirstParameter;
  // `walk` is over the units: lists, rows, images, classes. Elements are walked in the order of the tensor.
  Walk elements;
  std::array<Source, kTensors> own;  // of the elements: the input, then what has its shape
  Source labels;                     // of the units, or of pixels: class indices
  Walk pixels;                       // of class indices
  int64_t units = 1, width = 1;      // how many there are, and the elements of each; of classes, the pixels of each
  int64_t sets = 1, classes = 1, images = 1, plane = 1;  // of classes of pixels
  bool whole = false;
  int event = -1, masks = -1;  // which of `own` they are
  Statistic statistic = Statistic::kAbsent;
  bool soft = false, swapped = false;  // a target of probabilities; `step` comes before `error`
  int64_t ignored = -100;
  DType input_dtype = DType::kFloat;
  int64_t rows = 1;                     // units at a time
  std::vector<double> many;             // of classes: whether there is a loss
  std::vector<uint8_t> spoilt, active;  // of sets: whether a label is no class, whether a class counts
  Buffer<float> errors32, slopes32;     // of pixels, class after class
  Buffer<double> errors64, slopes64;

  bool read(const Inputs& in);
  void outputs(const Inputs& in, Result& result);
  Work divide();
  double counted() const;
  void conclude();
};

// A number of a unit of one of the call's sources.
inline double of_unit(const Job& job, int source, int64_t unit) {
  double number;
  return *fetch(job.walk, job.sources[source], unit, 1, &number);
}

// Whether a unit is not masked.
inline bool counts(const Job& job, int64_t unit) {
  return !job.sources[kMask].present() || of_unit(job, kMask, unit) != 0.0;
}

// The weight of a unit's loss, and with the upstream gradient that of its gradient.
inline double weight_of(const Job& job, int64_t unit) {
  return job.sources[kSampleWeight].present() ? of_unit(job, kSampleWeight, unit) : 1.0;
}
inline double factor_of(const Job& job, int64_t unit) {
  const double upstream = job.sources[kUpstream].present() ? of_unit(job, kUpstream, unit) : 1.0;
  return weight_of(job, unit) * upstream * job.scale;
}

// Give the loss of a unit that counts, or 0 of one that does not.
inline void deliver(Job& job, int64_t unit, double loss, Sum& sum) {
  if (job.sources[kUpstream].present()) return;
  if (job.options.reduction != kElements) return sum.add(loss);
  write_run(job.result, &loss, 1, job.values + unit * size_of(job.result));
}

// --------------------------------------------------------------------------------------------------------
// Passes over arrays

LOSSKIT_CLONES inline void exponentials(double* x, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) x[i] = exp(x[i]);
}

// What rounding took from a - b (Knuth's two-sum): a distance of 80 would cost its exponential 40 ULP in double.
LOSSKIT_INLINE double rounded_off(double a, double b, double difference) {
  const double taken = a - difference;
  return (a - (difference + taken)) + (taken - b);
}
LOSSKIT_CLONES inline void distances(double* x, double high, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] -= high;
}
LOSSKIT_CLONES inline void distances(double* x, double high, int64_t n, double* errors) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const double distance = x[i] - high;
    errors[i] = rounded_off(x[i], high, distance);
    x[i] = distance;
  }
}
LOSSKIT_CLONES inline void corrected(double* e, const double* errors, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) e[i] += e[i] * errors[i];
}

struct Extremes {
  double low, high;
  bool nan;  // which is neither
};
LOSSKIT_INLINE Extremes extremes_any(const double* x, int64_t n) {
  constexpr int kLanes = 8;
  double low[kLanes], high[kLanes], sums[kLanes] = {};
  std::fill(low, low + kLanes, infinity<double>);
  std::fill(high, high + kLanes, -infinity<double>);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int j = 0; j < kLanes; ++j) {
      low[j] = x[i + j] < low[j] ? x[i + j] : low[j];
      high[j] = x[i + j] > high[j] ? x[i + j] : high[j];
      sums[j] += x[i + j] * 0.0;
    }
  for (; i < n; ++i) {
    low[0] = x[i] < low[0] ? x[i] : low[0];
    high[0] = x[i] > high[0] ? x[i] : high[0];
    sums[0] += x[i] * 0.0;
  }
  const bool odd = folded<kLanes>(sums) != 0.0;  // NaN, or an infinity
  return {*std::min_element(low, low + kLanes), *std::max_element(high, high + kLanes),
          odd && std::any_of(x, x + n, [](double one) { return one != one; })};
}
LOSSKIT_CLONES inline Extremes extremes(const double* x, int64_t n) { return extremes_any(x, n); }

// The formula of a block; slopes by its first and second operand, where they are wanted.
inline void evaluate(const Job& job, int64_t n, const double* first, const double* second, double* values,
                     double* slopes, double* unused) {
  const double* operands[kOperands] = {job.swapped ? second : first, job.swapped ? first : second};
  double* gradients[kOperands] = {job.swapped ? unused : slopes, job.swapped ? slopes : unused};
  job.kernel->f64[job.options.gradients ? kAll : kNone](n, operands, job.parameters, 1.0, values, gradients);
}

// Write a unit's gradient of n elements, or zeros (NaN), from `begin` on.
template <class T> void write_gradient(const Job& job, const T* from, int64_t n, int64_t begin) {
  write_run(job.gradient_dtypes[0], from, n, job.gradients[0] + begin * size_of(job.gradient_dtypes[0]));
}
inline void fill_gradient(const Job& job, double value, int64_t n, int64_t begin) {
  if (!job.options.gradients) return;
  double block[kBlock];
  std::fill(block, block + std::min(n, kBlock), value);
  for (int64_t at = 0; at < n; at += kBlock) write_gradient(job, block, std::min(kBlock, n - at), begin + at);
}

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

}  // namespace
}  // namespace losskit
