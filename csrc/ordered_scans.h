// Running sums along a list in order: of all elements before or after one, and of those that are tied with it.
//
// 1. `tied` says of each element whether it is tied with the one before it: 1 or 0, a factor of what is carried along.
//    A branch there would be mispredicted at every other element, which takes longer than all arithmetic.
// 2. Elements are taken four at a time, so that what is carried along waits for one addition in four elements.
// 3. Nothing is subtracted from a sum: a sum without the own exponential is that of those before plus that of those
//    after.
#pragma once

#include "ordered.h"

namespace losskit {
namespace {

// What comes after each element.
LOSSKIT_CLONES inline void sums_after(const double* x, int64_t n, double* out) {
  double rest = 0.0;
  int64_t k = n;
  for (; k >= 4; k -= 4) {
    const double last = x[k - 1], two = last + x[k - 2], three = two + x[k - 3], four = three + x[k - 4];
    out[k - 1] = rest, out[k - 2] = rest + last, out[k - 3] = rest + two, out[k - 4] = rest + three;
    rest += four;
  }
  for (; k > 0; --k) {
    out[k - 1] = rest;
    rest += x[k - 1];
  }
}

// What comes before each element.
LOSSKIT_CLONES inline void sums_before(const double* x, int64_t n, double* out) {
  double sum = 0.0;
  int64_t k = 0;
  for (; k + 4 <= n; k += 4) {
    const double one = x[k], two = one + x[k + 1], three = two + x[k + 2], four = three + x[k + 3];
    out[k] = sum, out[k + 1] = sum + one, out[k + 2] = sum + two, out[k + 3] = sum + three;
    sum += four;
  }
  for (; k < n; ++k) {
    out[k] = sum;
    sum += x[k];
  }
}

// y(k) = factor(k) y(k - 1) + term(k) for k from 1 to n - 1, where y(0) is `carry`; each y is given.
template <class Factor, class Term, class Give>
LOSSKIT_INLINE void recur(double carry, int64_t n, const Factor& factor, const Term& term, const Give& give) {
  int64_t k = 1;
  for (; k + 4 <= n; k += 4) {
    const double one = factor(k), two = factor(k + 1), three = factor(k + 2), four = factor(k + 3);
    const double a = term(k), b = two * a + term(k + 1), c = three * b + term(k + 2), d = four * c + term(k + 3);
    const double to_two = one * two, to_three = to_two * three, to_four = to_three * four;
    give(k, a + one * carry), give(k + 1, b + to_two * carry), give(k + 2, c + to_three * carry);
    carry = d + to_four * carry;
    give(k + 3, carry);
  }
  for (; k < n; ++k) {
    carry = term(k) + factor(k) * carry;
    give(k, carry);
  }
}

// Add to `out` what comes before each element in its tie.
LOSSKIT_CLONES inline void add_tied_before(const double* x, const double* tied, int64_t n, double* out) {
  recur(
      0.0, n, [=](int64_t k) __attribute__((always_inline)) { return tied[k]; },
      [=](int64_t k) __attribute__((always_inline)) { return tied[k] * x[k - 1]; },
      [=](int64_t k, double y) __attribute__((always_inline)) { out[k] += y; });
}

// Add to `out` what comes after each element in its tie.
LOSSKIT_CLONES inline void add_tied_after(const double* x, const double* tied, int64_t n, double* out) {
  const double *const last = x + n - 1, *const tie = tied + n;
  double* const to = out + n - 1;
  recur(
      0.0, n, [=](int64_t k) __attribute__((always_inline)) { return tie[-k]; },
      [=](int64_t k) __attribute__((always_inline)) { return tie[-k] * last[1 - k]; },
      [=](int64_t k, double y) __attribute__((always_inline)) { to[-k] += y; });
}

// In each tie: the first `y`, and from there on that and what comes before an element.
LOSSKIT_CLONES inline void from_first_of_tie(const double* x, const double* tied, int64_t n, double* y) {
  recur(
      y[0], n, [=](int64_t k) __attribute__((always_inline)) { return tied[k]; },
      [=](int64_t k) __attribute__((always_inline)) { return tied[k] * x[k - 1] + (1.0 - tied[k]) * y[k]; },
      [=](int64_t k, double sum) __attribute__((always_inline)) { y[k] = sum; });
}

// In each tie: the last `y`, and up to there that and what comes after an element.
LOSSKIT_CLONES inline void from_last_of_tie(const double* x, const double* tied, int64_t n, double* y) {
  const double *const last = x + n - 1, *const tie = tied + n;
  double* const to = y + n - 1;
  recur(
      to[0], n, [=](int64_t k) __attribute__((always_inline)) { return tie[-k]; },
      [=](int64_t k) __attribute__((always_inline)) { return tie[-k] * last[1 - k] + (1.0 - tie[-k]) * to[-k]; },
      [=](int64_t k, double sum) __attribute__((always_inline)) { to[-k] = sum; });
}

// --------------------------------------------------------------------------------------------------------
// Efron's method: the event at place l of d events of a tie counts 1 - l/d of each of them

// x of the events, and of the others.
LOSSKIT_CLONES inline void parted(const double* x, const double* event, int64_t n, double* of_events, double* others) {
#pragma GCC ivdep
  for (int64_t k = 0; k < n; ++k) {
    of_events[k] = event[k] * x[k];
    others[k] = (1.0 - event[k]) * x[k];
  }
}

// In place of the number of events before an element in its tie, and of those after it, what the element keeps.
LOSSKIT_CLONES inline void kept_of(const double* event, const double* after, int64_t n, double* before) {
#pragma GCC ivdep
  for (int64_t k = 0; k < n; ++k) before[k] = 1.0 - event[k] * before[k] / (before[k] + after[k] + 1.0);
}
LOSSKIT_CLONES inline void add_products(const double* x, const double* y, int64_t n, double* out) {
#pragma GCC ivdep
  for (int64_t k = 0; k < n; ++k) out[k] += x[k] * y[k];
}
LOSSKIT_CLONES inline void products(const double* x, const double* y, int64_t n, double* out) {
#pragma GCC ivdep
  for (int64_t k = 0; k < n; ++k) out[k] = x[k] * y[k];
}
LOSSKIT_CLONES inline void chosen(const double* event, const double* of_event, int64_t n, double* out) {
#pragma GCC ivdep
  for (int64_t k = 0; k < n; ++k) out[k] = event[k] != 0.0 ? of_event[k] : out[k];
}

// The sums after each element, of which an event leaves a part of its tied events out. more: memory for n elements.
inline void sums_of_efron(const double* e, const double* event, const double* tied, int64_t n, double* others,
                          double* kept, double* const* more) {
  double *const before = kept, *const after = more[0], *const of_events = more[1], *const of_others = more[2];
  std::fill(before, before + n, 0.0);
  std::fill(after, after + n, 0.0);
  add_tied_before(event, tied, n, before);
  add_tied_after(event, tied, n, after);
  kept_of(event, after, n, kept);

  parted(e, event, n, of_events, of_others);
  sums_after(e, n, others);
  from_last_of_tie(of_others, tied, n, others);
  add_tied_before(of_others, tied, n, others);
  double* const of_tied = more[0];
  std::fill(of_tied, of_tied + n, 0.0);
  add_tied_before(of_events, tied, n, of_tied);
  add_tied_after(of_events, tied, n, of_tied);
  add_products(kept, of_tied, n, others);
}

// What shares take from each element: an event has parts of its tied events taken only.
inline void takings_of_efron(const double* taken, const double* kept, const double* event, const double* tied,
                             int64_t n, double* before, double* const* more) {
  double *const parts = more[0], *const of_event = more[1];
  sums_before(taken, n, before);
  std::copy(before, before + n, of_event);
  products(kept, taken, n, parts);
  from_first_of_tie(parts, tied, n, of_event);
  add_tied_after(parts, tied, n, of_event);
  add_tied_after(taken, tied, n, before);
  chosen(event, of_event, n, before);
}

}  // namespace
}  // namespace losskit
