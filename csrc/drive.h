// What every op does around its loop: `drive` calls the steps of a job in order, and does what is the same for all.
//
// A job is a Call of the op's own, with
//   kFirstParameter      the position of the formula's first parameter in the numbers
//   bool read(in)        takes the operands: starts the walk, attaches sources, sets the result's dtype; else declined
//   void outputs(in, r)  memory for the gradients, by allocate_gradient; weights and mask are attached by now
//   Work divide()        what a block is, once everything else is known
// and, where those of Call do not serve,
//   double counted()     the denominator of a mean
//   bool odd()           whether operands that passed all checks look wrong; asked after the blocks
//   void conclude()      what is left to do after the blocks, before the sums are added
#pragma once

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <cstring>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>

#include "op.h"

#define LOSSKIT_OP_SCHEMA                                                                           \
  "(int kernel, int code, Tensor[] operands, Tensor? weight, Tensor? sample_weight, Tensor? mask, " \
  "Tensor? upstream, float[] numbers) -> (Tensor?, Tensor[], int)"

// Register `losskit::name`, a function of this namespace, and export it for direct calls.
#define LOSSKIT_OP(name)                                                                                    \
  STABLE_TORCH_LIBRARY_FRAGMENT(losskit, library) { library.def(#name LOSSKIT_OP_SCHEMA); }                 \
  STABLE_TORCH_LIBRARY_IMPL(losskit, CPU, library) {                                                        \
    library.impl(#name, TORCH_BOX(&losskit::dispatched<losskit::name>));                                    \
  }                                                                                                         \
  extern "C" __attribute__((visibility("default"))) void losskit_direct_##name(losskit::DirectCall& call) { \
    losskit::direct<losskit::name>(call);                                                                   \
  }

namespace losskit {

using StableTensor = torch::stable::Tensor;  // as torch's dispatcher gives them

// --------------------------------------------------------------------------------------------------------
// Memory

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

inline Made allocate(int64_t dims, const int64_t* sizes, const int64_t* strides, DType dtype, int64_t numel) {
  AtenTensorHandle handle;
  const int64_t bytes = numel * size_of(dtype);
  if (aoti_torch_empty_strided(dims, sizes, strides, static_cast<int32_t>(dtype), aoti_torch_device_type_cpu(), 0,
                               &handle) != AOTI_TORCH_SUCCESS)
    throw OutOfMemory(bytes);
  Made made(handle);
  if (bytes >= (int64_t(2) << 20)) use_huge_pages(made.data_ptr(), bytes);
  return made;
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
  Made& gradient = result.gradients[operand];
  gradient = allocate(dims, sizes, strides, call.gradient_dtypes[operand], numel);
  call.gradients[operand] = static_cast<char*>(gradient.data_ptr());
  call.gradient_sizes[operand] = numel;
}

// Memory for a gradient, laid out as a tensor is; its strides.
inline std::array<int64_t, kDims> allocate_like(Call& call, Result& result, int k, const Tensor& tensor) {
  Walk layout;
  start(layout, static_cast<int>(tensor.dim()), tensor.sizes().data(), tensor.strides().data());
  const auto dense = dense_strides(layout);
  allocate_gradient(call, result, k, layout.tensor_dims, tensor.sizes().data(), dense.data());
  return dense;
}

// Memory for the loss: a scalar, or an element for each element of the walk; none in backward.
inline void allocate_loss(Call& call, Result& result) {
  if (call.options.reduction != kElements) {
    result.loss = allocate(0, nullptr, nullptr, call.result, 1);
  } else if (!call.sources[kUpstream].present()) {
    const Walk& walk = call.walk;
    const auto strides = dense_strides(walk);
    result.loss = allocate(walk.tensor_dims, walk.tensor_sizes.data(), strides.data(), call.result, walk.numel);
    call.values = static_cast<char*>(result.loss.data_ptr());
  }
}

// --------------------------------------------------------------------------------------------------------
// The steps of a call

// The blocks of a call: how many, how many elements' time one takes, and what runs those from `begin` to `end`.
struct Work {
  int64_t blocks, cost;
  void (*run)(int64_t begin, int64_t end, void* job);
};
constexpr int64_t kGrain = 32768;  // elements that are worth another thread

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
  write_run(call.result, &value, 1, result.loss.data_ptr());
}

// The weights of rows, the mask and the upstream gradient as sources of the walk.
inline bool read_extras(Call& call, const Inputs& in) {
  const Tensor* extras[] = {in.sample_weight, in.mask, in.upstream};
  for (int k = 0; k < 3; ++k)
    if (extras[k] && !attach(call.walk, *extras[k], true, call.sources[kSampleWeight + k])) return false;
  return !in.mask || call.sources[kMask].dtype == DType::kBool;
}

// Whether there is a number for everything: `first` of the call and its family, then the parameters of the formula.
inline bool complete(std::span<const double> numbers, size_t first) {
  return numbers.size() >= first && numbers.size() <= first + kMaxParameters;
}

// The first bad value as a tensor of two numbers: its place, and itself. Both are integers if it is one.
inline Made record_of(const Sighting& seen) {
  return std::visit(
      [&]<class T>(T value) {
        const int64_t size = 2, step = 1;
        Made record = allocate(1, &size, &step, std::is_integral_v<T> ? DType::kLong : DType::kDouble, size);
        const T numbers[] = {static_cast<T>(seen.place), value};
        std::memcpy(record.data_ptr(), numbers, sizeof(numbers));
        return record;
      },
      seen.value);
}

template <class Job> Result drive(Job& job, const Inputs& in) {
  Result result;
  job.kernel = reinterpret_cast<const Kernel*>(in.kernel);
  job.options = Options(in.code);
  const Options& options = job.options;
  if (!complete(in.numbers, Job::kFirstParameter) || !job.read(in) || !read_extras(job, in)) return result;
  result.status = 0;
  std::copy(in.numbers.begin() + Job::kFirstParameter, in.numbers.end(), job.parameters);
  if (options.result_dtype >= 0) job.result = static_cast<DType>(options.result_dtype);
  job.outputs(in, result);
  allocate_loss(job, result);
  merge<kSources>(job.walk, job.sources);

  if (options.reduction == kSum) job.denominator = job.row;
  if (options.reduction == kMean) {
    const double given = in.numbers[kNormalizer];
    job.denominator = std::isnan(given) ? job.counted() : given * job.row;
  }
  job.scale = job.denominator == 0.0 ? 0.0 : in.numbers[kFactor] / job.denominator;

  const Work work = job.divide();
  job.sums.resize(work.blocks);
  run_parallel(work.blocks, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, work.cost)), work.run, &job);
  job.conclude();

  if (job.first.violation) return {record_of(job.first), {}, job.first.violation};
  if (options.checks != kOff && (job.suspicious || job.odd())) result.status = kSuspicious;
  finish(job, result);
  return result;
}

