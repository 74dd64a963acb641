// Features of samples as matrices (N, D), of which columns are standardised: their moments, products of columns, and
// the way back from derivatives by products to derivatives by features (views.cpp says what is made of these).
//
// 1. A view is x, the mean of each column, and what its distance to the mean is multiplied by. Standardised features
// are
//    formed for a block of rows, in a cache, whenever they are needed: no matrix of them is written to memory.
// 2. Moments are added up in double, of blocks of rows about the blocks' own means (Chan's formula). So they have all
//    digits of T, and are finite for all numbers whose squares are no numbers of T.
// 3. A mean has two parts, since features far from 0 have no digits for one: x less the first, less the second.
// 4. Products are those of products.h: of a block in T, added to other blocks in double.
// 5. Blocks, and groups of them that one thread adds up, depend on the shape alone: the same bits for any number of
//    threads.
#pragma once

#include <algorithm>
#include <vector>

#include "drive.h"
#include "products.h"

namespace losskit {
namespace {

constexpr int64_t kRows = 240;      // of a block: a multiple of kTileRows
constexpr int64_t kMoments = 64;    // rows between additions in double
constexpr int64_t kGroups = 16;     // of blocks, at most
constexpr int64_t kSums = 1 << 22;  // numbers that groups may have together

// Two matrices (batch, rows, columns), and what is known of their columns (2, batch, columns).
template <class T> struct Views {
  const T* x[2];
  int64_t batch, rows, columns;
  std::vector<double> means, squares, factors;  // squares: of distances to the mean, added up
  Views(const StableTensor& a, const StableTensor& b)
      : x{static_cast<const T*>(a.data_ptr()), static_cast<const T*>(b.data_ptr())},
        batch(a.sizes()[0]),
        rows(a.sizes()[1]),
        columns(a.sizes()[2]),
        means(2 * batch * columns),
        squares(means.size()),
        factors(means.size(), 1.0) {}
  const T* matrix(int view, int64_t n) const { return x[view] + n * rows * columns; }
  int64_t at(int view, int64_t n) const { return (view * batch + n) * columns; }
};

// The columns of one matrix, standardised.
template <class T> struct View {
  const T* x;
  std::vector<T> mean, rest, factor;  // rest: of the mean
  View(const Views<T>& views, int view, int64_t n)
      : x(views.matrix(view, n)), mean(views.columns), rest(views.columns), factor(views.columns) {
    const int64_t at = views.at(view, n);
    for (int64_t i = 0; i < views.columns; ++i) {
      mean[i] = static_cast<T>(views.means[at + i]);
      rest[i] = static_cast<T>(views.means[at + i] - static_cast<double>(mean[i]));
      factor[i] = static_cast<T>(views.factors[at + i]);
    }
  }
};

// Rows of a view, `step` numbers apart.
template <class T>
LOSSKIT_CLONES void standardise(const View<T>& view, int64_t row, int64_t rows, int64_t columns, T* out, int64_t step) {
  const T *mean = view.mean.data(), *rest = view.rest.data(), *factor = view.factor.data();
  for (int64_t r = 0; r < rows; ++r) {
    const T* x = view.x + (row + r) * columns;
    T* to = out + r * step;
#pragma GCC ivdep
    for (int64_t i = 0; i < columns; ++i) to[i] = ((x[i] - mean[i]) - rest[i]) * factor[i];
  }
}

// --------------------------------------------------------------------------------------------------------
// Moments

// Sums of the columns of some rows less a number for each column, or of the squares of that.
template <class T, bool squared>
LOSSKIT_CLONES void sum_columns(const T* x, const double* less, int64_t rows, int64_t columns, double* sums) {
  for (int64_t r = 0; r < rows; ++r, x += columns) {
#pragma GCC ivdep
    for (int64_t i = 0; i < columns; ++i) {
      const double d = static_cast<double>(x[i]) - less[i];
      sums[i] += squared ? d * d : d;
    }
  }
}

template <class T> void run_moments(int64_t begin, int64_t end, void* context) {
  Views<T>& views = *static_cast<Views<T>*>(context);
  const int64_t d = views.columns;
  std::vector<double> zero(d), sums(d), added(d);
  for (int64_t k = begin; k < end; ++k) {
    const T* x = views.matrix(static_cast<int>(k / views.batch), k % views.batch);
    double *means = views.means.data() + k * d, *squares = views.squares.data() + k * d;
    for (int64_t row = 0; row < views.rows; row += kMoments) {
      const int64_t rows = std::min(kMoments, views.rows - row);
      std::fill(sums.begin(), sums.end(), 0.0), std::fill(added.begin(), added.end(), 0.0);
      sum_columns<T, false>(x + row * d, zero.data(), rows, d, sums.data());
      for (int64_t i = 0; i < d; ++i) sums[i] /= static_cast<double>(rows);
      sum_columns<T, true>(x + row * d, sums.data(), rows, d, added.data());
      const double share = static_cast<double>(rows) / static_cast<double>(row + rows);
      for (int64_t i = 0; i < d; ++i) {
        const double apart = sums[i] - means[i];
        means[i] += apart * share;
        squares[i] += added[i] + apart * apart * (static_cast<double>(row) * share);
      }
    }
  }
}

template <class T> void find_moments(Views<T>& views) {
  run_parallel(2 * views.batch, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, views.rows * views.columns)),
               run_moments<T>, &views);
}

