// A softmax whose other classes are compensated: the score of a class that is rarer than the label's is lowered by p
// times the logarithm of their ratio, and of a class with more probability than the label raised by q times that of
// theirs. Minus the logarithm of the label's probability, and its gradient by the scores, for which both are constants.
//
// 1. Rows lie side by side, a vector of them for each class, so that rows of ten classes fill vectors: one by one, they
//    took as long as in torch's operations.
// 2. All is in double. The logarithm of a near label's probability is that of what the others have.
// 3. Ratios of counts are multiplied, for their logarithms would be rounded in the exponent, where that costs 4 ULP.
//    Only powers that could leave double are added there.
// 4. Rows are independent: the same bits for any number of threads.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <vector>

#include "drive.h"
#include "primitives.h"
#include "transpose.h"

namespace losskit {
namespace {

constexpr double kLeast = -4.605170185988091;  // the logarithm of what the label has at least, where it divides: 0.01
constexpr double kFarthest = 60.0;             // logarithms of powers; a sum of exponentials may be as small as they

constexpr int64_t kSideBySide = 8, kChunk = 16;  // rows at least; classes between additions to a sum

template <class T> struct Rows {
  const T* scores;               // (N, size)
  const int64_t* index;          // (N,): the labels
  const double *raised, *power;  // (size,): p times the logarithms of counts or 0; and the counts to the power p or 1
  int64_t size, many, together;
  double q;
  T *loss, *gradient;  // (N,), (N, size)
};

// What is larger; NaN where the second is.
LOSSKIT_INLINE double larger(double a, double b) { return a > b ? a : b; }

// a + b, and what rounding took from it (Knuth's two-sum); nothing where that is not finite.
struct Exact {
  double sum, lost;
};
LOSSKIT_INLINE Exact added(double a, double b) {
  const double sum = a + b, seen = sum - a, lost = (a - (sum - seen)) + (b - seen);
  return {sum, lost == lost ? lost : 0.0};
}

// Rows side by side: `step` of them, the last ones of which may be padding. Arrays are (size, step), or (step,).
template <class T> struct Side {
  int64_t size, step;
  std::vector<T> scores, gradient;
  std::vector<double> memory;
  std::vector<int64_t> label;
  double *e, *lost, *top, *own, *least, *of_least, *often, *total, *others;

  Side(int64_t size, int64_t step)
      : size(size), step(step), scores(size * step), gradient(size * step), memory((2 * size + 7) * step), label(step) {
    double* next = memory.data();
    for (double** array : {&top, &own, &least, &of_least, &often, &total, &others}) *array = next, next += step;
    e = next, lost = next + size * step;
  }
  double& own_of(double* of_classes, int64_t r) { return of_classes[label[r] * step + r]; }
};

LOSSKIT_CLONES void exponentials(double* x, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) x[i] = exp(x[i]);
}

LOSSKIT_CLONES void add_classes(const double* x, int64_t size, int64_t step, double* total) {
  for (int64_t r = 0; r < step; r += kSideBySide) {
    double sum[kSideBySide] = {};
    for (int64_t first = 0; first < size; first += kChunk) {
      double part[kSideBySide] = {};
      for (int64_t c = first; c < std::min(first + kChunk, size); ++c)
        for (int64_t i = 0; i < kSideBySide; ++i) part[i] += x[c * step + r + i];
      for (int64_t i = 0; i < kSideBySide; ++i) sum[i] += part[i];
    }
    for (int64_t i = 0; i < kSideBySide; ++i) total[r + i] = sum[i];
  }
}

// The scores less the largest of a row.
template <class T>
LOSSKIT_CLONES void subtract_largest(const T* x, int64_t size, int64_t step, double* top, double* out) {
  for (int64_t r = 0; r < step; ++r) top[r] = static_cast<double>(x[r]);
  for (int64_t c = 1; c < size; ++c)
    for (int64_t r = 0; r < step; ++r) top[r] = larger(static_cast<double>(x[c * step + r]), top[r]);
  for (int64_t c = 0; c < size; ++c)
#pragma GCC ivdep
    for (int64_t r = 0; r < step; ++r) out[c * step + r] = static_cast<double>(x[c * step + r]) - top[r];
}

// The logarithm of what a class's exponential is compared with, from the sum of a row, and what rounding took from it.
LOSSKIT_CLONES void find_least(const double* top, const double* total, const double* own, int64_t step, double* least,
                               double* of_least) {
#pragma GCC ivdep
  for (int64_t r = 0; r < step; ++r) {
    const Exact whole = added(top[r], log(total[r])), floor = added(whole.sum, kLeast);
    least[r] = larger(own[r], floor.sum);
    of_least[r] = own[r] > floor.sum ? 0.0 : whole.lost + floor.lost;
  }
}

// A class's compensated scores, and what rounding took from them.
template <class T>
LOSSKIT_CLONES void compensate(const T* x, const double* least, const double* of_least, const double* often,
                               double raised, double q, int64_t step, double* out, double* lost) {
#pragma GCC ivdep
  for (int64_t r = 0; r < step; ++r) {
    const double score = static_cast<double>(x[r]), rarer = raised - often[r];
    const Exact ahead = added(score, -least[r]);
    const Exact changed = added(score, q * larger(0.0, ahead.sum) + (rarer < 0.0 ? rarer : 0.0));
    out[r] = changed.sum;
    lost[r] = changed.lost + (ahead.sum > 0.0 ? q * (ahead.lost - of_least[r]) : 0.0);
  }
}
LOSSKIT_CLONES void subtract_largest(int64_t size, int64_t step, double* x, double* lost, double* top) {
  std::copy(x, x + step, top);
  for (int64_t c = 1; c < size; ++c)
    for (int64_t r = 0; r < step; ++r) top[r] = larger(x[c * step + r], top[r]);
  for (int64_t c = 0; c < size; ++c)
#pragma GCC ivdep
    for (int64_t r = 0; r < step; ++r) {
      const Exact below = added(x[c * step + r], -top[r]);
      x[c * step + r] = below.sum;
      lost[c * step + r] += below.lost;
    }
}

// A class's exponentials, times the ratio of its counts to those of the label, of which `often` has the inverse.
LOSSKIT_CLONES void mitigate(const double* lost, const double* often, double power, int64_t step, double* e) {
#pragma GCC ivdep
  for (int64_t r = 0; r < step; ++r) {
    const double ratio = power * often[r];
    e[r] = (e[r] + e[r] * lost[r]) * (ratio < 1.0 ? ratio : 1.0);
  }
}

// From the sums of the other classes, and the label's exponentials in `total`: losses; in their place what the others
// have of the whole, and the inverse of that.
LOSSKIT_CLONES void find_losses(const double* top, const double* own, int64_t step, double* others, double* total,
                                double* losses) {
#pragma GCC ivdep
  for (int64_t r = 0; r < step; ++r) {
    const double whole = others[r] + total[r], rest = others[r] / whole;
    const double near = -log1p(-rest), far = log(whole) + (top[r] - own[r]);
    losses[r] = rest < 0.5 ? near : far;
    others[r] = rest;
    total[r] = 1.0 / whole;
  }
}

template <class T>
LOSSKIT_CLONES void write_shares(const double* e, const double* inverse, int64_t size, int64_t step, T* out) {
  for (int64_t c = 0; c < size; ++c)
#pragma GCC ivdep
    for (int64_t r = 0; r < step; ++r) out[c * step + r] = static_cast<T>(e[c * step + r] * inverse[r]);
}

template <class T> void run_block(const Rows<T>& batch, int64_t first, int64_t n, Side<T>& s) {
  const int64_t size = s.size, step = s.step;
  rows_to_tile(batch.scores + first * size, size, n, size, s.scores.data(), step);
  for (int64_t r = 0; r < step; ++r) {
    s.label[r] = r < n ? batch.index[first + r] : 0;
    s.own[r] = static_cast<double>(s.scores[s.label[r] * step + r]);
    s.often[r] = batch.raised[s.label[r]];
  }
  subtract_largest(s.scores.data(), size, step, s.top, s.e);
  exponentials(s.e, size * step);
  add_classes(s.e, size, step, s.total);
  find_least(s.top, s.total, s.own, step, s.least, s.of_least);
  for (int64_t c = 0; c < size; ++c)
    compensate(s.scores.data() + c * step, s.least, s.of_least, s.often, batch.raised[c], batch.q, step, s.e + c * step,
               s.lost + c * step);
  for (int64_t r = 0; r < step; ++r) s.own_of(s.e, r) = s.own[r], s.own_of(s.lost, r) = 0.0;
  subtract_largest(size, step, s.e, s.lost, s.top);
  exponentials(s.e, size * step);
  for (int64_t r = 0; r < step; ++r) {
    const double mine = s.own_of(s.e, r);
    s.total[r] = mine + mine * s.own_of(s.lost, r);
    s.own_of(s.e, r) = 0.0;
    s.often[r] = 1.0 / batch.power[s.label[r]];
  }
  for (int64_t c = 0; c < size; ++c) mitigate(s.lost + c * step, s.often, batch.power[c], step, s.e + c * step);
  add_classes(s.e, size, step, s.others);
  find_losses(s.top, s.own, step, s.others, s.total, s.least);
  for (int64_t r = 0; r < n; ++r) batch.loss[first + r] = static_cast<T>(s.least[r]);
  write_shares(s.e, s.total, size, step, s.gradient.data());
  for (int64_t r = 0; r < n; ++r) s.gradient[s.label[r] * step + r] = static_cast<T>(-s.others[r]);
  tile_to_rows(s.gradient.data(), step, n, size, batch.gradient + first * size, size);
}

template <class T> void run_rows(int64_t begin, int64_t end, void* context) {
  const Rows<T>& batch = *static_cast<const Rows<T>*>(context);
  Side<T> side(batch.size, batch.together);
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * batch.together;
    run_block(batch, first, std::min(batch.together, batch.many - first), side);
  }
}

