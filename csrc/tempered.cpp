// The normalisation of a tempered softmax: for each row of scores the shift with which the probabilities
// exp_t(score - shift) = (1 + (t - 1)(shift - score))^(1 / (1 - t)) add up to 1, for t above 1.
//
// 1. The shift is found by Newton's method on total(shift)^(1 - t) = 1, which is concave in the shift: from a total of
//    1 or more its steps stay below the root. So do steps on total(shift) = 1 itself, which is convex; they cost no
//    logarithm, and are as good near the root. A row ends when a step no longer changes it.
// 2. The largest score of a row is 0, so the search begins at 0. Rows are padded to whole lanes by scores of minus
//    infinity, whose probability is 0.
// 3. Rows are independent: one after another per thread, the same bits for any number of threads.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <vector>

#include "drive.h"
#include "primitives.h"

namespace losskit {
namespace {

constexpr int64_t kWide = 16;    // accumulators of a row
constexpr int64_t kChunk = 256;  // entries between additions in double
constexpr int64_t kRows = 8;     // of a group
constexpr int kSteps = 30;       // a bound; rows end before it

template <class T> struct Rows {
  const T* scores;  // (N, classes)
  T* shifts;        // (N,)
  int64_t classes;
  double temperature;
};

// Some rows that are searched in turn: what one waits for is the end of a chain of operations, not their number.
template <class T> struct Group {
  std::vector<T> scores;  // padded rows, one after another
  int64_t padded = 0, rows = 0;
  T shifts[kRows];
  double totals[kRows], slopes[kRows];  // of the probabilities, and of their powers t
  bool done[kRows];
};

template <class T> LOSSKIT_INLINE double sum_wide(const T* x) {
  double half[kWide / 2];
  for (int64_t k = 0; k < kWide / 2; ++k) half[k] = static_cast<double>(x[k]) + static_cast<double>(x[k + kWide / 2]);
  return ((half[0] + half[4]) + (half[1] + half[5])) + ((half[2] + half[6]) + (half[3] + half[7]));
}

template <class T> LOSSKIT_CLONES void add_up(Group<T>& group, T above, T under) {
  for (int64_t r = 0; r < group.rows; ++r) {
    if (group.done[r]) continue;
    const T* scores = group.scores.data() + r * group.padded;
    const T shift = group.shifts[r];
    double total = 0, slope = 0;
    for (int64_t begin = 0; begin < group.padded; begin += kChunk) {
      const int64_t end = std::min(begin + kChunk, group.padded);
      T totals[kWide] = {}, slopes[kWide] = {};
      for (int64_t from = begin; from < end; from += kWide) {
#pragma GCC ivdep
        for (int64_t k = 0; k < kWide; ++k) {
          const T below = (shift - scores[from + k]) * above, p = exp(log1p(below) / under);
          totals[k] += p;
          slopes[k] += p / (1 + below);  // p^t, since p^(t - 1) = 1 / (1 + below)
        }
      }
      total += sum_wide(totals), slope += sum_wide(slopes);
    }
    group.totals[r] = total, group.slopes[r] = slope;
  }
}

// A step of a row; whether it was the last.
template <class T> bool step(T& shift, double total, double slope, double t) {
  double more = (total - 1) / slope;
  if (total > 1.25) {
    const double grown = std::log(total);
    more = -std::expm1((1 - t) * grown) / (t - 1) * std::exp(t * grown) / slope;
  }
  shift = static_cast<T>(shift + more);
  return more <= 4 * static_cast<double>(std::numeric_limits<T>::epsilon()) * shift;
}

template <class T> void run_rows(int64_t begin, int64_t end, void* context) {
  const Rows<T>& batch = *static_cast<const Rows<T>*>(context);
  const double t = batch.temperature;
  const int64_t classes = batch.classes, most = classes <= 4 * kChunk ? kRows : 1;
  Group<T> group;
  group.padded = (classes + kWide - 1) / kWide * kWide;
  group.scores.assign(most * group.padded, -infinity<T>);
  for (int64_t n = begin; n < end; n += most) {
    group.rows = std::min(most, end - n);
    for (int64_t r = 0; r < group.rows; ++r) {
      std::memcpy(group.scores.data() + r * group.padded, batch.scores + (n + r) * classes, classes * sizeof(T));
      group.shifts[r] = 0, group.done[r] = false;
    }
    bool all = false;
    for (int i = 0; i < kSteps && !all; ++i) {
      add_up(group, static_cast<T>(t - 1), static_cast<T>(1 - t));
      all = true;
      for (int64_t r = 0; r < group.rows; ++r) {
        if (!group.done[r]) group.done[r] = step(group.shifts[r], group.totals[r], group.slopes[r], t);
        all = all && group.done[r];
      }
    }
    std::copy(group.shifts, group.shifts + group.rows, batch.shifts + n);
  }
}

template <class T> void of_type(const StableTensor& scores, double temperature, StableTensor& shifts) {
  const int64_t rows = scores.sizes()[0], classes = scores.sizes()[1];
  Rows<T> batch{static_cast<const T*>(scores.data_ptr()), static_cast<T*>(shifts.data_ptr()), classes, temperature};
  // A class takes about as long as 32 elements.
  run_parallel(rows, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, 32 * classes)), run_rows<T>, &batch);
}

}  // namespace

// Scores (N, C), contiguous, float or double, the largest of each row 0; the shifts (N,) are filled in.
void tempered_shift(StableTensor scores, double temperature, StableTensor shifts) {
  if (scores.element_size() == sizeof(double))
    of_type<double>(scores, temperature, shifts);
  else
    of_type<float>(scores, temperature, shifts);
}

}  // namespace losskit

STABLE_TORCH_LIBRARY_FRAGMENT(losskit, library) {
  library.def("tempered_shift(Tensor scores, float temperature, Tensor(a!) shifts) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(losskit, CPU, library) {
  library.impl("tempered_shift", TORCH_BOX(&losskit::tempered_shift));
}
