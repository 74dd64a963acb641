// Soft ranks of the items of lists: 1 and the sigmoids of all differences to an item's score, over a temperature. The
// loss of a list is 1 less the sum of gains, each over the logarithm to the base 2 of 1 + rank, divided by the same sum
// in the order of gains; and there is its gradient by the scores.
//
// 1. Two passes are made over the pairs of a list, row by row: the first adds up ranks, the second what items pull on
//    each other. Both compute the exponential of a difference, which costs less than memory for the square of a list.
// 2. The gradient is a sum of differences, (a[j] - a[i]) slope[i][j], so that a list with equal pulls has none.
// 3. Rows are padded to whole lanes. An item that does not count weighs 0, and its gain is 0.
// 4. Lists are independent: one after another per thread, the same bits for any number of threads.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "drive.h"
#include "primitives.h"

namespace losskit {
namespace {

constexpr int64_t kWide = 16;                      // accumulators of a row
constexpr double kLog2 = 0.693147180559945309417;  // of e

template <class T> struct Lists {
  const T *scores, *gains;  // (N, items)
  const bool* counts;       // (N, items), or null: all do
  int64_t items;
  double temperature;
  T *loss, *gradient;  // (N,), and (N, items) or null
  bool* has_loss;      // (N,): whether anything has a gain
};

// The memory of a thread, for a list at a time; whole lanes, of which those beyond the items stay 0.
template <class T> struct Scratch {
  std::vector<T> numbers;
  std::vector<double> wide;
  T *scores, *weights, *pulls;
  double *ranks, *gains, *sorted, *discounts, *slopes;
  explicit Scratch(int64_t items) {
    const int64_t n = (items + kWide - 1) / kWide * kWide;
    numbers.assign(3 * n, T(0)), wide.assign(5 * n, 0.0);
    scores = numbers.data(), weights = scores + n, pulls = weights + n;
    ranks = wide.data(), gains = ranks + n, sorted = gains + n, discounts = sorted + n, slopes = discounts + n;
    for (int64_t i = 0; i < items; ++i) discounts[i] = kLog2 / std::log(2.0 + static_cast<double>(i));
  }
};

// exp(-|x|), and 0 where that is so small that it is slow.
template <class T> LOSSKIT_INLINE T odds_of(T x) {
  constexpr T end = sizeof(T) == 4 ? T(87) : T(708);
  return where(absolute(x) > end, T(0), exp_nabs(x));
}

template <class T> LOSSKIT_INLINE double sum_wide(const T* x) {
  double sum = 0;
  for (int64_t k = 0; k < kWide; ++k) sum += static_cast<double>(x[k]);
  return sum;
}

// For each item half and the sum of how far all items are before it.
template <class T> LOSSKIT_CLONES void rank(const T* scores, const T* weights, int64_t items, T per, double* ranks) {
  for (int64_t i = 0; i < items; ++i) {
    T lanes[kWide] = {};
    const T own = scores[i];
    for (int64_t from = 0; from < items; from += kWide) {
#pragma GCC ivdep
      for (int64_t k = 0; k < kWide; ++k) {
        const T d = (own - scores[from + k]) * per, e = odds_of(d);
        lanes[k] += weights[from + k] * (where(d > 0, e, T(1)) / (1 + e));
      }
    }
    ranks[i] = 0.5 + sum_wide(lanes);
  }
}

// For each item the sum of what it is pulled by others, (their pull less its own) times the slope of the sigmoid.
template <class T>
LOSSKIT_CLONES void pull(const T* scores, const T* weights, const T* pulls, int64_t items, T per, T* gradient) {
  for (int64_t i = 0; i < items; ++i) {
    T lanes[kWide] = {};
    const T own = scores[i], own_pull = pulls[i];
    for (int64_t from = 0; from < items; from += kWide) {
#pragma GCC ivdep
      for (int64_t k = 0; k < kWide; ++k) {
        const T e = odds_of((own - scores[from + k]) * per), share = 1 / (1 + e);
        lanes[k] += weights[from + k] * ((pulls[from + k] - own_pull) * ((e * share) * share));
      }
    }
    gradient[i] = weights[i] * static_cast<T>(sum_wide(lanes));
  }
}

// The discounts of items by their ranks, which come; and the slopes of these discounts.
LOSSKIT_CLONES void discount(double* ranks, int64_t items, double* slopes) {
#pragma GCC ivdep
  for (int64_t i = 0; i < items; ++i) {
    const double after = 1 + ranks[i], base = log(after);
    ranks[i] = kLog2 / base;
    slopes[i] = kLog2 / (base * base * after);
  }
}

template <class T> void run_lists(int64_t begin, int64_t end, void* context) {
  const Lists<T>& batch = *static_cast<const Lists<T>*>(context);
  const int64_t items = batch.items;
  const T per = static_cast<T>(1 / batch.temperature);
  Scratch<T> own(items);
  for (int64_t n = begin; n < end; ++n) {
    const int64_t at = n * items;
    bool odd = false;
    for (int64_t i = 0; i < items; ++i) {
      const bool counts = !batch.counts || batch.counts[at + i];
      own.scores[i] = batch.scores[at + i];
      own.weights[i] = counts ? T(1) : T(0);
      own.gains[i] = own.sorted[i] = counts ? static_cast<double>(batch.gains[at + i]) : 0;
      odd |= own.gains[i] != own.gains[i];
    }
    if (!odd) std::sort(own.sorted, own.sorted + items, std::greater<double>());  // NaN is in no order
    double best = 0, found = 0;
    for (int64_t i = 0; i < items; ++i) best += own.sorted[i] * own.discounts[i];
    batch.has_loss[n] = best > 0;
    rank(own.scores, own.weights, items, per, own.ranks);
    discount(own.ranks, items, own.slopes);
    const double share = best > 0 ? 1 / best : 1;
    for (int64_t i = 0; i < items; ++i) {
      found += own.gains[i] * share * own.ranks[i];
      own.pulls[i] = static_cast<T>(own.gains[i] * share * own.slopes[i] / batch.temperature);
    }
    batch.loss[n] = static_cast<T>(1 - found);
    if (batch.gradient) pull(own.scores, own.weights, own.pulls, items, per, batch.gradient + at);
  }
}

template <class T>
void of_type(const StableTensor& scores, const StableTensor& gains, const StableTensor& counts, double temperature,
             StableTensor& loss, StableTensor& has_loss, StableTensor& gradient) {
  const int64_t lists = scores.sizes()[0], items = scores.sizes()[1];
  Lists<T> batch{static_cast<const T*>(scores.data_ptr()),
                 static_cast<const T*>(gains.data_ptr()),
                 counts.numel() ? static_cast<const bool*>(counts.data_ptr()) : nullptr,
                 items,
                 temperature,
                 static_cast<T*>(loss.data_ptr()),
                 gradient.numel() ? static_cast<T*>(gradient.data_ptr()) : nullptr,
                 static_cast<bool*>(has_loss.data_ptr())};
  // A pair takes about as long as four elements.
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, 4 * items * items));
  run_parallel(lists, grain, run_lists<T>, &batch);
}

}  // namespace

// Scores and gains (N, K), contiguous, float or double; which items count, bool (N, K), or no elements: all. The losses
// (N,) are filled in, which lists have one, bool (N,), and the gradient (N, K), unless that has no elements.
void soft_ranks(StableTensor scores, StableTensor gains, StableTensor counts, double temperature, StableTensor loss,
                StableTensor has_loss, StableTensor gradient) {
  if (scores.element_size() == sizeof(double))
    of_type<double>(scores, gains, counts, temperature, loss, has_loss, gradient);
  else
    of_type<float>(scores, gains, counts, temperature, loss, has_loss, gradient);
}

}  // namespace losskit

STABLE_TORCH_LIBRARY_FRAGMENT(losskit, library) {
  library.def(
      "soft_ranks(Tensor scores, Tensor gains, Tensor counts, float temperature, Tensor(a!) loss, Tensor(b!) has_loss, "
      "Tensor(c!) gradient) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(losskit, CPU, library) { library.impl("soft_ranks", TORCH_BOX(&losskit::soft_ranks)); }
