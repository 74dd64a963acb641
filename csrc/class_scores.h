// What the files of the class-scores family share: a call, the memory of a block, and the exponential that keeps its
// digits.
//
// 1. e_c = exp(z_c) 2^(lift - K), with K = round(m / ln 2) of the row's maximum m: the power of two goes into the
//    exponent that the range reduction forms anyway, so nothing is subtracted from z_c and nothing is rounded. Where
//    |m| > kNear, z_c - m is formed with its rounding error instead ("far").
// 2. Exponentials are scaled up by 2^lift. They then stay normal numbers down to 2^-150 of the maximum and below, so
//    even subnormal gradients keep their digits, which a large upstream gradient may bring back. Anything smaller, and
//    exp(-inf), is 0.
// 3. The entry of one class (the target; the maximum where targets are probabilities or a formula speaks of none) stays
//    out of the sum: its gradient is minus the sum of the others', and its loss log1p(others / own), neither of which
//    cancels.
// 4. Sums: a few numbers in T, then double (two-sums for double), so that 256k classes cost no digit.
// 5. Loops are templates with clones, one instance per type that calls them: GCC makes the clones of an instance.
//
// Words of these files:
//   block        rows that are computed together, kRows at most; a Scratch holds their numbers
//   row          the contiguous classes of one position, computed alone (class_scores_rows.h)
//   tile         positions side by side, computed class by class (class_scores_tile.h)
//   run          positions of a block that lie one stride apart in memory
//   pivot        the maximum that a row's exponentials are relative to, with K and the lift (notes 1, 2)
//   magic        adding it to z log2(e) rounds to an integer, and adds lift - K
//   near, far    the maximum is within kNear, or the row needs the subtraction of note 1
//   excluded     the class outside of the sum (note 3): `own` is its index, `mine` its weight, `kept` its exponential
//   others, rest the sums of the other classes' exponentials, and of their weights
//   lost         the rounding error of a sum of doubles, added at its end
//   faint        an excluded class whose exponential is too small to divide by
//   swift        one pass for ordinary rows of floats (`swift_rows`)
//   narrow, wide numbers in T; arithmetic in double where T would lose digits
//   general      the slow row that takes any formula and any scores (class_scores_general.h)
//   changed      a formula makes the own class's score, and all are multiplied by a number (class_scores_changed.h)
#pragma once

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <type_traits>

#include "drive.h"
#include "primitives.h"
#include "vectors.h"

