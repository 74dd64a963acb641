// Sums of a block, and of the blocks: in double, in one fixed order.
//
// 1. The order depends on the number of elements alone, never on threads: the same bits for 1 and N threads.
// 2. Floats are exact in double and their block sums as good as exact. Doubles carry the rounding error of
//    every addition along (Knuth's two-sum), so that N = 1e8 elements cost no digit.
// 3. Sixteen (eight) independent accumulators keep the adders busy and vectorise.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernel.h"

namespace losskit {

// An unevaluated sum high + low; low is what rounding took from high.
struct Sum {
  double high = 0.0;
  double low = 0.0;

  LOSSKIT_INLINE void add(double x) {
    const double sum = high + x;
    const double seen = sum - high;
    low += (high - (sum - seen)) + (x - seen);
    high = sum;
  }
  void add(const Sum& other) {
    add(other.high);
    low += other.low;
  }
  // A sum that is not finite makes `low` NaN; `high` alone is then right.
  double value() const { return std::isfinite(high) ? high + low : high; }
};

// The sum of the lanes, a power of two of them. Recursive: GCC 12 takes a loop over widths through memory.
template <int count> LOSSKIT_INLINE double folded(double* lanes) {
  if constexpr (count > 1) {
    for (int j = 0; j < count / 2; ++j) lanes[j] += lanes[j + count / 2];
    return folded<count / 2>(lanes);
  }
  return lanes[0];
}

LOSSKIT_CLONES inline Sum sum_block(const float* x, int64_t n) {
  constexpr int kLanes = 16;
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int j = 0; j < kLanes; ++j) lanes[j] += static_cast<double>(x[i + j]);
  double rest = 0.0;
  for (; i < n; ++i) rest += static_cast<double>(x[i]);
  return {folded<kLanes>(lanes) + rest, 0.0};
}

LOSSKIT_CLONES inline Sum sum_block(const double* x, int64_t n) {
  constexpr int kLanes = 8;
  double high[kLanes] = {}, low[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int j = 0; j < kLanes; ++j) {
      const double sum = high[j] + x[i + j];
      const double seen = sum - high[j];
      low[j] += (high[j] - (sum - seen)) + (x[i + j] - seen);
      high[j] = sum;
    }
  Sum total;
  for (int j = 0; j < kLanes; ++j) {
    total.add(high[j]);
    total.low += low[j];
  }
  for (; i < n; ++i) total.add(x[i]);
  return total;
}

}  // namespace losskit
