// The loop of the score-margins family: a formula of the difference between the score of a target class and that of
// another class, summed over the pairs of a row.
//
// 1. A segment is one row against one of its targets: the differences to all classes. Differences to targets are
//    computed too and zeroed afterwards: a store or two are cheaper than compacting the array. The block function sees
//    as many segments at a time as its 1024 numbers hold, so that short rows fill vectors; longer rows are cut into
//    tiles.
// 2. Floats are computed as floats and summed in double, four at a time. A batch with a sum that is not finite is
//    computed once more in double, where intermediate results do not overflow. So is a batch with a long list: a class
//    would add up too many slopes as floats.
// 3. The gradient of a target's score is minus the sum of the other classes' gradients, taken in double.
// 4. With one target a row, the formula writes into the gradient itself, unless scaling or conversion must follow.
// 5. A list of targets ends at the first -1; what comes after it is never looked at. A row whose targets are not
//    classes is a violation, NaN where that is not raised. So is a batch in which all rows are 0 and 1 to their end:
//    a mask, not lists.
#include <memory>

#include "drive.h"

namespace losskit {
namespace {

using enum wire::margins::Violation;
constexpr int64_t kAhead = 4;  // rows to prefetch ahead: of long lists only the first few numbers are read
constexpr int64_t kFew = 8;    // targets of a row whose slopes may be added as floats; more need double

struct Job : Call {
  static constexpr size_t kFirstParameter = wire::margins::kFirstParameter;
  int64_t rows = 1, classes = 1;
  int64_t batch = 1, width = 1;  // rows at a time, and classes
  bool many = false, mask_given = false;
  const char *scores = nullptr, *targets = nullptr, *weights = nullptr;
  DType score_dtype = DType::kFloat, target_dtype = DType::kLong, weight_dtype = DType::kFloat;
  int64_t score_steps[2] = {}, target_steps[2] = {}, weight_step = 0, gradient_steps[2] = {};  // by row, by class

