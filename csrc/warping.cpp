// Soft alignments of two series: for each sample the soft minimum over all ways through the matrix of squared distances
// of steps, and the probability that a way goes through a cell.
//
// 1. Cells lie along anti-diagonals d = i + j in memory, an entry for each step i of the shorter series, so that a
//    diagonal is a loop that vectorises. Diagonals are computed in whole lanes from their lowest entry on.
// 2. Distances are computed where they are needed, from differences: features lie apart, and the longer series
// backwards,
//    so that the steps that meet along a diagonal lie one after another.
// 3. Of a cell its three shares are kept: by how much each cell before it counts. Backwards, a cell gathers from the
//    cells after it.
// 4. Samples are independent: one after another per thread, the same bits for any number of threads.
#include <torch/csrc/stable/library.h>

#include "lattice.h"

namespace losskit {
namespace {

struct Series {
  const double *x, *y;  // (N, rows, features), (N, columns, features)
  const int64_t *of_x, *of_y;
  int64_t rows, columns, features;
  double gamma;
  double *loss, *alignment;  // (N,), and (N, rows, columns) or null
};

// The memory of a thread.
struct Scratch {
  std::vector<double> x, y, diagonals, shares;
};

struct Sample {
  int64_t rows, columns, features, stride;
  const double *x, *y;  // features apart; y is backwards
  int64_t x_stride, y_stride;
  double gamma;
  double* shares;  // three arrays of diagonals, 0 where there is no cell; or null

  int64_t diagonals() const { return rows + columns - 1; }
  int64_t low(int64_t d) const { return std::max<int64_t>(0, d - columns + 1); }
  int64_t high(int64_t d) const { return std::min(rows, d + 1); }
  double* shares_at(int64_t k, int64_t d) const { return shares + (k * (diagonals() + 2) + d) * stride + kLanes; }
};

// Three diagonals in turn, infinite where there is no cell. Entries behind the highest stay so.
struct Turn {
  double *before, *last, *now;
  explicit Turn(double* memory, int64_t stride) : before(memory + kLanes), last(before + stride), now(last + stride) {}
  void next() {
    double* free = before;
    before = last, last = now, now = free;
  }
};

LOSSKIT_CLONES double forward(const Sample& sample, Turn turn) {
  const double gamma = sample.gamma;
  for (int64_t d = 0; d < sample.diagonals(); ++d, turn.next()) {
    const int64_t low = sample.low(d), high = sample.high(d);
    const double *before = turn.before, *last = turn.last;
    double* now = turn.now;
    now[low - 1] = infinity<double>;
    for (int64_t from = low; from < high; from += kLanes) {
      double costs[kLanes] = {};
      for (int64_t f = 0; f < sample.features; ++f) {
        const double* x = sample.x + f * sample.x_stride + from;
        const double* y = sample.y + f * sample.y_stride + sample.columns - 1 - d + from;
        for (int64_t k = 0; k < kLanes; ++k) costs[k] += (x[k] - y[k]) * (x[k] - y[k]);
      }
      double shares[3][kLanes];
#pragma GCC ivdep
      for (int64_t k = 0; k < kLanes; ++k) {
        const int64_t i = from + k;
        const double a = last[i - 1], b = last[i], c = before[i - 1];
        const double least = minimum(minimum(minimum(a, b), c), std::numeric_limits<double>::max());
        const double p = exp_nabs((a - least) / gamma), q = exp_nabs((b - least) / gamma);
        const double r = exp_nabs((c - least) / gamma), total = p + q + r;
        const double cost = costs[k] + (d ? least : 0.0) - (d ? gamma * log(total) : 0.0);
        now[i] = where(i < high, cost, infinity<double>);
        const bool any = (i < high) & (total != 0);
        shares[0][k] = where(any, p / total, 0.0);
        shares[1][k] = where(any, q / total, 0.0);
        shares[2][k] = where(any, r / total, 0.0);
      }
      if (sample.shares && d)
        for (int64_t k = 0; k < 3; ++k) std::memcpy(sample.shares_at(k, d) + from, shares[k], sizeof shares[k]);
    }
  }
  return turn.last[sample.rows - 1];
}

LOSSKIT_CLONES void backward(const Sample& sample, Turn turn, double* out, int64_t columns) {
  const int64_t end = sample.diagonals() - 1;
  for (int64_t d = end; d >= 0; --d, turn.next()) {
    const int64_t low = sample.low(d), high = sample.high(d);
    const double *after = turn.last, *later = turn.before;
    const double *down = sample.shares_at(0, d + 1), *right = sample.shares_at(1, d + 1),
                 *across = sample.shares_at(2, d + 2);
    double* now = turn.now;
    for (int64_t from = low; from < high; from += kLanes) {
#pragma GCC ivdep
      for (int64_t k = 0; k < kLanes; ++k) {
        const int64_t i = from + k;
        now[i] = down[i + 1] * after[i + 1] + right[i] * after[i] + across[i + 1] * later[i + 1];
      }
    }
    if (d == end) now[sample.rows - 1] = 1.0;
    for (int64_t i = low; i < high; ++i) out[i * columns + d - i] = now[i];
  }
}

// Features apart, backwards if wanted, with lanes of zeros on both sides; returns where the first number is.
double* apart(const double* from, int64_t n, int64_t features, bool backwards, std::vector<double>& to) {
  const int64_t stride = n + 2 * kLanes;
  to.assign(features * stride, 0.0);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t f = 0; f < features; ++f)
      to[f * stride + kLanes + (backwards ? n - 1 - i : i)] = from[i * features + f];
  return to.data() + kLanes;
}

void run_samples(int64_t begin, int64_t end, void* context) {
  const Series& batch = *static_cast<const Series*>(context);
  Scratch own;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t m = batch.of_x[i], n = batch.of_y[i], features = batch.features, stride = m + 2 * kLanes;
    const double* x = apart(batch.x + i * batch.rows * features, m, features, false, own.x);
    const double* y = apart(batch.y + i * batch.columns * features, n, features, true, own.y);
    if (batch.alignment) own.shares.assign(3 * (m + n + 1) * stride, 0.0);
    const Sample sample{m, n,      features,       stride,      x,
                        y, stride, n + 2 * kLanes, batch.gamma, batch.alignment ? own.shares.data() : nullptr};
    own.diagonals.assign(3 * stride, infinity<double>);
    batch.loss[i] = forward(sample, Turn(own.diagonals.data(), stride));
    if (!batch.alignment) continue;
    own.diagonals.assign(3 * stride, 0.0);
    backward(sample, Turn(own.diagonals.data(), stride), batch.alignment + i * batch.rows * batch.columns,
             batch.columns);
  }
}

