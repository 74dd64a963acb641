// The linear-chain conditional random field: forward and backward over a chain of tags for each sample.
//
// 1. Masses are in scaled linear space, in double: a step is a product of a vector and the matrix of exponentials of
// the
//    transitions, without an exponential of its own. A step's masses are divided by their sum.
// 2. What underflows in a step weighs less than 2^-1022 / D in the result, D the product of the scaled forward and
//    backward masses. Where D falls below 1e-200 (scores of thousands that contradict each other), the op declines, and
//    the eager formula runs in log space.
// 3. The transitions' gradient is a sum of outer products, times the matrix once at the end; where samples share the
//    transitions, groups of samples add up their own, and the groups are added in order: the same bits for any number
//    of threads.
// 4. The gradient of the tag that is right is minus the sum of the other tags', not p - 1.
//
// Operands: emissions (N, T, K) or (T, K), tags (N, T) or (T), transitions (N, K, K) or (K, K), and where they are
// there start (N, K) or (K), end as it, lengths (N) or ().
#include <cstring>

#include "lattice.h"

namespace losskit {
namespace {

using enum wire::crf::Violation;

constexpr double kSafe = 1e-200;
constexpr int64_t kGroups = 64;

// An operand of all samples, or of each; and its gradient.
struct Shared {
  const char* data = nullptr;
  DType dtype = DType::kDouble;
  int64_t stride = 0, steps[2] = {0, 0};  // by sample; by the dimensions of tags, from the last
  int operand = -1;
  bool alone = true;  // all samples share it
};

struct Job : Batch {
  static constexpr size_t kFirstParameter = wire::crf::kFirstParameter;
  int64_t length = 0, tags = 0, groups = 0;
  int64_t strides[3] = {}, target_strides[2] = {};  // by sample, step, tag
  const char* input = nullptr;
  DType dtype = DType::kFloat;
  const char* targets = nullptr;
  DType target_dtype = DType::kLong;
  Shared transitions, ends[2];  // start, end
  std::vector<int64_t> lengths;
  std::vector<double> partial;  // of each group: gradients of what samples share
  std::atomic<bool> unsafe{false};

  bool read(const Inputs& in);
  bool take(const Tensor& tensor, int operand, int own, Shared& shared);
  void outputs(const Inputs& in, Result& result);
  Work divide();
  void conclude();
  void refuse(wire::crf::Violation violation, int64_t place, int64_t value) {
    if (options.checks == kRaise) report({violation == kLength ? 0 : 1, place, violation, place, value});
  }
  int64_t partial_size() const { return tags * (tags + 2); }
  bool wants(const Shared& shared) const { return shared.operand >= 0 && gradients[shared.operand]; }
};

// Buffers of one thread. Rows of tags are padded by zeros to `width`.
struct Scratch {
  int64_t width;
  std::vector<int64_t> target;
  std::vector<double> matrix, turned, alpha, emission, outer, row, beta, next, weight, begin, finish, scores;
  bool ready = false;  // the matrix is that of all samples
  double most = 0;     // of the transitions

