// What the files of the regions family share: a call, and loops over the pixels of a tile (regions.cpp explains them).
#pragma once

#include "drive.h"
#include "primitives.h"

namespace losskit {
namespace {

using wire::Activation;
using wire::Activation::kSigmoid, wire::Activation::kSoftmax;
using enum wire::regions::Violation;
using Spoken = wire::regions::Statistic;

constexpr int kSums = 4;  // of a region: see Region
constexpr int64_t kRoom =
    16384;  // bytes of a tile, all classes of some pixels: they stay in L1 with what is made of them
constexpr int64_t kLongest = 1024;                             // pixels of a tile
template <class T> using Index = std::make_signed_t<Bits<T>>;  // as wide as T, for loops with both

// Tensors that are walked by pixels.
enum { kScores, kGradient, kShares, kPixels, kTensors };

// What a pixel of probability p has to do with one of share t. `kSmaller`: both have the smaller of p and t.
enum class Measure { kProduct, kSquares, kSmaller };

// The sums of a region: p t, p (1 - t), (1 - p) t; with squares p t, p^2, t^2, (p - t)^2; of the smaller min(p, t) and
// what p and t have beyond it.
struct Region {
  Sum sums[kSums];
};

// What a region's gradient is made of: the slope by p of a pixel of the class and of another one; with squares what
// multiplies t, p and p - t; of the smaller the slope below t, above it, and there. A region that is not `alive` has no
// gradient, whatever its pixels are.
struct Slopes {
  double factors[3] = {};
  bool alive = false;
};

struct Job : Call {
  static constexpr size_t kFirstParameter = wire::regions::kFirstParameter;
  int64_t samples = 1, classes = 1, own = 1;  // own: classes that have a loss
  int64_t background = 0;                     // classes without one, before the others
  int64_t pixels_each = 1;                    // of a region
  Activation activation = Activation::kNone;
  Measure measure = Measure::kProduct;
  int64_t ignored = 0;
  bool batch = false, pooled = false, soft = false;
  bool keeps = false;  // whether the gradient's memory holds the probabilities between the passes
  DType compute = DType::kFloat;
  Walk pixels;  // of a sample, or of all of them
  std::array<Source, kTensors> tensors;
  int64_t by_sample[kTensors] = {}, by_class[kTensors] = {};
  int64_t inner = 1, outer = 1, width = 1, strips = 1, blocks = 1;  // pixels; strips of a row; blocks of a sample
  int64_t together = 1;                                             // strips of a block
  int64_t joint = 1;                                                // classes of a tile: all of them, or one
  std::vector<Region> partial;                                      // by block and class
  std::vector<uint8_t> seen;                                        // by block: whether a pixel counts
  bool summed = false;
  std::vector<Region> regions;  // by sample and class
  std::vector<uint8_t> counts;  // by unit: whether it has a loss that is not masked
  std::vector<double> pool;     // by sample and class, where classes are pooled
  std::vector<Slopes> slopes;   // by sample and class
  std::vector<double> losses;   // by unit

  int64_t units() const { return pooled ? samples : samples * own; }
  int64_t unit_of(int64_t sample, int64_t c) const { return pooled ? sample : sample * own + c; }
  bool read(const Inputs& in);
  bool read_weights(const Inputs& in);
  void outputs(const Inputs& in, Result& result);
  double counted();
  Work divide();
  void conclude() { sums.assign(1, total); }
  bool odd() const { return looks_odd; }