// --------------------------------------------------------------------------------------------------------
// Products of columns

LOSSKIT_CLONES void add_to(const float* x, int64_t n, double* sums) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) sums[i] += static_cast<double>(x[i]);
}
LOSSKIT_CLONES void add_to(const double* x, int64_t n, double* sums) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) sums[i] += x[i];
}

// The squares of differences of columns, added up.
template <class T>
LOSSKIT_CLONES void add_apart(const T* a, int64_t step, const T* b, int64_t rows, int64_t columns, T* spare,
                              double* sums) {
  std::fill(spare, spare + columns, T(0));
  for (int64_t r = 0; r < rows; ++r) {
    const T *x = a + r * step, *y = b + r * columns;
#pragma GCC ivdep
    for (int64_t i = 0; i < columns; ++i) spare[i] += (x[i] - y[i]) * (x[i] - y[i]);
  }
  add_to(spare, columns, sums);
}

// The products of the columns of views i and j, and the squares of the differences of columns: of standardised ones if
// these are two views, else of the columns of both views as they are.
template <class T> struct Columns {
  const Views<T>& views;
  const int i, j;
  int64_t groups, blocks;               // blocks: of a group
  std::vector<double> products, apart;  // (batch, groups, columns, columns), (batch, groups, columns)

  Columns(const Views<T>& views, int i, int j) : views(views), i(i), j(j) {
    const int64_t d = views.columns, all = (views.rows + kRows - 1) / kRows;
    groups = std::clamp<int64_t>(std::min(all / 4, kSums / std::max<int64_t>(1, views.batch * d * d)), 1, kGroups);
    blocks = (all + groups - 1) / groups;
    products.resize(views.batch * groups * d * d), apart.resize(views.batch * groups * d);
    const int64_t cost = 1 + blocks * std::min(kRows, views.rows) * d * (2 + d / 32);
    run_parallel(views.batch * groups, std::max<int64_t>(1, kGrain / cost), run, this);
    for (int64_t n = 0; n < views.batch; ++n)
      for (int64_t g = 1; g < groups; ++g) {
        add_to(of(n) + g * d * d, d * d, of(n));
        add_to(apart_of(n) + g * d, d, apart_of(n));
      }
  }
  double* of(int64_t n) { return products.data() + n * groups * views.columns * views.columns; }
  double* apart_of(int64_t n) { return apart.data() + n * groups * views.columns; }

  static void run(int64_t begin, int64_t end, void* context) { static_cast<Columns*>(context)->run(begin, end); }
  void run(int64_t begin, int64_t end) {
    const int64_t d = views.columns, step = up_to(d, kTileRows), strips = strips_for<T>(d), width = strips * kStrip<T>;
    const int64_t most = std::min(kRows, views.rows);
    std::vector<T> left(most * step), right(most * d), stripped(most * width), out(step * width), spare(d);
    for (int64_t k = begin; k < end; ++k) {
      const View<T> a(views, i, k / groups), b(views, j, k / groups);
      const int64_t first = k % groups * blocks * kRows, last = std::min(views.rows, first + blocks * kRows);
      double *sums = products.data() + k * d * d, *squares = apart.data() + k * d;
      for (int64_t row = first; row < last; row += kRows) {
        const int64_t rows = std::min(kRows, last - row);
        standardise(a, row, rows, d, left.data(), step);
        standardise(b, row, rows, d, right.data(), d);
        if (i != j)
          add_apart(left.data(), step, right.data(), rows, d, spare.data(), squares);
        else
          add_apart(views.matrix(0, k / groups) + row * d, d, views.matrix(1, k / groups) + row * d, rows, d,
                    spare.data(), squares);
        strips_of(right.data(), rows, d, stripped.data());
        multiply(Product<T>{false, left.data(), step, step, rows, stripped.data(), rows * kStrip<T>, strips, out.data(),
                            width});
        for (int64_t c = 0; c < d; ++c) add_to(out.data() + c * width, d, sums + c * d);
      }
    }
  }
};

