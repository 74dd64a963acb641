// Class scores, a block taken row by row: from scores to gradients.
#pragma once

#include "class_scores_steps.h"

namespace losskit {
namespace {

template <class T>
void write_gradient_row(const Job<T>& job, int64_t j, int64_t offset, const T* z, T* e, const T* q, Scratch<T>& s) {
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
  if (job.changed) {
    if (job.by_multiple()) s.by_multiple[j] = by_multiple_of(out, z, s.multiple[j], job.classes);
    out[s.own[j]] = static_cast<T>(s.own_gradient[j] * s.slope[j]);
  }
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
    const bool whole = job.relevance && job.sources[kTarget].dtype == DType::kLong;
    const int64_t* const grades = whole ? reinterpret_cast<const int64_t*>(begin(kTarget)) : nullptr;
    float* const copy = job.overwrite ? s.scores.get(job.padded) : nullptr;
    const Swift rows{begin(kScores),
                     copy,
                     soft && !grades ? begin(kTarget) : nullptr,
                     gradient        ? begin(kScoresGradient)
                     : job.relevance ? s.products.get(job.padded)
                                     : exponentials,
                     z->stride,
                     soft ? t->stride : 0,
                     gradient ? e->stride : 0,
                     job.classes,
                     gradient,
                     job.options.checks != kOff,
                     !job.plain,
                     job.by_largest && !soft};
    if (job.relevance) return ranked_rows(rows, grades, j, n, s);
    return soft ? swift_rows<true>(rows, j, n, s) : swift_rows<false>(rows, j, n, s);
  }
  return j;
}

// The share q_c of each class where targets are probabilities, and the sums of them.
template <class T> const T* read_shares(const Job<T>& job, int64_t j, const T* z, const T* t, Scratch<T>& s) {
  const T* const weights = job.own_weights.empty() ? nullptr : job.own_weights.data();
  T* const q = s.products.get(job.padded);
  if (weights || job.smoothing != 0.0) {
    row_weights(t, weights, static_cast<T>(1.0 - job.smoothing),
                static_cast<T>(job.smoothing / static_cast<double>(job.classes)), job.classes, q);
    std::fill(q + job.classes, q + job.padded, T(0));
  } else {
    std::copy(t, t + job.padded, q);
  }
  const int64_t own = s.own[j];
  s.dots[j] = row_dot(z, s.maximum[j], q, job.padded);
  const T mine = q[own];
  q[own] = 0;
  s.rest[j] = row_dot(q, T(0), static_cast<const T*>(nullptr), job.padded);
  q[own] = mine;
  s.mine[j] = double(mine);
  s.total[j] = s.rest[j] + s.mine[j];
  s.b[j] = -s.scale[j];
  return q;
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
    if (!job.shift.empty()) s.base[j] = row_shift(buffer, job.shift.data(), job.classes, s.apart.get(job.padded));
    if (job.changed) change_row(buffer, s.multiple[j], job.classes), buffer[s.own[j]] = T(s.own_given[j]);
    m = row_maximum(z, job.padded);
  }
  if (!(std::abs(m) < infinity<T>)) {
    special_row(job, j, offsets, s);
    s.uniform = false;
    return;
  }
  // The search took up to 0.18 of the rest; where it may be left out, it is for scores whose log-sum-exp may be near 0.
  if (job.by_largest && (job.probabilities || std::abs(m) < T(kAroundZero)))
    s.own[j] = static_cast<Index<T>>(row_find(z, m, job.classes));
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
    q = read_shares(job, j, z, t, s);
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
    write_gradient_row(job, j, offsets[kScoresGradient], z, e, q, s);
  }
}

// Rows of contiguous classes, one by one.
template <class T> void run_rows(Job<T>& job, int64_t begin, int64_t n, Scratch<T>& s) {
  const bool by_scores = job.gradients[0];
  Cursor cursors[kSlots];
  for (int slot = 0; slot < kSlots; ++slot)
    if (job.sources[slot].present() && (slot != kTarget || job.probabilities))
      cursors[slot].runs = &runs_of<T>(job, slot, begin, n, s.runs[slot]);
  // Exponentials go where the gradient will be, if possible; else to a buffer, of one row if no formula comes between.
  const bool direct = by_scores && job.class_strides[kScoresGradient] == 1 &&
                      job.sources[kScoresGradient].dtype == kOwn<T> && job.padded == job.classes;
  const int64_t buffered = job.plain ? 1 : n;
  T* const exponentials = !by_scores ? s.exponentials.get(kChunk + kLanes)
                          : direct   ? nullptr
                                     : s.exponentials.get(buffered * job.padded);
  int64_t offsets[kSlots] = {}, gradient_rows[kRows];
  const auto exponentials_of = [&](int64_t j) {
    if (direct) return reinterpret_cast<T*>(row_of(job, kScoresGradient, gradient_rows[j]));
    return by_scores && !job.plain ? exponentials + j * job.padded : exponentials;
  };
  for (int64_t j = 0; j < n; ++j) {
    const int64_t first = j;
    j = try_swift(job, j, n, exponentials, s);
    for (int64_t k = first; k < j && by_scores; ++k) gradient_rows[k] = cursors[kScoresGradient].offset(k);
    if (j == n) break;
    if (job.relevance) job.declined = true;  // nothing else makes probabilities of it
    if (job.relevance) return;
    for (int slot = 0; slot < kSlots; ++slot)
      if (cursors[slot].runs) offsets[slot] = cursors[slot].offset(j);
    gradient_rows[j] = offsets[kScoresGradient];
    run_row(job, j, offsets, exponentials_of(j), s);
  }
  if (!job.plain || !job.sources[kUpstream].present()) evaluate(job, n, s);
  if (by_scores && !job.plain) {
    coefficients(s, n, false);
    add_extra(s, n);
    for (int64_t j = 0; j < n; ++j)
      if (s.state[j] == kCounts)
        write_gradient_row<T>(job, j, gradient_rows[j], nullptr, exponentials_of(j), nullptr, s);
  }
}

}  // namespace
}  // namespace losskit
