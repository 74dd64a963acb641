// Connectionist temporal classification: one pass forward and one backward over a lattice of alignments per sample.
//
// 1. The lattice runs in scaled linear space, in double whatever the dtype: a sum and a product per state instead of
//    logarithms, faster than log space and a thousand times more accurate than log space in float. Emissions are
//    relative to the frame's largest one; every few frames a power of two is taken out, exactly.
// 2. Blanks and labels are two arrays (label j, blank after label j, j = 0 before the first), so that the recursion is
//    made of shifted contiguous loops that vectorise:
//        blank[j] <- (blank[j] + label[j]) p(blank)
//        label[j] <- (label[j] + blank[j - 1] + [label j differs from j - 1] label[j - 1]) p(label j)
// 3. The error from underflow is bounded as follows. In frame t the scaled forward and backward masses are at most
//    about 1, so with D(t) = their inner product, a state below 2^-1022 weighs less than 2^-1022 / D(t) in the result.
//    If a D(t) falls below 2^-700 (very peaked scores that contradict the target), the sample is solved in log space.
// 4. Tiny losses must keep their digits, so they are computed in log space. It keeps for each state the best path's
//    log-probability v, and r >= 0, the sum of all other paths relative to it: no logarithm in the recursion.
// 5. The log-softmax may be fused in. Classes of the target are exponentiated in double, the others in T: the mass on
//    the others bounds the loss from below, so their relative error is all that it costs. In a frame where one class
//    has more than half of the mass, its gradient is minus the sum of the other classes' gradients.
// 6. Samples are independent: one after another per thread, the same bits for any number of threads.
//
// Operands: scores or log-probabilities (T, N, C) or (T, C); targets (N, S), concatenated (L), or (S); lengths of
// inputs and of targets (N) or (), all of any integer dtype. The family's number is the blank.
#include <memory>
#include <numeric>

#include "drive.h"
#include "primitives.h"

namespace losskit {
namespace {

using enum wire::ctc::Violation;

constexpr int64_t kLanes = 8;    // accumulators; rows are padded to them
constexpr int64_t kRescale = 8;  // frames between two rescalings

struct Job : Call {
  static constexpr size_t kFirstParameter = wire::ctc::kFirstParameter;
  int64_t frames = 0, samples = 1, classes = 0, blank = 0;
  double limit = infinity<double>;                    // of log-probabilities
  int64_t strides[3] = {}, gradient_strides[3] = {};  // by frame, sample, class
  const char* input = nullptr;
  DType dtype = DType::kFloat;
  const char* targets = nullptr;
  DType target_dtype = DType::kLong;
  int64_t target_stride = 1;
  std::vector<int64_t> input_lengths, target_lengths, target_offsets;
  std::vector<double> factors, losses;
  std::vector<float> mask;
  int64_t size = 0;     // of the targets' last dimension
  bool padded = false;  // targets are rows, not one after another
  bool adds_up = true;  // the lengths of targets one after another

