// Score margins, a batch of rows: their segments, the formula of these, gradients and losses of the rows.
#pragma once

#include "margins.h"

namespace losskit {
namespace {

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
    C* const values = scratch.values;
    run_formula(job, gradient ? kPredictions : kNone, count * n, operands, scale, values, derivatives);
    for (int64_t k = 0; k < count; ++k) {
      const int64_t row = scratch.rows[first + k];
      for (int64_t j = scratch.first[row]; j < scratch.first[row + 1]; ++j) {
        const int64_t target = scratch.targets[j] - from;
        if (target >= 0 && target < n) values[k * n + target] = slopes[k * n + target] = C(0);
      }
    }
    sums(values, count, n, &scratch.value_sums[first]);
    if (!gradient) return;
    if (!job.many) return sums(slopes, count, n, &scratch.slope_sums[first]);
    for (int64_t k = 0; k < count; ++k) {
      C* const total = scratch.totals + scratch.rows[first + k] * n;
      if (!starts(first + k)) {
        scratch.slope_sums[first + k].add(add(slopes + k * n, n, total));
        continue;
      }
      sums(slopes + k * n, 1, n, &scratch.slope_sums[first + k]);
      if (total != slopes) std::copy(slopes + k * n, slopes + (k + 1) * n, total);
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

}  // namespace
}  // namespace losskit
