// The transducer loss (RNN-T): a lattice of frames and labels for each sample, a softmax over classes at each node.
//
// 1. A node (t, u) has seen t frames and u labels. Its blank leads to (t + 1, u), its next label to (t, u + 1); the
// blank
//    of the last node ends. Nodes lie along anti-diagonals t + u in memory, so that a diagonal is a loop that
//    vectorises.
// 2. Masses are in log space, in double, relative to the largest of their diagonal: rounding errors are then those of
//    numbers near 1, not of losses of some hundreds. A diagonal's posteriors are divided by their own sum.
// 3. The exponentials of the log-softmax are written where the gradient will be, where that has room for them; a last
//    pass multiplies each node's by one number and puts in the two classes that an arc has.
// 4. The gradient of these two is a difference of two products of positive numbers, none of which is 1 - p by
//    subtraction: p(blank) P(label) - P(blank) (1 - p(blank)), P the posterior of an arc.
// 5. Samples are independent: one after another per thread, the same bits for any number of threads.
#pragma once

#include <memory>

#include "lattice.h"

namespace losskit {
namespace {

using enum wire::rnnt::Violation;

struct Job : Batch {
  static constexpr size_t kFirstParameter = wire::rnnt::kFirstParameter;
  int64_t frames = 0, columns = 0, classes = 0, blank = 0;
  double clamp = -1, emission = 1, limit = infinity<double>;
  int64_t strides[4] = {}, gradient_strides[4] = {};  // by sample, frame, label, class
  const char* input = nullptr;
  DType dtype = DType::kFloat;
  const char* targets = nullptr;
  DType target_dtype = DType::kLong;
  int64_t target_strides[2] = {0, 1};
  std::vector<int64_t> input_lengths, target_lengths;

