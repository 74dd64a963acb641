// The loop of the score-margins family: a formula of the difference between the score of a target class and that of
// another class, summed over the pairs of a row.
//
// 1. A segment is one row against one of its targets: the differences to all classes, of which those to targets are
//    set aside afterwards (value and derivative 0), because a store or two cost less than closing the gaps. The
//    block function sees as many segments at a time as its 1024 numbers hold, so that short rows fill vectors; rows
//    longer than that are cut into tiles.
// 2. Everything between the scores and the result is double, also for floats: their differences are then exact, a
//    hinge that is nearly closed keeps its digits, nothing overflows that fits in the result, and the sums of a row
//    need no further care. It costs FIGURE.
// 3. The gradient of a target's score is minus the sum of those of the others, taken in double before rounding.
// 4. A list of targets ends at the first -1; what comes after it is never looked at. A row whose targets are not
//    classes is a violation (kIndex), NaN where that is not raised. A batch of rows without -1 that hold nothing but
//    0 and 1 is a mask, not lists (kMask): no list of more than two distinct classes looks like that.
#include <memory>

#include "op.h"

namespace losskit {
namespace {

enum Violation { kIndex = 1, kMaskOfTargets = 2 };
constexpr int64_t kManyTargets = 1;  // bit of options.family: each row has a list of targets

struct Job : Call {
  int64_t rows = 1, classes = 1, batch = 1, width = 1;
  bool many = false, refused = false;
  const char *scores = nullptr, *targets = nullptr, *weights = nullptr;
  DType score_dtype = DType::kFloat, target_dtype = DType::kLong, weight_dtype = DType::kFloat;
  int64_t score_steps[2] = {}, target_steps[2] = {}, weight_step = 0, gradient_steps[2] = {};
  std::vector<uint8_t> violations;  // by batch
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

inline bool is_class_index(DType dtype) { return !floating(dtype) && dtype != DType::kBool; }

inline double number_at(DType dtype, const char* data, int64_t index) {
  double number;
  read_run(dtype, data + index * size_of(dtype), 1, 1, &number);
  return number;
}

// --------------------------------------------------------------------------------------------------------
// Passes over a segment in L1. T is the type of the scores, C that of the arithmetic.

template <class T, class C> LOSSKIT_INLINE void subtract(const T* x, C from, int64_t n, C* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = from - static_cast<C>(x[i]);
}
LOSSKIT_CLONES void differences(const float* x, float from, int64_t n, float* out) { subtract(x, from, n, out); }
LOSSKIT_CLONES void differences(const float* x, double from, int64_t n, double* out) { subtract(x, from, n, out); }
LOSSKIT_CLONES void differences(const double* x, double from, int64_t n, double* out) { subtract(x, from, n, out); }

// The sum of n numbers whose precision is that of the scores: plain in double for floats, compensated for doubles.
template <class C> LOSSKIT_INLINE double sum_any(const C* x, int64_t n) {
  double total = 0.0;
  int64_t i = 0;
  constexpr int kLanes = 16;
  if (n >= 2 * kLanes) {
    double lanes[kLanes] = {};
    for (; i + kLanes <= n; i += kLanes)
      for (int j = 0; j < kLanes; ++j) lanes[j] += static_cast<double>(x[i + j]);
    for (int width = kLanes / 2; width > 0; width /= 2)
      for (int j = 0; j < width; ++j) lanes[j] += lanes[j + width];
    total = lanes[0];
  }
  for (; i < n; ++i) total += static_cast<double>(x[i]);
  return total;
}
LOSSKIT_CLONES double sum(const float* x, int64_t n) { return sum_any(x, n); }
LOSSKIT_CLONES double sum(const double* x, int64_t n) { return sum_any(x, n); }
template <class T, class C> Sum sum_of(const C* x, int64_t n) {
  if constexpr (sizeof(T) == 4)
    return {sum(x, n), 0.0};
  else
    return sum_block(x, n);
}

LOSSKIT_CLONES void add(const float* x, int64_t n, double* total) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) total[i] += static_cast<double>(x[i]);
}
LOSSKIT_CLONES void add(const double* x, int64_t n, double* total) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) total[i] += x[i];
}

