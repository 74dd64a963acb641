// Score margins of rows with few classes and one target each: rows side by side, a vector of them for each class.
// Lists of targets: margins_few_lists.h.
//
// 1. What a row takes in Batch (lists of its segments, a sum of its own, its target found again) is more than two
//    classes cost: rows of two took 60 ns there, and take 3 ns here. From kMostFew classes on a row fills vectors
//    alone.
// 2. It serves the usual call: contiguous floats, without weights or a mask. A batch with a target that is no class,
//    or with a sum that is not finite, is left to Batch.
#pragma once

#include "margins.h"
#include "transpose.h"

namespace losskit {
namespace {

constexpr int64_t kMostFew = 64, kSideBySide = 16;  // rows are a multiple of kSideBySide, but for the last ones
static_assert(kMostFew * kSideBySide <= kBlock);    // Batch takes no more

struct FewScratch {
  alignas(64) float tile[kBlock], values[kBlock], slopes[kBlock];  // of a class, then of the next
  alignas(64) float own[kBlock], losses[kBlock];
  alignas(64) double value_sums[kBlock], slope_sums[kBlock];
  int64_t targets[kBlock];
};

LOSSKIT_CLONES bool all_classes(const int64_t* y, int64_t classes, int64_t n) {
  int64_t outside = 0;
  for (int64_t r = 0; r < n; ++r) outside |= static_cast<uint64_t>(y[r]) >= static_cast<uint64_t>(classes);
  return outside == 0;
}

LOSSKIT_CLONES void subtract_from(const float* own, int64_t classes, int64_t step, float* tile) {
  for (int64_t c = 0; c < classes; ++c)
    for (int64_t r = 0; r < step; ++r) tile[c * step + r] = own[r] - tile[c * step + r];
}

// Sums over the classes, four floats as floats: as `sums` does.
LOSSKIT_CLONES void sum_classes(const float* x, int64_t classes, int64_t step, double* out) {
  for (int64_t r = 0; r < step; ++r) out[r] = 0.0;
  int64_t c = 0;
  for (; c + 4 <= classes; c += 4, x += 4 * step)
    for (int64_t r = 0; r < step; ++r)
      out[r] += static_cast<double>((x[r] + x[step + r]) + (x[2 * step + r] + x[3 * step + r]));
  for (; c < classes; ++c, x += step)
    for (int64_t r = 0; r < step; ++r) out[r] += static_cast<double>(x[r]);
}

// The losses of rows from their sums; whether all these are finite.
LOSSKIT_CLONES bool few_losses(const double* values, const double* slopes, double share, int64_t n, float* out) {
  constexpr double most = std::numeric_limits<double>::max();
  int64_t infinite = 0;
  for (int64_t r = 0; r < n; ++r) {
    const double loss = values[r] * share;
    out[r] = static_cast<float>(loss);
    infinite |= !(std::fabs(loss) <= most) | !(std::fabs(slopes[r]) <= most);
  }
  return infinite == 0;
}

// Writes what was computed of n rows: their losses, and the gradients, which are in `slopes`, if they are wanted.
inline void write_few(Job& job, int64_t begin, int64_t n, int64_t step, const FewScratch& s) {
  if (job.gradients[0]) {
    float* const out = reinterpret_cast<float*>(job.gradients[0]) + begin * job.gradient_steps[0];
    tile_to_rows(s.slopes, step, n, job.classes, out, job.gradient_steps[0]);
  }
  if (job.options.reduction != kElements)
    job.sums[begin / job.batch] = sum_block(s.losses, n);
  else
    write_run(job.result, s.losses, n, job.values + begin * size_of(job.result));
}

// Whether all batches of a call may be taken so.
inline bool takes_few(const Job& job) {
  for (const int source : {kSampleWeight, kMask, kUpstream})
    if (job.sources[source].present()) return false;
  const bool plain = job.score_dtype == DType::kFloat && job.score_steps[1] == 1 && !job.mask_given && !job.weights;
  return plain && job.classes >= 2 && job.classes <= kMostFew && job.rows >= kSideBySide &&
         (!job.gradients[0] || (job.gradient_steps[1] == 1 && job.gradient_dtypes[0] == DType::kFloat));
}

// False if Batch has to take these rows.
inline bool run_few(Job& job, int64_t begin, int64_t n, FewScratch& s) {
  const int64_t classes = job.classes, step = (n + kSideBySide - 1) / kSideBySide * kSideBySide;
  const char* const targets = job.targets + begin * job.target_steps[0] * size_of(job.target_dtype);
  const int64_t* y = s.targets;
  if (job.target_dtype == DType::kLong && job.target_steps[0] == 1)
    y = reinterpret_cast<const int64_t*>(targets);
  else
    read_run(job.target_dtype, targets, job.target_steps[0], n, s.targets);
  if (!all_classes(y, classes, n)) return false;

  const float* const x = reinterpret_cast<const float*>(job.scores) + begin * job.score_steps[0];
  rows_to_tile(x, job.score_steps[0], n, classes, s.tile, step);
  for (int64_t r = 0; r < n; ++r) s.own[r] = x[r * job.score_steps[0] + y[r]];
  for (int64_t r = n; r < step; ++r) {
    s.own[r] = 0.0f;
    for (int64_t c = 0; c < classes; ++c) s.tile[c * step + r] = 0.0f;
  }
  subtract_from(s.own, classes, step, s.tile);

  const bool gradient = job.gradients[0] != nullptr;
  const double share = 1.0 / static_cast<double>(classes);
  const float* operands[1] = {s.tile};
  float* derivatives[kOperands] = {s.slopes};
  run_formula(job, gradient ? kPredictions : kNone, classes * step, operands, -share * job.scale, s.values,
              derivatives);
  for (int64_t r = 0; r < n; ++r) s.values[y[r] * step + r] = s.slopes[y[r] * step + r] = 0.0f;  // no pair
  sum_classes(s.values, classes, step, s.value_sums);
  if (gradient)
    sum_classes(s.slopes, classes, step, s.slope_sums);
  else
    std::fill(s.slope_sums, s.slope_sums + n, 0.0);
  if (!few_losses(s.value_sums, s.slope_sums, share, n, s.losses)) return false;
  if (gradient)
    for (int64_t r = 0; r < n; ++r) s.slopes[y[r] * step + r] = -static_cast<float>(s.slope_sums[r]);
  write_few(job, begin, n, step, s);
  return true;
}

}  // namespace
}  // namespace losskit
