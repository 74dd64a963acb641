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
// 6. A tensor may be composed: its last dimension is components (the corners of a box), each an operand of the formula.
//    What Python says of a tensor holds for all its components.
// 7. Operands that come from memory are fetched while a formula of several loops is computed: a few lines of the next
//    block, then the loops of a part of this one, and so on. Lines of a whole block at once would be waited for; loops
//    over a whole block leave memory idle: KTO of a million numbers took 1.6 times as long. KTO of a hundred thousand
//    numbers, which come from a cache, took 0.8 of the time without, so `run_parts` asks how many bytes there are.
#include <numeric>

#include "drive.h"
#include "inside.h"
#include "primitives.h"
#include "transpose.h"

namespace losskit {
namespace {

struct Job : Call {
  static constexpr size_t kFirstParameter = wire::pointwise::kFirstParameter;
  DType compute = DType::kByte;    // the operands' dtypes, promoted
  int tensors[kOperands] = {};     // of an operand: the tensor that it is, or is a component of
  int64_t steps[kOperands] = {};   // of an operand: how many components its tensor has
  Domain domains[kOperands] = {};  // of the operands, for rows of this width
  int64_t width = 1;               // of rows
  std::vector<float> places;       // in a row
  int wanted = 0;                  // bits of the operands whose gradients are wanted
  int components(int tensor) const {
    const bool composed = (wire::pointwise::composed(options.family) >> tensor) & 1;
    return composed ? static_cast<int>(wire::pointwise::components(options.family)) : 1;
  }
  bool advised(int operand) const { return (wire::pointwise::advised(options.family) >> tensors[operand]) & 1; }
  bool of_scores(int operand) const { return (wire::pointwise::scores(options.family) >> tensors[operand]) & 1; }
  bool read(const Inputs& in);
  bool read_tensor(const Tensor& tensor, int place);
  bool attach_rows(const Tensor& tensor, Source& source) const;
  void read_position();
  double counted() const;
  void outputs(const Inputs& in, Result& result);
  Work divide();
  bool odd() const;
};

// Rows of a block's numbers are more than a page apart, by whole lines: a formula of two boxes reads and writes 17 of
// them at once, and a cache keeps 8 to 12 that are pages apart. What is more holds another row of repeated numbers.
template <class T> constexpr int64_t kApart = kBlock + kShort + 64 / sizeof(T);
template <class T> struct Scratch : Weights {
  alignas(64) T operands[kOperands][kApart<T>];
  bool repeated[kOperands] = {};  // whether operands[k] holds the numbers that all rows have, again and again
  Bounded<T> bounded[kOperands];  // the operands that have a domain
  int bounds = 0;
  alignas(64) T gradients[kOperands][kApart<T>];
  alignas(64) T values[kBlock], difference[kBlock];
};

// --------------------------------------------------------------------------------------------------------
// Passes over one block in L1

// Report the first of a block's values that are outside the domain of an operand.
template <class T> void report_block(Job& job, int operand, const T* x, const float* mask, int64_t begin, int64_t n) {
  int64_t first = std::numeric_limits<int64_t>::max(), at = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (!outside(job.domains[operand], x[i]) || (mask && mask[i] == 0.0f)) continue;
    const int64_t place = place_of(job.walk, begin + i);
    if (place < first) first = place, at = i;
  }
  double value = static_cast<double>(x[at]);  // settled, or a difference
  if (!job.domains[operand].back) value = *fetch(job.walk, job.sources[operand], begin + at, 1, &value);
  job.report({operand, first, operand + 1, first, value});
}

LOSSKIT_CLONES void subtract(const float* x, const float* y, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] - y[i];
}
LOSSKIT_CLONES void subtract(const double* x, const double* y, int64_t n, double* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] - y[i];
}

