// Class scores, loops over positions side by side, class by class: few classes, (N, C, H, W), any strides.
//
// 1. Near rows of floats take four classes at a time: four exponentials are added as floats, then once in double.
// 2. `finish` is one pass over the positions for plain cross entropy of floats: logarithm and gradient coefficients
//    in double, with one division.
#pragma once

#include "class_scores.h"
#include "transpose.h"

namespace losskit {
namespace {

// `n` positions side by side, classes `stride` apart.
template <class T> struct Tile {
  const T* z;
  int64_t stride;
  int64_t classes, n;
};

// --------------------------------------------------------------------------------------------------------
// Maxima and exponentials

template <class T> LOSSKIT_INLINE T larger(T a, T b) { return a > b ? a : b; }

// The maxima; true if one is far from 0, or not finite.
template <class T> LOSSKIT_CLONES bool maxima(const Tile<T>& tile, T* m) {
  const T* z = tile.z;
  const int64_t s = tile.stride, n = tile.n;
  for (int64_t j = 0; j < n; ++j) m[j] = -infinity<T>;
  int64_t c = 0;
  for (; c + 4 <= tile.classes; c += 4, z += 4 * s) {
    const T *x = z, *y = z + s, *u = z + 2 * s, *v = z + 3 * s;
#pragma GCC ivdep
    for (int64_t j = 0; j < n; ++j) m[j] = larger(larger(larger(x[j], y[j]), larger(u[j], v[j])), m[j]);
  }
  for (; c < tile.classes; ++c, z += s)
#pragma GCC ivdep
    for (int64_t j = 0; j < n; ++j) m[j] = larger(z[j], m[j]);
  Index<T> far = 0;
  for (int64_t j = 0; j < n; ++j) far |= !(absolute(m[j]) <= T(kNear));
  return far != 0;
}

// The first class that has the maximum.
template <class T> LOSSKIT_CLONES void argmaxima(const Tile<T>& tile, const T* m, Index<T>* k) {
  for (int64_t j = 0; j < tile.n; ++j) k[j] = 0;
  for (int64_t c = tile.classes - 1; c >= 0; --c) {
    const T* z = tile.z + c * tile.stride;
#pragma GCC ivdep
    for (int64_t j = 0; j < tile.n; ++j) k[j] = z[j] == m[j] ? Index<T>(c) : k[j];
  }
}

// As shift_scores, for all positions of a tile.
template <class T>
LOSSKIT_CLONES void tile_shift(T* z, int64_t step, const T* shift, int64_t classes, int64_t n, Scratch<T>& s) {
  T *const m = s.largest, *const score = s.at_score, *const own = s.at_shift, *const score2 = s.narrow_a,
           *const own2 = s.narrow_b;
  for (int64_t j = 0; j < n; ++j) m[j] = -infinity<T>, score[j] = own[j] = 0;
  for (int64_t c = 0; c < classes; ++c) {
    const T *const x = z + c * step, a = shift[c];
#pragma GCC ivdep
    for (int64_t j = 0; j < n; ++j) {
      const T sum = x[j] + a;
      const bool more = sum > m[j];
      m[j] = where(more, sum, m[j]), score[j] = where(more, x[j], score[j]), own[j] = where(more, a, own[j]);
    }
  }
  for (int64_t j = 0; j < n; ++j) {  // without a finite one nothing is subtracted
    const bool finite = absolute(m[j]) < infinity<T>;
    m[j] = where(finite, T(0), infinity<T>);
    score2[j] = score[j] = where(finite, score[j], T(0)), own2[j] = own[j] = where(finite, own[j], T(0));
  }
  for (int64_t c = 0; c < classes; ++c) {
    const T *const x = z + c * step, a = shift[c];
#pragma GCC ivdep
    for (int64_t j = 0; j < n; ++j) {
      const T apart = (x[j] - score[j]) + (a - own[j]);
      const bool more = apart > m[j];
      m[j] = where(more, apart, m[j]), score2[j] = where(more, x[j], score2[j]), own2[j] = where(more, a, own2[j]);
    }
  }
  for (int64_t c = 0; c < classes; ++c) {
    T* const x = z + c * step;
    const T a = shift[c];
#pragma GCC ivdep
    for (int64_t j = 0; j < n; ++j) x[j] = (x[j] - score2[j]) + (a - own2[j]);
  }
  for (int64_t j = 0; j < n; ++j) s.base[j] = double(score2[j]) + double(own2[j]);
}

// The scores of a tile multiplied by a number of their position, and the own class's as given.
template <class T>
LOSSKIT_CLONES void tile_change(T* z, int64_t step, int64_t classes, int64_t n, const Scratch<T>& s) {
  for (int64_t c = 0; c < classes; ++c, z += step)
#pragma GCC ivdep
    for (int64_t j = 0; j < n; ++j)
      z[j] = where(s.own[j] == Index<T>(c), T(s.own_given[j]), T(double(z[j]) * s.multiple[j]));
}

// As by_multiple_of, for all positions of a tile; the own class's part is there already.
template <class T> LOSSKIT_CLONES void tile_by_multiple(const Tile<T>& tile, const T* g, int64_t step, Scratch<T>& s) {
  for (int64_t c = 0; c < tile.classes; ++c, g += step) {
    const T* const z = tile.z + c * tile.stride;
#pragma GCC ivdep
    for (int64_t j = 0; j < tile.n; ++j)
      s.by_multiple[j] += (s.own[j] == Index<T>(c)) | (g[j] == 0) ? 0.0 : double(g[j]) * double(z[j]);
  }
  for (int64_t j = 0; j < tile.n; ++j) s.by_multiple[j] /= s.multiple[j] * s.multiple[j];
}

// sum += x; `low` collects the rounding errors of doubles.
template <class T> LOSSKIT_INLINE void accumulate(double& sum, double& low, T x) {
  if constexpr (std::is_same_v<T, float>) {
    sum += double(x);
  } else {
    const double next = sum + x, seen = next - sum;
    low += (sum - (next - seen)) + (x - seen);
    sum = next;
  }
}

// e_c of `group` classes from `c` on. The entry of class own[j] goes to kept[j] and stays out of the sum.
template <class T, bool far, int group>
LOSSKIT_INLINE void exp_group(const Tile<T>& tile, int64_t c, T* e, int64_t step, Scratch<T>& s) {
  const T* z = tile.z + c * tile.stride;
  const int64_t stride = tile.stride;
  e += c * step;
  const Index<T> first = Index<T>(c);
#pragma GCC ivdep
  for (int64_t j = 0; j < tile.n; ++j) {
    const Index<T> relative = s.own[j] - first;
    const T m = s.maximum[j], magic = s.magic[j], limit = s.limit[j];
    T total = 0;
    Bits<T> mine = 0;
    const auto entry = [&](int g) __attribute__((always_inline)) {
      const T v = lifted_exp<T, far>(z[g * stride + j], m, magic, limit);
      e[g * step + j] = v;
      const Bits<T> own = -Bits<T>(relative == g);
      mine |= bits(v) & own;
      return from_bits<T>(bits(v) & ~own);
    };
    if constexpr (group == 4)
      total = (entry(0) + entry(1)) + (entry(2) + entry(3));
    else if constexpr (group == 2)
      total = entry(0) + entry(1);
    else
      total = entry(0);
    s.kept[j] = from_bits<T>(bits(s.kept[j]) | mine);  // it was 0
    accumulate(s.others[j], s.lost[j], total);
  }
}

// All e_c, `step` apart, and their sums. A step of 0: only the sums are wanted, and `e` has room for one class.
template <class T, bool far> LOSSKIT_CLONES void exps(const Tile<T>& tile, T* e, int64_t step, Scratch<T>& s) {
  for (int64_t j = 0; j < tile.n; ++j) {
    const Pivot<T> p = pivot<T, far>(s.maximum[j]);
    s.magic[j] = p.magic, s.limit[j] = p.limit;
    s.kept[j] = 0, s.others[j] = s.lost[j] = 0;
  }
  int64_t c = 0;
  if constexpr (std::is_same_v<T, float> && !far) {
    for (; c + 4 <= tile.classes && step; c += 4) exp_group<T, far, 4>(tile, c, e, step, s);
    if (c + 2 <= tile.classes && step) exp_group<T, far, 2>(tile, c, e, step, s), c += 2;
  }
  for (; c < tile.classes; ++c) exp_group<T, far, 1>(tile, c, e, step, s);
  if constexpr (!std::is_same_v<T, float>)
    for (int64_t j = 0; j < tile.n; ++j) s.others[j] += s.lost[j];
}

template <class T> void offsets(int64_t n, bool far, Scratch<T>& s) {
  for (int64_t j = 0; j < n; ++j) s.offset[j] = far ? -kLiftLog<T> : near_offset(s.maximum[j], s.magic[j]);
}

// --------------------------------------------------------------------------------------------------------
// Weights, gradients

// One class: dots += q (z - m), rest += q unless it is the excluded class.
template <class T>
LOSSKIT_CLONES void tile_dot(const T* z, const T* t, T keep, T smooth, T w, Index<T> c, int64_t n, Scratch<T>& s) {
  if (t) {
#pragma GCC ivdep
    for (int64_t j = 0; j < n; ++j) {
      const T q = (t[j] * keep + smooth) * w;
      accumulate(s.dots[j], s.dots_lost[j], where(q == 0, T(0), q * (z[j] - s.maximum[j])));
      accumulate(s.rest[j], s.rest_lost[j], where(s.own[j] == c, T(0), q));
      s.mine[j] += double(where(s.own[j] == c, q, T(0)));
    }
  } else {
#pragma GCC ivdep
    for (int64_t j = 0; j < n; ++j)
      accumulate(s.dots[j], s.dots_lost[j], where(w == 0, T(0), w * (z[j] - s.maximum[j])));
  }
}

// One class of the gradient: e a + b q, q = (t keep + smooth) w, the excluded class's own gradient, zeros.
template <class T>
LOSSKIT_CLONES void tile_combine(T* e, const T* t, T keep, T smooth, T w, Index<T> c, int64_t n, const Scratch<T>& s) {
#pragma GCC ivdep
  for (int64_t j = 0; j < n; ++j) {
    const T q = t ? (t[j] * keep + smooth) * w : w;
    const T g = where(s.own[j] == c, s.narrow_own[j], e[j] * s.narrow_a[j] + s.narrow_b[j] * q);
    e[j] = from_bits<T>(bits(g) & s.keep[j]);
  }
}
template <class T>
void tile_combine_wide(T* e, const T* t, T keep, T smooth, T w, Index<T> c, int64_t n, const Scratch<T>& s) {
  for (int64_t j = 0; j < n; ++j) {
    const double q = t ? double((t[j] * keep + smooth) * w) : double(w);
    const T g = s.own[j] == c ? T(s.own_gradient[j]) : T(double(e[j]) * s.a[j] + s.b[j] * q);
    e[j] = from_bits<T>(bits(g) & s.keep[j]);
  }
}
// All classes where b is 0.
template <class T> LOSSKIT_CLONES void tile_scale(T* e, int64_t step, int64_t classes, int64_t n, const Scratch<T>& s) {
  for (int64_t c = 0; c < classes; ++c, e += step)
#pragma GCC ivdep
    for (int64_t j = 0; j < n; ++j) {
      const T g = where(s.own[j] == Index<T>(c), s.narrow_own[j], e[j] * s.narrow_a[j]);
      e[j] = from_bits<T>(bits(g) & s.keep[j]);
    }
}

template <class T> LOSSKIT_CLONES void tile_losses(const T* z, double weight, int64_t n, const Scratch<T>& s, T* out) {
  for (int64_t j = 0; j < n; ++j) {
    const T loss = T(double(s.operands[0][j] - (z[j] - s.maximum[j])) * weight * s.scale[j]);
    out[j] = from_bits<T>(bits(loss) & s.keep[j]);
  }
}

// --------------------------------------------------------------------------------------------------------
// Positions without weights other than their own

// log-probability and coefficients of the gradient: a w / t and its product with `others`, where t = kept + others.
// False if an excluded class is too faint for a quotient, or a coefficient would lose digits.
// log(t / kept) = k ln2 + 2 atanh(s), s = (t - 2^k kept) / (t + 2^k kept), with 2^k kept within 0.66 and 1.5 of t;
// where k is 0, t - kept is `others`, and nothing cancels. The first term left out is 3e-10 of the sum.
LOSSKIT_CLONES bool finish(int64_t n, Scratch<float>& s) {
  using F = Format<double>;
  constexpr Bits<double> half = Bits<double>(1) << (F::mantissa - 1);
  constexpr double least = 16.0 * double(std::numeric_limits<float>::min()), unit = 0x1p52;
  Bits<double> odd = 0;
  for (int64_t j = 0; j < n; ++j) {
    const double others = s.others[j], kept = double(s.kept[j]), t = others + kept;
    const Bits<double> power = (bits(t) - bits(kept) + half) & exponent_mask<double>;
    const double near = from_bits<double>(bits(kept) + power);
    const double k = from_bits<double>((power >> F::mantissa) | bits(unit)) - unit;
    const double sum = t + near, inverse = 1.0 / (t * sum);
    const double x = (others + (kept - near)) * (t * inverse), z = x * x;
    const double tail = x * z * polynomial(z, 2.0 / 3, 2.0 / 5, 2.0 / 7, 2.0 / 9, 2.0 / 11);
    s.logs[j] = -(k * 0.6931471805599453 + (2.0 * x + tail));
    const double a = s.row_weight[j] * s.scale[j] * (sum * inverse);
    odd |= Bits<double>(kept == 0.0) | (Bits<double>(a != 0.0) & Bits<double>(absolute(a) < least));
    s.narrow_a[j] = static_cast<float>(a);
    s.narrow_own[j] = static_cast<float>(-(a * others));
  }
  return odd == 0;
}

}  // namespace
}  // namespace losskit
