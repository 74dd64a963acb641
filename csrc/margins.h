// What the files of the score-margins family share: a call, and passes over segments in L1 (margins.cpp explains them).
#pragma once

#include <memory>

#include "drive.h"
#include "vectors.h"

namespace losskit {
namespace {

using enum wire::margins::Violation;
constexpr int64_t kAhead = 4;  // rows to prefetch ahead: of long lists only the first few numbers are read
constexpr int64_t kFew = 8;    // targets of a row whose slopes may be added as floats; more need double

struct Job : Call {
  static constexpr size_t kFirstParameter = wire::margins::kFirstParameter;
  int64_t rows = 1, classes = 1;
  int64_t batch = 1, width = 1;  // rows at a time, and classes
  bool many = false, mask_given = false;
  bool few = false;  // classes, see margins_few.h
  const char *scores = nullptr, *targets = nullptr, *weights = nullptr;
  DType score_dtype = DType::kFloat, target_dtype = DType::kLong, weight_dtype = DType::kFloat;
  int64_t score_steps[2] = {}, target_steps[2] = {}, weight_step = 0, gradient_steps[2] = {};  // by row, by class

  bool read(const Inputs& in);
  void outputs(const Inputs& in, Result& result);
  Work divide();
};

inline int64_t integer_at(DType dtype, const char* data, int64_t index) {
  switch (dtype) {
    case DType::kByte:
      return reinterpret_cast<const uint8_t*>(data)[index];
    case DType::kChar:
      return reinterpret_cast<const int8_t*>(data)[index];
    case DType::kShort:
      return reinterpret_cast<const int16_t*>(data)[index];
    case DType::kUInt16:
      return reinterpret_cast<const uint16_t*>(data)[index];
    case DType::kInt:
      return reinterpret_cast<const int32_t*>(data)[index];
    case DType::kUInt32:
      return reinterpret_cast<const uint32_t*>(data)[index];
    default:
      return reinterpret_cast<const int64_t*>(data)[index];
  }
}

inline bool is_integer(DType dtype) { return !floating(dtype) && dtype != DType::kBool; }

inline double number_at(DType dtype, const char* data, int64_t index) {
  double number;
  read_run(dtype, data + index * size_of(dtype), 1, 1, &number);
  return number;
}

// --------------------------------------------------------------------------------------------------------
// Passes over segments in L1. T is the type of the scores, C that of the arithmetic.

// Segment k is row rows[k] of x (rows are `step` apart) against the target's score own[k].
template <class T, class C>
LOSSKIT_INLINE void subtract(const T* x, int64_t step, const int64_t* rows, const C* own, int64_t segments, int64_t n,
                             C* out) {
  for (int64_t k = 0; k < segments; ++k) {
    const T* scores = x + rows[k] * step;
    const C from = own[k];
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) out[k * n + i] = from - static_cast<C>(scores[i]);
  }
}
LOSSKIT_CLONES void differences(const float* x, int64_t step, const int64_t* rows, const float* own, int64_t segments,
                                int64_t n, float* out) {
  subtract(x, step, rows, own, segments, n, out);
}
LOSSKIT_CLONES void differences(const float* x, int64_t step, const int64_t* rows, const double* own, int64_t segments,
                                int64_t n, double* out) {
  subtract(x, step, rows, own, segments, n, out);
}
LOSSKIT_CLONES void differences(const double* x, int64_t step, const int64_t* rows, const double* own, int64_t segments,
                                int64_t n, double* out) {
  subtract(x, step, rows, own, segments, n, out);
}

// Four floats are added as floats and the results in double: that loses less than the rounding of each number. As
// vectors: GCC took what is left of a row after blocks of 64 as single numbers, more than half of the time of 1000.
// Where there is a `total`, the numbers are added to it, too.
template <bool totalled> LOSSKIT_INLINE double sum_any(const float* x, int64_t n, float* total = nullptr) {
  constexpr int64_t w = kWidth<float>;
  double rest = 0.0;
  if (n < w) {
    for (int64_t i = 0; i < n; ++i) {
      rest += static_cast<double>(x[i]);
      if constexpr (totalled) total[i] += x[i];
    }
    return rest;
  }
  Vector<double> low = {}, high = {};
  const auto add = [&](const Vector<float>& v) __attribute__((always_inline)) {
    Vector<double> first, second;
    for (int64_t j = 0; j < w / 2; ++j) first[j] = static_cast<double>(v[j]);
    for (int64_t j = 0; j < w / 2; ++j) second[j] = static_cast<double>(v[w / 2 + j]);
    low += first, high += second;
  };
  const auto carry = [&](int64_t i, const Vector<float>& v) __attribute__((always_inline)) {
    if constexpr (totalled) {
      Vector<float> sum;
      load(total + i, sum);
      sum += v;
      std::memcpy(total + i, &sum, sizeof sum);
    }
  };
  Vector<float> a, b, c, d;
  int64_t i = 0;
  for (; i + 4 * w <= n; i += 4 * w) {
    load(x + i, a), load(x + i + w, b), load(x + i + 2 * w, c), load(x + i + 3 * w, d);
    carry(i, a), carry(i + w, b), carry(i + 2 * w, c), carry(i + 3 * w, d);
    add((a + b) + (c + d));
  }
  for (; i + w <= n; i += w) load(x + i, a), carry(i, a), add(a);
  if (i < n) {  // the last ones, and what overlaps them as zeros
    static constexpr int32_t kKeep[2 * w] = {0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,
                                             -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
    typedef int32_t Mask __attribute__((vector_size(64)));
    Mask keep;
    std::memcpy(&keep, kKeep + (n - i), sizeof keep);
    load(x + n - w, a);
    a = (Vector<float>)((Mask)a & keep);
    carry(n - w, a), add(a);
  }
  return total_of(low + high);
}
LOSSKIT_CLONES void sums(const float* x, int64_t segments, int64_t n, Sum* out) {
  for (int64_t k = 0; k < segments; ++k) out[k].add(sum_any<false>(x + k * n, n));
}
void sums(const double* x, int64_t segments, int64_t n, Sum* out) {
  for (int64_t k = 0; k < segments; ++k) out[k].add(sum_block(x + k * n, n));
}

// The sum of a segment, which is added to `total`.
LOSSKIT_CLONES double add(const float* x, int64_t n, float* total) { return sum_any<true>(x, n, total); }
LOSSKIT_CLONES Sum add(const double* x, int64_t n, double* total) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) total[i] += x[i];
  return sum_block(x, n);
}

template <class From, class To> LOSSKIT_INLINE void scale_any(const From* x, double scale, int64_t n, To* out) {
  const Scale<From> factor(scale);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<To>(scaled(x[i], factor));
}
LOSSKIT_CLONES void scale_into(const float* x, double s, int64_t n, float* out) { scale_any(x, s, n, out); }
LOSSKIT_CLONES void scale_into(const double* x, double s, int64_t n, float* out) { scale_any(x, s, n, out); }
LOSSKIT_CLONES void scale_into(const double* x, double s, int64_t n, double* out) { scale_any(x, s, n, out); }

}  // namespace
}  // namespace losskit
