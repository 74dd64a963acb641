// What the files of the regions family share: a call, and loops over the pixels of a tile (regions.cpp explains them).
#pragma once

#include "drive.h"
#include "primitives.h"

namespace losskit {
namespace {

using wire::Activation::kSigmoid, wire::Activation::kSoftmax;
using enum wire::regions::Violation;
using Spoken = wire::regions::Statistic;

constexpr int kSums = 4;  // of a region: see Region
constexpr int64_t kRoom =
    4096;  // numbers of a tile, all classes of some pixels: they stay in L1 with what is made of them
constexpr int64_t kLongest = 256;                              // pixels of a tile
template <class T> using Index = std::make_signed_t<Bits<T>>;  // as wide as T, for loops with both

// Tensors that are walked by pixels.
enum { kScores, kGradient, kShares, kPixels, kTensors };

// The sums of a region: p t, p (1 - t), (1 - p) t; with squares p t, p^2, t^2, (p - t)^2.
struct Region {
  Sum sums[kSums];
};

// What a region's gradient is made of: the slope by p of a pixel of the class and of another one; with squares what
// multiplies t, p and p - t. A region that is not `alive` has no gradient, whatever its pixels are.
struct Slopes {
  double factors[3] = {};
  bool alive = false;
};

struct Job : Call {
  static constexpr size_t kFirstParameter = wire::regions::kFirstParameter;
  int64_t samples = 1, classes = 1, own = 1;  // own: classes that have a loss
  int64_t background = 0;                     // classes without one, before the others
  int64_t pixels_each = 1;                    // of a region
  int64_t activation = 0, ignored = 0;
  bool batch = false, pooled = false, squares = false, soft = false;
  DType compute = DType::kFloat;
  Walk pixels;  // of a sample, or of all of them
  std::array<Source, kTensors> tensors;
  int64_t by_sample[kTensors] = {}, by_class[kTensors] = {};
  int64_t inner = 1, outer = 1, width = 1, strips = 1, blocks = 1;  // pixels; strips of a row; blocks of a sample
  int64_t together = 1;                                             // strips of a block
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

// p and 1 - p of a sigmoid, each with its digits.
template <class T> LOSSKIT_CLONES void sigmoids(const T* z, int64_t n, T* p, T* q) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const T e = exp_nabs(z[i]);
    const T large = 1 / (1 + e), small = e * large;
    const bool right = z[i] < 0;
    p[i] = where(right, small, large);
    q[i] = where(right, large, small);
  }
}

template <class T> LOSSKIT_CLONES void complements(const T* p, int64_t n, T* q) {
  for (int64_t i = 0; i < n; ++i) q[i] = 1 - p[i];
}

// Scores to a tile of contiguous rows, their maxima and the first classes that have them.
template <class T>
LOSSKIT_CLONES void largest(const T* z, int64_t step, int64_t classes, int64_t n, T* to, int64_t room, T* m,
                            Index<T>* pivot) {
  for (int64_t i = 0; i < n; ++i) m[i] = to[i] = z[i], pivot[i] = 0;
  for (int64_t c = 1; c < classes; ++c) {
    const T* const x = z + c * step;
    T* const y = to + c * room;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      const bool more = x[i] > m[i];
      y[i] = x[i];
      m[i] = where(more, x[i], m[i]);
      pivot[i] = more ? Index<T>(c) : pivot[i];
    }
  }
}

// Scores to exponentials, the share of 1 that the pivot has, and what is missing to it.
template <class T>
LOSSKIT_CLONES void exponentials(T* x, int64_t room, int64_t classes, int64_t n, const T* m, const Index<T>* pivot,
                                 T* share, T* rest) {
  for (int64_t i = 0; i < n; ++i) rest[i] = 0;
  for (int64_t c = 0; c < classes; ++c, x += room) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      const T e = exp(x[i] - m[i]);
      const bool is_pivot = pivot[i] == Index<T>(c);
      x[i] = e;
      rest[i] += where(is_pivot, T(0), e);
    }
  }
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    share[i] = 1 / (1 + rest[i]);
    rest[i] *= share[i];
  }
}

// p and 1 - p of class c.
template <class T>
LOSSKIT_CLONES void shares(const T* e, const T* share, const T* rest, const Index<T>* pivot, Index<T> c, int64_t n,
                           T* p, T* q) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const T own = e[i] * share[i];
    p[i] = own;
    q[i] = where(pivot[i] == c, rest[i], 1 - own);
  }
}

// Zeros for the pixels that do not count.
template <class T> LOSSKIT_CLONES void drop(const T* kept, int64_t n, const T* from, T* to) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) to[i] = where(kept[i] != 0, from[i], T(0));
}

template <class T> struct Added {
  T terms[kSums];
};

template <class T, bool squares, class Share> LOSSKIT_INLINE Added<T> added(T p, T q, const Share& share) {
  const T t = share;
  if constexpr (squares) {
    const T apart = p * (1 - t) - q * t;
    return {{p * t, p * p, t * t, apart * apart}};
  } else {
    return {{p * t, p * (1 - t), q * t, T(0)}};
  }
}

