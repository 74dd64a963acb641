// The loop of the element-wise family: one pass over memory for value, gradients and reduction.
//
// 1. Work is cut into blocks of kBlock elements. A block reads its operands (in place when they are contiguous
//    numbers of the compute type, else through a buffer in L1), checks their domains, calls the formula's block
//    function, and applies weights and mask. Nothing but the gradient touches fresh memory.
// 2. The compute type is double if an operand is, else float: halves are widened and rounded once, at the end.
// 3. A value a few ULP beyond a closed bound is moved onto it. Only blocks with a violation are searched for one.
// 4. The family's bits name operands whose violations are told but change nothing, and operands that are scores, and
//    look like probabilities if their first elements are all in [0, 1].
// 5. Denominators that depend on data (weights, masks) are summed first, so gradients are written scaled.
#include "op.h"

namespace losskit {
namespace {

struct Job : Call {
  std::vector<uint8_t> violations;  // by block: the operand outside its domain, plus one; or kSuspicious
  bool advised(int operand) const { return (wire::pointwise::advised(options.family) >> operand) & 1; }
  bool of_scores(int operand) const { return (wire::pointwise::scores(options.family) >> operand) & 1; }
};

template <class T> struct Scratch : Weights {
  alignas(64) T operands[kOperands][kBlock];
  alignas(64) T gradients[kOperands][kBlock];
  alignas(64) T values[kBlock];
};

// --------------------------------------------------------------------------------------------------------
// Passes over one block in L1

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
      if (domain.kind == kAnything || !violates(domain, x[k], mask, n)) continue;
      if (job.advised(k)) {
        job.violations[block] = kSuspicious;
        continue;
      }
      x[k] = settled(domain, slack_of(job.sources[k].dtype), x[k], n, scratch.operands[k]);
      if (violates(domain, x[k], mask, n)) violation = k + 1;
    }
    if (violation) job.violations[block] = static_cast<uint8_t>(violation);
    if (violation && options.checks == kRaise) return;
  }

  // The formula writes into the outputs themselves, unless conversion, weights or a mask must follow.
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

  if (violation) {  // checks("nan"): bad elements set their own results to NaN
    for (int64_t i = 0; i < n; ++i)
      for (int k = 0; k < job.operands; ++k)
        if (!job.advised(k) && outside(job.kernel->domains[k], x[k][i])) {
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

template <class T> void run_blocks(int64_t begin, int64_t end, void* context) {
  Scratch<T> scratch;
  for (int64_t block = begin; block < end; ++block) run_block<T>(*static_cast<Job*>(context), block, scratch);
}

// Whether the first elements of an operand, if there are 8 at least, are all in [0, 1].
bool in_unit_interval(const Job& job, int operand) {
  float first[64];
  if (job.walk.numel < 8) return false;
  for (const int64_t most : {int64_t(8), int64_t(64)}) {
    const int64_t n = std::min(most, job.walk.numel);
    const float* x = fetch(job.walk, job.sources[operand], 0, n, first);
    for (int64_t i = 0; i < n; ++i)
      if (!(x[i] >= 0.0f && x[i] <= 1.0f)) return false;
  }
  return true;
}

}  // namespace

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
    if (!attach(job.walk, sizes.data(), *operands[k], (options.broadcast >> k) & 1, job.sources[k])) return declined;
    dtype = promote(dtype, job.sources[k].dtype);
    job.gradient_dtypes[k] = job.sources[k].dtype;
    // The gradient's sum over broadcast dimensions must be rounded once, so Python passes a float in place of the half.
    const bool summed = (options.gradients >> k) & 1 && operands[k]->numel() != job.walk.numel;
    if (summed && is_half(job.sources[k].dtype)) return declined;
  }
  if (job.operands != job.kernel->operands || !floating(job.sources[0].dtype)) return declined;
  if (job.kernel->abi != kAbi || !complete(numbers, wire::pointwise::kFirstParameter)) return declined;
  const MaybeTensor* extras[] = {&weight, &sample_weight, &mask, &upstream};
  for (int k = 0; k < 4; ++k) {
    if (*extras[k] && !attach(job.walk, sizes.data(), **extras[k], true, job.sources[kWeight + k])) return declined;
  }
  if (mask && job.sources[kMask].dtype != DType::kBool) return declined;
  const int64_t numel = job.walk.numel;
  const int64_t row = options.rows ? sizes[sizes.size() - 1] : 1;
  if (row == 0) return declined;  // each row's loss is a mean over nothing
  merge<kSources>(job.walk, job.sources);

  job.result = options.result_dtype >= 0 ? static_cast<DType>(options.result_dtype) : dtype;
  std::copy(numbers.begin() + wire::pointwise::kFirstParameter, numbers.end(), job.parameters);
  double denominated = options.reduction == kSum && options.rows ? static_cast<double>(row) : 1.0;
  if (options.reduction == kMean) {
    // A normalizer counts rows where rows are the unit; elements are what is summed here.
    denominated = std::isnan(numbers[kNormalizer]) ? denominator(job) : numbers[kNormalizer] * static_cast<double>(row);
  }
  set_scale(job, denominated, numbers[kFactor]);

  Result result{{}, {}, {}, {}, {}, 0};
  for (int k = 0; k < job.operands; ++k) allocate_gradient(job, result, k, a.dim(), sizes.data(), strides.data());
  allocate_loss(job, result, a.dim(), sizes.data(), strides.data());

  const int64_t blocks = (numel + kBlock - 1) / kBlock;
  job.sums.resize(blocks);
  job.violations.resize(blocks);
  const auto run = dtype == DType::kDouble ? run_blocks<double> : run_blocks<float>;
  constexpr int64_t kGrain = 32;  // blocks, 32,768 elements, that are worth another thread
  run_parallel(blocks, kGrain, run, &job);

  int64_t& status = std::get<5>(result);
  if (options.checks != kOff) {
    for (const uint8_t violation : job.violations)
      if (violation && (options.checks == kRaise || violation == kSuspicious) && (status == 0 || violation < status))
        status = violation;
    for (int k = 0; k < job.operands; ++k)
      if (status == 0 && job.of_scores(k) && in_unit_interval(job, k)) status = kSuspicious;
  }

  finish(job, result);
  return result;
}

}  // namespace losskit

LOSSKIT_OP(pointwise)
