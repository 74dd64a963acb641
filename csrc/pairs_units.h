// Unit vectors of the pairs family, with the way back to gradients.
//
// Lengths are computed in double, of doubles after a division by the largest magnitude: their squares may overflow. A
// row of zeros stays, and has no gradient.
#pragma once

#include "pairs.h"

namespace losskit {
namespace {

template <class T> LOSSKIT_INLINE void scale_any(T* x, double factor, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) x[i] = static_cast<T>(static_cast<double>(x[i]) * factor);
}
LOSSKIT_CLONES void scale_by(float* x, double factor, int64_t n) { scale_any(x, factor, n); }
LOSSKIT_CLONES void scale_by(double* x, double factor, int64_t n) { scale_any(x, factor, n); }

// gradient = (gradient - unit along) factor
template <class T> LOSSKIT_INLINE void across_any(T* gradient, const T* unit, double along, double f, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i)
    gradient[i] = static_cast<T>((static_cast<double>(gradient[i]) - along * static_cast<double>(unit[i])) * f);
}
LOSSKIT_CLONES void across(float* g, const float* u, double along, double f, int64_t n) {
  across_any(g, u, along, f, n);
}
LOSSKIT_CLONES void across(double* g, const double* u, double along, double f, int64_t n) {
  across_any(g, u, along, f, n);
}

// The largest finite magnitude of a row, as a power of two; 1 where there is none.
inline double magnitude_of(const double* x, int64_t n) {
  double most = 0.0;
  for (int64_t i = 0; i < n; ++i) most = std::max(most, std::abs(x[i]));
  return most > 0.0 && std::isfinite(most) ? std::ldexp(1.0, std::ilogb(most)) : 1.0;
}

// Makes a row one of length 1; by what it was multiplied.
template <class T> double make_unit(T* x, int64_t n) {
  double most = 1.0;
  if constexpr (sizeof(T) == 8) {
    most = magnitude_of(x, n);
    if (most != 1.0) scale_by(x, 1.0 / most, n);
  }
  const double square = dot(x, x, n), factor = square == 0.0 ? 0.0 : 1.0 / std::sqrt(square);
  scale_by(x, factor, n);
  return factor / most;
}

}  // namespace
}  // namespace losskit
