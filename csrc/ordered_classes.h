// Rows of ordered classes: the running sums of their probabilities less those of the target.
//
// 1. Rows are taken together up to the size of a block, so that passes over arrays have long loops.
// 2. The sum up to a class and that of the classes above are added up apart: neither is 1 less the other. Up to the
// class
//    of the target the running sum is the first, from there on minus the second. Of a target of probabilities it is the
//    difference of two sums.
// 3. The slope by a score is its probability times what the running sums from it on gain by the probability above them,
//    less what those before it lose by the probability below.
#pragma once

#include "ordered_lists.h"
#include "vectors.h"

namespace losskit {
namespace {

struct ClassesScratch {
  Buffer<double> p, below, above, sums, slopes, values, unused, target;
};

// --------------------------------------------------------------------------------------------------------
// Long rows: eight additions at a time, in a vector; rows side by side would leave the fastest cache

constexpr int64_t kLong = 64;  // classes of a row that is summed alone
using Eight = Vector<double>;

LOSSKIT_INLINE void store(const Eight& v, double* x) { std::memcpy(x, &v, sizeof v); }

// In place of each number the sum of those up to it, or from it on.
LOSSKIT_INLINE void sum_up(Eight& v) {
  const Eight none = {};
  v += __builtin_shufflevector(v, none, 8, 0, 1, 2, 3, 4, 5, 6);
  v += __builtin_shufflevector(v, none, 8, 8, 0, 1, 2, 3, 4, 5);
  v += __builtin_shufflevector(v, none, 8, 8, 8, 8, 0, 1, 2, 3);
}
LOSSKIT_INLINE void sum_down(Eight& v) {
  const Eight none = {};
  v += __builtin_shufflevector(v, none, 1, 2, 3, 4, 5, 6, 7, 8);
  v += __builtin_shufflevector(v, none, 2, 3, 4, 5, 6, 7, 8, 8);
  v += __builtin_shufflevector(v, none, 4, 5, 6, 7, 8, 8, 8, 8);
}

LOSSKIT_INLINE void sums_of_long(double* p, int64_t n, double* below, double* above) {
  const Eight none = {};
  const double inverse =
      1.0 / chunk_sum<double>(n, [p](int64_t i, Eight& v) __attribute__((always_inline)) { load(p + i, v); });
  Eight v;
  double total = 0.0, rest = 0.0;
  int64_t c = 0, d = n;
  for (; c + 8 <= n; c += 8) {
    load(p + c, v);
    v *= inverse;
    store(v, p + c);
    sum_up(v);
    store(v + total, below + c);
    total += v[7];
  }
  for (; c < n; ++c) below[c] = total += p[c] *= inverse;
  for (; d >= 8; d -= 8) {
    load(p + d - 8, v);
    sum_down(v);
    store(__builtin_shufflevector(v, none, 1, 2, 3, 4, 5, 6, 7, 8) + rest, above + d - 8);
    rest += v[0];
  }
  for (; d > 0; --d) {
    above[d - 1] = rest;
    rest += p[d - 1];
  }
}

LOSSKIT_INLINE void slopes_of_long(const double* p, double* below, const double* above, double factor, int64_t n,
                                   double* slopes) {
  const Eight none = {};
  Eight v, w;
  double lost = 0.0, gained = 0.0;
  int64_t c = 0, d = n;
  for (; c + 8 <= n; c += 8) {
    load(below + c, v), load(slopes + c, w);
    v *= w;
    sum_up(v);
    store(__builtin_shufflevector(v, none, 8, 0, 1, 2, 3, 4, 5, 6) + lost, below + c);
    lost += v[7];
  }
  for (; c < n; ++c) {
    const double left = below[c] * slopes[c];
    below[c] = lost;
    lost += left;
  }
  for (; d >= 8; d -= 8) {
    load(above + d - 8, v), load(slopes + d - 8, w);
    v *= w;
    sum_down(v);
    const double more = v[0];
    load(below + d - 8, w);
    v = (v + gained) - w;
    load(p + d - 8, w);
    store(w * v * factor, slopes + d - 8);
    gained += more;
  }
  for (; d > 0; --d) {
    gained += above[d - 1] * slopes[d - 1];
    slopes[d - 1] = p[d - 1] * (gained - below[d - 1]) * factor;
  }
}

// --------------------------------------------------------------------------------------------------------
// Rows of any length

// Row by row: probabilities from exponentials, their sums from both ends. Rows are taken four at a time, so that their
// additions do not wait for one another.
template <int many> LOSSKIT_INLINE void sums_of_some(double* p, int64_t width, double* below, double* above) {
  double totals[many] = {}, rests[many] = {}, inverse[many];
  for (int64_t c = 0, d = width - 1; c < width; ++c, --d)
    for (int r = 0; r < many; ++r) {
      const int64_t row = r * width;
      below[row + c] = totals[r] += p[row + c];
      above[row + d] = rests[r];
      rests[r] += p[row + d];
    }
  for (int r = 0; r < many; ++r) inverse[r] = 1.0 / totals[r];
  for (int r = 0; r < many; ++r)
    for (int64_t i = r * width; i < (r + 1) * width; ++i) {
      p[i] *= inverse[r];
      below[i] *= inverse[r];
      above[i] *= inverse[r];
    }
}
LOSSKIT_CLONES inline void sums_of_rows(double* p, int64_t rows, int64_t width, double* below, double* above) {
  int64_t r = 0;
  if (width >= kLong)
    for (; r < rows; ++r) sums_of_long(p + r * width, width, below + r * width, above + r * width);
  for (; r + 4 <= rows; r += 4) sums_of_some<4>(p + r * width, width, below + r * width, above + r * width);
  for (; r < rows; ++r) sums_of_some<1>(p + r * width, width, below + r * width, above + r * width);
}

// The slopes of rows by their scores, in place of those by the running sums.
template <int many>
LOSSKIT_INLINE void slopes_of_some(const double* p, double* below, double* above, const double* factors, int64_t width,
                                   double* slopes) {
  double gained[many] = {}, lost[many] = {};
  for (int64_t i = 0; i < many * width; ++i) {
    above[i] *= slopes[i];
    below[i] *= slopes[i];
  }
  for (int64_t c = 0, d = width - 1; c < width; ++c, --d)
    for (int r = 0; r < many; ++r) {
      const int64_t row = r * width;
      const double left = below[row + c];
      below[row + c] = lost[r];
      lost[r] += left;
      above[row + d] = gained[r] += above[row + d];
    }
  for (int r = 0; r < many; ++r)
    for (int64_t i = r * width; i < (r + 1) * width; ++i) slopes[i] = p[i] * (above[i] - below[i]) * factors[r];
}
LOSSKIT_CLONES inline void slopes_of_rows(const double* p, double* below, double* above, const double* factors,
                                          int64_t rows, int64_t width, double* slopes) {
  int64_t r = 0, at = 0;
  if (width >= kLong)
    for (; r < rows; ++r, at += width) slopes_of_long(p + at, below + at, above + at, factors[r], width, slopes + at);
  for (; r + 4 <= rows; r += 4, at += 4 * width)
    slopes_of_some<4>(p + at, below + at, above + at, factors + r, width, slopes + at);
  for (; r < rows; ++r, at += width) slopes_of_some<1>(p + at, below + at, above + at, factors + r, width, slopes + at);
}

// below less the running sum of the target, which goes on from `total`. Four at a time, as in sums_after.
LOSSKIT_CLONES inline double less_running(const double* below, const double* target, int64_t n, double total,
                                          double* out) {
  int64_t c = 0;
  for (; c + 4 <= n; c += 4) {
    const double one = target[c], two = one + target[c + 1], three = two + target[c + 2], four = three + target[c + 3];
    out[c] = below[c] - (total + one), out[c + 1] = below[c + 1] - (total + two);
    out[c + 2] = below[c + 2] - (total + three), out[c + 3] = below[c + 3] - (total + four);
    total += four;
  }
  for (; c < n; ++c) out[c] = below[c] - (total += target[c]);
  return total;
}

struct ClassRows {
  Job& job;
  ClassesScratch& scratch;
  int64_t first, count;

