// The gains of a ranking list: those of the items that count, one after another, and what the best order makes of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "drive.h"
#include "vectors.h"

namespace losskit {
namespace {

constexpr double kLog2 = 0.693147180559945309417;  // of e

// Lists of one length, in a row.
template <class T> struct Lists {
  const T *scores, *gains;  // (N, items)
  const bool* counts;       // (N, items), or null: all do
  int64_t items;
  double temperature;
  T *loss, *gradient;  // (N,), and (N, items) or null
  bool* has_loss;      // (N,): whether anything has a gain

  Lists(const StableTensor& scores, const StableTensor& gains, const StableTensor& counts, double temperature,
        StableTensor& loss, StableTensor& has_loss, StableTensor& gradient)
      : scores(static_cast<const T*>(scores.data_ptr())),
        gains(static_cast<const T*>(gains.data_ptr())),
        counts(counts.numel() ? static_cast<const bool*>(counts.data_ptr()) : nullptr),
        items(scores.sizes()[1]),
        temperature(temperature),
        loss(static_cast<T*>(loss.data_ptr())),
        gradient(gradient.numel() ? static_cast<T*>(gradient.data_ptr()) : nullptr),
        has_loss(static_cast<bool*>(has_loss.data_ptr())) {}
};

// Where each number of a row of at most kCounted comes in descending order, equal ones as they are. Comparing all with
// all takes a fifth of the time of sorting 64 numbers. The row is padded to whole lanes.
constexpr int64_t kCounted = 512;
template <class T> LOSSKIT_CLONES void places_of(const T* x, int64_t n, int64_t padded, Index<T>* places) {
  std::fill(places, places + padded, Index<T>(0));
  for (Index<T> i = 0; i < static_cast<Index<T>>(n); ++i) {
    const T own = x[i];
#pragma GCC ivdep
    for (Index<T> j = 0; j < static_cast<Index<T>>(padded); ++j) places[j] += (x[j] < own) | ((x[j] == own) & (j > i));
  }
}

// The items of a list that count.
template <class T> struct Counted {
  int64_t items = 0;
  int64_t padded;  // to whole lanes, by zeros
  std::vector<T> scores, gains;
  std::vector<double> discounts;
  std::vector<Index<T>> order;
  std::vector<int64_t> places;

  explicit Counted(int64_t most)
      : padded((most + kLanes - 1) / kLanes * kLanes),
        scores(padded),
        gains(padded),
        discounts(most),
        order(padded),
        places(most) {
    for (int64_t i = 0; i < most; ++i) discounts[i] = kLog2 / std::log(2.0 + static_cast<double>(i));
  }

  // Take those of list n; its gains are divided by what they are in the best order. Whether that is anything.
  bool take(const Lists<T>& batch, int64_t n) {
    const int64_t at = n * batch.items;
    items = 0;
    for (int64_t i = 0; i < batch.items; ++i) {
      if (batch.counts && !batch.counts[at + i]) continue;
      scores[items] = batch.scores[at + i], gains[items] = batch.gains[at + i];
      places[items++] = i;
    }
    std::fill(scores.begin() + items, scores.end(), T(0)), std::fill(gains.begin() + items, gains.end(), T(0));
    const double best = best_order();
    if (best > 0)
      for (int64_t i = 0; i < items; ++i) gains[i] = static_cast<T>(static_cast<double>(gains[i]) / best);
    return best > 0;
  }

  double best_order() {
    double best = 0;
    if (items <= kCounted) {
      places_of(gains.data(), items, padded, order.data());
      for (int64_t i = 0; i < items; ++i) best += static_cast<double>(gains[i]) * discounts[order[i]];
    } else {
      std::vector<T> sorted(gains.begin(), gains.begin() + items);
      // A gain is NaN under checks='off' alone, and is in no order.
      if (std::none_of(sorted.begin(), sorted.end(), [](T x) { return x != x; }))
        std::sort(sorted.begin(), sorted.end(), std::greater<T>());
      for (int64_t i = 0; i < items; ++i) best += static_cast<double>(sorted[i]) * discounts[i];
    }
    return best;
  }

  // Numbers of the items that count to their places in a list, 0 for the others.
  void spread(const T* numbers, int64_t all, T* out) const {
    if (items < all) std::fill(out, out + all, T(0));
    for (int64_t i = 0; i < items; ++i) out[places[i]] = numbers[i];
  }
};

}  // namespace
}  // namespace losskit