// What must be in the domain of an operand: itself, or its difference from another.
template <class T> const T* checked(const Job& job, int operand, const T* const* x, int64_t n, Scratch<T>& scratch) {
  const int back = job.domains[operand].back;
  if (!back) return x[operand];
  subtract(x[operand], x[operand - back], n, scratch.difference);
  return scratch.difference;
}

bool free(const Domain& domain) { return domain.kind == kAnything || domain.kind == kPosition; }

template <class T> void find_bounds(const Job& job, Scratch<T>& scratch) {
  for (int k = 0; k < job.operands; ++k)
    if (!free(job.domains[k]) && !job.domains[k].back)
      scratch.bounded[scratch.bounds++] = {nullptr, bound_of<T>(job.domains[k]), k};
}

// Whether all operands of a block are surely in their domains, but for those of which a difference must be. Numbers
// that are in each block are looked at once.
template <class T> bool all_inside(const T* const* x, int64_t n, Scratch<T>& scratch) {
  for (int i = 0; i < scratch.bounds; ++i) scratch.bounded[i].x = x[scratch.bounded[i].operand];
  if (scratch.bounds && !surely_inside(scratch.bounded, scratch.bounds, n)) return false;
  for (int i = scratch.bounds - 1; i >= 0; --i)
    if (scratch.repeated[scratch.bounded[i].operand]) scratch.bounded[i] = scratch.bounded[--scratch.bounds];
  return true;
}

template <class T> constexpr DType kOwn = sizeof(T) == 4 ? DType::kFloat : DType::kDouble;

// The operands of a block. The components of a tensor are read together where they lie side by side.
template <class T> void read_operands(const Job& job, int64_t begin, int64_t n, Scratch<T>& scratch, const T** x) {
  for (int k = 0, own; k < job.operands; k += own) {
    const Source* const source = &job.sources[k];
    own = static_cast<int>(job.steps[k]);
    const bool together =
        own > 1 && job.walk.dims <= 1 && source->dtype == kOwn<T> && source[1].data - source->data == sizeof(T);
    if (together) {
      const int64_t stride = job.walk.dims == 0 ? 0 : source->strides[0];
      const T* const from = reinterpret_cast<const T*>(source->data) + begin * stride;
      rows_to_tile(from, stride, n, own, scratch.operands[k], kApart<T>);
    }
    if (own == 1 && alike(job.walk, *source)) {
      if (!std::exchange(scratch.repeated[k], true))
        fetch(job.walk, *source, 0, kBlock + job.walk.sizes[1], scratch.operands[k]);
      x[k] = scratch.operands[k] + begin % job.walk.sizes[1];
      continue;
    }
    for (int c = k; c < k + own; ++c)
      x[c] = together ? scratch.operands[c] : fetch(job.walk, source[c - k], begin, n, scratch.operands[c]);
  }
}

// The gradients by an operand, or by all components of a tensor, from the formula's buffers to where they belong.
template <class T>
void write_gradients(const Job& job, int operand, int64_t begin, int64_t n, const Scratch<T>& scratch) {
  const int own = static_cast<int>(job.steps[operand]);
  const DType dtype = job.gradient_dtypes[operand];
  const int64_t size = size_of(dtype);
  char* const to = job.gradients[operand] + begin * own * size;
  if (own == 1) return write_run(dtype, scratch.gradients[operand], n, to);
  if (dtype == kOwn<T>)
    return tile_to_rows(scratch.gradients[operand], kApart<T>, n, own, reinterpret_cast<T*>(to), own);
  for (int c = 0; c < own; ++c) write_apart(dtype, scratch.gradients[operand + c], n, own, to + c * size);
}

constexpr int kStreams = 5;              // that come from memory, at least: the processor foresees fewer by itself
constexpr int64_t kCached = 16'000'000;  // bytes; what a call reads and writes up to there comes from caches

