// Sets of few pixels, such as rows of ten labels: sets side by side, a vector of them for each place in the order.
//
// 1. One by one, a set of ten pixels took 2,180 instructions and some twenty mispredicted branches, most of them around
//    the ten numbers: here 790 and none.
// 2. They are put in order by Batcher's network, whose comparisons do not depend on the numbers. Places are a part of
//    what is compared, so that equal errors keep the order of the input.
// 3. It serves the usual call: floats in their order, without weights and masks. Sets with a label that is neither 0
//    nor 1, or with NaN, are left to SignedSet.
#pragma once

#include "ordered_errors.h"
#include "transpose.h"

namespace losskit {
namespace {

constexpr int64_t kFewPixels = 32, kSetsSideBySide = 16;  // sets are a multiple of these, but for the last ones

struct FewPixels {
  alignas(64) float scores[kBlock], labels[kBlock], read[kBlock], gradient[kBlock];
  alignas(64) int64_t keys[kBlock];  // scores with the sign of the label, places, labels; see write_keys
  alignas(64) double steps[kBlock], errors[kBlock], values[kBlock], slopes[kBlock], unused[kBlock];
  alignas(64) double intersection[kBlock], all[kBlock], losses[kBlock];
};

// Whether all sets of a call may be taken so, but for those whose numbers are odd.
inline bool takes_few_pixels(const Job& job) {
  for (const int source : {kSampleWeight, kMask, kUpstream})
    if (job.sources[source].present()) return false;
  return job.masks < 0 && job.input_dtype == DType::kFloat && job.gradient_dtypes[0] == DType::kFloat &&
         dense(job.elements, job.own[0]) && job.width > 0 && job.width <= kFewPixels && job.units >= kSetsSideBySide;
}

LOSSKIT_CLONES bool usual_pixels(const float* scores, const float* labels, int64_t n) {
  int32_t odd = 0;
  for (int64_t i = 0; i < n; ++i)
    odd |= ((labels[i] != 0.0f) & (labels[i] != 1.0f)) | (labels[i] != labels[i]) | (scores[i] != scores[i]);
  return odd == 0;
}

// From the highest bit down: an integer of the order of the score, the place, the label. And how many are positive.
LOSSKIT_CLONES void write_keys(const float* scores, const float* labels, int64_t width, int64_t step, int64_t* keys,
                               double* positives) {
  for (int64_t r = 0; r < step; ++r) positives[r] = 0.0;
  for (int64_t c = 0; c < width; ++c)
    for (int64_t r = 0; r < step; ++r) {
      const int64_t at = c * step + r;
      const float right = labels[at] != 0.0f ? scores[at] : -scores[at];
      const auto order = static_cast<int32_t>(ordered_key(right) ^ 0x80000000u);
      keys[at] = static_cast<int64_t>(order) * (int64_t(1) << 32) + 2 * c + (labels[at] != 0.0f ? 1 : 0);
      positives[r] += static_cast<double>(labels[at]);
    }
}

LOSSKIT_CLONES void exchange(int64_t* a, int64_t* b, int64_t step) {
#pragma GCC ivdep
  for (int64_t r = 0; r < step; ++r) {
    const int64_t x = a[r], y = b[r];
    a[r] = x < y ? x : y;
    b[r] = x < y ? y : x;
  }
}
inline void put_in_order(int64_t* keys, int64_t width, int64_t step) {
  for (int64_t p = 1; p < width; p *= 2)
    for (int64_t k = p; k >= 1; k /= 2)
      for (int64_t j = k % p; j + k < width; j += 2 * k)
        for (int64_t i = j; i < std::min(j + k, width - k); ++i)
          if (i / (2 * p) == (i + k) / (2 * p)) exchange(keys + i * step, keys + (i + k) * step, step);
}

// As loss_of_sorted: errors in their order, and the steps.
LOSSKIT_CLONES void write_steps(const int64_t* keys, int64_t width, int64_t step, double* intersection, double* all,
                                double* errors, double* steps) {
  for (int64_t r = 0; r < step; ++r) all[r] = intersection[r];
  for (int64_t c = 0; c < width; ++c)
#pragma GCC ivdep
    for (int64_t r = 0; r < step; ++r) {
      const int64_t key = keys[c * step + r];
      const double positive = key & 1 ? 1.0 : 0.0, union_of = all[r];
      const bool alone = union_of + positive == 0.0;  // the first mistake where the set is empty
      const double above = positive + (alone ? 1.0 : 0.0) != 0.0 ? 1.0 : intersection[r];
      const double below = alone ? 1.0 : positive != 0.0 ? union_of : union_of * (union_of + 1.0);
      steps[c * step + r] = above / below;
      intersection[r] -= positive, all[r] = union_of + (1.0 - positive);
      const auto order = static_cast<uint32_t>(static_cast<uint64_t>(key) >> 32) ^ 0x80000000u;
      errors[c * step + r] = 1.0 - static_cast<double>(number_of(order));
    }
}

// The losses of sets, sums with what rounding takes from them.
LOSSKIT_CLONES void add_pixels(const double* values, int64_t width, int64_t step, double* losses) {
  for (int64_t r = 0; r < step; r += kSetsSideBySide) {
    double high[kSetsSideBySide] = {}, low[kSetsSideBySide] = {};
    for (int64_t c = 0; c < width; ++c)
      for (int64_t i = 0; i < kSetsSideBySide; ++i) {
        const double x = values[c * step + r + i], sum = high[i] + x, seen = sum - high[i];
        low[i] += (high[i] - (sum - seen)) + (x - seen);
        high[i] = sum;
      }
    for (int64_t i = 0; i < kSetsSideBySide; ++i)
      losses[r + i] = std::fabs(high[i]) <= std::numeric_limits<double>::max() ? high[i] + low[i] : high[i];
  }
}

LOSSKIT_CLONES void write_slopes(const int64_t* keys, const double* slopes, double factor, int64_t n, float* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<float>((keys[i] & 1 ? -slopes[i] : slopes[i]) * factor);
}

// False if SignedSet has to take these sets.
inline bool run_few_pixels(Job& job, int64_t begin, int64_t n, FewPixels& s, Sum& sum) {
  const int64_t width = job.width, step = (n + kSetsSideBySide - 1) / kSetsSideBySide * kSetsSideBySide;
  const float* const scores = reinterpret_cast<const float*>(job.own[0].data) + begin * width;
  const float* const labels = fetch(job.elements, job.own[1], begin * width, n * width, s.read);
  if (!usual_pixels(scores, labels, n * width)) return false;
  for (int64_t c = 0; c < width && n < step; ++c)
    for (float* const tile : {s.scores, s.labels}) std::fill(tile + c * step + n, tile + (c + 1) * step, 0.0f);
  rows_to_tile(scores, width, n, width, s.scores, step);
  rows_to_tile(labels, width, n, width, s.labels, step);
  write_keys(s.scores, s.labels, width, step, s.keys, s.intersection);
  put_in_order(s.keys, width, step);
  write_steps(s.keys, width, step, s.intersection, s.all, s.errors, s.steps);
  evaluate(job, width * step, s.errors, s.steps, s.values, s.slopes, s.unused);
  add_pixels(s.values, width, step, s.losses);
  for (int64_t r = 0; r < n; ++r) deliver(job, begin + r, s.losses[r], sum);
  if (!job.options.gradients) return true;
  write_slopes(s.keys, s.slopes, job.scale, width * step, s.gradient);
  float* const out = reinterpret_cast<float*>(job.gradients[0]) + begin * width;
  for (int64_t r = 0; r < n; ++r)
    for (int64_t c = 0; c < width; ++c) {
      const auto place = static_cast<uint32_t>(s.keys[c * step + r]) / 2;
      out[r * width + place] = s.gradient[c * step + r];
    }
  return true;
}

inline void run_few_signs(int64_t begin, int64_t end, void* context) {
  Job& job = *static_cast<Job*>(context);
  FewPixels few;
  const auto scratch = std::make_unique<ErrorsScratch>();
  Sorter<uint32_t> sorter;
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * job.rows, n = std::min(job.rows, job.units - first);
    if (run_few_pixels(job, first, n, few, job.sums[block])) continue;
    for (int64_t unit = first; unit < first + n; ++unit)
      SignedSet<uint32_t, float>{job, sorter, *scratch, unit}.run(job.sums[block]);
  }
}

}  // namespace
}  // namespace losskit
