// Distances between rows in the place of their products, and the gradients by the rows.
//
// 1. A squared distance is |x|^2 + |y|^2 - 2 x y, of floats in double. Where it is so small beside the first two that
//    the digits of a float are in danger, it comes from differences; distances of doubles always do.
// 2. The gradient by distances is spread pair by pair: of hinges of extremes most are 0. It takes differences, in
//    double, in the order of the pairs, so that rows near each other keep their digits.
#pragma once

#include "pairs.h"

namespace losskit {
namespace {

constexpr double kNear = 0x1p-20;  // of |x|^2 + |y|^2: below it a double's product has lost a float's digits

LOSSKIT_CLONES double square_between(const double* x, const double* y, int64_t n) {
  double lanes[kLanesOf] = {};
  int64_t i = 0;
  for (; i + kLanesOf <= n; i += kLanesOf)
    for (int j = 0; j < kLanesOf; ++j) lanes[j] += (x[i + j] - y[i + j]) * (x[i + j] - y[i + j]);
  double rest = 0.0;
  for (; i < n; ++i) rest += (x[i] - y[i]) * (x[i] - y[i]);
  return losskit::folded<kLanesOf>(lanes) + rest;
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

// Distances of a row x in the place of its products with the rows y.
inline void distances_of(double* products, const double* x, const double* y, double own, const double* squares,
                         double near, int64_t n, int64_t width) {
  if (!roots(products, own, squares, near, n)) return;
  for (int64_t j = 0; j < n; ++j)
    if (!(products[j] >= 0.0)) products[j] = between(x, y + j * width, width);
}

// Adds what n gradients by distances of a row x are by it, or by the rows y that it is compared with.
inline void spread_distances(const double* gradient, const double* distance, int64_t n, const double* x,
                             const double* y, int64_t width, bool by_rows, double* out) {
  for (int64_t j = 0; j < n; ++j) {
    if (gradient[j] == 0.0 || distance[j] == 0.0) continue;
    const double* other = y + j * width;
    double* to = by_rows ? out : out + j * width;
    const double own = by_rows ? gradient[j] : -gradient[j], length = distance[j];
    for (int64_t i = 0; i < width; ++i) to[i] += own * ((x[i] - other[i]) / length);
  }
}

}  // namespace
}  // namespace losskit
