// How long the centre lines of masks are, and how much of them lies outside of other masks; and the derivatives of
// both.
//
// Masks are independent: one after another per thread, the same bits for any number of threads.
#include "centre_lines.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

namespace losskit {
namespace {

template <class T> struct Masks {
  const T *x, *y;  // (N, rows, width)
  Sizes sizes;
  int64_t stages;
  T* sums;            // (N, 2), which are found
  const T* upstream;  // (N, 2), or
  T *by_x, *by_y;     // (N, rows, width), or null
};

template <class T> LOSSKIT_CLONES void values_of(const Masks<T>& masks, Sweep<T>& sweep, int64_t begin, int64_t end) {
  const int64_t size = masks.sizes.rows() * masks.sizes.width;
  for (int64_t n = begin; n < end; ++n) {
    double sums[2];
    sweep.value(masks.x + n * size, masks.y + n * size, sums);
    for (int i = 0; i < 2; ++i) masks.sums[2 * n + i] = static_cast<T>(sums[i]);
  }
}

template <class T> LOSSKIT_CLONES void slopes_of(const Masks<T>& masks, Sweep<T>& sweep, int64_t begin, int64_t end) {
  const int64_t size = masks.sizes.rows() * masks.sizes.width;
  for (int64_t n = begin; n < end; ++n) {
    const T upstream[] = {masks.upstream[2 * n], masks.upstream[2 * n + 1]};
    sweep.derivatives(masks.x + n * size, masks.y + n * size, upstream, masks.by_x ? masks.by_x + n * size : nullptr,
                      masks.by_y ? masks.by_y + n * size : nullptr);
  }
}

template <class T> void run_masks(int64_t begin, int64_t end, void* context) {
  const Masks<T>& masks = *static_cast<const Masks<T>*>(context);
  Sweep<T> sweep(masks.sizes, masks.stages, masks.by_x != nullptr);
  masks.sums ? values_of(masks, sweep, begin, end) : slopes_of(masks, sweep, begin, end);
}

template <class T>
void of_type(const StableTensor& x, const StableTensor& y, int64_t iters, StableTensor* sums,
             const StableTensor* upstream, StableTensor* by_x, StableTensor* by_y) {
  const auto sizes = x.sizes();
  const bool volume = sizes.size() == 4;
  const auto memory = [](StableTensor* tensor) {
    return tensor && tensor->numel() ? static_cast<T*>(tensor->data_ptr()) : nullptr;
  };
  Masks<T> masks{static_cast<const T*>(x.data_ptr()),
                 static_cast<const T*>(y.data_ptr()),
                 {volume ? sizes[1] : 1, sizes[volume ? 2 : 1], sizes[volume ? 3 : 2], volume},
                 iters + 1,
                 memory(sums),
                 upstream ? static_cast<const T*>(upstream->data_ptr()) : nullptr,
                 memory(by_x),
                 memory(by_y)};
  // A stage of a pixel takes about as long as an element.
  const int64_t cost = masks.sizes.rows() * masks.sizes.width * masks.stages;
  run_parallel(sizes[0], std::max<int64_t>(1, kGrain / std::max<int64_t>(1, cost)), run_masks<T>, &masks);
}

}  // namespace

// Masks (N, H, W) or (N, D, H, W), contiguous, float or double; the sums (N, 2) are filled in.
void lines_outside(StableTensor x, StableTensor y, int64_t iters, StableTensor sums) {
  if (x.element_size() == sizeof(double))
    of_type<double>(x, y, iters, &sums, nullptr, nullptr, nullptr);
  else
    of_type<float>(x, y, iters, &sums, nullptr, nullptr, nullptr);
}

// The derivatives of upstream (N, 2) times the sums are filled in, unless they have no elements.
void lines_outside_backward(StableTensor x, StableTensor y, int64_t iters, StableTensor upstream, StableTensor by_x,
                            StableTensor by_y) {
  if (x.element_size() == sizeof(double))
    of_type<double>(x, y, iters, nullptr, &upstream, &by_x, &by_y);
  else
    of_type<float>(x, y, iters, nullptr, &upstream, &by_x, &by_y);
}

}  // namespace losskit

STABLE_TORCH_LIBRARY_FRAGMENT(losskit, library) {
  library.def("lines_outside(Tensor x, Tensor y, int iters, Tensor(a!) sums) -> ()");
  library.def(
      "lines_outside_backward(Tensor x, Tensor y, int iters, Tensor upstream, Tensor(a!) by_x, Tensor(b!) by_y) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(losskit, CPU, library) {
  library.impl("lines_outside", TORCH_BOX(&losskit::lines_outside));
  library.impl("lines_outside_backward", TORCH_BOX(&losskit::lines_outside_backward));
}