// The formula of a block, in parts where that is faster.
template <class T>
void run_parts(const Job& job, const Scratch<T>& scratch, int variant, int64_t begin, int64_t n, const T* const* x,
               double scale, T* value, T* const* gradient) {
  const char* ahead[2 * kOperands];
  int streams = 0;
  for (int k = 0; k < job.operands && begin + 2 * n <= job.walk.numel; ++k) {
    if (x[k] != scratch.operands[k] && !scratch.repeated[k]) ahead[streams++] = reinterpret_cast<const char*>(x[k] + n);
    if (gradient[k] != scratch.gradients[k]) ahead[streams++] = reinterpret_cast<const char*>(gradient[k] + n);
  }
  constexpr int64_t size = sizeof(T), kPart = 512 / size;
  if (streams < kStreams || job.walk.numel * streams * size < kCached)
    return run_formula(job, variant, n, x, scale, value, gradient);
  for (int64_t at = 0; at < n; at += kPart) {
    const int64_t own = std::min(kPart, n - at);
    for (int64_t i = at * size; i < (at + own) * size; i += 64)
      for (int k = 0; k < streams; ++k) __builtin_prefetch(ahead[k] + i);
    const T* in[kOperands] = {};
    T* out[kOperands] = {};
    for (int k = 0; k < job.operands; ++k) in[k] = x[k] + at, out[k] = gradient[k] + at;
    run_formula(job, variant, own, in, scale, value + at, out);
  }
}

template <class T> void run_block(Job& job, int64_t block, Scratch<T>& scratch) {
  const int64_t begin = block * kBlock;
  const int64_t n = std::min(kBlock, job.walk.numel - begin);
  const Options& options = job.options;

  const T* x[kOperands] = {};
  read_operands(job, begin, n, scratch, x);
  const float* mask = mask_of(job, begin, n, scratch);
  const double* factor = factors(job, {kWeight, kSampleWeight, kUpstream}, begin, n, scratch);

  int violation = 0;
  if (options.checks != kOff) {
    bool told = false;
    const bool inside = all_inside(x, n, scratch);
    for (int k = job.operands - 1; k >= 0; --k) {
      const Domain& domain = job.domains[k];
      if (free(domain) || (inside && !domain.back) || !violates(domain, checked(job, k, x, n, scratch), mask, n))
        continue;
      if (job.advised(k)) {
        told = true;
        continue;
      }
      if (!domain.back) x[k] = settled(domain, slack_of(job.sources[k].dtype), x[k], n, scratch.operands[k]);
      scratch.repeated[k] = false;
      if (violates(domain, checked(job, k, x, n, scratch), mask, n)) violation = k + 1;
    }
    if (violation && options.checks == kRaise)
      return report_block(job, violation - 1, checked(job, violation - 1, x, n, scratch), mask, begin, n);
    if (told && !violation) job.suspicious = true;
  }

  // The formula writes into the outputs themselves, unless conversion, weights or a mask must follow.
  const bool plain = !factor && !mask && !violation;
  T* value = scratch.values;
  if (job.values && plain && job.result == kOwn<T>) value = reinterpret_cast<T*>(job.values) + begin;
  T* gradient[kOperands];
  for (int k = 0; k < kOperands; ++k) {
    const bool in_place = job.gradients[k] && plain && job.gradient_dtypes[k] == kOwn<T> && job.steps[k] == 1;
    gradient[k] = in_place ? reinterpret_cast<T*>(job.gradients[k]) + begin : scratch.gradients[k];
  }
  const int variant = job.wanted == 0 ? kNone : job.wanted & ~job.kernel->predictions ? kAll : kPredictions;
  const double scale = plain ? job.scale : 1.0;
  if (job.kernel->several)
    run_parts(job, scratch, variant, begin, n, x, scale, value, gradient);
  else
    run_formula(job, variant, n, x, scale, value, gradient);

  if (violation) {  // checks("nan"): bad elements set their own results to NaN
    for (int k = 0; k < job.operands; ++k) {
      const T* tested = checked(job, k, x, n, scratch);
      for (int64_t i = 0; i < n; ++i)
        if (!job.advised(k) && outside(job.domains[k], tested[i])) {
          value[i] = std::numeric_limits<T>::quiet_NaN();
          for (int g = 0; g < kOperands; ++g) gradient[g][i] = value[i];
        }
    }
  }
  if (!job.sources[kUpstream].present()) {
    if (!plain) weigh(value, factor, mask, 1.0, n, value);
    if (options.reduction != kElements)
      job.sums[block] = sum_block(value, n);
    else if (value == scratch.values)
      write_run(job.result, value, n, job.values + begin * size_of(job.result));
  }
  for (int k = 0; k < job.operands; k += static_cast<int>(job.steps[k])) {
    if (!job.gradients[k] || gradient[k] != scratch.gradients[k]) continue;
    for (int c = 0; c < job.steps[k] && !plain; ++c)
      weigh(gradient[k + c], factor, mask, job.scale, n, gradient[k + c]);
    write_gradients(job, k, begin, n, scratch);
  }
}