template <class T>
void of_type(const StableTensor& scores, const StableTensor& index, const StableTensor& counts, double p, double q,
             StableTensor& loss, StableTensor& gradient) {
  const int64_t many = scores.sizes()[0], size = scores.sizes()[1];
  const T* const given = static_cast<const T*>(counts.data_ptr());
  std::vector<double> raised(size), power(size, 1.0);
  double most = 0.0;
  for (int64_t c = 0; c < size; ++c) {
    raised[c] = p * log(static_cast<double>(given[c]));
    most = larger(std::fabs(raised[c]), most);
  }
  if (most < kFarthest) {
    for (int64_t c = 0; c < size; ++c) power[c] = std::pow(static_cast<double>(given[c]), p);
    std::fill(raised.begin(), raised.end(), 0.0);
  }
  const int64_t together = std::max<int64_t>(1, kBlock / size / kSideBySide) * kSideBySide;
  Rows<T> batch{static_cast<const T*>(scores.data_ptr()),
                static_cast<const int64_t*>(index.data_ptr()),
                raised.data(),
                power.data(),
                size,
                many,
                together,
                q,
                static_cast<T*>(loss.data_ptr()),
                static_cast<T*>(gradient.data_ptr())};
  const int64_t blocks = (many + together - 1) / together;
  run_parallel(blocks, std::max<int64_t>(1, kGrain / (8 * together * size)), run_rows<T>, &batch);
}

}  // namespace

// Scores (N, C), contiguous, float or double; labels (N,), int64, within the rows; how often there is each class, (C,)
// of the dtype of the scores. The losses (N,) are filled in, and the gradient (N, C).
void compensated_share(StableTensor scores, StableTensor index, StableTensor counts, double p, double q,
                       StableTensor loss, StableTensor gradient) {
  if (scores.element_size() == sizeof(double))
    of_type<double>(scores, index, counts, p, q, loss, gradient);
  else
    of_type<float>(scores, index, counts, p, q, loss, gradient);
}

}  // namespace losskit

STABLE_TORCH_LIBRARY_FRAGMENT(losskit, library) {
  library.def(
      "compensated_share(Tensor scores, Tensor index, Tensor counts, float p, float q, Tensor(a!) loss, "
      "Tensor(b!) gradient) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(losskit, CPU, library) {
  library.impl("compensated_share", TORCH_BOX(&losskit::compensated_share));
}
