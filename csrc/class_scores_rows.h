// Class scores, loops over the classes of one row, which are contiguous and kLanes or more (padded).
//
// 1. Sums and maxima: see vectors.h.
// 2. The last vector of exponentials overlaps the one before instead of running element by element.
// 3. Nearly all calls are cross entropy of floats. `swift_rows` computes them in one pass: a row stays in L1 from its
//    maximum to its gradient, and the next row is fetched during its exponentials. It stops at the first unusual row
//    and leaves that row to the caller.
#pragma once

#include "class_scores.h"
#include "vectors.h"

namespace losskit {
namespace {

template <class T> LOSSKIT_CLONES void row_apart(const T* z, const T* shift, T score, T own, int64_t n, T* to) {
  for (int64_t c = 0; c < n; ++c) to[c] = (z[c] - score) + (shift[c] - own);
}

// As shift_scores, in loops that vectorise; `to` has room for the row.
template <class T> double row_shift(T* z, const T* shift, int64_t n, T* to) {
  row_apart(z, shift, T(0), T(0), n, to);
  T m = row_maximum(to, n), score = 0, own = 0;
  const bool finite = std::abs(m) < infinity<T>;
  // Once from the largest sum, and again where another is larger by less than the sum's digits.
  for (int time = 0; time < 2 && finite && (time == 0 || m > 0); ++time) {
    const int64_t p = row_find(to, m, n);
    score = z[p], own = shift[p];
    row_apart(z, shift, score, own, n, to);
    m = row_maximum(to, n);
  }
  std::copy(to, to + n, z);
  return double(score) + double(own);
}

// e_c for a chunk; returns their sum. The entry `own`, if here, goes to `kept` instead.
template <class T, bool far>
LOSSKIT_CLONES double row_exp(const T* z, int64_t n, const Pivot<T>& p, int64_t own, T* e, T* kept) {
  const T m = p.maximum, magic = p.magic, limit = p.limit;
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t at = std::min(i, n - kLanes);
#pragma GCC ivdep
    for (int64_t k = 0; k < kLanes; ++k) e[at + k] = lifted_exp<T, far>(z[at + k], m, magic, limit);
  }
  if (own >= 0 && own < n) {
    *kept = e[own];
    e[own] = 0;
  }
  return chunk_sum<T>(n, [e](int64_t i, Vector<T>& v) __attribute__((always_inline)) { load(e + i, v); });
}

// Sum of (z_c - m) q_c (q: 1 where null, so that m = 0 makes it the sum of z). A weight of 0 removes an infinite score.
template <class T> LOSSKIT_CLONES double row_dot(const T* z, T m, const T* q, int64_t n) {
  Sum total;
  for (int64_t i = 0, length; i < n; i += length) {
    length = chunk_of(n - i);
    const T *x = z + i, *w = q ? q + i : nullptr;
    const auto plain = [x, m](int64_t k, Vector<T>& v) __attribute__((always_inline)) { load(x + k, v), v -= m; };
    const auto weighted = [x, m, w](int64_t k, Vector<T>& v) __attribute__((always_inline)) {
      Vector<T> factor;
      load(x + k, v), load(w + k, factor);
      v = factor == Vector<T>{} ? Vector<T>{} : factor * (v - m);
    };
    total.add(q ? chunk_sum<T>(length, weighted) : chunk_sum<T>(length, plain));
  }
  return total.value();
}

// e_c a + b q_c (q: 1 where null), in T, or in double where a would be subnormal or the row is left out.
template <class T> LOSSKIT_CLONES void row_combine(const T* e, const T* q, T a, T b, int64_t n, T* out) {
  if (q) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) out[i] = e[i] * a + q[i] * b;
  } else {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) out[i] = e[i] * a + b;
  }
}
template <class T> void row_combine_wide(const T* e, const T* q, double a, double b, int64_t n, T* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = T(double(e[i]) * a + (q ? double(q[i]) : 1.0) * b);
}

template <class T> LOSSKIT_CLONES bool row_outside(const T* t, T slack, int64_t n) {
  Index<T> bad = 0;
  for (int64_t c = 0; c < n; ++c) bad |= (t[c] < -slack) | (t[c] > T(1) + slack);
  return bad != 0;
}

template <class T> LOSSKIT_CLONES void row_weights(const T* t, const T* w, T keep, T smooth, int64_t n, T* q) {
  if (w)
    for (int64_t c = 0; c < n; ++c) q[c] = (t[c] * keep + smooth) * w[c];
  else
    for (int64_t c = 0; c < n; ++c) q[c] = t[c] * keep + smooth;
}

