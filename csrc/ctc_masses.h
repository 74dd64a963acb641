// CTC in scaled linear space: the usual way through the lattice of a sample.
//
// 1. Masses are doubles whatever the dtype: a sum and a product per state instead of logarithms, faster than log space
//    and a thousand times more accurate than log space in float. Emissions are relative to the frame's largest one;
//    every few frames a power of two is taken out, exactly.
// 2. The error from underflow is bounded as follows. In frame t the scaled forward and backward masses are at most
//    about 1, so with D(t) = their inner product, a state below 2^-1022 weighs less than 2^-1022 / D(t) in the result.
//    If a D(t) falls below 2^-700 (very peaked scores that contradict the target), the sample is solved in log space.
#pragma once

#include "ctc.h"

namespace losskit {
namespace {

// The frame's emissions, and the sums over classes that the log-softmax needs.
template <class T> LOSSKIT_INLINE void emit(const Sample<T>& sample, int64_t t) {
  Scratch<T>& own = sample.own;
  const int64_t count = static_cast<int64_t>(own.classes.size()), classes = sample.job.classes;
  const int64_t padded = (count + kLanes - 1) / kLanes * kLanes;  // so that GCC sees no tail
  const T* x = frame_of(sample, t);
  T* gathered = own.gathered.data();
  double* exponentials = own.exponentials.data();
  const int64_t* of = own.classes.data();
  for (int64_t k = 0; k < count; ++k) gathered[k] = x[of[k]];
  if (scores(sample.job)) {
    const T most = largest(x, classes);
    const double top = static_cast<double>(most);
#pragma GCC ivdep
    for (int64_t k = 0; k < padded; ++k) exponentials[k] = exp_nabs(static_cast<double>(gathered[k]) - top);
    T* values = own.kept ? Row<T>(sample.job, own, sample.index, t).data() : own.values.data();
#pragma GCC ivdep
    for (int64_t c = 0; c < classes; ++c) values[c] = exp_below(x[c], most);
    own.most[t] = most;
    own.rest[t] = dot(values, own.others.data(), classes);
    own.total[t] = own.rest[t] + sum(exponentials, padded);
  } else {
#pragma GCC ivdep
    for (int64_t k = 0; k < padded; ++k) exponentials[k] = exp(static_cast<double>(gathered[k]));
    // NaN in any class gives NaN out; so does a number above the limit of log-probabilities.
    if (any_wild(x, static_cast<T>(sample.job.limit), classes)) exponentials[0] = not_a_number<double>;
  }
  double* e = sample.row(sample.emission, t);
  const int64_t* which = own.which.data();
  own.blank[t] = exponentials[0];
  for (int64_t j = 1; j <= sample.length; ++j) e[j] = exponentials[which[j]];
}

template <class T>
LOSSKIT_INLINE void advance(const Sample<T>& sample, const double* blank, const double* label, const double* e,
                            double blank_emission, double* new_blank, double* new_label) {
  const double* skip = sample.own.skip.data();
  const int64_t width = sample.width / kLanes * kLanes;
#pragma GCC ivdep
  for (int64_t j = 0; j < width; ++j) {
    new_blank[j] = (blank[j] + label[j]) * blank_emission;
    new_label[j] = (label[j] + blank[j - 1] + skip[j] * label[j - 1]) * e[j];
  }
  new_blank[-1] = new_label[-1] = 0;
}

// Divide both rows by a power of two and return its exponent. Rows of zeros, and rows with NaN, stay as they are.
LOSSKIT_INLINE int64_t rescale(double* blank, double* label, int64_t width) {
  const double a = largest(blank, width), b = largest(label, width), most = a > b ? a : b;
  if (!(most >= 0x1p-1000 && most <= 0x1p1000)) return 0;
  const int64_t exponent = static_cast<int64_t>(bits(most) >> 52) - 1023;
  const double factor = from_bits<double>(static_cast<uint64_t>(1023 - exponent) << 52);
  width = width / kLanes * kLanes;
#pragma GCC ivdep
  for (int64_t j = 0; j < width; ++j) blank[j] *= factor, label[j] *= factor;
  return exponent;
}

// The loss, and in `log2_mass` the mass of all alignments in units of the largest emissions.
template <class T> LOSSKIT_INLINE double forward(const Sample<T>& sample, double& log2_mass) {
  Scratch<T>& own = sample.own;
  double* blank = sample.row(sample.alpha_blank, 0);
  double* label = sample.row(sample.alpha_label, 0);
  for (int64_t j = -1; j < sample.width; ++j) blank[j] = label[j] = 0;
  blank[0] = 1;
  int64_t exponent = 0;
  for (int64_t t = 0; t < sample.frames; ++t) {
    const Job& job = sample.job;
    if (t + 4 < sample.frames) announce(job.input, job.strides, t + 4, sample.index, job.classes, size_of(job.dtype));
    emit(sample, t);
    double* new_blank = sample.row(sample.alpha_blank, t + 1);
    double* new_label = sample.row(sample.alpha_label, t + 1);
    advance(sample, blank, label, sample.row(sample.emission, t), own.blank[t], new_blank, new_label);
    blank = new_blank, label = new_label;
    if (t % kRescale == kRescale - 1) exponent += rescale(blank, label, sample.width);
  }
  const double mass = blank[sample.length] + label[sample.length];
  log2_mass = static_cast<double>(exponent) + std::log2(mass);
  Sum sum;
  if (scores(sample.job)) {
    double* logs = own.logs.data();
#pragma GCC ivdep
    for (int64_t t = 0; t < sample.frames; ++t) logs[t] = log(own.total[t]);
    for (int64_t t = 0; t < sample.frames; ++t) sum.add(-logs[t]);
  }
  sum.add(static_cast<double>(exponent) * Format<double>::ln2_hi);
  sum.add(static_cast<double>(exponent) * Format<double>::ln2_lo);
  sum.add(std::log(mass));
  return 0 - sum.value();
}

// Backward through the lattice, a frame at a time from the last: call it with frames - 1, ..., 0. Leaves in
// `posterior` the products of forward and backward masses: blanks in [0], label j in [j]; returns their sum.
template <class T> LOSSKIT_INLINE double backward(const Sample<T>& sample, int64_t t) {
  Scratch<T>& own = sample.own;
  const int64_t width = sample.width / kLanes * kLanes;
  const double* alpha_blank = sample.row(sample.alpha_blank, t + 1);
  const double* alpha_label = sample.row(sample.alpha_label, t + 1);
  double* posterior = own.posterior.data();
  double* new_blank = own.beta_blank[t % 2].data();
  double* new_label = own.beta_label[t % 2].data();
  double on_blank[kLanes] = {}, on_labels[kLanes] = {};
  if (t == sample.frames - 1) {
    for (int64_t j = 0; j < width; ++j) new_blank[j] = new_label[j] = posterior[j] = 0;
    const int64_t n = sample.length;
    new_blank[n] = new_label[n] = 1;
    on_blank[0] = alpha_blank[n];
    posterior[n] = on_labels[0] = alpha_label[n];
  } else {
    const double* blank = own.beta_blank[(t + 1) % 2].data();
    const double* label = own.beta_label[(t + 1) % 2].data();
    const double* e = sample.row(sample.emission, t + 1);
    const double* skip = own.skip_next.data();
    const double blank_emission = own.blank[t + 1];
    for (int64_t i = 0; i < width; i += kLanes)
#pragma GCC ivdep
      for (int64_t k = 0; k < kLanes; ++k) {
        const int64_t j = i + k;
        const double next_blank = blank[j] * blank_emission, next_label = label[j + 1] * e[j + 1];
        const double on_blank_j = next_blank + next_label;
        const double on_label_j = label[j] * e[j] + next_blank + skip[j] * next_label;
        const double product = alpha_label[j] * on_label_j;
        new_blank[j] = on_blank_j;
        new_label[j] = on_label_j;
        posterior[j] = product;
        on_labels[k] += product;
        on_blank[k] += alpha_blank[j] * on_blank_j;
      }
  }
  posterior[0] = sum_lanes(on_blank);
  const double mass = posterior[0] + sum_lanes(on_labels);
  if (t % kRescale == 0) rescale(new_blank, new_label, width);
  return mass;
}

}  // namespace
}  // namespace losskit