// Whether the storage of a tensor holds all its elements: freed storages (FSDP's, between uses) do not.
inline bool stored(const Tensor& tensor) {
  const DType dtype = dtype_of(tensor);
  if (!known(dtype) || !tensor.is_cpu() || tensor.numel() == 0) return true;
  int64_t last = tensor.offset;
  for (int64_t i = 0; i < tensor.dims; ++i) last += (tensor.of_sizes[i] - 1) * tensor.of_strides[i];
  return (last + 1) * size_of(dtype) <= tensor.bytes;
}

// An op, called if all its tensors can be read.
template <auto op> Result guarded(const Inputs& in) {
  Result result;
  if (in.operands.empty() || in.operands.size() > kOperands) return result;
  result.status = kFreed;
  for (const Tensor& tensor : in.operands)
    if (!stored(tensor)) return result;
  for (const Tensor* tensor : {in.weight, in.sample_weight, in.mask, in.upstream})
    if (tensor && !stored(*tensor)) return result;
  try {
    return op(in);
  } catch (const std::bad_alloc&) {
    throw OutOfMemory(0);
  }
}

// For a caller that knows torch's tensors. The gradients are those that were wanted, in order.
template <auto op> void direct(DirectCall& call) {
  Result result = guarded<op>({call.kernel,
                               call.code,
                               {call.operands, static_cast<size_t>(call.operand_count)},
                               call.weight,
                               call.sample_weight,
                               call.mask,
                               nullptr,
                               {call.numbers, static_cast<size_t>(call.number_count)}});
  call.loss = result.loss.release();
  call.gradient_count = 0;
  for (Made& gradient : result.gradients)
    if (gradient) call.gradients[call.gradient_count++] = gradient.release();
  call.status = result.status;
}

// What torch's stable interface tells of a tensor.
inline Tensor known_of(const StableTensor& tensor) {
  Tensor found{};
  found.handle = tensor.get();
  int32_t device;
  int64_t *sizes, *strides;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_sizes(found.handle, &sizes));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_strides(found.handle, &strides));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dim(found.handle, &found.dims));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_numel(found.handle, &found.elements));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(found.handle, &found.dtype));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(found.handle, &device));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(found.handle, &found.bytes));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_offset(found.handle, &found.offset));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(found.handle, &found.data));
  found.of_sizes = sizes, found.of_strides = strides;
  found.on_cpu = device == aoti_torch_device_type_cpu();
  return found;
}

// For torch's dispatcher.
template <auto op>
std::tuple<std::optional<StableTensor>, std::vector<StableTensor>, int64_t> dispatched(
    int64_t kernel, int64_t code, std::vector<StableTensor> operands, std::optional<StableTensor> weight,
    std::optional<StableTensor> sample_weight, std::optional<StableTensor> mask, std::optional<StableTensor> upstream,
    std::vector<double> numbers) {
  std::vector<Tensor> tensors;
  for (const StableTensor& operand : operands) tensors.push_back(known_of(operand));
  Tensor extras[4];
  const auto known = [&](const std::optional<StableTensor>& tensor, int k) -> const Tensor* {
    if (!tensor) return nullptr;
    extras[k] = known_of(*tensor);
    return extras + k;
  };
  Result result = guarded<op>(
      {kernel, code, tensors, known(weight, 0), known(sample_weight, 1), known(mask, 2), known(upstream, 3), numbers});
  std::optional<StableTensor> loss;
  std::vector<StableTensor> wanted;
  if (result.loss) loss.emplace(result.loss.release());
  for (Made& gradient : result.gradients)
    if (gradient) wanted.emplace_back(gradient.release());
  return {std::move(loss), std::move(wanted), result.status};
}

}  // namespace losskit
