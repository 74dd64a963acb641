// Class scores, steps of a block that rows and tiles share: which targets count, log-probabilities and the formula of
// them, coefficients of the gradient, losses.
#pragma once

#include "class_scores_general.h"

namespace losskit {
namespace {

// A weight times a term; a weight of 0 silences an infinite term.
LOSSKIT_INLINE double silenced(double weight, double term) {
  return weight == 0.0 && absolute(term) == infinity<double> ? 0.0 : weight * term;
}

// Log-probability of the excluded class; true if one is too faint for a quotient, or 0.
template <class T> LOSSKIT_CLONES bool log_probabilities(Scratch<T>& s, int64_t n) {
  int64_t zero = 0;
  for (int64_t j = 0; j < n; ++j) zero |= double(s.kept[j]) < s.others[j] * 0x1p-512;
  for (int64_t j = 0; j < n; ++j) s.logs[j] = -log1p(s.others[j] / double(s.kept[j]));
  return zero != 0;
}

// Sets own (y, or 0 if y is no class) and state; returns whether rows are masked (1) or bad (2).
template <class T>
LOSSKIT_CLONES int classify(const int64_t* y, const float* mask, int64_t classes, int64_t ignore, int64_t n,
                            Scratch<T>& s) {
  int64_t found = 0;
  for (int64_t j = 0; j < n; ++j) {
    const int64_t outside = static_cast<uint64_t>(y[j]) >= static_cast<uint64_t>(classes);
    const int64_t masked = y[j] == ignore;
    const int64_t state = masked | ((outside & ~masked) << 1);
    s.own[j] = static_cast<Index<T>>(y[j] & (outside - 1));
    s.state[j] = static_cast<Index<T>>(state);
    found |= state;
  }
  if (!mask) return static_cast<int>(found);
  found = 0;
  for (int64_t j = 0; j < n; ++j) {
    s.state[j] = mask[j] == 0.0f ? Index<T>(kMasked) : s.state[j];
    found |= s.state[j];
  }
  return static_cast<int>(found);
}

// Losses of index targets, nothing masked, nothing smoothed. A weight of 0 silences an infinite term, as a share does.
template <class T> LOSSKIT_CLONES void plain_losses(Scratch<T>& s, const double* factor, int64_t n) {
  for (int64_t j = 0; j < n; ++j) {
    const double loss = silenced(s.row_weight[j], -s.logs[j]);
    s.values[j] = static_cast<T>(loss * (factor ? factor[j] : 1));
  }
}

// The coefficient a of the gradient e_c a, and the gradient of the excluded class.
template <class T> LOSSKIT_CLONES void coefficients(Scratch<T>& s, int64_t n, bool with_rest) {
  for (int64_t j = 0; j < n; ++j) {
    const double inverse = s.scale[j] / (s.others[j] + double(s.kept[j]));
    s.a[j] = s.total[j] * inverse;
    s.own_gradient[j] =
        with_rest ? (s.rest[j] * double(s.kept[j]) - s.mine[j] * s.others[j]) * inverse : -(s.a[j] * s.others[j]);
  }
}

// What log_sum_exp and the mean add to the coefficients.
template <class T> LOSSKIT_CLONES void add_extra(Scratch<T>& s, int64_t n) {
  for (int64_t j = 0; j < n; ++j) {
    const double more = s.extra[j] * s.scale[j] / (s.others[j] + double(s.kept[j]));
    s.a[j] += more;
    s.own_gradient[j] += double(s.kept[j]) * more + s.b[j];
  }
}

// Coefficients in T; true if one of them has lost digits.
template <class T> LOSSKIT_CLONES bool narrow_coefficients(Scratch<T>& s, int64_t n) {
  constexpr double least = 16.0 * double(std::numeric_limits<T>::min());
  int64_t lost = 0;
  for (int64_t j = 0; j < n; ++j) {
    lost |= int64_t(s.a[j] != 0.0) & int64_t(absolute(s.a[j]) < least);
    s.narrow_a[j] = static_cast<T>(s.a[j]);
    s.narrow_b[j] = static_cast<T>(s.b[j]);
    s.narrow_own[j] = static_cast<T>(s.own_gradient[j]);
  }
  return lost != 0;
}

// How many targets count, if there are no weights.
LOSSKIT_CLONES int64_t count_targets(const int64_t* y, int64_t ignore, int64_t n) {
  int64_t count = 0;
  for (int64_t j = 0; j < n; ++j) count += y[j] != ignore;
  return count;
}

// Q and its two parts, `mine` and `rest`, for index targets.
template <class T> LOSSKIT_INLINE void index_weights(const Job<T>& job, int64_t j, Scratch<T>& s) {
  const double smooth = job.smoothing / static_cast<double>(job.classes);
  s.rest[j] = smooth * (job.total_weight - s.row_weight[j]);
  s.mine[j] = (1.0 - job.smoothing + smooth) * s.row_weight[j];
  s.total[j] = s.rest[j] + s.mine[j];
  s.b[j] = -smooth * s.scale[j];
}

// Log-probabilities of the excluded classes, and the formula's derivatives in place of the weights.
template <class T> void evaluate(const Job<T>& job, int64_t n, Scratch<T>& s) {
  if (log_probabilities(s, n)) {
    for (int64_t j = 0; j < n; ++j)
      if (s.faint(j) && s.state[j] == kCounts)
        s.logs[j] = double(s.own_score[j]) - double(s.maximum[j]) - (std::log(s.others[j]) + s.offset[j]);
  }
  if (job.plain) return;
  const T* operands[kOperands] = {};
  T* out[kOperands] = {};
  for (int k = 0; k < 3; ++k) {
    if (!job.statistics[k]) continue;
    for (int64_t j = 0; j < n; ++j) {
      const double lse = double(s.own_score[j]) - s.logs[j];
      if (k == 0) s.operands[k][j] = static_cast<T>(s.logs[j]);
      if (k == 1)
        s.operands[k][j] =
            static_cast<T>(s.base[j] + (s.faint(j) ? std::log(s.others[j]) + s.offset[j] + s.maximum[j] : lse));
      if (k == 2)
        s.operands[k][j] =
            static_cast<T>(s.dots[j] / static_cast<double>(job.classes) -
                           (s.faint(j) ? std::log(s.others[j]) + s.offset[j] : lse - double(s.maximum[j])));
    }
    operands[job.places[k]] = s.operands[k];
    out[job.places[k]] = s.derivatives[k];
  }
  const int all = (1 << job.kernel->operands) - 1;
  const int variant = !job.gradients[0] ? kNone : all & ~job.kernel->predictions ? kAll : kPredictions;
  run_formula(job, variant, n, operands, 1.0, s.values, out);
  if (!job.gradients[0]) return;
  for (int64_t j = 0; j < n; ++j) {
    const double w = s.row_weight[j];
    const double by_lse = job.statistics[1] ? w * s.derivatives[1][j] : 0.0;
    const double by_mean = job.statistics[2] ? w * s.derivatives[2][j] : 0.0;
    s.total[j] = job.statistics[0] ? -w * s.derivatives[0][j] : 0.0;
    s.rest[j] = 0.0;
    s.extra[j] = by_lse - by_mean;
    s.b[j] = by_mean / static_cast<double>(job.classes) * s.scale[j];
  }
}

// The losses of the rows, weighed and rounded once.
template <class T> void losses(const Job<T>& job, int64_t n, const double* factor, Scratch<T>& s) {
  const double smooth = job.smoothing / static_cast<double>(job.classes);
  if (s.uniform && job.plain && !job.probabilities && job.smoothing == 0.0) return plain_losses(s, factor, n);
  for (int64_t j = 0; j < n; ++j) {
    double loss = 0.0;
    if (s.state[j] == kCounts) {
      if (!job.plain) {
        loss = silenced(s.row_weight[j], double(s.values[j]));
      } else if (job.probabilities) {
        loss = silenced(s.total[j], -s.logs[j]) - s.dots[j];
      } else {
        loss = silenced((1.0 - job.smoothing) * s.row_weight[j], -s.logs[j]);
        if (job.smoothing != 0.0) {
          const double logarithm = s.faint(j) ? std::log(s.others[j]) + s.offset[j]
                                              : (double(s.own_score[j]) - double(s.maximum[j])) - s.logs[j];
          loss += smooth * (job.total_weight * logarithm - s.dots[j]);
        }
      }
    } else if (s.state[j] == kDone) {
      loss = s.dots[j];
    } else if (s.state[j] == kBad) {
      loss = not_a_number<double>;
    }
    if (factor && s.state[j] != kMasked) loss *= factor[j];
    s.values[j] = static_cast<T>(loss);
  }
}

}  // namespace
}  // namespace losskit
