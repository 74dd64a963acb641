// Score margins of rows with few classes and short lists of targets: rows side by side, as in margins_few.h, and one
// target of each row after another.
//
// 1. Segment by segment, as Batch takes them, 256 rows of ten classes with three targets each took 490,000
//    instructions, here 150,000.
// 2. A row whose list is shorter than others is computed against any class, and counts nothing then. Rows without a
//    target, rows of targets alone and long lists are left to Batch, and so is what is no class.
#pragma once

#include <bit>

#include "margins_few.h"

namespace losskit {
namespace {

struct FewListsScratch {
  alignas(64) float differences[kBlock], values[kBlock], slopes[kBlock], totals[kBlock];
  alignas(64) uint32_t others[kBlock];          // all bits where a class is no target of the row
  alignas(64) uint32_t longer[kFew][kBlock];    // all bits where a row has so many targets
  alignas(64) double slope_sums[kFew][kBlock];  // of the pairs of a target
  alignas(64) int64_t targets[kFew][kBlock];    // class 0 beyond the end of a list
  int64_t most;                                 // targets of a row
  bool twice;                                   // whether a row lists a class twice
};

LOSSKIT_INLINE float kept(float x, uint32_t mask) { return std::bit_cast<float>(std::bit_cast<uint32_t>(x) & mask); }

// The lists of n rows; `at` gives a number of one. False if Batch has to take them.
template <class At>
LOSSKIT_INLINE bool read_lists_any(const At& at, int64_t classes, int64_t n, int64_t step, FewListsScratch& s) {
  const int64_t longest = std::min(kFew, classes - 1);
  s.most = 0, s.twice = false;
  std::fill(s.others, s.others + classes * step, ~0u);
  for (int64_t r = 0; r < n; ++r) {
    int64_t many = 0;
    for (; many < classes; ++many) {
      const int64_t target = at(r, many);
      if (target == -1) break;
      if (many == longest || static_cast<uint64_t>(target) >= static_cast<uint64_t>(classes)) return false;
      if (many == s.most) {
        std::fill(s.longer[many], s.longer[many] + step, 0u);
        std::fill(s.targets[many], s.targets[many] + step, 0);
        ++s.most;
      }
      s.longer[many][r] = ~0u;
      s.targets[many][r] = target;
      s.twice |= std::exchange(s.others[target * step + r], 0u) == 0;
    }
    if (many == 0) return false;
  }
  return true;
}
inline bool read_lists(const Job& job, int64_t begin, int64_t n, int64_t step, FewListsScratch& s) {
  const int64_t by_row = job.target_steps[0], by_class = job.target_steps[1];
  const char* const data = job.targets + begin * by_row * size_of(job.target_dtype);
  if (job.target_dtype == DType::kLong && by_class == 1) {
    const auto* const own = reinterpret_cast<const int64_t*>(data);
    return read_lists_any([=](int64_t r, int64_t k) { return own[r * by_row + k]; }, job.classes, n, step, s);
  }
  const auto at = [&](int64_t r, int64_t k) { return integer_at(job.target_dtype, data, r * by_row + k * by_class); };
  return read_lists_any(at, job.classes, n, step, s);
}

// The pairs of one target of each row: adds to the sums of values and the totals of slopes; the sums of slopes.
LOSSKIT_CLONES void add_pairs(const float* values, const float* slopes, const uint32_t* others, const uint32_t* longer,
                              int64_t classes, int64_t step, double* value_sums, double* slope_sums, float* totals) {
  for (int64_t r = 0; r < step; r += kSideBySide) {
    double of_values[kSideBySide] = {}, of_slopes[kSideBySide] = {};
    for (int64_t c = 0; c < classes; ++c)
      for (int64_t i = 0; i < kSideBySide; ++i) {
        const int64_t at = c * step + r + i;
        const uint32_t mask = others[at] & longer[r + i];
        const float slope = kept(slopes[at], mask);
        of_values[i] += static_cast<double>(kept(values[at], mask));
        of_slopes[i] += static_cast<double>(slope);
        totals[at] += slope;
      }
    for (int64_t i = 0; i < kSideBySide; ++i) value_sums[r + i] += of_values[i], slope_sums[r + i] = of_slopes[i];
  }
}
LOSSKIT_CLONES void add_pairs(const float* values, const uint32_t* others, const uint32_t* longer, int64_t classes,
                              int64_t step, double* value_sums) {
  for (int64_t r = 0; r < step; r += kSideBySide) {
    double of_values[kSideBySide] = {};
    for (int64_t c = 0; c < classes; ++c)
      for (int64_t i = 0; i < kSideBySide; ++i) {
        const int64_t at = c * step + r + i;
        of_values[i] += static_cast<double>(kept(values[at], others[at] & longer[r + i]));
      }
    for (int64_t i = 0; i < kSideBySide; ++i) value_sums[r + i] += of_values[i];
  }
}

LOSSKIT_CLONES void differences_of(const float* own, const float* tile, int64_t classes, int64_t step, float* out) {
  for (int64_t c = 0; c < classes; ++c)
    for (int64_t r = 0; r < step; ++r) out[c * step + r] = own[r] - tile[c * step + r];
}

// Whether all sums of slopes are finite.
LOSSKIT_CLONES bool all_finite(const double* sums, int64_t n) {
  int64_t infinite = 0;
  for (int64_t r = 0; r < n; ++r) infinite |= !(std::fabs(sums[r]) <= std::numeric_limits<double>::max());
  return infinite == 0;
}

// The gradients by the targets' own scores: of a class that is listed twice, the sum of both.
inline void write_targets(const FewListsScratch& s, int64_t n, int64_t step, double scale, float* gradient) {
  for (int64_t k = 0; k < s.most; ++k)
    for (int64_t r = 0; r < n; ++r) {
      if (!s.longer[k][r]) continue;
      const int64_t target = s.targets[k][r];
      double sum = s.slope_sums[k][r];
      for (int64_t j = 0; s.twice && j < s.most; ++j)
        if (j != k && s.longer[j][r] && s.targets[j][r] == target) sum += s.slope_sums[j][r];
      gradient[target * step + r] = static_cast<float>(sum * scale);
    }
}

// False if Batch has to take these rows.
inline bool run_few_lists(Job& job, int64_t begin, int64_t n, FewScratch& s, FewListsScratch& lists) {
  const int64_t classes = job.classes, step = (n + kSideBySide - 1) / kSideBySide * kSideBySide;
  if (!read_lists(job, begin, n, step, lists)) return false;
  const float* const x = reinterpret_cast<const float*>(job.scores) + begin * job.score_steps[0];
  for (int64_t c = 0; c < classes && n < step; ++c) std::fill(s.tile + c * step + n, s.tile + (c + 1) * step, 0.0f);
  rows_to_tile(x, job.score_steps[0], n, classes, s.tile, step);

  const bool gradient = job.gradients[0] != nullptr;
  const double share = 1.0 / static_cast<double>(classes);
  std::fill(s.value_sums, s.value_sums + step, 0.0);
  std::fill(s.slope_sums, s.slope_sums + step, 0.0);
  std::fill(lists.totals, lists.totals + classes * step, 0.0f);
  for (int64_t k = 0; k < lists.most; ++k) {
    for (int64_t r = 0; r < step; ++r) s.own[r] = s.tile[lists.targets[k][r] * step + r];
    differences_of(s.own, s.tile, classes, step, lists.differences);
    const float* operands[1] = {lists.differences};
    float* derivatives[kOperands] = {lists.slopes};
    run_formula(job, gradient ? kPredictions : kNone, classes * step, operands, 1.0, lists.values, derivatives);
    if (!gradient) {
      add_pairs(lists.values, lists.others, lists.longer[k], classes, step, s.value_sums);
      continue;
    }
    add_pairs(lists.values, lists.slopes, lists.others, lists.longer[k], classes, step, s.value_sums,
              lists.slope_sums[k], lists.totals);
    if (!all_finite(lists.slope_sums[k], n)) return false;
  }
  if (!few_losses(s.value_sums, s.slope_sums, share, n, s.losses)) return false;
  if (gradient) {
    scale_into(lists.totals, -share * job.scale, classes * step, s.slopes);
    write_targets(lists, n, step, share * job.scale, s.slopes);
  }
  write_few(job, begin, n, step, s);
  return true;
}

}  // namespace
}  // namespace losskit