  void run(Sum& sum) {
    const int64_t width = job.width, n = count * width;
    double* const p = scratch.p.get(n);
    double *const below = scratch.below.get(n), *const above = scratch.above.get(n), *const sums = scratch.sums.get(n);
    bool lost[kBlock];
    for (int64_t r = 0; r < count; ++r) read_scores(r, p + r * width, below + r * width);
    exponentials(p, n);
    if (job.input_dtype == DType::kDouble) corrected(p, below, n);
    sums_of_rows(p, count, width, below, above);
    for (int64_t r = 0; r < count; ++r) lost[r] = !running(r, below + r * width, above + r * width, sums + r * width);

    double *const values = scratch.values.get(n), *const slopes = scratch.slopes.get(n),
                  *const unused = scratch.unused.get(n);
    for (int64_t at = 0; at < n; at += kBlock)
      evaluate(job, std::min(kBlock, n - at), sums + at, nullptr, values + at, slopes + at, unused);
    double factors[kBlock];
    for (int64_t r = 0; r < count; ++r) {
      const int64_t unit = first + r, at = r * width;
      const bool wanted = counts(job, unit);
      Sum total;
      for (int64_t c = 0; c < width; c += kBlock) total.add(sum_block(values + at + c, std::min(kBlock, width - c)));
      deliver(job, unit, !wanted ? 0.0 : (lost[r] ? kNaN : total.value()) * weight_of(job, unit), sum);
      factors[r] = !wanted ? 0.0 : lost[r] ? kNaN : factor_of(job, unit);
    }
    if (!job.options.gradients) return;
    slopes_of_rows(p, below, above, factors, count, width, slopes);
    write_gradient(job, slopes, n, first * width);
    for (int64_t r = 0; r < count; ++r)
      if (!counts(job, first + r)) fill_gradient(job, 0.0, width, (first + r) * width);
  }

