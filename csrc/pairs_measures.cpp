// What the pairs family measures rows by: their lengths, and distances, with the way back to gradients.
//
// 1. Lengths are computed in double, of doubles after a division by the largest magnitude: their squares may overflow.
//    A row of zeros stays, and has no gradient.
// 2. A squared distance is |x|^2 + |y|^2 - 2 x y, of floats in double. Where it is so small beside the first two that
//    the digits of a float are in danger, it comes from differences; distances of doubles always do.
// 3. The gradient by distances is spread pair by pair: of hinges of extremes most are 0. It takes differences, in
//    double, in the order of the pairs, so that rows near each other keep their digits.
#include <torch/csrc/stable/library.h>

#include "pairs.h"

namespace losskit {
namespace {

constexpr double kNear = 0x1p-20;  // of |x|^2 + |y|^2: below it a double's product has lost a float's digits

template <class T> LOSSKIT_INLINE double dot_any(const T* x, const T* y, int64_t n) {
  double lanes[kLanesOf] = {};
  int64_t i = 0;
  for (; i + kLanesOf <= n; i += kLanesOf)
    for (int j = 0; j < kLanesOf; ++j) lanes[j] += static_cast<double>(x[i + j]) * static_cast<double>(y[i + j]);
  double rest = 0.0;
  for (; i < n; ++i) rest += static_cast<double>(x[i]) * static_cast<double>(y[i]);
  return folded<kLanesOf>(lanes) + rest;
}
LOSSKIT_CLONES double dot(const float* x, const float* y, int64_t n) { return dot_any(x, y, n); }
LOSSKIT_CLONES double dot(const double* x, const double* y, int64_t n) { return dot_any(x, y, n); }

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
    if constexpr (sizeof(T) == 8) {
      most = magnitude_of(x, n);
      scaled_into(x, 1.0 / most, n, out);
    } else {
      std::copy(x, x + n, out);
    }
    const double square = dot(out, out, n), factor = square == 0.0 ? 0.0 : 1.0 / std::sqrt(square);
    scaled_into(out, factor, n, out);
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

LOSSKIT_CLONES double square_between(const double* x, const double* y, int64_t n) {
  double lanes[kLanesOf] = {};
  int64_t i = 0;
  for (; i + kLanesOf <= n; i += kLanesOf)
    for (int j = 0; j < kLanesOf; ++j) lanes[j] += (x[i + j] - y[i + j]) * (x[i + j] - y[i + j]);
  double rest = 0.0;
  for (; i < n; ++i) rest += (x[i] - y[i]) * (x[i] - y[i]);
  return folded<kLanesOf>(lanes) + rest;
}

double between(const double* x, const double* y, int64_t n) {
  const double square = square_between(x, y, n);
  if (square > 0x1p-960 && square < 0x1p1000) return std::sqrt(square);
  double most = 0.0, sum = 0.0;  // squares have left the range of doubles, or there is nothing between them
  for (int64_t i = 0; i < n; ++i) {
    if (!std::isfinite(x[i] - y[i])) return std::abs(square);
    most = std::max(most, std::abs(x[i] - y[i]));
  }
  if (most == 0.0) return 0.0;
  for (int64_t i = 0; i < n; ++i) sum += ((x[i] - y[i]) / most) * ((x[i] - y[i]) / most);
  return most * std::sqrt(sum);
}

// Distances in the place of products; true if one of a row has to come from differences.
LOSSKIT_CLONES bool roots(double* products, double own, const double* squares, double near, int64_t n) {
  int64_t lost = 0;
  for (int64_t j = 0; j < n; ++j) {
    const double both = own + squares[j], square = both - 2.0 * products[j];
    const int64_t close = !(square > near * both);
    lost += close;
    products[j] = close ? -1.0 : std::sqrt(square);
  }
  return lost != 0;
}

struct Distances {
  double* products;
  const double *x, *y, *own, *squares;
  double near;
  int64_t columns, width;

  static void run(int64_t begin, int64_t end, void* context) {
    const Distances& job = *static_cast<Distances*>(context);
    for (int64_t r = begin; r < end; ++r) {
      double* row = job.products + r * job.columns;
      if (!roots(row, job.own[r], job.squares, job.near, job.columns)) continue;
      for (int64_t j = 0; j < job.columns; ++j)
        if (!(row[j] >= 0.0)) row[j] = between(job.x + r * job.width, job.y + j * job.width, job.width);
    }
  }
};

double* doubles(const Tensor& tensor) { return static_cast<double*>(tensor.data_ptr()); }

}  // namespace

void pairs_unit(Tensor x, Tensor unit, Tensor inverse) {
  (dtype_of(x) == DType::kDouble ? unit_rows<double> : unit_rows<float>)(x, unit, inverse);
}

void pairs_pull(Tensor gradient, Tensor unit, Tensor inverse, double scale) {
  (dtype_of(gradient) == DType::kDouble ? pull_rows<double> : pull_rows<float>)(gradient, unit, inverse, scale);
}

void pairs_distances(Tensor products, Tensor x, Tensor y, Tensor own, Tensor squares, bool exact) {
  const auto sizes = products.sizes();
  Distances job{doubles(products), doubles(x),       doubles(y),
                doubles(own),      doubles(squares), exact ? infinity<double> : kNear,
                sizes[1],          x.sizes()[1]};
  run_parallel(sizes[0], std::max<int64_t>(1, kGrain / std::max<int64_t>(1, sizes[1])), Distances::run, &job);
}

// Adds what each distance's gradient is by its two rows.
void pairs_spread(Tensor gradient, Tensor distance, Tensor x, Tensor y, Tensor by_x, Tensor by_y) {
  const auto sizes = gradient.sizes();
  const int64_t width = x.sizes()[1];
  const double *g = doubles(gradient), *d = doubles(distance);
  for (int64_t r = 0; r < sizes[0]; ++r)
    for (int64_t j = 0; j < sizes[1]; ++j) {
      const double own = g[r * sizes[1] + j], length = d[r * sizes[1] + j];
      if (own == 0.0 || length == 0.0) continue;
      const double *a = doubles(x) + r * width, *b = doubles(y) + j * width;
      double *to = doubles(by_x) + r * width, *from = doubles(by_y) + j * width;
      for (int64_t i = 0; i < width; ++i) {
        const double part = own * ((a[i] - b[i]) / length);
        to[i] += part;
        from[i] -= part;
      }
    }
}

}  // namespace losskit

STABLE_TORCH_LIBRARY_FRAGMENT(losskit, library) {
  library.def("pairs_unit(Tensor x, Tensor(a!) unit, Tensor(b!) inverse) -> ()");
  library.def("pairs_pull(Tensor(a!) gradient, Tensor unit, Tensor inverse, float scale) -> ()");
  library.def("pairs_distances(Tensor(a!) products, Tensor x, Tensor y, Tensor own, Tensor squares, bool exact) -> ()");
  library.def(
      "pairs_spread(Tensor gradient, Tensor distance, Tensor x, Tensor y, Tensor(a!) by_x, Tensor(b!) by_y) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(losskit, CPU, library) {
  library.impl("pairs_unit", TORCH_BOX(&losskit::pairs_unit));
  library.impl("pairs_pull", TORCH_BOX(&losskit::pairs_pull));
  library.impl("pairs_distances", TORCH_BOX(&losskit::pairs_distances));
  library.impl("pairs_spread", TORCH_BOX(&losskit::pairs_spread));
}
