// What the files of the lists family share: a call, and passes over pairs in L1 (lists.cpp explains them).
#pragma once

#include <memory>

#include "drive.h"

namespace losskit {
namespace {

using enum wire::lists::Violation;
using wire::lists::Statistic;

struct Job : Call {
  static constexpr size_t kFirstParameter = wire::lists::kFirstParameter;
  int64_t rows = 1, items = 0, most = 0;                   // most: the largest rank whose items make pairs
  int64_t batch = 1;                                       // rows at a time
  bool averaged = false, weighed = false, ranked = false;  // what lists need: gains, ranks
  const char *scores = nullptr, *relevance = nullptr, *there = nullptr;
  DType score_dtype = DType::kFloat, relevance_dtype = DType::kFloat;
  int64_t score_steps[2] = {}, relevance_steps[2] = {}, there_steps[2] = {}, gradient_steps[2] = {};  // by row, by item
  std::vector<float> counts;             // of each row: whether it has a pair, or something wrong
  std::vector<double> discounts, steps;  // by rank; by the distance of two ranks

  bool read(const Inputs& in);
  void outputs(const Inputs& in, Result& result);
  double counted() const;
  Work divide();

  Statistic statistic(int operand) const { return wire::lists::statistics(options.family, operand); }
};

// Some rows of a tensor, one after another.
template <class T>
void read_rows(DType dtype, const char* data, const int64_t steps[2], int64_t begin, int64_t rows, int64_t items,
               T* out) {
  const char* from = data + begin * steps[0] * size_of(dtype);
  if (steps[0] == items * steps[1]) return read_run(dtype, from, steps[1], rows * items, out);
  for (int64_t r = 0; r < rows; ++r)
    read_run(dtype, from + r * steps[0] * size_of(dtype), steps[1], items, out + r * items);
}

// A run of pairs: item `first` of the batch with the items from `other` on, all of one list.
struct Segment {
  int64_t list, first, other, n;
};

// How many keys come before each: the larger ones, and of equal ones those that stand before it.
LOSSKIT_CLONES void count_before(const double* keys, int64_t n, int32_t* before) {
  for (int64_t i = 0; i < n; ++i) {
    const double own = keys[i];
    int32_t count = 0;
    for (int64_t j = 0; j < i; ++j) count += keys[j] >= own;
    for (int64_t j = i + 1; j < n; ++j) count += keys[j] > own;
    before[i] = count;
  }
}

// Runs of pairs are short, so what is left of a run after whole vectors would cost most. All arrays have kLanes numbers
// more than they need: a run is read and written to the end of its last vector, where the next run follows.
constexpr int kLanes = 16;

// --------------------------------------------------------------------------------------------------------
// What the formula speaks of, for the pairs of all segments one after another. C is the type of the arithmetic.

template <class C> LOSSKIT_INLINE void subtract_any(const C* x, const Segment* segments, int64_t count, C* out) {
  for (int64_t k = 0; k < count; ++k) {
    const Segment& at = segments[k];
    const C own = x[at.first];
    const C* other = x + at.other;
    for (int64_t i = 0; i < at.n; i += kLanes)
#pragma GCC ivdep
      for (int j = 0; j < kLanes; ++j) out[i + j] = own - other[i + j];
    out += at.n;
  }
}
LOSSKIT_CLONES void subtract(const float* x, const Segment* segments, int64_t count, float* out) {
  subtract_any(x, segments, count, out);
}
LOSSKIT_CLONES void subtract(const double* x, const Segment* segments, int64_t count, double* out) {
  subtract_any(x, segments, count, out);
}

// Differences are taken in double: what is left of two discounts far down a list is a few digits of a float.
template <class C> LOSSKIT_INLINE void apart_any(const double* x, const Segment* segments, int64_t count, C* out) {
  for (int64_t k = 0; k < count; ++k) {
    const Segment& at = segments[k];
    const double own = x[at.first];
    const double* other = x + at.other;
    for (int64_t i = 0; i < at.n; i += kLanes)
#pragma GCC ivdep
      for (int j = 0; j < kLanes; ++j) out[i + j] = static_cast<C>(std::fabs(own - other[i + j]));
    out += at.n;
  }
}
LOSSKIT_CLONES void apart(const double* x, const Segment* segments, int64_t count, float* out) {
  apart_any(x, segments, count, out);
}
LOSSKIT_CLONES void apart(const double* x, const Segment* segments, int64_t count, double* out) {
  apart_any(x, segments, count, out);
}

template <class C>
LOSSKIT_INLINE void look_up_any(const double* table, const int32_t* ranks, const Segment* segments, int64_t count,
                                C* out) {
  for (int64_t k = 0; k < count; ++k) {
    const Segment& at = segments[k];
    const int32_t own = ranks[at.first];
    const int32_t* other = ranks + at.other;
#pragma GCC ivdep
    for (int64_t i = 0; i < at.n; ++i) {
      const int32_t distance = own - other[i];
      out[i] = static_cast<C>(table[distance < 0 ? -distance : distance]);
    }
    out += at.n;
  }
}
LOSSKIT_CLONES void look_up(const double* table, const int32_t* ranks, const Segment* segments, int64_t count,
                            float* out) {
  look_up_any(table, ranks, segments, count, out);
}
LOSSKIT_CLONES void look_up(const double* table, const int32_t* ranks, const Segment* segments, int64_t count,
                            double* out) {
  look_up_any(table, ranks, segments, count, out);
}

template <class C> void copy_ranks(const int32_t* ranks, bool own, const Segment* segments, int64_t count, C* out) {
  for (int64_t k = 0; k < count; ++k) {
    const Segment& at = segments[k];
    for (int64_t i = 0; i < at.n; ++i) out[i] = static_cast<C>(ranks[own ? at.first : at.other + i]);
    out += at.n;
  }
}

// --------------------------------------------------------------------------------------------------------
// What becomes of values and slopes.

template <class C> LOSSKIT_INLINE double sum_any(const C* x, int64_t n) {
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int j = 0; j < kLanes; ++j) lanes[j] += static_cast<double>(x[i + j]);
  const auto rest = static_cast<int>(n - i);
  for (int j = 0; j < kLanes; ++j) lanes[j] += j < rest ? static_cast<double>(x[i + j]) : 0.0;
  return folded<kLanes>(lanes);
}

// Segments of one list stand together, and so do their values.
template <class C>
LOSSKIT_INLINE void add_values_any(const C* values, const Segment* segments, int64_t count, Sum* losses) {
  for (int64_t k = 0; k < count;) {
    const int64_t list = segments[k].list;
    int64_t n = 0;
    for (; k < count && segments[k].list == list; ++k) n += segments[k].n;
    losses[list].add(sum_any(values, n));
    values += n;
  }
}
LOSSKIT_CLONES void add_values(const float* values, const Segment* segments, int64_t count, Sum* losses) {
  add_values_any(values, segments, count, losses);
}
LOSSKIT_CLONES void add_values(const double* values, const Segment* segments, int64_t count, Sum* losses) {
  add_values_any(values, segments, count, losses);
}

// The slope of a pair is the gradient of its first item, and with the other sign that of the second.
template <class C>
LOSSKIT_INLINE void add_slopes_any(const C* slopes, const Segment* segments, int64_t count, double* totals) {
  for (int64_t k = 0; k < count; ++k) {
    const Segment& at = segments[k];
    double* other = totals + at.other;
    double lanes[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= at.n; i += kLanes) {
#pragma GCC ivdep
      for (int j = 0; j < kLanes; ++j) {
        const double slope = static_cast<double>(slopes[i + j]);
        lanes[j] += slope;
        other[i + j] -= slope;
      }
    }
    const auto rest = static_cast<int>(at.n - i);
#pragma GCC ivdep
    for (int j = 0; j < kLanes; ++j) {
      const double slope = j < rest ? static_cast<double>(slopes[i + j]) : 0.0;
      lanes[j] += slope;
      other[i + j] -= slope;
    }
    totals[at.first] += folded<kLanes>(lanes);
    slopes += at.n;
  }
}
LOSSKIT_CLONES void add_slopes(const float* slopes, const Segment* segments, int64_t count, double* totals) {
  add_slopes_any(slopes, segments, count, totals);
}
LOSSKIT_CLONES void add_slopes(const double* slopes, const Segment* segments, int64_t count, double* totals) {
  add_slopes_any(slopes, segments, count, totals);
}

}  // namespace
}  // namespace losskit
