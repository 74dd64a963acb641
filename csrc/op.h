// What the ops of all families share: the options of a call, weights and masks of a block, tensors in and out.
//
// Every op has the same signature and the same result, so that one autograd node in Python serves them all:
//
//   op(int kernel, int code, Tensor a, Tensor? b, Tensor? c, Tensor? d, Tensor? weight, Tensor? sample_weight,
//      Tensor? mask, Tensor? upstream, float[] numbers) -> (loss, gradients by a to d, status)
//
// 1. `kernel` is the address of the formula's block functions (kernel.h), 0 for families that need none.
// 2. `code` holds everything that is not a tensor or a number; see Options. How it is packed says kernels/wire.py, from
//    which generated/wire.h is printed.
// 3. `numbers`: the normalizer (NaN: none), a factor of the gradients, the family's own, the parameters of the formula.
// 4. `upstream` makes the call the backward pass of reduction 'none': gradients only, each times the upstream one.
// 5. An op never raises for bad operands; it returns a status, and Python finds the words. kDeclined: it does not take
//    these shapes or dtypes, and computed nothing. kFreed: the memory of a tensor is gone; nothing was read. A positive
//    number names the violation. kSuspicious: the result is valid, but operands look wrong; Python looks closer.
// 6. With reduction 'none' and no upstream gradient, gradients are for an upstream gradient of 1. Gradients of halves
//    are then floats, because they are multiplied later and must keep their digits until then.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <atomic>
#include <cstring>
#include <initializer_list>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "kernel.h"
#include "layout.h"
#include "reduce.h"

#define LOSSKIT_OP_SCHEMA                                                                          \
  "(int kernel, int code, Tensor a, Tensor? b, Tensor? c, Tensor? d, Tensor? weight, "             \
  "Tensor? sample_weight, Tensor? mask, Tensor? upstream, float[] numbers) -> (Tensor?, Tensor?, " \
  "Tensor?, Tensor?, Tensor?, int)"

// Register `losskit::name`, a function of this namespace.
#define LOSSKIT_OP(name)                                                                    \
  STABLE_TORCH_LIBRARY_FRAGMENT(losskit, library) { library.def(#name LOSSKIT_OP_SCHEMA); } \
  STABLE_TORCH_LIBRARY_IMPL(losskit, CPU, library) { library.impl(#name, TORCH_BOX(&losskit::guarded<losskit::name>)); }

namespace losskit {

using torch::stable::Tensor;

using enum wire::Reduction;
using enum wire::Checks;
using wire::kDeclined, wire::kFreed, wire::kSuspicious, wire::kMaxParameters;
using wire::kNormalizer, wire::kFactor;
static_assert(kOperands == wire::kMaxOperands);  // kernel.h goes to users, and wire.h does not

// Everything about a call that is not a tensor or a number.
struct Options {
  int64_t reduction, gradients, checks;
  bool empty_is_zero;   // the mean over nothing: 0 instead of NaN
  bool weight_in_mean;  // `weight` counts in the denominator of the mean
  bool rows;            // a row's loss is the mean over its last dimension
  int result_dtype;     // -1: that of the operands
  int64_t broadcast;    // bits of the operands that may be broadcast
  int64_t family;       // what else the op's own family needs to know
  explicit Options(int64_t code)
      : reduction(wire::options::reduction(code)),
        gradients(wire::options::gradients(code)),
        checks(wire::options::checks(code)),
        empty_is_zero(wire::options::empty_is_zero(code)),
        weight_in_mean(wire::options::weight_in_mean(code)),
        rows(wire::options::rows(code)),
        result_dtype(static_cast<int>(wire::options::result(code)) - 1),
        broadcast(wire::options::broadcast(code)),
        family(wire::options::family(code)) {}
};

// Positions in the array of sources.
enum { kWeight = kOperands, kSampleWeight, kMask, kUpstream, kSources };

// A call of an op: what it reads, what it writes, what it was asked.
struct Call {
  Walk walk;
  std::array<Source, kSources> sources;
  const Kernel* kernel = nullptr;
  Options options{0};
  int operands = 0;
  double parameters[kMaxParameters] = {};
  double denominator = 1.0;  // of the mean
  double scale = 1.0;        // of the gradients: 1/N of the mean and the like
  DType result = DType::kFloat;
  char* values = nullptr;  // reduction 'none'
  char* gradients[kOperands] = {};
  DType gradient_dtypes[kOperands] = {};
  int64_t gradient_sizes[kOperands] = {};  // in elements
  std::vector<Sum> sums;                   // a sum per block
};

// Buffers for the weights of a block.
struct Weights {
  alignas(64) double factors[kBlock];
  alignas(64) double more[kBlock];
  alignas(64) float mask[kBlock];
};

// x * factor * scale, rounded once; masked elements are exact zeros, whatever x is. `out` may be `x`.
template <class T>
LOSSKIT_INLINE void weigh_any(const T* x, const double* factor, const float* mask, double scale, int64_t n, T* out) {
  if (factor && mask) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) out[i] = mask[i] != 0.0f ? static_cast<T>(x[i] * (factor[i] * scale)) : T(0);
  } else if (factor) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(x[i] * (factor[i] * scale));
  } else if (mask) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) out[i] = mask[i] != 0.0f ? static_cast<T>(x[i] * scale) : T(0);
  } else {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(x[i] * scale);
  }
}
LOSSKIT_CLONES inline void weigh(const float* x, const double* factor, const float* mask, double scale, int64_t n,
                                 float* out) {
  weigh_any(x, factor, mask, scale, n, out);
}
LOSSKIT_CLONES inline void weigh(const double* x, const double* factor, const float* mask, double scale, int64_t n,
                                 double* out) {
  weigh_any(x, factor, mask, scale, n, out);
}

