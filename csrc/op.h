// What the ops of all families share: the options of a call, weights and masks of a block, tensors as sources. What
// happens around their loops is in drive.h.
//
// Every op has the same signature and the same result, so that one autograd node in Python serves them all:
//
//   op(int kernel, int code, Tensor[] operands, Tensor? weight, Tensor? sample_weight, Tensor? mask,
//      Tensor? upstream, float[] numbers) -> (loss, those gradients by the operands that were wanted, status)
//
// 1. `kernel` is the address of the formula's block functions (kernel.h), 0 for families that need none.
// 2. `code` holds everything that is not a tensor or a number; see Options. How it is packed says kernels/wire.py, from
//    which generated/wire.h is printed.
// 3. `numbers`: the normalizer (NaN: none), a factor of the gradients, the family's own, the parameters of the formula.
// 4. `upstream` makes the call the backward pass of reduction 'none': gradients only, each times the upstream one.
// 5. An op never raises for bad operands; it returns a status, and Python finds the words. kDeclined: it does not take
//    these shapes or dtypes, and computed nothing. kFreed: the memory of a tensor is gone; nothing was read. A positive
//    number names the violation; in place of the loss there is then the first bad value, see record_of in drive.h.
//    kSuspicious: the result is valid, but operands look wrong; Python looks closer.
// 6. With reduction 'none' and no upstream gradient, gradients are for an upstream gradient of 1. Gradients of halves
//    are then floats, because they are multiplied later and must keep their digits until then.
#pragma once

#include <algorithm>
#include <atomic>
#include <initializer_list>
#include <mutex>
#include <span>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "direct.h"
#include "kernel.h"
#include "layout.h"
#include "reduce.h"

namespace losskit {

using enum wire::Reduction;
using enum wire::Checks;
using enum wire::Rows;
using wire::kDeclined, wire::kFreed, wire::kSuspicious, wire::kMaxParameters;
using wire::kNormalizer, wire::kFactor;
static_assert(kOperands == wire::kMaxOperands);  // kernel.h goes to users, and wire.h does not

// Everything about a call that is not a tensor or a number.
struct Options {
  int64_t reduction, gradients, checks, rows;
  bool empty_is_zero;   // the mean over nothing: 0 instead of NaN
  bool weight_in_mean;  // `weight` counts in the denominator of the mean
  int result_dtype;     // -1: that of the operands
  int64_t broadcast;    // bits of the operands that may be broadcast
  int64_t family;       // what else the op's own family needs to know
  explicit Options(int64_t code)
      : reduction(wire::options::reduction(code)),
        gradients(wire::options::gradients(code)),
        checks(wire::options::checks(code)),
        rows(wire::options::rows(code)),
        empty_is_zero(wire::options::empty_is_zero(code)),
        weight_in_mean(wire::options::weight_in_mean(code)),
        result_dtype(static_cast<int>(wire::options::result(code)) - 1),
        broadcast(wire::options::broadcast(code)),
        family(wire::options::family(code)) {}
};

// A bad value: what is wrong, its place in the flattened operand, and itself. What a place counts, where an operand's
// order would not do, is said in `sighted` of the family's plan.
struct Sighting {
  int64_t rank = 0, order = 0;  // that of the lowest rank is told, of one rank that of the lowest order
  int64_t violation = 0;        // 0: there is none
  int64_t place = 0;
  std::variant<double, int64_t> value;
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
  double row = 1.0;                     // a sum is divided by it, and a normalizer counts as often: see Options::rows
  std::vector<Sum> sums;                // a sum per block
  Sighting first;                       // of the values that are refused
  std::atomic<bool> suspicious{false};  // a block has seen something that is told, but not refused

  // Takes note of a bad value; blocks may call it from several threads.
  void report(const Sighting& seen) {
    const std::lock_guard<std::mutex> alone(turn);
    if (first.violation == 0 || std::tie(seen.rank, seen.order) < std::tie(first.rank, first.order)) first = seen;
  }