// --------------------------------------------------------------------------------------------------------
// Back to features

template <class T>
LOSSKIT_CLONES void finish_rows(const T* sums, int64_t width, const View<T>& view, const T* along, const T* from,
                                const T* less, T apart, int64_t row, int64_t rows, int64_t columns, T* out) {
  const T *mean = view.mean.data(), *rest = view.rest.data(), *factor = view.factor.data();
  for (int64_t r = 0; r < rows; ++r, sums += width, from += columns, less += columns, out += columns) {
    const T* x = view.x + (row + r) * columns;
#pragma GCC ivdep
    for (int64_t i = 0; i < columns; ++i)
      out[i] = (sums[i] + ((x[i] - mean[i]) - rest[i]) * factor[i] * along[i]) + (from[i] - less[i]) * apart;
  }
}

// Rows of the standardised view `other` times a matrix, plus those of view `own` times `along`, plus the rows of view
// `other` less those of view 1 - other, times `apart`.
template <class T> struct Back {
  const Views<T>& views;
  const int own, other;
  const T *matrix, *along;  // (batch, columns, columns), (batch, columns)
  const T apart;
  T* out;
  int64_t blocks = (views.rows + kRows - 1) / kRows;

  void run() {
    const int64_t cost = 1 + std::min(kRows, views.rows) * views.columns * (2 + views.columns / 32);
    run_parallel(
        views.batch * blocks, std::max<int64_t>(1, kGrain / cost),
        [](int64_t begin, int64_t end, void* all) { static_cast<Back*>(all)->run(begin, end); }, this);
  }
  void run(int64_t begin, int64_t end) {
    const int64_t d = views.columns, strips = strips_for<T>(d), width = strips * kStrip<T>;
    const int64_t most = up_to(std::min(kRows, views.rows), kTileRows);
    std::vector<T> left(most * d), stripped(d * width), sums(most * width);
    for (int64_t k = begin, n, made = -1; k < end; ++k) {
      n = k / blocks;
      const int64_t row = k % blocks * kRows, rows = std::min(kRows, views.rows - row);
      if (made != n) strips_of(matrix + n * d * d, d, d, stripped.data()), made = n;
      standardise(View<T>(views, other, n), row, rows, d, left.data(), d);
      multiply(Product<T>{true, left.data(), d, up_to(rows, kTileRows), d, stripped.data(), d * kStrip<T>, strips,
                          sums.data(), width});
      finish(sums.data(), width, View<T>(views, own, n), n, row, rows);
    }
  }
  void finish(const T* sums, int64_t width, const View<T>& view, int64_t n, int64_t row, int64_t rows) {
    const int64_t d = views.columns, at = row * d;
    finish_rows(sums, width, view, along + n * d, views.matrix(other, n) + at, views.matrix(1 - other, n) + at, apart,
                row, rows, d, out + n * views.rows * d + at);
  }
};

}  // namespace
}  // namespace losskit
