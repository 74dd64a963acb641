// All pairs of a batch in one sweep over the rows: similarities, losses, and the gradients by rows and columns.
//
// 1. A block is some rows against all columns; the next one uses the same memory. Threads share its rows, some 48 at a
//    time: their similarities, losses, gradients in the place of similarities, and products of those with the columns.
//    Then they share its columns, for the products with the rows. No order of additions depends on threads.
// 2. So a gradient takes three products of matrices, and no similarity is computed twice.
// 3. Columns are laid out twice, once for each product with them; of the rows, those at hand are copied.
#include <torch/csrc/stable/library.h>

#include "pairs_distances.h"
#include "pairs_rows.h"
#include "products.h"

namespace losskit {
namespace {

constexpr int64_t kRows = 4 * kTileRows, kColumns = 8 * kTileRows;  // that a thread takes

// Memory without a beginning: not filled, in huge pages.
template <class T> struct Memory {
  std::optional<Tensor> tensor;
  T* data = nullptr;
  void take(int64_t n) {
    const int64_t step = 1;
    tensor = allocate(1, &n, &step, sizeof(T) == 8 ? DType::kDouble : DType::kFloat, n);
    data = static_cast<T*>(tensor->data_ptr());
  }
};

template <class T> T* data_of(const Tensor& tensor) { return static_cast<T*>(tensor.data_ptr()); }
template <class T> T* data_of(const MaybeTensor& tensor) { return tensor ? data_of<T>(*tensor) : nullptr; }

template <class T> struct Sweep {
  Job<T> job;
  const T *rows, *columns;
  int64_t count, width;
  T *by_rows, *by_columns;     // to which gradients are added; null where there are none
  double *of_scale, *of_bias;  // the gradients by scale and bias that each row has; may be null
  bool distance, exact;
  int64_t block;  // rows

  int64_t stride, begin = 0, end = 0;  // of a block
  std::vector<T> own_strips;
  Memory<T> panel, far, strips, turned_strips;
  std::vector<double> squares[2];

  int64_t own_width() const { return strips_for<T>(width) * kStrip<T>; }

  void run() {
    // Rows of a panel begin in different sets of a cache.
    stride = strips_for<T>(job.columns) * kStrip<T> + 64 / static_cast<int64_t>(sizeof(T));
    panel.take(up_to(block, kTileRows) * stride);
    turned_strips.take(strips_for<T>(job.columns) * kStrip<T> * width);
    turned_strips_of(columns, job.columns, width, turned_strips.data);
    if (distance) {
      if (by_rows) far.take(block * stride);
      for (int64_t i = 0; i < count; ++i) squares[0].push_back(dot(rows + i * width, rows + i * width, width));
      for (int64_t j = 0; j < job.columns; ++j)
        squares[1].push_back(dot(columns + j * width, columns + j * width, width));
    } else if (by_rows) {
      strips.take(own_width() * job.columns);
      strips_of(columns, job.columns, width, strips.data);
      own_strips.resize(own_width() * block);
    }
    for (begin = 0; begin < count; begin = end) {
      end = std::min(count, begin + block);
      divided((end - begin + kRows - 1) / kRows, kRows * job.columns, run_rows);
      if (!by_rows) continue;
      if (!distance) strips_of(rows + begin * width, end - begin, width, own_strips.data());
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
    std::vector<T> own(kRows * width), gradient(sweep.by_rows && !sweep.distance ? kRows * own_width : 0);
    for (int64_t i = first; i < last; ++i) {
      const int64_t row = sweep.begin + i * kRows, n = std::min(kRows, sweep.end - row);
      T* x = sweep.panel.data + i * kRows * sweep.stride;
      std::copy(sweep.rows + row * width, sweep.rows + (row + n) * width, own.begin());
      multiply<T>({true, own.data(), width, up_to(n, kTileRows), width, sweep.turned_strips.data, kStrip<T> * width,
                   strips_for<T>(job.columns), x, sweep.stride});
      if (sweep.distance) sweep.measure(row, n, x);
      for (int64_t at = 0; at < n; at += job.group)
        run_group(job, row + at, std::min(job.group, n - at), x + at * sweep.stride, sweep.stride, group);
      if (!sweep.by_rows) continue;
      if (sweep.of_bias)
        for (int64_t at = 0; at < n; ++at) sweep.of_bias[row + at] = sum_of(x + at * sweep.stride, job.columns);
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
    std::vector<T> gradient(sweep.distance ? 0 : kColumns * own_width);
    for (int64_t i = first; i < last; ++i) {
      const int64_t column = i * kColumns, n = std::min(kColumns, sweep.job.columns - column);
      if (sweep.distance) {
        sweep.spread_columns(column, n);
        continue;
      }
      multiply<T>({false, sweep.panel.data + column, sweep.stride, up_to(n, kTileRows), rows, sweep.own_strips.data(),
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
        if (by_rows) std::copy(x, x + job.columns, far.data + (row + at - begin) * stride);
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

struct Given {
  int64_t formula, positive, negative;
  const std::vector<int64_t>& statistics;
  const Tensor &rows, &columns, &order, &first, &last;
  bool own;
  const MaybeTensor& share;
  const Tensor& values;
  const MaybeTensor &survey, &turned, &by_rows, &by_columns, &of_scale, &of_bias;
  int64_t block;
  bool distance, exact;
  const std::vector<double>&numbers, &of_positive, &of_negative;
  double scale, bias;
};

template <class T> void sweep_over(const Given& given) {
  const int64_t count = given.rows.sizes()[0], columns = given.columns.sizes()[0], width = given.rows.sizes()[1];
  Job<T> job{columns,
             given.own,
             data_of<int64_t>(given.order),
             data_of<int64_t>(given.first),
             data_of<int64_t>(given.last),
             data_of<double>(given.share),
             data_of<double>(given.values),
             data_of<double>(given.survey),
             static_cast<T>(given.scale),
             static_cast<T>(given.bias),
             reinterpret_cast<const Kernel*>(given.formula),
             {},
             given.statistics,
             {},
             {Term<T>(given.positive, given.of_positive), Term<T>(given.negative, given.of_negative)}};
  for (size_t i = 0; i < given.numbers.size() && i < kMaxParameters; ++i) job.parameters[i] = given.numbers[i];
  for (const int64_t code : job.statistics) job.wanted[code / kAggregates][code % kAggregates] = true;
  if (given.turned) {
    job.turned = data_of<double>(*given.turned);
    for (int64_t j = 0; j < columns; ++j) {
      const double* own = job.turned + j * kSurveyed;
      job.pivots.push_back(static_cast<T>(own[kPivot]));
      job.factors.push_back(static_cast<T>(own[kFactor]));
      job.adds.push_back(static_cast<T>(own[kMore]));
    }
  }
  job.group = std::clamp<int64_t>(kGroup / std::max<int64_t>(1, columns), 1, kRows);
  Sweep<T> sweep{std::move(job),
                 data_of<const T>(given.rows),
                 data_of<const T>(given.columns),
                 count,
                 width,
                 data_of<T>(given.by_rows),
                 data_of<T>(given.by_columns),
                 data_of<double>(given.of_scale),
                 data_of<double>(given.of_bias),
                 given.distance,
                 given.exact,
                 std::clamp<int64_t>(given.block, 1, std::max<int64_t>(1, count))};
  sweep.run();
}

}  // namespace

void pairs_sweep(int64_t formula, int64_t positive, int64_t negative, std::vector<int64_t> statistics, Tensor rows,
                 Tensor columns, Tensor order, Tensor first, Tensor last, bool own, MaybeTensor share, Tensor values,
                 MaybeTensor survey, MaybeTensor turned, MaybeTensor by_rows, MaybeTensor by_columns,
                 MaybeTensor of_scale, MaybeTensor of_bias, int64_t block, bool distance, bool exact,
                 std::vector<double> numbers, std::vector<double> of_positive, std::vector<double> of_negative,
                 double scale, double bias) {
  const Given given{formula, positive, negative, statistics, rows,        columns,     order,      first,    last,
                    own,     share,    values,   survey,     turned,      by_rows,     by_columns, of_scale, of_bias,
                    block,   distance, exact,    numbers,    of_positive, of_negative, scale,      bias};
  (dtype_of(rows) == DType::kDouble ? sweep_over<double> : sweep_over<float>)(given);
}

}  // namespace losskit

STABLE_TORCH_LIBRARY_FRAGMENT(losskit, library) {
  library.def(
      "pairs_sweep(int formula, int positive, int negative, int[] statistics, Tensor rows, Tensor columns, "
      "Tensor order, Tensor first, Tensor last, bool own, Tensor? share, Tensor(a!) values, Tensor(b!)? survey, "
      "Tensor? turned, Tensor(c!)? by_rows, Tensor(d!)? by_columns, Tensor(e!)? of_scale, Tensor(f!)? of_bias, "
      "int block, bool distance, bool exact, float[] numbers, float[] of_positive, float[] of_negative, "
      "float scale, float bias) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(losskit, CPU, library) { library.impl("pairs_sweep", TORCH_BOX(&losskit::pairs_sweep)); }