  Sum total;
  bool looks_odd = false;
  void add_up();
  void finish_regions();
  void evaluate();
};

// --------------------------------------------------------------------------------------------------------
// Loops over the pixels of a tile

// A probability is kept as what it lacks to 0 or to 1, the smaller of both: p up to one half, p - 1 above. So p and
// 1 - p both have their digits, in one number. -0.0 is 1.
template <class T> struct Parts {
  T p, q;  // q: 1 - p
};
template <class T, bool kept> LOSSKIT_INLINE Parts<T> parts(T v) {
  if constexpr (!kept) return {v, 1 - v};
  const T small = absolute(v), large = 1 - small;
  const auto above = static_cast<Bits<T>>(static_cast<Index<T>>(bits(v)) >> (8 * sizeof(T) - 1));  // all ones, or none
  return {from_bits<T>((bits(large) & above) | (bits(small) & ~above)),
          from_bits<T>((bits(small) & above) | (bits(large) & ~above))};
}

template <class T> LOSSKIT_CLONES void sigmoids(const T* z, int64_t n, T* to) {
  constexpr Bits<T> sign = Bits<T>(1) << (8 * sizeof(T) - 1);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const T e = exp_nabs(z[i]);
    to[i] = from_bits<T>(bits(e / (1 + e)) | (~bits(z[i]) & sign));
  }
}

// Rows of all classes. `most`, `share` and `rest` are memory: the largest score, the probability of its class and what
// this lacks to 1, the sum of the others.
template <class T>
LOSSKIT_CLONES void softmaxes(const T* z, int64_t apart, int64_t classes, int64_t n, T* to, int64_t to_apart, T* most,
                              T* share, T* rest) {
  for (int64_t i = 0; i < n; ++i) most[i] = z[i], share[i] = rest[i] = 0;
  for (int64_t c = 1; c < classes; ++c) {
    const T* const x = z + c * apart;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) most[i] = where(x[i] > most[i], x[i], most[i]);
  }
  for (int64_t c = 0; c < classes; ++c) {
    const T* const x = z + c * apart;
    T* const y = to + c * to_apart;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      const T e = exp_nabs(x[i] - most[i]);
      y[i] = e;
      share[i] += e;
      rest[i] += where(e == 1, T(0), e);
    }
  }
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    share[i] = 1 / share[i];
    rest[i] *= share[i];
  }
  for (int64_t c = 0; c < classes; ++c) {
    T* const y = to + c * to_apart;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) y[i] = where((y[i] == 1) & (share[i] > T(0.5)), -rest[i], y[i] * share[i]);
  }
}

// Zeros for the pixels that do not count.
template <class T> LOSSKIT_CLONES void drop(const T* kept, int64_t n, const T* from, T* to) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) to[i] = where(kept[i] != 0, from[i], T(0));
}

// p - t, of digits that both have.
template <class T> LOSSKIT_INLINE T difference(Parts<T> of, T t) { return where(t > T(0.5), (1 - t) - of.q, of.p - t); }

template <class T> struct Added {
  T terms[kSums];
};

template <class T, Measure measure> LOSSKIT_INLINE Added<T> added(Parts<T> of, T t) {
  if constexpr (measure == Measure::kProduct) return {{of.p * t, of.p * (1 - t), of.q * t, T(0)}};
  const T apart = difference(of, t);
  if constexpr (measure == Measure::kSquares) return {{of.p * t, of.p * of.p, t * t, apart * apart}};
  return {{minimum(of.p, t), where(apart < 0, T(0), apart), where(apart > 0, T(0), -apart), T(0)}};
}

// The sums of a row of a class. Four floats are added as floats, and the results in double.
template <class T, Measure measure, bool kept, class Share>
LOSSKIT_INLINE void sums_any(const T* v, int64_t n, const Share& share, Sum* out) {
  constexpr int kLanes = 64 / sizeof(T), kTerms = measure == Measure::kSquares ? 4 : 3;
  constexpr int kGroup = sizeof(T) == 4 ? 4 : 1;
  double lanes[kSums][kLanes] = {};
  int64_t i = 0;
  for (; i + kGroup * kLanes <= n; i += kGroup * kLanes) {
    T group[kSums][kLanes] = {};
    for (int g = 0; g < kGroup; ++g)
      for (int j = 0; j < kLanes; ++j) {
        const int64_t at = i + g * kLanes + j;
        const Added<T> x = added<T, measure>(parts<T, kept>(v[at]), share(at));
        for (int k = 0; k < kTerms; ++k) group[k][j] += x.terms[k];
      }
    for (int k = 0; k < kTerms; ++k)
      for (int j = 0; j < kLanes; ++j) lanes[k][j] += static_cast<double>(group[k][j]);
  }
  double tail[kSums] = {};
  for (; i < n; ++i) {
    const Added<T> x = added<T, measure>(parts<T, kept>(v[i]), share(i));
    for (int k = 0; k < kTerms; ++k) tail[k] += static_cast<double>(x.terms[k]);
  }
  for (int k = 0; k < kTerms; ++k) {
    out[k].add(folded<kLanes>(lanes[k]));
    out[k].add(tail[k]);
  }
}
template <class T, Measure measure, bool kept>
LOSSKIT_CLONES void sums_of_labels(const T* v, const Index<T>* label, Index<T> c, int64_t n, Sum* out) {
  const auto share = [&](int64_t i) __attribute__((always_inline)) { return T(label[i] == c); };
  sums_any<T, measure, kept>(v, n, share, out);
}
template <class T, Measure measure, bool kept>
LOSSKIT_CLONES void sums_of_shares(const T* v, const T* t, int64_t n, Sum* out) {
  sums_any<T, measure, kept>(v, n, [&](int64_t i) __attribute__((always_inline)) { return t[i]; }, out);
}

