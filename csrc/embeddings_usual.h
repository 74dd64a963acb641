// The usual way of the gradients of a row of embeddings: in float, or in double of eight short rows side by side.
#pragma once

#include "embeddings_sums.h"

namespace losskit {

// By two (three) embeddings from the differences of their pairs, p = 1 or 2; `by` has the slope of each pair.
template <bool third, bool swap, bool squares>
LOSSKIT_INLINE void combine(const float* const* x, int64_t n, float eps, const float* by, float* const* out) {
  const float *a = x[0], *b = x[1], *c = third ? x[2] : nullptr;
  float* __restrict ga = out[0], * __restrict gb = out[1], * __restrict gc = third ? out[2] : nullptr;
  const float ab = by[kAB], ac = by[kAC], bc = by[kBC];
  const auto part = [eps](float u, float v, float slope) LOSSKIT_LAMBDA {
    const float d = (u - v) + eps;
    return (squares ? d : sign(d)) * slope;
  };
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const float first = part(a[i], b[i], ab);
    const float second = third ? part(a[i], c[i], ac) : 0.0f;
    const float other = swap ? part(b[i], c[i], bc) : 0.0f;
    ga[i] = third ? first + second : first;
    gb[i] = swap ? other - first : -first;
    if (third) gc[i] = swap ? -second - other : -second;
  }
}
template <bool squares>
LOSSKIT_INLINE void combine(bool third, const float* const* x, int64_t n, float eps, const float* by,
                            float* const* out) {
  if (third && by[kBC] != 0)
    combine<true, true, squares>(x, n, eps, by, out);
  else if (third)
    combine<true, false, squares>(x, n, eps, by, out);
  else
    combine<false, false, squares>(x, n, eps, by, out);
}

// gx = g (y/|y| - c x/|x|) / |x| = both y - by_x x, and the same by y with the roles changed.
template <class A>
LOSSKIT_INLINE void turn(const float* const* x, int64_t n, A both, A by_x, A by_y, float* const* out) {
  const float *a = x[0], *b = x[1];
  float* __restrict ga = out[0], * __restrict gb = out[1];
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const A u = static_cast<A>(a[i]), v = static_cast<A>(b[i]);
    ga[i] = static_cast<float>(both * v - by_x * u);
    gb[i] = static_cast<float>(both * u - by_y * v);
  }
}

// The same of eight short rows, in double. Rows without a slope get zeros, whatever is in them.
LOSSKIT_INLINE void store_column(const Lanes& gradient, const Lanes& slope, int64_t i, float* const* out) {
  const Lanes g = slope != 0 ? gradient : Lanes{};
  for (int j = 0; j < kLanes; ++j) out[j][i] = static_cast<float>(g[j]);
}
LOSSKIT_INLINE Lanes eight(const double* x) {
  Lanes lanes;
  std::memcpy(&lanes, x, sizeof(lanes));
  return lanes;
}
template <bool third>
LOSSKIT_INLINE void combine_eight(const Eight* x, int64_t n, bool squares, double eps, const Lanes* by,
                                  float* const (*out)[kLanes]) {
  Pack<float>::type at[third ? 3 : 2];
  const Lanes any = magnitudes(by[kAB]) + magnitudes(by[kAC]) + magnitudes(by[kBC]);
  for (int64_t i = 0; i < n; ++i) {
    load_column<third ? 3 : 2>(x, i, at);
    const auto part = [&](int pair) LOSSKIT_LAMBDA {
      const Lanes d = (widened(at[kFirst[pair]]) - widened(at[kSecond[pair]])) + eps;
      return Lanes((squares ? d : d > 0 ? Lanes{} + 1.0 : d < 0 ? Lanes{} - 1.0 : d) * by[pair]);
    };
    const Lanes first = part(kAB);
    if constexpr (third) {
      const Lanes second = part(kAC), other = part(kBC);
      store_column(first + second, any, i, out[0]);
      store_column(other - first, any, i, out[1]);
      store_column(-second - other, any, i, out[2]);
    } else {
      store_column(first, any, i, out[0]);
      store_column(-first, any, i, out[1]);
    }
  }
}
LOSSKIT_INLINE void turn_eight(const Eight* x, int64_t n, const Lanes& slope, const Lanes& c, const Lanes* by,
                               float* const (*out)[kLanes]) {
  Pack<float>::type at[2];
  const Lanes by_x = c * by[1], by_y = c * by[2];
  for (int64_t i = 0; i < n; ++i) {
    load_column<2>(x, i, at);
    const Lanes u = widened(at[0]), v = widened(at[1]);
    store_column(by[0] * v - by_x * u, slope, i, out[0]);
    store_column(by[0] * u - by_y * v, slope, i, out[1]);
  }
}

}  // namespace losskit
