// The op of the transducer loss: a batch of samples, each solved as rnnt.h says.
//
// Operands: logits (N, T, U + 1, C) or (T, U + 1, C), targets (N, U) or (U), lengths of logits and targets (N) or ().
#include "rnnt_nodes.h"
#include "rnnt_paths.h"

namespace losskit {
namespace {

template <class T> LOSSKIT_INLINE double solve_any(const Sample<T>& sample, double scale) {
  if (!emit(sample)) return not_a_number<double>;
  const double loss = forward(sample);
  if (!sample.gradient || !(loss < infinity<double>)) return loss;
  backward(sample);
  write_gradient(sample, scale);
  return loss;
}

LOSSKIT_CLONES double solve(const Sample<float>& sample, double scale) { return solve_any(sample, scale); }
LOSSKIT_CLONES double solve(const Sample<double>& sample, double scale) { return solve_any(sample, scale); }

// --------------------------------------------------------------------------------------------------------
// All samples

// Whether the lengths and labels of a sample are right; if not, takes note.
template <class T> bool check(Job& job, Scratch<T>& own, int64_t i) {
  const int64_t n = job.target_lengths[i], frames = job.input_lengths[i];
  if (frames < 0 || frames > job.frames) return job.refuse(kInputLength, i, frames), false;
  if (n < 0 || n >= job.columns) return job.refuse(kTargetLength, i, n), false;
  own.labels.resize(n);
  const char* from = job.targets + i * job.target_strides[0] * size_of(job.target_dtype);
  read_any<int64_t>(job.target_dtype, from, job.target_strides[1], n, own.labels.data());
  for (int64_t u = 0; u < n; ++u) {
    const int64_t label = own.labels[u];
    if (label < 0 || label >= job.classes || label == job.blank)
      return job.refuse(kLabel, i * (job.columns - 1) + u, label), false;
  }
  return true;
}

// Take note of a sample's first number above the limit.
template <class T> void look_above_limit(Job& job, const Sample<T>& sample) {
  for (int64_t t = 0; t < sample.frames; ++t)
    for (int64_t u = 0; u <= sample.labels; ++u) {
      const T* x = node_of(sample, t, u);
      const int64_t place = ((sample.index * job.frames + t) * job.columns + u) * job.classes;
      for (int64_t c = 0; c < job.classes; ++c)
        if (x[c] > static_cast<T>(job.limit)) return job.refuse(kLogProbability, place + c, static_cast<double>(x[c]));
    }
}

template <class T> void run_sample(Job& job, int64_t i, Scratch<T>& own) {
  job.losses[i] = 0;
  if (!job.counts(i)) return fill(job, own, i, 0, 0, false, 0.0);
  if (!check(job, own, i)) {
    job.losses[i] = not_a_number<double>;
    return fill(job, own, i, 0, 0, false, not_a_number<double>);
  }
  const int64_t frames = job.input_lengths[i], labels = job.target_lengths[i], stride = labels + 1 + 2 * kLanes;
  const int64_t size = (frames + labels) * stride + kLanes;
  if (own.capacity < kArrays * size) own.memory.reset(new double[own.capacity = kArrays * size]);
  std::fill_n(own.memory.get(), kArrays * size, -infinity<double>);
  const auto array = [&](int64_t k) { return own.memory.get() + k * size; };
  const bool gradient = job.gradients[0] != nullptr;
  const Sample<T> sample{job,      own,      i,        frames,
                         labels,   stride,   gradient, gradient && Row<T>(job, own, i, 0, 0).in_place(),
                         array(0), array(1), array(2), array(3),
                         array(4), array(5), array(6), array(7)};
  for (double* zeros : {sample.r, sample.rest, sample.lift}) std::fill_n(zeros, size, 0.0);
  const double loss = solve(sample, job.scale * job.factor(i));
  if (loss != loss) {
    if (!job.softmax()) look_above_limit(job, sample);
    fill(job, own, i, frames, labels, true, loss);
  } else if (!(loss < infinity<double>)) {
    fill(job, own, i, frames, labels, true, 0.0);
  }
  fill(job, own, i, frames, labels, false, 0.0);
  job.losses[i] = loss;
}

template <class T> void run_samples(int64_t begin, int64_t end, void* context) {
  Scratch<T> own;
  Job& job = *static_cast<Job*>(context);
  own.node.resize(job.classes), own.row.resize(std::max(job.classes, kJoined)), own.narrowed.resize(job.classes);
  for (int64_t i = begin; i < end; ++i) run_sample<T>(job, i, own);
}

bool Job::read(const Inputs& in) {
  if (in.operands.size() != 4 || in.weight) return false;
  const Tensor &a = in.operands[0], &b = in.operands[1];
  const int first = a.dim() == 4 ? 0 : 1;
  result = dtype = gradient_dtypes[0] = dtype_of(a);
  if ((a.dim() != 4 && a.dim() != 3) || !a.is_cpu() || !known(dtype) || !floating(dtype)) return false;
  const auto sizes = a.sizes(), own = a.strides();
  if (first == 0) samples = sizes[0];
  for (int i = first; i < 4; ++i) strides[i] = own[i - first];
  frames = sizes[1 - first], columns = sizes[2 - first], classes = sizes[3 - first];
  input = static_cast<const char*>(a.data_ptr());
  blank = static_cast<int64_t>(in.numbers[wire::rnnt::kBlank]);
  if (blank < 0) blank += classes;
  if (blank < 0 || blank >= classes) return false;
  clamp = in.numbers[wire::rnnt::kClamp], emission = 1 + in.numbers[wire::rnnt::kFastemitLambda];
  if (options.checks != kOff && !softmax()) limit = wire::kMostLogProbability;
  start(walk, 1 - first, &samples, &samples);
  if (!integers(b) || b.dim() != 2 - first || b.sizes()[1 - first] != columns - 1) return false;
  if (first == 0 && b.sizes()[0] != samples) return false;
  targets = static_cast<const char*>(b.data_ptr());
  target_dtype = dtype_of(b);
  if (first == 0) target_strides[0] = b.strides()[0];
  target_strides[1] = b.strides()[1 - first];
  return read_lengths(in.operands[2], samples, input_lengths) && read_lengths(in.operands[3], samples, target_lengths);
}

void Job::outputs(const Inputs& in, Result& out) {
  const Tensor& a = in.operands[0];
  const int dims = static_cast<int>(a.dim());
  const auto dense = allocate_like(*this, out, 0, a);
  for (int i = 4 - dims; i < 4; ++i) gradient_strides[i] = dense[i - (4 - dims)];
  read_weights();
  leave_out([&](int64_t i) { return input_lengths[i] != 0; });
}

// A block is a sample. A node of the lattice costs about as much as 16 elements.
Work Job::divide() {
  losses.resize(samples);
  return {samples, frames * columns * (classes + 16),
          dtype == DType::kDouble ? run_samples<double> : run_samples<float>};
}

void Job::conclude() {
  if (!sources[kUpstream].present()) reduce_losses(dtype == DType::kDouble);
}

}  // namespace

Result rnnt(const Inputs& in) {
  Job job;
  return drive(job, in);
}

}  // namespace losskit

LOSSKIT_OP(rnnt)