  bool read(const Inputs& in);
  void outputs(const Inputs& in, Result& result);
  Work divide();
};

inline int64_t integer_at(DType dtype, const char* data, int64_t index) {
  switch (dtype) {
    case DType::kByte:
      return reinterpret_cast<const uint8_t*>(data)[index];
    case DType::kChar:
      return reinterpret_cast<const int8_t*>(data)[index];
    case DType::kShort:
      return reinterpret_cast<const int16_t*>(data)[index];
    case DType::kUInt16:
      return reinterpret_cast<const uint16_t*>(data)[index];
    case DType::kInt:
      return reinterpret_cast<const int32_t*>(data)[index];
    case DType::kUInt32:
      return reinterpret_cast<const uint32_t*>(data)[index];
    default:
      return reinterpret_cast<const int64_t*>(data)[index];
  }
}

inline bool is_integer(DType dtype) { return !floating(dtype) && dtype != DType::kBool; }

inline double number_at(DType dtype, const char* data, int64_t index) {
  double number;
  read_run(dtype, data + index * size_of(dtype), 1, 1, &number);
  return number;
}

// --------------------------------------------------------------------------------------------------------
// Passes over segments in L1. T is the type of the scores, C that of the arithmetic.

// Segment k is row rows[k] of x (rows are `step` apart) against the target's score own[k].
template <class T, class C>
LOSSKIT_INLINE void subtract(const T* x, int64_t step, const int64_t* rows, const C* own, int64_t segments, int64_t n,
                             C* out) {
  for (int64_t k = 0; k < segments; ++k) {
    const T* scores = x + rows[k] * step;
    const C from = own[k];
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) out[k * n + i] = from - static_cast<C>(scores[i]);
  }
}
LOSSKIT_CLONES void differences(const float* x, int64_t step, const int64_t* rows, const float* own, int64_t segments,
                                int64_t n, float* out) {
  subtract(x, step, rows, own, segments, n, out);
}
LOSSKIT_CLONES void differences(const float* x, int64_t step, const int64_t* rows, const double* own, int64_t segments,
                                int64_t n, double* out) {
  subtract(x, step, rows, own, segments, n, out);
}
LOSSKIT_CLONES void differences(const double* x, int64_t step, const int64_t* rows, const double* own, int64_t segments,
                                int64_t n, double* out) {
  subtract(x, step, rows, own, segments, n, out);
}

// Four floats are added as floats and the results in double: that loses less than the rounding of each number.
LOSSKIT_INLINE double sum_any(const float* x, int64_t n) {
  constexpr int kLanes = 16;
  double even = 0.0, odd = 0.0;
  int64_t i = 0;
  if (n >= kLanes) {
    double lanes[kLanes] = {};
    for (; i + 4 * kLanes <= n; i += 4 * kLanes)
      for (int j = 0; j < kLanes; ++j)
        lanes[j] += static_cast<double>((x[i + j] + x[i + 16 + j]) + (x[i + 32 + j] + x[i + 48 + j]));
    for (; i + kLanes <= n; i += kLanes)
      for (int j = 0; j < kLanes; ++j) lanes[j] += static_cast<double>(x[i + j]);
    even = folded<kLanes>(lanes);
  }
  for (; i + 1 < n; i += 2) {
    even += static_cast<double>(x[i]);
    odd += static_cast<double>(x[i + 1]);
  }
  return even + (i < n ? odd + static_cast<double>(x[i]) : odd);
}
LOSSKIT_CLONES void sums(const float* x, int64_t segments, int64_t n, Sum* out) {
  for (int64_t k = 0; k < segments; ++k) out[k].add(sum_any(x + k * n, n));
}
void sums(const double* x, int64_t segments, int64_t n, Sum* out) {
  for (int64_t k = 0; k < segments; ++k) out[k].add(sum_block(x + k * n, n));
}

template <class C> LOSSKIT_INLINE void add_any(const C* x, int64_t n, C* total) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) total[i] += x[i];
}
LOSSKIT_CLONES void add(const float* x, int64_t n, float* total) { add_any(x, n, total); }
LOSSKIT_CLONES void add(const double* x, int64_t n, double* total) { add_any(x, n, total); }

template <class From, class To> LOSSKIT_INLINE void scale_any(const From* x, double scale, int64_t n, To* out) {
  const Scale<From> factor(scale);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<To>(scaled(x[i], factor));
}
LOSSKIT_CLONES void scale_into(const float* x, double s, int64_t n, float* out) { scale_any(x, s, n, out); }
LOSSKIT_CLONES void scale_into(const double* x, double s, int64_t n, float* out) { scale_any(x, s, n, out); }
LOSSKIT_CLONES void scale_into(const double* x, double s, int64_t n, double* out) { scale_any(x, s, n, out); }

// --------------------------------------------------------------------------------------------------------
// A batch of rows

enum State : uint8_t { kCounts, kMasked, kBad };

template <class T, class C> struct Scratch : Weights {
  alignas(64) T scores[kBlock];
  alignas(64) C differences[kBlock];
  alignas(64) C values[kBlock];
  alignas(64) C slopes[kBlock];  // derivatives by the differences
  alignas(64) C totals[kBlock];  // their sums over the targets of a row
  alignas(64) T out[kBlock];
  alignas(64) char narrow[kBlock * sizeof(double)];
  // By row: its state, its first segment, the weight of its loss.
  State states[kBlock];
  int64_t first[kBlock + 1];
  double weights[kBlock];
  T losses[kBlock];
  // By segment: its row, its target, the target's score, the sums of its values and of its slopes.
  std::vector<int64_t> rows, targets;
  std::vector<C> own;
  std::vector<Sum> value_sums, slope_sums;
};