LOSSKIT_CLONES inline void multiply(double* x, const double* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] *= y[i];
}

// The product of weight, sample_weight and upstream gradient over a block; null if there is none of them.
inline const double* factors(const Call& call, std::initializer_list<int> which, int64_t begin, int64_t n,
                             Weights& scratch) {
  const double* product = nullptr;
  for (const int source : which) {
    if (!call.sources[source].present()) continue;
    const double* more = fetch(call.walk, call.sources[source], begin, n, product ? scratch.more : scratch.factors);
    if (!product) {
      if (more != scratch.factors) std::copy(more, more + n, scratch.factors);
      product = scratch.factors;
    } else {
      multiply(scratch.factors, more, n);
    }
  }
  return product;
}

// NaN is let through.
template <class T> LOSSKIT_INLINE bool outside(const Domain& domain, T x) {
  if (domain.kind == kAnything) return false;
  if (domain.kind == kSigns) return (x != T(1)) & (x != T(-1)) & (x == x);
  const T low = static_cast<T>(domain.low), high = static_cast<T>(domain.high);
  return (x < low) | (x > high) | ((domain.open & 1) && x == low) | ((domain.open & 2) && x == high);
}

// How far rounding may exceed a closed bound, in the dtype of the operand; see losskit.domains.
inline double slack_of(DType dtype) {
  switch (dtype) {
    case DType::kHalf:
      return wire::kSlackUlps * 0x1p-10;
    case DType::kBFloat16:
      return wire::kSlackUlps * 0x1p-7;
    case DType::kFloat:
      return wire::kSlackUlps * 0x1p-23;
    case DType::kDouble:
      return wire::kSlackUlps * 0x1p-52;
    default:
      return 0;
  }
}

// x, or a closed bound that x exceeds by at most `slack`.
template <class T> const T* settled(const Domain& domain, double slack, const T* x, int64_t n, T* out) {
  const bool low = domain.kind == kInterval && !(domain.open & 1),
             high = domain.kind == kInterval && !(domain.open & 2);
  const T bottom = static_cast<T>(domain.low), top = static_cast<T>(domain.high);
  const T below = static_cast<T>(domain.low - slack), above = static_cast<T>(domain.high + slack);
  for (int64_t i = 0; i < n; ++i) {
    const T value = x[i];
    out[i] = low && value < bottom && value >= below ? bottom : high && value > top && value <= above ? top : value;
  }
  return out;
}

inline const float* mask_of(const Call& call, int64_t begin, int64_t n, Weights& scratch) {
  return call.sources[kMask].present() ? fetch(call.walk, call.sources[kMask], begin, n, scratch.mask) : nullptr;
}

// --------------------------------------------------------------------------------------------------------
// From tensors to a job

inline DType dtype_of(const Tensor& tensor) {
  int32_t dtype;
  aoti_torch_get_dtype(tensor.get(), &dtype);
  return static_cast<DType>(dtype);
}

inline bool known(DType dtype) {
  switch (dtype) {
    case DType::kByte:
    case DType::kChar:
    case DType::kShort:
    case DType::kInt:
    case DType::kLong:
    case DType::kHalf:
    case DType::kFloat:
    case DType::kDouble:
    case DType::kBool:
    case DType::kBFloat16:
    case DType::kUInt16:
    case DType::kUInt32:
      return true;
  }
  return false;
}

inline bool floating(DType dtype) {
  return dtype == DType::kHalf || dtype == DType::kFloat || dtype == DType::kDouble || dtype == DType::kBFloat16;
}

inline bool is_half(DType dtype) { return dtype == DType::kHalf || dtype == DType::kBFloat16; }

