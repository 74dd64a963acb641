// The share that one number of a row has in the sum of the row, each raised by the same: minus its logarithm, and the
// gradient of that by the row.
//
// 1. Others are added up without the number itself, so that of a share near 1 the logarithm keeps its digits.
// 2. Sums are in double, in lanes. Rows are independent: the same bits for any number of threads.
#include <torch/csrc/stable/library.h>

#include "drive.h"
#include "primitives.h"

namespace losskit {
namespace {

constexpr int64_t kWide = 8;  // accumulators of a row

template <class T> struct Rows {
  const T* numbers;      // (N, size)
  const int64_t* index;  // (N,), within the row
  int64_t size;
  double raised;
  T *loss, *gradient;  // (N,), (N, size)
};

template <class T> LOSSKIT_INLINE double sum_of(const T* x, int64_t n) {
  double lanes[kWide] = {};
  const int64_t even = n / kWide * kWide;
  for (int64_t i = 0; i < even; i += kWide)
    for (int64_t k = 0; k < kWide; ++k) lanes[k] += static_cast<double>(x[i + k]);
  for (int64_t i = even; i < n; ++i) lanes[i - even] += static_cast<double>(x[i]);
  return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

template <class T> LOSSKIT_CLONES void log_shares(const Rows<T>& batch, int64_t begin, int64_t end) {
  const int64_t size = batch.size;
  for (int64_t n = begin; n < end; ++n) {
    const T* x = batch.numbers + n * size;
    const int64_t at = batch.index[n];
    const double own = static_cast<double>(x[at]) + batch.raised;
    const double rest =
        sum_of(x, at) + sum_of(x + at + 1, size - at - 1) + static_cast<double>(size - 1) * batch.raised;
    const double each = 1 / (own + rest);
    batch.loss[n] = static_cast<T>(log1p(rest / own));
    T* gradient = batch.gradient + n * size;
    for (int64_t i = 0; i < size; ++i) gradient[i] = static_cast<T>(each);
    gradient[at] = static_cast<T>(-(rest / own) * each);
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