  // What drive.h asks of a job.
  double counted() const;
  bool odd() const { return false; }
  void conclude() {}

 private:
  std::mutex turn;
};

// The kernel's formula of n elements, in the type of the operands; variant: which gradients it writes.
template <class T>
inline void run_formula(const Call& call, int variant, int64_t n, const T* const* operands, double scale, T* values,
                        T* const* gradients) {
  T parameters[kMaxParameters];
  std::copy(call.parameters, call.parameters + kMaxParameters, parameters);
  if constexpr (sizeof(T) == 4)
    call.kernel->f32[variant](n, operands, parameters, scale, values, gradients);
  else
    call.kernel->f64[variant](n, operands, parameters, scale, values, gradients);
}

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
  if (domain.kind == kAnything || domain.kind == kPosition) return false;
  if (domain.kind == kSigns) return (x != T(1)) & (x != T(-1)) & (x == x);
  const T low = static_cast<T>(domain.low), high = static_cast<T>(domain.high);
  if (domain.kind == kPlaces) return (x < low) | (x > high) | ((x != std::floor(x)) & (x == x));
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

// The denominator of a mean: the number of elements that count, or the sum of their weights.
inline double Call::counted() const {
  const Call& call = *this;
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

// --------------------------------------------------------------------------------------------------------
// From tensors to a job

inline DType dtype_of(const Tensor& tensor) { return static_cast<DType>(tensor.dtype); }

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

// A tensor, but its last `left` dimensions, as a source of the walk, before merge(). False if it does not fit (a size
// of 1 may stretch if `stretch`).
inline bool attach(const Walk& walk, const Tensor& tensor, bool stretch, Source& source, int left = 0) {
  source.dtype = dtype_of(tensor);
  if (!known(source.dtype) || !tensor.is_cpu()) return false;
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  const int missing = walk.tensor_dims - (static_cast<int>(sizes.size()) - left);
  if (missing < 0 || (missing > 0 && !stretch)) return false;
  for (int i = 0; i < walk.tensor_dims; ++i) {
    const int own = walk.order[i] - missing;
    const int64_t size = own < 0 ? 1 : sizes[own], full = walk.tensor_sizes[walk.order[i]];
    if (size != full && !(stretch && size == 1)) return false;
    source.strides[i] = own < 0 || (size == 1 && full != 1) ? 0 : strides[own];
  }
  source.data = static_cast<const char*>(tensor.data_ptr());
  if (!source.data) source.data = reinterpret_cast<const char*>(&walk);  // empty tensors: present, never read
  return true;
}

// A tensor that an op has made, or none.
class Made {
 public:
  Made() = default;
  explicit Made(AtenTensorHandle handle) : handle(handle) {}
  Made(Made&& other) noexcept : handle(other.release()) {}
  Made& operator=(Made&& other) noexcept {
    std::swap(handle, other.handle);
    return *this;
  }
  ~Made() {
    if (handle) aoti_torch_delete_tensor_object(handle);
  }
  explicit operator bool() const { return handle != nullptr; }
  AtenTensorHandle release() { return std::exchange(handle, nullptr); }
  void* data_ptr() const {
    void* data = nullptr;
    aoti_torch_get_data_ptr(handle, &data);
    return data;
  }

 private:
  AtenTensorHandle handle = nullptr;
};

// Another name of a tensor that was given.
inline Made again(const Tensor& tensor) {
  AtenTensorHandle handle = nullptr;
  aoti_torch_new_tensor_handle(tensor.handle, &handle);
  return Made(handle);
}

// What an op finds. The status is 0, kDeclined, or what was violated.
struct Result {
  Made loss, gradients[kOperands];
  int64_t status = kDeclined;
};

// What an op is given, in the order of its schema.
struct Inputs {
  int64_t kernel, code;
  std::span<const Tensor> operands;
  const Tensor *weight, *sample_weight, *mask, *upstream;  // nullptr: None
  std::span<const double> numbers;
};

}  // namespace losskit
