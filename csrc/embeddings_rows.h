// Embeddings, the rows of a block: their statistics, and after the formula their gradients, each row on its way.
#pragma once

#include "embeddings.h"

namespace losskit {
namespace {

// --------------------------------------------------------------------------------------------------------
// The careful way of a row

LOSSKIT_CLONES void measure_row(const Job& job, const double* const* x, int64_t i, Rows& rows) {
  for (int k = 0; k < kPairs; ++k) {
    if (!job.pairs[k]) continue;
    rows.distances[k][i] = distance_of(x[kFirst[k]], x[kSecond[k]], job.width, job.p, job.eps);
    rows.measured[k][i] = rows.distances[k][i].value;
  }
  if (job.cosine) {
    const Cosine cosine = rows.cosines[i] = cosine_of(x[0], x[1], job.width);
    rows.cosine[i] = cosine.value;
    rows.apart[i] = cosine.value > 0 ? cosine.complement : 1.0 - cosine.value;
  }
}

LOSSKIT_CLONES void differentiate_row(const Job& job, const double* const* x, int64_t i, const Rows& rows,
                                      double* const* out) {
  if (job.cosine) return cosine_gradients(rows.cosines[i], rows.by_cosine[i], job.width, x[0], x[1], out[0], out[1]);
  for (int k = 0; k < job.embeddings; ++k) std::fill(out[k], out[k] + job.width, 0.0);
  for (int k = 0; k < kPairs; ++k)
    if (job.pairs[k] && rows.by_pair[k][i] != 0.0)
      add_distance_gradient(x[kFirst[k]], x[kSecond[k]], job.width, job.p, job.eps, rows.distances[k][i],
                            rows.by_pair[k][i], out[kFirst[k]], out[kSecond[k]]);
}

// A row of floats as doubles.
void widen_row(const Job& job, int64_t i, Scratch<float>& scratch, const double** x) {
  for (int k = 0; k < job.embeddings; ++k) {
    scratch.wide[k].resize(job.width);
    read_run(DType::kFloat, scratch.x[k][i], 1, job.width, scratch.wide[k].data());
    x[k] = scratch.wide[k].data();
  }
}

void measure_row(const Job& job, int64_t i, Scratch<float>& scratch) {
  const double* x[kEmbeddings];
  widen_row(job, i, scratch, x);
  measure_row(job, x, i, scratch);
}

void differentiate_row(const Job& job, int64_t i, Scratch<float>& scratch, float* const* out) {
  const double* x[kEmbeddings];
  double* wide[kEmbeddings];
  widen_row(job, i, scratch, x);
  for (int k = 0; k < job.embeddings; ++k) {
    scratch.wide_gradients[k].resize(job.width);
    wide[k] = scratch.wide_gradients[k].data();
  }
  differentiate_row(job, x, i, scratch, wide);
  for (int k = 0; k < job.embeddings; ++k) write_run(DType::kFloat, wide[k], job.width, out[k]);
}

// --------------------------------------------------------------------------------------------------------
// The statistics of a block

// Prefetches the memory of a row's gradients while its sums wait for their operands.
LOSSKIT_INLINE void prefetch_gradients(const Job& job, int64_t i, const Scratch<float>& scratch) {
  if (!job.options.gradients || job.width > kBlockElements) return;
  for (int k = 0; k < job.embeddings; ++k)
    for (int64_t e = 0; e < job.width; e += 16) __builtin_prefetch(scratch.gradients[k] + i * scratch.stride[k] + e, 1);
}

// Where rows i to i + 7 start; past the end the last row stands in.
LOSSKIT_INLINE void find_eight(const Job& job, int64_t i, int64_t n, const Scratch<float>& scratch, Eight* x) {
  for (int k = 0; k < job.embeddings; ++k)
    for (int j = 0; j < kLanes; ++j) x[k][j] = scratch.x[k][std::min(i + j, n - 1)];
}

template <class Terms>
LOSSKIT_INLINE void sum_rows(const Job& job, int64_t n, const Terms& terms, Scratch<float>& scratch) {
  double* const sums[] = {scratch.measured[0], scratch.measured[1], scratch.measured[2]};
  for (int64_t i = 0; job.eights && i < n; i += kLanes) {
    Eight x[kEmbeddings];
    find_eight(job, i, n, scratch, x);
    sum_eight(x, job.width, terms, sums, i);
  }
  for (int64_t i = 0; !job.eights && i < n; ++i) {
    prefetch_gradients(job, i, scratch);
    const float* const x[] = {scratch.x[0][i], scratch.x[1][i], scratch.x[job.embeddings - 1][i]};
    sum_row(x, job.width, terms, sums, i);
  }
}

template <bool squares> LOSSKIT_INLINE void measure_distances(const Job& job, int64_t n, Scratch<float>& scratch) {
  const float eps = static_cast<float>(job.eps);
  if (job.pairs[kBC])
    sum_rows(job, n, Differences<3, squares>{eps}, scratch);
  else if (job.pairs[kAC])
    sum_rows(job, n, Differences<2, squares>{eps}, scratch);
  else
    sum_rows(job, n, Differences<1, squares>{eps}, scratch);
  // The usual way needs sums far from the ends of the range, and so large that the rounding of eps does not show.
  const double floor = static_cast<double>(job.width) * (squares ? 64.0 * job.eps * job.eps : 8.0 * std::fabs(job.eps));
  const double least = std::fmax(floor, 1e-25);
  for (int k = 0; k < kPairs; ++k) {
    if (!job.pairs[k]) continue;
    double* const value = scratch.measured[k];
    for (int64_t i = 0; i < n; ++i) {
      const double sum = value[i];
      scratch.careful[i] |= !((sum > least) & (sum < 1e35));
      value[i] = squares ? sqrt(sum) : sum;
    }
  }
}

LOSSKIT_INLINE void measure_cosines(const Job& job, int64_t n, Scratch<float>& scratch) {
  sum_rows(job, n, Products{}, scratch);
  for (int64_t i = 0; i < n; ++i) {
    const double squares = scratch.measured[0][i] * scratch.measured[1][i];
    const double quotient = scratch.measured[2][i] / sqrt(where(squares == 0.0, 1.0, squares));  // 0 of a zero vector
    const double cosine = clamp(quotient, -1.0, 1.0);
    scratch.cosine[i] = cosine;
    scratch.apart[i] = 1.0 - cosine;
    scratch.careful[i] = scratch.apart[i] < 1e-6;
  }
}

LOSSKIT_CLONES void measure_usual(const Job& job, Scratch<float>& scratch, int64_t n) {
  if (job.cosine)
    measure_cosines(job, n, scratch);
  else if (job.p == 2.0)
    measure_distances<true>(job, n, scratch);
  else
    measure_distances<false>(job, n, scratch);
}

void measure(const Job& job, Scratch<float>& scratch, int64_t n) {
  std::fill(scratch.careful, scratch.careful + n, !job.usual);
  if (job.usual) measure_usual(job, scratch, n);
  for (int64_t i = 0; i < n; ++i)
    if (scratch.careful[i]) measure_row(job, i, scratch);
}

void measure(const Job& job, Scratch<double>& scratch, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const double* const x[] = {scratch.x[0][i], scratch.x[1][i], scratch.x[job.embeddings - 1][i]};
    measure_row(job, x, i, scratch);
  }
}

// --------------------------------------------------------------------------------------------------------
// The gradients of a block

// Whether arithmetic in float neither overflows nor underflows.
LOSSKIT_INLINE bool ordinary(double coefficient) {
  return std::fabs(coefficient) > 1e-25 && std::fabs(coefficient) < 1e25;
}

LOSSKIT_INLINE void distance_gradients(const Job& job, int64_t i, Scratch<float>& scratch, const float* const* x,
                                       float* const* out) {
  bool usual = !scratch.careful[i];
  float by[kPairs];
  for (int k = 0; k < kPairs; ++k) {
    usual &= scratch.by_pair[k][i] == 0.0 || ordinary(scratch.by[k][i]);
    by[k] = static_cast<float>(scratch.by[k][i]);
  }
  if (!usual) {
    for (int k = 0; k < kPairs; ++k)
      if (!scratch.careful[i]) scratch.distances[k][i].value = scratch.measured[k][i];
    differentiate_row(job, i, scratch, out);
  } else if (job.p == 2.0) {
    combine<true>(job.pairs[kAC], x, job.width, static_cast<float>(job.eps), by, out);
  } else {
    combine<false>(job.pairs[kAC], x, job.width, static_cast<float>(job.eps), by, out);
  }
}

LOSSKIT_INLINE void cosine_gradients(const Job& job, int64_t i, const Scratch<float>& scratch, const float* const* x,
                                     float* const* out) {
  const double c = scratch.cosine[i], both = scratch.by[0][i], sx = scratch.by[1][i], sy = scratch.by[2][i];
  if (std::fabs(c) < 0.6 && std::fabs(scratch.by_cosine[i]) > 1e-20 && ordinary(sx) && ordinary(sy))
    turn<float>(x, job.width, static_cast<float>(both), static_cast<float>(c * sx), static_cast<float>(c * sy), out);
  else
    turn<double>(x, job.width, both, c * sx, c * sy, out);
}

LOSSKIT_INLINE void differentiate_eights(const Job& job, Scratch<float>& scratch, int64_t n) {
  const auto place = [&](int k, int64_t i) LOSSKIT_LAMBDA { return scratch.gradients[k] + i * scratch.stride[k]; };
  float spare[kLanes];  // for rows past the end
  for (int64_t i = 0; i < n; i += kLanes) {
    Eight x[kEmbeddings];
    float* out[kEmbeddings][kLanes];
    find_eight(job, i, n, scratch, x);
    for (int k = 0; k < job.embeddings; ++k)
      for (int j = 0; j < kLanes; ++j) out[k][j] = i + j < n ? place(k, i + j) : spare;
    const Lanes by[kPairs] = {eight(scratch.by[0] + i), eight(scratch.by[1] + i), eight(scratch.by[2] + i)};
    if (job.cosine)
      turn_eight(x, job.width, eight(scratch.by_cosine + i), eight(scratch.cosine + i), by, out);
    else if (job.pairs[kAC])
      combine_eight<true>(x, job.width, job.p == 2.0, job.eps, by, out);
    else
      combine_eight<false>(x, job.width, job.p == 2.0, job.eps, by, out);
  }
  for (int64_t i = 0; i < n && !job.cosine; ++i) {
    if (!scratch.careful[i] || scratch.flat(i)) continue;
    float* const out[] = {place(0, i), place(1, i), place(job.embeddings - 1, i)};
    differentiate_row(job, i, scratch, out);
  }
}

LOSSKIT_INLINE void find_coefficients(const Job& job, Scratch<float>& scratch, int64_t n) {
  for (int64_t i = 0; job.cosine && i < n; ++i) {
    const double slope = scratch.by_cosine[i], xx = scratch.measured[0][i], yy = scratch.measured[1][i];
    const bool zero = xx * yy == 0.0;  // then the cosine is 0, whatever the other is
    scratch.by[0][i] = slope * where(zero, 0.0, 1.0 / sqrt(xx * yy));
    scratch.by[1][i] = slope * where(zero, 0.0, 1.0 / xx);
    scratch.by[2][i] = slope * where(zero, 0.0, 1.0 / yy);
  }
  for (int k = 0; k < kPairs && !job.cosine; ++k)
    for (int64_t i = 0; i < n; ++i) {
      const double slope = scratch.by_pair[k][i];
      scratch.by[k][i] = where(slope == 0.0, 0.0, job.p == 2.0 ? slope / scratch.measured[k][i] : slope);
    }
}

template <class T> LOSSKIT_INLINE void differentiate_any(const Job& job, Scratch<T>& scratch, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const T* x[kEmbeddings];
    T* out[kEmbeddings];
    for (int k = 0; k < job.embeddings; ++k) {
      x[k] = scratch.x[k][i];
      out[k] = scratch.gradients[k] + i * scratch.stride[k];
    }
    if (scratch.flat(i)) {
      for (int k = 0; k < job.embeddings; ++k) std::fill(out[k], out[k] + job.width, T(0));  // whatever x is
    } else if constexpr (sizeof(T) == 8) {
      differentiate_row(job, x, i, scratch, out);
    } else if (job.cosine) {
      cosine_gradients(job, i, scratch, x, out);
    } else {
      distance_gradients(job, i, scratch, x, out);
    }
  }
}
LOSSKIT_CLONES void differentiate(const Job& job, Scratch<float>& scratch, int64_t n) {
  if (job.usual) find_coefficients(job, scratch, n);
  if (job.eights)
    differentiate_eights(job, scratch, n);
  else
    differentiate_any(job, scratch, n);
}
void differentiate(const Job& job, Scratch<double>& scratch, int64_t n) { differentiate_any(job, scratch, n); }

}  // namespace
}  // namespace losskit
