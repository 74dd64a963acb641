// Products of a few rows with a matrix that lies in strips.
//
// 1. A strip is 128 bytes of each row, one row after the other, so that a tile reads it from end to end. A matrix is
//    laid out in strips once, by `strips_of` or `turned_strips_of`, and then multiplied many times.
// 2. A tile of 12 rows and a strip, or a part of it, has its sums in registers. AVX-512 has 32 of 64 bytes: 24 sums of
//    12 rows. With 16 registers, of 32 bytes (AVX2) or 16, it is 6 rows and two registers of each.
// 3. BLAS does this for any matrix. On AMD's processors MKL, torch's BLAS, does it with half of their registers: 108 of
//    260 GFLOP/s, on one core of a Zen 5; tiles of this file 250. Their AVX2 has 127 of 130.
// 4. Each sum adds its products one by one, in their order, whatever the rows around it.
// 5. The number of rows must be a multiple of 12, and a strip that is not full is filled with zeros: no code treats
//    what is left over. The caller does not read the sums of such rows and columns.
#pragma once

#include <cstring>

#include "transpose.h"

namespace losskit {
namespace {

constexpr int64_t kTileRows = 12;
template <class T> constexpr int64_t kStrip = 128 / sizeof(T);  // columns
constexpr int64_t kDepth = 256;                                 // rows of a strip at a time: 32 KB

constexpr int64_t up_to(int64_t n, int64_t step) { return (n + step - 1) / step * step; }
template <class T> constexpr int64_t strips_for(int64_t columns) { return (columns + kStrip<T> - 1) / kStrip<T>; }

// out(m, n) = sum over k of left(m, k) right(k, n).
template <class T> struct Product {
  bool along;  // left(m, k) is left[m stride + k]; otherwise left[k stride + m]
  const T* left;
  int64_t stride, rows, depth;  // rows: a multiple of 12
  const T* right;               // strips, each of `strip` numbers
  int64_t strip, strips;
  T* out;
  int64_t out_stride;
};

template <class T, int bytes, int rows, int vectors, bool along>
LOSSKIT_INLINE void tile(int64_t depth, const T* left, int64_t stride, const T* right, T* out, int64_t out_stride,
                         bool add) {
  typedef T Vector __attribute__((vector_size(bytes)));
  constexpr int64_t width = bytes / sizeof(T);
  Vector sums[rows][vectors];
#pragma GCC unroll 16
  for (int m = 0; m < rows; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sums[m][v] = Vector{};
  const T* thirds[rows / 3];  // a pointer for three rows: more have no registers
#pragma GCC unroll 16
  for (int i = 0; i < rows / 3; ++i) thirds[i] = left + 3 * i * stride;
  for (int64_t k = 0; k < depth; ++k, right += kStrip<T>) {
    Vector x[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) std::memcpy(&x[v], right + v * width, bytes);
#pragma GCC unroll 16
    for (int m = 0; m < rows; ++m) {
      const T own = along ? thirds[m / 3][(m % 3) * stride] : left[m];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sums[m][v] += own * x[v];
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows / 3; ++i) ++thirds[i];
    left += stride;
  }
#pragma GCC unroll 16
  for (int m = 0; m < rows; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      T* to = out + m * out_stride + v * width;
      Vector before = {};
      if (add) std::memcpy(&before, to, bytes);
      before += sums[m][v];
      std::memcpy(to, &before, bytes);
    }
}

template <class T, int bytes, int rows, int vectors> LOSSKIT_INLINE void multiply_any(const Product<T>& p) {
  constexpr int64_t width = vectors * bytes / sizeof(T);
  for (int64_t k = 0; k == 0 || k < p.depth; k += kDepth) {
    const int64_t depth = p.depth - k < kDepth ? p.depth - k : kDepth;
    for (int64_t n = 0; n < p.strips * kStrip<T>; n += width) {
      const T* right = p.right + n / kStrip<T> * p.strip + k * kStrip<T> + n % kStrip<T>;
      for (int64_t m = 0; m < p.rows; m += rows) {
        T* out = p.out + m * p.out_stride + n;
        if (p.along)
          tile<T, bytes, rows, vectors, true>(depth, p.left + m * p.stride + k, p.stride, right, out, p.out_stride, k);
        else
          tile<T, bytes, rows, vectors, false>(depth, p.left + k * p.stride + m, p.stride, right, out, p.out_stride, k);
      }
    }
  }
}

template <class T> void multiply_plain(const Product<T>& p) { multiply_any<T, 16, 6, 2>(p); }
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
template <class T> __attribute__((target("arch=x86-64-v4"))) void multiply_512(const Product<T>& p) {
  multiply_any<T, 64, 12, 2>(p);
}
template <class T> __attribute__((target("arch=x86-64-v3"))) void multiply_256(const Product<T>& p) {
  multiply_any<T, 32, 6, 2>(p);
}
template <class T> void multiply(const Product<T>& p) {
  static const auto chosen = __builtin_cpu_supports("x86-64-v4")   ? multiply_512<T>
                             : __builtin_cpu_supports("x86-64-v3") ? multiply_256<T>
                                                                   : multiply_plain<T>;
  chosen(p);
}
#else
template <class T> void multiply(const Product<T>& p) { multiply_plain<T>(p); }
#endif

// A matrix of rows one after the other in strips: row r is row r of each.
template <class T> void strips_of(const T* x, int64_t rows, int64_t columns, T* out) {
  for (int64_t n = 0; n < columns; n += kStrip<T>) {
    const int64_t width = columns - n < kStrip<T> ? columns - n : kStrip<T>;
    for (int64_t r = 0; r < rows; ++r, out += kStrip<T>) {
      std::memcpy(out, x + r * columns + n, width * sizeof(T));
      for (int64_t i = width; i < kStrip<T>; ++i) out[i] = T(0);
    }
  }
}

// The same of the turned matrix: column c of the matrix is row c of each strip.
template <class T> void turned_strips_of(const T* x, int64_t rows, int64_t columns, T* out) {
  for (int64_t n = 0; n < rows; n += kStrip<T>, out += columns * kStrip<T>) {
    const int64_t width = rows - n < kStrip<T> ? rows - n : kStrip<T>;
    if (width < kStrip<T>) std::fill(out, out + columns * kStrip<T>, T(0));
    rows_to_tile(x + n * columns, columns, width, columns, out, kStrip<T>);
  }
}

}  // namespace
}  // namespace losskit
