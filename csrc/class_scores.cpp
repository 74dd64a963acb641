// Losses of class scores (cross entropy, NLL, focal ...): log-softmax statistics of a row, a formula of them, and the
// gradient by the scores, in one pass. Here are rows, tiles and the op; class_scores.h says why results are exact and
// explains the words, class_scores_rows.h and class_scores_tile.h hold the loops, class_scores_general.h the slow row.
//
// 1. A block is a number of rows that depends on the shape alone, so sums have the same bits for any number of threads.
// 2. Rows whose classes are contiguous and many are taken one by one: they stay in cache from the maximum to the
//    gradient, which is first the row of exponentials. Everything else is a tile of positions side by side: few
//    classes, (N, C, H, W), any strides; scores are read in place where positions are contiguous.
// 3. Index targets (any scalar formula of log_probability, log_sum_exp, mean_log_probability) and the plain cross
//    entropy with label smoothing or probabilities need no formula per class: sum_c q_c (-l_c) = Q log S - sum_c q_c
//    d_c. Calls that do need one, and rows without a finite maximum, go through `general_row`.
// 4. Floats have fast paths: `swift_rows` for plain cross entropy and the exponentials of a formula, `finish` for plain
//    cross entropy. They hand unusual rows to the general loops.
#include "class_scores_by_row.h"
#include "class_scores_by_tile.h"
#include "class_scores_changed.h"

