// All pairs of a batch in one sweep over the rows: similarities, losses, and the gradients by rows and columns.
//
// 1. A block is some rows against all columns; the next one uses the same memory. Threads share its rows, some 48 at a
//    time: their similarities, losses, gradients in the place of similarities, and products of those with the columns.
//    Then they share its columns, for the products with the rows. No order of additions depends on threads.
// 2. So a gradient takes three products of matrices, and no similarity is computed twice.
// 3. Columns are laid out twice, once for each product with them; of the rows, those at hand are copied.
#pragma once

#include <memory>
#include <new>

#include "pairs_distances.h"
#include "pairs_rows.h"
#include "products.h"

namespace losskit {
namespace {

constexpr int64_t kRows = 4 * kTileRows, kColumns = 8 * kTileRows;  // that a thread takes

// Memory that is not filled; large pieces in huge pages.
template <class T> class Memory {
  static constexpr std::align_val_t kLine{64};
  struct Free {
    void operator()(T* data) const { ::operator delete(data, kLine); }
  };
  Made tensor;
  std::unique_ptr<T, Free> small;

 public:
  T* data = nullptr;
  void take(int64_t n) {
    constexpr int64_t kLarge = 1 << 20;
    const int64_t step = 1, bytes = n * static_cast<int64_t>(sizeof(T));
    if (bytes < kLarge) {
      small.reset(static_cast<T*>(::operator new(bytes, kLine)));
      data = small.get();
    } else {
      tensor = allocate(1, &n, &step, sizeof(T) == 8 ? DType::kDouble : DType::kFloat, n);
      data = static_cast<T*>(tensor.data_ptr());
    }
  }
  void take_zeros(int64_t n) {
    take(n);
    std::fill(data, data + n, T(0));
  }
};

// The rows of a block: 2 MB of them, but so many that adding to the gradients of all columns takes no time. With 48
// rows a step takes 5 to 10 % longer than with 200 to 1000, among which there is no difference.
template <class T> int64_t rows_of_block(int64_t rows, int64_t columns) {
  constexpr int64_t kUsual = 2 << 20, kMost = 64 << 20, kFewest = 192;
  const int64_t row = std::max<int64_t>(1, columns * static_cast<int64_t>(sizeof(T)));
  return std::clamp<int64_t>(std::max(kUsual / row, std::min(kFewest, kMost / row)), 1, std::max<int64_t>(rows, 1));
}

template <class T> struct Sweep {
  Job<T> job;
  const T *rows, *columns;
  int64_t count, width;
  T *by_rows, *by_columns;     // to which gradients are added; null where there are none
  double *of_scale, *of_bias;  // the gradients by scale and bias that each row has; may be null. The first is for rows.
  bool distance, exact;        // exact: distances come from differences alone

  int64_t block = 0, stride = 0, begin = 0, end = 0;  // rows of a block
  Memory<T> panel, far, strips, own_strips, turned_strips;
  std::vector<double> squares[2];

  bool spreads() const { return by_rows || by_columns || of_bias; }
  int64_t own_width() const { return strips_for<T>(width) * kStrip<T>; }

  void run() {
    block = rows_of_block<T>(count, job.columns);
    // Rows of a panel begin in different sets of a cache.
    stride = strips_for<T>(job.columns) * kStrip<T> + 64 / static_cast<int64_t>(sizeof(T));
    panel.take(up_to(block, kTileRows) * stride);
    turned_strips.take(strips_for<T>(job.columns) * kStrip<T> * width);
    turned_strips_of(columns, job.columns, width, turned_strips.data);
    if (distance) {
      if (spreads()) far.take(block * stride);
      for (int64_t i = 0; i < count; ++i) squares[0].push_back(dot(rows + i * width, rows + i * width, width));
      for (int64_t j = 0; j < job.columns; ++j)
        squares[1].push_back(dot(columns + j * width, columns + j * width, width));
    } else {
      if (by_rows) strips.take(own_width() * job.columns);
      if (by_rows) strips_of(columns, job.columns, width, strips.data);
      if (by_columns) own_strips.take(own_width() * block);
    }
    for (begin = 0; begin < count; begin = end) {
      end = std::min(count, begin + block);
      divided((end - begin + kRows - 1) / kRows, kRows * job.columns, run_rows);
      if (!by_columns) continue;
      if (!distance) strips_of(rows + begin * width, end - begin, width, own_strips.data);
      divided((job.columns + kColumns - 1) / kColumns, kColumns * (end - begin), run_columns);
    }
  }
  // `work`: pairs of each piece.
  void divided(int64_t pieces, int64_t work, void (*function)(int64_t, int64_t, void*)) {
    run_parallel(pieces, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, work)), function, this);
  }

