// The transducer loss, the nodes: the log-probabilities of their arcs, and the gradient by their classes.
#pragma once

#include "rnnt.h"

namespace losskit {
namespace {

// The sum of n numbers, in double.
template <class T> LOSSKIT_INLINE double total_of(const T* x, int64_t n) {
  typedef T Part __attribute__((vector_size(kLanes * sizeof(T))));
  typedef double Doubles __attribute__((vector_size(kLanes * sizeof(double))));
  Doubles sums = {}, more = {};
  Part part;
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    std::memcpy(&part, x + i, sizeof part), sums += __builtin_convertvector(part, Doubles);
    std::memcpy(&part, x + i + kLanes, sizeof part), more += __builtin_convertvector(part, Doubles);
  }
  double lanes[kLanes];
  sums += more;
  std::memcpy(lanes, &sums, sizeof sums);
  for (int64_t j = 0; i < n; ++i, ++j) lanes[j % kLanes] += static_cast<double>(x[i]);
  return sum_lanes(lanes);
}

// The sum of numbers in [0, 1] of which a 1 is left out. What is small beside it is added up without it.
template <class T> LOSSKIT_INLINE double sum_but_one(const T* x, int64_t n) {
  const double rest = total_of(x, n) - 1;
  if (!(rest < (sizeof(T) == 4 ? 1e-7 : 0.5))) return rest;
  double ones = -1, sum = 0;
  for (int64_t i = 0; i < n; ++i) x[i] == 1 ? ones += 1 : sum += static_cast<double>(x[i]);
  return ones + sum;
}

// The log-probabilities of all arcs. False if there is a NaN, or what is no log-probability.
template <class T> LOSSKIT_INLINE bool emit(const Sample<T>& sample) {
  const Job& job = sample.job;
  const int64_t classes = job.classes;
  bool tame = true;
  for (int64_t t = 0; t < sample.frames; ++t)
    for (int64_t u = 0; u <= sample.labels; ++u) {
      const T* x = node_of(sample, t, u);
      const int64_t at = sample.at(t, u);
      const bool leads = t < sample.frames - 1 || u == sample.labels;  // the blank does, to a node or to the end
      T most = 0;
      sample.rest[at] = 0;
      if (job.softmax()) {
        most = largest(x, classes);
        T* values = sample.kept ? Row<T>(job, sample.own, sample.index, t, u).data() : sample.own.row.data();
#pragma GCC ivdep
        for (int64_t c = 0; c < classes; ++c) values[c] = exp_below(x[c], most);
        sample.rest[at] = sum_but_one(values, classes);
        tame &= sample.rest[at] == sample.rest[at];
      } else {
        tame &= !any_wild(x, static_cast<T>(job.limit), classes);
      }
      const double top = static_cast<double>(most);
      sample.of_blank[at] = static_cast<double>(x[job.blank]) - top;
      if (leads) sample.blank[at] = sample.of_blank[at];
      if (u < sample.labels)
        sample.label[at] = sample.of_label[at] = static_cast<double>(x[sample.own.labels[u]]) - top;
    }
  if (!job.softmax() || !tame) return tame;
  for (int64_t d = 0; d < sample.diagonals(); ++d) {
    const int64_t row = d * sample.stride + kLanes, high = sample.high(d);
#pragma GCC ivdep
    for (int64_t u = sample.low(d); u < high; ++u) {
      const double normalizer = log1p(sample.rest[row + u]);
      sample.blank[row + u] -= normalizer;
      sample.label[row + u] -= normalizer;
    }
  }
  return true;
}

template <class T> LOSSKIT_INLINE void write_gradient(const Sample<T>& sample, double scale) {
  const Job& job = sample.job;
  const int64_t classes = job.classes;
  const bool clamped = job.clamp > 0;
  const T most = static_cast<T>(clamped ? job.clamp : infinity<double>), own_scale = static_cast<T>(scale);
  for (int64_t t = 0; t < sample.frames; ++t)
    for (int64_t u = 0; u <= sample.labels; ++u) {
      const int64_t at = sample.at(t, u);
      Row<T> row(job, sample.own, sample.index, t, u);
      T* out = row.data();
      const T factor = static_cast<T>(clamped ? sample.rest[at] : sample.rest[at] * scale);
      if (!job.softmax() ||
          absolute(factor) < std::numeric_limits<T>::min()) {  // far from the likely ways; not subnormal
        std::fill_n(out, classes, T(0));
      } else if (sample.kept) {
        for (int64_t c = 0; c < classes; ++c) out[c] *= factor;
      } else {
        const T* x = node_of(sample, t, u);
        const T top = largest(x, classes);
#pragma GCC ivdep
        for (int64_t c = 0; c < classes; ++c) out[c] = exp_below(x[c], top) * factor;
      }
      if (clamped)
        for (int64_t c = 0; c < classes; ++c) out[c] = minimum(out[c], most) * own_scale;
      const auto put = [&](int64_t c, double slope) {
        out[c] = static_cast<T>((clamped ? clamp(slope, -job.clamp, job.clamp) : slope) * scale);
      };
      put(job.blank, sample.blank[at]);
      if (u < sample.labels) put(sample.own.labels[u], sample.label[at]);
      row.write();
    }
}

}  // namespace
}  // namespace losskit