template <class T, class C> struct Batch {
  static constexpr DType kOwn = sizeof(T) == 4 ? DType::kFloat : DType::kDouble;
  Job& job;
  Scratch<T, C>& scratch;
  const int64_t begin, rows;
  const bool gradient = job.gradients[0] != nullptr;
  int64_t segments = 0;
  bool direct = false;     // the formula writes the gradient
  bool long_list = false;  // of targets

  // False if the batch needs double: a sum is not finite, or a list is long.
  bool run() {
    if (!collect()) return true;
    if (long_list && sizeof(C) == 4) return false;
    weigh_rows();
    for (int64_t from = 0; from < job.classes; from += job.width)
      run_tile(from, std::min(job.width, job.classes - from));
    if (gradient) write_targets();
    return write_losses();
  }

  // The segments of the rows that count; false if checks("raise") finds a violation.
  bool collect() {
    if (job.mask_given && job.options.checks == kRaise) {
      job.report({1, 0, kMaskGiven, 0, 0.0});
      return false;
    }
    scratch.rows.clear();
    scratch.targets.clear();
    scratch.own.clear();
    const float* mask = mask_of(job, begin, rows, scratch);
    for (int64_t r = 0; r < rows; ++r) {
      const auto start = scratch.first[r] = static_cast<int64_t>(scratch.rows.size());
      State& state = scratch.states[r] = mask && mask[r] == 0.0f ? kMasked : job.mask_given ? kBad : kCounts;
      if (state != kCounts) continue;
      const int64_t at = (begin + r) * job.target_steps[0];
      if (job.many && begin + r + kAhead < job.rows)
        __builtin_prefetch(job.targets + (at + kAhead * job.target_steps[0]) * size_of(job.target_dtype));
      for (int64_t j = 0; j < (job.many ? job.classes : 1); ++j) {
        const int64_t target = integer_at(job.target_dtype, job.targets, at + j * job.target_steps[1]);
        if (job.many && target == -1) break;
        if (target < 0 || target >= job.classes) {
          state = kBad;
          const int64_t place = job.many ? (begin + r) * job.classes + j : begin + r;
          if (job.options.checks == kRaise) job.report({0, place, kClassIndex, place, target});
          break;
        }
        scratch.rows.push_back(r);
        scratch.targets.push_back(target);
        scratch.own.push_back(static_cast<C>(score(r, target)));
      }
      if (state == kBad) {
        if (job.options.checks == kRaise) return false;
        scratch.rows.resize(start);
        scratch.targets.resize(start);
        scratch.own.resize(start);
      }
      long_list |= static_cast<int64_t>(scratch.rows.size()) - start > kFew;
    }
    segments = scratch.first[rows] = static_cast<int64_t>(scratch.rows.size());
    scratch.value_sums.assign(segments, Sum());
    scratch.slope_sums.assign(segments, Sum());
    return true;
  }

  const char* score_at(int64_t r, int64_t from) const {
    const int64_t at = (begin + r) * job.score_steps[0] + from * job.score_steps[1];
    return job.scores + at * size_of(job.score_dtype);
  }
  T score(int64_t r, int64_t target) const {
    if (job.score_dtype == kOwn) return *reinterpret_cast<const T*>(score_at(r, target));
    T buffer;
    read_run(job.score_dtype, score_at(r, target), 1, 1, &buffer);
    return buffer;
  }
  // Scores [from, from + n) of all rows, `step` apart.
  const T* scores(int64_t from, int64_t n, int64_t& step) {
    step = job.score_steps[0];
    if (job.score_dtype == kOwn && (job.score_steps[1] == 1 || n == 1))
      return reinterpret_cast<const T*>(score_at(0, from));
    step = n;
    for (int64_t r = 0; r < rows; ++r)
      read_run(job.score_dtype, score_at(r, from), job.score_steps[1], n, scratch.scores + r * n);
    return scratch.scores;
  }

  void weigh_rows() {
    const double* factor = factors(job, {kSampleWeight, kUpstream}, begin, rows, scratch);
    const double share = 1.0 / static_cast<double>(job.classes);
    for (int64_t r = 0; r < rows; ++r) {
      const bool counts = scratch.states[r] == kCounts;
      scratch.weights[r] = factor && counts ? factor[r] * share : share;
      if (job.weights && counts)
        scratch.weights[r] *=
            number_at(job.weight_dtype, job.weights, scratch.targets[scratch.first[r]] * job.weight_step);
      const int64_t own = scratch.first[r + 1] - scratch.first[r];
      if (counts && (own == 0 || own >= job.classes)) look_for_nan(r);
    }
    const bool uniform = rows == 1 || !(factor || job.weights);
    const bool dense = job.gradient_steps[1] == 1 && (rows == 1 || job.gradient_steps[0] == job.classes);
    direct = gradient && !job.many && segments == rows && uniform && dense && sizeof(C) == sizeof(T) &&
             job.gradient_dtypes[0] == kOwn;
  }
  // NaN in gives NaN out, also in a row without a pair.
  void look_for_nan(int64_t r) {
    for (int64_t j = 0; j < job.classes; ++j)
      if (const T x = score(r, j); x != x) scratch.states[r] = kBad;
  }

  void run_tile(int64_t from, int64_t n) {
    const int64_t together = kBlock / n;
    int64_t step;
    const T* x = scores(from, n, step);
    for (int64_t first = 0; first < segments; first += together) {
      const int64_t count = std::min(together, segments - first);
      differences(x, step, scratch.rows.data() + first, scratch.own.data() + first, count, n, scratch.differences);
      if (direct)
        evaluate(first, count, from, n, -scratch.weights[0] * job.scale,
                 reinterpret_cast<C*>(gradient_at(scratch.rows[first], from)));
      else
        evaluate(
            first, count, from, n, 1.0,
            job.many && together == 1 && starts(first) ? scratch.totals + scratch.rows[first] * n : scratch.slopes);
    }
    if (!gradient || direct) return;
    for (int64_t r = 0; r < rows; ++r) {
      if (job.many)
        write(r, from, n, scratch.totals + r * n);
      else
        write(r, from, n, scratch.slopes + scratch.first[r] * n);
    }
  }

  // Whether a segment is its row's first.
  bool starts(int64_t segment) const { return scratch.first[scratch.rows[segment]] == segment; }

  // Values and slopes of `count` segments; two targets make no pair.
  void evaluate(int64_t first, int64_t count, int64_t from, int64_t n, double scale, C* slopes) {
    const C* operands[1] = {scratch.differences};
    C* derivatives[kOperands] = {slopes};
    C parameters[kMaxParameters];
    std::copy(job.parameters, job.parameters + kMaxParameters, parameters);
    const auto& functions = [&]() -> auto& {
      if constexpr (sizeof(C) == 4)
        return job.kernel->f32;
      else
        return job.kernel->f64;
    }();
    C* const values = scratch.values;
    functions[gradient ? kPredictions : kNone](count * n, operands, parameters, scale, values, derivatives);
    for (int64_t k = 0; k < count; ++k) {
      const int64_t row = scratch.rows[first + k];
      for (int64_t j = scratch.first[row]; j < scratch.first[row + 1]; ++j) {
        const int64_t target = scratch.targets[j] - from;
        if (target >= 0 && target < n) values[k * n + target] = slopes[k * n + target] = C(0);
      }
    }
    sums(values, count, n, &scratch.value_sums[first]);
    if (!gradient) return;
    sums(slopes, count, n, &scratch.slope_sums[first]);
    if (!job.many) return;
    for (int64_t k = 0; k < count; ++k) {
      C* const total = scratch.totals + scratch.rows[first + k] * n;
      if (!starts(first + k))
        add(slopes + k * n, n, total);
      else if (total != slopes)
        std::copy(slopes + k * n, slopes + (k + 1) * n, total);
    }
  }

  char* gradient_at(int64_t r, int64_t from) const {
    const int64_t at = (begin + r) * job.gradient_steps[0] + from * job.gradient_steps[1];
    return job.gradients[0] + at * size_of(job.gradient_dtypes[0]);
  }

  // Gradients by scores [from, from + n) of a row, from its slopes.
  template <class From> void write(int64_t r, int64_t from, int64_t n, const From* slopes) {
    const DType dtype = job.gradient_dtypes[0];
    const bool dense = job.gradient_steps[1] == 1 || n == 1;
    T* out = dense && dtype == kOwn ? reinterpret_cast<T*>(gradient_at(r, from)) : scratch.out;
    if (scratch.states[r] == kCounts && scratch.first[r] < scratch.first[r + 1])
      scale_into(slopes, -scratch.weights[r] * job.scale, n, out);
    else
      std::fill(out, out + n, scratch.states[r] == kBad ? std::numeric_limits<T>::quiet_NaN() : T(0));
    if (out != scratch.out) return;
    if (dense) return write_run(dtype, out, n, gradient_at(r, from));
    write_run(dtype, out, n, scratch.narrow);
    const int64_t item = size_of(dtype);
    for (int64_t i = 0; i < n; ++i) std::memcpy(gradient_at(r, from + i), scratch.narrow + i * item, item);
  }

  // Gradients by the targets' own scores: of a class that is listed twice, the sum of both.
  void write_targets() {
    for (int64_t r = 0; r < rows; ++r) {
      if (scratch.states[r] != kCounts) continue;
      const auto begin = scratch.targets.begin() + scratch.first[r],
                 end = scratch.targets.begin() + scratch.first[r + 1];
      for (auto target = begin; target < end; ++target) {
        if (std::find(begin, target, *target) < target) continue;
        Sum sum;
        for (auto other = target; other < end; ++other)
          if (*other == *target) sum.add(scratch.slope_sums[other - scratch.targets.begin()]);
        write_target(r, *target, sum);
      }
    }
  }
  void write_target(int64_t r, int64_t target, const Sum& slopes) {
    const double value = direct ? -slopes.value() : slopes.value() * (scratch.weights[r] * job.scale);
    char* to = gradient_at(r, target);
    if (job.gradient_dtypes[0] == kOwn)
      *reinterpret_cast<T*>(to) = static_cast<T>(value);
    else
      write_run(job.gradient_dtypes[0], &value, 1, to);
  }

  // False if a sum is not finite.
  bool write_losses() {
    bool finite = true;
    for (int64_t r = 0; r < rows; ++r) {
      Sum total;
      for (int64_t k = scratch.first[r]; k < scratch.first[r + 1]; ++k) {
        total.add(scratch.value_sums[k]);
        finite &= std::isfinite(scratch.slope_sums[k].high);
      }
      const double loss = scratch.first[r] < scratch.first[r + 1] ? total.value() * scratch.weights[r] : 0.0;
      finite &= std::isfinite(loss);
      scratch.losses[r] = scratch.states[r] == kBad ? std::numeric_limits<T>::quiet_NaN() : static_cast<T>(loss);
    }
    if (job.sources[kUpstream].present()) return finite;
    if (job.options.reduction != kElements)
      job.sums[begin / job.batch] = sum_block(scratch.losses, rows);
    else
      write_run(job.result, scratch.losses, rows, job.values + begin * size_of(job.result));
    return finite;
  }
};