  bool read(const Inputs& in);
  void outputs(const Inputs& in, Result& result);
  double counted() const;
  Work divide();
  void conclude();
  // Take note of what is refused. Lengths are told before labels, and these before log-probabilities.
  void refuse(wire::ctc::Violation violation, int64_t order, int64_t place, std::variant<double, int64_t> value) {
    const int64_t rank = violation == kInputLength ? 0 : violation == kTargetLength ? 1 : violation == kLabel ? 2 : 3;
    if (options.checks == kRaise) report({rank, order, violation, place, value});
  }
};

// Buffers of one thread. Rows have `width` doubles, padded by zeros, with one more zero before them.
template <class T> struct Scratch {
  std::vector<int64_t> labels, first, repeated;  // label j; where its class occurs first; those that occurred before
  std::vector<int64_t> classes, where, which, seen;  // distinct classes, the blank in [0]; where they occur first; j's
  std::vector<double> skip, skip_next, distinct;  // factors 0 or 1: label j differs from j - 1, j + 1, is a first one
  std::vector<double> exponentials, beta_blank[2], beta_label[2], posterior, difference, log_emission;
  std::vector<T> frame, gathered, values, row, narrowed;
  std::vector<T> others;  // a factor: 0 for the classes of the target, 1 for the rest
  std::vector<double> blank, total, rest,
      logs;             // per frame: emission of the blank; sums of all exponentials, of others
  std::vector<T> most;  // per frame: the largest score
  bool kept = false;    // rows of the gradient hold exponentials from forward to backward
  std::unique_ptr<double[]> rows;
  int64_t capacity = 0;
};

template <class T> struct Sample {
  const Job& job;
  Scratch<T>& own;
  int64_t index, frames, length, width, stride;
  double* alpha_blank;
  double* alpha_label;
  double* emission;
  double* row(double* rows, int64_t t) const { return rows + t * stride + kLanes; }
};

// --------------------------------------------------------------------------------------------------------
// Reductions in lanes, by hand: the compiler may not reorder a sum

LOSSKIT_INLINE double sum_lanes(const double* x) {
  return ((x[0] + x[4]) + (x[1] + x[5])) + ((x[2] + x[6]) + (x[3] + x[7]));
}

// The sum of x[i] * y[i].
template <class X> LOSSKIT_INLINE double dot(const X* x, const X* y, int64_t n) {
  double lanes[kLanes] = {};
  const int64_t even = n / kLanes * kLanes;
  for (int64_t i = 0; i < even; i += kLanes)
    for (int64_t j = 0; j < kLanes; ++j) lanes[j] += static_cast<double>(x[i + j] * y[i + j]);
  for (int64_t i = even; i < n; ++i) lanes[i - even] += static_cast<double>(x[i] * y[i]);
  return sum_lanes(lanes);
}

// The sum of n numbers, n a multiple of kLanes.
LOSSKIT_INLINE double sum(const double* x, int64_t n) {
  double lanes[kLanes] = {};
  for (int64_t i = 0; i < n; i += kLanes)
    for (int64_t j = 0; j < kLanes; ++j) lanes[j] += x[i + j];
  return sum_lanes(lanes);
}

// The largest; NaN is passed over.
template <class X> LOSSKIT_INLINE X largest(const X* x, int64_t n) {
  constexpr int64_t width = 64 / sizeof(X);
  X lanes[width];
  for (int64_t j = 0; j < width; ++j) lanes[j] = -infinity<X>;
  if (n < width) {
    for (int64_t i = 0; i < n; ++i) lanes[0] = x[i] > lanes[0] ? x[i] : lanes[0];
    return lanes[0];
  }
  for (int64_t i = 0; i < n; i += width) {
    const X* from = x + (i + width <= n ? i : n - width);  // the last vector may overlap the one before
    for (int64_t j = 0; j < width; ++j) lanes[j] = from[j] > lanes[j] ? from[j] : lanes[j];
  }
  for (int64_t j = 4; j < width; ++j) lanes[j % 4] = lanes[j] > lanes[j % 4] ? lanes[j] : lanes[j % 4];
  const X a = lanes[0] > lanes[1] ? lanes[0] : lanes[1], b = lanes[2] > lanes[3] ? lanes[2] : lanes[3];
  return a > b ? a : b;
}

// Whether there is a NaN, or a number above the limit.
template <class T> LOSSKIT_INLINE bool any_wild(const T* x, T limit, int64_t n) {
  int32_t found = 0;
  for (int64_t i = 0; i < n; ++i) found |= !(x[i] <= limit);
  return found != 0;
}

// exp(x - top) for x <= top, corrected for the rounding error of x - top.
template <class T> LOSSKIT_INLINE T exp_below(T x, T top) {
  const T d = x - top, back = d - x;
  const T lost = (x - (d - back)) - (top + back);
  const T e = exp_nabs(d);
  return e + where(d > -1000, e * lost, T(0));
}

template <class T> LOSSKIT_INLINE const T* frame_of(const Sample<T>& sample, int64_t t) {
  constexpr DType own = sizeof(T) == 4 ? DType::kFloat : DType::kDouble;
  const Job& job = sample.job;
  const char* data = job.input + (t * job.strides[0] + sample.index * job.strides[1]) * size_of(job.dtype);
  if (job.dtype == own && job.strides[2] == 1) return reinterpret_cast<const T*>(data);
  read_run(job.dtype, data, job.strides[2], job.classes, sample.own.frame.data());
  return sample.own.frame.data();
}

LOSSKIT_INLINE bool scores(const Job& job) { return wire::ctc::from_scores(job.options.family); }

// --------------------------------------------------------------------------------------------------------
// Rows of the gradient

// `size` bytes each, from a row to every `stride`-th place.
inline void scatter(const char* from, int64_t size, int64_t n, int64_t stride, char* to) {
  for (int64_t i = 0; i < n; ++i) std::memcpy(to + i * stride * size, from + i * size, size);
}

template <class T> struct Row {
  constexpr static DType own = sizeof(T) == 4 ? DType::kFloat : DType::kDouble;
  const Job& job;
  Scratch<T>& scratch;
  char* place;
  Row(const Job& job, Scratch<T>& scratch, int64_t index, int64_t t)
      : job(job),
        scratch(scratch),
        place(job.gradients[0] +
              (t * job.gradient_strides[0] + index * job.gradient_strides[1]) * size_of(job.gradient_dtypes[0])) {}
  bool in_place() const { return job.gradient_dtypes[0] == own && job.gradient_strides[2] == 1; }
  T* data() { return in_place() ? reinterpret_cast<T*>(place) : scratch.row.data(); }
  void write() {
    if (in_place()) return;
    const DType dtype = job.gradient_dtypes[0];
    if (job.gradient_strides[2] == 1) return write_run(dtype, scratch.row.data(), job.classes, place);
    char* narrowed = reinterpret_cast<char*>(scratch.values.data());
    write_run(dtype, scratch.row.data(), job.classes, narrowed);
    scatter(narrowed, size_of(dtype), job.classes, job.gradient_strides[2], place);
  }
};

template <class T> void fill(const Job& job, Scratch<T>& own, int64_t index, int64_t begin, double value) {
  if (!job.gradients[0]) return;
  for (int64_t t = begin; t < job.frames; ++t) {
    Row<T> row(job, own, index, t);
    std::fill_n(row.data(), job.classes, static_cast<T>(value));
    row.write();
  }
}

// --------------------------------------------------------------------------------------------------------
// Scaled linear space

// Prefetches a frame: the frames of a sample are too far apart in memory for the hardware's prefetchers.
LOSSKIT_INLINE void announce(const char* data, const int64_t* strides, int64_t t, int64_t index, int64_t classes,
                             int64_t size) {
  if (strides[2] != 1) return;
  data += (t * strides[0] + index * strides[1]) * size;
  const int64_t bytes = std::min<int64_t>(classes * size, 2048);
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(data + i);
}

// The frame's emissions, and the sums over classes that the log-softmax needs.
template <class T> LOSSKIT_INLINE void emit(const Sample<T>& sample, int64_t t) {
  Scratch<T>& own = sample.own;
  const int64_t count = static_cast<int64_t>(own.classes.size()), classes = sample.job.classes;
  const int64_t padded = (count + kLanes - 1) / kLanes * kLanes;  // so that GCC sees no tail
  const T* x = frame_of(sample, t);
  T* gathered = own.gathered.data();
  double* exponentials = own.exponentials.data();
  const int64_t* of = own.classes.data();
  for (int64_t k = 0; k < count; ++k) gathered[k] = x[of[k]];
  if (scores(sample.job)) {
    const T most = largest(x, classes);
    const double top = static_cast<double>(most);
#pragma GCC ivdep
    for (int64_t k = 0; k < padded; ++k) exponentials[k] = exp_nabs(static_cast<double>(gathered[k]) - top);
    T* values = own.kept ? Row<T>(sample.job, own, sample.index, t).data() : own.values.data();
#pragma GCC ivdep
    for (int64_t c = 0; c < classes; ++c) values[c] = exp_below(x[c], most);
    own.most[t] = most;
    own.rest[t] = dot(values, own.others.data(), classes);
    own.total[t] = own.rest[t] + sum(exponentials, padded);
  } else {
#pragma GCC ivdep
    for (int64_t k = 0; k < padded; ++k) exponentials[k] = exp(static_cast<double>(gathered[k]));
    // NaN in any class gives NaN out; so does a number above the limit of log-probabilities.
    if (any_wild(x, static_cast<T>(sample.job.limit), classes)) exponentials[0] = not_a_number<double>;
  }
  double* e = sample.row(sample.emission, t);
  const int64_t* which = own.which.data();
  own.blank[t] = exponentials[0];
  for (int64_t j = 1; j <= sample.length; ++j) e[j] = exponentials[which[j]];
}

template <class T>
LOSSKIT_INLINE void advance(const Sample<T>& sample, const double* blank, const double* label, const double* e,
                            double blank_emission, double* new_blank, double* new_label) {
  const double* skip = sample.own.skip.data();
  const int64_t width = sample.width / kLanes * kLanes;
#pragma GCC ivdep
  for (int64_t j = 0; j < width; ++j) {
    new_blank[j] = (blank[j] + label[j]) * blank_emission;
    new_label[j] = (label[j] + blank[j - 1] + skip[j] * label[j - 1]) * e[j];
  }
  new_blank[-1] = new_label[-1] = 0;
}

// Divide both rows by a power of two and return its exponent. Rows of zeros, and rows with NaN, stay as they are.
LOSSKIT_INLINE int64_t rescale(double* blank, double* label, int64_t width) {
  const double a = largest(blank, width), b = largest(label, width), most = a > b ? a : b;
  if (!(most >= 0x1p-1000 && most <= 0x1p1000)) return 0;
  const int64_t exponent = static_cast<int64_t>(bits(most) >> 52) - 1023;
  const double factor = from_bits<double>(static_cast<uint64_t>(1023 - exponent) << 52);
  width = width / kLanes * kLanes;
#pragma GCC ivdep
  for (int64_t j = 0; j < width; ++j) blank[j] *= factor, label[j] *= factor;
  return exponent;
}

// The loss, and in `log2_mass` the mass of all alignments in units of the largest emissions.
template <class T> LOSSKIT_INLINE double forward(const Sample<T>& sample, double& log2_mass) {
  Scratch<T>& own = sample.own;
  double* blank = sample.row(sample.alpha_blank, 0);
  double* label = sample.row(sample.alpha_label, 0);
  for (int64_t j = -1; j < sample.width; ++j) blank[j] = label[j] = 0;
  blank[0] = 1;
  int64_t exponent = 0;
  for (int64_t t = 0; t < sample.frames; ++t) {
    const Job& job = sample.job;
    if (t + 4 < sample.frames) announce(job.input, job.strides, t + 4, sample.index, job.classes, size_of(job.dtype));
    emit(sample, t);
    double* new_blank = sample.row(sample.alpha_blank, t + 1);
    double* new_label = sample.row(sample.alpha_label, t + 1);
    advance(sample, blank, label, sample.row(sample.emission, t), own.blank[t], new_blank, new_label);
    blank = new_blank, label = new_label;
    if (t % kRescale == kRescale - 1) exponent += rescale(blank, label, sample.width);
  }
  const double mass = blank[sample.length] + label[sample.length];
  log2_mass = static_cast<double>(exponent) + std::log2(mass);
  Sum sum;
  if (scores(sample.job)) {
    double* logs = own.logs.data();
#pragma GCC ivdep
    for (int64_t t = 0; t < sample.frames; ++t) logs[t] = log(own.total[t]);
    for (int64_t t = 0; t < sample.frames; ++t) sum.add(-logs[t]);
  }
  sum.add(static_cast<double>(exponent) * Format<double>::ln2_hi);
  sum.add(static_cast<double>(exponent) * Format<double>::ln2_lo);
  sum.add(std::log(mass));
  return 0 - sum.value();
}

// Backward through the lattice, a frame at a time from the last: call it with frames - 1, ..., 0. Leaves in
// `posterior` the products of forward and backward masses: blanks in [0], label j in [j]; returns their sum.
template <class T> LOSSKIT_INLINE double backward(const Sample<T>& sample, int64_t t) {
  Scratch<T>& own = sample.own;
  const int64_t width = sample.width / kLanes * kLanes;
  const double* alpha_blank = sample.row(sample.alpha_blank, t + 1);
  const double* alpha_label = sample.row(sample.alpha_label, t + 1);
  double* posterior = own.posterior.data();
  double* new_blank = own.beta_blank[t % 2].data();
  double* new_label = own.beta_label[t % 2].data();
  double on_blank[kLanes] = {}, on_labels[kLanes] = {};
  if (t == sample.frames - 1) {
    for (int64_t j = 0; j < width; ++j) new_blank[j] = new_label[j] = posterior[j] = 0;
    const int64_t n = sample.length;
    new_blank[n] = new_label[n] = 1;
    on_blank[0] = alpha_blank[n];
    posterior[n] = on_labels[0] = alpha_label[n];
  } else {
    const double* blank = own.beta_blank[(t + 1) % 2].data();
    const double* label = own.beta_label[(t + 1) % 2].data();
    const double* e = sample.row(sample.emission, t + 1);
    const double* skip = own.skip_next.data();
    const double blank_emission = own.blank[t + 1];
    for (int64_t i = 0; i < width; i += kLanes)
#pragma GCC ivdep
      for (int64_t k = 0; k < kLanes; ++k) {
        const int64_t j = i + k;
        const double next_blank = blank[j] * blank_emission, next_label = label[j + 1] * e[j + 1];
        const double on_blank_j = next_blank + next_label;
        const double on_label_j = label[j] * e[j] + next_blank + skip[j] * next_label;
        const double product = alpha_label[j] * on_label_j;
        new_blank[j] = on_blank_j;
        new_label[j] = on_label_j;
        posterior[j] = product;
        on_labels[k] += product;
        on_blank[k] += alpha_blank[j] * on_blank_j;
      }
  }
  posterior[0] = sum_lanes(on_blank);
  const double mass = posterior[0] + sum_lanes(on_labels);
  if (t % kRescale == 0) rescale(new_blank, new_label, width);
  return mass;
}

// --------------------------------------------------------------------------------------------------------
// Log space: (v, r) stands for e^v (1 + r)

struct Logs {
  double* v;
  double* r;
};

// The sum of up to three masses. The best path keeps its v exactly, the rest is a sum of positive terms.
LOSSKIT_INLINE void add_logs(double a, double ra, double b, double rb, double c, double rc, double& v, double& r) {
  const double most = maximum(maximum(a, b), c);
  const bool first = a == most, second = !first & (b == most), third = !(first | second);
  const double x = where(first, ra, (1 + ra) * exp_nabs(a == most ? 0.0 : a - most));
  const double y = where(second, rb, (1 + rb) * exp_nabs(b == most ? 0.0 : b - most));
  const double z = where(third, rc, (1 + rc) * exp_nabs(c == most ? 0.0 : c - most));
  v = most;
  r = where(most == -infinity<double>, 0.0, x + y + z);
}

// r counts paths: it would overflow after some hundred frames.
inline void fold(Logs logs, int64_t width) {
  for (int64_t j = 0; j < width; ++j)
    if (logs.r[j] > 0x1p200) logs.v[j] += std::log1p(logs.r[j]), logs.r[j] = 0;
}

// Log-probabilities of a frame: blank in [0], label j in [j], -inf in the padding.
template <class T> LOSSKIT_INLINE void log_emit(const Sample<T>& sample, int64_t t) {
  Scratch<T>& own = sample.own;
  const T* x = frame_of(sample, t);
  double* out = own.log_emission.data();
  out[0] = static_cast<double>(x[sample.job.blank]);
  for (int64_t j = 1; j <= sample.length; ++j) out[j] = static_cast<double>(x[own.labels[j]]);
  if (!scores(sample.job)) return;
  const int64_t classes = sample.job.classes;
  const T most = largest(x, classes);
  double others = 0;
  bool seen = false;
  for (int64_t c = 0; c < classes; ++c) {
    if (!seen && x[c] == most)
      seen = true;
    else
      others += exp_nabs(static_cast<double>(x[c]) - static_cast<double>(most));
  }
  const double normalizer = std::log1p(others);
  for (int64_t j = 0; j <= sample.length; ++j) out[j] = (out[j] - static_cast<double>(most)) - normalizer;
}

// The lattice of one sample in log space; solved rarely, so its memory is its own.
struct LogLattice {
  std::vector<double> memory;
  int64_t stride, rows;
  Logs blank(int64_t t) { return at(t, 0); }
  Logs label(int64_t t) { return at(t, 2); }
  Logs at(int64_t t, int64_t which) {
    double* base = memory.data() + ((t % rows) * 4 + which) * stride + kLanes;
    return {base, base + stride};
  }
  LogLattice(int64_t width, int64_t rows) : stride(width + 2 * kLanes), rows(rows) {
    memory.assign(rows * 4 * stride, 0.0);
    for (int64_t t = 0; t < rows; ++t)
      for (const Logs logs : {blank(t), label(t)})
        for (int64_t j = -1; j <= width; ++j) logs.v[j] = -infinity<double>;
  }
};

template <class T> LOSSKIT_INLINE double log_forward(const Sample<T>& sample, LogLattice& lattice, Logs end) {
  Scratch<T>& own = sample.own;
  for (int64_t j = sample.length + 1; j < sample.width; ++j) own.log_emission[j] = -infinity<double>;
  lattice.blank(0).v[0] = 0;
  for (int64_t t = 0; t < sample.frames; ++t) {
    log_emit(sample, t);
    const Logs blank = lattice.blank(t), label = lattice.label(t);
    const Logs new_blank = lattice.blank(t + 1), new_label = lattice.label(t + 1);
    const double* lp = own.log_emission.data();
    const double* skip = own.skip.data();
    constexpr double none = -infinity<double>;
#pragma GCC ivdep
    for (int64_t j = 0; j < sample.width; ++j) {
      add_logs(blank.v[j], blank.r[j], label.v[j], label.r[j], none, 0.0, new_blank.v[j], new_blank.r[j]);
      new_blank.v[j] += lp[0];
    }
#pragma GCC ivdep
    for (int64_t j = 0; j < sample.width; ++j) {
      const double skipped = where(skip[j] != 0, label.v[j - 1], none);
      add_logs(label.v[j], label.r[j], blank.v[j - 1], blank.r[j - 1], skipped, label.r[j - 1], new_label.v[j],
               new_label.r[j]);
      new_label.v[j] += lp[j];
    }
    new_label.v[0] = none;
    if (t % 64 == 63) fold(new_blank, sample.width), fold(new_label, sample.width);
  }
  const Logs blank = lattice.blank(sample.frames), label = lattice.label(sample.frames);
  const int64_t n = sample.length;
  add_logs(blank.v[n], blank.r[n], label.v[n], label.r[n], -infinity<double>, 0.0, *end.v, *end.r);
  return 0 - (*end.v + std::log1p(*end.r));
}

// As `backward`; `beta` has two rows, t + 1 in the one and t in the other.
template <class T>
LOSSKIT_INLINE double log_backward(const Sample<T>& sample, LogLattice& alpha, LogLattice& beta, Logs end, int64_t t) {
  Scratch<T>& own = sample.own;
  const int64_t width = sample.width;
  const Logs blank = beta.blank(t), label = beta.label(t);
  constexpr double none = -infinity<double>;
  if (t == sample.frames - 1) {
    blank.v[sample.length] = label.v[sample.length] = 0;
  } else {
    log_emit(sample, t + 1);
    const Logs next_blank = beta.blank(t + 1), next_label = beta.label(t + 1);
    const double* lp = own.log_emission.data();
    const double* skip = own.skip_next.data();
    for (int64_t j = 0; j < width; ++j) next_blank.v[j] += lp[0], next_label.v[j] += j ? lp[j] : none;
#pragma GCC ivdep
    for (int64_t j = 0; j < width; ++j)
      add_logs(next_blank.v[j], next_blank.r[j], next_label.v[j + 1], next_label.r[j + 1], none, 0.0, blank.v[j],
               blank.r[j]);
#pragma GCC ivdep
    for (int64_t j = 0; j < width; ++j)
      add_logs(next_label.v[j], next_label.r[j], next_blank.v[j], next_blank.r[j],
               where(skip[j] != 0, next_label.v[j + 1], none), next_label.r[j + 1], label.v[j], label.r[j]);
    if (t % 64 == 0) fold(blank, width), fold(label, width);
  }
  const Logs alpha_blank = alpha.blank(t + 1), alpha_label = alpha.label(t + 1);
  double* posterior = own.posterior.data();
  const auto mass = [&](Logs a, Logs b, int64_t j) {
    return (1 + a.r[j]) / (1 + *end.r) * (1 + b.r[j]) * std::exp(a.v[j] + b.v[j] - *end.v);
  };
  double on_blank = 0, on_labels = 0;
  for (int64_t j = 0; j <= sample.length; ++j) on_blank += mass(alpha_blank, blank, j);
  for (int64_t j = 1; j <= sample.length; ++j) on_labels += posterior[j] = mass(alpha_label, label, j);
  posterior[0] = on_blank;
  return on_blank + on_labels;
}

// --------------------------------------------------------------------------------------------------------
// The gradient of a frame

// The frame's gradient, times `scale`, from the products in `posterior`, whose sum is `mass`.
template <class T> LOSSKIT_INLINE void write_gradient(const Sample<T>& sample, int64_t t, double mass, double scale) {
  Scratch<T>& own = sample.own;
  const Job& job = sample.job;
  const int64_t width = sample.width / kLanes * kLanes, classes = job.classes;
  const int64_t count = static_cast<int64_t>(own.classes.size());
  double* posterior = own.posterior.data();
  for (const int64_t j : own.repeated) posterior[own.first[j]] += posterior[j];
  const double inverse = 1 / mass;

  if (own.kept && t >= 4) announce(job.gradients[0], job.gradient_strides, t - 4, sample.index, classes, sizeof(T));
  Row<T> row(job, own, sample.index, t);
  T* out = row.data();
  if (!scores(job) && wire::ctc::exact_gradient(job.options.family)) {
    std::fill_n(out, classes, T(0));
    for (int64_t k = 0; k < count; ++k)
      out[own.classes[k]] = static_cast<T>(-scale * (posterior[own.where[k]] * inverse));
    return row.write();
  }

  // Probabilities of the target's classes: unit * e.
  double* e = sample.row(sample.emission, t);
  const double* distinct = own.distinct.data();
  const double unit = scores(job) ? 1 / own.total[t] : 1.0;
  double* difference = own.difference.data();
  e[0] = own.blank[t];
#pragma GCC ivdep
  for (int64_t j = 0; j < width; ++j) difference[j] = (unit * e[j] - posterior[j] * inverse) * distinct[j];
  if (unit > 0.5 && largest(e, width) * unit > 0.5) {
    // The likeliest class: p - posterior = (1 - posterior) - (1 - p) without the rounding of 1 - x.
    int64_t k = 0;
    while (!(e[k] * unit > 0.5 && distinct[k] != 0)) ++k;
    if (scores(job)) {
      difference[k] = 0;
      difference[k] = -(sum(difference, width) + own.rest[t] * unit);
    } else {
      posterior[k] = 0;
      const double x = static_cast<double>(frame_of(sample, t)[own.labels[k]]);
      difference[k] = dot(posterior, distinct, width) * inverse + std::expm1(x);
    }
  }
  e[0] = 0;
  T* narrowed = own.narrowed.data();
#pragma GCC ivdep
  for (int64_t j = 0; j < width; ++j) narrowed[j] = static_cast<T>(difference[j] * scale);

  if (!scores(job)) {
    const T* x = frame_of(sample, t);
    const T factor = static_cast<T>(scale);
#pragma GCC ivdep
    for (int64_t c = 0; c < classes; ++c) out[c] = exp(x[c]) * factor;
  } else if (own.kept) {
    const T factor = static_cast<T>(scale / own.total[t]);
    for (int64_t c = 0; c < classes; ++c) out[c] *= factor;
  } else {
    const T* x = frame_of(sample, t);
    const T most = own.most[t], factor = static_cast<T>(scale / own.total[t]);
#pragma GCC ivdep
    for (int64_t c = 0; c < classes; ++c) out[c] = exp_below(x[c], most) * factor;
  }
  const int64_t *of = own.classes.data(), *where = own.where.data();
  for (int64_t k = 0; k < count; ++k) out[of[k]] = narrowed[where[k]];
  row.write();
}

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

bool integers(const Tensor& tensor) {
  const DType dtype = dtype_of(tensor);
  return tensor.is_cpu() && dtype != DType::kBool && known(dtype) && !floating(dtype);
}

bool read_lengths(const Tensor& tensor, int64_t samples, std::vector<int64_t>& lengths) {
  if (!integers(tensor) || tensor.dim() > 1 || tensor.numel() != samples) return false;
  lengths.resize(samples);
  const int64_t stride = tensor.dim() ? tensor.strides()[0] : 0;
  if (samples) read_any<int64_t>(dtype_of(tensor), tensor.data_ptr(), stride, samples, lengths.data());
  return true;
}

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

// The sum of the weights of the samples that count, or their number.
double Job::counted() const {
  Sum total;
  for (int64_t i = 0; i < samples; ++i)
    if (mask.empty() || mask[i] != 0.0f) total.add(factors.empty() ? 1.0 : factors[i]);
  return total.value();
}

// The unreduced losses, weighed and rounded to T, and the sums of their blocks.
template <class T> void reduce_losses(Job& job) {
  T values[kBlock];
  for (int64_t block = 0; block * kBlock < job.samples; ++block) {
    const int64_t begin = block * kBlock, n = std::min(kBlock, job.samples - begin);
    for (int64_t i = 0; i < n; ++i) values[i] = static_cast<T>(job.losses[begin + i]);
    weigh(values, job.factors.empty() ? nullptr : job.factors.data() + begin,
          job.mask.empty() ? nullptr : job.mask.data() + begin, 1.0, n, values);
    if (job.options.reduction != kElements)
      job.sums[block] = sum_block(values, n);
    else
      write_run(job.result, values, n, job.values + begin * size_of(job.result));
  }
}

bool Job::read(const Inputs& in) {
  const Tensor& a = in.a;
  const bool batched = a.dim() == 3;
  result = dtype = gradient_dtypes[0] = dtype_of(a);
  if (!(batched || a.dim() == 2) || !a.is_cpu() || !known(dtype) || !floating(dtype)) return false;
  if (!in.b || !in.c || !in.d || in.weight) return false;
  const Tensor& b = *in.b;
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
  if (!read_lengths(*in.c, samples, input_lengths) || !read_lengths(*in.d, samples, target_lengths)) return false;
  place_targets(*this, b);
  return true;
}

void Job::outputs(const Inputs& in, Result& out) {
  const int dims = static_cast<int>(in.a.dim());
  Walk layout;
  start(layout, dims, in.a.sizes().data(), in.a.strides().data());
  const auto dense = dense_strides(layout);
  allocate_gradient(*this, out, 0, dims, in.a.sizes().data(), dense.data());
  gradient_strides[0] = dense[0], gradient_strides[2] = dense[dims - 1];
  if (dims == 3) gradient_strides[1] = dense[1];

  Weights scratch;
  for (int64_t begin = 0; begin < samples; begin += kBlock) {
    const int64_t n = std::min(kBlock, samples - begin);
    if (const float* counts = mask_of(*this, begin, n, scratch)) mask.insert(mask.end(), counts, counts + n);
    if (const double* more = losskit::factors(*this, {kSampleWeight, kUpstream}, begin, n, scratch))
      factors.insert(factors.end(), more, more + n);
  }
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
  if (!sources[kUpstream].present())
    dtype == DType::kDouble ? reduce_losses<double>(*this) : reduce_losses<float>(*this);
}

}  // namespace

Result ctc(const Inputs& in) {
  Job job;
  return drive(job, in);
}

}  // namespace losskit

LOSSKIT_OP(ctc)
