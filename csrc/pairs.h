// What the block of the pairs family is made of: passes over rows of similarities, and what is known of a row.
#pragma once

#include "drive.h"
#include "primitives.h"

namespace losskit {
namespace {

enum Aggregate { kLogSumExp, kTotal, kAverage, kLargest, kSmallest, kAggregates };  // as pairs_plan.py counts them

constexpr int64_t kLanesOf = 16;

// Lanes of independent maxima; NaN is passed over, and comes back with the sum of exponentials.
template <class T> LOSSKIT_INLINE T largest_any(const T* x, int64_t n) {
  T lanes[kLanesOf], most = -infinity<T>;
  int64_t i = 0;
  if (n >= kLanesOf) {
    for (int j = 0; j < kLanesOf; ++j) lanes[j] = -infinity<T>;
    for (; i + kLanesOf <= n; i += kLanesOf)
      for (int j = 0; j < kLanesOf; ++j) lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
    for (int j = 0; j < kLanesOf; ++j) most = lanes[j] > most ? lanes[j] : most;
  }
  for (; i < n; ++i) most = x[i] > most ? x[i] : most;
  return most;
}
LOSSKIT_CLONES float largest(const float* x, int64_t n) { return largest_any(x, n); }
LOSSKIT_CLONES double largest(const double* x, int64_t n) { return largest_any(x, n); }

template <class T> LOSSKIT_INLINE void affine_any(T* x, int64_t n, T scale, T bias) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) x[i] = scale * x[i] + bias;
}
LOSSKIT_CLONES void affine(float* x, int64_t n, float scale, float bias) { affine_any(x, n, scale, bias); }
LOSSKIT_CLONES void affine(double* x, int64_t n, double scale, double bias) { affine_any(x, n, scale, bias); }

// x = e^(x - pivot).
template <class T> LOSSKIT_INLINE void powers_any(T* x, int64_t n, T pivot) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) x[i] = exp(x[i] - pivot);
}
LOSSKIT_CLONES void powers(float* x, int64_t n, float pivot) { powers_any(x, n, pivot); }
LOSSKIT_CLONES void powers(double* x, int64_t n, double pivot) { powers_any(x, n, pivot); }

template <class T> LOSSKIT_INLINE void multiply_any(T* x, int64_t n, T factor) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) x[i] *= factor;
}
LOSSKIT_CLONES void multiply_by(float* x, int64_t n, float factor) { multiply_any(x, n, factor); }
LOSSKIT_CLONES void multiply_by(double* x, int64_t n, double factor) { multiply_any(x, n, factor); }

// x = (factor x + more) slope.
template <class T> LOSSKIT_INLINE void spread_any(T* x, int64_t n, T factor, T more, const T* slope) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) x[i] = (factor * x[i] + more) * slope[i];
}
LOSSKIT_CLONES void spread(float* x, int64_t n, float f, float more, const float* s) { spread_any(x, n, f, more, s); }
LOSSKIT_CLONES void spread(double* x, int64_t n, double f, double more, const double* s) {
  spread_any(x, n, f, more, s);
}

// x = more slope: what x was is no number of a derivative.
template <class T> LOSSKIT_INLINE void slopes_any(T* x, int64_t n, T more, const T* slope) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) x[i] = more * slope[i];
}
LOSSKIT_CLONES void slopes_into(float* x, int64_t n, float more, const float* s) { slopes_any(x, n, more, s); }
LOSSKIT_CLONES void slopes_into(double* x, int64_t n, double more, const double* s) { slopes_any(x, n, more, s); }

// What columns add to the gradients by their similarities x with a row.
template <class T>
LOSSKIT_INLINE void shares_any(const T* x, int64_t n, const T* pivots, const T* factors, const T* adds, T* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = factors[i] * exp(x[i] - pivots[i]) + adds[i];
}
LOSSKIT_CLONES void shares_of(const float* x, int64_t n, const float* p, const float* f, const float* a, float* out) {
  shares_any(x, n, p, f, a, out);
}
LOSSKIT_CLONES void shares_of(const double* x, int64_t n, const double* p, const double* f, const double* a,
                              double* out) {
  shares_any(x, n, p, f, a, out);
}

template <class T> LOSSKIT_INLINE void add_any(T* x, int64_t n, const T* more) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) x[i] += more[i];
}
LOSSKIT_CLONES void add_to(float* x, int64_t n, const float* more) { add_any(x, n, more); }
LOSSKIT_CLONES void add_to(double* x, int64_t n, const double* more) { add_any(x, n, more); }

// The place of the first number that is no less, or no more, than all others; of the first NaN, if there is one.
template <class T> int64_t extreme(const T* x, int64_t n, bool least) {
  int64_t found = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (x[i] != x[i]) return i;
    if (least ? x[i] < x[found] : x[i] > x[found]) found = i;
  }
  return found;
}

// What `positive` or `negative` makes of similarities; without a function it is they themselves.
template <class T> struct Term {
  BlockFunction<T> value = nullptr, with_slope = nullptr;
  T parameters[kMaxParameters] = {};

  Term(int64_t kernel, const std::vector<double>& numbers) {
    if (!kernel) return;
    const Kernel& own = *reinterpret_cast<const Kernel*>(kernel);
    if constexpr (sizeof(T) == 4) {
      value = own.f32[kNone];
      with_slope = own.f32[kPredictions];
    } else {
      value = own.f64[kNone];
      with_slope = own.f64[kPredictions];
    }
    for (size_t i = 0; i < numbers.size() && i < kMaxParameters; ++i) parameters[i] = static_cast<T>(numbers[i]);
  }
  bool present() const { return value != nullptr; }
  // In place; slopes may be null.
  void apply(T* x, int64_t n, T* slopes) const {
    for (int64_t i = 0; i < n; i += kBlock) {
      const int64_t size = std::min(kBlock, n - i);
      const T* operand = x + i;
      T* out = slopes ? slopes + i : nullptr;
      (slopes ? with_slope : value)(size, &operand, parameters, 1.0, x + i, &out);
    }
  }
};

// What is known of one side of a row.
template <class T> struct Side {
  double known[kAggregates] = {};
  double pivot = 0.0;            // of the exponentials
  double powers = 0.0;           // their sum
  int64_t extremes[2] = {0, 0};  // the places of the largest and the smallest
  int64_t count = 0;
};

}  // namespace
}  // namespace losskit
