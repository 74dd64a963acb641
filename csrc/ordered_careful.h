// Lists whose scores are so far apart that their exponentials leave double: those of the distance to the largest score
// from the element on. One element after another, and one tie after another, for such lists are rare.
#pragma once

#include "ordered.h"

namespace losskit {
namespace {

LOSSKIT_INLINE double power_of(double a, double b) {
  if (a == b) return 1.0;  // infinities, too
  const double power = std::exp(a - b), error = rounded_off(a, b, a - b);
  return std::isfinite(error) ? power + power * error : power;
}

// A list of n elements in order. e: scores, which become exponentials. event, tied: see ListArrays.
struct FarApart {
  double* e;
  const double *event, *tied;
  bool efron;
  int64_t n;

  // Writes what comes after each element, what it keeps of itself, the largest score from it on and the distance to it.
  void sums(double* others, double* kept, double* tops, double* distances) const {
    double rest = 0.0, top = -infinity<double>;
    for (int64_t end = n, begin; end > 0; end = begin) {
      begin = end - 1;
      while (tied && tied[begin] != 0.0) --begin;
      const double highest = std::max(top, *std::max_element(e + begin, e + end));
      rest *= power_of(top, highest);
      top = highest;
      for (int64_t k = begin; k < end; ++k) {
        distances[k] = e[k] == top ? 0.0 : e[k] - top;
        e[k] = power_of(e[k], top);
        tops[k] = top;
      }
      double of_others = 0.0, of_events = 0.0, before = 0.0;
      int64_t many = 0, place = 0;
      for (int64_t k = end - 1; k >= begin; --k) {
        if (event && event[k] == 0.0) {
          of_others += e[k];
          continue;
        }
        others[k] = of_events;
        of_events += e[k];
        ++many;
      }
      for (int64_t k = begin; k < end; ++k) {
        kept[k] = 1.0;
        if (event && event[k] == 0.0) {
          others[k] = 1.0;  // of what has no share, anything but 0 / 0
          continue;
        }
        if (efron) kept[k] = 1.0 - static_cast<double>(place++) / static_cast<double>(many);
        others[k] = rest + of_others + kept[k] * (others[k] + before);
        before += e[k];
      }
      rest += of_others + of_events;
    }
  }

  // What shares take from each element, in exponentials of the element.
  void takings(const double* taken, const double* kept, const double* tops, double* out) const {
    double carry = 0.0;
    for (int64_t begin = 0, end; begin < n; begin = end) {
      end = begin + 1;
      while (tied && end < n && tied[end] != 0.0) ++end;
      if (begin > 0) carry *= power_of(tops[begin], tops[begin - 1]);
      double all = 0.0, after = 0.0, before = 0.0;
      for (int64_t k = begin; k < end; ++k) all += taken[k];
      for (int64_t k = end - 1; k > begin; --k) after += kept[k] * taken[k];
      for (int64_t k = begin; k < end; ++k) {
        out[k] = carry + (event && event[k] == 0.0 ? all : before + after);
        before += kept[k] * taken[k];
        if (k + 1 < end) after -= kept[k + 1] * taken[k + 1];
      }
      carry += all;
    }
  }
};

}  // namespace
}  // namespace losskit
