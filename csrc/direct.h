// How an op is called without torch's dispatcher: by binding/node.cpp, which has torch's own tensors at hand.
//
// The dispatcher and its lists of boxed values take 1.1 microseconds of a small call, more than most losses'
// arithmetic. What the caller knows of its tensors it tells: owners of them, and ten questions to torch's C interface
// for each, were 5,600 of the 20,200 instructions of an nll_loss.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/headeronly/util/HeaderOnlyArrayRef.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace losskit {

constexpr int kMostOperands = 8;

// A tensor that an op is given, as long as the call lasts.
struct Tensor {
  using Numbers = c10::HeaderOnlyArrayRef<int64_t>;
  AtenTensorHandle handle;
  const int64_t *of_sizes, *of_strides;
  void* data;
  int64_t dims, elements, offset, bytes;  // offset: of the first element in a storage of so many bytes
  int32_t dtype, on_cpu;                  // the second true or false

  int64_t dim() const { return dims; }
  int64_t numel() const { return elements; }
  Numbers sizes() const { return {of_sizes, static_cast<size_t>(dims)}; }
  Numbers strides() const { return {of_strides, static_cast<size_t>(dims)}; }
  void* data_ptr() const { return data; }
  bool is_cpu() const { return on_cpu; }
  bool is_contiguous() const {
    int64_t step = 1;
    for (int64_t i = dims - 1; i >= 0 && elements; step *= of_sizes[i--])
      if (of_sizes[i] != 1 && of_strides[i] != step) return false;
    return true;
  }
};

// The arguments of an op's schema (op.h), and what it finds. nullptr is None. A handle that is found belongs to the
// caller.
struct DirectCall {
  int64_t kernel, code;
  Tensor operands[kMostOperands];
  int operand_count, number_count;
  const Tensor *weight, *sample_weight, *mask;
  const double* numbers;

  AtenTensorHandle loss, gradients[kMostOperands];
  int64_t gradient_count, status;
};

using DirectOp = void (*)(DirectCall& call);

// How both lie in memory, in one number: the library and the node are two files, which may have been built from two
// versions of this one. kernels/node.py compares what they tell. Without padding nothing can be added unseen.
static_assert(std::has_unique_object_representations_v<Tensor> && std::has_unique_object_representations_v<DirectCall>);
constexpr uint64_t kCallLayout = [] {
  uint64_t digest = 14695981039346656037u;  // FNV-1a
  for (const size_t number : {sizeof(Tensor),
                              offsetof(Tensor, handle),
                              offsetof(Tensor, of_sizes),
                              offsetof(Tensor, of_strides),
                              offsetof(Tensor, data),
                              offsetof(Tensor, dims),
                              offsetof(Tensor, elements),
                              offsetof(Tensor, offset),
                              offsetof(Tensor, bytes),
                              offsetof(Tensor, dtype),
                              offsetof(Tensor, on_cpu),
                              sizeof(DirectCall),
                              offsetof(DirectCall, kernel),
                              offsetof(DirectCall, code),
                              offsetof(DirectCall, operands),
                              offsetof(DirectCall, operand_count),
                              offsetof(DirectCall, number_count),
                              offsetof(DirectCall, weight),
                              offsetof(DirectCall, sample_weight),
                              offsetof(DirectCall, mask),
                              offsetof(DirectCall, numbers),
                              offsetof(DirectCall, loss),
                              offsetof(DirectCall, gradients),
                              offsetof(DirectCall, gradient_count),
                              offsetof(DirectCall, status)})
    digest = (digest ^ number) * 1099511628211u;
  return digest;
}();

}  // namespace losskit
