// Connectionist temporal classification: one pass forward and one backward over a lattice of alignments per sample.
//
// 1. The lattice runs in scaled linear space (ctc_masses.h), where that would lose digits in log space (ctc_logs.h).
// 2. Samples are independent: one after another per thread, the same bits for any number of threads.
//
// Operands: scores or log-probabilities (T, N, C) or (T, C); targets (N, S), concatenated (L), or (S); lengths of
// inputs and of targets (N) or (), all of any integer dtype. The family's number is the blank.
#include <numeric>

#include "ctc_gradient.h"
#include "ctc_logs.h"
#include "ctc_masses.h"

namespace losskit {
namespace {

// --------------------------------------------------------------------------------------------------------
// One sample

// Whether the lengths and labels of a sample are right; if not, takes note. Reads its labels, label j to [j].
template <class T> bool check(Job& job, Scratch<T>& own, int64_t i) {
  const int64_t n = job.target_lengths[i], frames = job.input_lengths[i], begin = job.target_offsets[i];
  if (frames < 0 || frames > job.frames) return job.refuse(kInputLength, i, i, frames), false;
  if (n < 0 || n > job.size) return job.refuse(kTargetLength, i, i, n), false;
  if (begin < 0) return false;  // those before it are too long: their total is refused
  own.labels.resize(n + 1);
  own.labels[0] = job.blank;
  const char* from = job.targets + begin * size_of(job.target_dtype);
  read_any<int64_t>(job.target_dtype, from, job.target_stride, n, own.labels.data() + 1);
  for (int64_t j = 1; j <= n; ++j) {
    const int64_t label = own.labels[j], place = i * job.size + j - 1;
    if (label >= 0 && label < job.classes && label != job.blank) continue;
    // Of targets one after another, the place tells the sample, the position there and the position among all.
    const int64_t among = job.padded ? 0 : begin / job.target_stride + j - 1;
    return job.refuse(kLabel, place, job.padded ? place : place * job.size + among, label), false;
  }
  return true;
}

template <class T> void prepare(const Job& job, Scratch<T>& own, Sample<T>& sample) {
  const int64_t n = sample.length, width = sample.width, frames = sample.frames;
  for (auto* row : {&own.skip, &own.skip_next, &own.distinct, &own.exponentials, &own.beta_blank[0], &own.beta_blank[1],
                    &own.beta_label[0], &own.beta_label[1], &own.posterior, &own.difference})
    row->assign(width + kLanes, 0.0);
  own.log_emission.assign(width, -infinity<double>);
  own.gathered.assign(width, -infinity<T>);
  own.narrowed.resize(width);
  for (auto* numbers : {&own.blank, &own.total, &own.rest, &own.logs}) numbers->resize(frames);
  own.most.resize(frames);
  own.seen.resize(job.classes, -1);
  own.others.assign(job.classes, T(1));
  own.classes.clear(), own.where.clear(), own.repeated.clear();
  own.first.resize(n + 1), own.which.resize(n + 1);
  for (int64_t j = 0; j <= n; ++j) {
    const int64_t label = own.labels[j];
    if (j > 1 && label != own.labels[j - 1]) own.skip[j] = own.skip_next[j - 1] = 1;
    if (own.seen[label] < 0) {
      own.seen[label] = static_cast<int64_t>(own.classes.size());
      own.others[label] = 0;
      own.distinct[j] = 1;
      own.classes.push_back(label), own.where.push_back(j);
    } else {
      own.repeated.push_back(j);
    }
    own.which[j] = own.seen[label];
    own.first[j] = own.where[own.which[j]];
  }
  for (const int64_t label : own.classes) own.seen[label] = -1;
  const int64_t rows = (frames + 1) * sample.stride + 2 * kLanes;
  if (own.capacity < 3 * rows) own.rows.reset(new double[own.capacity = 3 * rows]);
  sample.alpha_blank = own.rows.get();
  sample.alpha_label = sample.alpha_blank + rows;
  sample.emission = sample.alpha_label + rows;
  for (int64_t t = 0; t < frames; ++t) {
    double* e = sample.row(sample.emission, t);
    e[0] = 0;
    for (int64_t j = n + 1; j <= width; ++j) e[j] = 0;  // one more, because label j + 1 is read beside label j
  }
}

// Take note of a sample's first number above the limit.
template <class T> void look_above_limit(Job& job, const Sample<T>& sample) {
  for (int64_t t = 0; t < sample.frames; ++t) {
    const T* x = frame_of(sample, t);
    for (int64_t c = 0; c < job.classes; ++c) {
      const int64_t place = (t * job.samples + sample.index) * job.classes + c;
      if (x[c] > static_cast<T>(job.limit)) return job.refuse(kLogProbability, place, place, static_cast<double>(x[c]));
    }
  }
}

template <class T> LOSSKIT_INLINE double solve_any(const Sample<T>& sample, double scale, bool gradient, bool fits) {
  // With a smaller total mass, a state that underflowed may outweigh the rest of the lattice: there are 3^T paths.
  constexpr double kSafe = -700, kLog2Of3 = 1.6, kMass = 0x1p-700, kMost = 0x1p200;
  constexpr double kTiny = sizeof(T) == 4 ? 0x1p-12 : 1;  // losses to be taken from log space
  double log2_mass;
  sample.own.kept = gradient && scores(sample.job) && Row<T>(sample.job, sample.own, sample.index, 0).in_place();
  double loss = forward(sample, log2_mass);
  if (loss != loss) return loss;
  if (!fits) return infinity<double>;
  bool safe = log2_mass > kSafe + kLog2Of3 * static_cast<double>(sample.frames);
  if (gradient || !safe) {
    safe = true;
    for (int64_t t = sample.frames - 1; safe && t >= 0; --t) {
      const double mass = backward(sample, t);
      safe = mass >= kMass && mass <= kMost;
      if (safe && gradient) write_gradient(sample, t, mass, scale);
    }
    safe = safe && loss < infinity<double>;
  }
  if (safe && !(std::abs(loss) < kTiny)) return loss;
  sample.own.kept = false;
  LogLattice alpha(sample.width, safe ? 2 : sample.frames + 1);
  double v, r;
  const Logs end{&v, &r};
  loss = log_forward(sample, alpha, end);
  if (safe || !gradient || !(loss < infinity<double>)) return loss;
  LogLattice beta(sample.width, 2);
  for (int64_t t = sample.frames - 1; t >= 0; --t)
    write_gradient(sample, t, log_backward(sample, alpha, beta, end, t), scale);
  return loss;
}

LOSSKIT_CLONES double solve(const Sample<float>& sample, double scale, bool gradient, bool fits) {
  return solve_any(sample, scale, gradient, fits);
}
LOSSKIT_CLONES double solve(const Sample<double>& sample, double scale, bool gradient, bool fits) {
  return solve_any(sample, scale, gradient, fits);
}

template <class T> void run_sample(Job& job, int64_t i, Scratch<T>& own) {
  const Options& options = job.options;
  if (!job.mask.empty() && job.mask[i] == 0.0f) {
    job.losses[i] = 0;
    return fill(job, own, i, 0, 0.0);
  }
  if (!check(job, own, i)) {
    job.losses[i] = not_a_number<double>;
    return fill(job, own, i, 0, not_a_number<double>);
  }
  const int64_t n = job.target_lengths[i], frames = job.input_lengths[i];
  const int64_t width = (n + 2 + kLanes - 1) / kLanes * kLanes;
  Sample<T> sample{job, own, i, frames, n, width, width + kLanes, nullptr, nullptr, nullptr};
  int64_t needed = n;
  for (int64_t j = 2; j <= n; ++j) needed += own.labels[j] == own.labels[j - 1];
  const double share = options.reduction == kMean ? static_cast<double>(std::max<int64_t>(n, 1)) : 1.0;
  double scale = job.scale / share;
  if (!job.factors.empty()) scale *= job.factors[i];
  prepare(job, own, sample);
  double loss = solve(sample, scale, job.gradients[0] != nullptr, needed <= frames);
  if (loss != loss) {
    look_above_limit(job, sample);
    fill(job, own, i, 0, loss);
    fill(job, own, i, frames, 0.0);
  } else {
    fill(job, own, i, loss < infinity<double> ? frames : 0, 0.0);
    if (loss == infinity<double> && wire::ctc::zero_infinity(options.family)) loss = 0;
  }
  job.losses[i] = loss / share;
}

template <class T> void run_samples(int64_t begin, int64_t end, void* context) {
  Scratch<T> own;
  Job& job = *static_cast<Job*>(context);
  own.frame.resize(job.classes), own.values.resize(job.classes), own.row.resize(job.classes);
  for (int64_t i = begin; i < end; ++i) run_sample<T>(job, i, own);
}

// --------------------------------------------------------------------------------------------------------
// All samples

// Where each sample's labels begin, -1 where they would lie outside.
void place_targets(Job& job, const Tensor& targets) {
  const auto sizes = targets.sizes(), strides = targets.strides();
  job.size = sizes[targets.dim() - 1];
  job.padded = targets.dim() == 2 || job.walk.tensor_dims == 0;
  job.targets = static_cast<const char*>(targets.data_ptr());
  job.target_dtype = dtype_of(targets);
  job.target_stride = strides[targets.dim() - 1];
  job.target_offsets.resize(job.samples);
  int64_t used = 0;
  for (int64_t i = 0; i < job.samples; ++i) {
    const int64_t length = job.target_lengths[i];
    const bool fits = used >= 0 && length >= 0 && length <= job.size - (job.padded ? 0 : used);
    const int64_t begin = job.padded ? (targets.dim() == 2 ? i * strides[0] : 0) : used * job.target_stride;
    job.target_offsets[i] = fits ? begin : -1;
    if (!job.padded) used = fits ? used + length : -1;
  }
  job.adds_up = job.padded || used == job.size;
}

bool Job::read(const Inputs& in) {
  const Tensor& a = in.operands[0];
  const bool batched = a.dim() == 3;
  result = dtype = gradient_dtypes[0] = dtype_of(a);
  if (!(batched || a.dim() == 2) || !a.is_cpu() || !known(dtype) || !floating(dtype)) return false;
  if (in.operands.size() != 4 || in.weight) return false;
  const Tensor& b = in.operands[1];
  const auto sizes = a.sizes(), own = a.strides();
  frames = sizes[0];
  classes = sizes[a.dim() - 1];
  strides[0] = own[0], strides[2] = own[a.dim() - 1];
  if (batched) samples = sizes[1], strides[1] = own[1];
  input = static_cast<const char*>(a.data_ptr());
  blank = static_cast<int64_t>(in.numbers[wire::ctc::kBlank]);
  if (blank < 0 || blank >= classes) return false;
  if (options.checks != kOff && !scores(*this)) limit = wire::kMostLogProbability;
  start(walk, batched ? 1 : 0, &samples, &samples);
  if (!integers(b) || b.dim() < 1 || b.dim() > (batched ? 2 : 1)) return false;
  if (b.dim() == 2 && b.sizes()[0] != samples) return false;
  if (!read_lengths(in.operands[2], samples, input_lengths) || !read_lengths(in.operands[3], samples, target_lengths))
    return false;
  place_targets(*this, b);
  return true;
}

void Job::outputs(const Inputs& in, Result& out) {
  const Tensor& a = in.operands[0];
  const int dims = static_cast<int>(a.dim());
  const auto dense = allocate_like(*this, out, 0, a);
  gradient_strides[0] = dense[0], gradient_strides[2] = dense[dims - 1];
  if (dims == 3) gradient_strides[1] = dense[1];

  read_weights();
}

// A block is a sample. A state of the lattice costs about as much as eight elements.
Work Job::divide() {
  losses.resize(samples);
  const int64_t labels = std::max<int64_t>(size, 1) / (padded ? 1 : std::max<int64_t>(samples, 1));
  return {samples, frames * (classes + 8 * labels), dtype == DType::kDouble ? run_samples<double> : run_samples<float>};
}

void Job::conclude() {
  if (!adds_up)
    refuse(kTargetLength, samples, samples, std::accumulate(target_lengths.begin(), target_lengths.end(), int64_t(0)));
  if (!sources[kUpstream].present()) reduce_losses(dtype == DType::kDouble);
}

}  // namespace

Result ctc(const Inputs& in) {
  Job job;
  return drive(job, in);
}

}  // namespace losskit

LOSSKIT_OP(ctc)