template <class From, class To> LOSSKIT_INLINE void scale_any(const From* x, double scale, int64_t n, To* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<To>(static_cast<double>(x[i]) * scale);
}
LOSSKIT_CLONES void scale_into(const float* x, double s, int64_t n, float* out) { scale_any(x, s, n, out); }
LOSSKIT_CLONES void scale_into(const double* x, double s, int64_t n, float* out) { scale_any(x, s, n, out); }
LOSSKIT_CLONES void scale_into(const double* x, double s, int64_t n, double* out) { scale_any(x, s, n, out); }

// --------------------------------------------------------------------------------------------------------
// A batch of rows

struct Row {
  int64_t first = 0, count = 0;      // its targets in `targets`
  int64_t unique = 0, distinct = 0;  // the same in `unique`, sorted and without repetition
  bool bad = false, masked = false;
  Sum value;
  double weight = 0.0, scale = 0.0;  // of its loss, of its gradients
};

struct Target {
  int64_t row, index;
  double score;
  Sum slope;  // the sum of the derivatives by its differences
};

template <class T, class C> struct Scratch : Weights {
  alignas(64) T scores[kBlock];
  alignas(64) C differences[kBlock];
  alignas(64) C values[kBlock];
  alignas(64) C slopes[kBlock];       // derivatives by the differences
  alignas(64) double totals[kBlock];  // their sums over the targets of a row
  alignas(64) T out[kBlock];
  alignas(64) char narrow[kBlock * sizeof(double)];
  T losses[kBlock];
  std::vector<Row> rows;
  std::vector<Target> targets;
  std::vector<int64_t> unique;
};