// The dtype of the result: torch's promotion among floating dtypes; integers and bools follow.
inline DType promote(DType a, DType b) {
  if (!floating(b)) return a;
  if (!floating(a) || a == b) return b;
  if (a == DType::kDouble || b == DType::kDouble) return DType::kDouble;
  return DType::kFloat;
}

// A tensor as a source of the walk over `full` sizes. False if it does not fit (a size of 1 may stretch if `stretch`).
inline bool attach(const Walk& walk, const int64_t* full, const Tensor& tensor, bool stretch, Source& source) {
  source.dtype = dtype_of(tensor);
  if (!known(source.dtype) || !tensor.is_cpu()) return false;
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  const int missing = walk.tensor_dims - static_cast<int>(sizes.size());
  if (missing < 0 || (missing > 0 && !stretch)) return false;
  for (int i = 0; i < walk.tensor_dims; ++i) {
    const int dim = walk.order[i], own = dim - missing;
    const int64_t size = own < 0 ? 1 : sizes[own];
    if (size != full[dim] && !(stretch && size == 1)) return false;
    source.strides[i] = own < 0 || (size == 1 && full[dim] != 1) ? 0 : strides[own];
  }
  source.data = static_cast<const char*>(tensor.data_ptr());
  if (!source.data) source.data = reinterpret_cast<const char*>(&walk);  // empty tensors: present, never read
  return true;
}

// Fresh memory in 4 KB pages costs about 3 ns per float on a virtual machine, ten times the loss itself.
inline void use_huge_pages(void* data, int64_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t kHuge = uintptr_t(2) << 20;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(data) + kHuge - 1) & ~(kHuge - 1);
  const uintptr_t last = (reinterpret_cast<uintptr_t>(data) + bytes) & ~(kHuge - 1);
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

// Out of memory, in the words of torch's allocator: tools that retry with a smaller batch look for these words.
struct OutOfMemory : std::runtime_error {
  explicit OutOfMemory(int64_t bytes)
      : std::runtime_error("DefaultCPUAllocator: can't allocate memory: losskit tried to allocate " +
                           (bytes > 0 ? std::to_string(bytes) + " bytes." : "more than there is.")) {}
};

inline Tensor allocate(int64_t dims, const int64_t* sizes, const int64_t* strides, DType dtype, int64_t numel) {
  AtenTensorHandle handle;
  const int64_t bytes = numel * size_of(dtype);
  if (aoti_torch_empty_strided(dims, sizes, strides, static_cast<int32_t>(dtype), aoti_torch_device_type_cpu(), 0,
                               &handle) != AOTI_TORCH_SUCCESS)
    throw OutOfMemory(bytes);
  Tensor tensor(handle);
  if (bytes >= (int64_t(2) << 20)) use_huge_pages(tensor.data_ptr(), bytes);
  return tensor;
}

using MaybeTensor = std::optional<Tensor>;
// The loss, gradients by the operands, and a status: 0, kDeclined, or what was violated.
using Result = std::tuple<MaybeTensor, MaybeTensor, MaybeTensor, MaybeTensor, MaybeTensor, int64_t>;

inline MaybeTensor& gradient_of(Result& result, int operand) {
  MaybeTensor* outputs[] = {&std::get<1>(result), &std::get<2>(result), &std::get<3>(result), &std::get<4>(result)};
  return *outputs[operand];
}

// Run the blocks, on several threads if there are more than `grain`. Out of memory is thrown again: torch only logs it.
inline void run_parallel(int64_t blocks, int64_t grain, void (*run)(int64_t, int64_t, void*), void* context) {
  if (blocks <= grain) return run(0, blocks, context);
  struct Threads {
    void (*run)(int64_t, int64_t, void*);
    void* context;
    std::atomic<bool> full{false};
  } threads{run, context};
  const auto part = [](int64_t begin, int64_t end, void* all) {
    auto& mine = *static_cast<Threads*>(all);
    try {
      mine.run(begin, end, mine.context);
    } catch (const std::bad_alloc&) {
      mine.full = true;
    }
  };
  STABLE_TORCH_ERROR_CODE_CHECK(torch_parallel_for(0, blocks, grain, part, &threads));
  if (threads.full) throw std::bad_alloc();
}

// Whether the storage of a tensor holds all its elements: freed storages (FSDP's, between uses) do not.
inline bool stored(const Tensor& tensor) {
  const DType dtype = dtype_of(tensor);
  if (!known(dtype) || !tensor.is_cpu() || tensor.numel() == 0) return true;
  int64_t bytes, last;
  aoti_torch_get_storage_size(tensor.get(), &bytes);
  aoti_torch_get_storage_offset(tensor.get(), &last);
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  for (size_t i = 0; i < sizes.size(); ++i) last += (sizes[i] - 1) * strides[i];
  return (last + 1) * size_of(dtype) <= bytes;
}