// The sums of a row of a class. Four floats are added as floats, and the results in double.
template <class T, bool squares, class Share>
LOSSKIT_INLINE void sums_any(const T* p, const T* q, int64_t n, const Share& share, Sum* out) {
  constexpr int kLanes = 64 / sizeof(T), kTerms = squares ? 4 : 3, kGroup = sizeof(T) == 4 ? 4 : 1;
  double lanes[kSums][kLanes] = {};
  int64_t i = 0;
  for (; i + kGroup * kLanes <= n; i += kGroup * kLanes) {
    T group[kSums][kLanes] = {};
    for (int g = 0; g < kGroup; ++g)
      for (int j = 0; j < kLanes; ++j) {
        const int64_t at = i + g * kLanes + j;
        const Added<T> x = added<T, squares>(p[at], q[at], share(at));
        for (int k = 0; k < kTerms; ++k) group[k][j] += x.terms[k];
      }
    for (int k = 0; k < kTerms; ++k)
      for (int j = 0; j < kLanes; ++j) lanes[k][j] += static_cast<double>(group[k][j]);
  }
  double tail[kSums] = {};
  for (; i < n; ++i) {
    const Added<T> x = added<T, squares>(p[i], q[i], share(i));
    for (int k = 0; k < kTerms; ++k) tail[k] += static_cast<double>(x.terms[k]);
  }
  for (int k = 0; k < kTerms; ++k) {
    out[k].add(folded<kLanes>(lanes[k]));
    out[k].add(tail[k]);
  }
}
template <class T, bool squares>
LOSSKIT_CLONES void sums_of_labels(const T* p, const T* q, const Index<T>* label, Index<T> c, int64_t n, Sum* out) {
  sums_any<T, squares>(p, q, n, [&](int64_t i) __attribute__((always_inline)) { return T(label[i] == c); }, out);
}
template <class T, bool squares>
LOSSKIT_CLONES void sums_of_shares(const T* p, const T* q, const T* t, int64_t n, Sum* out) {
  sums_any<T, squares>(p, q, n, [&](int64_t i) __attribute__((always_inline)) { return t[i]; }, out);
}

// The slope by p.
template <class T, bool squares> LOSSKIT_INLINE T slope(const T* f, T p, T q, T t) {
  if constexpr (squares) return f[0] * t + f[1] * p + f[2] * (p * (1 - t) - q * t);
  return t * f[0] + (1 - t) * f[1];
}

// Slopes by p, times the slope p (1 - p) of a sigmoid if `curved`.
template <class T, bool squares, bool curved, class Share>
LOSSKIT_INLINE void slopes_any(const T* p, const T* q, int64_t n, const Share& share, const double* factors, T* out) {
  const T f[3] = {T(factors[0]), T(factors[1]), T(factors[2])};
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const T g = slope<T, squares>(f, p[i], q[i], share(i));
    out[i] = curved ? g * (p[i] * q[i]) : g;
  }
}
template <class T, bool squares, bool curved>
LOSSKIT_CLONES void slopes_of_labels(const T* p, const T* q, const Index<T>* label, Index<T> c, int64_t n,
                                     const double* f, T* out) {
  const auto share = [&](int64_t i) __attribute__((always_inline)) { return T(label[i] == c); };
  slopes_any<T, squares, curved>(p, q, n, share, f, out);
}
template <class T, bool squares, bool curved>
LOSSKIT_CLONES void slopes_of_shares(const T* p, const T* q, const T* t, int64_t n, const double* f, T* out) {
  const auto share = [&](int64_t i) __attribute__((always_inline)) { return t[i]; };
  slopes_any<T, squares, curved>(p, q, n, share, f, out);
}

// The gradient by scores through a softmax: p_c (g_c - sum of p_k g_k), about the pivot's g, so that nothing cancels
// where one class has nearly all. `x` has the exponentials, `g` the slopes, which the gradient replaces.
template <class T>
LOSSKIT_CLONES void through_softmax(const T* x, T* g, int64_t room, int64_t classes, int64_t n, const T* share,
                                    const Index<T>* pivot, T* at_pivot, T* mean) {
  for (int64_t i = 0; i < n; ++i) at_pivot[i] = mean[i] = 0;
  for (int64_t c = 0; c < classes; ++c)
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) at_pivot[i] = where(pivot[i] == Index<T>(c), g[c * room + i], at_pivot[i]);
  for (int64_t c = 0; c < classes; ++c) {
    const T* const e = x + c * room;
    T* const own = g + c * room;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      own[i] -= at_pivot[i];
      mean[i] += e[i] * own[i];
    }
  }
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) mean[i] *= share[i];
  for (int64_t c = 0; c < classes; ++c) {
    const T* const e = x + c * room;
    T* const own = g + c * room;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) own[i] = (e[i] * share[i]) * (own[i] - mean[i]);
  }
}

// Labels as wide as T: -1 where a pixel does not count, -2 where it is no class. Returns 1 if a pixel does not count,
// 2 if one is no class, 4 if one counts.
template <class T>
LOSSKIT_CLONES int classify(const int64_t* y, const T* mask, int64_t classes, int64_t ignored, int64_t n,
                            Index<T>* label, T* kept) {
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