  static void run_rows(int64_t first, int64_t last, void* context) {
    const Sweep& sweep = *static_cast<Sweep*>(context);
    const Job<T>& job = sweep.job;
    const int64_t width = sweep.width, own_width = sweep.own_width();
    Group<T> group(job);
    const int64_t most = std::min(kRows, up_to(sweep.count, kTileRows));
    std::vector<T> own(most * width), gradient(sweep.by_rows && !sweep.distance ? most * own_width : 0);
    for (int64_t i = first; i < last; ++i) {
      const int64_t row = sweep.begin + i * kRows, n = std::min(kRows, sweep.end - row);
      T* x = sweep.panel.data + i * kRows * sweep.stride;
      std::copy(sweep.rows + row * width, sweep.rows + (row + n) * width, own.begin());
      multiply<T>({true, own.data(), width, up_to(n, kTileRows), width, sweep.turned_strips.data, kStrip<T> * width,
                   strips_for<T>(job.columns), x, sweep.stride});
      if (sweep.distance) sweep.measure(row, n, x);
      for (int64_t at = 0; at < n; at += job.group)
        run_group(job, row + at, std::min(job.group, n - at), x + at * sweep.stride, sweep.stride, group);
      if (sweep.of_bias)
        for (int64_t at = 0; at < n; ++at) sweep.of_bias[row + at] = sum_of(x + at * sweep.stride, job.columns);
      if (!sweep.by_rows) continue;
      if (sweep.distance) {
        sweep.spread_rows(row, n, x);
        continue;
      }
      multiply<T>({true, x, sweep.stride, up_to(n, kTileRows), job.columns, sweep.strips.data, kStrip<T> * job.columns,
                   strips_for<T>(width), gradient.data(), own_width});
      for (int64_t at = 0; at < n; ++at) {
        const T* found = gradient.data() + at * own_width;
        if (sweep.of_scale) sweep.of_scale[row + at] = dot(found, own.data() + at * width, width);
        add_to(sweep.by_rows + (row + at) * width, width, found);
      }
    }
  }

  static void run_columns(int64_t first, int64_t last, void* context) {
    const Sweep& sweep = *static_cast<Sweep*>(context);
    const int64_t width = sweep.width, own_width = sweep.own_width(), rows = sweep.end - sweep.begin;
    const int64_t most = std::min(kColumns, up_to(sweep.job.columns, kTileRows));
    std::vector<T> gradient(sweep.distance ? 0 : most * own_width);
    for (int64_t i = first; i < last; ++i) {
      const int64_t column = i * kColumns, n = std::min(kColumns, sweep.job.columns - column);
      if (sweep.distance) {
        sweep.spread_columns(column, n);
        continue;
      }
      multiply<T>({false, sweep.panel.data + column, sweep.stride, up_to(n, kTileRows), rows, sweep.own_strips.data,
                   kStrip<T> * rows, strips_for<T>(width), gradient.data(), own_width});
      for (int64_t at = 0; at < n; ++at)
        add_to(sweep.by_columns + (column + at) * width, width, gradient.data() + at * own_width);
    }
  }

  // Distances, which are of doubles, in the place of the products of n rows.
  void measure(int64_t row, int64_t n, T* x) const {
    if constexpr (sizeof(T) == 8) {
      for (int64_t at = 0; at < n; ++at, x += stride) {
        distances_of(x, rows + (row + at) * width, columns, squares[0][row + at], squares[1].data(),
                     exact ? infinity<double> : kNear, job.columns, width);
        if (spreads()) std::copy(x, x + job.columns, far.data + (row + at - begin) * stride);
      }
    }
  }
  void spread_rows(int64_t row, int64_t n, const T* x) const {
    if constexpr (sizeof(T) == 8) {
      for (int64_t at = row; at < row + n; ++at, x += stride) {
        const double* lengths = far.data + (at - begin) * stride;
        if (of_scale) of_scale[at] = dot(x, lengths, job.columns);
        spread_distances(x, lengths, job.columns, rows + at * width, columns, width, true, by_rows + at * width);
      }
    }
  }
  void spread_columns(int64_t column, int64_t n) const {
    if constexpr (sizeof(T) == 8) {
      for (int64_t at = 0; at < end - begin; ++at)
        spread_distances(panel.data + at * stride + column, far.data + at * stride + column, n,
                         rows + (begin + at) * width, columns + column * width, width, false,
                         by_columns + column * width);
    }
  }
};

}  // namespace
}  // namespace losskit
