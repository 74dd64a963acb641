// Class scores, a block taken as a tile, class by class: from scores to gradients.
#pragma once

#include "class_scores_steps.h"

namespace losskit {
namespace {

// A block as a tile of positions side by side.
template <class T> struct TileBlock {
  const Job<T>& job;
  Scratch<T>& s;
  const int64_t begin, n;
  const int64_t classes = job.classes;
  const bool by_scores = job.gradients[0], by_target = job.gradients[1];
  const bool dotted = job.probabilities || job.smoothing != 0.0 || job.statistics[2];  // needs sum_c q_c (z_c - m)
  const double smooth = job.smoothing / static_cast<double>(classes);
  const T keep = static_cast<T>(1.0 - job.smoothing), narrow_smooth = static_cast<T>(smooth);
  Tile<T> z{}, t{};  // scores; probabilities
  T* e = nullptr;    // exponentials, a class `step` from the next
  int64_t step = (job.block_rows + kLanes - 1) & ~(kLanes - 1);
  bool in_place = false;  // the exponentials lie where the gradient will be

  void run() {
    z = read_tile(job, kScores, runs_of<T>(job, kScores, begin, n, s.runs[kScores]), n, s.scores);
    if (!job.shift.empty()) tile_shift(s.scores.data.get(), z.stride, job.shift.data(), classes, n, s);
    if (job.changed) tile_change(s.scores.data.get(), z.stride, classes, n, s);
    if (job.probabilities) read_probabilities();
    const bool far = maxima(z, s.maximum);
    if (job.by_largest) argmaxima(z, s.maximum, s.own);
    place_exponentials();
    if (far)
      exps<T, true>(z, e, step, s);
    else
      exps<T, false>(z, e, step, s);
    if (dotted) sum_shares();
    bool finished = false;
    if constexpr (sizeof(T) == 4) finished = job.plain && !dotted && finish(n, s);
    if (!finished) find_logarithms(far);
    if (s.uniform)
      std::fill(s.keep, s.keep + n, ~Bits<T>(0));
    else
      for (int64_t j = 0; j < n; ++j) s.keep[j] = s.state[j] == kMasked ? Bits<T>(0) : ~Bits<T>(0);
    if (by_target) write_target_gradient();
    if (by_scores) write_scores_gradient(finished);
    for (int64_t j = 0; j < n && far; ++j) {
      if (s.state[j] != kCounts || std::abs(s.maximum[j]) < infinity<T>) continue;
      int64_t offsets[kSlots];
      offsets_at(job, begin + j, offsets);
      special_row(job, j, offsets, s);
      s.uniform = false;
    }
  }

  void read_probabilities() {
    t = read_tile(job, kTarget, runs_of<T>(job, kTarget, begin, n, s.runs[kTarget]), n, s.target);
    for (int64_t c = 0; c < classes && job.options.checks != kOff; ++c) {
      const T* const x = t.z + c * t.stride;
      if (row_outside(x, job.slack, n))
        for (int64_t j = 0; j < n; ++j)
          if (s.state[j] == kCounts && row_outside(x + j, job.slack, 1)) s.state[j] = kBad, s.uniform = false;
    }
  }

  // The exponentials go where the gradient will be, if positions are contiguous there.
  void place_exponentials() {
    if (by_scores) {
      const Runs& to = runs_of<T>(job, kScoresGradient, begin, n, s.runs[kScoresGradient]);
      in_place = to.count == 1 && (to.stride == 1 || n == 1) && job.sources[kScoresGradient].dtype == kOwn<T>;
      if (in_place) {
        step = job.class_strides[kScoresGradient];
        e = reinterpret_cast<T*>(row_of(job, kScoresGradient, to.offsets[0]));
      }
    }
    if (!e) e = s.exponentials.get(step * classes);
  }

  const T* probabilities(int64_t c) const { return job.probabilities ? t.z + c * t.stride : nullptr; }
  T class_weight(int64_t c) const {
    return job.own_weights.empty() || (!job.probabilities && job.smoothing == 0.0) ? T(1) : job.own_weights[c];
  }

  void sum_shares() {
    for (double* x : {s.dots, s.dots_lost, s.rest, s.rest_lost, s.mine}) std::fill(x, x + n, 0.0);
    for (int64_t c = 0; c < classes; ++c)
      tile_dot(z.z + c * z.stride, probabilities(c), keep, narrow_smooth, class_weight(c), static_cast<Index<T>>(c), n,
               s);
    if constexpr (sizeof(T) == 8) {
      for (int64_t j = 0; j < n; ++j) {
        if (std::isfinite(s.dots[j])) s.dots[j] += s.dots_lost[j];
        s.rest[j] += s.rest_lost[j];
      }
    }
  }

  void find_logarithms(bool far) {
    if (job.probabilities) {
      for (int64_t j = 0; j < n; ++j) s.b[j] = -s.scale[j], s.total[j] = s.rest[j] + s.mine[j];
    } else if (job.plain && (dotted || !job.weights.empty())) {
      for (int64_t j = 0; j < n; ++j) index_weights(job, j, s);
    }
    for (int64_t j = 0; j < n; ++j) s.own_score[j] = z.z[s.own[j] * z.stride + j];
    offsets(n, far, s);
    if (!job.plain || !job.sources[kUpstream].present() || by_target) evaluate(job, n, s);
  }

  // A class of a gradient, from contiguous numbers.
  void store_class(int slot, const Runs& to, int64_t c, const T* from) {
    for (int64_t r = 0; r < to.count; from += to.lengths[r++])
      store_run(job.sources[slot].dtype, from, to.stride, to.lengths[r],
                row_of(job, slot, to.offsets[r] + c * job.class_strides[slot]));
  }

  void write_target_gradient() {
    const Runs& to = runs_of<T>(job, kTargetGradient, begin, n, s.runs[kTargetGradient]);
    for (int64_t j = 0; j < n; ++j)
      s.operands[0][j] = s.state[j] == kBad ? not_a_number<T> : static_cast<T>(-s.logs[j]);
    for (int64_t c = 0; c < classes; ++c) {
      tile_losses(z.z + c * z.stride, (1.0 - job.smoothing) * job.weight(c), n, s, s.derivatives[0]);
      store_class(kTargetGradient, to, c, s.derivatives[0]);
    }
  }

  void write_scores_gradient(bool finished) {
    bool wide = false;
    if (!finished) {
      coefficients(s, n, dotted && job.plain);
      if (!job.plain) add_extra(s, n);
      for (int64_t j = 0; j < n && job.changed; ++j) {
        s.by_multiple[j] = s.own_gradient[j] * s.own_given[j];
        s.own_gradient[j] *= s.slope[j];
      }
      wide = narrow_coefficients(s, n);
    }
    for (int64_t j = 0; j < n && !s.uniform; ++j)
      if (s.state[j] == kBad) {
        s.a[j] = s.b[j] = s.own_gradient[j] = not_a_number<double>;
        s.narrow_a[j] = s.narrow_b[j] = s.narrow_own[j] = not_a_number<T>;
      }
    const Runs& to = s.runs[kScoresGradient];
    const bool by_rows = !in_place && to.count == 1 && job.class_strides[kScoresGradient] == 1 &&
                         job.sources[kScoresGradient].dtype == kOwn<T>;
    if (!dotted && !wide) tile_scale(e, step, classes, n, s);
    for (int64_t c = 0; c < classes; ++c) {
      T* const row = e + c * step;
      const auto index = static_cast<Index<T>>(c);
      if (wide)
        tile_combine_wide(row, probabilities(c), keep, narrow_smooth, class_weight(c), index, n, s);
      else if (dotted)
        tile_combine(row, probabilities(c), keep, narrow_smooth, class_weight(c), index, n, s);
      if (!in_place && !by_rows) store_class(kScoresGradient, to, c, row);
    }
    if (job.by_multiple()) tile_by_multiple(z, e, step, s);
    if (by_rows)
      tile_to_rows(e, step, n, classes, reinterpret_cast<T*>(row_of(job, kScoresGradient, to.offsets[0])), to.stride);
  }
};

}  // namespace
}  // namespace losskit
