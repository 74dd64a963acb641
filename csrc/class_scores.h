// Loops over class scores: exponentials, their sums, and the gradients made of them. Rows lie in memory one after the
// other ("row": the loop runs over classes) or side by side ("tile": the loop runs over positions, for few classes
// and for (N, C, H, W)).
//
// 1. e_c = exp(z_c) 2^(lift - K), with K = round(m / ln 2) of the row's maximum m: the power of two goes into the
//    exponent that the range reduction forms anyway, so nothing is subtracted from z_c and nothing is rounded. Where
//    |m| > kNear, z_c - m is formed with its rounding error instead.
// 2. The lift keeps e_c normal down to 2^-150 of the maximum and less, so that gradients that are subnormal, or that
//    a large upstream gradient makes normal again, keep their digits. What is smaller still is 0, and so is -inf.
// 3. The entry of one class (the target; the maximum where targets are probabilities) stays out of the sum: its
//    gradient is minus the sum of the others', and its loss log1p(others / own), neither of which cancels.
// 4. Sums: a few numbers in T, then double (two-sums for double), so that 256k classes cost no digit.
// 5. Tails overlap the last full vector instead of running element by element.
#pragma once

#include <cstring>
#include <type_traits>

#include "kernel.h"
#include "primitives.h"
#include "reduce.h"