  // Scores as distances to the largest of them, and their rounding errors.
  void read_scores(int64_t r, double* out, double* errors) {
    const int64_t width = job.width, begin = (first + r) * width;
    for (int64_t at = 0; at < width; at += kBlock) {
      const int64_t m = std::min(kBlock, width - at);
      const double* const part = fetch(job.elements, job.own[0], begin + at, m, out + at);
      if (part != out + at) std::copy(part, part + m, out + at);
    }
    const double high = extremes(out, width).high;
    job.input_dtype == DType::kDouble ? distances(out, high, width, errors) : distances(out, high, width);
  }

  // The running sums of a row. False: the row has a bad value.
  bool running(int64_t r, const double* below, const double* above, double* sums) {
    const int64_t width = job.width, unit = first + r;
    const bool wanted = counts(job, unit);
    if (!job.soft) {
      int64_t label;
      label = *fetch(job.walk, job.labels, unit, 1, &label);
      const bool fine = label >= 0 && label < job.classes;
      if (!fine && wanted && job.options.checks == kRaise)
        job.report({0, unit, static_cast<int64_t>(Violation::kClassIndex), unit, label});
      const int64_t split = std::clamp<int64_t>(label, 0, width);
      std::copy(below, below + split, sums);
      for (int64_t c = split; c < width; ++c) sums[c] = -above[c];
      return fine;
    }
    const double slack = slack_of(job.own[1].dtype);
    double block[kBlock], total = 0.0;
    bool fine = true;
    for (int64_t at = 0; at < width; at += kBlock) {
      const int64_t m = std::min(kBlock, width - at);
      const double* const target = fetch(job.elements, job.own[1], unit * width + at, m, block);
      const Extremes range = extremes(target, m);
      for (int64_t c = 0; c < m && (range.low < -slack || range.high > 1.0 + slack); ++c) {
        if (!(target[c] < -slack || target[c] > 1.0 + slack)) continue;
        fine = false;
        const int64_t place = unit * width + at + c;
        if (wanted && job.options.checks == kRaise)
          job.report({0, place, static_cast<int64_t>(Violation::kProbability), place, target[c]});
      }
      total = less_running(below + at, target, m, total, sums + at);
    }
    return fine || job.options.checks == kOff;
  }
};

inline void run_classes(int64_t begin, int64_t end, void* context) {
  Job& job = *static_cast<Job*>(context);
  const auto scratch = std::make_unique<ClassesScratch>();
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * job.rows;
    ClassRows{job, *scratch, first, std::min(job.rows, job.units - first)}.run(job.sums[block]);
  }
}

}  // namespace
}  // namespace losskit