namespace losskit {
namespace {

// Positions of the sources: scores and target are operands; the gradients lie where the other operands would.
enum { kScores, kTarget, kScoresGradient, kTargetGradient, kSlots };
enum { kMultiple = kSlots };           // of changed scores, where it is an operand
constexpr int kMultiplePosition = 2;   // among the operands
constexpr int64_t kRows = 512;         // in a block, at most
constexpr int64_t kTileBytes = 16384;  // a tile and its exponentials share the L1 cache
constexpr int64_t kRowClasses = 64;    // contiguous classes, at least, that are taken row by row; fewer make tiles

using enum wire::class_scores::Violation;
enum State { kCounts = 0, kMasked = 1, kBad = 2, kDone = 4 };  // kDone: general_row has written it all

template <class T> constexpr DType kOwn = sizeof(T) == 4 ? DType::kFloat : DType::kDouble;

// --------------------------------------------------------------------------------------------------------
// A call

template <class T> struct Job : Call {
  static constexpr size_t kFirstParameter = wire::class_scores::kFirstParameter;
  int64_t classes = 0, padded = 0, ignore_index = -100, block_rows = 1;
  int64_t class_strides[kSlots] = {};
  bool probabilities = false, plain = false, picked = false, by_row = false, swift = false, changed = false;
  double multiple = 1.0;              // of changed scores, where it is no operand
  std::vector<double> made;           // what the formula of the own class's score takes of each class
  bool overwrite = false;             // the gradient is written over the scores
  bool relevance = false;             // the softmax of the target is the probabilities, where `ranked_rows` does it
  std::atomic<bool> declined{false};  // it did not
  bool statistics[3] = {};  // which are operands of the formula: log_probability, log_sum_exp, mean_log_probability;
  int places[3] = {};       // and which operand each of them is
  bool by_largest = false;  // the excluded class is the largest one, not the target
  double smoothing = 0.0, total_weight = 0.0;
  T slack = 0;                  // of probabilities beyond 0 and 1
  std::vector<double> weights;  // of the classes; empty if there are none
  std::vector<T> own_weights, shift;

  bool read(const Inputs& in);
  void outputs(const Inputs& in, Result& result);
  double counted() const;
  Work divide();
  bool odd() const;
  bool general() const { return !plain && (probabilities || smoothing != 0.0); }
  bool copied(int slot) const { return slot == kScores && (changed || overwrite || !shift.empty()); }
  bool by_multiple() const { return gradients[kMultiplePosition] != nullptr; }
  double weight(int64_t c) const { return weights.empty() ? 1.0 : weights[c]; }
};

struct Free {
  void operator()(void* p) const { std::free(p); }
};
// Numbers that are allocated when they are first needed.
template <class T> struct Buffer {
  std::unique_ptr<T, Free> data;
  int64_t size = 0;
  T* get(int64_t n) {
    if (n > size) {
      const int64_t bytes = (n * sizeof(T) + 127) & ~int64_t(63);
      data.reset(static_cast<T*>(std::aligned_alloc(64, bytes)));
      size = data ? n : 0;
      if (!data) throw std::bad_alloc();
    }
    return data.get();
  }
};

// The positions of a block in a tensor, as runs of one stride.
struct Runs {
  int64_t count, stride;
  int64_t offsets[kRows], lengths[kRows];
};

template <class T> struct Scratch : Weights {
  alignas(64) double others[kRows];  // sum of the exponentials without the excluded class's
  alignas(64) double total[kRows];  // Q: sum of the weights of the log-probabilities, or minus the formula's derivative
  alignas(64) double rest[kRows];   // Q without the excluded class
  alignas(64) double mine[kRows];   // the excluded class's part of Q
  alignas(64) double dots[kRows];   // sum of q_c (z_c - m)
  alignas(64) double lost[kRows], dots_lost[kRows], rest_lost[kRows];  // what rounding took from sums, if T is double
  alignas(64) double logs[kRows];                                      // log-probability of the excluded class
  alignas(64) double scale[kRows];                                     // of the row's gradient
  alignas(64) double extra[kRows];  // derivative by log_sum_exp less that by the mean
  alignas(64) double a[kRows], b[kRows], own_gradient[kRows], row_weight[kRows];
  alignas(64) double offset[kRows];  // Pivot's; of tiles only after offsets()
  alignas(64) double base[kRows];    // what shift_scores took from the scores, 0 without a shift
  alignas(64) double own_given[kRows], slope[kRows], multiple[kRows];  // of changed scores
  alignas(64) double by_multiple[kRows];                               // the gradient
  alignas(64) T kept[kRows], maximum[kRows], magic[kRows], limit[kRows], own_score[kRows];
  alignas(64) T narrow_a[kRows], narrow_b[kRows], narrow_own[kRows];
  alignas(64) T largest[kRows], at_score[kRows], at_shift[kRows];  // of the sums of scores and their shift
  alignas(64) T values[kRows], operands[3][kRows], derivatives[3][kRows];
  alignas(64) Index<T> own[kRows];
  alignas(64) Bits<T> keep[kRows];
  int64_t indices[kRows];
  Index<T> state[kRows];
  bool uniform;  // all rows of the block count
  Runs runs[kSlots];
  // Whether the excluded class's exponential is too small for a quotient.
  bool faint(int64_t j) const { return double(kept[j]) < others[j] * 0x1p-512; }
  Buffer<T> scores, target, exponentials, products, apart;
  Buffer<double> wide;
};

// Replaces z by the shifted scores less the largest one, and returns that. The sum z_c + s_c would round the shift to
// the score's digits, so this is (z_c - z_p) + (s_c - s_p). Without a finite maximum nothing is subtracted.
template <class T> double shift_scores(T* z, int64_t step, const T* shift, int64_t classes) {
  const auto largest = [&](const auto& at) {
    int64_t place = -1;
    for (int64_t c = 0; c < classes; ++c)
      if (const T x = at(c); x > (place < 0 ? -std::numeric_limits<T>::infinity() : at(place))) place = c;
    return place;
  };
  int64_t p = largest([&](int64_t c) { return z[c * step] + shift[c]; });
  const bool finite = p >= 0 && std::isfinite(z[p * step] + shift[p]);
  if (finite) p = largest([&, q = p](int64_t c) { return (z[c * step] - z[q * step]) + (shift[c] - shift[q]); });
  const T score = finite ? z[p * step] : T(0), own = finite ? shift[p] : T(0);
  for (int64_t c = 0; c < classes; ++c) z[c * step] = (z[c * step] - score) + (shift[c] - own);
  return double(score) + double(own);
}

template <class T> LOSSKIT_CLONES void change_row(T* z, double multiple, int64_t classes) {
  for (int64_t c = 0; c < classes; ++c) z[c] = T(z[c] * multiple);
}

// The gradient by the multiple m, from those by the scores m x, times m; the own class's is not yet times its slope.
template <class T> LOSSKIT_CLONES double by_multiple_of(const T* g, const T* z, double multiple, int64_t classes) {
  double sum = 0;
  for (int64_t c = 0; c < classes; ++c) sum += g[c] == 0 ? 0.0 : double(g[c]) * double(z[c]);
  return sum / (multiple * multiple);
}

// --------------------------------------------------------------------------------------------------------
// Exponentials of a row

template <class T> struct Lift;
template <> struct Lift<float> {
  static constexpr int bits = 64;
  static constexpr float depth = 130.0f;  // z_c < m - depth counts as exp(z_c) = 0
};
template <> struct Lift<double> {
  static constexpr int bits = 256;
  static constexpr double depth = 880.0;
};
constexpr double kNear = 100.0;         // n ln2_hi is exact for |z| up to kNear + depth
constexpr double kAroundZero = 0.0625;  // a row whose maximum is nearer may have a log-sum-exp next to 0

template <class T> constexpr T kRound = T(3 * (Bits<T>(1) << (Format<T>::mantissa - 1)));
template <class T> constexpr double kLiftLog = Lift<T>::bits * 0.6931471805599453;

// The reference of a row's exponentials.
template <class T> struct Pivot {
  T maximum, magic, limit;
  double offset;  // the logarithm of the unit of e_c, less the maximum
};

// K is read back from the magic number: computed a second time, it might be rounded differently.
template <class T> LOSSKIT_INLINE double near_offset(T m, T magic) {
  const double k = double(T(Lift<T>::bits) - (magic - kRound<T>));
  return (k * Format<T>::ln2_hi - double(m)) + (k * Format<T>::ln2_lo - kLiftLog<T>);
}

template <class T, bool far> LOSSKIT_INLINE Pivot<T> pivot(T m) {
  constexpr T lift = T(Lift<T>::bits);
  if constexpr (far) return {m, kRound<T> + lift, -Lift<T>::depth, -kLiftLog<T>};
  const T k = (m * log2_e<T> + kRound<T>)-kRound<T>;
  const T magic = kRound<T> + (lift - k);
  return {m, magic, m - Lift<T>::depth, near_offset(m, magic)};
}

// As primitives.h's exp, with the pivot's power of two; in float without its compensation of 1 + r (1.0 ULP, not 0.75).
template <class T, bool far> LOSSKIT_INLINE T lifted_exp(T z, T m, T magic, T limit) {
  using F = Format<T>;
  T x = z, low = 0;
  if constexpr (far) {
    x = z - m;
    const T seen = x - z;
    low = (z - (x - seen)) - (m + seen);
  }
  const T t = x * log2_e<T> + magic;
  const T n = t - magic;
  const T r = x - n * F::ln2_hi;
  T q = r - n * F::ln2_lo;
  if constexpr (far) q += low;
  T y;
  if constexpr (std::is_same_v<T, float>) {
    y = 1 + (q + exp_tail(q));
  } else {  // its sums have no wider type to hide in
    const T s = 1 + r;
    T tail = exp_tail(q) - n * F::ln2_lo;
    if constexpr (far) tail += low;
    y = s + ((r - (s - 1)) + tail);
  }
  const Bits<T> e = bits(y) + (bits(t) << F::mantissa);
  return from_bits<T>(e & ~-Bits<T>(x < limit));
}

}  // namespace
}  // namespace losskit