namespace losskit {

template <class T> struct Lift;
template <> struct Lift<float> {
  static constexpr int bits = 64;
  static constexpr float depth = 130.0f;  // z_c < m - depth counts as exp(z_c) = 0
};
template <> struct Lift<double> {
  static constexpr int bits = 256;
  static constexpr double depth = 880.0;
};
constexpr double kNear = 100.0;  // n ln2_hi is exact for |z| up to kNear + depth
constexpr int64_t kLanes = 16;   // rows have at least so many entries; shorter ones are padded with -inf

template <class T> using Index = std::make_signed_t<Bits<T>>;  // as wide as T, for loops with both
template <class T> constexpr T kRound = T(3 * (Bits<T>(1) << (Format<T>::mantissa - 1)));

// What the exponentials of a row are taken relative to.
template <class T> struct Pivot {
  T maximum, magic, limit;
  double offset;  // the logarithm of the unit of e_c, less the maximum
};

template <class T, bool far> LOSSKIT_INLINE Pivot<T> pivot(T m) {
  constexpr T lift = T(Lift<T>::bits);
  if constexpr (far) return {m, kRound<T> + lift, -Lift<T>::depth, -Lift<T>::bits * 0.6931471805599453};
  const T k = (m * log2_e<T> + kRound<T>)-kRound<T>;
  const double exact = double(k) * Format<T>::ln2_hi - double(m);
  return {m, kRound<T> + (lift - k), m - Lift<T>::depth,
          exact + (double(k) * Format<T>::ln2_lo - Lift<T>::bits * 0.6931471805599453)};
}

// As primitives.h's exp, with the pivot's power of two; in float without its compensation of 1 + r (1.0 ULP, not 0.75).
template <class T, bool far> LOSSKIT_INLINE T lifted_exp(T z, T m, T magic, T limit) {
  using F = Format<T>;
  T x = z, low = 0;
  if constexpr (far) {
    x = z - m;
    const T seen = x - z;
    low = (z - (x - seen)) - (m + seen);
  }
  const T t = x * log2_e<T> + magic;
  const T n = t - magic;
  const T r = x - n * F::ln2_hi;
  T q = r - n * F::ln2_lo;
  if constexpr (far) q += low;
  T p;
  if constexpr (std::is_same_v<T, float>)
    p = polynomial(q, 4.9999997e-1f, 1.6666542e-1f, 4.16675247e-2f, 8.36667512e-3f, 1.38624129e-3f);
  else
    p = polynomial(q, 5.0000000000000056e-1, 1.6666666666666599e-1, 4.1666666666573884e-2, 8.3333333333834893e-3,
                   1.3888888932266797e-3, 1.9841269731653646e-4, 2.4801504591101269e-5, 2.7557396625489852e-6,
                   2.7626267965548724e-7, 2.505712585771943e-8);
  T y;
  if constexpr (std::is_same_v<T, float>) {
    y = 1 + (q + q * q * p);
  } else {  // its sums have no wider type to hide in
    const T s = 1 + r;
    T tail = q * q * p - n * F::ln2_lo;
    if constexpr (far) tail += low;
    y = s + ((r - (s - 1)) + tail);
  }
  const Bits<T> e = bits(y) + (bits(t) << F::mantissa);
  return from_bits<T>(e & ~-Bits<T>(x < limit));
}

// ---------------------------------------------------------------------------------------------------------
// Rows: contiguous classes, n >= kLanes.

template <class T> struct VectorOf {
  typedef T type __attribute__((vector_size(64)));
};
template <class T> using Vector = typename VectorOf<T>::type;
template <class T> constexpr int64_t kWidth = 64 / sizeof(T);

// x[0] of 2 `width` numbers combined, halves first.
template <int64_t width, class T, class F> LOSSKIT_INLINE void fold(T* x, const F& both) {
  for (int64_t k = 0; k < width; ++k) x[k] = both(x[k], x[k + width]);
  if constexpr (width > 1) fold<width / 2>(x, both);
}

// Sum of f(i, vector at i) over n >= kWidth entries, in four accumulators.
template <class T, class F> LOSSKIT_INLINE double sum_vectors(int64_t n, const F& at) {
  constexpr int64_t w = kWidth<T>;
  Vector<T> a = {}, b = {}, c = {}, d = {};
  int64_t i = 0;
  for (; i + 4 * w <= n; i += 4 * w) {
    a += at(i);
    b += at(i + w);
    c += at(i + 2 * w);
    d += at(i + 3 * w);
  }
  for (; i + w <= n; i += w) a += at(i);
  if (i < n) {
    alignas(64) T tail[w];
    const Vector<T> last = at(n - w);
    std::memcpy(tail, &last, sizeof tail);
    for (int64_t k = 0; k < w; ++k) tail[k] = where(k < w - (n - i), T(0), tail[k]);
    Vector<T> kept;
    std::memcpy(&kept, tail, sizeof tail);
    b += kept;
  }
  alignas(64) T lanes[4][w];
  std::memcpy(lanes[0], &a, sizeof a);
  std::memcpy(lanes[1], &b, sizeof b);
  std::memcpy(lanes[2], &c, sizeof c);
  std::memcpy(lanes[3], &d, sizeof d);
  double sums[w];
  for (int64_t k = 0; k < w; ++k)
    sums[k] = (double(lanes[0][k]) + double(lanes[1][k])) + (double(lanes[2][k]) + double(lanes[3][k]));
  fold<w / 2>(sums, [](double x, double y) { return x + y; });
  return sums[0];
}

template <class T> LOSSKIT_INLINE Vector<T> load(const T* x) {
  Vector<T> v;
  std::memcpy(&v, x, sizeof v);
  return v;
}

constexpr int64_t kChunk = 1024;  // the last chunk of a row is up to kLanes longer, so that none is too short
LOSSKIT_INLINE int64_t chunk_of(int64_t rest) { return rest < kChunk + kLanes ? rest : kChunk; }

template <class T> LOSSKIT_INLINE T maximum_of(const T* z, int64_t n) {
  constexpr int64_t w = kWidth<T>;
  Vector<T> a = load(z), b = a, c = a, d = a;
  const auto take = [](Vector<T>& m, const T* x) __attribute__((always_inline)) {
    const Vector<T> v = load(x);
    m = v > m ? v : m;
  };
  // A NaN in the first vector must not hide what follows it.
  const Vector<T> none = Vector<T>{} - infinity<T>;
  a = b = c = d = a == a ? a : none;
  int64_t i = w;
  for (; i + 4 * w <= n; i += 4 * w) {
    take(a, z + i);
    take(b, z + i + w);
    take(c, z + i + 2 * w);
    take(d, z + i + 3 * w);
  }
  for (; i + w <= n; i += w) take(a, z + i);
  take(b, z + n - w);
  a = a > b ? a : b;
  c = c > d ? c : d;
  a = a > c ? a : c;
  T lanes[w];
  std::memcpy(lanes, &a, sizeof a);
  fold<w / 2>(lanes, [](T x, T y) { return x > y ? x : y; });
  return lanes[0];
}

// The first entry that is `m`; there is one.
template <class T> LOSSKIT_INLINE int64_t first_of(const T* z, T m, int64_t n) {
  constexpr int64_t step = 128;
  int64_t i = 0;
  for (; i + step <= n; i += step) {
    Index<T> found = 0;
    for (int64_t k = 0; k < step; ++k) found |= z[i + k] == m;
    if (found) break;
  }
  while (z[i] != m) ++i;
  return i;
}

// e_c for a chunk, the entry `own` (if it lies in the chunk) moved out of it into `kept`; the sum of the rest.
template <class T, bool far>
LOSSKIT_INLINE double exp_chunk(const T* z, int64_t n, const Pivot<T>& p, int64_t own, T* e, T* kept) {
  const T m = p.maximum, magic = p.magic, limit = p.limit;
  const int64_t full = n & ~(kLanes - 1);
#pragma GCC ivdep
  for (int64_t i = 0; i < full; ++i) e[i] = lifted_exp<T, far>(z[i], m, magic, limit);
  if (full < n) {
    z += n - kLanes;
    T* const last = e + n - kLanes;
#pragma GCC ivdep
    for (int64_t i = 0; i < kLanes; ++i) last[i] = lifted_exp<T, far>(z[i], m, magic, limit);
  }
  if (own >= 0 && own < n) {
    *kept = e[own];
    e[own] = 0;
  }
  return sum_vectors<T>(n, [e](int64_t i) __attribute__((always_inline)) { return load(e + i); });
}

// Sum of (z_c - m) q_c; of z_c - m where q is null. A weight of 0 removes an infinite score.
template <class T> LOSSKIT_INLINE double dot_of(const T* z, T m, const T* q, int64_t n) {
  Sum total;
  for (int64_t i = 0; i < n;) {
    const int64_t length = chunk_of(n - i);
    const T *x = z + i, *weights = q ? q + i : nullptr;
    const auto plain = [x, m](int64_t k) __attribute__((always_inline)) { return load(x + k) - m; };
    const auto weighted = [x, m, weights](int64_t k) __attribute__((always_inline)) {
      const Vector<T> w = load(weights + k), zero = {};
      const Vector<T> product = w * (load(x + k) - m);
      return w == zero ? zero : product;
    };
    total.add(q ? sum_vectors<T>(length, weighted) : sum_vectors<T>(length, plain));
    i += length;
  }
  return total.value();
}

template <class T> LOSSKIT_INLINE double sum_of(const T* x, int64_t n) {
  Sum total;
  for (int64_t i = 0; i < n;) {
    const int64_t length = chunk_of(n - i);
    const T* from = x + i;
    total.add(sum_vectors<T>(length, [from](int64_t k) __attribute__((always_inline)) { return load(from + k); }));
    i += length;
  }
  return total.value();
}

// e_c a + b q_c (q: 1 where null), in T, or in double where a would be subnormal or the row is left out.
template <class T> LOSSKIT_INLINE void combine(const T* e, const T* q, T a, T b, int64_t n, T* out) {
  if (q) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) out[i] = e[i] * a + q[i] * b;
  } else if (b != 0) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) out[i] = e[i] * a + b;
  } else {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) out[i] = e[i] * a;
  }
}
template <class T> LOSSKIT_INLINE void combine_wide(const T* e, const T* q, double a, double b, int64_t n, T* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = T(double(e[i]) * a + (q ? double(q[i]) : 1.0) * b);
}