// (logarithm - (z_c - m)) w_c scale
template <class T>
LOSSKIT_CLONES void row_losses(const T* z, T m, T logarithm, const T* w, double scale, int64_t n, T* out) {
  for (int64_t c = 0; c < n; ++c) out[c] = T(double(logarithm - (z[c] - m)) * (w ? double(w[c]) : 1.0) * scale);
}

// --------------------------------------------------------------------------------------------------------
// Rows of floats, in place: plain cross entropy, and the exponentials of a formula without the mean

struct Swift {
  const float* z;
  float* copy;     // of a row, where its gradient is written over it; else null
  const float* t;  // probabilities; null for indices
  float* e;        // the gradient, or, where it is not wanted, room for a chunk
  int64_t z_step, t_step, e_step, classes;
  bool gradient, checked;
  bool later;       // the gradient is made of the exponentials later, by a formula
  bool by_largest;  // the excluded class of a row whose scores are near 0 is the largest one
};

// A row's sums without the excluded class, its smallest and largest probability, and the next row's largest score.
struct SwiftSums {
  double others = 0.0, dots = 0.0, rest = 0.0;
  float kept = 0.0f, low = 0.0f, high = 0.0f, next = -infinity<float>;
};

// A chunk's part of the sums, in one of two accumulators.
struct SwiftPartials {
  Vector<float> others = {}, dots = {}, rest = {}, low = {}, high = {}, next = Vector<float>{} - infinity<float>;
};

// 16 entries from `at` on, of which those before `from` were counted already.
template <bool soft, bool overlap>
LOSSKIT_INLINE void swift_step(const float* z, const float* next, const float* t, float* e, const Pivot<float>& p,
                               int64_t own, int64_t at, int64_t from, SwiftPartials& partial) {
  const float m = p.maximum, magic = p.magic, limit = p.limit;
  z += at, e += at, own -= at;
#pragma GCC ivdep
  for (int k = 0; k < 16; ++k) e[k] = lifted_exp<float, false>(z[k], m, magic, limit);
  Vector<float> v, x;
  const Vector<float> zero = {};
  load(next + at, x), partial.next = x > partial.next ? x : partial.next;
  load(e, v);
  // The excluded class, and entries that were counted already; nearly always there is neither.
  typedef int32_t Mask __attribute__((vector_size(64)));
  const bool all = !overlap && static_cast<uint64_t>(own) >= 16;
  Mask left_out = {};
  if (!all) {
    const Mask number = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    left_out = (number == static_cast<int32_t>(own)) | (number < static_cast<int32_t>(from - at));
    v = left_out ? zero : v;
  }
  partial.others += v;
  if constexpr (soft) {
    load(t + at, v), load(z, x);
    if (!all) v = left_out ? zero : v;
    x = v * (x - m);
    partial.dots += v == zero ? zero : x;
    partial.rest += v;
    partial.low = v < partial.low ? v : partial.low;
    partial.high = v > partial.high ? v : partial.high;
  }
}

template <bool soft>
LOSSKIT_INLINE SwiftSums swift_sums(const Swift& rows, const float* z, const float* next, const float* t, float* e,
                                    const Pivot<float>& p, int64_t own) {
  SwiftSums sums;
  const int64_t classes = rows.classes;
  for (int64_t begin = 0, n; begin < classes; begin += n) {
    n = chunk_of(classes - begin);
    SwiftPartials a, b;
    const float *x = z + begin, *y = next + begin, *q = soft ? t + begin : nullptr;
    float* const to = rows.gradient ? e + begin : e;
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
      for (int64_t k = 0; k < 32; k += 16) {
        __builtin_prefetch(y + i + k + std::min(rows.z_step, kChunk));
        if (soft) __builtin_prefetch(q + i + k + rows.t_step);
        if (rows.gradient) __builtin_prefetch(to + i + k + rows.e_step, 1);
      }
      swift_step<soft, false>(x, y, q, to, p, own - begin, i, i, a);
      swift_step<soft, false>(x, y, q, to, p, own - begin, i + 16, i + 16, b);
    }
    if (i + 16 <= n) swift_step<soft, false>(x, y, q, to, p, own - begin, i, i, a), i += 16;
    if (i < n) swift_step<soft, true>(x, y, q, to, p, own - begin, n - 16, i, b);
    if (static_cast<uint64_t>(own - begin) < static_cast<uint64_t>(n)) sums.kept = to[own - begin];
    sums.others += total_of(a.others + b.others);
    const auto smaller = [](auto& u, const auto& v) __attribute__((always_inline)) { u = v < u ? v : u; };
    const auto larger = [](auto& u, const auto& v) __attribute__((always_inline)) { u = v > u ? v : u; };
    larger(a.next, b.next);
    sums.next = std::max(sums.next, folded<float>(a.next, larger));
    if constexpr (soft) {
      sums.dots += total_of(a.dots + b.dots);
      sums.rest += total_of(a.rest + b.rest);
      smaller(a.low, b.low), larger(a.high, b.high);
      sums.low = std::min(sums.low, folded<float>(a.low, smaller));
      sums.high = std::max(sums.high, folded<float>(a.high, larger));
    }
  }
  return sums;
}