// The slope by p.
template <class T, Measure measure> LOSSKIT_INLINE T slope(const T* f, Parts<T> of, T t) {
  if constexpr (measure == Measure::kProduct) return t * f[0] + (1 - t) * f[1];
  const T apart = difference(of, t);
  if constexpr (measure == Measure::kSquares) return f[0] * t + f[1] * of.p + f[2] * apart;
  return where(apart < 0, f[0], where(apart > 0, f[1], f[2]));
}

// Slopes by p; by the score, of a sigmoid. They may replace what they are made of.
template <class T, Measure measure, Activation activation, class Share>
LOSSKIT_INLINE void slopes_any(const T* v, int64_t n, const Share& share, const double* factors, T* out) {
  const T f[3] = {T(factors[0]), T(factors[1]), T(factors[2])};
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const Parts<T> of = parts<T, activation != Activation::kNone>(v[i]);
    const T g = slope<T, measure>(f, of, share(i));
    out[i] = activation == kSigmoid ? g * (of.p * of.q) : g;
  }
}
template <class T, Measure measure, Activation activation>
LOSSKIT_CLONES void slopes_of_labels(const T* v, const Index<T>* label, Index<T> c, int64_t n, const double* f,
                                     T* out) {
  const auto share = [&](int64_t i) __attribute__((always_inline)) { return T(label[i] == c); };
  slopes_any<T, measure, activation>(v, n, share, f, out);
}
template <class T, Measure measure, Activation activation>
LOSSKIT_CLONES void slopes_of_shares(const T* v, const T* t, int64_t n, const double* f, T* out) {
  const auto share = [&](int64_t i) __attribute__((always_inline)) { return t[i]; };
  slopes_any<T, measure, activation>(v, n, share, f, out);
}

// The gradient by scores through a softmax: p_c (g_c - sum of p_k g_k), about the g of the largest class, so that
// nothing cancels where one class has nearly all. It may replace the probabilities. The rest is memory.
template <class T>
LOSSKIT_CLONES void through_softmax(const T* v, int64_t apart, const T* g, int64_t room, int64_t classes, int64_t n,
                                    T* out, int64_t out_apart, T* most, T* pivot, T* mean) {
  for (int64_t i = 0; i < n; ++i) most[i] = -1, pivot[i] = mean[i] = 0;
  for (int64_t c = 0; c < classes; ++c) {
    const T *const x = v + c * apart, *const own = g + c * room;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      const T p = parts<T, true>(x[i]).p;
      const bool more = p > most[i];
      most[i] = where(more, p, most[i]);
      pivot[i] = where(more, own[i], pivot[i]);
    }
  }
  for (int64_t c = 0; c < classes; ++c) {
    const T *const x = v + c * apart, *const own = g + c * room;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) mean[i] += parts<T, true>(x[i]).p * (own[i] - pivot[i]);
  }
  for (int64_t c = 0; c < classes; ++c) {
    const T *const x = v + c * apart, *const own = g + c * room;
    T* const to = out + c * out_apart;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) to[i] = parts<T, true>(x[i]).p * ((own[i] - pivot[i]) - mean[i]);
  }
}

// Labels as wide as T: -1 where a pixel does not count, -2 where it is no class. Returns 1 if a pixel does not count,
// 2 if one is no class, 4 if one counts. `kept` is written if a pixel does not count.
template <class T>
LOSSKIT_CLONES int classify(const int64_t* y, const T* mask, int64_t classes, int64_t ignored, int64_t n,
                            Index<T>* label, T* kept) {
  uint64_t special = 0;
  for (int64_t i = 0; i < n; ++i) {
    special |= (static_cast<uint64_t>(y[i]) >= static_cast<uint64_t>(classes)) | (y[i] == ignored);
    label[i] = static_cast<Index<T>>(y[i]);
  }
  if (!special && !mask) return 4;
  Index<T> found = 0;
  for (int64_t i = 0; i < n; ++i) {
    const bool outside = static_cast<uint64_t>(y[i]) >= static_cast<uint64_t>(classes);
    const bool dropped = (y[i] == ignored) | (mask ? mask[i] == 0 : false);
    const Index<T> own = outside ? Index<T>(-2) : static_cast<Index<T>>(y[i]);
    label[i] = dropped ? Index<T>(-1) : own;
    kept[i] = dropped ? T(0) : T(1);
    found |= dropped ? 1 : outside ? 6 : 4;
  }
  return static_cast<int>(found);
}

}  // namespace
}  // namespace losskit