// An op, called if all its tensors can be read.
template <auto op>
Result guarded(int64_t kernel, int64_t code, Tensor a, MaybeTensor b, MaybeTensor c, MaybeTensor d, MaybeTensor weight,
               MaybeTensor sample_weight, MaybeTensor mask, MaybeTensor upstream, std::vector<double> numbers) {
  if (!stored(a)) return {{}, {}, {}, {}, {}, kFreed};
  for (const MaybeTensor* tensor : {&b, &c, &d, &weight, &sample_weight, &mask, &upstream})
    if (*tensor && !stored(**tensor)) return {{}, {}, {}, {}, {}, kFreed};
  try {
    return op(kernel, code, a, b, c, d, weight, sample_weight, mask, upstream, numbers);
  } catch (const std::bad_alloc&) {
    throw OutOfMemory(0);
  }
}

// Memory for the gradient by an operand, in the operand's dtype, if it is wanted.
inline void allocate_gradient(Call& call, Result& result, int operand, int64_t dims, const int64_t* sizes,
                              const int64_t* strides) {
  if (!((call.options.gradients >> operand) & 1)) return;
  DType& dtype = call.gradient_dtypes[operand];
  if (call.options.reduction == kElements && !call.sources[kUpstream].present() && is_half(dtype))
    dtype = DType::kFloat;
  int64_t numel = 1;
  for (int64_t i = 0; i < dims; ++i) numel *= sizes[i];
  MaybeTensor& gradient = gradient_of(result, operand);
  gradient = allocate(dims, sizes, strides, call.gradient_dtypes[operand], numel);
  call.gradients[operand] = static_cast<char*>(gradient->data_ptr());
  call.gradient_sizes[operand] = numel;
}

// Memory for the loss: a scalar, or an element for each element of the walk; none in backward.
inline void allocate_loss(Call& call, Result& result, int64_t dims, const int64_t* sizes, const int64_t* strides) {
  if (call.options.reduction != kElements) {
    std::get<0>(result) = allocate(0, nullptr, nullptr, call.result, 1);
  } else if (!call.sources[kUpstream].present()) {
    std::get<0>(result) = allocate(dims, sizes, strides, call.result, call.walk.numel);
    call.values = static_cast<char*>(std::get<0>(result)->data_ptr());
  }
}

// The denominator of a mean: the number of elements that count, or the sum of their weights.
inline double denominator(const Call& call) {
  const bool weighted = call.sources[kWeight].present() && call.options.weight_in_mean;
  const bool sampled = call.sources[kSampleWeight].present();
  if (!weighted && !sampled && !call.sources[kMask].present()) return static_cast<double>(call.walk.numel);
  Weights scratch;
  Sum total;
  for (int64_t begin = 0; begin < call.walk.numel; begin += kBlock) {
    const int64_t n = std::min(kBlock, call.walk.numel - begin);
    const float* mask = mask_of(call, begin, n, scratch);
    const double* factor = weighted ? factors(call, {kWeight, kSampleWeight}, begin, n, scratch)
                                    : factors(call, {kSampleWeight}, begin, n, scratch);
    if (factor && mask) weigh(factor, nullptr, mask, 1.0, n, scratch.factors);
    total.add(factor ? sum_block(factor, n) : sum_block(mask, n));
  }
  return total.value();
}

// Whether there is a number for everything: `first` of the call and its family, then the parameters of the formula.
inline bool complete(const std::vector<double>& numbers, size_t first) {
  return numbers.size() >= first && numbers.size() <= first + kMaxParameters;
}

// The factor of the gradients, from the denominator of a mean and the caller's factor.
inline void set_scale(Call& call, double denominator, double factor) {
  call.denominator = denominator;
  call.scale = denominator == 0.0 ? 0.0 : factor / denominator;
}

// The reduced loss from the sums of the blocks. The gradient of the mean over nothing is 0.
inline void finish(Call& call, Result& result) {
  const Options& options = call.options;
  if (options.reduction == kElements) return;
  Sum total;
  for (const Sum& sum : call.sums) total.add(sum);
  double value = total.value() / call.denominator;
  if (options.reduction == kMean && call.denominator == 0.0) {
    value = options.empty_is_zero ? 0.0 : std::numeric_limits<double>::quiet_NaN();
    for (int k = 0; k < kOperands; ++k)
      if (call.gradient_sizes[k] > 0)
        std::memset(call.gradients[k], 0, call.gradient_sizes[k] * size_of(call.gradient_dtypes[k]));
  }
  write_run(call.result, &value, 1, std::get<0>(result)->data_ptr());
}

}  // namespace losskit
