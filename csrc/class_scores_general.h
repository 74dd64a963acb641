// Class scores, the general row: any formula, any share of each class, any scores.
//
// Written for exactness, one row at a time, in double whatever T is. It serves calls that need the formula of every
// class (probabilities or label smoothing with another loss than cross entropy), and rows without a finite maximum.
#pragma once

#include "class_scores_memory.h"

namespace losskit {
namespace {

// Evaluate the formula for `n` log-probabilities of one row, in double.
template <class T>
void formula(const Job<T>& job, const double* logs, double lse, double mean, int64_t n, double* values,
             double* const* derivatives) {
  const double given[3] = {0.0, lse, mean};
  alignas(64) double constants[2][kBlock], unused[kBlock];
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t length = std::min(kBlock, n - begin);
    const double* operands[kOperands] = {};
    double* out[kOperands] = {unused, unused, unused};
    for (int k = 0; k < 3; ++k) {
      if (!job.statistics[k]) continue;
      if (k > 0) std::fill(constants[k - 1], constants[k - 1] + length, given[k]);
      operands[job.places[k]] = k == 0 ? logs + begin : constants[k - 1];
      out[job.places[k]] = derivatives[k] + begin;
    }
    const int all = (1 << job.kernel->operands) - 1;
    job.kernel->f64[all & ~job.kernel->predictions ? kAll : kPredictions](length, operands, job.parameters, 1.0,
                                                                          values + begin, out);
  }
}

// Loss of one row with any formula, any weights q_c, any scores; gradients (times `scale`) where they are wanted.
// `z`, from which `base` was taken, and `q` have job.padded entries.
template <class T>
double general_row(const Job<T>& job, const double* z, double base, const double* q, double scale, double* work,
                   double* dz, double* dt) {
  const int64_t n = job.classes, stride = job.padded;
  double *const p = work, *const logs = work + stride, *const values = work + 2 * stride;
  double* const derivatives[3] = {work + 3 * stride, work + 4 * stride, work + 5 * stride};
  constexpr double nan = not_a_number<double>;
  const double m = row_maximum(z, job.padded);
  bool known = m > -infinity<double>;
  for (int64_t c = 0; c < n; ++c) known &= z[c] == z[c] && q[c] == q[c];
  if (!known) {
    if (dz) std::fill(dz, dz + n, nan);
    if (dt) std::fill(dt, dt + n, nan);
    return nan;
  }
  const int64_t k = std::find(z, z + n, m) - z;
  double others = 0.0, logarithm = 0.0, lse = m, mean = 0.0;  // others: probability of all but k
  if (m == infinity<double>) {                                // the limit: infinite scores share the probability
    const double count = static_cast<double>(std::count(z, z + n, m));
    for (int64_t c = 0; c < n; ++c) {
      p[c] = z[c] == m ? 1.0 / count : 0.0;
      logs[c] = z[c] == m ? -std::log(count) : -infinity<double>;
    }
    others = (count - 1.0) / count;
    mean = count == double(n) ? -std::log(count) : -infinity<double>;
  } else {
    const Pivot<double> pivoted = pivot<double, true>(m);
    Sum sum;
    double own = 0.0;
    for (int64_t i = 0; i < stride;) {
      const int64_t length = chunk_of(stride - i);
      sum.add(row_exp<double, true>(z + i, length, pivoted, k - i, p + i, &own));
      i += length;
    }
    const double total = sum.value() + own;
    p[k] = own;
    for (int64_t c = 0; c < n; ++c) p[c] = p[c] / total;
    others = sum.value() / total;
    logarithm = std::log1p(sum.value() / own);
    for (int64_t c = 0; c < n; ++c) logs[c] = (z[c] - m) - logarithm;
    lse = base + (m + logarithm);
    if (job.statistics[2]) {
      for (int64_t c = 0; c < n; ++c) mean += z[c] - m;
      mean = mean / static_cast<double>(n) - logarithm;
    }
  }
  if (job.plain) {
    for (int64_t c = 0; c < n; ++c) values[c] = -logs[c], derivatives[0][c] = -1.0;
  } else {
    for (int k = 0; k < 3; ++k)
      if (!job.statistics[k]) std::fill(derivatives[k], derivatives[k] + n, 0.0);
    formula(job, logs, lse, mean, n, values, derivatives);
  }
  // A weight q_c of 0 silences an infinite term.
  Sum loss, by_log, by_lse, by_mean;
  for (int64_t c = 0; c < n; ++c) {
    if (q[c] == 0.0) continue;
    loss.add(q[c] * values[c]);
    if (c != k) by_log.add(q[c] * derivatives[0][c]);
    if (job.statistics[1]) by_lse.add(q[c] * derivatives[1][c]);
    if (job.statistics[2]) by_mean.add(q[c] * derivatives[2][c]);
  }
  if (dz) {
    const double rest = by_log.value(), own = q[k] == 0.0 ? 0.0 : q[k] * derivatives[0][k];
    const double lse_sum = by_lse.value(), mean_sum = by_mean.value(), share = 1.0 / static_cast<double>(n);
    for (int64_t c = 0; c < n; ++c) {
      const double mine = c == k ? own : q[c] == 0.0 ? 0.0 : q[c] * derivatives[0][c];
      const double theirs = c == k ? rest : (rest + own) - mine;
      const double without = c == k ? others : 1.0 - p[c];
      double g = without == 0.0 ? 0.0 : mine * without;
      if (p[c] != 0.0) g += p[c] * (lse_sum - theirs);
      if (job.statistics[2]) g += (n == 1 ? 0.0 : share - p[c]) * mean_sum;
      dz[c] = g * scale;
    }
  }
  if (dt)
    for (int64_t c = 0; c < n; ++c) dt[c] = (1.0 - job.smoothing) * job.weight(c) * values[c] * scale;
  return loss.value();
}

// One row of a block through general_row, whatever its layout.
template <class T> void special_row(const Job<T>& job, int64_t j, const int64_t* offsets, Scratch<T>& s) {
  const int64_t n = job.classes, stride = job.padded;
  double* const wide = s.wide.get(10 * stride);
  double *const z = wide, *const q = wide + stride, *const dz = wide + 2 * stride, *const dt = wide + 3 * stride;
  const double smooth = job.smoothing / static_cast<double>(n), keep = 1.0 - job.smoothing;
  read_run(job.sources[kScores].dtype, row_of(job, kScores, offsets[kScores]), job.class_strides[kScores], n, z);
  double base = 0.0;
  if constexpr (sizeof(T) == 8)
    if (!job.shift.empty()) base = shift_scores(z, 1, job.shift.data(), n);
  if (job.changed) change_row(z, s.multiple[j], n), z[s.own[j]] = s.own_given[j];
  std::fill(z + n, z + stride, -infinity<double>);
  if (job.probabilities) {
    read_run(job.sources[kTarget].dtype, row_of(job, kTarget, offsets[kTarget]), job.class_strides[kTarget], n, q);
    for (int64_t c = 0; c < n; ++c) q[c] = (q[c] * keep + smooth) * job.weight(c);
  } else {
    for (int64_t c = 0; c < n; ++c) q[c] = smooth * job.weight(c);
    q[s.own[j]] += keep * job.weight(s.own[j]);
  }
  std::fill(q + n, q + stride, 0.0);
  const bool by_scores = job.gradients[0], by_target = job.gradients[1];
  s.dots[j] =
      general_row(job, z, base, q, s.scale[j], wide + 4 * stride, by_scores ? dz : nullptr, by_target ? dt : nullptr);
  if (job.changed && by_scores) {
    if (job.by_multiple()) s.by_multiple[j] = by_multiple_of(dz, z, s.multiple[j], n);
    dz[s.own[j]] *= s.slope[j];
  }
  if (by_scores) write_row(job, kScoresGradient, offsets[kScoresGradient], dz);
  if (by_target) write_row(job, kTargetGradient, offsets[kTargetGradient], dt);
  s.state[j] = kDone;
}

}  // namespace
}  // namespace losskit
