// What the block of the pairs family is made of: passes over rows of similarities, and what is known of a row.
#pragma once

#include "drive.h"
#include "primitives.h"
#include "vectors.h"

namespace losskit {
namespace {

enum Aggregate { kLogSumExp, kTotal, kAverage, kLargest, kSmallest, kAggregates };  // as pairs_plan.py counts them

constexpr int64_t kLanesOf = 16;

constexpr double kLeast = -std::numeric_limits<double>::infinity();

// The largest of scale x + bias. NaN is passed over, and comes back with the sum of exponentials.
template <class T> LOSSKIT_INLINE T largest_any(const T* x, int64_t n, T scale, T bias) {
  constexpr int64_t w = kWidth<T>;
  Vector<T> lanes[4], v;
  for (Vector<T>& lane : lanes) lane = Vector<T>{} - infinity<T>;
  int64_t i = 0;
  for (; i + 4 * w <= n; i += 4 * w)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      load(x + i + j * w, v);
      v = scale * v + bias;
      lanes[j] = v > lanes[j] ? v : lanes[j];
    }
  T most = -infinity<T>;
  const auto take = [&most](T own) __attribute__((always_inline)) { most = own > most ? own : most; };
  lanes[0] = lanes[0] > lanes[1] ? lanes[0] : lanes[1];
  lanes[2] = lanes[2] > lanes[3] ? lanes[2] : lanes[3];
  lanes[0] = lanes[0] > lanes[2] ? lanes[0] : lanes[2];
  take(folded<T>(lanes[0], [](auto& a, const auto& b) __attribute__((always_inline)) { a = a > b ? a : b; }));
  for (; i < n; ++i) take(scale * x[i] + bias);
  return most;
}
LOSSKIT_CLONES float largest(const float* x, int64_t n, float s, float b) { return largest_any(x, n, s, b); }
LOSSKIT_CLONES double largest(const double* x, int64_t n, double s, double b) { return largest_any(x, n, s, b); }

template <class T> LOSSKIT_INLINE void affine_any(T* x, int64_t n, T scale, T bias) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) x[i] = scale * x[i] + bias;
}
LOSSKIT_CLONES void affine(float* x, int64_t n, float scale, float bias) { affine_any(x, n, scale, bias); }
LOSSKIT_CLONES void affine(double* x, int64_t n, double scale, double bias) { affine_any(x, n, scale, bias); }

// x = e^(scale x + bias - pivot).
template <class T> LOSSKIT_INLINE void powers_any(T* x, int64_t n, T scale, T bias, T pivot) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) x[i] = exp((scale * x[i] + bias) - pivot);
}
LOSSKIT_CLONES void powers(float* x, int64_t n, float s, float b, float p) { powers_any(x, n, s, b, p); }
LOSSKIT_CLONES void powers(double* x, int64_t n, double s, double b, double p) { powers_any(x, n, s, b, p); }

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

// What columns add to the gradients by their similarities scale x + bias with a row.
template <class T>
LOSSKIT_INLINE void shares_any(const T* x, int64_t n, T scale, T bias, const T* pivots, const T* factors, const T* adds,
                               T* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = factors[i] * exp((scale * x[i] + bias) - pivots[i]) + adds[i];
}
LOSSKIT_CLONES void shares_of(const float* x, int64_t n, float scale, float bias, const float* pivots,
                              const float* factors, const float* adds, float* out) {
  shares_any(x, n, scale, bias, pivots, factors, adds, out);
}
LOSSKIT_CLONES void shares_of(const double* x, int64_t n, double scale, double bias, const double* pivots,
                              const double* factors, const double* adds, double* out) {
  shares_any(x, n, scale, bias, pivots, factors, adds, out);
}

template <class T> LOSSKIT_INLINE void add_any(T* x, int64_t n, const T* more) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) x[i] += more[i];
}
LOSSKIT_CLONES void add_to(float* x, int64_t n, const float* more) { add_any(x, n, more); }
LOSSKIT_CLONES void add_to(double* x, int64_t n, const double* more) { add_any(x, n, more); }

// The place of the first number that is no less, or no more, than all others; of the first NaN, if there is one.
template <class T> LOSSKIT_INLINE int64_t extreme_any(const T* x, int64_t n, bool least) {
  const T sign = least ? T(-1) : T(1), most = sign * largest_any(x, n, sign, T(0));
  Index<T> strange = 0;
  for (int64_t i = 0; i < n; ++i) strange |= x[i] != x[i];
  int64_t found = 0;
  while (found < n - 1 && (strange ? x[found] == x[found] : x[found] != most)) ++found;
  return found;
}
LOSSKIT_CLONES int64_t extreme(const float* x, int64_t n, bool least) { return extreme_any(x, n, least); }
LOSSKIT_CLONES int64_t extreme(const double* x, int64_t n, bool least) { return extreme_any(x, n, least); }

template <class T> LOSSKIT_INLINE double dot_any(const T* x, const T* y, int64_t n) {
  double lanes[kLanesOf] = {};
  int64_t i = 0;
  for (; i + kLanesOf <= n; i += kLanesOf)
    for (int j = 0; j < kLanesOf; ++j) lanes[j] += static_cast<double>(x[i + j]) * static_cast<double>(y[i + j]);
  double rest = 0.0;
  for (; i < n; ++i) rest += static_cast<double>(x[i]) * static_cast<double>(y[i]);
  return losskit::folded<kLanesOf>(lanes) + rest;
}
LOSSKIT_CLONES double dot(const float* x, const float* y, int64_t n) { return dot_any(x, y, n); }
LOSSKIT_CLONES double dot(const double* x, const double* y, int64_t n) { return dot_any(x, y, n); }

// What `positive` or `negative` makes of similarities; without a function it is they themselves.
template <class T> struct Term {
  BlockFunction<T> value = nullptr, with_slope = nullptr;
  T parameters[kMaxParameters] = {};

  Term(int64_t kernel, const double* numbers) {
    if (!kernel) return;
    const Kernel& own = *reinterpret_cast<const Kernel*>(kernel);
    if constexpr (sizeof(T) == 4) {
      value = own.f32[kNone];
      with_slope = own.f32[kPredictions];
    } else {
      value = own.f64[kNone];
      with_slope = own.f64[kPredictions];
    }
    for (int i = 0; i < kMaxParameters; ++i) parameters[i] = static_cast<T>(numbers[i]);
  }
  bool present() const { return value != nullptr; }
  // Terms and slopes may stand where x is; slopes may be null.
  void apply(const T* x, int64_t n, T* terms, T* slopes) const {
    for (int64_t i = 0; i < n; i += kBlock) {
      const int64_t size = std::min(kBlock, n - i);
      const T* operand = x + i;
      T* out = slopes ? slopes + i : nullptr;
      (slopes ? with_slope : value)(size, &operand, parameters, 1.0, terms + i, &out);
    }
  }
};

// What is known of one side of a row.
template <class T> struct Side {
  double known[kAggregates] = {kLeast, 0.0, 0.0, kLeast, -kLeast};  // of no pair
  double pivot = 0.0;                                               // of the exponentials
  double powers = 0.0;                                              // their sum
  int64_t extremes[2] = {0, 0};                                     // the places of the largest and the smallest
  int64_t count = 0;

  void total(double sum) {
    known[kTotal] = sum;
    known[kAverage] = sum / static_cast<double>(count);
  }
};

}  // namespace
}  // namespace losskit