template <class T, class C> struct Batch {
  static constexpr DType kOwn = sizeof(T) == 4 ? DType::kFloat : DType::kDouble;
  Job& job;
  Scratch<T, C>& scratch;
  const int64_t begin, rows;
  const bool gradient = job.gradients[0] != nullptr;
  // The formula writes the gradient where it belongs if nothing is left to be done to it.
  const bool direct = gradient && !job.many && job.batch == 1 && job.gradient_dtypes[0] == kOwn &&
                      sizeof(C) == sizeof(T) && job.gradient_steps[1] == 1;

  // False if a loss is not finite: wider arithmetic may know better.
  bool run() {
    if (!collect()) {
      job.violations[begin / job.batch] = 1;
      return true;
    }
    prepare();
    for (int64_t from = 0; from < job.classes; from += job.width)
      run_tile(from, std::min(job.width, job.classes - from));
    return finish_rows();
  }

  // The targets of every row that counts; false if checks("raise") finds a violation.
  bool collect() {
    scratch.rows.assign(rows, Row());
    scratch.targets.clear();
    scratch.unique.clear();
    const float* mask = mask_of(job, begin, rows, scratch);
    for (int64_t r = 0; r < rows; ++r) {
      Row& row = scratch.rows[r];
      row.first = static_cast<int64_t>(scratch.targets.size());
      row.unique = static_cast<int64_t>(scratch.unique.size());
      row.masked = mask && mask[r] == 0.0f;
      row.bad = !row.masked && job.refused;
      if (row.masked || row.bad) continue;
      const int64_t at = (begin + r) * job.target_steps[0];
      for (int64_t j = 0; j < (job.many ? job.classes : 1); ++j) {
        const int64_t index = integer_at(job.target_dtype, job.targets, at + j * job.target_steps[1]);
        if (job.many && index == -1) break;
        row.bad = index < 0 || index >= job.classes;
        if (row.bad) break;
        scratch.targets.push_back({r, index, score(r, index), {}});
        scratch.unique.push_back(index);
      }
      if (row.bad) {
        if (job.options.checks == kRaise) return false;
        scratch.targets.resize(row.first);
        scratch.unique.resize(row.unique);
      }
      row.count = static_cast<int64_t>(scratch.targets.size()) - row.first;
      const auto own = scratch.unique.begin() + row.unique;
      if (row.count > 1) {
        std::sort(own, scratch.unique.end());
        scratch.unique.erase(std::unique(own, scratch.unique.end()), scratch.unique.end());
      }
      row.distinct = static_cast<int64_t>(scratch.unique.size()) - row.unique;
    }
    return true;
  }

  // Scores [from, from + n) of a row.
  const T* scores(int64_t r, int64_t from, int64_t n, T* buffer) const {
    const int64_t at = (begin + r) * job.score_steps[0] + from * job.score_steps[1];
    const char* data = job.scores + at * size_of(job.score_dtype);
    if (job.score_dtype == kOwn && (job.score_steps[1] == 1 || n == 1)) return reinterpret_cast<const T*>(data);
    read_run(job.score_dtype, data, job.score_steps[1], n, buffer);
    return buffer;
  }
  T score(int64_t r, int64_t index) const {
    T buffer;
    return *scores(r, index, 1, &buffer);
  }

  // Weights of the rows, and NaN for those that are not asked for a difference: NaN in gives NaN out.
  void prepare() {
    const double* factor = factors(job, {kSampleWeight, kUpstream}, begin, rows, scratch);
    for (int64_t r = 0; r < rows; ++r) {
      Row& row = scratch.rows[r];
      if (row.masked || row.bad) continue;
      row.weight = (factor ? factor[r] : 1.0) / static_cast<double>(job.classes);
      if (job.weights)
        row.weight *= number_at(job.weight_dtype, job.weights, scratch.targets[row.first].index * job.weight_step);
      row.scale = row.weight * job.scale;
      if (row.count > 0 && row.distinct < job.classes) continue;
      for (int64_t from = 0; from < job.classes; from += job.width) {
        const int64_t n = std::min(job.width, job.classes - from);
        const T* x = scores(r, from, n, scratch.scores);
        row.bad |= std::any_of(x, x + n, [](T x) { return x != x; });
      }
    }
  }

  void run_tile(int64_t from, int64_t n) {
    const int64_t together = kBlock / n, count = static_cast<int64_t>(scratch.targets.size());
    if (gradient && job.many) std::fill(scratch.totals, scratch.totals + rows * n, 0.0);
    int64_t fetched = -1;
    const T* x = nullptr;
    for (int64_t first = 0; first < count; first += together) {
      const int64_t last = std::min(first + together, count);
      for (int64_t k = first; k < last; ++k) {
        const Target& target = scratch.targets[k];
        if (target.row != fetched) x = scores(fetched = target.row, from, n, scratch.scores);
        differences(x, static_cast<C>(target.score), n, scratch.differences + (k - first) * n);
      }
      if (direct)
        evaluate(first, last, from, n, -scratch.rows[fetched].scale, reinterpret_cast<C*>(gradient_at(fetched, from)));
      else
        evaluate(first, last, from, n, 1.0, scratch.slopes);
    }
    if (!gradient) return;
    for (int64_t r = 0; r < rows; ++r) {
      const Row& row = scratch.rows[r];
      if (row.bad || row.count == 0)
        write(r, from, n, nullptr);
      else if (job.many)
        write(r, from, n, scratch.totals + r * n);
      else if (!direct)
        write(r, from, n, scratch.slopes + row.first * n);
    }
  }

  // Values and derivatives of the segments [first, last) of n numbers each. A pair of targets is none.
  void evaluate(int64_t first, int64_t last, int64_t from, int64_t n, double scale, C* slopes) {
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
    functions[gradient ? kPredictions : kNone]((last - first) * n, operands, parameters, scale, scratch.values,
                                               derivatives);
    for (int64_t k = first; k < last; ++k) {
      Target& target = scratch.targets[k];
      Row& row = scratch.rows[target.row];
      C* value = scratch.values + (k - first) * n;
      C* slope = slopes + (k - first) * n;
      const int64_t* own = scratch.unique.data() + row.unique;
      for (const int64_t* t = own; t < own + row.distinct; ++t)
        if (*t >= from && *t < from + n) value[*t - from] = slope[*t - from] = C(0);
      row.value.add(sum_of<T>(value, n));
      if (!gradient) continue;
      target.slope.add(sum_of<T>(slope, n));
      if (job.many) add(slope, n, scratch.totals + target.row * n);
    }
  }

  char* gradient_at(int64_t r, int64_t from) const {
    const int64_t at = (begin + r) * job.gradient_steps[0] + from * job.gradient_steps[1];
    return job.gradients[0] + at * size_of(job.gradient_dtypes[0]);
  }

  // Gradients by scores [from, from + n) of a row, given the derivatives by the differences.
  template <class From> void write(int64_t r, int64_t from, int64_t n, const From* slopes) {
    const DType dtype = job.gradient_dtypes[0];
    const bool dense = job.gradient_steps[1] == 1 || n == 1;
    T* out = dense && dtype == kOwn ? reinterpret_cast<T*>(gradient_at(r, from)) : scratch.out;
    const Row& row = scratch.rows[r];
    if (!slopes)
      std::fill(out, out + n, row.bad ? std::numeric_limits<T>::quiet_NaN() : T(0));
    else
      scale_into(slopes, -row.scale, n, out);
    if (out != scratch.out) return;
    if (dense) return write_run(dtype, out, n, gradient_at(r, from));
    write_run(dtype, out, n, scratch.narrow);
    const int64_t item = size_of(dtype);
    for (int64_t i = 0; i < n; ++i) std::memcpy(gradient_at(r, from + i), scratch.narrow + i * item, item);
  }
  void write(int64_t r, int64_t from, int64_t n, std::nullptr_t) {
    write<double>(r, from, n, static_cast<double*>(nullptr));
  }

  // What is known when all tiles are done: the losses, and the gradients of the targets' own scores. False if a loss
  // is not finite.
  bool finish_rows() {
    bool finite = true;
    for (int64_t r = 0; r < rows; ++r) {
      const Row& row = scratch.rows[r];
      const double loss = row.masked || row.count == 0 ? 0.0 : row.value.value() * row.weight;
      finite &= std::isfinite(loss);
      scratch.losses[r] = row.bad ? std::numeric_limits<T>::quiet_NaN() : static_cast<T>(loss);
      if (!gradient || row.bad) continue;
      Target* const first = scratch.targets.data() + row.first;
      Target* const last = first + row.count;
      if (row.count > 1) std::sort(first, last, [](auto& a, auto& b) { return a.index < b.index; });
      for (Target* target = first; target < last;) {
        Sum total;
        const int64_t index = target->index;
        for (; target < last && target->index == index; ++target) total.add(target->slope);
        const double value = direct ? -total.value() : total.value() * row.scale;
        write_run(job.gradient_dtypes[0], &value, 1, gradient_at(r, index));
      }
    }
    if (job.sources[kUpstream].present()) return finite;
    if (job.options.reduction != kElements)
      job.sums[begin / job.batch] = sum_block(scratch.losses, rows);
    else
      write_run(job.result, scratch.losses, rows, job.values + begin * size_of(job.result));
    return finite;
  }
};

