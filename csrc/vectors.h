// Sums and maxima of rows of contiguous numbers, of kLanes or more, with vectors of 64 bytes (of which GCC makes what
// the machine has) in four accumulators: GCC does not reorder additions, and took an array of partial sums apart into
// scalars.
#pragma once

#include <cstring>

#include "primitives.h"
#include "reduce.h"

namespace losskit {
namespace {

constexpr int64_t kLanes = 16;                                 // entries of a row, at least
template <class T> using Index = std::make_signed_t<Bits<T>>;  // as wide as T, for loops with both

constexpr int64_t kChunk = 1024;  // entries between additions in double; the last chunk of a row may be longer
LOSSKIT_INLINE int64_t chunk_of(int64_t rest) { return rest < kChunk + kLanes ? rest : kChunk; }

template <class T> struct VectorOf {
  typedef T type __attribute__((vector_size(64)));
  typedef T part __attribute__((vector_size(16)));
};
template <class T> using Vector = typename VectorOf<T>::type;
template <class T> constexpr int64_t kWidth = 64 / sizeof(T);

template <class T> LOSSKIT_INLINE void load(const T* x, Vector<T>& v) { std::memcpy(&v, x, sizeof v); }

// All entries of a vector combined, halves first.
template <class T, class F> LOSSKIT_INLINE T folded(const Vector<T>& v, const F& both) {
  typename VectorOf<T>::part x[4];
  std::memcpy(x, &v, sizeof v);
  both(x[0], x[1]), both(x[2], x[3]), both(x[0], x[2]);
  if constexpr (sizeof(T) == 4) {
    x[1] = __builtin_shufflevector(x[0], x[0], 2, 3, 0, 1), both(x[0], x[1]);
    x[1] = __builtin_shufflevector(x[0], x[0], 1, 0, 3, 2), both(x[0], x[1]);
  } else {
    x[1] = __builtin_shufflevector(x[0], x[0], 1, 0), both(x[0], x[1]);
  }
  return x[0][0];
}

// Sum of a vector, in double.
LOSSKIT_INLINE double total_of(const Vector<float>& v) {
  typedef double Four __attribute__((vector_size(32)));
  VectorOf<float>::part x[4];
  std::memcpy(x, &v, sizeof v);
  const Four sum = (__builtin_convertvector(x[0], Four) + __builtin_convertvector(x[1], Four)) +
                   (__builtin_convertvector(x[2], Four) + __builtin_convertvector(x[3], Four));
  return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}
LOSSKIT_INLINE double total_of(const Vector<double>& v) {
  return folded<double>(v, [](auto& x, const auto& y) __attribute__((always_inline)) { x += y; });
}

// Sum over a chunk of n >= kWidth entries; at(i, v) gives those from i on.
template <class T, class F> LOSSKIT_INLINE double chunk_sum(int64_t n, const F& at) {
  constexpr int64_t w = kWidth<T>;
  Vector<T> a = {}, b = {}, c = {}, d = {}, v;
  int64_t i = 0;
  for (; i + 4 * w <= n; i += 4 * w) {
    at(i, v), a += v;
    at(i + w, v), b += v;
    at(i + 2 * w, v), c += v;
    at(i + 3 * w, v), d += v;
  }
  for (; i + w <= n; i += w) at(i, v), a += v;
  if (i < n) {
    at(n - w, v);
    alignas(64) T last[w];
    std::memcpy(last, &v, sizeof v);
    for (int64_t k = 0; k < w - (n - i); ++k) last[k] = 0;
    load(last, v);
    b += v;
  }
  return total_of((a + b) + (c + d));
}

template <class T> LOSSKIT_INLINE T maximum_of(const T* z, int64_t n) {
  constexpr int64_t w = kWidth<T>;
  Vector<T> a, b, c, d, v;
  load(z, a);
  a = b = c = d = a == a ? a : Vector<T>{} - infinity<T>;  // a NaN must not hide what follows it
  const auto take = [&v](Vector<T>& m, const T* x) __attribute__((always_inline)) {
    load(x, v);
    m = v > m ? v : m;
  };
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
  return folded<T>(a, [](auto& x, const auto& y) __attribute__((always_inline)) { x = x > y ? x : y; });
}
template <class T> LOSSKIT_CLONES T row_maximum(const T* z, int64_t n) { return maximum_of(z, n); }

// The first entry that is `m`; there is one. The step that has it is searched with integers as wide as T, since a
// search one by one takes longer than the steps before.
template <class T> LOSSKIT_INLINE int64_t first_of(const T* z, T m, int64_t n) {
  constexpr int64_t step = 128;
  int64_t i = 0;
  for (; i + step <= n; i += step) {
    Index<T> found = 0;
    for (int64_t k = 0; k < step; ++k) found |= z[i + k] == m;
    if (found) break;
  }
  const int64_t rest = std::min(step, n - i);
  Index<T> first = static_cast<Index<T>>(rest);
  for (Index<T> k = 0; k < static_cast<Index<T>>(rest); ++k) {
    const Index<T> at = z[i + k] == m ? k : static_cast<Index<T>>(rest);
    first = at < first ? at : first;
  }
  return i + first;
}
template <class T> LOSSKIT_CLONES int64_t row_find(const T* z, T m, int64_t n) { return first_of(z, m, n); }

}  // namespace
}  // namespace losskit
