// The share that one number of a row has in the sum of the row, each raised by the same: minus its logarithm, and the
// gradient of that by the row.
//
// 1. Others are added up without the number itself, so that of a share near 1 the logarithm keeps its digits.
// 2. Sums are in double, in lanes. Rows are independent: the same bits for any number of threads.
#include <torch/csrc/stable/library.h>

#include "drive.h"
#include "vectors.h"

namespace losskit {
namespace {

constexpr int64_t kWide = kWidth<double>;  // accumulators of a row
constexpr int64_t kTogether = 64;          // rows whose logarithms are taken at once

template <class T> struct Rows {
  const T* numbers;      // (N, size)
  const int64_t* index;  // (N,), within the row
  int64_t size;
  double raised;
  T *loss, *gradient;  // (N,), (N, size)
};

// The sum of all numbers but the one at `at`, which is taken as 0: a row in two parts would end each of them number by
// number, at places that no processor foresees: the loss of 100 classes and its gradient took 1.3 times as long.
template <class T> LOSSKIT_INLINE double sum_of_others(const T* x, int64_t n, int64_t at) {
  if (n < kWide) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; ++i) sum += i == at ? 0.0 : static_cast<double>(x[i]);
    return sum;
  }
  typedef int64_t Places __attribute__((vector_size(64)));
  constexpr Places kFirst = {0, 1, 2, 3, 4, 5, 6, 7};
  Vector<double> sum = {}, more = {};
  const auto add = [&](int64_t i, const Places& keep, Vector<double>& to) __attribute__((always_inline)) {
    Vector<double> wide;
    for (int64_t k = 0; k < kWide; ++k) wide[k] = static_cast<double>(x[i + k]);
    to += (Vector<double>)((Places)wide & keep & (Places)(kFirst != at - i));
  };
  const Places all = ~Places{};
  int64_t i = 0;
  for (; i + 2 * kWide <= n; i += 2 * kWide) add(i, all, sum), add(i + kWide, all, more);
  if (i + kWide <= n) add(i, all, sum), i += kWide;
  if (i < n) add(n - kWide, (Places)(kFirst >= kWide - (n - i)), more);  // the last ones without what they overlap
  return total_of(sum + more);
}

template <class T> LOSSKIT_CLONES void log_shares(const Rows<T>& batch, int64_t begin, int64_t end) {
  const int64_t size = batch.size;
  for (int64_t first = begin, rows; first < end; first += rows) {
    rows = std::min(kTogether, end - first);
    double odds[kTogether];
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t n = first + r, at = batch.index[n];
      const T* x = batch.numbers + n * size;
      const double own = static_cast<double>(x[at]) + batch.raised;
      const double rest = sum_of_others(x, size, at) + static_cast<double>(size - 1) * batch.raised;
      const double each = 1 / (own + rest);
      odds[r] = rest / own;
      T* gradient = batch.gradient + n * size;
      for (int64_t i = 0; i < size; ++i) gradient[i] = static_cast<T>(each);
      gradient[at] = static_cast<T>(-odds[r] * each);
    }
    for (int64_t r = 0; r < rows; ++r) batch.loss[first + r] = static_cast<T>(log1p(odds[r]));
  }
}

template <class T> void run_rows(int64_t begin, int64_t end, void* context) {
  log_shares(*static_cast<const Rows<T>*>(context), begin, end);
}

template <class T>
void of_type(const StableTensor& numbers, const StableTensor& index, double raised, StableTensor& loss,
             StableTensor& gradient) {
  const int64_t rows = numbers.sizes()[0], size = numbers.sizes()[1];
  Rows<T> batch{static_cast<const T*>(numbers.data_ptr()), static_cast<const int64_t*>(index.data_ptr()), size, raised,
                static_cast<T*>(loss.data_ptr()),          static_cast<T*>(gradient.data_ptr())};
  run_parallel(rows, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, 2 * size)), run_rows<T>, &batch);
}

}  // namespace

// Numbers (N, C), contiguous, float or double, and places in their rows (N,), int64. The losses (N,) are filled in, and
// the gradient (N, C).
void log_share(StableTensor numbers, StableTensor index, double raised, StableTensor loss, StableTensor gradient) {
  if (numbers.element_size() == sizeof(double))
    of_type<double>(numbers, index, raised, loss, gradient);
  else
    of_type<float>(numbers, index, raised, loss, gradient);
}

}  // namespace losskit

STABLE_TORCH_LIBRARY_FRAGMENT(losskit, library) {
  library.def("log_share(Tensor numbers, Tensor index, float raised, Tensor(a!) loss, Tensor(b!) gradient) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(losskit, CPU, library) { library.impl("log_share", TORCH_BOX(&losskit::log_share)); }