// Floats are computed as floats, with sums in double; what then leaves their range is computed as doubles.
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

// Whether all rows do: one of them may be a list with repetitions, but hardly all.
bool given_mask(const Job& job) {
  if (!job.many || job.options.checks == kOff || job.classes <= 2) return false;
  for (int64_t row = 0; row < job.rows; ++row)
    if (!looks_like_mask(job, row)) return false;
  return job.rows > 0;
}

double denominator(Job& job, Weights& scratch) {
  const bool sampled = job.sources[kSampleWeight].present(), masked = job.sources[kMask].present();
  if (!sampled && !masked) return static_cast<double>(job.rows);
  Sum total;
  for (int64_t begin = 0; begin < job.rows; begin += kBlock) {
    const int64_t n = std::min(kBlock, job.rows - begin);
    const float* mask = mask_of(job, begin, n, scratch);
    const double* factor = factors(job, {kSampleWeight}, begin, n, scratch);
    if (factor && mask) weigh(factor, nullptr, mask, 1.0, n, scratch.factors);
    total.add(factor ? sum_block(factor, n) : sum_block(mask, n));
  }
  return total.value();
}

}  // namespace

Result margins(int64_t kernel, int64_t code, Tensor a, MaybeTensor b, MaybeTensor c, MaybeTensor d, MaybeTensor weight,
               MaybeTensor sample_weight, MaybeTensor mask, MaybeTensor upstream, std::vector<double> numbers) {
  const Result declined{{}, {}, {}, {}, {}, kDeclined};
  Job job;
  job.kernel = reinterpret_cast<const Kernel*>(kernel);
  job.options = Options(code);
  const Options& options = job.options;
  job.many = options.family & kManyTargets;
  const int dims = static_cast<int>(a.dim());
  if (!b || c || d || dims < 1 || dims > 2 || !a.is_cpu() || !b->is_cpu()) return declined;
  const auto sizes = a.sizes(), target_sizes = b->sizes();
  const auto strides = a.strides(), target_strides = b->strides();
  job.score_dtype = job.gradient_dtypes[0] = dtype_of(a);
  job.target_dtype = dtype_of(*b);
  if (!floating(job.score_dtype) || !known(job.target_dtype) || !is_class_index(job.target_dtype)) return declined;
  if (job.kernel->abi != kAbi || job.kernel->operands != 1) return declined;
  if (numbers.size() < 2 || numbers.size() > 2 + kMaxParameters) return declined;
  if (static_cast<int>(b->dim()) != (job.many ? dims : dims - 1)) return declined;
  for (int64_t i = 0; i < b->dim(); ++i)
    if (target_sizes[i] != sizes[i]) return declined;
  job.classes = sizes[dims - 1];
  job.rows = dims == 2 ? sizes[0] : 1;
  if (job.classes == 0) return declined;
  job.score_steps[0] = dims == 2 ? strides[0] : 0;
  job.score_steps[1] = strides[dims - 1];
  if (dims == 2) job.target_steps[0] = target_strides[0];
  if (job.many) job.target_steps[1] = target_strides[dims - 1];
  job.scores = static_cast<const char*>(a.data_ptr());
  job.targets = static_cast<const char*>(b->data_ptr());
  if (weight) {
    job.weight_dtype = dtype_of(*weight);
    if (job.many || !weight->is_cpu() || !floating(job.weight_dtype) || weight->dim() != 1) return declined;
    if (weight->sizes()[0] != job.classes) return declined;
    job.weights = static_cast<const char*>(weight->data_ptr());
    job.weight_step = weight->strides()[0];
  }

  const int64_t one = 1;
  start(job.walk, dims - 1, sizes.data(), &one);
  const MaybeTensor* extras[] = {&sample_weight, &mask, &upstream};
  for (int k = 0; k < 3; ++k) {
    if (*extras[k] && !attach(job.walk, sizes.data(), **extras[k], true, job.sources[kSampleWeight + k]))
      return declined;
  }
  if (mask && job.sources[kMask].dtype != DType::kBool) return declined;

  job.result = options.result_dtype >= 0 ? static_cast<DType>(options.result_dtype) : job.score_dtype;
  std::copy(numbers.begin() + 2, numbers.end(), job.parameters);
  double denominated = 1.0;
  if (options.reduction == kMean) {
    Weights scratch;
    denominated = std::isnan(numbers[0]) ? denominator(job, scratch) : numbers[0];
  }
  set_scale(job, denominated, numbers[1]);

  Result result{{}, {}, {}, {}, {}, 0};
  int64_t& status = std::get<5>(result);
  job.refused = given_mask(job);
  if (job.refused && options.checks == kRaise) {
    status = kMaskOfTargets;
    return result;
  }
  Walk scores;
  start(scores, dims, sizes.data(), strides.data());
  const auto dense = dense_strides(scores);
  allocate_gradient(job, result, 0, dims, sizes.data(), dense.data());
  job.gradient_steps[0] = dims == 2 ? dense[0] : 0;
  job.gradient_steps[1] = dense[dims - 1];
  allocate_loss(job, result, dims - 1, sizes.data(), &one);

  job.width = std::min(job.classes, kBlock);
  job.batch = kBlock / job.width;
  const int64_t batches = (job.rows + job.batch - 1) / job.batch;
  job.sums.resize(batches);
  job.violations.resize(batches);
  const auto run = job.score_dtype == DType::kDouble ? run_batches<double> : run_batches<float>;
  const int64_t grain = std::max<int64_t>(1, 32768 / (job.batch * job.classes));
  if (batches <= grain)
    run(0, batches, &job);
  else
    STABLE_TORCH_ERROR_CODE_CHECK(torch_parallel_for(0, batches, grain, run, &job));

  if (options.checks == kRaise)
    for (const uint8_t violation : job.violations)
      if (violation) status = kIndex;
  finish(job, result);
  return result;
}

}  // namespace losskit

LOSSKIT_OP(margins)
