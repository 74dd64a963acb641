// The loop of the element-wise family: one pass over memory for value, gradients and reduction.
//
// 1. Work is cut into blocks of kBlock elements. A block reads its operands (in place when they are contiguous
//    numbers of the compute type, else through a buffer in L1), checks their domains, calls the formula's block
//    function, and applies weights and mask. Nothing but the gradient touches fresh memory.
// 2. The compute type is double if an operand is, else float: halves are widened and rounded once, at the end.
// 3. Denominators that depend on data (weights, masks) are summed first, so gradients are written scaled.
// 4. The op says with its status what it could not do, instead of raising: shapes or dtypes it does not take
//    (kDeclined), or operand `status - 1` outside its domain. Python then finds the words.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <optional>
#include <tuple>
#include <vector>

#include "kernel.h"
#include "layout.h"
#include "reduce.h"

namespace losskit {
namespace {

using torch::stable::Tensor;

enum Reduction { kElements = 0, kMean = 1, kSum = 2 };
enum Checks { kOff = 0, kNan = 1, kRaise = 2 };
constexpr int64_t kDeclined = -1;
constexpr int kMaxParameters = 8;

// Everything about a call that is not a tensor or a number, packed by losskit.kernels.fused.
struct Options {
  int reduction, gradients, checks;
  bool empty_is_zero;   // the mean over nothing: 0 instead of NaN
  bool weight_in_mean;  // `weight` counts in the denominator of the mean
  bool rows;            // a row's loss is the mean over its last dimension
  int result_dtype;     // -1: that of the operands
  int broadcast;        // bits of the operands that may be broadcast
  explicit Options(int64_t code)
      : reduction(code & 3),
        gradients((code >> 2) & 15),
        checks((code >> 6) & 3),
        empty_is_zero((code >> 8) & 1),
        weight_in_mean((code >> 9) & 1),
        rows((code >> 10) & 1),
        result_dtype(static_cast<int>((code >> 11) & 63) - 1),
        broadcast((code >> 17) & 15) {}
};

// Positions in the array of sources.
enum { kWeight = kOperands, kSampleWeight, kMask, kUpstream, kSources };

struct Job {
  Walk walk;
  std::array<Source, kSources> sources;
  const Kernel* kernel = nullptr;
  Options options{0};
  int operands = 0;
  double parameters[kMaxParameters] = {};
  double scale = 1.0;  // of the gradients: 1/N of the mean and the like
  DType result = DType::kFloat;
  char* values = nullptr;  // reduction 'none'
  char* gradients[kOperands] = {};
  DType gradient_dtypes[kOperands] = {};
  std::vector<Sum> sums;  // a sum per block
  std::vector<uint8_t> violations;
};

template <class T> struct Scratch {
  alignas(64) T operands[kOperands][kBlock];
  alignas(64) T gradients[kOperands][kBlock];
  alignas(64) T values[kBlock];
  alignas(64) double factors[kBlock];
  alignas(64) double more[kBlock];
  alignas(64) float mask[kBlock];
};

// --------------------------------------------------------------------------------------------------------
// Passes over one block in L1

template <class T> LOSSKIT_INLINE bool outside(const Domain& domain, T x) {
  if (domain.kind == kSigns) return (x != T(1)) & (x != T(-1)) & (x == x);
  const T low = static_cast<T>(domain.low), high = static_cast<T>(domain.high);
  return (x < low) | (x > high) | ((domain.open & 1) && x == low) | ((domain.open & 2) && x == high);
}

template <class T> LOSSKIT_INLINE bool any_outside(const Domain& domain, const T* x, const float* mask, int64_t n) {
  int32_t bad = 0;
  if (mask) {
    for (int64_t i = 0; i < n; ++i) bad |= outside(domain, x[i]) & (mask[i] != 0.0f);
  } else if (domain.kind == kSigns) {
    for (int64_t i = 0; i < n; ++i) bad |= (x[i] != T(1)) & (x[i] != T(-1)) & (x[i] == x[i]);
  } else if (domain.open == 0) {
    const T low = static_cast<T>(domain.low), high = static_cast<T>(domain.high);
    for (int64_t i = 0; i < n; ++i) bad |= (x[i] < low) | (x[i] > high);
  } else {
    for (int64_t i = 0; i < n; ++i) bad |= outside(domain, x[i]);
  }
  return bad != 0;
}

LOSSKIT_CLONES bool violates(const Domain& domain, const float* x, const float* mask, int64_t n) {
  return any_outside(domain, x, mask, n);
}
LOSSKIT_CLONES bool violates(const Domain& domain, const double* x, const float* mask, int64_t n) {
  return any_outside(domain, x, mask, n);
}

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
LOSSKIT_CLONES void weigh(const float* x, const double* factor, const float* mask, double scale, int64_t n,
                          float* out) {
  weigh_any(x, factor, mask, scale, n, out);
}
LOSSKIT_CLONES void weigh(const double* x, const double* factor, const float* mask, double scale, int64_t n,
                          double* out) {
  weigh_any(x, factor, mask, scale, n, out);
}

LOSSKIT_CLONES void multiply(double* x, const double* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] *= y[i];
}

// The product of weight, sample_weight and upstream gradient over a block; null if there is none of them.
template <class T>
const double* factors(const Job& job, std::initializer_list<int> which, int64_t begin, int64_t n, Scratch<T>& scratch) {
  const double* product = nullptr;
  for (const int source : which) {
    if (!job.sources[source].present()) continue;
    const double* more = fetch(job.walk, job.sources[source], begin, n, product ? scratch.more : scratch.factors);
    if (!product) {
      if (more != scratch.factors) std::copy(more, more + n, scratch.factors);
      product = scratch.factors;
    } else {
      multiply(scratch.factors, more, n);
    }
  }
  return product;
}

template <class T> const float* mask_of(const Job& job, int64_t begin, int64_t n, Scratch<T>& scratch) {
  return job.sources[kMask].present() ? fetch(job.walk, job.sources[kMask], begin, n, scratch.mask) : nullptr;
}

template <class T> void run_block(Job& job, int64_t block, Scratch<T>& scratch) {
  constexpr DType own = sizeof(T) == 4 ? DType::kFloat : DType::kDouble;
  const int64_t begin = block * kBlock;
  const int64_t n = std::min(kBlock, job.walk.numel - begin);
  const Options& options = job.options;

  const T* x[kOperands] = {};
  for (int k = 0; k < job.operands; ++k) x[k] = fetch(job.walk, job.sources[k], begin, n, scratch.operands[k]);
  const float* mask = mask_of(job, begin, n, scratch);
  const double* factor = factors(job, {kWeight, kSampleWeight, kUpstream}, begin, n, scratch);

  int violation = 0;
  if (options.checks != kOff) {
    for (int k = job.operands - 1; k >= 0; --k) {
      const Domain& domain = job.kernel->domains[k];
      if (domain.kind != kAnything && violates(domain, x[k], mask, n)) violation = k + 1;
    }
    job.violations[block] = static_cast<uint8_t>(violation);
    if (violation && options.checks == kRaise) return;
  }

  // The formula writes where the numbers belong if nothing needs to be done to them afterwards.
  const bool plain = !factor && !mask && !violation;
  T* value = scratch.values;
  if (job.values && plain && job.result == own) value = reinterpret_cast<T*>(job.values) + begin;
  T* gradient[kOperands];
  for (int k = 0; k < kOperands; ++k) {
    const bool in_place = job.gradients[k] && plain && job.gradient_dtypes[k] == own;
    gradient[k] = in_place ? reinterpret_cast<T*>(job.gradients[k]) + begin : scratch.gradients[k];
  }
  T parameters[kMaxParameters];
  for (int k = 0; k < kMaxParameters; ++k) parameters[k] = static_cast<T>(job.parameters[k]);
  const int variant = options.gradients == 0                         ? kNone
                      : options.gradients & ~job.kernel->predictions ? kAll
                                                                     : kPredictions;
  const auto& function = [&] {
    if constexpr (sizeof(T) == 4)
      return job.kernel->f32;
    else
      return job.kernel->f64;
  }()[variant];
  function(n, x, parameters, plain ? job.scale : 1.0, value, gradient);

  if (violation) {  // checks("nan"): the offending elements poison their own results
    for (int64_t i = 0; i < n; ++i)
      for (int k = 0; k < job.operands; ++k)
        if (job.kernel->domains[k].kind != kAnything && outside(job.kernel->domains[k], x[k][i])) {
          value[i] = std::numeric_limits<T>::quiet_NaN();
          for (int g = 0; g < kOperands; ++g) gradient[g][i] = value[i];
        }
  }
  if (!job.sources[kUpstream].present()) {
    if (!plain) weigh(value, factor, mask, 1.0, n, value);
    if (options.reduction != kElements)
      job.sums[block] = sum_block(value, n);
    else if (value == scratch.values)
      write_run(job.result, value, n, job.values + begin * size_of(job.result));
  }
  for (int k = 0; k < job.operands; ++k) {
    if (!job.gradients[k] || gradient[k] != scratch.gradients[k]) continue;
    if (!plain) weigh(gradient[k], factor, mask, job.scale, n, gradient[k]);
    write_run(job.gradient_dtypes[k], gradient[k], n, job.gradients[k] + begin * size_of(job.gradient_dtypes[k]));
  }
}

// The weights that count in the denominator of the mean, summed; the number of elements where there are none.
double denominator(Job& job, Scratch<float>& scratch) {
  const bool weighted = job.sources[kWeight].present() && job.options.weight_in_mean;
  const bool sampled = job.sources[kSampleWeight].present();
  if (!weighted && !sampled && !job.sources[kMask].present()) return static_cast<double>(job.walk.numel);
  Sum total;
  for (int64_t begin = 0; begin < job.walk.numel; begin += kBlock) {
    const int64_t n = std::min(kBlock, job.walk.numel - begin);
    const float* mask = mask_of(job, begin, n, scratch);
    const double* factor = weighted ? factors(job, {kWeight, kSampleWeight}, begin, n, scratch)
                                    : factors(job, {kSampleWeight}, begin, n, scratch);
    if (!factor) {
      total.add(sum_block(mask, n));
    } else {
      if (mask) weigh(factor, nullptr, mask, 1.0, n, scratch.factors);
      total.add(sum_block(scratch.factors, n));
    }
  }
  return total.value();
}

template <class T> void run_blocks(int64_t begin, int64_t end, void* context) {
  Scratch<T> scratch;
  for (int64_t block = begin; block < end; ++block) run_block<T>(*static_cast<Job*>(context), block, scratch);
}

// --------------------------------------------------------------------------------------------------------
// From tensors to a job

DType dtype_of(const Tensor& tensor) {
  int32_t dtype;
  aoti_torch_get_dtype(tensor.get(), &dtype);
  return static_cast<DType>(dtype);
}

bool known(DType dtype) {
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

bool floating(DType dtype) {
  return dtype == DType::kHalf || dtype == DType::kFloat || dtype == DType::kDouble || dtype == DType::kBFloat16;
}

// The dtype of the result: torch's promotion among floating dtypes; integers and bools follow.
DType promote(DType a, DType b) {
  if (!floating(b)) return a;
  if (!floating(a) || a == b) return b;
  if (a == DType::kDouble || b == DType::kDouble) return DType::kDouble;
  return DType::kFloat;
}

// A tensor as a source of the walk. False if its sizes do not fit (a size of 1 may stretch if `stretch`).
bool attach(const Walk& walk, const Tensor& like, const Tensor& tensor, bool stretch, Source& source) {
  source.dtype = dtype_of(tensor);
  if (!known(source.dtype) || !tensor.is_cpu()) return false;
  const auto sizes = tensor.sizes(), strides = tensor.strides(), full = like.sizes();
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
void use_huge_pages(void* data, int64_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t kHuge = uintptr_t(2) << 20;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(data) + kHuge - 1) & ~(kHuge - 1);
  const uintptr_t last = (reinterpret_cast<uintptr_t>(data) + bytes) & ~(kHuge - 1);
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

Tensor allocate(int64_t dims, const int64_t* sizes, const int64_t* strides, DType dtype, int64_t numel) {
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(dims, sizes, strides, static_cast<int32_t>(dtype),
                                                         aoti_torch_device_type_cpu(), 0, &handle));
  Tensor tensor(handle);
  const int64_t bytes = numel * size_of(dtype);
  if (bytes >= (int64_t(4) << 20)) use_huge_pages(tensor.data_ptr(), bytes);
  return tensor;
}

using MaybeTensor = std::optional<Tensor>;
using Result = std::tuple<MaybeTensor, MaybeTensor, MaybeTensor, MaybeTensor, MaybeTensor, int64_t>;

// numbers: the normalizer (NaN: none), a factor of the gradients, then the parameters of the formula.
// `upstream` makes this the backward pass of reduction 'none': gradients only, each times the upstream gradient.
Result pointwise(int64_t kernel, int64_t code, Tensor a, MaybeTensor b, MaybeTensor c, MaybeTensor d,
                 MaybeTensor weight, MaybeTensor sample_weight, MaybeTensor mask, MaybeTensor upstream,
                 std::vector<double> numbers) {
  const Result declined{{}, {}, {}, {}, {}, kDeclined};
  Job job;
  job.kernel = reinterpret_cast<const Kernel*>(kernel);
  job.options = Options(code);
  const Options& options = job.options;
  if (a.dim() > kDims || (options.rows && a.dim() == 0)) return declined;
  const auto sizes = a.sizes();
  start(job.walk, static_cast<int>(a.dim()), sizes.data(), a.strides().data());
  const auto strides = dense_strides(job.walk);

  const Tensor* operands[kOperands] = {&a, b ? &*b : nullptr, c ? &*c : nullptr, d ? &*d : nullptr};
  DType dtype = DType::kByte;
  for (; job.operands < kOperands && operands[job.operands]; ++job.operands) {
    const int k = job.operands;
    if (!attach(job.walk, a, *operands[k], (options.broadcast >> k) & 1, job.sources[k])) return declined;
    dtype = promote(dtype, job.sources[k].dtype);
    job.gradient_dtypes[k] = job.sources[k].dtype;
  }
  if (job.operands != job.kernel->operands || !floating(job.sources[0].dtype)) return declined;
  if (job.kernel->abi != kAbi || numbers.size() < 2 || numbers.size() > 2 + kMaxParameters) return declined;
  const MaybeTensor* extras[] = {&weight, &sample_weight, &mask, &upstream};
  for (int k = 0; k < 4; ++k) {
    if (*extras[k] && !attach(job.walk, a, **extras[k], true, job.sources[kWeight + k])) return declined;
  }
  if (mask && job.sources[kMask].dtype != DType::kBool) return declined;
  const int64_t numel = job.walk.numel;
  const int64_t row = options.rows ? sizes[sizes.size() - 1] : 1;
  merge<kSources>(job.walk, job.sources);

  job.result = options.result_dtype >= 0 ? static_cast<DType>(options.result_dtype) : dtype;
  std::copy(numbers.begin() + 2, numbers.end(), job.parameters);
  double denominated = 1.0;
  if (options.reduction == kMean) {
    Scratch<float> scratch;
    // A normalizer counts rows where rows are the unit; elements are what is summed here.
    denominated = std::isnan(numbers[0]) ? denominator(job, scratch) : numbers[0] * static_cast<double>(row);
    job.scale = denominated == 0.0 ? 0.0 : 1.0 / denominated;
  } else if (options.reduction == kSum && options.rows) {
    denominated = static_cast<double>(row);
    job.scale = 1.0 / denominated;
  }
  job.scale *= numbers[1];

  Result result{{}, {}, {}, {}, {}, 0};
  MaybeTensor* outputs[] = {&std::get<1>(result), &std::get<2>(result), &std::get<3>(result), &std::get<4>(result)};
  for (int k = 0; k < job.operands; ++k) {
    if (!((options.gradients >> k) & 1)) continue;
    *outputs[k] = allocate(a.dim(), sizes.data(), strides.data(), job.gradient_dtypes[k], numel);
    job.gradients[k] = static_cast<char*>((*outputs[k])->data_ptr());
  }
  MaybeTensor& loss = std::get<0>(result);
  if (options.reduction != kElements) {
    loss = allocate(0, nullptr, nullptr, job.result, 1);
  } else if (!upstream) {
    loss = allocate(a.dim(), sizes.data(), strides.data(), job.result, numel);
    job.values = static_cast<char*>(loss->data_ptr());
  }

  const int64_t blocks = (numel + kBlock - 1) / kBlock;
  job.sums.resize(blocks);
  job.violations.resize(blocks);
  const auto run = dtype == DType::kDouble ? run_blocks<double> : run_blocks<float>;
  constexpr int64_t kGrain = 32;  // blocks: a thread is woken for 32,768 elements or more
  if (blocks <= kGrain)
    run(0, blocks, &job);
  else
    STABLE_TORCH_ERROR_CODE_CHECK(torch_parallel_for(0, blocks, kGrain, run, &job));

  int64_t& status = std::get<5>(result);
  if (options.checks == kRaise) {
    for (const uint8_t violation : job.violations)
      if (violation && (status == 0 || violation < status)) status = violation;
  }

  if (options.reduction != kElements) {
    Sum total;
    for (const Sum& sum : job.sums) total.add(sum);
    double value = total.value() / denominated;
    if (options.reduction == kMean && denominated == 0.0) {
      value = options.empty_is_zero ? 0.0 : std::numeric_limits<double>::quiet_NaN();
      for (int k = 0; k < job.operands; ++k)
        if (job.gradients[k]) std::memset(job.gradients[k], 0, numel * size_of(job.gradient_dtypes[k]));
    }
    write_run(job.result, &value, 1, loss->data_ptr());
  }
  return result;
}

}  // namespace
}  // namespace losskit

STABLE_TORCH_LIBRARY(losskit, library) {
  library.def(
      "pointwise(int kernel, int code, Tensor a, Tensor? b, Tensor? c, Tensor? d, Tensor? weight, "
      "Tensor? sample_weight, Tensor? mask, Tensor? upstream, float[] numbers) "
      "-> (Tensor?, Tensor?, Tensor?, Tensor?, Tensor?, int)");
}

STABLE_TORCH_LIBRARY_IMPL(losskit, CPU, library) { library.impl("pointwise", TORCH_BOX(&losskit::pointwise)); }