// ---------------------------------------------------------------------------------------------------------
// Tiles: `n` positions side by side, classes `stride` apart.

template <class T> struct Tile {
  const T* z;
  int64_t stride;
  int64_t classes, n;
};

// Four vectors of four, transposed.
template <class T> struct Square {
  typedef T Four __attribute__((vector_size(4 * sizeof(T))));
  Four a, b, c, d;
  LOSSKIT_INLINE void read(const T* x, int64_t stride) {
    std::memcpy(&a, x, sizeof a);
    std::memcpy(&b, x + stride, sizeof a);
    std::memcpy(&c, x + 2 * stride, sizeof a);
    std::memcpy(&d, x + 3 * stride, sizeof a);
  }
  LOSSKIT_INLINE void write(T* x, int64_t stride) const {
    std::memcpy(x, &a, sizeof a);
    std::memcpy(x + stride, &b, sizeof a);
    std::memcpy(x + 2 * stride, &c, sizeof a);
    std::memcpy(x + 3 * stride, &d, sizeof a);
  }
  LOSSKIT_INLINE void transpose() {
    const Four p = __builtin_shufflevector(a, b, 0, 4, 1, 5), q = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    const Four r = __builtin_shufflevector(a, b, 2, 6, 3, 7), s = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    a = __builtin_shufflevector(p, q, 0, 1, 4, 5);
    b = __builtin_shufflevector(p, q, 2, 3, 6, 7);
    c = __builtin_shufflevector(r, s, 0, 1, 4, 5);
    d = __builtin_shufflevector(r, s, 2, 3, 6, 7);
  }
};

