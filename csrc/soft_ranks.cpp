// Soft ranks of the items of lists: 1 and the sigmoids of all differences to an item's score, over a temperature. The
// loss of a list is 1 less the sum of gains, each over the logarithm to the base 2 of 1 + rank, divided by the same sum
// in the order of gains; and there is its gradient by the scores.
//
// 1. Two passes are made over the pairs of a list: the first adds up ranks, the second what items pull on each other. A
//    pair is looked at once, for both of its items: the sigmoid of the one is 1 less that of the other, and both come
//    from one exponential, each with all its digits.
// 2. Slopes of the sigmoids are kept from the first pass, for the second, where a list's square fits into the cache;
//    longer lists compute the exponential again, which costs less than memory.
// 3. What all rows of a block add to the items after it is added up in T, and blocks in double.
// 4. The gradient is a sum of differences, (a[j] - a[i]) slope[i][j], so that a list with equal pulls has none.
// 5. Items that do not count are left out. Rows are padded to whole lanes, which weigh 0.
// 6. Lists are independent: one after another per thread, the same bits for any number of threads.
#include <torch/csrc/stable/library.h>

#include "gains.h"
#include "vectors.h"

namespace losskit {
namespace {

constexpr int64_t kKept = 256;  // items of lists whose slopes are kept: 256 KB of float

// The memory of a thread, for a list at a time.
template <class T> struct Scratch {
  Counted<T> list;
  int64_t padded;
  std::vector<T> weights, pulls, slopes, given, after;  // after: what a block of rows adds to the items behind it
  std::vector<double> ranks, falls, sums;
  std::vector<T> gradient;

  explicit Scratch(int64_t items)
      : list(items),
        padded(list.padded),
        weights(padded),
        pulls(padded),
        slopes(items <= kKept ? items * padded : 0),
        given(padded),
        after(padded),
        ranks(padded),
        falls(padded),
        sums(padded),
        gradient(padded) {}
};

// exp(-|x|), and 0 where that is so small that it is slow.
template <class T> LOSSKIT_INLINE T odds_of(T x) {
  constexpr T end = sizeof(T) == 4 ? T(87) : T(708);
  return where(absolute(x) > end, T(0), exp_nabs(x));
}

// The pairs of a list, each once: of(i, from, mine, theirs) fills in what items from `from` on give to item i, and adds
// what i gives to them. `sums` gets both. Pairs within a block of rows come twice, so there one of both is enough: that
// which needs no sum across a vector.
template <class T, class F> LOSSKIT_INLINE void over_pairs(Scratch<T>& own, const F& of) {
  const int64_t items = own.list.items, padded = own.padded;
  T *mine = own.given.data(), *theirs = own.after.data();
  for (int64_t from = 0; from < items; from += kLanes) {
    const int64_t next = from + kLanes;
    std::fill(theirs + from, theirs + padded, T(0));
    for (int64_t i = from; i < std::min(next, items); ++i) {
      of(i, from, mine, theirs);
      if (next < padded)
        own.sums[i] += chunk_sum<T>(
            padded - next, [=](int64_t k, Vector<T>& v) __attribute__((always_inline)) { load(mine + next + k, v); });
    }
    for (int64_t j = from; j < padded; ++j) own.sums[j] += static_cast<double>(theirs[j]);
  }
}

// For each item the sum of how far all items are before it, of which it itself is half.
template <class T, bool keep> LOSSKIT_CLONES void rank(Scratch<T>& own, T per) {
  const T *scores = own.list.scores.data(), *weights = own.weights.data();
  T* slopes = own.slopes.data();
  const int64_t padded = own.padded;
  over_pairs(own, [=](int64_t i, int64_t from, T* mine, T* theirs) __attribute__((always_inline)) {
    const T score = scores[i];
    T* to = slopes + (keep ? i * padded : 0);
#pragma GCC ivdep
    for (int64_t j = from; j < padded; ++j) {
      const T d = (score - scores[j]) * per, e = odds_of(d), share = 1 / (1 + e), rest = e * share;
      mine[j] = weights[j] * where(d > 0, rest, share);
      theirs[j] += where(d > 0, share, rest);
      if constexpr (keep) to[j] = weights[j] * (rest * share);
    }
  });
}

// For each item the sum of what it is pulled by others, (their pull less its own) times the slope of the sigmoid.
template <class T, bool kept> LOSSKIT_CLONES void pull(Scratch<T>& own, T per) {
  const T *scores = own.list.scores.data(), *weights = own.weights.data(), *pulls = own.pulls.data(),
          *slopes = own.slopes.data();
  const int64_t padded = own.padded;
  over_pairs(own, [=](int64_t i, int64_t from, T* mine, T* theirs) __attribute__((always_inline)) {
    const T score = scores[i], own_pull = pulls[i];
    const T* known = slopes + (kept ? i * padded : 0);
#pragma GCC ivdep
    for (int64_t j = from; j < padded; ++j) {
      T slope;
      if constexpr (kept) {
        slope = known[j];
      } else {
        const T e = odds_of((score - scores[j]) * per), share = 1 / (1 + e);
        slope = weights[j] * ((e * share) * share);
      }
      const T pulled = (pulls[j] - own_pull) * slope;
      mine[j] = pulled, theirs[j] -= pulled;
    }
  });
}

// The discounts of items by their ranks, and the slopes of these discounts.
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
  const T per = static_cast<T>(1 / batch.temperature);
  Scratch<T> own(batch.items);
  const bool kept = !own.slopes.empty() && batch.gradient;
  for (int64_t n = begin; n < end; ++n) {
    batch.has_loss[n] = own.list.take(batch, n);
    const int64_t items = own.list.items;
    for (int64_t i = 0; i < own.padded; ++i) own.weights[i] = i < items ? T(1) : T(0);
    std::fill(own.sums.begin(), own.sums.end(), 0.0);
    kept ? rank<T, true>(own, per) : rank<T, false>(own, per);
    for (int64_t i = 0; i < own.padded; ++i) own.ranks[i] = 0.5 + own.sums[i];
    discount(own.ranks.data(), own.padded, own.falls.data());
    double found = 0;
    for (int64_t i = 0; i < items; ++i) {
      const double gain = static_cast<double>(own.list.gains[i]);
      found += gain * own.ranks[i];
      own.pulls[i] = static_cast<T>(gain * own.falls[i] / batch.temperature);
    }
    batch.loss[n] = static_cast<T>(1 - found);
    if (!batch.gradient) continue;
    std::fill(own.sums.begin(), own.sums.end(), 0.0);
    kept ? pull<T, true>(own, per) : pull<T, false>(own, per);
    for (int64_t i = 0; i < items; ++i) own.gradient[i] = static_cast<T>(own.sums[i]);
    own.list.spread(own.gradient.data(), batch.items, batch.gradient + n * batch.items);
  }
}

template <class T>
void of_type(const StableTensor& scores, const StableTensor& gains, const StableTensor& counts, double temperature,
             StableTensor& loss, StableTensor& has_loss, StableTensor& gradient) {
  Lists<T> batch(scores, gains, counts, temperature, loss, has_loss, gradient);
  // A pair takes about as long as one element.
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, batch.items * batch.items));
  run_parallel(scores.sizes()[0], grain, run_lists<T>, &batch);
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