template <class T> T* data_of(const StableTensor& tensor) { return static_cast<T*>(tensor.data_ptr()); }

}  // namespace

// Series (N, T, D) and (N, U, D), contiguous and in double, of which each sample has some steps, one or more. The
// losses (N,) are filled in, and what lies within the lengths of the alignment (N, T, U), unless that has no elements.
void soft_alignment(StableTensor x, StableTensor y, StableTensor of_x, StableTensor of_y, double gamma,
                    StableTensor loss, StableTensor alignment) {
  const int64_t samples = x.sizes()[0], rows = x.sizes()[1], columns = y.sizes()[1], features = x.sizes()[2];
  double* out = alignment.numel() ? data_of<double>(alignment) : nullptr;
  Series batch{data_of<double>(x),
               data_of<double>(y),
               data_of<int64_t>(of_x),
               data_of<int64_t>(of_y),
               rows,
               columns,
               features,
               gamma,
               data_of<double>(loss),
               out};
  // A cell takes about as long as 16 elements.
  run_parallel(samples, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, 16 * rows * columns)), run_samples, &batch);
}

}  // namespace losskit

STABLE_TORCH_LIBRARY_FRAGMENT(losskit, library) {
  library.def(
      "soft_alignment(Tensor x, Tensor y, Tensor of_x, Tensor of_y, float gamma, Tensor(a!) loss, "
      "Tensor(b!) alignment) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(losskit, CPU, library) {
  library.impl("soft_alignment", TORCH_BOX(&losskit::soft_alignment));
}
