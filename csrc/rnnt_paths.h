// The transducer loss, the ways through the lattice: forward to the loss, and backward to the posteriors of arcs.
#pragma once

#include "rnnt.h"

namespace losskit {
namespace {

// Take the largest v of a diagonal out of all, and return it.
LOSSKIT_INLINE double centre(double* v, int64_t low, int64_t end) {
  const double most = largest(v + low, end - low);
  if (!(std::abs(most) < infinity<double>)) return 0;
  each(low, end, [&](int64_t u) __attribute__((always_inline)) { v[u] -= most; });
  return most;
}

// exp(x) for x <= 0; 0 where it would be subnormal, which costs a hundred times as much.
LOSSKIT_INLINE double normal_exp(double x) { return where(x < -708, 0.0, exp_nabs(x)); }

// Two masses, each relative to the larger of them; none where both are impossible.
struct Shares {
  double most, first, second;
  bool by_first, none;
};
LOSSKIT_INLINE Shares shares_of(double a, double ra, double b, double rb) {
  const bool by_first = a >= b;
  const double most = where(by_first, a, b), less = normal_exp(a == b ? 0.0 : 0 - absolute(a - b));
  const double x = (1 + ra) * where(by_first, 1.0, less), y = (1 + rb) * where(by_first, less, 1.0);
  return {most, x, y, by_first, most == -infinity<double>};
}
LOSSKIT_INLINE double rest_of(const Shares& of, double ra, double rb) {
  return where(of.none, 0.0, where(of.by_first, ra + of.second, rb + of.first));
}

// Forward through the lattice: the loss.
template <class T> LOSSKIT_INLINE double forward(const Sample<T>& sample) {
  const int64_t diagonals = sample.diagonals();
  double* v = sample.v + kLanes;
  double* r = sample.r + kLanes;
  v[0] = r[0] = 0;
  Sum taken;
  for (int64_t d = 1; d < diagonals; ++d) {
    const double *blank = sample.blank + (d - 1) * sample.stride + kLanes,
                 *label = sample.label + (d - 1) * sample.stride + kLanes;
    double *new_v = v + sample.stride, *new_r = r + sample.stride;
    const int64_t low = sample.low(d), end = sample.end(d);
    each(low, end, [=](int64_t u) __attribute__((always_inline)) {
      const Shares of = shares_of(v[u] + blank[u], r[u], v[u - 1] + label[u - 1], r[u - 1]);
      new_v[u] = of.most;
      new_r[u] = rest_of(of, r[u], r[u - 1]);
    });
    v = new_v, r = new_r;
    if (d % 64 == 0) fold({v + low, r + low}, end - low);
    taken.add(centre(v, low, end));
  }
  const int64_t last = sample.labels;
  taken.add(v[last]);
  taken.add(sample.blank[sample.at(sample.frames - 1, last)]);
  taken.add(std::log1p(r[last]));
  return 0 - taken.value();
}

// Backward through the lattice: leaves the gradients of blanks and labels in their place, and in `rest` what multiplies
// the exponentials of the others.
template <class T> LOSSKIT_INLINE void backward(const Sample<T>& sample) {
  const Job& job = sample.job;
  const int64_t stride = sample.stride, last = sample.diagonals();
  std::vector<double> rows(7 * stride, -infinity<double>);
  double *v = rows.data() + kLanes, *r = v + stride, *new_v = r + stride, *new_r = new_v + stride;
  double *by_blank = new_r + stride, *by_label = by_blank + stride,
         *mass = by_label + stride;  // shares of both arcs of a node
  std::fill_n(r - kLanes, stride, 0.0), std::fill_n(new_r - kLanes, stride, 0.0);
  v[sample.labels] = 0;
  const bool softmax = job.softmax();
  const double emission = job.emission, own = softmax ? 1 : 0;  // of log-probabilities, no other class has a gradient
  for (int64_t d = last - 1; d >= 0; --d) {
    const int64_t low = sample.low(d), end = sample.end(d), row = d * stride + kLanes;
    double *blank = sample.blank + row, *label = sample.label + row, *rest = sample.rest + row;
    const double *alpha = sample.v + row, *alpha_r = sample.r + row;
    std::fill_n(new_v - kLanes, stride, -infinity<double>);
    each(low, end, [=](int64_t u) __attribute__((always_inline)) {
      const Shares of = shares_of(v[u] + blank[u], r[u], v[u + 1] + label[u], r[u + 1]);
      new_v[u] = of.most;
      new_r[u] = rest_of(of, r[u], r[u + 1]);
      by_blank[u] = where(of.none, 0.0, of.first / (of.first + of.second));
      by_label[u] = where(of.none, 0.0, of.second / (of.first + of.second));
    });
    if (d % 64 == 0) fold({new_v + low, new_r + low}, end - low);
    centre(new_v, low, end);
    each(low, end, [=](int64_t u) __attribute__((always_inline)) { mass[u] = alpha[u] + new_v[u]; });
    const double most = largest(mass + low, end - low);
    double lanes[kLanes] = {};
    for (int64_t i = low; i < end; i += kLanes) {
#pragma GCC ivdep
      for (int64_t k = 0; k < kLanes; ++k) {
        const int64_t u = i + k;
        mass[u] = normal_exp(mass[u] - most) * (1 + alpha_r[u]) * (1 + new_r[u]);
        lanes[k] += mass[u];
      }
    }
    const double inverse = 1 / sum_lanes(lanes);
    const double *of_blank = sample.of_blank + row, *of_label = sample.of_label + row, *lift = sample.lift + row;
    each(low, end, [=](int64_t u) __attribute__((always_inline)) {
      const double on = mass[u] * inverse;
      const double blanks = on * by_blank[u], labels = emission * (on * by_label[u]);
      const double e = exp_nabs(of_blank[u]), f = exp_nabs(of_label[u]);
      const double unit = 1 / (1 + rest[u]);
      const double left = unit * (rest[u] + (1 - e)), right = unit * (rest[u] + (1 - f));  // 1 - p of both
      blank[u] = unit * e * labels * own - blanks * where(softmax, left, 1.0);
      label[u] = unit * f * blanks * own - labels * where(softmax, right, 1.0);
      rest[u] = (blanks + labels) * unit * own * lift[u];
    });
    std::swap(v, new_v), std::swap(r, new_r);
  }
}

}  // namespace
}  // namespace losskit
