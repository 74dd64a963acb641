// The transducer loss, the nodes: the log-probabilities of their arcs, and the gradient by their classes.
//
// 1. Exponentials of floats are of the scores as they are: no largest is sought first, no difference is rounded. They
//    are lifted by 2^16, so that what they lose below is no normal number in the gradient either. Where their sum
//    shows that scores are out of range (or NaN, or infinite), the node is done carefully, as all nodes of doubles are.
// 2. What p or 1 - p is computed from is relative to one class: the likelier arc of the node, or, where it is done
//    carefully, the largest score. The sum of the others is without it, not less it where that would lose digits.
// 3. The last vector of a row overlaps the one before: a scalar tail took longer than the row.
#pragma once

#include "rnnt.h"

namespace losskit {
namespace {

constexpr int64_t kJoined = 2048;  // scores whose exponentials are one loop
constexpr int kLift = 16;
constexpr float kLowest = -98, kHighest = 77;           // scores beyond these give 0, or a sum beyond:
constexpr double kLeastSum = 0x1p1, kMostSum = 0x1p80;  // 2^-15 and 2^64, lifted
constexpr double kLiftLog = kLift * 0.6931471805599453;
constexpr double kFaint = std::numeric_limits<float>::min() / kMostSum;  // times an exponential, it is below the normal

// 2^kLift exp(x); 0 for x < kLowest, and more than kMostSum for x > kHighest and NaN. 1.0 ULP.
LOSSKIT_INLINE float lifted_exp(float x) {
  using F = Format<float>;
  constexpr float magic = 3 * (1 << (F::mantissa - 1)) + kLift;
  const float z = x < kHighest ? x : kHighest;
  const float t = z * log2_e<float> + magic;
  const float n = t - magic;
  const float q = (z - n * F::ln2_hi) - n * F::ln2_lo;
  const float y = 1 + (q + exp_tail(q));
  return from_bits<float>((bits(y) + (bits(t) << F::mantissa)) & ~-Bits<float>(x < kLowest));
}

// f(x[c], out[c]) for all c, in whole vectors where there is one: f must give the same twice.
template <class T, class F> LOSSKIT_INLINE void each_of_row(const T* x, int64_t n, T* out, const F& f) {
  constexpr int64_t width = 64 / sizeof(T);
  if (n < width) {
    for (int64_t c = 0; c < n; ++c) out[c] = f(x[c]);
    return;
  }
  for (int64_t i = 0; i < n; i += width) {
    const int64_t from = std::min(i, n - width);
#pragma GCC ivdep
    for (int64_t k = 0; k < width; ++k) out[from + k] = f(x[from + k]);
  }
}

// x[c] *= factor for all c.
template <class T> LOSSKIT_INLINE void scale_row(T* x, int64_t n, T factor) {
  constexpr int64_t width = 64 / sizeof(T);
  typename VectorOf<T>::type part, last;
  if (n < width) {
    for (int64_t c = 0; c < n; ++c) x[c] *= factor;
    return;
  }
  std::memcpy(&last, x + n - width, sizeof last);
  for (int64_t i = 0; i + width <= n; i += width) {
    std::memcpy(&part, x + i, sizeof part);
    part *= factor;
    std::memcpy(x + i, &part, sizeof part);
  }
  last *= factor;
  std::memcpy(x + n - width, &last, sizeof last);
}

// The sum of n numbers, in double.
template <class T> LOSSKIT_INLINE double total_of(const T* x, int64_t n) {
  typedef T Part __attribute__((vector_size(4 * sizeof(T))));
  typedef double Doubles __attribute__((vector_size(4 * sizeof(double))));
  static constexpr T counts[16] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
  double lanes[kLanes] = {};
  if (n < kLanes) {
    for (int64_t i = 0; i < n; ++i) lanes[i] = static_cast<double>(x[i]);
    return sum_lanes(lanes);
  }
  Doubles a = {}, b = {}, c = {}, d = {};
  Part part, counted;
  const auto load = [&part](const T* from) __attribute__((always_inline)) {
    std::memcpy(&part, from, sizeof part);
    return __builtin_convertvector(part, Doubles);
  };
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes)
    a += load(x + i), b += load(x + i + 4), c += load(x + i + 8), d += load(x + i + 12);
  if (i + kLanes <= n) a += load(x + i), b += load(x + i + 4), i += kLanes;
  if (i < n) {  // the last lanes again, of which those count that are new
    load(counts + n - i), counted = part, load(x + n - kLanes), part *= counted;
    c += __builtin_convertvector(part, Doubles);
    load(counts + n - i + 4), counted = part, load(x + n - 4), part *= counted;
    d += __builtin_convertvector(part, Doubles);
  }
  a += c, b += d;
  std::memcpy(lanes, &a, sizeof a), std::memcpy(lanes + 4, &b, sizeof b);
  return sum_lanes(lanes);
}

// Of a sum of positive numbers, what is left without the largest of them must not be less, for its digits' sake.
template <class T> constexpr double kCancelled = sizeof(T) == 4 ? 1e-7 : 0.5;

template <class T> LOSSKIT_INLINE double sum_without(const T* x, int64_t n, int64_t one) {
  return total_of(x, one) + total_of(x + one + 1, n - one - 1);
}

// The softmax of a node: exponentials times exp(lift) are those of scores less `top`; `rest` is their sum without the
// one of the top, and is not yet times exp(lift).
struct Softmax {
  double top = 0, rest = 0, lift = 0;
};

template <class T> LOSSKIT_INLINE Softmax careful_softmax(const T* x, int64_t classes, T* values) {
  const T most = largest(x, classes);
  each_of_row(x, classes, values, [=](T score) __attribute__((always_inline)) { return exp_below(score, most); });
  const double sum = total_of(values, classes), top = static_cast<double>(most);
  if (!(sum - 1 < sum * kCancelled<T>)) return {top, sum - 1, 0};
  return {top, sum_without(values, classes, std::find(x, x + classes - 1, most) - x), 0};
}

// `values` are exponentials of floats by now; `blank` and `label` are the classes that lead on.
template <class T>
LOSSKIT_INLINE Softmax softmax_of(const T* x, int64_t classes, int64_t blank, int64_t label, T* values) {
  if constexpr (sizeof(T) == 4) {
    // The likelier arc's by a maximum: a branch is mispredicted at every other node.
    const float top = maximum(x[blank], x[label]), own = maximum(values[blank], values[label]);
    const double sum = total_of(values, classes), rest = sum - static_cast<double>(own);
    if (sum > kLeastSum && sum < kMostSum && top > kLowest) [[likely]] {
      const bool lost = rest < sum * kCancelled<T>;
      return {top, lost ? sum_without(values, classes, x[label] > x[blank] ? label : blank) : rest, -(top + kLiftLog)};
    }
  }
  return careful_softmax(x, classes, values);
}

// Nodes (t, u) to (t, u + n - 1): their scores, and room for their exponentials.
template <class T> struct Nodes {
  const T* x;
  T* values;
  int64_t n;
};

// As many as lie one after another, and about fit into the L1 cache with their exponentials: their exponentials are one
// loop. It ends where the gradient will be, or else in the thread's row.
template <class T> LOSSKIT_INLINE Nodes<T> nodes_from(const Sample<T>& sample, int64_t t, int64_t u) {
  const Job& job = sample.job;
  const bool joined = job.dtype == own_dtype<T> && job.strides[3] == 1 && job.strides[2] == job.classes &&
                      (!sample.kept || job.gradient_strides[2] == job.classes);
  const int64_t n = joined ? std::min(sample.labels + 1 - u, std::max<int64_t>(1, kJoined / job.classes)) : 1;
  T* values = sample.kept ? Row<T>(job, sample.own, sample.index, t, u).data() : sample.own.row.data();
  const Nodes<T> nodes{node_of(sample, t, u), values, n};
  if constexpr (sizeof(T) == 4)
    each_of_row(nodes.x, n * job.classes, values,
                [](T score) __attribute__((always_inline)) { return lifted_exp(score); });
  return nodes;
}

template <class T> LOSSKIT_INLINE Softmax softmax_of(const Sample<T>& sample, const T* x, int64_t u, T* values) {
  const int64_t blank = sample.job.blank, label = u < sample.labels ? sample.own.labels[u] : blank;
  return softmax_of(x, sample.job.classes, blank, label, values);
}

// What the arcs of a node have. False if there is a NaN, or what is no log-probability.
template <class T>
LOSSKIT_INLINE bool take(const Sample<T>& sample, int64_t t, int64_t u, const T* x, const Softmax& node) {
  const Job& job = sample.job;
  const int64_t at = sample.at(t, u);
  sample.rest[at] = node.rest;
  sample.lift[at] = node.lift;
  sample.of_blank[at] = static_cast<double>(x[job.blank]) - node.top;
  if (u < sample.labels) sample.of_label[at] = static_cast<double>(x[sample.own.labels[u]]) - node.top;
  return job.softmax() ? node.rest == node.rest : !any_wild(x, static_cast<T>(job.limit), job.classes);
}

// The log-probabilities of all arcs. False if there is a NaN, or what is no log-probability.
template <class T> LOSSKIT_INLINE bool emit(const Sample<T>& sample) {
  const Job& job = sample.job;
  bool tame = true;
  for (int64_t t = 0; t < sample.frames; ++t)
    for (int64_t u = 0; u <= sample.labels;) {
      if (!job.softmax()) {
        tame &= take(sample, t, u, node_of(sample, t, u), {});
        ++u;
        continue;
      }
      const Nodes<T> nodes = nodes_from(sample, t, u);
      for (int64_t i = 0; i < nodes.n; ++i, ++u) {
        const T* x = nodes.x + i * job.classes;
        tame &= take(sample, t, u, x, softmax_of(sample, x, u, nodes.values + i * job.classes));
      }
    }
  if (!tame) return false;
  for (int64_t d = 0; d < sample.diagonals(); ++d) {
    const int64_t row = d * sample.stride + kLanes, low = sample.low(d);
    double *blank = sample.blank + row, *label = sample.label + row, *rest = sample.rest + row,
           *lift = sample.lift + row;
    const double *of_blank = sample.of_blank + row, *of_label = sample.of_label + row;
    each(low, sample.end(d), [=](int64_t u) __attribute__((always_inline)) {
      lift[u] = exp(lift[u]);
      rest[u] *= lift[u];
      const double normalizer = log1p(rest[u]);
      blank[u] = of_blank[u] - normalizer;
      label[u] = of_label[u] - normalizer;
    });
    if (d >= sample.frames - 1 && low < sample.labels)
      blank[low] = -infinity<double>;  // the last frame's leads nowhere
  }
  return true;
}

// Exponentials times a number that may be too small for T. What is below the normal numbers is 0: subnormal ones take a
// hundred times as long.
template <class T> LOSSKIT_INLINE void write_scaled(T* values, int64_t n, double factor) {
  constexpr double least = static_cast<double>(std::numeric_limits<T>::min());
  const double size = absolute(factor);
  if (size >= least) return scale_row(values, n, static_cast<T>(factor));
  if (size < (sizeof(T) == 4 ? kFaint : least)) return void(std::fill_n(values, n, T(0)));
  for (int64_t c = 0; c < n; ++c) {
    const double product = static_cast<double>(values[c]) * factor;
    values[c] = static_cast<T>(where(absolute(product) < least, 0.0, product));
  }
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
      if (!job.softmax()) {
        std::fill_n(out, classes, T(0));
      } else {
        if (!sample.kept) {
          const Nodes<T> node = nodes_from(sample, t, u);
          softmax_of(sample, node.x, u, out);
        }
        write_scaled(out, classes, clamped ? sample.rest[at] : sample.rest[at] * scale);
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
