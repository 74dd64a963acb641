// A smooth sorting of the items of lists: NeuralSort's weights of items at ranks, to which Sinkhorn's steps are
// applied. The loss of a list is 1 less the sum of gains at ranks, discounted, over the same sum in the order of gains;
// and there is its gradient by the scores.
//
// 1. A step divides the columns of the matrix by their sums, then the rows. It changes one factor for each item and one
//    for each rank, so the matrix is only read, in a cache: factors are what a step computes, and keeps for the
//    gradient.
// 2. Both sums are products of a vector with rows of a matrix, the one of the matrix, the other of the turned matrix:
//    that has no sums across the lanes of a vector.
// 3. The gradient goes back through all steps. By the matrix it is the sum of products of two vectors for each half of
//    a step, which is one product of matrices at the end.
// 4. Exponents are computed in double, and exponentials and steps in T: exponents are sums of distances to all items,
//    whose rounding would be the largest error.
// 5. Items that do not count are left out. Rows are padded to whole vectors, whose weights are 0.
// 6. Lists are independent: one after another per thread, the same bits for any number of threads.
#include <torch/csrc/stable/library.h>

#include "gains.h"
#include "transpose.h"
#include "vectors.h"

namespace losskit {
namespace {

template <class T> struct Batch : Lists<T> {
  using Lists<T>::Lists;
  int64_t steps = 0;
};

// The memory of a thread, for a list at a time. Matrices have rows of `width` numbers, and so has each step.
template <class T> struct Scratch {
  Counted<T> list;
  int64_t width, terms;  // terms: of the gradient by the matrix
  std::vector<double> wide, far;
  std::vector<T> sorting, turned;   // weights of items (columns) at ranks, and the other way round
  std::vector<T> by_rank, by_item;  // factors of each step
  std::vector<T> left, right;       // of the gradient: left[rank][term], right[term][item]
  std::vector<T> discounts, of_rank, of_item, change, slope, total, along;

  Scratch(int64_t items, int64_t steps)
      : list(items),
        width(list.padded),
        terms(2 * steps + 1),
        wide(width),
        far(width),
        sorting(items * width),
        turned(items * width),
        by_rank((steps + 1) * width),
        by_item((steps + 1) * width),
        left(items * terms),
        right(terms * width) {
    for (auto* x : {&discounts, &of_rank, &of_item, &change, &slope, &total, &along}) x->resize(width);
    for (int64_t i = 0; i < items; ++i) discounts[i] = static_cast<T>(list.discounts[i]);
  }
};

// The sum of the rows of a matrix, each times a number; of so many vectors of its columns.
template <class T, int vectors>
LOSSKIT_INLINE void sum_of_columns(const T* x, const T* matrix, int64_t rows, int64_t width, T* out) {
  Vector<T> even[vectors] = {}, odd[vectors] = {}, v;
  int64_t i = 0;
  for (; i + 2 <= rows; i += 2, matrix += 2 * width) {
#pragma GCC unroll 4
    for (int k = 0; k < vectors; ++k) {
      load(matrix + k * kWidth<T>, v), even[k] += x[i] * v;
      load(matrix + width + k * kWidth<T>, v), odd[k] += x[i + 1] * v;
    }
  }
#pragma GCC unroll 4
  for (int k = 0; k < vectors; ++k) {
    if (i < rows) load(matrix + k * kWidth<T>, v), even[k] += x[i] * v;
    even[k] += odd[k];
    std::memcpy(out + k * kWidth<T>, &even[k], sizeof v);
  }
}

template <class T> LOSSKIT_CLONES void sum_of_rows(const T* x, const T* matrix, int64_t rows, int64_t width, T* out) {
  int64_t n = 0;
  for (; n + 4 * kWidth<T> <= width; n += 4 * kWidth<T>) sum_of_columns<T, 4>(x, matrix + n, rows, width, out + n);
  for (; n < width; n += kWidth<T>) sum_of_columns<T, 1>(x, matrix + n, rows, width, out + n);
}

template <class T> LOSSKIT_INLINE double sum_of(const T* x, int64_t width) {
  return chunk_sum<T>(width, [x](int64_t k, Vector<T>& v) __attribute__((always_inline)) { load(x + k, v); });
}

// One over sums; 0 beyond the items.
template <class T> LOSSKIT_INLINE void invert(T* x, int64_t items, int64_t width) {
#pragma GCC ivdep
  for (int64_t i = 0; i < items; ++i) x[i] = 1 / x[i];
  std::fill(x + items, x + width, T(0));
}

// The distances of each item to all others, added up.
template <class T> LOSSKIT_CLONES void distances(const T* scores, int64_t items, double* far) {
  std::fill(far, far + items, 0.0);
  for (int64_t i = 0; i < items; ++i) {
    const double own = static_cast<double>(scores[i]);
#pragma GCC ivdep
    for (int64_t j = 0; j < items; ++j) far[j] += absolute(static_cast<double>(scores[j]) - own);
  }
}

// The weights of items at a rank. What is beyond the items weighs 0.
template <class T>
LOSSKIT_CLONES void weigh(const T* scores, const double* far, double middle, double per, int64_t items, int64_t width,
                          double* wide, T* out) {
  constexpr T least = sizeof(T) == 4 ? T(-87) : T(-708);  // what is below is 0, and not a slow number
#pragma GCC ivdep
  for (int64_t j = 0; j < items; ++j) wide[j] = -(middle * static_cast<double>(scores[j]) + far[j]) * per;
  std::fill(wide + items, wide + width, -infinity<double>);
  const double largest = maximum_of(wide, width);
#pragma GCC ivdep
  for (int64_t j = 0; j < width; ++j) {
    const T x = static_cast<T>(wide[j] - largest);
    out[j] = where(x < least, T(0), exp(x));
  }
  const T share = static_cast<T>(1 / sum_of(out, width));
#pragma GCC ivdep
  for (int64_t j = 0; j < width; ++j) out[j] *= share;
}

template <class T> void sort(Scratch<T>& own, double temperature) {
  const int64_t items = own.list.items, width = own.width;
  const T* scores = own.list.scores.data();
  distances(scores, items, own.far.data());
  std::fill(own.turned.begin(), own.turned.end(), T(0));
  for (int64_t i = 0; i < items; ++i)
    weigh(scores, own.far.data(), static_cast<double>(2 * i + 1 - items), 1 / temperature, items, width,
          own.wide.data(), own.sorting.data() + i * width);
  rows_to_tile(own.sorting.data(), width, items, items, own.turned.data(), width);
}

// Sinkhorn's steps; the discounted gain.
template <class T> double balance(Scratch<T>& own, int64_t steps) {
  const int64_t items = own.list.items, width = own.width;
  T *rank = own.by_rank.data(), *item = own.by_item.data();
  for (T* first : {rank, item}) std::fill(first, first + items, T(1)), std::fill(first + items, first + width, T(0));
  for (int64_t t = 0; t < steps; ++t) {
    sum_of_rows(rank, own.sorting.data(), items, width, item + width);
    item += width, invert(item, items, width);
    sum_of_rows(item, own.turned.data(), items, width, rank + width);
    rank += width, invert(rank, items, width);
  }
  T *weights = own.total.data(), *weighed = own.along.data(), *at_rank = own.of_rank.data();
  for (int64_t i = 0; i < width; ++i) weights[i] = own.discounts[i] * rank[i], weighed[i] = item[i] * own.list.gains[i];
  sum_of_rows(weighed, own.turned.data(), items, width, at_rank);
  double found = 0;
  for (int64_t i = 0; i < items; ++i) found += static_cast<double>(weights[i]) * static_cast<double>(at_rank[i]);
  return found;
}

// Back through the steps: the terms of the gradient of the discounted gain by the matrix. `balance` left its numbers.
template <class T> LOSSKIT_CLONES void terms_of(Scratch<T>& own, int64_t steps) {
  const int64_t items = own.list.items, width = own.width;
  T *of_rank = own.of_rank.data(), *of_item = own.of_item.data(), *change = own.change.data();
  T *left = own.left.data(), *right = own.right.data();
  const auto term = [&](const T* of_ranks, const T* of_items) {
    for (int64_t i = 0; i < items; ++i) left[i * own.terms] = of_ranks[i];
    std::copy(of_items, of_items + width, right);
    ++left, right += width;
  };
  term(own.total.data(), own.along.data());
  sum_of_rows(own.total.data(), own.sorting.data(), items, width, of_item);
  for (int64_t i = 0; i < width; ++i) of_item[i] *= own.list.gains[i], of_rank[i] *= own.discounts[i];
  for (int64_t t = steps; t > 0; --t) {
    const T *rank = own.by_rank.data() + t * width, *item = own.by_item.data() + t * width;
    for (int64_t i = 0; i < width; ++i) change[i] = -of_rank[i] * (rank[i] * rank[i]);
    term(change, item);
    sum_of_rows(change, own.sorting.data(), items, width, own.slope.data());
    for (int64_t i = 0; i < width; ++i) change[i] = -(of_item[i] + own.slope[i]) * (item[i] * item[i]), of_item[i] = 0;
    term(rank - width, change);
    sum_of_rows(change, own.turned.data(), items, width, of_rank);
  }
}

// The gradient by the scores, from that by the matrix, whose rows are softmaxes.
template <class T> LOSSKIT_CLONES void to_scores(Scratch<T>& own, double temperature, T* gradient) {
  const int64_t items = own.list.items, width = own.width;
  T *slope = own.slope.data(), *total = own.total.data(), *along = own.along.data();
  std::fill(total, total + width, T(0)), std::fill(along, along + width, T(0));
  for (int64_t i = 0; i < items; ++i) {
    const T *weights = own.sorting.data() + i * width, middle = static_cast<T>(2 * i + 1 - items);
    sum_of_rows(own.left.data() + i * own.terms, own.right.data(), own.terms, width, slope);
    for (int64_t j = 0; j < width; ++j) slope[j] *= weights[j];
    const T sum = static_cast<T>(sum_of(slope, width));
    for (int64_t j = 0; j < width; ++j) {
      const T own_slope = slope[j] - sum * weights[j];
      total[j] += own_slope, along[j] += middle * own_slope;
    }
  }
  const T *scores = own.list.scores.data(), per = static_cast<T>(1 / temperature);
  for (int64_t i = 0; i < items; ++i) {  // the slopes of the sums of distances
    const T score = scores[i], own_total = total[i];
#pragma GCC ivdep
    for (int64_t j = 0; j < items; ++j)
      along[j] += where(scores[j] > score, T(1), where(scores[j] < score, T(-1), T(0))) * (own_total + total[j]);
  }
  for (int64_t j = 0; j < items; ++j) gradient[j] = along[j] * per;
}

template <class T> void run_lists(int64_t begin, int64_t end, void* context) {
  const Batch<T>& batch = *static_cast<const Batch<T>*>(context);
  Scratch<T> own(batch.items, batch.steps);
  for (int64_t n = begin; n < end; ++n) {
    batch.has_loss[n] = own.list.take(batch, n);
    sort(own, batch.temperature);
    batch.loss[n] = static_cast<T>(1 - balance(own, batch.steps));
    if (!batch.gradient) continue;
    terms_of(own, batch.steps);
    to_scores(own, batch.temperature, own.change.data());
    own.list.spread(own.change.data(), batch.items, batch.gradient + n * batch.items);
  }
}

template <class T>
void of_type(const StableTensor& scores, const StableTensor& gains, const StableTensor& counts, double temperature,
             int64_t steps, StableTensor& loss, StableTensor& has_loss, StableTensor& gradient) {
  Batch<T> batch(scores, gains, counts, temperature, loss, has_loss, gradient);
  batch.steps = steps;
  // Eight products of a step take about as long as one element.
  const double cost = double(batch.items) * double(batch.items) * (1 + double(steps) / 2);
  run_parallel(scores.sizes()[0], static_cast<int64_t>(std::max(1.0, double(kGrain) / std::max(1.0, cost))),
               run_lists<T>, &batch);
}

}  // namespace

// Scores and gains (N, K), contiguous, float or double; which items count, bool (N, K), or no elements: all. The losses
// (N,) are filled in, which lists have one, bool (N,), and the gradient (N, K), unless that has no elements.
void soft_sorting(StableTensor scores, StableTensor gains, StableTensor counts, double temperature, int64_t steps,
                  StableTensor loss, StableTensor has_loss, StableTensor gradient) {
  if (scores.element_size() == sizeof(double))
    of_type<double>(scores, gains, counts, temperature, steps, loss, has_loss, gradient);
  else
    of_type<float>(scores, gains, counts, temperature, steps, loss, has_loss, gradient);
}

}  // namespace losskit

STABLE_TORCH_LIBRARY_FRAGMENT(losskit, library) {
  library.def(
      "soft_sorting(Tensor scores, Tensor gains, Tensor counts, float temperature, int steps, Tensor(a!) loss, "
      "Tensor(b!) has_loss, Tensor(c!) gradient) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(losskit, CPU, library) { library.impl("soft_sorting", TORCH_BOX(&losskit::soft_sorting)); }
