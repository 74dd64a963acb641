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
// 4. Plain cross entropy of floats has fast paths, `swift_rows` and `finish`. They hand unusual rows to the general
//    loops.
#include "class_scores_steps.h"

namespace losskit {
namespace {

template <class T>
void write_gradient_row(const Job<T>& job, int64_t j, int64_t offset, T* e, const T* q, Scratch<T>& s) {
  const double a = s.a[j];
  T* const direct = row_in_place(job, kScoresGradient, offset);
  T* const out = direct ? direct : e;
  const bool weighted = job.probabilities || (job.smoothing != 0.0 && !job.weights.empty());
  const T* const weights = !weighted ? nullptr : q;
  if (a != 0.0 && !(std::abs(a) >= 16.0 * double(std::numeric_limits<T>::min())))
    row_combine_wide(e, weights, a, s.b[j], job.padded, out);
  else
    row_combine(e, weights, static_cast<T>(a), static_cast<T>(s.b[j]), job.padded, out);
  out[s.own[j]] = static_cast<T>(s.own_gradient[j]);
  if (!direct) write_row(job, kScoresGradient, offset, out);
}

// The rows of a block in a tensor, visited in order.
struct Cursor {
  const Runs* runs = nullptr;
  int64_t row = 0, run = 0, at = 0;
  int64_t offset(int64_t j) {
    for (at += j - row, row = j; at >= runs->lengths[run]; ++run) at -= runs->lengths[run];
    return runs->offsets[run] + at * runs->stride;
  }
};

// Compute rows from `j` on with swift_rows; returns the first row that it did not compute, or n.
template <class T> int64_t try_swift(const Job<T>& job, int64_t j, int64_t n, T* exponentials, Scratch<T>& s) {
  if constexpr (sizeof(T) == 4) {
    const Runs *const z = s.runs + kScores, *const t = s.runs + kTarget, *const e = s.runs + kScoresGradient;
    const bool gradient = job.gradients[0], soft = job.probabilities;
    if (!job.swift || z->count != 1 || (soft && t->count != 1) || (gradient && e->count != 1)) return j;
    const auto begin = [&](int slot) { return reinterpret_cast<float*>(row_of(job, slot, s.runs[slot].offsets[0])); };
    const Swift rows{begin(kScores),
                     soft ? begin(kTarget) : nullptr,
                     gradient ? begin(kScoresGradient) : exponentials,
                     z->stride,
                     soft ? t->stride : 0,
                     gradient ? e->stride : 0,
                     job.classes,
                     gradient,
                     job.options.checks != kOff};
    return soft ? swift_rows<true>(rows, j, n, s) : swift_rows<false>(rows, j, n, s);
  }
  return j;
}

// A row of contiguous classes. Its exponentials go to `e`; without a gradient by scores, `e` has room for one chunk.
template <class T> void run_row(const Job<T>& job, int64_t j, const int64_t* offsets, T* e, Scratch<T>& s) {
  const bool by_scores = job.gradients[0], by_target = job.gradients[1];
  s.others[j] = 0, s.kept[j] = 1;
  const T* t = nullptr;
  if (job.probabilities && s.state[j] != kMasked) {
    t = read_row(job, kTarget, offsets[kTarget], T(0), s.target.get(job.padded));
    if (job.options.checks != kOff && row_outside(t, job.slack, job.classes)) s.state[j] = kBad, s.uniform = false;
  }
  if (s.state[j] != kCounts) {
    const T value = s.state[j] == kBad ? not_a_number<T> : T(0);
    if (by_scores) fill_row(job, kScoresGradient, offsets[kScoresGradient], value);
    if (by_target) fill_row(job, kTargetGradient, offsets[kTargetGradient], value);
    return;
  }
  const T* z = nullptr;
  T m = infinity<T>;
  if (!job.general()) {
    T* const buffer = s.scores.get(job.padded);
    z = read_row(job, kScores, offsets[kScores], -infinity<T>, buffer);
    if (!job.shift.empty()) s.base[j] = shift_scores(buffer, 1, job.shift.data(), job.classes);
    m = row_maximum(z, job.padded);
  }
  if (!(std::abs(m) < infinity<T>)) {
    special_row(job, j, offsets, s);
    s.uniform = false;
    return;
  }
  if (job.probabilities) s.own[j] = static_cast<Index<T>>(row_find(z, m, job.classes));
  const int64_t own = s.own[j];
  const bool far = std::abs(double(m)) > kNear;
  const Pivot<T> pivoted = far ? pivot<T, true>(m) : pivot<T, false>(m);
  Sum sum;
  for (int64_t i = 0, length; i < job.padded; i += length) {
    length = chunk_of(job.padded - i);
    T* const to = by_scores ? e + i : e;
    sum.add(far ? row_exp<T, true>(z + i, length, pivoted, own - i, to, &s.kept[j])
                : row_exp<T, false>(z + i, length, pivoted, own - i, to, &s.kept[j]));
  }
  s.others[j] = sum.value();
  s.maximum[j] = m;
  s.own_score[j] = z[own];
  s.offset[j] = pivoted.offset;
  const T* q = job.own_weights.empty() ? nullptr : job.own_weights.data();
  if (job.probabilities) {
    const T* const weights = q;
    T* const copy = s.products.get(job.padded);
    q = t;
    if (weights || job.smoothing != 0.0) {
      row_weights(t, weights, static_cast<T>(1.0 - job.smoothing),
                  static_cast<T>(job.smoothing / static_cast<double>(job.classes)), job.classes, copy);
      std::fill(copy + job.classes, copy + job.padded, T(0));
    } else {
      std::copy(t, t + job.padded, copy);
    }
    q = copy;
    s.dots[j] = row_dot(z, m, q, job.padded);
    const T mine = copy[own];
    copy[own] = 0;
    s.rest[j] = row_dot(q, T(0), static_cast<const T*>(nullptr), job.padded);
    copy[own] = mine;
    s.mine[j] = double(mine);
    s.total[j] = s.rest[j] + s.mine[j];
    s.b[j] = -s.scale[j];
  } else {
    if (job.plain) index_weights(job, j, s);
    if (job.smoothing != 0.0)
      s.dots[j] = row_dot(z, m, q, job.classes);
    else if (job.statistics[2])
      s.dots[j] = row_dot(z, m, static_cast<const T*>(nullptr), job.padded);
  }
  if (by_target) {
    const double logarithm = std::log1p(s.others[j] / double(s.kept[j]));
    T* const place = row_in_place(job, kTargetGradient, offsets[kTargetGradient]);
    T* const out = place ? place : s.target.get(job.padded);  // read by now
    row_losses(z, m, static_cast<T>(logarithm), job.own_weights.empty() ? nullptr : job.own_weights.data(),
               s.scale[j] * (1.0 - job.smoothing), job.classes, out);
    if (!place) write_row(job, kTargetGradient, offsets[kTargetGradient], out);
  }
  if (by_scores && job.plain) {
    const double inverse = s.scale[j] / (s.others[j] + double(s.kept[j]));
    s.a[j] = s.total[j] * inverse;
    s.own_gradient[j] = (s.rest[j] * double(s.kept[j]) - s.mine[j] * s.others[j]) * inverse;
    write_gradient_row(job, j, offsets[kScoresGradient], e, q, s);
  }
}

// Rows of contiguous classes, one by one.
template <class T> void run_rows(const Job<T>& job, int64_t begin, int64_t n, Scratch<T>& s) {
  const bool by_scores = job.gradients[0];
  Cursor cursors[kOperands];
  for (int slot = 0; slot < kOperands; ++slot)
    if (job.sources[slot].present() && (slot != kTarget || job.probabilities))
      cursors[slot].runs = &runs_of<T>(job, slot, begin, n, s.runs[slot]);
  // Exponentials go where the gradient will be, if possible; else to a buffer, of one row if no formula comes between.
  const bool direct = by_scores && job.class_strides[kScoresGradient] == 1 &&
                      job.sources[kScoresGradient].dtype == kOwn<T> && job.padded == job.classes;
  const int64_t buffered = job.plain ? 1 : n;
  T* const exponentials = !by_scores ? s.exponentials.get(kChunk + kLanes)
                          : direct   ? nullptr
                                     : s.exponentials.get(buffered * job.padded);
  int64_t offsets[kOperands] = {}, gradient_rows[kRows];
  const auto exponentials_of = [&](int64_t j) {
    if (direct) return reinterpret_cast<T*>(row_of(job, kScoresGradient, gradient_rows[j]));
    return by_scores && !job.plain ? exponentials + j * job.padded : exponentials;
  };
  for (int64_t j = 0; j < n; ++j) {
    j = try_swift(job, j, n, exponentials, s);
    if (j == n) break;
    for (int slot = 0; slot < kOperands; ++slot)
      if (cursors[slot].runs) offsets[slot] = cursors[slot].offset(j);
    gradient_rows[j] = offsets[kScoresGradient];
    run_row(job, j, offsets, exponentials_of(j), s);
  }
  if (!job.plain || !job.sources[kUpstream].present()) evaluate(job, n, s);
  if (by_scores && !job.plain) {
    coefficients(s, n, false);
    add_extra(s, n);
    for (int64_t j = 0; j < n; ++j)
      if (s.state[j] == kCounts) write_gradient_row<T>(job, j, gradient_rows[j], exponentials_of(j), nullptr, s);
  }
}

// Positions side by side.
template <class T> void run_tile(const Job<T>& job, int64_t begin, int64_t n, Scratch<T>& s) {
  const bool by_scores = job.gradients[0], by_target = job.gradients[1];
  const int64_t classes = job.classes;
  Runs* const runs = s.runs;
  const Tile<T> z = read_tile(job, kScores, runs_of<T>(job, kScores, begin, n, runs[kScores]), n, s.scores);
  for (int64_t j = 0; j < n && !job.shift.empty(); ++j)
    s.base[j] = shift_scores(s.scores.data.get() + j, z.stride, job.shift.data(), classes);
  Tile<T> t{};
  if (job.probabilities) {
    t = read_tile(job, kTarget, runs_of<T>(job, kTarget, begin, n, runs[kTarget]), n, s.target);
    for (int64_t c = 0; c < classes && job.options.checks != kOff; ++c) {
      const T* const x = t.z + c * t.stride;
      if (row_outside(x, job.slack, n))
        for (int64_t j = 0; j < n; ++j)
          if (s.state[j] == kCounts && row_outside(x + j, job.slack, 1)) s.state[j] = kBad, s.uniform = false;
    }
  }
  const bool far = maxima(z, s.maximum);
  if (job.probabilities) argmaxima(z, s.maximum, s.own);

  // The exponentials go where the gradient will be, if positions are contiguous there.
  T* e = nullptr;
  int64_t step = (job.block_rows + kLanes - 1) & ~(kLanes - 1);
  bool in_place = false;
  if (by_scores) {
    const Runs& to = runs_of<T>(job, kScoresGradient, begin, n, runs[kScoresGradient]);
    in_place = to.count == 1 && (to.stride == 1 || n == 1) && job.sources[kScoresGradient].dtype == kOwn<T>;
    if (in_place) {
      step = job.class_strides[kScoresGradient];
      e = reinterpret_cast<T*>(row_of(job, kScoresGradient, to.offsets[0]));
    }
  }
  if (!e) e = s.exponentials.get(step * classes);
  if (far)
    exps<T, true>(z, e, step, s);
  else
    exps<T, false>(z, e, step, s);

  const double smooth = job.smoothing / static_cast<double>(classes);
  const T keep = static_cast<T>(1.0 - job.smoothing), narrow_smooth = static_cast<T>(smooth);
  const bool dotted = job.probabilities || job.smoothing != 0.0 || job.statistics[2];
  const auto class_weight = [&](int64_t c) {
    return job.own_weights.empty() || (!job.probabilities && job.smoothing == 0.0) ? T(1) : job.own_weights[c];
  };
  if (dotted) {
    for (double* x : {s.dots, s.dots_lost, s.rest, s.rest_lost, s.mine}) std::fill(x, x + n, 0.0);
    for (int64_t c = 0; c < classes; ++c)
      tile_dot(z.z + c * z.stride, job.probabilities ? t.z + c * t.stride : nullptr, keep, narrow_smooth,
               class_weight(c), static_cast<Index<T>>(c), n, s);
    if constexpr (sizeof(T) == 8) {
      for (int64_t j = 0; j < n; ++j) {
        if (std::isfinite(s.dots[j])) s.dots[j] += s.dots_lost[j];
        s.rest[j] += s.rest_lost[j];
      }
    }
  }
  bool finished = false;
  if constexpr (sizeof(T) == 4) finished = job.plain && !dotted && finish(n, s);
  if (!finished) {
    if (job.probabilities) {
      for (int64_t j = 0; j < n; ++j) s.b[j] = -s.scale[j], s.total[j] = s.rest[j] + s.mine[j];
    } else if (job.plain && (dotted || !job.weights.empty())) {
      for (int64_t j = 0; j < n; ++j) index_weights(job, j, s);
    }
    for (int64_t j = 0; j < n; ++j) s.own_score[j] = z.z[s.own[j] * z.stride + j];
    offsets(n, far, s);
    if (!job.plain || !job.sources[kUpstream].present() || by_target) evaluate(job, n, s);
  }
  if (s.uniform)
    std::fill(s.keep, s.keep + n, ~Bits<T>(0));
  else
    for (int64_t j = 0; j < n; ++j) s.keep[j] = s.state[j] == kMasked ? Bits<T>(0) : ~Bits<T>(0);

  if (by_target) {
    const Runs& to = runs_of<T>(job, kTargetGradient, begin, n, runs[kTargetGradient]);
    for (int64_t j = 0; j < n; ++j) {
      s.operands[0][j] = s.state[j] == kBad ? not_a_number<T> : static_cast<T>(-s.logs[j]);
    }
    for (int64_t c = 0; c < classes; ++c) {
      tile_losses(z.z + c * z.stride, (1.0 - job.smoothing) * job.weight(c), n, s, s.derivatives[0]);
      const T* from = s.derivatives[0];
      for (int64_t r = 0; r < to.count; from += to.lengths[r++])
        store_run(job.sources[kTargetGradient].dtype, from, to.stride, to.lengths[r],
                  row_of(job, kTargetGradient, to.offsets[r] + c * job.class_strides[kTargetGradient]));
    }
  }
  if (by_scores) {
    bool wide = false;
    if (!finished) {
      coefficients(s, n, dotted && job.plain);
      if (!job.plain) add_extra(s, n);
      wide = narrow_coefficients(s, n);
    }
    for (int64_t j = 0; j < n && !s.uniform; ++j)
      if (s.state[j] == kBad) {
        s.a[j] = s.b[j] = s.own_gradient[j] = not_a_number<double>;
        s.narrow_a[j] = s.narrow_b[j] = s.narrow_own[j] = not_a_number<T>;
      }
    const Runs& to = runs[kScoresGradient];
    const Source& gradient = job.sources[kScoresGradient];
    const bool by_rows =
        !in_place && to.count == 1 && job.class_strides[kScoresGradient] == 1 && gradient.dtype == kOwn<T>;
    if (!dotted && !wide) tile_scale(e, step, classes, n, s);
    for (int64_t c = 0; c < classes; ++c) {
      T* const row = e + c * step;
      const T* const q = job.probabilities ? t.z + c * t.stride : nullptr;
      const T w = class_weight(c);
      if (wide)
        tile_combine_wide(row, q, keep, narrow_smooth, w, static_cast<Index<T>>(c), n, s);
      else if (dotted)
        tile_combine(row, q, keep, narrow_smooth, w, static_cast<Index<T>>(c), n, s);
      if (in_place || by_rows) continue;
      const T* from = row;
      for (int64_t r = 0; r < to.count; from += to.lengths[r++])
        store_run(job.sources[kScoresGradient].dtype, from, to.stride, to.lengths[r],
                  row_of(job, kScoresGradient, to.offsets[r] + c * job.class_strides[kScoresGradient]));
    }
    if (by_rows)
      tile_to_rows(e, step, n, classes, reinterpret_cast<T*>(row_of(job, kScoresGradient, to.offsets[0])), to.stride);
  }
  for (int64_t j = 0; j < n && far; ++j) {
    if (s.state[j] != kCounts || std::abs(s.maximum[j]) < infinity<T>) continue;
    int64_t offsets[kOperands];
    offsets_at(job, begin + j, offsets);
    special_row(job, j, offsets, s);
    s.uniform = false;
  }
}

// The input is log-probabilities (nll_loss): the formula of the target's one, and the gradient there alone.
template <class T> void run_picked(Job<T>& job, int64_t begin, int64_t n, Scratch<T>& s) {
  int64_t offsets[kOperands], places[kRows];
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
    T parameters[kMaxParameters];
    for (int k = 0; k < kMaxParameters; ++k) parameters[k] = static_cast<T>(job.parameters[k]);
    const int variant = !job.gradients[0] ? kNone : 1 & ~job.kernel->predictions ? kAll : kPredictions;
    if constexpr (sizeof(T) == 4)
      job.kernel->f32[variant](n, operands, parameters, 1.0, s.values, out);
    else
      job.kernel->f64[variant](n, operands, parameters, 1.0, s.values, out);
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
  int64_t offsets[kOperands];
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
  if (factor)
    for (int64_t j = 0; j < n; ++j) s.scale[j] = factor[j] * job.scale;
  if (job.probabilities) {
    for (int64_t j = 0; j < n; ++j) s.state[j] = mask && mask[j] == 0.0f ? kMasked : kCounts;
    s.uniform = !mask;
  } else {
    const int64_t* y = indices_of(job, begin, n, s.indices);
    const int found = classify(y, mask, job.classes, job.ignore_index, n, s);
    s.uniform = found == 0;
    if (found & kBad && raises) return report_indices(job, begin, n, y, s);
    for (int64_t j = 0; j < n && !job.weights.empty(); ++j) s.row_weight[j] = job.weights[s.own[j]];
  }
  if (job.picked)
    run_picked(job, begin, n, s);
  else if (job.by_row)
    run_rows(job, begin, n, s);
  else
    run_tile(job, begin, n, s);
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

// A vector with an entry per class; false if the tensor is something else.
template <class T> bool class_vector(const Tensor& tensor, int64_t classes, std::vector<T>& values) {
  const DType dtype = dtype_of(tensor);
  if (!known(dtype) || !floating(dtype) || !tensor.is_cpu() || tensor.dim() != 1 || tensor.sizes()[0] != classes)
    return false;
  values.resize(classes);
  read_run(dtype, tensor.data_ptr(), tensor.strides()[0], classes, values.data());
  return true;
}

// Whether there is but one class, or the first row is in [0, 1] and sums to about 1.
template <class T> bool Job<T>::odd() const {
  if (picked || walk.numel == 0 || classes == 1) return !picked && classes == 1;
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
    if (is_half(dtype_of(*in.weight)) && !is_half(dtype_of(in.a))) return false;  // refused, in words
    if (!class_vector(*in.weight, job.classes, job.weights)) return false;
    job.own_weights.assign(job.weights.begin(), job.weights.end());
    job.own_weights.resize(job.padded, T(0));
    Sum total;
    for (const double w : job.weights) total.add(w);
    job.total_weight = total.value();
  }
  return !in.c || class_vector(*in.c, job.classes, job.shift);
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
  const Tensor &a = in.a, &b = *in.b;
  const int dims = static_cast<int>(a.dim());
  const auto sizes = a.sizes();
  probabilities = floating(dtype_of(b));
  plain = wire::class_scores::plain(options.family);
  picked = wire::class_scores::log_probabilities(options.family);
  if (!read_statistics(*this)) return false;
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
    result = promote(result, target);
  } else {
    if (target == DType::kBool || b.dim() != dims - 1 || !attach(walk, b, false, sources[kTarget])) return false;
  }
  return read_classes(*this, in);
}

template <class T> void Job<T>::outputs(const Inputs& in, Result& out) {
  const Tensor* operands[] = {&in.a, &*in.b};
  const int dims = walk.tensor_dims + 1;
  for (int k = 0; k < (probabilities ? 2 : 1); ++k) {
    if (!((options.gradients >> k) & 1)) continue;
    Walk whole;
    start(whole, dims, in.a.sizes().data(), operands[k]->strides().data());
    const auto dense = dense_strides(whole);
    gradient_dtypes[k] = sources[k].dtype;
    allocate_gradient(*this, out, k, dims, in.a.sizes().data(), dense.data());
    if (picked && gradient_sizes[k] > 0) std::memset(gradients[k], 0, gradient_sizes[k] * size_of(gradient_dtypes[k]));
    place(*this, kScoresGradient + k, dense, gradient_dtypes[k], gradients[k]);
    if (!gradients[k]) gradients[k] = reinterpret_cast<char*>(this);
  }
}

template <class T> Work Job<T>::divide() {
  const int64_t rows = walk.numel;
  const auto contiguous = [&](int slot) {
    return !sources[slot].present() || (class_strides[slot] == 1 && sources[slot].dtype == DType::kFloat);
  };
  swift = sizeof(T) == 4 && plain && smoothing == 0.0 && shift.empty() && classes >= kRowClasses &&
          contiguous(kScores) && contiguous(kScoresGradient) && !gradients[1] &&
          (!probabilities || (contiguous(kTarget) && weights.empty()));
  by_row = general() || (!picked && ((class_strides[kScores] == 1 && classes >= kRowClasses) ||
                                     (rows < kLanes && classes >= 8 * kLanes)));
  if (picked)
    block_rows = kRows;
  else if (by_row)
    block_rows = std::clamp<int64_t>(kGrain / classes, 1, 256);
  else
    block_rows = std::clamp<int64_t>(kTileBytes / static_cast<int64_t>(sizeof(T)) / classes, 64, kRows) & ~(kLanes - 1);
  return {(rows + block_rows - 1) / block_rows, block_rows * classes, run_blocks<T>};
}

template <class T> Result run(const Inputs& in) {
  Job<T> job;
  return drive(job, in);
}

}  // namespace

Result class_scores(const Inputs& in) {
  const Result declined{{}, {}, {}, {}, {}, kDeclined};
  const DType dtype = dtype_of(in.a);
  if (!in.b || in.d || in.a.dim() == 0 || in.a.dim() > kDims || !in.a.is_cpu() || !in.b->is_cpu()) return declined;
  if (!known(dtype) || !floating(dtype) || !known(dtype_of(*in.b))) return declined;
  // Shifted scores are distances that need the digits of a double.
  const bool wide = dtype == DType::kDouble || dtype_of(*in.b) == DType::kDouble || in.c;
  return wide ? run<double>(in) : run<float>(in);
}

}  // namespace losskit

LOSSKIT_OP(class_scores)
