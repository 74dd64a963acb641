// The scalar math vocabulary of losskit: small functions of float or double that a plain loop
// `for (i < n) y[i] = f(x[i])` turns into vector code, whatever the instruction set.
//
// Why it is written as it is:
//  1. Branch-free: every choice is `c ? a : b` of values computed anyway, which GCC turns into a blend.
//     Needs -O3 -fno-math-errno -fno-trapping-math; -ffast-math is neither needed nor allowed (NaN, inf,
//     and the order of additions matter here).  Add -fno-tree-pre: without it GCC 12 may move parts of
//     exp(x) or log(x) in a caller's choice to constants per branch, and then give up on the loop.
//  2. No std::fma (a library call on plain x86-64), no intrinsics: the compiler contracts a*b + c where the
//     target can, and the figures below hold with and without.
//  3. Integers have the lane width of T and use only + - & | and logical shifts: AVX2 and SSE2 have no 64-bit
//     arithmetic shift, comparison, or conversion to double.  Rounding to an integer is the addition of
//     1.5 * 2^(mantissa bits), which leaves the integer in the low bits of the sum.
//  4. Where a sum a + b loses bits that count, s = a + b; b - (s - a) recovers them (|a| >= |b| or a == 0).
//  5. 2^n is applied as two factors: one alone would overflow early or flush subnormal results.
//  6. Constants come from tools/fit_primitives.py.  "ULP f/d" is the worst error seen, rounded up by up to
//     0.03, on plain x86-64 and x86-64-v3: for float every 257th number, for double some millions of random
//     ones; for functions of two arguments and special ones only the thousands of points of
//     tests/test_primitives.py (GCC 12.2, glibc 2.36).
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#ifndef LOSSKIT_INLINE
#define LOSSKIT_INLINE inline __attribute__((always_inline))
#endif

