// Unit vectors of the pairs family, with the way back to gradients.
//
// Lengths are computed in double, of doubles after a division by the largest magnitude: their squares may overflow. A
// row of zeros stays, and has no gradient.
#include <torch/csrc/stable/library.h>

#include "pairs.h"

namespace losskit {
namespace {

template <class T> LOSSKIT_INLINE void scaled_into_any(const T* x, double factor, int64_t n, T* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(static_cast<double>(x[i]) * factor);
}
LOSSKIT_CLONES void scaled_into(const float* x, double f, int64_t n, float* out) { scaled_into_any(x, f, n, out); }
LOSSKIT_CLONES void scaled_into(const double* x, double f, int64_t n, double* out) { scaled_into_any(x, f, n, out); }

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
double magnitude_of(const double* x, int64_t n) {
  double most = 0.0;
  for (int64_t i = 0; i < n; ++i) most = std::max(most, std::abs(x[i]));
  return most > 0.0 && std::isfinite(most) ? std::ldexp(1.0, std::ilogb(most)) : 1.0;
}

template <class T> void unit_rows(const Tensor& given, const Tensor& unit, const Tensor& inverse) {
  const auto sizes = given.sizes();
  const int64_t rows = sizes[0], n = sizes[1];
  const T* x = static_cast<const T*>(given.data_ptr());
  T* out = static_cast<T*>(unit.data_ptr());
  double* factors = static_cast<double*>(inverse.data_ptr());
  for (int64_t r = 0; r < rows; ++r, x += n, out += n) {
    double most = 1.0;
    const T* from = x;
    if constexpr (sizeof(T) == 8) {
      most = magnitude_of(x, n);
      scaled_into(x, 1.0 / most, n, out);
      from = out;
    }
    const double square = dot(from, from, n), factor = square == 0.0 ? 0.0 : 1.0 / std::sqrt(square);
    scaled_into(from, factor, n, out);
    factors[r] = factor / most;
  }
}

template <class T> void pull_rows(const Tensor& given, const Tensor& units, const Tensor& inverse, double scale) {
  const auto sizes = given.sizes();
  const int64_t rows = sizes[0], n = sizes[1];
  T* gradient = static_cast<T*>(given.data_ptr());
  const T* unit = static_cast<const T*>(units.data_ptr());
  const double* factors = static_cast<const double*>(inverse.data_ptr());
  for (int64_t r = 0; r < rows; ++r, gradient += n, unit += n)
    across(gradient, unit, dot(gradient, unit, n), scale * factors[r], n);
}

}  // namespace

void pairs_unit(Tensor x, Tensor unit, Tensor inverse) {
  (dtype_of(x) == DType::kDouble ? unit_rows<double> : unit_rows<float>)(x, unit, inverse);
}

void pairs_pull(Tensor gradient, Tensor unit, Tensor inverse, double scale) {
  (dtype_of(gradient) == DType::kDouble ? pull_rows<double> : pull_rows<float>)(gradient, unit, inverse, scale);
}

}  // namespace losskit

STABLE_TORCH_LIBRARY_FRAGMENT(losskit, library) {
  library.def("pairs_unit(Tensor x, Tensor(a!) unit, Tensor(b!) inverse) -> ()");
  library.def("pairs_pull(Tensor(a!) gradient, Tensor unit, Tensor inverse, float scale) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(losskit, CPU, library) {
  library.impl("pairs_unit", TORCH_BOX(&losskit::pairs_unit));
  library.impl("pairs_pull", TORCH_BOX(&losskit::pairs_pull));
}