  bool softmax() const { return wire::rnnt::from_scores(options.family); }
  bool read(const Inputs& in);
  void outputs(const Inputs& in, Result& result);
  Work divide();
  void conclude();
  // Take note of what is refused. Lengths are told before labels, and these before log-probabilities.
  void refuse(wire::rnnt::Violation violation, int64_t order, std::variant<double, int64_t> value) {
    const int64_t rank = violation == kInputLength ? 0 : violation == kTargetLength ? 1 : violation == kLabel ? 2 : 3;
    if (options.checks == kRaise) report({rank, order, violation, order, value});
  }
};

// Buffers of one thread.
template <class T> struct Scratch {
  std::vector<int64_t> labels;
  std::vector<T> node, row, narrowed;
  std::unique_ptr<double[]> memory;
  int64_t capacity = 0;
};

// A sample and its lattice: arrays of diagonals, an entry for each u. They are -inf where there is no node, and have an
// entry before and some behind.
template <class T> struct Sample {
  Job& job;
  Scratch<T>& own;
  int64_t index, frames, labels, stride;
  bool gradient, kept;    // kept: exponentials stay in the rows of the gradient
  double *v, *r;          // forward masses
  double *blank, *label;  // log-probabilities of the arcs; backward leaves the gradients of these classes here
  double *of_blank, *of_label, *rest;  // scores less the node's largest; the sum of the other classes' exponentials
  int64_t diagonals() const { return frames + labels; }
  int64_t low(int64_t d) const { return std::max<int64_t>(0, d - frames + 1); }
  int64_t high(int64_t d) const { return std::min(d, labels) + 1; }
  int64_t at(int64_t t, int64_t u) const { return (t + u) * stride + kLanes + u; }
};

constexpr int kArrays = 7;

template <class T> constexpr DType own_dtype = sizeof(T) == 4 ? DType::kFloat : DType::kDouble;

template <class T> LOSSKIT_INLINE const T* node_of(const Sample<T>& sample, int64_t t, int64_t u) {
  const Job& job = sample.job;
  const int64_t at = sample.index * job.strides[0] + t * job.strides[1] + u * job.strides[2];
  const char* data = job.input + at * size_of(job.dtype);
  if (job.dtype == own_dtype<T> && job.strides[3] == 1) return reinterpret_cast<const T*>(data);
  read_run(job.dtype, data, job.strides[3], job.classes, sample.own.node.data());
  return sample.own.node.data();
}

// The gradient of a node: in place, or in a row that `write` puts there.
template <class T> struct Row {
  const Job& job;
  Scratch<T>& scratch;
  char* place;
  Row(const Job& job, Scratch<T>& scratch, int64_t index, int64_t t, int64_t u) : job(job), scratch(scratch) {
    const int64_t* step = job.gradient_strides;
    place = job.gradients[0] + (index * step[0] + t * step[1] + u * step[2]) * size_of(job.gradient_dtypes[0]);
  }
  bool in_place() const { return job.gradient_dtypes[0] == own_dtype<T> && job.gradient_strides[3] == 1; }
  T* data() { return in_place() ? reinterpret_cast<T*>(place) : scratch.row.data(); }
  void write() {
    if (in_place()) return;
    const DType dtype = job.gradient_dtypes[0];
    if (job.gradient_strides[3] == 1) return write_run(dtype, scratch.row.data(), job.classes, place);
    char* narrowed = reinterpret_cast<char*>(scratch.narrowed.data());
    write_run(dtype, scratch.row.data(), job.classes, narrowed);
    scatter(narrowed, size_of(dtype), job.classes, job.gradient_strides[3], place);
  }
};

// The gradient of the nodes in the lattice (`inside`) or of the others.
template <class T>
void fill(const Job& job, Scratch<T>& own, int64_t i, int64_t frames, int64_t labels, bool inside, double value) {
  if (!job.gradients[0]) return;
  for (int64_t t = 0; t < job.frames; ++t)
    for (int64_t u = 0; u < job.columns; ++u) {
      if ((t < frames && u <= labels) != inside) continue;
      Row<T> row(job, own, i, t, u);
      std::fill_n(row.data(), job.classes, static_cast<T>(value));
      row.write();
    }
}

// The sum of n numbers, in double.
template <class T> LOSSKIT_INLINE double total_of(const T* x, int64_t n) {
  typedef T Part __attribute__((vector_size(kLanes * sizeof(T))));
  typedef double Doubles __attribute__((vector_size(kLanes * sizeof(double))));
  Doubles sums = {}, more = {};
  Part part;
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    std::memcpy(&part, x + i, sizeof part), sums += __builtin_convertvector(part, Doubles);
    std::memcpy(&part, x + i + kLanes, sizeof part), more += __builtin_convertvector(part, Doubles);
  }
  double lanes[kLanes];
  sums += more;
  std::memcpy(lanes, &sums, sizeof sums);
  for (int64_t j = 0; i < n; ++i, ++j) lanes[j % kLanes] += static_cast<double>(x[i]);
  return sum_lanes(lanes);
}

// The sum of numbers in [0, 1] of which a 1 is left out. What is small beside it is added up without it.
template <class T> LOSSKIT_INLINE double sum_but_one(const T* x, int64_t n) {
  const double rest = total_of(x, n) - 1;
  if (!(rest < (sizeof(T) == 4 ? 1e-7 : 0.5))) return rest;
  double ones = -1, sum = 0;
  for (int64_t i = 0; i < n; ++i) x[i] == 1 ? ones += 1 : sum += static_cast<double>(x[i]);
  return ones + sum;
}

// The log-probabilities of all arcs. False if there is a NaN, or what is no log-probability.
template <class T> LOSSKIT_INLINE bool emit(const Sample<T>& sample) {
  const Job& job = sample.job;
  const int64_t classes = job.classes;
  bool tame = true;
  for (int64_t t = 0; t < sample.frames; ++t)
    for (int64_t u = 0; u <= sample.labels; ++u) {
      const T* x = node_of(sample, t, u);
      const int64_t at = sample.at(t, u);
      const bool leads = t < sample.frames - 1 || u == sample.labels;  // the blank does, to a node or to the end
      T most = 0;
      sample.rest[at] = 0;
      if (job.softmax()) {
        most = largest(x, classes);
        T* values = sample.kept ? Row<T>(job, sample.own, sample.index, t, u).data() : sample.own.row.data();
#pragma GCC ivdep
        for (int64_t c = 0; c < classes; ++c) values[c] = exp_below(x[c], most);
        sample.rest[at] = sum_but_one(values, classes);
        tame &= sample.rest[at] == sample.rest[at];
      } else {
        tame &= !any_wild(x, static_cast<T>(job.limit), classes);
      }
      const double top = static_cast<double>(most);
      sample.of_blank[at] = static_cast<double>(x[job.blank]) - top;
      if (leads) sample.blank[at] = sample.of_blank[at];
      if (u < sample.labels)
        sample.label[at] = sample.of_label[at] = static_cast<double>(x[sample.own.labels[u]]) - top;
    }
  if (!job.softmax() || !tame) return tame;
  for (int64_t d = 0; d < sample.diagonals(); ++d) {
    const int64_t row = d * sample.stride + kLanes, high = sample.high(d);
#pragma GCC ivdep
    for (int64_t u = sample.low(d); u < high; ++u) {
      const double normalizer = log1p(sample.rest[row + u]);
      sample.blank[row + u] -= normalizer;
      sample.label[row + u] -= normalizer;
    }
  }
  return true;
}

// Take the largest v of a diagonal out of all, and return it.
LOSSKIT_INLINE double centre(double* v, int64_t low, int64_t high) {
  const double most = largest(v + low, high - low);
  if (!(std::abs(most) < infinity<double>)) return 0;
  for (int64_t u = low; u < high; ++u) v[u] -= most;
  return most;
}

// Forward through the lattice: the loss.
template <class T> LOSSKIT_INLINE double forward(const Sample<T>& sample) {
  const int64_t diagonals = sample.diagonals();
  double* v = sample.v + kLanes;
  double* r = sample.r + kLanes;
  v[0] = r[0] = 0;
  Sum taken;
  for (int64_t d = 1; d < diagonals; ++d) {
    const double *blank = sample.blank + (d - 1) * sample.stride + kLanes,
                 *label = sample.label + (d - 1) * sample.stride + kLanes;
    double *new_v = v + sample.stride, *new_r = r + sample.stride;
    const int64_t low = sample.low(d), high = sample.high(d);
#pragma GCC ivdep
    for (int64_t u = low; u < high; ++u)
      add_logs(v[u] + blank[u], r[u], v[u - 1] + label[u - 1], r[u - 1], -infinity<double>, 0.0, new_v[u], new_r[u]);
    v = new_v, r = new_r;
    if (d % 64 == 0) fold({v + low, r + low}, high - low);
    taken.add(centre(v, low, high));
  }
  const int64_t last = sample.labels;
  taken.add(v[last]);
  taken.add(sample.blank[sample.at(sample.frames - 1, last)]);
  taken.add(std::log1p(r[last]));
  return 0 - taken.value();
}

// exp(x) for x <= 0; 0 where it would be subnormal, which costs a hundred times as much.
LOSSKIT_INLINE double normal_exp(double x) { return where(x < -708, 0.0, exp_nabs(x)); }

// Backward through the lattice: leaves the gradients of blanks and labels in their place, and in `rest` what multiplies
// the exponentials of the others.
template <class T> LOSSKIT_INLINE void backward(const Sample<T>& sample) {
  const Job& job = sample.job;
  const int64_t stride = sample.stride, last = sample.diagonals();
  std::vector<double> rows(7 * stride, -infinity<double>);
  double *v = rows.data() + kLanes, *r = v + stride, *new_v = r + stride, *new_r = new_v + stride;
  double *by_blank = new_r + stride, *by_label = by_blank + stride,
         *mass = by_label + stride;  // shares of both arcs of a node
  std::fill_n(r - kLanes, stride, 0.0), std::fill_n(new_r - kLanes, stride, 0.0);
  v[sample.labels] = 0;
  const bool softmax = job.softmax();
  const double emission = job.emission, own = softmax ? 1 : 0;  // of log-probabilities, no other class has a gradient
  for (int64_t d = last - 1; d >= 0; --d) {
    const int64_t low = sample.low(d), high = sample.high(d), row = d * stride + kLanes;
    double *blank = sample.blank + row, *label = sample.label + row, *rest = sample.rest + row;
    const double *alpha = sample.v + row, *alpha_r = sample.r + row;
    std::fill_n(new_v - kLanes, stride, -infinity<double>);
#pragma GCC ivdep
    for (int64_t u = low; u < high; ++u) {
      const double a = v[u] + blank[u], b = v[u + 1] + label[u];
      const bool first = a >= b;
      const double most = where(first, a, b);
      const double less = normal_exp(a == b ? 0.0 : 0 - absolute(a - b));
      const double x = (1 + r[u]) * where(first, 1.0, less), y = (1 + r[u + 1]) * where(first, less, 1.0);
      const bool none = most == -infinity<double>;
      new_v[u] = most;
      new_r[u] = where(none, 0.0, where(first, r[u] + y, r[u + 1] + x));
      by_blank[u] = where(none, 0.0, x / (x + y));
      by_label[u] = where(none, 0.0, y / (x + y));
    }
    if (d % 64 == 0) fold({new_v + low, new_r + low}, high - low);
    centre(new_v, low, high);
    double most = -infinity<double>;
    for (int64_t u = low; u < high; ++u) mass[u] = alpha[u] + new_v[u], most = maximum(most, mass[u]);
    double lanes[kLanes] = {};
#pragma GCC ivdep
    for (int64_t u = low; u < high; ++u) mass[u] = normal_exp(mass[u] - most) * (1 + alpha_r[u]) * (1 + new_r[u]);
    for (int64_t u = low; u < high; ++u) lanes[(u - low) % kLanes] += mass[u];
    const double inverse = 1 / sum_lanes(lanes);
    const double *of_blank = sample.of_blank + row, *of_label = sample.of_label + row;
#pragma GCC ivdep
    for (int64_t u = low; u < high; ++u) {
      const double on = mass[u] * inverse;
      const double blanks = on * by_blank[u], labels = emission * (on * by_label[u]);
      const double e = exp_nabs(of_blank[u]), f = exp_nabs(of_label[u]);
      const double unit = 1 / (1 + rest[u]);
      const double left = unit * (rest[u] + (1 - e)), right = unit * (rest[u] + (1 - f));  // 1 - p of both
      blank[u] = unit * e * labels * own - blanks * where(softmax, left, 1.0);
      label[u] = unit * f * blanks * own - labels * where(softmax, right, 1.0);
      rest[u] = (blanks + labels) * unit * own;
    }
    std::swap(v, new_v), std::swap(r, new_r);
  }
}

template <class T> LOSSKIT_INLINE void write_gradient(const Sample<T>& sample, double scale) {
  const Job& job = sample.job;
  const int64_t classes = job.classes;
  const bool clamped = job.clamp > 0;
  const T most = static_cast<T>(clamped ? job.clamp : infinity<double>), own_scale = static_cast<T>(scale);
  for (int64_t t = 0; t < sample.frames; ++t)
    for (int64_t u = 0; u <= sample.labels; ++u) {
      const int64_t at = sample.at(t, u);
      Row<T> row(job, sample.own, sample.index, t, u);
      T* out = row.data();
      const T factor = static_cast<T>(clamped ? sample.rest[at] : sample.rest[at] * scale);
      if (!job.softmax() ||
          absolute(factor) < std::numeric_limits<T>::min()) {  // far from the likely ways; not subnormal
        std::fill_n(out, classes, T(0));
      } else if (sample.kept) {
        for (int64_t c = 0; c < classes; ++c) out[c] *= factor;
      } else {
        const T* x = node_of(sample, t, u);
        const T top = largest(x, classes);
#pragma GCC ivdep
        for (int64_t c = 0; c < classes; ++c) out[c] = exp_below(x[c], top) * factor;
      }
      if (clamped)
        for (int64_t c = 0; c < classes; ++c) out[c] = minimum(out[c], most) * own_scale;
      const auto put = [&](int64_t c, double slope) {
        out[c] = static_cast<T>((clamped ? clamp(slope, -job.clamp, job.clamp) : slope) * scale);
      };
      put(job.blank, sample.blank[at]);
      if (u < sample.labels) put(sample.own.labels[u], sample.label[at]);
      row.write();
    }
}

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

}  // namespace
}  // namespace losskit