namespace losskit {

// ---------------------------------------------------------------------------------------------------------
// What depends on the width of T.

template <class T> struct Format;

template <> struct Format<float> {
  using Bits = std::uint32_t;
  static constexpr int mantissa = 23;
  static constexpr Bits bias = 127;
  static constexpr float ln2_hi = 6.93145752e-1f, ln2_lo = 1.42860677e-6f;  // n * ln2_hi is exact
  static constexpr float exp_zero = -104.0f, exp_inf = 89.0f;               // exp is 0 below, inf above
  static constexpr float tiny = 0x1p-30f;                                   // expm1(x) == log1p(x) == x below
};

template <> struct Format<double> {
  using Bits = std::uint64_t;
  static constexpr int mantissa = 52;
  static constexpr Bits bias = 1023;
  static constexpr double ln2_hi = 6.9314718055989033e-1, ln2_lo = 5.4979230187083712e-14;
  static constexpr double exp_zero = -746.0, exp_inf = 710.0;
  static constexpr double tiny = 0x1p-60;
};

template <class T> using Bits = typename Format<T>::Bits;
template <class T> constexpr T infinity = std::numeric_limits<T>::infinity();
template <class T> constexpr T not_a_number = std::numeric_limits<T>::quiet_NaN();
template <class T> constexpr T log2_e = T(1.4426950408889634);

template <class T> LOSSKIT_INLINE constexpr Bits<T> bits(T x) { return std::bit_cast<Bits<T>>(x); }
template <class T> LOSSKIT_INLINE constexpr T from_bits(Bits<T> i) { return std::bit_cast<T>(i); }

// c0 + x (c1 + x (c2 + ...))
template <class T> LOSSKIT_INLINE T polynomial(T, T c0) { return c0; }
template <class T, class... C> LOSSKIT_INLINE T polynomial(T x, T c0, C... c) { return c0 + x * polynomial(x, c...); }

// ---------------------------------------------------------------------------------------------------------
// Selection.

// With masks: GCC 12 turns a ?: whose condition recurs elsewhere in a loop into branches, and the loop stays scalar.
template <class T> LOSSKIT_INLINE T where(bool c, T a, T b) {
  const Bits<T> mask = -Bits<T>(c);
  return from_bits<T>((bits(a) & mask) | (bits(b) & ~mask));
}
// The same where no other choice shares the condition: plain x86-64 has no masks of doubles.
template <class T> LOSSKIT_INLINE T either(bool c, T a, T b) {
  if constexpr (sizeof(T) == 4)
    return where(c, a, b);
  else
    return c ? a : b;
}
template <class T> LOSSKIT_INLINE T stop(T x) { return x; }  // a constant for derivatives
template <class T> LOSSKIT_INLINE T absolute(T x) { return std::fabs(x); }
// 1 with the sign of x; x itself where that is 0 or NaN. Two comparisons and four choices took twice the time.
template <class T> LOSSKIT_INLINE T sign(T x) {
  constexpr Bits<T> negative = Bits<T>(1) << (8 * sizeof(T) - 1);
  return either(std::fabs(x) > 0, from_bits<T>((bits(x) & negative) | bits(T(1))), x);
}
template <class T> LOSSKIT_INLINE T maximum(T a, T b) { return where((a >= b) | (a != a), a, b); }
template <class T> LOSSKIT_INLINE T minimum(T a, T b) { return where((a <= b) | (a != a), a, b); }
template <class T> LOSSKIT_INLINE T clamp(T x, T lo, T hi) {
  const T y = where(x < lo, lo, x);
  return where(y > hi, hi, y);
}
// w * v, but a zero weight also removes an infinite v (not a NaN).
template <class T> LOSSKIT_INLINE T times(T w, T v) { return where((w == 0) & (v == v), T(0), w * v); }
// a * b, but a zero of either side removes an infinite other one.
template <class T> LOSSKIT_INLINE T mute(T a, T b) {
  return where(((a == 0) | (b == 0)) & (a == a) & (b == b), T(0), a * b);
}

// ---------------------------------------------------------------------------------------------------------
// Exponentials.  x = n ln2 + r, |r| <= ln2/2, e^r = 1 + r + tail.

// A ?:, as in `either`.
template <class T> LOSSKIT_INLINE T limited(T x, T lo, T hi) {
  const T y = x < lo ? lo : x;
  return y > hi ? hi : y;
}

// e^q - 1 - q for |q| <= ln2/2. In float with two chains: an element waits for its longest chain.
template <class T> LOSSKIT_INLINE T exp_tail(T q) {
  const T z = q * q;
  if constexpr (std::is_same_v<T, float>) {
    return z * ((4.9999997e-1f + q * 1.6666542e-1f) + z * ((4.16675247e-2f + q * 8.36667512e-3f) + z * 1.38624129e-3f));
  } else {
    return z * polynomial(q, 5.0000000000000056e-1, 1.6666666666666599e-1, 4.1666666666573884e-2, 8.3333333333834893e-3,
                          1.3888888932266797e-3, 1.9841269731653646e-4, 2.4801504591101269e-5, 2.7557396625489852e-6,
                          2.7626267965548724e-7, 2.505712585771943e-8);
  }
}

template <class T> struct Reduced {
  Bits<T> n;  // n + 2 bias, in the low bits
  T r;        // x - n ln2_hi, exact
  T tail;     // e^(r - n ln2_lo) - 1 - r
  T whole;    // n
};

template <class T> LOSSKIT_INLINE Reduced<T> reduce(T x) {
  using F = Format<T>;
  constexpr T magic = T(3 * (Bits<T>(1) << (F::mantissa - 1)) + 2 * F::bias);
  const T t = x * log2_e<T> + magic;
  const T n = t - magic;
  const T r = x - n * F::ln2_hi;
  const T q = r - n * F::ln2_lo;
  return {bits(t), r, exp_tail(q) - n * F::ln2_lo, n};
}

template <class T> LOSSKIT_INLINE T one_plus(Reduced<T> e) {  // 1 + r + tail, rounded once in effect
  const T s = 1 + e.r;
  return s + ((e.r - (s - 1)) + e.tail);
}

template <class T> LOSSKIT_INLINE T scaled(Reduced<T> e) {  // 2^n (1 + r + tail)
  const Bits<T> half = e.n >> 1;                            // floor(n/2) + bias; the other factor has the rest
  return one_plus(e) * from_bits<T>(half << Format<T>::mantissa) * from_bits<T>((e.n - half) << Format<T>::mantissa);
}

// ULP 0.75/0.75 (0.70 unless the result is subnormal). The ends are chosen last, from x: what is computed of an x
// beyond them is anything, and limits in front of it would come first in the longest chain.
template <class T> LOSSKIT_INLINE T exp(T x) {
  return either(x > Format<T>::exp_inf, infinity<T>, either(x < Format<T>::exp_zero, T(0), scaled(reduce(x))));
}

// exp(-|x|), ULP as exp.  It cannot overflow, so that one factor 2^(n + shift) and a constant do.
template <class T> LOSSKIT_INLINE T exp_nabs(T x) {
  using F = Format<T>;
  constexpr Bits<T> shift = (F::bias + 1) / 2;
  constexpr T back = from_bits<T>((F::bias - shift) << F::mantissa);
  const T a = -absolute(x);
  constexpr bool f = std::is_same_v<T, float>;  // a double's end is chosen first: GCC makes slower loops of the other
  const Reduced<T> e = reduce(!f && a < F::exp_zero ? F::exp_zero : a);
  const T y = one_plus(e) * from_bits<T>((e.n - F::bias + shift) << F::mantissa) * back;
  return f ? where(a < F::exp_zero, T(0), y) : y;
}

// ULP 1.07/1.14.  The sum is done at half its size, for 2^n overflows before expm1 does.
template <class T> LOSSKIT_INLINE T expm1(T x) {
  using F = Format<T>;
  constexpr T low = T(-2 - F::mantissa);
  constexpr bool f = std::is_same_v<T, float>;  // as in exp_nabs
  const Reduced<T> e = reduce(f ? x : limited(x, low, F::exp_inf));
  const T scale = from_bits<T>((e.n - F::bias - 1) << F::mantissa);  // 2^(n-1)
  const T a = scale - T(0.5);
  const T s = a + scale * e.r;
  T y = s + ((scale * e.r - (s - a)) + scale * e.tail);
  y += y;
  if constexpr (f) y = where(x > F::exp_inf, infinity<T>, where(x < low, T(-1), y));
  return absolute(x) < F::tiny ? x : y;  // keeps -0 and subnormals
}

// ULP 1.92/1.97.  The sign given to expm1 and the choice of e/(2 + e) or 1 - 2/(2 + e) are those that
// lose least: either sign throughout gave 2.3 and more.
template <class T> LOSSKIT_INLINE T tanh(T x) {
  const T a = absolute(x);
  const T e = expm1(a > T(0.35) ? a + a : -a - a);
  const T q = (absolute(e) > T(2) ? T(2) : absolute(e)) / (2 + e);
  const T y = e > 2 ? 1 - q : q;
  return x < 0 ? -y : x > 0 ? y : x;  // keeps -0
}

// ---------------------------------------------------------------------------------------------------------
// Logarithms.  x = 2^k (1 + f), -1/4 <= f < 1/2: the interval where log1p can form f exactly.

// log(1 + f) + k ln2, with log(1 + f) = f - (h - s (h + z p(z))), h = f^2/2, s = f/(2 + f), z = s^2.
// In double one division is faster than the twelve more terms of a polynomial in f.
template <class T> struct TwoWords {
  T high, low;
};
template <class T> LOSSKIT_INLINE TwoWords<T> log_parts(T f, T k) {
  using F = Format<T>;
  const T h = T(0.5) * f * f;
  const T s = f / (2 + f);
  const T z = s * s;
  T p;
  if constexpr (std::is_same_v<T, float>)
    p = polynomial(z, 6.66666627e-1f, 4.00009215e-1f, 2.85045147e-1f, 2.41325378e-1f);
  else
    p = polynomial(z, 6.6666666666666596e-1, 4.0000000000056668e-1, 2.8571428555829559e-1, 2.2222224296516227e-1,
                   1.8181665859844565e-1, 1.5391112895803089e-1, 1.317357638500592e-1, 1.3843239005476299e-1);
  const T tail = s * (h + z * p) - h;
  const T a = k * F::ln2_hi;
  const T y = a + f;
  return {y, (f - (y - a)) + (tail + k * F::ln2_lo)};
}
template <class T> LOSSKIT_INLINE T log_sum(T f, T k) {
  if constexpr (std::is_same_v<T, float>) {  // a polynomial in f: two thirds of the time of log_parts
    using F = Format<T>;
    const T z = f * f;
    const T p = (3.33334565e-1f + f * -2.50000566e-1f) +
                z * ((1.99904874e-1f + f * -1.66485876e-1f) +
                     z * ((1.44861832e-1f + f * -1.31546497e-1f) + z * (1.04018509e-1f + f * -4.44467776e-2f)));
    const T a = k * F::ln2_hi, y = a + f;
    return y + ((f - (y - a)) + (z * (f * p - T(0.5)) + k * F::ln2_lo));
  } else {
    const TwoWords<T> s = log_parts(f, k);
    return s.high + s.low;
  }
}

// Where x is 2^k (1 + f): k + bias above the mantissa, and below it the bits of 1 + f less those of 3/4.
template <class T> constexpr Bits<T> exponent_mask = ~((Bits<T>(1) << Format<T>::mantissa) - 1);
template <class T> LOSSKIT_INLINE Bits<T> split(T x) {
  return bits(x) + ((Format<T>::bias << Format<T>::mantissa) - bits(T(0.75)));
}
template <class T> LOSSKIT_INLINE T exponent(Bits<T> i) {  // k, as a T
  constexpr T unit = T(Bits<T>(1) << Format<T>::mantissa);
  return from_bits<T>((i >> Format<T>::mantissa) | bits(unit)) - (unit + T(Format<T>::bias));
}

// What log adds to a finite sum for its ends.  Added, not chosen: GCC makes blends of choices of up to four
// ways, and a log in a caller's choice would make it five.
template <class T> LOSSKIT_INLINE T log_ends(T x) {
  return x > 0 ? (x < infinity<T> ? T(0) : infinity<T>) : x == 0 ? -infinity<T> : not_a_number<T>;
}

// ULP 0.91/0.92.
template <class T> LOSSKIT_INLINE T log_scaled(T x, T up) {  // log(2^-up x), x normal
  const Bits<T> i = split(x);
  const T f = from_bits<T>((i & ~exponent_mask<T>)+bits(T(0.75))) - 1;
  return log_sum(f, exponent<T>(i) - up);
}
template <class T> LOSSKIT_INLINE T log_normal(T x) { return log_scaled(x, T(0)); }
template <class T> LOSSKIT_INLINE T log(T x) {
  constexpr int up = Format<T>::mantissa + 1;
  const bool subnormal = x < std::numeric_limits<T>::min();
  return log_scaled(x * (subnormal ? T(Bits<T>(1) << up) : T(1)), subnormal ? T(up) : T(0)) + log_ends(x);
}

// ULP 0.88/0.90.  f = 2^-k x + (2^-k - 1), exact; 2^-k underflows for the largest x, so 2^(1-k) is formed.
template <class T> LOSSKIT_INLINE T log1p_finite(T x) {  // x > -1
  using F = Format<T>;
  const Bits<T> i = split(1 + x);
  const Bits<T> k = (i & exponent_mask<T>)-(F::bias << F::mantissa);
  const T scale = T(0.5) * from_bits<T>(((F::bias + 1) << F::mantissa) - k);
  return log_sum(from_bits<T>(bits(x) - k) + (scale - 1), exponent<T>(i));
}
template <class T> LOSSKIT_INLINE T log1p(T x) {
  const T ends = log_ends(1 + x);
  const T y = x > -1 ? log1p_finite(x) + ends : ends;
  return absolute(x) < Format<T>::tiny ? x : y;  // keeps -0 and subnormals
}

// log1p for 0 <= e <= 1. In float a polynomial takes fewer operations than the division and the sum of log_sum.
template <class T> LOSSKIT_INLINE T log1p_unit(T e) {
  if constexpr (std::is_same_v<T, float>) {
    return e + e * e *
                   polynomial(e, -4.99999225e-1f, 3.33302051e-1f, -2.49553755e-1f, 1.96788713e-1f, -1.53079122e-1f,
                              1.0600581e-1f, -5.68797179e-2f, 1.97892711e-2f, -3.22684762e-3f);
  } else {
    const bool low = e < T(0.5);
    return log_sum(low ? e : T(0.5) * e - T(0.5), low ? T(0) : T(1));
  }
}

// ---------------------------------------------------------------------------------------------------------
// The logistic family.  All share e = exp_nabs(x), softplus(x) and softplus(-x) also the logarithm.

// ULP 1.47/1.53 (1.49 with fused multiply-add).
template <class T> LOSSKIT_INLINE T softplus(T x, T e) { return (x > 0 ? x : T(0)) + log1p_unit(e); }
template <class T> LOSSKIT_INLINE T softplus(T x) { return softplus(x, exp_nabs(x)); }
template <class T> LOSSKIT_INLINE T log_sigmoid(T x) { return -softplus(-x); }

// ULP 1.82/1.90.
template <class T> LOSSKIT_INLINE T sigmoid(T x, T e) {
  const T d = 1 + e;
  const T r = e / d;
  const T q = r - r * (e - (d - 1));  // for the rounding of 1 + e
  return x >= 0 ? 1 - q : q;
}
template <class T> LOSSKIT_INLINE T sigmoid(T x) { return sigmoid(x, exp_nabs(x)); }

// log(e^a + e^b); the difference of equal infinities is not taken.  a - b is rounded, so
// the error, 1.3/1.6 ULP, is that of the largest of the result, |max(a, b)|, and |a - b| e^-|a - b|.
template <class T> LOSSKIT_INLINE T logaddexp(T a, T b) {
  return maximum(a, b) + log1p_unit(exp_nabs(a == b ? T(0) : a - b));
}

// ---------------------------------------------------------------------------------------------------------
// Roots.

// Correctly rounded.
template <class T> LOSSKIT_INLINE T sqrt(T x) {
  if constexpr (std::is_same_v<T, float>)
    return __builtin_sqrtf(x);
  else
    return __builtin_sqrt(x);
}

// x log(y), but 0 for x == 0 unless y is NaN.  ULP 1.25/1.5.
template <class T> LOSSKIT_INLINE T xlogy(T x, T y) { return x * log(((x == 0) & (y == y)) ? T(1) : y); }

// ULP 1.02/1.11.  A power of two keeps the squares in range where the larger side is very large or small.
template <class T> LOSSKIT_INLINE T hypot(T x, T y) {
  constexpr bool f = std::is_same_v<T, float>;
  constexpr T high = f ? T(0x1p63) : T(0x1p511), shrink = f ? T(0x1p-80) : T(0x1p-600);
  constexpr T low = f ? T(0x1p-40) : T(0x1p-400), grow = f ? T(0x1p100) : T(0x1p700);
  const T a = absolute(x), b = absolute(y), m = a > b ? a : b;
  const T scale = m > high ? shrink : m < low ? grow : T(1);
  const T back = m > high ? 1 / shrink : m < low ? 1 / grow : T(1);
  const T u = a * scale, v = b * scale;
  const T r = sqrt(u * u + v * v) * back;
  return ((a == infinity<T>) | (b == infinity<T>)) ? infinity<T> : r;
}

}  // namespace losskit

#include "special.h"