  explicit Scratch(const Job& job) : width((job.tags + kLanes - 1) / kLanes * kLanes) {
    for (auto* square : {&matrix, &turned, &outer}) square->assign(width * width, 0.0);
    for (auto* rows : {&alpha, &emission}) rows->assign(width * job.length, 0.0);
    for (auto* one : {&row, &beta, &next, &weight, &begin, &finish}) one->assign(width, 0.0);
    target.resize(job.length), scores.resize(job.length * job.tags);
  }
};

inline void read_row(const Shared& shared, int64_t sample, int64_t k, int64_t n, double* to) {
  const int64_t at = sample * shared.stride + k * shared.steps[1];
  read_run(shared.dtype, shared.data + at * size_of(shared.dtype), shared.steps[0], n, to);
}

// Exponentials less the largest, which is returned; 0 without a finite one.
LOSSKIT_INLINE double exponentials(const double* x, int64_t n, double most, double* to) {
  const double finite = std::abs(most) == infinity<double> && most < 0 ? 0 : most;
#pragma GCC ivdep
  for (int64_t k = 0; k < n; ++k) to[k] = exp(x[k] - finite);
  return finite;
}

LOSSKIT_CLONES void read_transitions(const Job& job, int64_t sample, Scratch& own) {
  if (own.ready) return;
  const int64_t n = job.tags, width = own.width;
  own.most = -infinity<double>;
  for (int64_t j = 0; j < n; ++j) {
    read_row(job.transitions, sample, j, n, own.matrix.data() + j * width);
    own.most = maximum(own.most, largest(own.matrix.data() + j * width, n));
  }
  for (int64_t j = 0; j < n; ++j) {
    double* row = own.matrix.data() + j * width;
    const double finite = exponentials(row, n, own.most, row);
    if (j == n - 1) own.most = finite;
    for (int64_t k = 0; k < n; ++k) own.turned[k * width + j] = row[k];
  }
  own.ready = job.transitions.alone;
}

// y = M' x, M of rows: a sum of rows. Some columns at a time, whose sums stay in registers: sums in memory took twice
// the time, since each addition waited for the store before.
LOSSKIT_INLINE void multiply(const double* matrix, const double* x, int64_t n, int64_t width, double* y) {
  typedef double Columns __attribute__((vector_size(64)));
  static_assert(sizeof(Columns) == kLanes * sizeof(double));
  for (int64_t k = 0; k < width; k += kLanes) {
    Columns even = {}, odd = {}, row;
    int64_t j = 0;
    for (; j + 2 <= n; j += 2) {
      std::memcpy(&row, matrix + j * width + k, sizeof row), even += x[j] * row;
      std::memcpy(&row, matrix + (j + 1) * width + k, sizeof row), odd += x[j + 1] * row;
    }
    if (j < n) std::memcpy(&row, matrix + j * width + k, sizeof row), even += x[j] * row;
    even += odd;
    std::memcpy(y + k, &even, sizeof even);
  }
}

// A sample's loss, and its gradients times `scale` (not yet written: emissions' in `emission`, transitions' in
// `outer`).
LOSSKIT_CLONES double solve(Job& job, int64_t i, Scratch& own, int64_t steps, bool gradient) {
  const int64_t n = job.tags, width = own.width;
  Sum loss;
  const auto score_of = [&](const Shared& shared, int64_t j, int64_t k) {
    double x;
    const int64_t at = i * shared.stride + j * shared.steps[1] + k * shared.steps[0];
    read_run(shared.dtype, shared.data + at * size_of(shared.dtype), 1, 1, &x);
    return x;
  };
  double* own_row = own.row.data();
  for (int64_t t = 0; t < steps; ++t) {
    const double* x = own.scores.data() + t * n;
    loss.add(-x[own.target[t]]);
    if (t) loss.add(-score_of(job.transitions, own.target[t - 1], own.target[t]));
  }
  for (int side = 0; side < 2; ++side)
    if (job.ends[side].operand >= 0) loss.add(-score_of(job.ends[side], 0, own.target[side ? steps - 1 : 0]));
  if (loss.high == infinity<double>) {  // the tags are impossible, unless something is NaN
    for (int64_t t = 0; t < steps * n; ++t)
      if (own.scores[t] != own.scores[t] || own.scores[t] == infinity<double>) return not_a_number<double>;
    return infinity<double>;
  }
  for (int side = 0; side < 2; ++side) {
    double* to = side ? own.finish.data() : own.begin.data();
    if (job.ends[side].operand >= 0) {
      read_row(job.ends[side], i, 0, n, own_row);
      loss.add(exponentials(own_row, n, largest(own_row, n), to));
    } else {
      std::fill_n(to, n, 1.0);
    }
  }
  double mass = 0;  // logarithm of the product of the sums, in units of the largest scores
  for (int64_t t = 0; t < steps; ++t) {
    const double* x = own.scores.data() + t * n;
    double *e = own.emission.data() + t * width, *alpha = own.alpha.data() + t * width;
    loss.add(exponentials(x, n, largest(x, n), e));
    if (t) {
      multiply(own.matrix.data(), alpha - width, n, width, alpha);
      loss.add(own.most);
    } else {
      std::copy_n(own.begin.data(), width, alpha);
    }
    for (int64_t k = 0; k < width; ++k) alpha[k] *= e[k];
    const double total = sum(alpha, width), inverse = 1 / total;
    for (int64_t k = 0; k < width; ++k) alpha[k] *= inverse;
    const double part = std::log(total);
    mass += part, loss.add(part);
  }
  const double* last = own.alpha.data() + (steps - 1) * width;
  const double total = dot(last, own.finish.data(), width), part = std::log(total);
  mass += part, loss.add(part);
  if (std::isnan(mass) || std::isnan(loss.high)) return not_a_number<double>;
  if (!(std::abs(mass) < infinity<double>)) return job.unsafe = true, 0;
  if (!gradient && mass > -500) return loss.value();

  const bool pairs = gradient && job.wants(job.transitions);
  if (pairs) std::fill(own.outer.begin(), own.outer.end(), 0.0);
  double *beta = own.beta.data(), *weight = own.weight.data();
  std::copy_n(own.finish.data(), width, beta);
  for (int64_t t = steps - 1; t >= 0; --t) {
    double *e = own.emission.data() + t * width, *alpha = own.alpha.data() + t * width;
    const double most = largest(beta, width);
    if (!(most > 0)) return job.unsafe = true, 0;
    for (int64_t k = 0; k < width; ++k) beta[k] *= 1 / most;
    const double on = dot(alpha, beta, width);
    if (!(on > kSafe)) return job.unsafe = true, 0;
    // Now e becomes the gradient. `weight` is what follows a transition into a tag.
    for (int64_t k = 0; k < width; ++k) {
      weight[k] = e[k] * beta[k];
      e[k] = alpha[k] * beta[k] / on;
    }
    const int64_t right = own.target[t];
    e[right] = 0;
    e[right] = -sum(e, width);
    if (t == 0) break;
    const double* before = alpha - width;
    multiply(own.turned.data(), weight, n, width, beta);
    if (!pairs) continue;
    const double inverse = 1 / dot(before, beta, width);
    if (!(inverse < 1 / kSafe)) return job.unsafe = true, 0;
    for (int64_t j = 0; j < n; ++j) {
      const double factor = before[j] * inverse;
      double* row = own.outer.data() + j * width;
#pragma GCC ivdep
      for (int64_t k = 0; k < width; ++k) row[k] += factor * weight[k];
    }
  }
  if (pairs) {
    for (int64_t j = 0; j < width * width; ++j) own.outer[j] *= own.matrix[j];
    for (int64_t t = 1; t < steps; ++t) own.outer[own.target[t - 1] * width + own.target[t]] -= 1;
  }
  return loss.value();
}

// --------------------------------------------------------------------------------------------------------
// All samples

// n numbers times `scale`, to a place of an operand's gradient.
void put(const Job& job, int operand, int64_t at, const double* x, double scale, int64_t n, std::vector<double>& row) {
  const DType dtype = job.gradient_dtypes[operand];
  for (int64_t k = 0; k < n; ++k) row[k] = scale == 0 ? 0.0 : x[k] * scale;
  write_run(dtype, row.data(), n, job.gradients[operand] + at * size_of(dtype));
}

// The gradients of a sample: `scale` times what `solve` has left, or a number for all.
void write_gradients(Job& job, int64_t i, Scratch& own, int64_t steps, double scale, double* partial, double other) {
  const int64_t n = job.tags;
  const bool solved = other == other && scale != 0;
  const std::vector<double> fill(n, other), zeros(n, 0.0);
  const double* all = fill.data();
  for (int64_t t = 0; job.gradients[0] && t < job.length; ++t) {
    const double* x = t >= steps ? zeros.data() : solved ? own.emission.data() + t * own.width : all;
    put(job, 0, (i * job.length + t) * n, x, solved ? scale : 1, n, own.row);
  }
  const auto add = [&](const Shared& shared, int64_t rows, int64_t k, const double* x, int64_t offset) {
    if (!job.wants(shared)) return;
    if (!shared.alone)
      return put(job, shared.operand, (i * rows + k) * n, solved ? x : all, solved ? scale : 1, n, own.row);
    double* to = partial + offset + k * n;
    for (int64_t c = 0; c < n; ++c) to[c] += solved ? x[c] * scale : other;
  };
  for (int64_t k = 0; k < n; ++k) add(job.transitions, n, k, own.outer.data() + k * own.width, 0);
  for (int side = 0; side < 2; ++side)
    add(job.ends[side], 1, 0, own.emission.data() + (side && steps ? steps - 1 : 0) * own.width, (n + side) * n);
}

void run_sample(Job& job, int64_t i, Scratch& own, double* partial) {
  const bool gradient = job.options.gradients != 0;
  const int64_t steps = job.lengths[i], n = job.tags;
  job.losses[i] = 0;
  if (!job.counts(i)) return write_gradients(job, i, own, 0, 0, partial, 0.0);
  bool right = steps >= 0 && steps <= job.length;
  if (!right) job.refuse(kLength, i, steps);
  if (right)
    read_any<int64_t>(job.target_dtype, job.targets + i * job.target_strides[0] * size_of(job.target_dtype),
                      job.target_strides[1], steps, own.target.data());
  for (int64_t t = 0; right && t < steps; ++t) {
    right = own.target[t] >= 0 && own.target[t] < n;
    if (!right) job.refuse(kTag, i * job.length + t, own.target[t]);
  }
  double loss = not_a_number<double>;
  if (right) {
    for (int64_t t = 0; t < steps; ++t) {
      const int64_t at = i * job.strides[0] + t * job.strides[1];
      read_run(job.dtype, job.input + at * size_of(job.dtype), job.strides[2], n, own.scores.data() + t * n);
    }
    read_transitions(job, i, own);
    loss = solve(job, i, own, steps, gradient);
  }
  job.losses[i] = loss;
  if (!gradient) return;
  const bool solved = loss < infinity<double>;
  write_gradients(job, i, own, right ? steps : job.length, solved ? job.scale * job.factor(i) : 0, partial,
                  loss != loss ? loss : 0.0);
}

void run_groups(int64_t begin, int64_t end, void* context) {
  Job& job = *static_cast<Job*>(context);
  Scratch own(job);
  for (int64_t g = begin; g < end; ++g) {
    double* partial = job.partial.data() + g * job.partial_size();
    for (int64_t i = g * job.samples / job.groups; i < (g + 1) * job.samples / job.groups; ++i)
      run_sample(job, i, own, partial);
  }
}

// Takes an operand with `own` dimensions of tags, shared or with one more of samples.
bool Job::take(const Tensor& tensor, int operand, int own, Shared& shared) {
  const auto sizes = tensor.sizes(), steps = tensor.strides();
  const int dims = static_cast<int>(tensor.dim());
  shared.alone = dims == own;
  if ((dims != own && (dims != own + 1 || walk.tensor_dims == 0)) || dtype_of(tensor) != dtype) return false;
  if (!shared.alone && sizes[0] != samples) return false;
  for (int k = 0; k < own; ++k) {
    if (sizes[dims - 1 - k] != tags) return false;
    shared.steps[k] = steps[dims - 1 - k];
  }
  if (!shared.alone) shared.stride = steps[0];
  // Unreduced losses have gradients that are multiplied later, each sample's by its own number.
  const bool wanted = (options.gradients >> operand) & 1;
  if (wanted && shared.alone && walk.tensor_dims && options.reduction == kElements) return false;
  shared.data = static_cast<const char*>(tensor.data_ptr());
  shared.dtype = gradient_dtypes[operand] = dtype;
  shared.operand = operand;
  return true;
}

bool Job::read(const Inputs& in) {
  const int64_t family = options.family;
  const size_t more = wire::crf::start(family) + wire::crf::end(family) + wire::crf::lengths(family);
  if (in.operands.size() != 3 + more || in.weight) return false;
  const Tensor &a = in.operands[0], &b = in.operands[1];
  result = dtype = gradient_dtypes[0] = dtype_of(a);
  if ((a.dim() != 3 && a.dim() != 2) || !a.is_cpu() || !known(dtype) || !floating(dtype)) return false;
  const int first = a.dim() == 3 ? 0 : 1;
  const auto sizes = a.sizes(), own = a.strides();
  if (first == 0) samples = sizes[0];
  for (int k = first; k < 3; ++k) strides[k] = own[k - first];
  length = sizes[1 - first], tags = sizes[2 - first];
  if (length == 0 || tags == 0) return false;
  input = static_cast<const char*>(a.data_ptr());
  start(walk, 1 - first, &samples, &samples);
  if (!integers(b) || b.dim() != 2 - first || b.sizes()[1 - first] != length) return false;
  if (first == 0 && b.sizes()[0] != samples) return false;
  targets = static_cast<const char*>(b.data_ptr()), target_dtype = dtype_of(b);
  if (first == 0) target_strides[0] = b.strides()[0];
  target_strides[1] = b.strides()[1 - first];
  if (!in.operands[2].is_cpu() || !take(in.operands[2], 2, 2, transitions)) return false;
  int at = 3;
  for (int side = 0; side < 2; ++side)
    if (side ? wire::crf::end(family) : wire::crf::start(family)) {
      if (!in.operands[at].is_cpu() || !take(in.operands[at], at, 1, ends[side])) return false;
      ++at;
    }
  if (wire::crf::lengths(family)) return read_lengths(in.operands[at], samples, lengths);
  lengths.assign(samples, length);
  return true;
}

void Job::outputs(const Inputs& in, Result& out) {
  for (size_t k = 0; k < in.operands.size(); ++k) {
    const auto sizes = in.operands[k].sizes();
    std::vector<int64_t> step(sizes.size(), 1);
    for (size_t d = sizes.size(); d-- > 1;) step[d - 1] = step[d] * std::max<int64_t>(sizes[d], 1);
    allocate_gradient(*this, out, static_cast<int>(k), sizes.size(), sizes.data(), step.data());
  }
  read_weights();
  leave_out([&](int64_t i) { return lengths[i] != 0; });
}

// A block is a group of samples. A step costs about a product of matrix and vector.
Work Job::divide() {
  losses.resize(samples);
  groups = std::max(std::min(samples, kGroups), (samples + kBlock - 1) / kBlock);
  partial.assign(groups * partial_size(), 0.0);
  return {groups, length * tags * tags * (samples + 1) / std::max<int64_t>(groups, 1), run_groups};
}

void Job::conclude() {
  std::vector<double> sum(partial_size(), 0.0);
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t k = 0; k < partial_size(); ++k) sum[k] += partial[g * partial_size() + k];
  const auto write = [&](const Shared& shared, int64_t offset, int64_t n) {
    if (wants(shared) && shared.alone)
      write_run(gradient_dtypes[shared.operand], sum.data() + offset, n, gradients[shared.operand]);
  };
  write(transitions, 0, tags * tags);
  for (int side = 0; side < 2; ++side) write(ends[side], (tags + side) * tags, tags);
  if (!sources[kUpstream].present()) reduce_losses(dtype == DType::kDouble);
}

}  // namespace

Result crf(const Inputs& in) {
  Job job;
  Result result = drive(job, in);
  return job.unsafe && result.status == 0 ? Result() : std::move(result);
}

}  // namespace losskit

LOSSKIT_OP(crf)