template <class T> void run_batches(int64_t begin, int64_t end, void* context) {
  Job& job = *static_cast<Job*>(context);
  Scratch<T, T> scratch;
  std::unique_ptr<Scratch<T, double>> wide;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t first = i * job.batch, rows = std::min(job.batch, job.rows - first);
    const bool finite = Batch<T, T>{job, scratch, first, rows}.run();
    if (finite || sizeof(T) == 8) continue;
    if (!wide) wide = std::make_unique<Scratch<T, double>>();
    Batch<T, double>{job, *wide, first, rows}.run();
  }
}

// Whether the targets of a row are 0 and 1 alone, to its end.
bool looks_like_mask(const Job& job, int64_t row) {
  for (int64_t j = 0; j < job.classes; ++j) {
    const int64_t at = row * job.target_steps[0] + j * job.target_steps[1];
    if (static_cast<uint64_t>(integer_at(job.target_dtype, job.targets, at)) > 1) return false;
  }
  return true;
}

// Whether all rows that count look like masks: one of them may be a list with repetitions, but hardly all.
bool given_mask(const Job& job, Weights& scratch) {
  if (!job.many || job.options.checks == kOff || job.classes <= 2) return false;
  bool any = false;
  for (int64_t begin = 0; begin < job.rows; begin += kBlock) {
    const int64_t n = std::min(kBlock, job.rows - begin);
    const float* mask = mask_of(job, begin, n, scratch);
    for (int64_t i = 0; i < n; ++i) {
      if (mask && mask[i] == 0.0f) continue;
      if (!looks_like_mask(job, begin + i)) return false;
      any = true;
    }
  }
  return any;
}