// e_c a + b q_c in place; the last vector is formed before it is overwritten.
template <bool soft> LOSSKIT_INLINE void swift_combine(float* e, const float* q, float a, float b, int64_t n) {
  alignas(64) float last[16];
  const int64_t tail = n - 16;
  for (int k = 0; k < 16; ++k) last[k] = soft ? e[tail + k] * a + q[tail + k] * b : e[tail + k] * a;
  for (int64_t i = 0; i < tail; i += 16)
#pragma GCC ivdep
    for (int k = 0; k < 16; ++k) e[i + k] = soft ? e[i + k] * a + q[i + k] * b : e[i + k] * a;
  std::memcpy(e + tail, last, sizeof last);
}

// Rows from `j` on, up to the first one that is not ordinary: masked or bad, far from 0, or with a gradient so small
// that it would lose digits. Returns its number, or n.
template <bool soft> LOSSKIT_CLONES int64_t swift_rows(const Swift& rows, int64_t j, int64_t n, Scratch<float>& s) {
  constexpr double least = 16.0 * double(std::numeric_limits<float>::min());
  const int64_t classes = rows.classes;
  float next = j < n ? maximum_of(rows.z + j * rows.z_step, classes) : 0.0f;
  for (; j < n && s.state[j] == kCounts; ++j) {
    const float *z = rows.z + j * rows.z_step, *const t = soft ? rows.t + j * rows.t_step : nullptr;
    float* const e = rows.e + j * rows.e_step;
    const float m = next;
    if (!(absolute(m) <= float(kNear)) || (rows.by_largest && absolute(m) < float(kAroundZero))) return j;
    if (rows.copy) z = static_cast<const float*>(std::memcpy(rows.copy, z, classes * sizeof(float)));
    const auto unusual = [&] {  // the row is as it was
      if (rows.copy) std::memcpy(e, rows.copy, classes * sizeof(float));
      return j;
    };
    const int64_t own = soft ? first_of(z, m, classes) : s.own[j];
    const Pivot<float> p = pivot<float, false>(m);
    const SwiftSums sums = swift_sums<soft>(rows, z, rows.z + (j + 1 < n ? j + 1 : j) * rows.z_step, t, e, p, own);
    next = sums.next;
    const double mine = soft ? double(t[own]) : s.row_weight[j], total = soft ? sums.rest + mine : mine;
    if (soft && rows.checked && !(sums.low >= 0.0f && sums.high <= 1.0f && !(t[own] < 0.0f) && !(t[own] > 1.0f)))
      return unusual();
    const double inverse = s.scale[j] / (sums.others + double(sums.kept)), a = total * inverse;
    if (rows.gradient && !rows.later) {
      if (a != 0.0 && !(absolute(a) >= least)) return unusual();
      swift_combine<soft>(e, t, static_cast<float>(a), static_cast<float>(-s.scale[j]), classes);
      e[own] = static_cast<float>(soft ? (sums.rest * double(sums.kept) - mine * sums.others) * inverse
                                       : -(a * sums.others));
    }
    s.others[j] = sums.others, s.kept[j] = sums.kept;
    s.maximum[j] = m, s.own_score[j] = z[own], s.offset[j] = p.offset;
    s.dots[j] = sums.dots, s.total[j] = total;
  }
  return j;
}

// The sums of a row whose probabilities are the softmax of another one, relevance; all exponentials are kept.
struct RankedSums {
  double others = 0.0, rest = 0.0, dots = 0.0;  // rest, dots: of the exponentials of relevance
  float low = 0.0f;                             // the least relevance, or 0
};

// 16 entries from `at` on, of which those before `from` were counted already.
template <bool overlap>
LOSSKIT_INLINE void ranked_step(const float* z, const float* t, float* e, float* u, const Pivot<float>& p,
                                const Pivot<float>& of_t, int64_t own, int64_t at, int64_t from,
                                SwiftPartials& partial) {
  z += at, t += at, e += at, u += at;
#pragma GCC ivdep
  for (int k = 0; k < 16; ++k) e[k] = lifted_exp<float, false>(z[k], p.maximum, p.magic, p.limit);
#pragma GCC ivdep
  for (int k = 0; k < 16; ++k) u[k] = lifted_exp<float, false>(t[k], of_t.maximum, of_t.magic, of_t.limit);
  typedef int32_t Mask __attribute__((vector_size(64)));
  const Mask number = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  Mask left_out = number == static_cast<int32_t>(own - at);
  if constexpr (overlap) left_out |= number < static_cast<int32_t>(from - at);
  const Vector<float> zero = {};
  Vector<float> v, w, x;
  load(e, v), load(u, w), load(z, x);
  w = left_out ? zero : w;
  x = w * (x - p.maximum);
  partial.others += left_out ? zero : v;
  partial.rest += w;
  partial.dots += w == zero ? zero : x;
  load(t, v);
  partial.low = v < partial.low ? v : partial.low;
}

