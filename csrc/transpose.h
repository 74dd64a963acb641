// Rows of classes, one for each position, to tiles of rows of positions, one for each class, and back.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernel.h"

namespace losskit {
namespace {

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

// to[c * step + j] = from[j * stride + c], or back. The last four classes may overlap those before.
template <class T, bool back>
LOSSKIT_INLINE void transposed(const T* from, int64_t stride, int64_t n, int64_t classes, T* to, int64_t step) {
  int64_t j = 0;
  if (classes == 4 && stride == 4) {  // GCC's own permutations of whole vectors take 0.7 and 0.5 of the squares' time
#pragma GCC ivdep
    for (; j < n; ++j)
      if constexpr (back)
        to[4 * j] = from[j], to[4 * j + 1] = from[step + j], to[4 * j + 2] = from[2 * step + j],
               to[4 * j + 3] = from[3 * step + j];
      else
        to[j] = from[4 * j], to[step + j] = from[4 * j + 1], to[2 * step + j] = from[4 * j + 2],
        to[3 * step + j] = from[4 * j + 3];
  } else if (classes >= 4) {
    for (; j + 4 <= n; j += 4)
      for (int64_t c = 0; c < classes; c += 4) {
        const int64_t k = std::min(c, classes - 4);
        Square<T> square;
        back ? square.read(from + k * step + j, step) : square.read(from + j * stride + k, stride);
        square.transpose();
        back ? square.write(to + j * stride + k, stride) : square.write(to + k * step + j, step);
      }
  } else if (classes == 2 && stride == 2) {
#pragma GCC ivdep
    for (; j < n; ++j)
      if constexpr (back)
        to[2 * j] = from[j], to[2 * j + 1] = from[step + j];
      else
        to[j] = from[2 * j], to[step + j] = from[2 * j + 1];
  } else if (classes == 3 && stride == 3) {
#pragma GCC ivdep
    for (; j < n; ++j)
      if constexpr (back)
        to[3 * j] = from[j], to[3 * j + 1] = from[step + j], to[3 * j + 2] = from[2 * step + j];
      else
        to[j] = from[3 * j], to[step + j] = from[3 * j + 1], to[2 * step + j] = from[3 * j + 2];
  }
  for (; j < n; ++j)
    for (int64_t c = 0; c < classes; ++c)
      if constexpr (back)
        to[j * stride + c] = from[c * step + j];
      else
        to[c * step + j] = from[j * stride + c];
}
template <class T>
LOSSKIT_CLONES void rows_to_tile(const T* from, int64_t stride, int64_t n, int64_t classes, T* to, int64_t step) {
  transposed<T, false>(from, stride, n, classes, to, step);
}
template <class T>
LOSSKIT_CLONES void tile_to_rows(const T* from, int64_t step, int64_t n, int64_t classes, T* to, int64_t stride) {
  transposed<T, true>(from, stride, n, classes, to, step);
}

}  // namespace
}  // namespace losskit
