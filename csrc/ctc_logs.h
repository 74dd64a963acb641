// CTC in log space: samples whose masses underflow, and tiny losses, which must keep their digits.
#pragma once

#include "ctc.h"

namespace losskit {
namespace {

// Log-probabilities of a frame: blank in [0], label j in [j], -inf in the padding.
template <class T> LOSSKIT_INLINE void log_emit(const Sample<T>& sample, int64_t t) {
  Scratch<T>& own = sample.own;
  const T* x = frame_of(sample, t);
  double* out = own.log_emission.data();
  out[0] = static_cast<double>(x[sample.job.blank]);
  for (int64_t j = 1; j <= sample.length; ++j) out[j] = static_cast<double>(x[own.labels[j]]);
  if (!scores(sample.job)) return;
  const int64_t classes = sample.job.classes;
  const T most = largest(x, classes);
  double others = 0;
  bool seen = false;
  for (int64_t c = 0; c < classes; ++c) {
    if (!seen && x[c] == most)
      seen = true;
    else
      others += exp_nabs(static_cast<double>(x[c]) - static_cast<double>(most));
  }
  const double normalizer = std::log1p(others);
  for (int64_t j = 0; j <= sample.length; ++j) out[j] = (out[j] - static_cast<double>(most)) - normalizer;
}

// The lattice of one sample in log space; solved rarely, so its memory is its own.
struct LogLattice {
  std::vector<double> memory;
  int64_t stride, rows;
  Logs blank(int64_t t) { return at(t, 0); }
  Logs label(int64_t t) { return at(t, 2); }
  Logs at(int64_t t, int64_t which) {
    double* base = memory.data() + ((t % rows) * 4 + which) * stride + kLanes;
    return {base, base + stride};
  }
  LogLattice(int64_t width, int64_t rows) : stride(width + 2 * kLanes), rows(rows) {
    memory.assign(rows * 4 * stride, 0.0);
    for (int64_t t = 0; t < rows; ++t)
      for (const Logs logs : {blank(t), label(t)})
        for (int64_t j = -1; j <= width; ++j) logs.v[j] = -infinity<double>;
  }
};

template <class T> LOSSKIT_INLINE double log_forward(const Sample<T>& sample, LogLattice& lattice, Logs end) {
  Scratch<T>& own = sample.own;
  for (int64_t j = sample.length + 1; j < sample.width; ++j) own.log_emission[j] = -infinity<double>;
  lattice.blank(0).v[0] = 0;
  for (int64_t t = 0; t < sample.frames; ++t) {
    log_emit(sample, t);
    const Logs blank = lattice.blank(t), label = lattice.label(t);
    const Logs new_blank = lattice.blank(t + 1), new_label = lattice.label(t + 1);
    const double* lp = own.log_emission.data();
    const double* skip = own.skip.data();
    constexpr double none = -infinity<double>;
#pragma GCC ivdep
    for (int64_t j = 0; j < sample.width; ++j) {
      add_logs(blank.v[j], blank.r[j], label.v[j], label.r[j], none, 0.0, new_blank.v[j], new_blank.r[j]);
      new_blank.v[j] += lp[0];
    }
#pragma GCC ivdep
    for (int64_t j = 0; j < sample.width; ++j) {
      const double skipped = where(skip[j] != 0, label.v[j - 1], none);
      add_logs(label.v[j], label.r[j], blank.v[j - 1], blank.r[j - 1], skipped, label.r[j - 1], new_label.v[j],
               new_label.r[j]);
      new_label.v[j] += lp[j];
    }
    new_label.v[0] = none;
    if (t % 64 == 63) fold(new_blank, sample.width), fold(new_label, sample.width);
  }
  const Logs blank = lattice.blank(sample.frames), label = lattice.label(sample.frames);
  const int64_t n = sample.length;
  add_logs(blank.v[n], blank.r[n], label.v[n], label.r[n], -infinity<double>, 0.0, *end.v, *end.r);
  return 0 - (*end.v + std::log1p(*end.r));
}

// As `backward`; `beta` has two rows, t + 1 in the one and t in the other.
template <class T>
LOSSKIT_INLINE double log_backward(const Sample<T>& sample, LogLattice& alpha, LogLattice& beta, Logs end, int64_t t) {
  Scratch<T>& own = sample.own;
  const int64_t width = sample.width;
  const Logs blank = beta.blank(t), label = beta.label(t);
  constexpr double none = -infinity<double>;
  if (t == sample.frames - 1) {
    blank.v[sample.length] = label.v[sample.length] = 0;
  } else {
    log_emit(sample, t + 1);
    const Logs next_blank = beta.blank(t + 1), next_label = beta.label(t + 1);
    const double* lp = own.log_emission.data();
    const double* skip = own.skip_next.data();
    for (int64_t j = 0; j < width; ++j) next_blank.v[j] += lp[0], next_label.v[j] += j ? lp[j] : none;
#pragma GCC ivdep
    for (int64_t j = 0; j < width; ++j)
      add_logs(next_blank.v[j], next_blank.r[j], next_label.v[j + 1], next_label.r[j + 1], none, 0.0, blank.v[j],
               blank.r[j]);
#pragma GCC ivdep
    for (int64_t j = 0; j < width; ++j)
      add_logs(next_label.v[j], next_label.r[j], next_blank.v[j], next_blank.r[j],
               where(skip[j] != 0, next_label.v[j + 1], none), next_label.r[j + 1], label.v[j], label.r[j]);
    if (t % 64 == 0) fold(blank, width), fold(label, width);
  }
  const Logs alpha_blank = alpha.blank(t + 1), alpha_label = alpha.label(t + 1);
  double* posterior = own.posterior.data();
  const auto mass = [&](Logs a, Logs b, int64_t j) {
    return (1 + a.r[j]) / (1 + *end.r) * (1 + b.r[j]) * std::exp(a.v[j] + b.v[j] - *end.v);
  };
  double on_blank = 0, on_labels = 0;
  for (int64_t j = 0; j <= sample.length; ++j) on_blank += mass(alpha_blank, blank, j);
  for (int64_t j = 1; j <= sample.length; ++j) on_labels += posterior[j] = mass(alpha_label, label, j);
  posterior[0] = on_blank;
  return on_blank + on_labels;
}

}  // namespace
}  // namespace losskit