bool Job::read(const Inputs& in) {
  const Tensor& a = in.a;
  many = wire::margins::many(options.family);
  const int dims = static_cast<int>(a.dim());
  if (!in.b || in.c || in.d || dims < 1 || dims > 2 || !a.is_cpu() || !in.b->is_cpu()) return false;
  const Tensor& b = *in.b;
  const auto sizes = a.sizes(), target_sizes = b.sizes();
  const auto strides = a.strides(), target_strides = b.strides();
  result = score_dtype = gradient_dtypes[0] = dtype_of(a);
  target_dtype = dtype_of(b);
  if (!floating(score_dtype) || !known(target_dtype) || !is_integer(target_dtype)) return false;
  if (kernel->abi != kAbi || kernel->operands != 1) return false;
  if (static_cast<int>(b.dim()) != (many ? dims : dims - 1)) return false;
  for (int64_t i = 0; i < b.dim(); ++i)
    if (target_sizes[i] != sizes[i]) return false;
  classes = sizes[dims - 1];
  rows = dims == 2 ? sizes[0] : 1;
  if (classes == 0) return false;
  score_steps[0] = dims == 2 ? strides[0] : 0;
  score_steps[1] = strides[dims - 1];
  if (dims == 2) target_steps[0] = target_strides[0];
  if (many) target_steps[1] = target_strides[dims - 1];
  scores = static_cast<const char*>(a.data_ptr());
  targets = static_cast<const char*>(b.data_ptr());
  if (in.weight) {
    weight_dtype = dtype_of(*in.weight);
    if (many || !in.weight->is_cpu() || !floating(weight_dtype) || in.weight->dim() != 1) return false;
    if (in.weight->sizes()[0] != classes) return false;
    if (size_of(weight_dtype) < 4 && size_of(score_dtype) >= 4) return false;  // Python refuses it
    weights = static_cast<const char*>(in.weight->data_ptr());
    weight_step = in.weight->strides()[0];
  }
  const int64_t one = 1;
  start(walk, dims - 1, sizes.data(), &one);
  return true;
}

void Job::outputs(const Inputs& in, Result& out) {
  const int dims = static_cast<int>(in.a.dim());
  const auto sizes = in.a.sizes();
  Walk layout;
  start(layout, dims, sizes.data(), in.a.strides().data());
  const auto dense = dense_strides(layout);
  allocate_gradient(*this, out, 0, dims, sizes.data(), dense.data());
  gradient_steps[0] = dims == 2 ? dense[0] : 0;
  gradient_steps[1] = dense[dims - 1];
}

Work Job::divide() {
  Weights scratch;
  mask_given = given_mask(*this, scratch);
  width = std::min(classes, kBlock);
  batch = kBlock / width;
  return {(rows + batch - 1) / batch, batch * classes,
          score_dtype == DType::kDouble ? run_batches<double> : run_batches<float>};
}

}  // namespace

Result margins(const Inputs& in) {
  Job job;
  return drive(job, in);
}

}  // namespace losskit

LOSSKIT_OP(margins)
