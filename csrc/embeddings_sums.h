// Sums over a row of embeddings, or over eight short rows side by side: the usual way, in float and summed in double.
//
// Sums are of vectors of eight, as GCC's own type: it would leave sums of doubles scalar, whose order it must keep.
#pragma once

#include <cstring>

#include "primitives.h"
#include "reduce.h"

#define LOSSKIT_LAMBDA __attribute__((always_inline))

#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed to inlined functions only

namespace losskit {

enum Pair { kAB, kAC, kBC, kPairs };
constexpr int kFirst[kPairs] = {0, 0, 1}, kSecond[kPairs] = {1, 2, 2};

constexpr int kLanes = 8;
constexpr int kAhead = 1024;  // elements to prefetch ahead: the hardware's prefetcher stops at the end of every page
template <class T> struct Pack {
  typedef T type __attribute__((vector_size(kLanes * sizeof(T))));
};
using Lanes = Pack<double>::type;
using LaneBits = Pack<int64_t>::type;

LOSSKIT_INLINE double folded(const Lanes& lanes) {
  typedef double Four __attribute__((vector_size(32)));
  Four low, high;
  std::memcpy(&low, &lanes, sizeof(low));
  std::memcpy(&high, reinterpret_cast<const char*>(&lanes) + sizeof(low), sizeof(high));
  low += high;
  return (low[0] + low[2]) + (low[1] + low[3]);
}

// x where `keep` is all ones, 0 where it is 0.
LOSSKIT_INLINE Lanes kept(const Lanes& x, const LaneBits& keep) { return (Lanes)((LaneBits)x & keep); }

// Calls step(which, eight elements of each row, which of these to keep); the last eight may overlap those before.
// `which` alternates, so that two sums do not wait for each other.
template <int rows, class T, class Step> LOSSKIT_INLINE void over(const T* const* x, int64_t n, Step step) {
  typename Pack<T>::type at[rows];
  const LaneBits all = ~LaneBits{};
  const auto load = [&](int64_t i) LOSSKIT_LAMBDA {
    for (int k = 0; k < rows; ++k) std::memcpy(&at[k], x[k] + i, sizeof(at[k]));
  };
  int64_t i = 0;
#pragma GCC unroll 4  // 1.0 to 1.1 times as fast where six tensors of 4 MB nearly fill a cache of 32 MB
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    for (int k = 0; k < rows; ++k) __builtin_prefetch(x[k] + i + kAhead);
    load(i), step(0, at, all);
    load(i + kLanes), step(1, at, all);
  }
  if (i + kLanes <= n) load(i), step(0, at, all), i += kLanes;
  if (i == n) return;
  static constexpr int64_t kKeep[2 * kLanes] = {0, 0, 0, 0, 0, 0, 0, 0, -1, -1, -1, -1, -1, -1, -1, -1};
  LaneBits keep;
  if (n >= kLanes) {
    std::memcpy(&keep, kKeep + (n - i), sizeof(keep));
    load(n - kLanes);
  } else {
    T row[rows][kLanes] = {};
    for (int k = 0; k < rows; ++k) std::memcpy(row[k] + kLanes - n, x[k], n * sizeof(T));
    for (int k = 0; k < rows; ++k) std::memcpy(&at[k], row[k], sizeof(at[k]));
    std::memcpy(&keep, kKeep + n, sizeof(keep));
  }
  step(1, at, keep);
}

// A loop: of __builtin_convertvector GCC 12 makes two conversions of four and puts them together, 1.5 times the time.
template <class V> LOSSKIT_INLINE Lanes widened(const V& x) {
  Lanes wide;
  for (int j = 0; j < kLanes; ++j) wide[j] = static_cast<double>(x[j]);
  return wide;
}
LOSSKIT_INLINE Lanes magnitudes(const Lanes& x) { return (Lanes)((LaneBits)x & INT64_MAX); }

// The squares (p = 2) or magnitudes (p = 1) of the differences of each pair, in float and summed in double.
template <int pairs, bool squares> struct Differences {
  static constexpr int kSums = pairs, kOf = pairs == 1 ? 2 : 3;
  float eps;
  Lanes sums[2][pairs] = {};
  template <class V> LOSSKIT_INLINE void add(int which, const V* at, const LaneBits& keep) {
    for (int k = 0; k < pairs; ++k) {
      const Lanes d = kept(widened((at[kFirst[k]] - at[kSecond[k]]) + eps), keep);
      sums[which][k] += squares ? d * d : magnitudes(d);
    }
  }
};

// |x|^2, |y|^2 and xy.
struct Products {
  static constexpr int kSums = 3, kOf = 2;
  Lanes sums[2][3] = {};
  template <class V> LOSSKIT_INLINE void add(int which, const V* at, const LaneBits& keep) {
    const Lanes u = kept(widened(at[0]), keep), v = kept(widened(at[1]), keep);
    sums[which][0] += u * u;
    sums[which][1] += v * v;
    sums[which][2] += u * v;
  }
};

// The sums of a row.
template <class Terms>
LOSSKIT_INLINE void sum_row(const float* const* x, int64_t n, const Terms& start, double* const* sums, int64_t row) {
  Terms terms = start;
  over<Terms::kOf>(x, n,
                   [&](int which, const auto* at, const LaneBits& keep) LOSSKIT_LAMBDA { terms.add(which, at, keep); });
  for (int k = 0; k < Terms::kSums; ++k) sums[k][row] = folded(terms.sums[0][k] + terms.sums[1][k]);
}

// Eight short rows at once, each in its lane: x[k][j] is where row j of embedding k starts.
using Eight = const float* [kLanes];
template <int rows> LOSSKIT_INLINE void load_column(const Eight* x, int64_t i, Pack<float>::type* at) {
  for (int k = 0; k < rows; ++k)
    for (int j = 0; j < kLanes; ++j) at[k][j] = x[k][j][i];
}
template <class Terms>
LOSSKIT_INLINE void sum_eight(const Eight* x, int64_t n, const Terms& start, double* const* sums, int64_t row) {
  Terms terms = start;
  Pack<float>::type at[Terms::kOf];
  for (int64_t i = 0; i < n; ++i) {
    load_column<Terms::kOf>(x, i, at);
    terms.add(0, at, ~LaneBits{});
  }
  for (int k = 0; k < Terms::kSums; ++k) std::memcpy(sums[k] + row, &terms.sums[0][k], sizeof(Lanes));
}

}  // namespace losskit
