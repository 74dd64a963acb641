// The loop of the embeddings family: rows of two or three tensors -> statistics of each row -> a formula of them.
//
// 1. A formula never sees embeddings. Its operands are statistics of a row (the cosine of two embeddings, their
//    distance, ...) and the target; the family bits of the code say which. So a new loss of the family is a new
//    formula.
// 2. Statistics are doubles and the formula runs in double whatever the dtype: rows are few, and `dp - dn + margin`
//    keeps the digits that the statistics have.
// 3. A block of rows stays in cache: one pass makes the sums of the rows, the formula gives value and slopes, a second
//    pass writes the gradients by the embeddings, already scaled.
// 4. Roots and divisions of a row take longer than the sums of a short one, so they run over all rows of a block.
// 5. Each row of floats takes the usual way unless that would cost digits.
//
// numbers: normalizer, factor, p, eps, parameters of the formula. Operands: two or three embeddings, then the target.
// Violation 1: a value outside the domain of the target.
#include "embeddings_rows.h"

namespace losskit {
namespace {

// Where rows [begin, begin + n) of a source start, in elements.
void locate(const Walk& walk, const Source& source, int64_t begin, int64_t n, int64_t* offsets) {
  std::array<int64_t, kDims> index{};
  int64_t rest = begin, offset = 0;
  for (int d = walk.dims - 1; d >= 0; --d) {
    index[d] = rest % walk.sizes[d];
    rest /= walk.sizes[d];
    offset += index[d] * source.strides[d];
  }
  for (int64_t i = 0; i < n; ++i) {
    offsets[i] = offset;
    for (int d = walk.dims - 1; d >= 0; --d) {
      offset += source.strides[d];
      if (++index[d] < walk.sizes[d]) break;
      offset -= index[d] * source.strides[d];
      index[d] = 0;
    }
  }
}

// Rows as contiguous T: in place if they are, else copied.
template <class T> void read_rows(const Job& job, int64_t begin, int64_t n, Scratch<T>& scratch) {
  constexpr DType own = sizeof(T) == 4 ? DType::kFloat : DType::kDouble;
  for (int k = 0; k < job.embeddings; ++k) {
    const Source& source = job.sources[k];
    locate(job.walk, source, begin, n, scratch.offsets);
    const bool in_place = source.dtype == own && job.steps[k] == 1;
    if (!in_place) scratch.read[k].resize(n * job.width);
    for (int64_t i = 0; i < n; ++i) {
      const char* data = source.data + scratch.offsets[i] * size_of(source.dtype);
      if (in_place) {
        scratch.x[k][i] = reinterpret_cast<const T*>(data);
      } else {
        T* row = scratch.read[k].data() + i * job.width;
        read_run(source.dtype, data, job.steps[k], job.width, row);
        scratch.x[k][i] = row;
      }
    }
  }
}

// The memory of a block's gradients: their own if they are T, else buffers.
template <class T> void place_gradients(const Job& job, int64_t begin, int64_t n, Scratch<T>& scratch) {
  constexpr DType own = sizeof(T) == 4 ? DType::kFloat : DType::kDouble;
  for (int k = 0; k < job.embeddings; ++k) {
    const bool in_place = job.gradients[k] && job.gradient_dtypes[k] == own;
    scratch.written[k].resize(in_place ? 0 : job.gradients[k] ? n * job.width : job.width);
    scratch.gradients[k] =
        in_place ? reinterpret_cast<T*>(job.gradients[k]) + begin * job.width : scratch.written[k].data();
    scratch.stride[k] = job.gradients[k] ? job.width : 0;
  }
}

// If both distances overflow, only their order can be decided: the larger stays infinite, the smaller becomes 0.
void compare_infinite(const Job& job, int64_t n, Rows& rows, double* positive, double* negative) {
  for (int64_t i = 0; i < n; ++i) {
    if (positive[i] != infinity<double> || negative[i] != infinity<double>) continue;
    const double ab = rows.distances[kAB][i].magnitude();
    double other = rows.distances[kAC][i].magnitude();
    if (job.swap) other = minimum(other, rows.distances[kBC][i].magnitude());
    if (ab <= other && other < infinity<double>) positive[i] = 0.0;
    if (other <= ab && ab < infinity<double>) negative[i] = 0.0;
  }
}

// The operands of the formula, from the statistics of rows [begin, begin + n).
void gather(const Job& job, int64_t begin, int64_t n, Rows& rows, const double** operands) {
  double* own[kOperands];
  double *positive = nullptr, *negative = nullptr;
  for (int k = 0; k < kOperands; ++k) {
    own[k] = rows.statistics[k];
    operands[k] = own[k];
    switch (job.operand[k]) {
      case kCosine:
        operands[k] = rows.cosine;
        break;
      case kCosineDistance:
        operands[k] = rows.apart;
        break;
      case kPositiveDistance:
        positive = std::copy(rows.measured[kAB], rows.measured[kAB] + n, own[k]) - n;
        break;
      case kNegativeDistance:
        negative = std::copy(rows.measured[kAC], rows.measured[kAC] + n, own[k]) - n;
        for (int64_t i = 0; i < n && job.swap; ++i) {
          const double other = rows.measured[kBC][i];
          rows.shares[i] = own[k][i] < other ? 0.0 : own[k][i] > other ? 1.0 : 0.5;
          own[k][i] = minimum(own[k][i], other);
        }
        break;
      case kTarget:
        operands[k] = fetch(job.walk, job.sources[job.embeddings], begin, n, own[k]);
        break;
      case kAbsent:
        break;
    }
  }
  if (positive && negative) compare_infinite(job, n, rows, positive, negative);
}

// The slopes by cosine and distances of each row, weighted and scaled.
void scatter(const Job& job, int64_t n, const double* factor, const float* mask, Rows& rows) {
  for (double* slopes : {rows.by_pair[kAB], rows.by_pair[kAC], rows.by_pair[kBC], rows.by_cosine})
    std::fill(slopes, slopes + n, 0.0);
  for (int k = 0; k < kOperands; ++k) {
    if (job.operand[k] == kAbsent || job.operand[k] == kTarget) continue;
    double* const slopes = rows.slopes[k];
    weigh(slopes, factor, mask, job.scale, n, slopes);
    for (int64_t i = 0; i < n; ++i) {
      if (job.operand[k] == kCosine) rows.by_cosine[i] += slopes[i];
      if (job.operand[k] == kCosineDistance) rows.by_cosine[i] -= slopes[i];
      if (job.operand[k] == kPositiveDistance) rows.by_pair[kAB][i] = slopes[i];
      if (job.operand[k] == kNegativeDistance) {
        rows.by_pair[kAC][i] = job.swap ? slopes[i] * (1.0 - rows.shares[i]) : slopes[i];
        rows.by_pair[kBC][i] = job.swap ? slopes[i] * rows.shares[i] : 0.0;
      }
    }
  }
}

// Report a block's targets that are outside their domain.
void report_targets(Job& job, const double* const* operands, const float* mask, int64_t begin, int64_t n) {
  for (int k = 0; k < kOperands; ++k)
    for (int64_t i = 0; i < n && job.operand[k] == kTarget; ++i) {
      if (!outside(job.kernel->domains[k], operands[k][i]) || (mask && mask[i] == 0.0f)) continue;
      const int64_t place = place_of(job.walk, begin + i);
      job.report({0, place, 1, place, operands[k][i]});
    }
}

template <class T> void run_block(Job& job, int64_t block, Scratch<T>& scratch) {
  constexpr DType own = sizeof(T) == 4 ? DType::kFloat : DType::kDouble;
  const int64_t begin = block * job.rows, n = std::min(job.rows, job.walk.numel - begin);
  const Options& options = job.options;
  read_rows(job, begin, n, scratch);
  const float* mask = mask_of(job, begin, n, scratch);
  const double* factor = factors(job, {kSampleWeight, kUpstream}, begin, n, scratch);
  if (options.gradients) place_gradients(job, begin, n, scratch);
  measure(job, scratch, n);

  const double* operands[kOperands];
  gather(job, begin, n, scratch, operands);

  bool violated = false;
  for (int k = 0; k < kOperands && options.checks != kOff; ++k) {
    if (job.operand[k] != kTarget) continue;
    for (int64_t i = 0; i < n; ++i)
      violated |= (!mask || mask[i] != 0.0f) && outside(job.kernel->domains[k], operands[k][i]);
  }
  if (violated && options.checks == kRaise) return report_targets(job, operands, mask, begin, n);

  double* slopes[kOperands];
  for (int k = 0; k < kOperands; ++k) slopes[k] = scratch.slopes[k];
  job.kernel->f64[options.gradients ? kAll : kNone](n, operands, job.parameters, 1.0, scratch.losses, slopes);
  if (violated) {  // checks("nan"): the offending rows poison their own results
    for (int64_t i = 0; i < n; ++i)
      for (int k = 0; k < kOperands; ++k)
        if (job.operand[k] == kTarget && outside(job.kernel->domains[k], operands[k][i])) {
          scratch.losses[i] = std::numeric_limits<double>::quiet_NaN();
          for (int s = 0; s < kOperands; ++s) slopes[s][i] = scratch.losses[i];
        }
  }
  if (!job.sources[kUpstream].present()) {
    T* const values = scratch.values;
    for (int64_t i = 0; i < n; ++i) values[i] = static_cast<T>(scratch.losses[i]);
    if (factor || mask) weigh(values, factor, mask, 1.0, n, values);
    if (options.reduction != kElements)
      job.sums[block] = sum_block(values, n);
    else
      write_run(job.result, values, n, job.values + begin * size_of(job.result));
  }
  if (!options.gradients) return;

  scatter(job, n, factor, mask, scratch);
  differentiate(job, scratch, n);
  for (int k = 0; k < job.embeddings; ++k) {
    if (!job.gradients[k] || job.gradient_dtypes[k] == own) continue;
    write_run(job.gradient_dtypes[k], scratch.gradients[k], n * job.width,
              job.gradients[k] + begin * job.width * size_of(job.gradient_dtypes[k]));
  }
}

template <class T> void run_blocks(int64_t begin, int64_t end, void* context) {
  const auto scratch = std::make_unique_for_overwrite<Scratch<T>>();
  for (int64_t block = begin; block < end; ++block) run_block<T>(*static_cast<Job*>(context), block, *scratch);
}

// What the formula takes. False if the kernel takes something else.
bool read_statistics(Job& job) {
  int operands = 0;
  for (int k = 0; k < kOperands; ++k) {
    job.operand[k] = wire::embeddings::statistics(job.options.family, k);
    operands += job.operand[k] != kAbsent;
    job.cosine |= job.operand[k] == kCosine || job.operand[k] == kCosineDistance;
    job.pairs[kAB] |= job.operand[k] == kPositiveDistance;
    job.pairs[kAC] |= job.operand[k] == kNegativeDistance;
    job.targeted |= job.operand[k] == kTarget;
  }
  job.embeddings = job.pairs[kAC] ? 3 : 2;
  job.swap = job.pairs[kBC] = job.pairs[kAC] && wire::embeddings::swap(job.options.family);
  return operands == job.kernel->operands;
}

bool Job::read(const Inputs& in) {
  const Tensor& a = in.operands[0];
  const int dims = static_cast<int>(a.dim()) - 1;
  if (dims < 0 || dims > kDims || kernel->abi != kAbi || !read_statistics(*this)) return false;
  p = in.numbers[wire::embeddings::kP], eps = in.numbers[wire::embeddings::kEps];
  usual = cosine || p == 2.0 || p == 1.0;
  const auto sizes = a.sizes();
  start(walk, dims, sizes.data(), a.strides().data());
  width = sizes[dims];
  eights = usual && width < kLanes;

  if (in.operands.size() != static_cast<size_t>(embeddings + targeted)) return false;
  for (int k = 0; k < embeddings; ++k) {
    Source& source = sources[k];
    const Tensor& tensor = in.operands[k];
    source.dtype = gradient_dtypes[k] = dtype_of(tensor);
    const auto own_sizes = tensor.sizes(), own_strides = tensor.strides();
    if (!floating(source.dtype) || !tensor.is_cpu() || own_sizes.size() != sizes.size() ||
        !std::equal(sizes.begin(), sizes.end(), own_sizes.begin()))
      return false;
    for (int i = 0; i < dims; ++i) source.strides[i] = own_strides[walk.order[i]];
    steps[k] = own_strides[dims];
    source.data = static_cast<const char*>(tensor.data_ptr());
    if (!source.data) source.data = reinterpret_cast<const char*>(this);  // empty: present, never read
    compute = promote(compute, source.dtype);
  }
  if (targeted) {
    if (!attach(walk, in.operands[embeddings], false, sources[embeddings])) return false;
    compute = promote(compute, sources[embeddings].dtype);
  }
  result = compute;
  return true;
}

void Job::outputs(const Inputs& in, Result& out) {
  const int dims = walk.tensor_dims;
  const auto rows = dense_strides(walk);
  std::array<int64_t, kDims + 1> strides{};
  for (int i = 0; i < dims; ++i) strides[i] = rows[i] * std::max<int64_t>(width, 1);
  strides[dims] = 1;
  for (int k = 0; k < embeddings; ++k)
    allocate_gradient(*this, out, k, dims + 1, in.operands[0].sizes().data(), strides.data());
}

Work Job::divide() {
  rows = std::clamp<int64_t>(kBlockElements / std::max<int64_t>(width, 1), 1, kRows);
  return {(walk.numel + rows - 1) / rows, rows * width * embeddings,
          compute == DType::kDouble ? run_blocks<double> : run_blocks<float>};
}

}  // namespace

Result embeddings(const Inputs& in) {
  Job job;
  return drive(job, in);
}

}  // namespace losskit

LOSSKIT_OP(embeddings)
