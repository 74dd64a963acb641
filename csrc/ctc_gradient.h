// CTC, the gradient of a frame, from the products of forward and backward masses.
//
// The log-softmax may be fused in. Classes of the target are exponentiated in double, the others in T: the mass on the
// others bounds the loss from below, so their relative error is all that it costs. In a frame where one class has more
// than half of the mass, its gradient is minus the sum of the other classes' gradients.
#pragma once

#include "ctc.h"

namespace losskit {
namespace {

// The frame's gradient, times `scale`, from the products in `posterior`, whose sum is `mass`.
template <class T> LOSSKIT_INLINE void write_gradient(const Sample<T>& sample, int64_t t, double mass, double scale) {
  Scratch<T>& own = sample.own;
  const Job& job = sample.job;
  const int64_t width = sample.width / kLanes * kLanes, classes = job.classes;
  const int64_t count = static_cast<int64_t>(own.classes.size());
  double* posterior = own.posterior.data();
  for (const int64_t j : own.repeated) posterior[own.first[j]] += posterior[j];
  const double inverse = 1 / mass;

  if (own.kept && t >= 4) announce(job.gradients[0], job.gradient_strides, t - 4, sample.index, classes, sizeof(T));
  Row<T> row(job, own, sample.index, t);
  T* out = row.data();
  if (!scores(job) && wire::ctc::exact_gradient(job.options.family)) {
    std::fill_n(out, classes, T(0));
    for (int64_t k = 0; k < count; ++k)
      out[own.classes[k]] = static_cast<T>(-scale * (posterior[own.where[k]] * inverse));
    return row.write();
  }

  // Probabilities of the target's classes: unit * e.
  double* e = sample.row(sample.emission, t);
  const double* distinct = own.distinct.data();
  const double unit = scores(job) ? 1 / own.total[t] : 1.0;
  double* difference = own.difference.data();
  e[0] = own.blank[t];
#pragma GCC ivdep
  for (int64_t j = 0; j < width; ++j) difference[j] = (unit * e[j] - posterior[j] * inverse) * distinct[j];
  if (unit > 0.5 && largest(e, width) * unit > 0.5) {
    // The likeliest class: p - posterior = (1 - posterior) - (1 - p) without the rounding of 1 - x.
    int64_t k = 0;
    while (!(e[k] * unit > 0.5 && distinct[k] != 0)) ++k;
    if (scores(job)) {
      difference[k] = 0;
      difference[k] = -(sum(difference, width) + own.rest[t] * unit);
    } else {
      posterior[k] = 0;
      const double x = static_cast<double>(frame_of(sample, t)[own.labels[k]]);
      difference[k] = dot(posterior, distinct, width) * inverse + std::expm1(x);
    }
  }
  e[0] = 0;
  T* narrowed = own.narrowed.data();
#pragma GCC ivdep
  for (int64_t j = 0; j < width; ++j) narrowed[j] = static_cast<T>(difference[j] * scale);

  if (!scores(job)) {
    const T* x = frame_of(sample, t);
    const T factor = static_cast<T>(scale);
#pragma GCC ivdep
    for (int64_t c = 0; c < classes; ++c) out[c] = exp(x[c]) * factor;
  } else if (own.kept) {
    const T factor = static_cast<T>(scale / own.total[t]);
    for (int64_t c = 0; c < classes; ++c) out[c] *= factor;
  } else {
    const T* x = frame_of(sample, t);
    const T most = own.most[t], factor = static_cast<T>(scale / own.total[t]);
#pragma GCC ivdep
    for (int64_t c = 0; c < classes; ++c) out[c] = exp_below(x[c], most) * factor;
  }
  const int64_t *of = own.classes.data(), *where = own.where.data();
  for (int64_t k = 0; k < count; ++k) out[of[k]] = narrowed[where[k]];
  row.write();
}

}  // namespace
}  // namespace losskit