namespace losskit {
namespace {

// Zeros where the gradients of a block will be, which are in cache when they are written.
template <class T> void clear_picked(const Job<T>& job, int64_t begin, int64_t n, Runs& runs) {
  if (!job.gradients[0]) return;
  const Runs& to = runs_of<T>(job, kScoresGradient, begin, n, runs);
  const int64_t item = size_of(job.sources[kScoresGradient].dtype), step = job.class_strides[kScoresGradient];
  const bool rows = step == 1 && to.stride == job.classes;
  for (int64_t r = 0; r < to.count; ++r) {
    if (rows) {
      std::memset(row_of(job, kScoresGradient, to.offsets[r]), 0, to.lengths[r] * job.classes * item);
    } else if (to.stride == 1) {
      for (int64_t c = 0; c < job.classes; ++c)
        std::memset(row_of(job, kScoresGradient, to.offsets[r] + c * step), 0, to.lengths[r] * item);
    } else {
      for (int64_t i = 0; i < to.lengths[r]; ++i) fill_row(job, kScoresGradient, to.offsets[r] + i * to.stride, T(0));
    }
  }
}

// Class `own` of each position of a run; whether one of them is above `most`.
template <class T>
LOSSKIT_CLONES bool pick(const T* z, int64_t stride, int64_t class_stride, const Index<T>* own, T most, int64_t n,
                         double* out) {
  int64_t above = 0;
  for (int64_t j = 0; j < n; ++j) {
    const T x = z[j * stride + own[j] * class_stride];
    out[j] = double(x);
    above |= x > most;
  }
  return above != 0;
}

// nll_loss of numbers that are T already: 2 ns a row, where the rows of run_picked took 30. False if a row is bad.
template <class T> bool pick_swiftly(const Job<T>& job, int64_t begin, int64_t n, const double* factor, Scratch<T>& s) {
  if (!job.plain || !job.shift.empty() || job.sources[kScores].dtype != kOwn<T>) return false;
  const T most = job.options.checks == kOff ? infinity<T> : T(wire::kMostLogProbability);
  const Runs& from = runs_of<T>(job, kScores, begin, n, s.runs[kScores]);
  bool above = false;
  for (int64_t r = 0, j = 0; r < from.count; j += from.lengths[r++])
    above |= pick(reinterpret_cast<const T*>(row_of(job, kScores, from.offsets[r])), from.stride,
                  job.class_strides[kScores], s.own + j, most, from.lengths[r], s.logs + j);
  if (above) return false;
  if (!s.uniform)
    for (int64_t j = 0; j < n; ++j) s.logs[j] = s.state[j] == kCounts ? s.logs[j] : -0.0;
  if (!factor) s.uniform = true;  // what does not count has a loss of 0 now
  if (!job.gradients[0]) return true;
  const Runs& to = runs_of<T>(job, kScoresGradient, begin, n, s.runs[kScoresGradient]);
  const int64_t step = job.class_strides[kScoresGradient];
  for (int64_t r = 0, j = 0; r < to.count; ++r) {
    T* const out = reinterpret_cast<T*>(row_of(job, kScoresGradient, to.offsets[r]));
    for (int64_t i = 0; i < to.lengths[r]; ++i, ++j)  // own is 0 where nothing counts
      out[i * to.stride + s.own[j] * step] =
          s.state[j] == kCounts ? static_cast<T>(-s.row_weight[j] * s.scale[j]) : T(0);
  }
  return true;
}

// The input is log-probabilities (nll_loss): the formula of the target's one, and the gradient there alone.
template <class T> void run_picked(Job<T>& job, int64_t begin, int64_t n, Scratch<T>& s) {
  int64_t offsets[kSlots], places[kRows];
  const Source& scores = job.sources[kScores];
  for (int64_t j = 0; j < n; ++j) {
    offsets_at(job, begin + j, offsets);
    places[j] = offsets[kScoresGradient];
    T z = 0;
    if (s.state[j] == kCounts) {
      const int64_t place = offsets[kScores] + s.own[j] * job.class_strides[kScores];
      read_run(scores.dtype, row_of(job, kScores, place), 1, 1, &z);
      const T given = z;
      if (!job.shift.empty()) z += job.shift[s.own[j]];
      if (job.options.checks != kOff && z > T(wire::kMostLogProbability)) {
        s.state[j] = kBad;
        const int64_t row = place_of(job.walk, begin + j);
        if (job.options.checks == kRaise)
          job.report({1, row, kLogProbability, row * job.classes + s.own[j], double(given)});
      }
    }
    s.operands[0][j] = z;
    s.logs[j] = z;
  }
  if (!job.plain) {
    const T* operands[kOperands] = {s.operands[0]};
    T* out[kOperands] = {s.derivatives[0]};
    const int variant = !job.gradients[0] ? kNone : 1 & ~job.kernel->predictions ? kAll : kPredictions;
    run_formula(job, variant, n, operands, 1.0, s.values, out);
  }
  if (!job.gradients[0]) return;
  const Source& to = job.sources[kScoresGradient];
  for (int64_t j = 0; j < n; ++j) {
    if (s.state[j] == kBad) {
      fill_row(job, kScoresGradient, places[j], not_a_number<T>);
      continue;
    }
    if (s.state[j] != kCounts) continue;
    const double slope = job.plain ? -1.0 : double(s.derivatives[0][j]);
    const T g = static_cast<T>(slope * s.row_weight[j] * s.scale[j]);
    write_run(to.dtype, &g, 1, row_of(job, kScoresGradient, places[j] + s.own[j] * job.class_strides[kScoresGradient]));
  }
}

// Targets that are indices, in place if they are contiguous 64-bit integers.
template <class T> const int64_t* indices_of(const Job<T>& job, int64_t begin, int64_t n, int64_t* buffer) {
  const Source& source = job.sources[kTarget];
  if (job.walk.dims == 1 && source.strides[0] == 1 && source.dtype == DType::kLong)
    return reinterpret_cast<const int64_t*>(source.data) + begin;
  return fetch(job.walk, source, begin, n, buffer);
}

// Report the targets of a block that are no classes.
template <class T> void report_indices(Job<T>& job, int64_t begin, int64_t n, const int64_t* y, const Scratch<T>& s) {
  for (int64_t j = 0; j < n; ++j) {
    if (s.state[j] != kBad) continue;
    const int64_t row = place_of(job.walk, begin + j);
    job.report({0, row, kClassIndex, row, y[j]});
  }
}

// Report the probabilities of a block's bad rows that are none. Places have the classes last; the order is the
// tensor's.
template <class T> void report_probabilities(Job<T>& job, int64_t begin, int64_t n, const Scratch<T>& s) {
  const Source& target = job.sources[kTarget];
  const int64_t inner = job.walk.tensor_dims ? job.walk.numel / job.walk.tensor_sizes[0] : 1;
  int64_t offsets[kSlots];
  for (int64_t j = 0; j < n; ++j) {
    if (s.state[j] != kBad) continue;
    offsets_at(job, begin + j, offsets);
    const int64_t row = place_of(job.walk, begin + j);
    for (int64_t c = 0; c < job.classes; ++c) {
      T x;
      read_run(target.dtype, row_of(job, kTarget, offsets[kTarget] + c * job.class_strides[kTarget]), 1, 1, &x);
      const int64_t order = (row / inner * job.classes + c) * inner + row % inner;
      if (row_outside(&x, job.slack, 1)) job.report({0, order, kProbability, row * job.classes + c, double(x)});
    }
  }
}

template <class T> void run_block(Job<T>& job, int64_t block, Scratch<T>& s) {
  const int64_t begin = block * job.block_rows, n = std::min(job.block_rows, job.walk.numel - begin);
  const Options& options = job.options;
  const float* mask = mask_of(job, begin, n, s);
  const double* factor = factors(job, {kSampleWeight, kUpstream}, begin, n, s);
  const bool raises = options.checks == kRaise;
  int found = 0;
  if (factor)
    for (int64_t j = 0; j < n; ++j) s.scale[j] = factor[j] * job.scale;
  if (job.probabilities) {
    for (int64_t j = 0; j < n; ++j) s.state[j] = mask && mask[j] == 0.0f ? kMasked : kCounts;
    s.uniform = !mask;
  } else {
    const int64_t* y = indices_of(job, begin, n, s.indices);
    found = classify(y, mask, job.classes, job.ignore_index, n, s);
    s.uniform = found == 0;
    if (found & kBad && raises) return report_indices(job, begin, n, y, s);
    for (int64_t j = 0; j < n && !job.weights.empty(); ++j) s.row_weight[j] = job.weights[s.own[j]];
  }
  if (job.changed && !change(job, begin, n, factor, s)) return;
  if (job.picked) {
    clear_picked(job, begin, n, s.runs[kScoresGradient]);
    if (found & kBad || !pick_swiftly(job, begin, n, factor, s)) run_picked(job, begin, n, s);
  } else if (job.by_row) {
    run_rows(job, begin, n, s);
  } else {
    TileBlock<T>{job, s, begin, n}.run();
  }
  if (job.by_multiple()) {
    for (int64_t j = 0; j < n; ++j)
      if (s.state[j] & (kMasked | kBad)) s.by_multiple[j] = s.state[j] == kBad ? not_a_number<double> : 0.0;
    char* const to = job.gradients[kMultiplePosition] + begin * size_of(job.gradient_dtypes[kMultiplePosition]);
    write_run(job.gradient_dtypes[kMultiplePosition], s.by_multiple, n, to);
  }
  if (job.probabilities && raises && !s.uniform) report_probabilities(job, begin, n, s);
  if (job.sources[kUpstream].present()) return;
  losses(job, n, factor, s);
  if (options.reduction != kElements)
    job.sums[block] = sum_block(s.values, n);
  else
    write_run(job.result, s.values, n, job.values + begin * size_of(job.result));
}

// The denominator of the mean: for indices the class weights of the rows that count, times sample_weight.
template <class T> double Job<T>::counted() const {
  const Job<T>& job = *this;
  Weights s;
  int64_t buffer[kRows];
  const bool sampled = job.sources[kSampleWeight].present(), masked = job.sources[kMask].present();
  if (job.probabilities && !sampled && !masked) return static_cast<double>(job.walk.numel);
  Sum total;
  for (int64_t begin = 0; begin < job.walk.numel; begin += kRows) {
    const int64_t n = std::min(kRows, job.walk.numel - begin);
    const float* mask = mask_of(job, begin, n, s);
    const double* factor = factors(job, {kSampleWeight}, begin, n, s);
    const int64_t* y = job.probabilities ? nullptr : indices_of(job, begin, n, buffer);
    if (!mask && !factor && job.weights.empty()) {
      total.add(static_cast<double>(count_targets(y, job.ignore_index, n)));
      continue;
    }
    for (int64_t j = 0; j < n; ++j) {
      if (mask && mask[j] == 0.0f) continue;
      double w = factor ? factor[j] : 1.0;
      if (!job.probabilities) {
        if (y[j] == job.ignore_index) continue;
        if (!job.weights.empty() && y[j] >= 0 && y[j] < job.classes) w *= job.weights[y[j]];
      }
      total.add(w);
    }
  }
  return total.value();
}

template <class T> void run_blocks(int64_t begin, int64_t end, void* context) {
  Scratch<T> memory, *const scratch = &memory;  // on the stack: its pages are there already
  // What is the same for all blocks.
  const Job<T>& job = *static_cast<Job<T>*>(context);
  const int64_t n = std::min(job.block_rows, job.walk.numel);
  std::fill(scratch->scale, scratch->scale + n, job.scale);
  std::fill(scratch->row_weight, scratch->row_weight + n, 1.0);
  std::fill(scratch->total, scratch->total + n, 1.0);
  std::fill(scratch->rest, scratch->rest + n, 0.0);
  std::fill(scratch->b, scratch->b + n, 0.0);
  std::fill(scratch->base, scratch->base + n, 0.0);
  for (int64_t block = begin; block < end; ++block) run_block<T>(*static_cast<Job<T>*>(context), block, *scratch);
}

// Whether there is but one class, or the first row is in [0, 1] and sums to about 1.
template <class T> bool Job<T>::odd() const {
  if (picked || overwrite || walk.numel == 0 || classes == 1) return !picked && classes == 1;
  double sum = 0;
  for (int64_t c = 0; c < classes; ++c) {
    T x;
    read_run(sources[kScores].dtype, row_of(*this, kScores, c * class_strides[kScores]), 1, 1, &x);
    if (!(x >= T(0) && x <= T(1))) return false;
    sum += static_cast<double>(x);
  }
  return std::abs(sum - 1.0) < 0.05;
}

// The statistics that the formula takes. False if the kernel takes others.
template <class T> bool read_statistics(Job<T>& job) {
  if (job.plain) return true;
  int taken = 0;
  for (int k = 0; k < kOperands; ++k) {
    const int which = static_cast<int>(wire::class_scores::statistics(job.options.family, k)) - 1;
    if (which < 0) break;
    if (which >= 3 || job.statistics[which]) return false;
    job.statistics[which] = true;
    job.places[which] = taken++;
  }
  return job.kernel && job.kernel->abi == kAbi && job.kernel->operands == taken && taken > 0;
}

// The vectors with an entry per class. False if a tensor is something else.
template <class T> bool read_classes(Job<T>& job, const Inputs& in) {
  job.total_weight = static_cast<double>(job.classes);
  if (in.weight) {
    if (is_half(dtype_of(*in.weight)) && !is_half(dtype_of(in.operands[0]))) return false;  // refused, in words
    if (!class_vector(*in.weight, job.classes, job.weights)) return false;
    job.own_weights.assign(job.weights.begin(), job.weights.end());
    job.own_weights.resize(job.padded, T(0));
    Sum total;
    for (const double w : job.weights) total.add(w);
    job.total_weight = total.value();
  }
  return job.changed || in.operands.size() < 3 || class_vector(in.operands[2], job.classes, job.shift);
}

// The sizes or strides of a tensor without those of its classes.
template <class From> std::array<int64_t, kDims> without_classes(const From& of, int dims) {
  std::array<int64_t, kDims> rows{};
  for (int i = 0, k = 0; i < dims; ++i)
    if (i != std::min(1, dims - 1)) rows[k++] = of[i];
  return rows;
}

// A tensor with classes as a source of the walk over rows.
template <class T, class Strides>
void place(Job<T>& job, int slot, const Strides& strides, DType dtype, const void* data) {
  const int dims = job.walk.tensor_dims + 1;
  const auto rows = without_classes(strides, dims);
  Source& source = job.sources[slot];
  for (int i = 0; i < dims - 1; ++i) source.strides[i] = rows[job.walk.order[i]];
  source.dtype = dtype;
  source.data = static_cast<const char*>(data);
  if (!source.data) source.data = reinterpret_cast<const char*>(&job);  // empty tensors: present, never read
  job.class_strides[slot] = strides[std::min(1, dims - 1)];
}

template <class T> bool Job<T>::read(const Inputs& in) {
  const Tensor &a = in.operands[0], &b = in.operands[1];
  const int dims = static_cast<int>(a.dim());
  const auto sizes = a.sizes();
  relevance = wire::class_scores::relevance(options.family);
  probabilities = relevance || floating(dtype_of(b));
  plain = wire::class_scores::plain(options.family);
  picked = wire::class_scores::log_probabilities(options.family);
  if (!read_statistics(*this)) return false;
  if (relevance &&
      !(plain && !picked && dims == 2 && dtype_of(a) == DType::kFloat && a.is_contiguous() &&
        (dtype_of(b) == DType::kFloat || dtype_of(b) == DType::kLong) && b.is_contiguous() && sizes[1] >= kRowClasses &&
        in.operands.size() == 2 && !in.weight && !in.mask && options.gradients <= 1))
    return false;
  smoothing = in.numbers[wire::class_scores::kSmoothing];
  const double ignored = in.numbers[wire::class_scores::kIgnoreIndex];
  if (!probabilities) ignore_index = static_cast<int64_t>(ignored);
  if (probabilities && ignored >= 0) return false;
  if (picked && (probabilities || smoothing != 0.0 || statistics[1] || statistics[2])) return false;

  // The walk is over rows: the scores without their class dimension.
  classes = sizes[std::min(1, dims - 1)];
  if (classes == 0 || classes > (int64_t(1) << 30)) return false;
  padded = std::max(classes, kLanes);
  start(walk, dims - 1, without_classes(sizes, dims).data(), without_classes(a.strides(), dims).data());
  const DType target = dtype_of(b);
  slack = static_cast<T>(slack_of(target));
  place(*this, kScores, a.strides(), dtype_of(a), a.data_ptr());
  result = dtype_of(a);
  if (probabilities) {
    if (b.dim() != dims || !std::equal(sizes.begin(), sizes.end(), b.sizes().begin())) return false;
    place(*this, kTarget, b.strides(), target, b.data_ptr());
    if (!relevance) result = promote(result, target);
  } else {
    if (target == DType::kBool || b.dim() != dims - 1 || !attach(walk, b, false, sources[kTarget])) return false;
  }
  changed = wire::class_scores::changed(options.family);
  by_largest = probabilities || !(plain || changed || statistics[0]);
  overwrite = wire::class_scores::overwrite(options.family) && options.gradients == 1 &&
              options.reduction != kElements && dims == 2 && !picked && classes >= kRowClasses && a.is_contiguous();
  if (changed) return read_changes(*this, in) && read_classes(*this, in);
  return read_classes(*this, in);
}

template <class T> void Job<T>::outputs(const Inputs& in, Result& out) {
  const int dims = walk.tensor_dims + 1;
  for (int k = 0; k < (probabilities ? 2 : 1); ++k) {
    if (!((options.gradients >> k) & 1)) continue;
    Walk whole;
    start(whole, dims, in.operands[0].sizes().data(), in.operands[k].strides().data());
    const auto dense = dense_strides(whole);
    gradient_dtypes[k] = sources[k].dtype;
    if (overwrite) {
      out.gradients[k] = again(in.operands[k]);
      gradients[k] = const_cast<char*>(sources[k].data);
      gradient_sizes[k] = in.operands[k].numel();
      place(*this, kScoresGradient, dense, gradient_dtypes[k], gradients[k]);
      continue;
    }
    allocate_gradient(*this, out, k, dims, in.operands[0].sizes().data(), dense.data());
    place(*this, kScoresGradient + k, dense, gradient_dtypes[k], gradients[k]);
    if (!gradients[k]) gradients[k] = reinterpret_cast<char*>(this);
  }
  if (changed && (options.gradients >> kMultiplePosition) & 1) {
    gradient_dtypes[kMultiplePosition] = sources[kMultiple].dtype;
    const auto dense = dense_strides(walk);
    allocate_gradient(*this, out, kMultiplePosition, walk.tensor_dims, walk.tensor_sizes.data(), dense.data());
  }
}

template <class T> Work Job<T>::divide() {
  const int64_t rows = walk.numel;
  const auto contiguous = [&](int slot) {
    return !sources[slot].present() || (class_strides[slot] == 1 && sources[slot].dtype == DType::kFloat);
  };
  swift = sizeof(T) == 4 && (plain || !(probabilities || statistics[2])) && smoothing == 0.0 && shift.empty() &&
          classes >= kRowClasses && contiguous(kScores) && contiguous(kScoresGradient) && !gradients[1] &&
          (!probabilities || ((relevance || contiguous(kTarget)) && weights.empty()));
  by_row = general() || (!picked && ((class_strides[kScores] == 1 && classes >= kRowClasses) ||
                                     (rows < kLanes && classes >= 8 * kLanes)));
  if (picked)
    block_rows = std::clamp<int64_t>(4 * kGrain / classes, 64, kRows);  // its gradient's zeros are most of the time
  else if (by_row)
    block_rows = std::clamp<int64_t>(kGrain / classes, 1, 256);
  else
    block_rows = std::clamp<int64_t>(kTileBytes / static_cast<int64_t>(sizeof(T)) / classes, 64, kRows) & ~(kLanes - 1);
  return {(rows + block_rows - 1) / block_rows, block_rows * classes, run_blocks<T>};
}

template <class T> Result run(const Inputs& in) {
  Job<T> job;
  Result result = drive(job, in);
  if (job.declined) return {};
  return result;
}

}  // namespace

Result class_scores(const Inputs& in) {
  const size_t given = in.operands.size();
  const bool changed = wire::class_scores::changed(Options(in.code).family);
  if (given < 2 || given > (changed ? 4 : 3)) return {};
  const Tensor &a = in.operands[0], &b = in.operands[1];
  const DType dtype = dtype_of(a);
  if (a.dim() == 0 || a.dim() > kDims || !a.is_cpu() || !b.is_cpu()) return {};
  if (!known(dtype) || !floating(dtype) || !known(dtype_of(b))) return {};
  // Shifted scores are distances that need the digits of a double, and so do scores that are multiplied.
  const bool wide = dtype == DType::kDouble || dtype_of(b) == DType::kDouble || given >= 3 || changed;
  return wide ? run<double>(in) : run<float>(in);
}

}  // namespace losskit

LOSSKIT_OP(class_scores)