template <class T> void run_blocks(int64_t begin, int64_t end, void* context) {
  Scratch<T> scratch;
  find_bounds(*static_cast<Job*>(context), scratch);
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

// A tensor as the operands that it is from `place` on.
bool Job::read_tensor(const Tensor& tensor, int place) {
  const int own = components(place);
  const bool composed = own > 1;
  if (operands + own > kOperands || (composed && (tensor.dim() == 0 || tensor.sizes()[tensor.dim() - 1] != own)))
    return false;
  Source& first = sources[operands];
  const bool differentiated = (options.gradients >> place) & 1;
  const bool rows = (kernel->per_row >> operands) & 1 && !composed && attach_rows(tensor, first);
  if (rows ? differentiated : !attach(walk, tensor, (options.broadcast >> place) & 1, first, composed)) return false;
  compute = promote(compute, first.dtype);
  // The gradient's sum over broadcast dimensions must be rounded once, so Python passes a float in place of the half.
  if (differentiated && tensor.numel() != walk.numel * own && is_half(first.dtype)) return false;
  const int64_t step = composed ? tensor.strides()[tensor.dim() - 1] * size_of(first.dtype) : 0;
  for (int component = 0; component < own; ++component, ++operands) {
    Source& source = sources[operands] = first;
    source.data += component * step;
    tensors[operands] = place, steps[operands] = own;
    wanted |= differentiated << operands;
  }
  return true;
}

// A tensor with a number for each row, of the shape of what is walked without its last dimension.
bool Job::attach_rows(const Tensor& tensor, Source& source) const {
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  if (static_cast<int>(sizes.size()) != walk.tensor_dims - 1 ||
      !std::equal(sizes.begin(), sizes.end(), walk.tensor_sizes.begin()))
    return false;
  source.dtype = dtype_of(tensor);
  if (!known(source.dtype) || !tensor.is_cpu()) return false;
  for (int i = 0; i < walk.tensor_dims; ++i)
    source.strides[i] = walk.order[i] == walk.tensor_dims - 1 ? 0 : strides[walk.order[i]];
  source.data = static_cast<const char*>(tensor.data_ptr());
  if (!source.data) source.data = reinterpret_cast<const char*>(&walk);  // empty: present, never read
  return true;
}

// The place of each element in its row, as an operand.
void Job::read_position() {
  Source& source = sources[operands];
  places.resize(width);
  std::iota(places.begin(), places.end(), 0.0f);
  source.data = reinterpret_cast<const char*>(places.data());
  for (int i = 0; i < walk.tensor_dims; ++i) source.strides[i] = walk.order[i] == walk.tensor_dims - 1;
  tensors[operands] = operands, steps[operands] = 1;
  ++operands;
}

bool Job::read(const Inputs& in) {
  const Tensor& a = in.operands[0];
  const int composed = components(0) > 1;
  const int dims = static_cast<int>(a.dim()) - composed;
  if (dims < 0 || dims > kDims || (options.rows && dims == 0)) return false;
  start(walk, dims, a.sizes().data(), a.strides().data());
  for (size_t k = 0; k < in.operands.size(); ++k)
    if (!read_tensor(in.operands[k], static_cast<int>(k))) return false;
  if (options.rows) width = a.sizes()[dims - 1];
  if (options.rows && operands < kOperands && kernel->domains[operands].kind == kPosition) read_position();
  std::copy(kernel->domains, kernel->domains + kOperands, domains);
  for (Domain& domain : domains)
    if (domain.kind == kPlaces) domain.high += static_cast<double>(width - 1);
  if (operands != kernel->operands || !floating(sources[0].dtype) || kernel->abi != kAbi) return false;
  if (in.weight && !attach(walk, *in.weight, true, sources[kWeight])) return false;
  result = compute;
  if (options.rows == kAveraged) row = static_cast<double>(width);
  return width != 0;  // else each row's loss is a mean over nothing
}

void Job::outputs(const Inputs& in, Result& out) {
  auto strides = dense_strides(walk);
  std::array<int64_t, kDims + 1> sizes{}, spread{};
  for (int k = 0; k < operands; k += static_cast<int>(steps[k])) {
    const int dims = walk.tensor_dims, own = static_cast<int>(steps[k]), tensor = tensors[k];
    for (int d = 0; d < dims; ++d) sizes[d] = walk.tensor_sizes[d], spread[d] = strides[d] * own;
    sizes[dims] = own, spread[dims] = 1;
    gradient_dtypes[tensor] = sources[k].dtype;
    allocate_gradient(*this, out, tensor, dims + (own > 1), sizes.data(), spread.data());
  }
  // From tensors to their operands, from the last on: a tensor stands before its operands.
  for (int k = operands - 1; k >= 0; --k) {
    const int tensor = tensors[k];
    int component = 0;
    while (component < k && tensors[k - component - 1] == tensor) ++component;
    gradient_dtypes[k] = gradient_dtypes[tensor], gradient_sizes[k] = component ? 0 : gradient_sizes[tensor];
    gradients[k] = gradients[tensor] ? gradients[tensor] + component * size_of(gradient_dtypes[k]) : nullptr;
  }
}

// How often the elements count in the denominator of the mean, by the formula's own function.
template <class T> double counted_by_formula(const Job& job) {
  Scratch<T> scratch;
  Sum total;
  T* const none[kOperands] = {};
  for (int64_t begin = 0; begin < job.walk.numel; begin += kBlock) {
    const int64_t n = std::min(kBlock, job.walk.numel - begin);
    const T* x[kOperands] = {};
    read_operands(job, begin, n, scratch, x);
    run_formula(job, kCounts, n, x, 1.0, scratch.values, none);
    const float* mask = mask_of(job, begin, n, scratch);
    const double* factor = factors(job, {kSampleWeight}, begin, n, scratch);
    if (factor || mask) weigh(scratch.values, factor, mask, 1.0, n, scratch.values);
    total.add(sum_block(scratch.values, n));
  }
  return total.value() * job.row;
}

double Job::counted() const {
  if (!kernel->f32[kCounts]) return Call::counted() / static_cast<double>(options.rows == kAdded ? width : 1);
  return compute == DType::kDouble ? counted_by_formula<double>(*this) : counted_by_formula<float>(*this);
}

Work Job::divide() {
  return {(walk.numel + kBlock - 1) / kBlock, kBlock,
          compute == DType::kDouble ? run_blocks<double> : run_blocks<float>};
}

// Whether scores look like probabilities.
bool Job::odd() const {
  for (int k = 0; k < operands; ++k)
    if (of_scores(k) && in_unit_interval(*this, k)) return true;
  return false;
}

}  // namespace

Result pointwise(const Inputs& in) {
  Job job;
  return drive(job, in);
}

}  // namespace losskit

LOSSKIT_OP(pointwise)