// to[j * to_stride + i] = from[i * from_stride + j] for i < rows, j < columns. The last columns overlap those before.
template <class T>
LOSSKIT_INLINE void transposed(const T* from, int64_t from_stride, int64_t rows, int64_t columns, T* to,
                               int64_t to_stride) {
  int64_t i = 0;
  if (columns == 2) {
    for (; i < rows; ++i) {
      to[i] = from[i * from_stride];
      to[to_stride + i] = from[i * from_stride + 1];
    }
  } else if (columns >= 4) {
    for (; i + 4 <= rows; i += 4)
      for (int64_t j = 0; j < columns; j += 4) {
        const int64_t k = j + 4 <= columns ? j : columns - 4;
        Square<T> square;
        square.read(from + i * from_stride + k, from_stride);
        square.transpose();
        square.write(to + k * to_stride + i, to_stride);
      }
  }
  for (; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) to[j * to_stride + i] = from[i * from_stride + j];
}

template <class T> LOSSKIT_INLINE T larger(T a, T b) { return a > b ? a : b; }

template <class T> LOSSKIT_INLINE void tile_maximum(const Tile<T>& tile, T* m) {
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
}

// The first class that has the maximum.
template <class T> LOSSKIT_INLINE void tile_argmax(const Tile<T>& tile, const T* m, Index<T>* k) {
  for (int64_t j = 0; j < tile.n; ++j) k[j] = 0;
  for (int64_t c = tile.classes - 1; c >= 0; --c) {
    const T* z = tile.z + c * tile.stride;
#pragma GCC ivdep
    for (int64_t j = 0; j < tile.n; ++j) k[j] = z[j] == m[j] ? Index<T>(c) : k[j];
  }
}

// sum += x; doubles carry along what rounding takes.
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
template <class T, bool far, int group, bool store>
LOSSKIT_INLINE void tile_exp_group(const Tile<T>& tile, int64_t c, const T* m, const T* magic, const T* limit,
                                   const Index<T>* own, T* e, int64_t step, T* kept, double* sum, double* low) {
  const T* z = tile.z + c * tile.stride;
  const int64_t s = tile.stride;
  if constexpr (store) e += c * step;
  const Index<T> first = Index<T>(c);
#pragma GCC ivdep
  for (int64_t j = 0; j < tile.n; ++j) {
    const Index<T> relative = own[j] - first;
    const auto entry = [&](int g) __attribute__((always_inline)) {
      const T v = lifted_exp<T, far>(z[g * s + j], m[j], magic[j], limit[j]);
      if constexpr (store) e[g * step + j] = v;
      return v;
    };
    const auto mask = [&](int g) __attribute__((always_inline)) { return -Bits<T>(relative == g); };
    const T v0 = entry(0);
    const Bits<T> k0 = mask(0);
    Bits<T> mine = bits(v0) & k0;
    Bits<T> any = k0;
    T total = from_bits<T>(bits(v0) & ~k0);
    if constexpr (group > 1) {
      const T v1 = entry(1);
      const Bits<T> k1 = mask(1);
      mine |= bits(v1) & k1;
      any |= k1;
      total += from_bits<T>(bits(v1) & ~k1);
      if constexpr (group > 2) {
        const T v2 = entry(2);
        const Bits<T> k2 = mask(2);
        mine |= bits(v2) & k2;
        any |= k2;
        T more = from_bits<T>(bits(v2) & ~k2);
        if constexpr (group > 3) {
          const T v3 = entry(3);
          const Bits<T> k3 = mask(3);
          mine |= bits(v3) & k3;
          any |= k3;
          more += from_bits<T>(bits(v3) & ~k3);
        }
        total += more;
      }
    }
    kept[j] = from_bits<T>(mine | (bits(kept[j]) & ~any));
    accumulate(sum[j], low[j], total);
  }
}

template <class T, bool far, bool store>
LOSSKIT_INLINE void tile_exp(const Tile<T>& tile, const T* m, const T* magic, const T* limit, const Index<T>* own, T* e,
                             int64_t step, T* kept, double* sum) {
  double low[kBlock];
  for (int64_t j = 0; j < tile.n; ++j) kept[j] = 0, sum[j] = low[j] = 0;
  int64_t c = 0;
  for (; c + 4 <= tile.classes; c += 4)
    tile_exp_group<T, far, 4, store>(tile, c, m, magic, limit, own, e, step, kept, sum, low);
  const int64_t rest = tile.classes - c;
  if (rest == 3) tile_exp_group<T, far, 3, store>(tile, c, m, magic, limit, own, e, step, kept, sum, low);
  if (rest == 2) tile_exp_group<T, far, 2, store>(tile, c, m, magic, limit, own, e, step, kept, sum, low);
  if (rest == 1) tile_exp_group<T, far, 1, store>(tile, c, m, magic, limit, own, e, step, kept, sum, low);
  if constexpr (!std::is_same_v<T, float>)
    for (int64_t j = 0; j < tile.n; ++j) sum[j] += low[j];
}

}  // namespace losskit