LOSSKIT_INLINE RankedSums ranked_sums(const Swift& rows, const float* z, const float* t, float* e, float* u,
                                      const Pivot<float>& p, const Pivot<float>& of_t, int64_t own) {
  RankedSums sums;
  for (int64_t begin = 0, n; begin < rows.classes; begin += n) {
    n = chunk_of(rows.classes - begin);
    SwiftPartials a, b;
    const float *x = z + begin, *y = t + begin;
    float *const to = e + begin, *const weights = u + begin;
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
      for (int64_t k = 0; k < 32; k += 16) {
        __builtin_prefetch(x + i + k + rows.z_step);
        if (rows.t) __builtin_prefetch(y + i + k + rows.t_step);
        if (rows.gradient) __builtin_prefetch(to + i + k + rows.e_step, 1);
      }
      ranked_step<false>(x, y, to, weights, p, of_t, own - begin, i, i, a);
      ranked_step<false>(x, y, to, weights, p, of_t, own - begin, i + 16, i + 16, b);
    }
    if (i + 16 <= n) ranked_step<false>(x, y, to, weights, p, of_t, own - begin, i, i, a), i += 16;
    if (i < n) ranked_step<true>(x, y, to, weights, p, of_t, own - begin, n - 16, i, b);
    const auto smaller = [](auto& u, const auto& v) __attribute__((always_inline)) { u = v < u ? v : u; };
    sums.others += total_of(a.others + b.others);
    sums.rest += total_of(a.rest + b.rest);
    sums.dots += total_of(a.dots + b.dots);
    smaller(a.low, b.low);
    sums.low = std::min(sums.low, folded<float>(a.low, smaller));
  }
  return sums;
}

// As swift_rows<true>, where the softmax of relevance is the probabilities: of `t`, or of `grades` where that is not
// null. `e` has room for a row, or for all where the gradient is wanted.
LOSSKIT_CLONES int64_t ranked_rows(const Swift& rows, const int64_t* grades, int64_t j, int64_t n, Scratch<float>& s) {
  constexpr double least = 16.0 * double(std::numeric_limits<float>::min());
  const int64_t classes = rows.classes;
  float *const u = s.target.get(classes), *const given = grades ? s.apart.get(classes) : nullptr;
  for (; j < n && s.state[j] == kCounts; ++j) {
    const float *const z = rows.z + j * rows.z_step, *const t = grades ? given : rows.t + j * rows.t_step;
    float* const e = rows.e + j * rows.e_step;
    if (grades) {
      const int64_t* const from = grades + j * rows.t_step;
#pragma GCC ivdep
      for (int64_t c = 0; c < classes; ++c) given[c] = static_cast<float>(from[c]);
    }
    const float m = maximum_of(z, classes), top = maximum_of(t, classes);
    if (!(absolute(m) <= float(kNear)) || !(absolute(top) <= float(kNear))) return j;
    const int64_t own = first_of(z, m, classes);
    const Pivot<float> p = pivot<float, false>(m);
    const RankedSums sums = ranked_sums(rows, z, t, e, u, p, pivot<float, false>(top), own);
    if (rows.checked && sums.low < 0.0f) return j;
    const double kept = double(e[own]), mine = double(u[own]), share = 1.0 / (sums.rest + mine);
    if (!(share > 0.0)) return j;  // of NaN
    const double inverse = s.scale[j] / (sums.others + kept), b = s.scale[j] * share;
    if (rows.gradient) {
      if (b != 0.0 && !(absolute(inverse) >= least && absolute(b) >= least)) return j;
      swift_combine<true>(e, u, static_cast<float>(inverse), static_cast<float>(-b), classes);
      e[own] = static_cast<float>((sums.rest * kept - mine * sums.others) * share * inverse);
    }
    s.others[j] = sums.others, s.kept[j] = static_cast<float>(kept);
    s.maximum[j] = m, s.own_score[j] = z[own], s.offset[j] = p.offset;
    s.dots[j] = sums.dots * share, s.total[j] = 1.0;
  }
  return j;
}

}  // namespace
}  // namespace losskit
