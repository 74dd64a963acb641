// Losses of class scores (cross entropy, NLL, focal ...): log-softmax statistics of a row, a formula of them, and the
// gradient by the scores, in one pass. class_scores.h holds the loops and why they are exact.
//
// 1. A block is a number of rows that depends on the shape alone, so sums have the same bits for any number of threads.
// 2. Rows whose classes are contiguous and many are taken one by one: they stay in cache from the maximum to the
//    gradient, which is first the row of exponentials. Everything else is a tile of positions side by side: few
//    classes, (N, C, H, W), any strides; scores are read in place where positions are contiguous.
// 3. Index targets (any scalar formula of log_probability, log_sum_exp, mean_log_probability) and the plain cross
//    entropy with label smoothing or probabilities need no formula per class: sum_c q_c (-l_c) = Q log S - sum_c q_c
//    d_c. What does need one, and rows without a finite maximum, go through `general_row`, in double.
#include "class_scores.h"

#include <cstdlib>
#include <memory>

#include "op.h"

namespace losskit {

// fetch() for integers.
LOSSKIT_CLONES inline void read_run(DType dtype, const void* from, int64_t stride, int64_t n, int64_t* to) {
  read_any<int64_t>(dtype, from, stride, n, to);
}

namespace {

// Positions of the sources: scores and target are operands; the gradients lie where the other operands would.
enum { kScores = 0, kTarget = 1, kScoresGradient = 2, kTargetGradient = 3 };
constexpr int64_t kRows = 512;         // in a block, at most
constexpr int64_t kTileBytes = 16384;  // a tile and its exponentials share the L1 cache
constexpr int64_t kRowClasses = 64;    // fewer contiguous classes are tiles
constexpr int64_t kGrain = 32768;      // scores: a thread is woken for no less

enum State { kCounts = 0, kMasked = 1, kBad = 2, kDone = 4 };  // kDone: general_row has written it all

template <class T> constexpr DType kOwn = sizeof(T) == 4 ? DType::kFloat : DType::kDouble;

template <class T> struct Job : Call {
  int64_t classes = 0, padded = 0, ignore_index = -100, block_rows = 1;
  int64_t class_strides[kOperands] = {};
  bool probabilities = false, linear = false, picked = false, by_row = false;
  bool statistics[3] = {};  // which are operands of the formula: log_probability, log_sum_exp, mean_log_probability
  double smoothing = 0.0, total_weight = 0.0;
  std::vector<double> weights;  // of the classes; empty if there are none
  std::vector<T> own_weights, shift;
  std::vector<uint8_t> violations;  // by block

  bool general() const { return !linear && (probabilities || smoothing != 0.0); }
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
      data.reset(static_cast<T*>(std::aligned_alloc(64, (n * sizeof(T) + 127) & ~int64_t(63))));
      size = n;
    }
    return data.get();
  }
};

// Where the positions of a block lie in a tensor: runs of one stride.
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
  alignas(64) double dots_low[kRows], rest_low[kRows];  // what rounding took from the sums, where T is double
  alignas(64) double logs[kRows];                       // log-probability of the excluded class
  alignas(64) double scale[kRows];                      // of the row's gradient
  alignas(64) double extra[kRows];                      // derivative by log_sum_exp less that by the mean
  alignas(64) double a[kRows], b[kRows], own_gradient[kRows], offset[kRows], row_weight[kRows];
  alignas(64) T kept[kRows], maximum[kRows], magic[kRows], limit[kRows], own_score[kRows];
  alignas(64) T narrow_a[kRows], narrow_b[kRows], narrow_own[kRows];
  alignas(64) T values[kRows], operands[3][kRows], derivatives[3][kRows];
  alignas(64) Index<T> own[kRows];
  alignas(64) Bits<T> keep[kRows];
  int64_t indices[kRows];
  Index<T> state[kRows];
  bool uniform;  // all rows of the block count
  Runs runs[kOperands];
  // Whether the excluded class's exponential is too small for a quotient.
  bool faint(int64_t j) const { return double(kept[j]) < others[j] * 0x1p-512; }
  Buffer<T> scores, target, exponentials, products;
  Buffer<double> wide;
};

// --------------------------------------------------------------------------------------------------------
// Loops of both types

#define LOSSKIT_CLASS_SCORES_LOOPS(T)                                                                                 \
  LOSSKIT_CLONES T row_maximum(const T* z, int64_t n) { return maximum_of(z, n); }                                    \
  LOSSKIT_CLONES double row_exp_near(const T* z, int64_t n, const Pivot<T>& p, int64_t own, T* e, T* kept) {          \
    return exp_chunk<T, false>(z, n, p, own, e, kept);                                                                \
  }                                                                                                                   \
  LOSSKIT_CLONES double row_exp_far(const T* z, int64_t n, const Pivot<T>& p, int64_t own, T* e, T* kept) {           \
    return exp_chunk<T, true>(z, n, p, own, e, kept);                                                                 \
  }                                                                                                                   \
  LOSSKIT_CLONES double row_dot(const T* z, T m, const T* q, int64_t n) { return dot_of(z, m, q, n); }                \
  LOSSKIT_CLONES int64_t row_find(const T* z, T m, int64_t n) { return first_of(z, m, n); }                           \
  LOSSKIT_CLONES double row_sum(const T* x, int64_t n) { return sum_of(x, n); }                                       \
  LOSSKIT_CLONES void row_combine(const T* e, const T* q, T a, T b, int64_t n, T* out) {                              \
    combine(e, q, a, b, n, out);                                                                                      \
  }                                                                                                                   \
  LOSSKIT_CLONES void row_combine_wide(const T* e, const T* q, double a, double b, int64_t n, T* out) {               \
    combine_wide(e, q, a, b, n, out);                                                                                 \
  }                                                                                                                   \
  LOSSKIT_CLONES bool row_outside(const T* t, int64_t n) {                                                            \
    int32_t bad = 0;                                                                                                  \
    for (int64_t c = 0; c < n; ++c) bad |= (t[c] < T(0)) | (t[c] > T(1));                                             \
    return bad != 0;                                                                                                  \
  }                                                                                                                   \
  LOSSKIT_CLONES void row_weights(const T* t, const T* w, T keep, T smooth, int64_t n, T* q) {                        \
    if (w)                                                                                                            \
      for (int64_t c = 0; c < n; ++c) q[c] = (t[c] * keep + smooth) * w[c];                                           \
    else                                                                                                              \
      for (int64_t c = 0; c < n; ++c) q[c] = t[c] * keep + smooth;                                                    \
  }                                                                                                                   \
  /* (logarithm - (z_c - m)) w_c scale */                                                                             \
  LOSSKIT_CLONES void row_losses(const T* z, T m, T logarithm, const T* w, double scale, int64_t n, T* out) {         \
    for (int64_t c = 0; c < n; ++c) out[c] = T(double(logarithm - (z[c] - m)) * (w ? double(w[c]) : 1.0) * scale);    \
  }                                                                                                                   \
  LOSSKIT_CLONES void add_to(T* x, const T* y, int64_t n) {                                                           \
    for (int64_t c = 0; c < n; ++c) x[c] += y[c];                                                                     \
  }                                                                                                                   \
  LOSSKIT_CLONES void rows_to_tile(const T* from, int64_t stride, int64_t n, int64_t classes, T* to, int64_t step) {  \
    if (classes == 2 && stride == 2) return transposed<T>(from, 2, n, 2, to, step);                                   \
    if (classes == 3 && stride == 3) {                                                                                \
      for (int64_t j = 0; j < n; ++j)                                                                                 \
        to[j] = from[3 * j], to[step + j] = from[3 * j + 1], to[2 * step + j] = from[3 * j + 2];                      \
      return;                                                                                                         \
    }                                                                                                                 \
    transposed(from, stride, n, classes, to, step);                                                                   \
  }                                                                                                                   \
  LOSSKIT_CLONES void tile_to_rows(const T* from, int64_t step, int64_t n, int64_t classes, T* to, int64_t stride) {  \
    if (classes == 2 && stride == 2) {                                                                                \
      _Pragma("GCC ivdep") for (int64_t j = 0; j < n; ++j) to[2 * j] = from[j], to[2 * j + 1] = from[step + j];       \
    } else if (classes == 3 && stride == 3) {                                                                         \
      _Pragma("GCC ivdep") for (int64_t j = 0; j < n; ++j) to[3 * j] = from[j], to[3 * j + 1] = from[step + j],       \
                                                                  to[3 * j + 2] = from[2 * step + j];                 \
    } else if (classes >= 4) {                                                                                        \
      int64_t j = 0;                                                                                                  \
      for (; j + 4 <= n; j += 4)                                                                                      \
        for (int64_t c = 0; c < classes; c += 4) {                                                                    \
          const int64_t k = c + 4 <= classes ? c : classes - 4;                                                       \
          Square<T> square;                                                                                           \
          square.read(from + k * step + j, step);                                                                     \
          square.transpose();                                                                                         \
          square.write(to + j * stride + k, stride);                                                                  \
        }                                                                                                             \
      for (; j < n; ++j)                                                                                              \
        for (int64_t c = 0; c < classes; ++c) to[j * stride + c] = from[c * step + j];                                \
    } else {                                                                                                          \
      for (int64_t j = 0; j < n; ++j)                                                                                 \
        for (int64_t c = 0; c < classes; ++c) to[j * stride + c] = from[c * step + j];                                \
    }                                                                                                                 \
  }                                                                                                                   \
  LOSSKIT_CLONES void maxima(const Tile<T>& tile, T* m) { tile_maximum(tile, m); }                                    \
  LOSSKIT_CLONES void argmaxima(const Tile<T>& tile, const T* m, Index<T>* k) { tile_argmax(tile, m, k); }            \
  LOSSKIT_CLONES void pivots_near(const T* m, int64_t n, T* magic, T* limit, double* offset) {                        \
    for (int64_t j = 0; j < n; ++j) {                                                                                 \
      const Pivot<T> p = pivot<T, false>(m[j]);                                                                       \
      magic[j] = p.magic, limit[j] = p.limit, offset[j] = p.offset;                                                   \
    }                                                                                                                 \
  }                                                                                                                   \
  LOSSKIT_CLONES void exps_near(const Tile<T>& tile, Scratch<T>& s, T* e, int64_t step) {                             \
    if (e)                                                                                                            \
      tile_exp<T, false, true>(tile, s.maximum, s.magic, s.limit, s.own, e, step, s.kept, s.others);                  \
    else                                                                                                              \
      tile_exp<T, false, false>(tile, s.maximum, s.magic, s.limit, s.own, e, step, s.kept, s.others);                 \
  }                                                                                                                   \
  LOSSKIT_CLONES void exps_far(const Tile<T>& tile, Scratch<T>& s, T* e, int64_t step) {                              \
    if (e)                                                                                                            \
      tile_exp<T, true, true>(tile, s.maximum, s.magic, s.limit, s.own, e, step, s.kept, s.others);                   \
    else                                                                                                              \
      tile_exp<T, true, false>(tile, s.maximum, s.magic, s.limit, s.own, e, step, s.kept, s.others);                  \
  }                                                                                                                   \
  /* log-probability of the excluded class; true if one is too faint for a quotient, or 0 */                          \
  LOSSKIT_CLONES bool log_probabilities(Scratch<T>& s, int64_t n) {                                                   \
    int64_t zero = 0;                                                                                                 \
    for (int64_t j = 0; j < n; ++j) zero |= double(s.kept[j]) < s.others[j] * 0x1p-512;                               \
    for (int64_t j = 0; j < n; ++j) s.logs[j] = -log1p(s.others[j] / double(s.kept[j]));                              \
    return zero != 0;                                                                                                 \
  }                                                                                                                   \
  /* y as it is, if it is a class; which rows are masked or bad */                                                    \
  LOSSKIT_CLONES int classify(const int64_t* y, const float* mask, int64_t classes, int64_t ignore, int64_t n,        \
                              Scratch<T>& s) {                                                                        \
    int64_t found = 0;                                                                                                \
    for (int64_t j = 0; j < n; ++j) {                                                                                 \
      const int64_t outside = static_cast<uint64_t>(y[j]) >= static_cast<uint64_t>(classes);                          \
      const int64_t masked = y[j] == ignore;                                                                          \
      const int64_t state = masked | ((outside & ~masked) << 1);                                                      \
      s.own[j] = static_cast<Index<T>>(y[j] & (outside - 1));                                                         \
      s.state[j] = static_cast<Index<T>>(state);                                                                      \
      found |= state;                                                                                                 \
    }                                                                                                                 \
    if (!mask) return static_cast<int>(found);                                                                        \
    found = 0;                                                                                                        \
    for (int64_t j = 0; j < n; ++j) {                                                                                 \
      s.state[j] = mask[j] == 0.0f ? Index<T>(kMasked) : s.state[j];                                                  \
      found |= s.state[j];                                                                                            \
    }                                                                                                                 \
    return static_cast<int>(found);                                                                                   \
  }                                                                                                                   \
  LOSSKIT_CLONES bool any_far(const T* m, int64_t n) {                                                                \
    Index<T> found = 0;                                                                                               \
    for (int64_t j = 0; j < n; ++j) found |= !(absolute(m[j]) <= T(kNear));                                           \
    return found != 0;                                                                                                \
  }                                                                                                                   \
  /* Losses of index targets, nothing masked, nothing smoothed. */                                                    \
  LOSSKIT_CLONES void plain_losses(Scratch<T>& s, const double* factor, int64_t n) {                                  \
    if (factor)                                                                                                       \
      for (int64_t j = 0; j < n; ++j) s.values[j] = static_cast<T>(s.row_weight[j] * -s.logs[j] * factor[j]);         \
    else                                                                                                              \
      for (int64_t j = 0; j < n; ++j) s.values[j] = static_cast<T>(s.row_weight[j] * -s.logs[j]);                     \
  }                                                                                                                   \
  LOSSKIT_CLONES void coefficients(Scratch<T>& s, int64_t n, bool rest) {                                             \
    if (rest) {                                                                                                       \
      for (int64_t j = 0; j < n; ++j) {                                                                               \
        const double inverse = 1.0 / (s.others[j] + double(s.kept[j]));                                               \
        s.a[j] = s.total[j] * s.scale[j] / (s.others[j] + double(s.kept[j]));                                         \
        s.own_gradient[j] = s.scale[j] * ((s.rest[j] * double(s.kept[j]) - s.mine[j] * s.others[j]) * inverse);       \
      }                                                                                                               \
    } else {                                                                                                          \
      for (int64_t j = 0; j < n; ++j) {                                                                               \
        s.a[j] = s.total[j] * s.scale[j] / (s.others[j] + double(s.kept[j]));                                         \
        s.own_gradient[j] = -(s.a[j] * s.others[j]);                                                                  \
      }                                                                                                               \
    }                                                                                                                 \
  }                                                                                                                   \
  /* Coefficients in T; true if one of them has lost digits. */                                                       \
  LOSSKIT_CLONES bool narrow_coefficients(Scratch<T>& s, int64_t n, bool with_b) {                                    \
    constexpr double least = 16.0 * double(std::numeric_limits<T>::min());                                            \
    int64_t lost = 0;                                                                                                 \
    for (int64_t j = 0; j < n; ++j) {                                                                                 \
      lost |= int64_t(s.a[j] != 0.0) & int64_t(absolute(s.a[j]) < least);                                             \
      s.narrow_a[j] = static_cast<T>(s.a[j]);                                                                         \
      s.narrow_own[j] = static_cast<T>(s.own_gradient[j]);                                                            \
    }                                                                                                                 \
    if (with_b)                                                                                                       \
      for (int64_t j = 0; j < n; ++j) s.narrow_b[j] = static_cast<T>(s.b[j]);                                         \
    return lost != 0;                                                                                                 \
  }                                                                                                                   \
  LOSSKIT_CLONES void add_extra(Scratch<T>& s, int64_t n) {                                                           \
    for (int64_t j = 0; j < n; ++j) {                                                                                 \
      const double more = s.extra[j] * s.scale[j] / (s.others[j] + double(s.kept[j]));                                \
      s.a[j] += more;                                                                                                 \
      s.own_gradient[j] += double(s.kept[j]) * more + s.b[j];                                                         \
    }                                                                                                                 \
  }                                                                                                                   \
  /* One class of a tile: dots += q (z - m), rest += q unless it is the excluded class. */                            \
  LOSSKIT_CLONES void tile_dot(const T* z, const T* t, T keep, T smooth, T w, Index<T> c, int64_t n, Scratch<T>& s) { \
    if (t) {                                                                                                          \
      _Pragma("GCC ivdep") for (int64_t j = 0; j < n; ++j) {                                                          \
        const T q = (t[j] * keep + smooth) * w;                                                                       \
        accumulate(s.dots[j], s.dots_low[j], where(q == 0, T(0), q * (z[j] - s.maximum[j])));                         \
        accumulate(s.rest[j], s.rest_low[j], where(s.own[j] == c, T(0), q));                                          \
        s.mine[j] += double(where(s.own[j] == c, q, T(0)));                                                           \
      }                                                                                                               \
    } else {                                                                                                          \
      _Pragma("GCC ivdep") for (int64_t j = 0; j < n; ++j)                                                            \
          accumulate(s.dots[j], s.dots_low[j], where(w == 0, T(0), w * (z[j] - s.maximum[j])));                       \
    }                                                                                                                 \
  }                                                                                                                   \
  /* One class of the gradient: e a + b q, q = (t keep + smooth) w, the excluded class's own gradient, zeros. */      \
  LOSSKIT_CLONES void tile_combine(const T* e, const T* t, T keep, T smooth, T w, bool plain, Index<T> c, int64_t n,  \
                                   const Scratch<T>& s, T* out) {                                                     \
    if (plain) {                                                                                                      \
      _Pragma("GCC ivdep") for (int64_t j = 0; j < n; ++j) {                                                          \
        const T g = where(s.own[j] == c, s.narrow_own[j], e[j] * s.narrow_a[j]);                                      \
        out[j] = from_bits<T>(bits(g) & s.keep[j]);                                                                   \
      }                                                                                                               \
    } else if (t) {                                                                                                   \
      _Pragma("GCC ivdep") for (int64_t j = 0; j < n; ++j) {                                                          \
        const T q = (t[j] * keep + smooth) * w;                                                                       \
        const T g = where(s.own[j] == c, s.narrow_own[j], e[j] * s.narrow_a[j] + s.narrow_b[j] * q);                  \
        out[j] = from_bits<T>(bits(g) & s.keep[j]);                                                                   \
      }                                                                                                               \
    } else {                                                                                                          \
      _Pragma("GCC ivdep") for (int64_t j = 0; j < n; ++j) {                                                          \
        const T g = where(s.own[j] == c, s.narrow_own[j], e[j] * s.narrow_a[j] + s.narrow_b[j] * w);                  \
        out[j] = from_bits<T>(bits(g) & s.keep[j]);                                                                   \
      }                                                                                                               \
    }                                                                                                                 \
  }                                                                                                                   \
  LOSSKIT_CLONES void tile_combine_wide(const T* e, const T* t, T keep, T smooth, T w, Index<T> c, int64_t n,         \
                                        const Scratch<T>& s, T* out) {                                                \
    for (int64_t j = 0; j < n; ++j) {                                                                                 \
      const double q = t ? double((t[j] * keep + smooth) * w) : double(w);                                            \
      const T g = s.own[j] == c ? T(s.own_gradient[j]) : T(double(e[j]) * s.a[j] + s.b[j] * q);                       \
      out[j] = from_bits<T>(bits(g) & s.keep[j]);                                                                     \
    }                                                                                                                 \
  }                                                                                                                   \
  LOSSKIT_CLONES void tile_losses(const T* z, double weight, int64_t n, const Scratch<T>& s, T* out) {                \
    for (int64_t j = 0; j < n; ++j) {                                                                                 \
      const T loss = T(double(s.operands[0][j] - (z[j] - s.maximum[j])) * weight * s.scale[j]);                       \
      out[j] = from_bits<T>(bits(loss) & s.keep[j]);                                                                  \
    }                                                                                                                 \
  }

LOSSKIT_CLASS_SCORES_LOOPS(float)
LOSSKIT_CLASS_SCORES_LOOPS(double)

// --------------------------------------------------------------------------------------------------------
// Memory

template <class T> Runs& runs_of(const Call& call, int slot, int64_t begin, int64_t n, Runs& runs) {
  const Walk& walk = call.walk;
  const Source& source = call.sources[slot];
  const int inner = walk.dims - 1;
  runs.count = 0;
  runs.stride = inner < 0 ? 0 : source.strides[inner];
  if (inner <= 0) {
    runs.offsets[0] = begin * runs.stride;
    runs.lengths[0] = n;
    runs.count = 1;
    return runs;
  }
  std::array<int64_t, kDims> index{};
  int64_t rest = begin, offset = 0;
  for (int d = inner; d >= 0; --d) {
    index[d] = rest % walk.sizes[d];
    rest /= walk.sizes[d];
    offset += index[d] * source.strides[d];
  }
  for (int64_t done = 0; done < n; ++runs.count) {
    const int64_t length = std::min(walk.sizes[inner] - index[inner], n - done);
    runs.offsets[runs.count] = offset;
    runs.lengths[runs.count] = length;
    done += length;
    index[inner] += length;
    offset += length * runs.stride;
    for (int d = inner; d > 0 && index[d] == walk.sizes[d]; --d) {
      offset += source.strides[d - 1] - index[d] * source.strides[d];
      index[d] = 0;
      ++index[d - 1];
    }
  }
  return runs;
}

template <class To, class T> LOSSKIT_INLINE void store(const T* from, int64_t stride, int64_t n, To* to) {
  for (int64_t i = 0; i < n; ++i) to[i * stride] = narrow<To>(from[i]);
}
template <class T> LOSSKIT_INLINE void store_any(DType dtype, const T* from, int64_t stride, int64_t n, void* to) {
  if (stride == 1) return write_any(dtype, from, n, to);
  switch (dtype) {
    case DType::kHalf:
      return store(from, stride, n, static_cast<Half*>(to));
    case DType::kBFloat16:
      return store(from, stride, n, static_cast<BFloat16*>(to));
    case DType::kDouble:
      return store(from, stride, n, static_cast<double*>(to));
    default:
      return store(from, stride, n, static_cast<float*>(to));
  }
}
LOSSKIT_CLONES void store_run(DType dtype, const float* from, int64_t stride, int64_t n, void* to) {
  store_any(dtype, from, stride, n, to);
}
LOSSKIT_CLONES void store_run(DType dtype, const double* from, int64_t stride, int64_t n, void* to) {
  store_any(dtype, from, stride, n, to);
}

// Where row `offset` of a slot's tensor begins.
template <class T> char* row_of(const Job<T>& job, int slot, int64_t offset) {
  return const_cast<char*>(job.sources[slot].data) + offset * size_of(job.sources[slot].dtype);
}

// A row as contiguous numbers, in place if it is that already; `padding` behind rows shorter than kLanes.
template <class T> const T* read_row(const Job<T>& job, int slot, int64_t offset, T padding, T* buffer) {
  const Source& source = job.sources[slot];
  const bool shifted = slot == kScores && !job.shift.empty();
  const char* data = row_of(job, slot, offset);
  if (job.class_strides[slot] == 1 && source.dtype == kOwn<T> && !shifted && job.padded == job.classes)
    return reinterpret_cast<const T*>(data);
  read_run(source.dtype, data, job.class_strides[slot], job.classes, buffer);
  if (shifted) add_to(buffer, job.shift.data(), job.classes);
  std::fill(buffer + job.classes, buffer + job.padded, padding);
  return buffer;
}

// Where a row of a gradient may be written directly; null if it has to be converted or scattered.
template <class T> T* row_in_place(const Job<T>& job, int slot, int64_t offset) {
  if (job.class_strides[slot] != 1 || job.sources[slot].dtype != kOwn<T> || job.padded != job.classes) return nullptr;
  return reinterpret_cast<T*>(row_of(job, slot, offset));
}
template <class T, class From> void write_row(const Job<T>& job, int slot, int64_t offset, const From* from) {
  store_run(job.sources[slot].dtype, from, job.class_strides[slot], job.classes, row_of(job, slot, offset));
}
template <class T> void fill_row(const Job<T>& job, int slot, int64_t offset, T value) {
  const int64_t item = size_of(job.sources[slot].dtype);
  char* to = row_of(job, slot, offset);
  if (job.class_strides[slot] == 1 && value == T(0)) {
    std::memset(to, 0, job.classes * item);
    return;
  }
  for (int64_t c = 0; c < job.classes; ++c)
    write_run(job.sources[slot].dtype, &value, 1, to + c * job.class_strides[slot] * item);
}

// Classes of a block of positions side by side, in place if they lie so.
template <class T> Tile<T> read_tile(const Job<T>& job, int slot, const Runs& runs, int64_t n, Buffer<T>& buffer) {
  const Source& source = job.sources[slot];
  const bool shifted = slot == kScores && !job.shift.empty();
  const char* data = row_of(job, slot, runs.offsets[0]);
  if (runs.count == 1 && (runs.stride == 1 || n == 1) && source.dtype == kOwn<T> && !shifted)
    return {reinterpret_cast<const T*>(data), job.class_strides[slot], job.classes, n};
  const int64_t step = (job.block_rows + kLanes - 1) & ~(kLanes - 1);
  T* const tile = buffer.get(step * job.classes);
  if (runs.count == 1 && job.class_strides[slot] == 1 && source.dtype == kOwn<T> && !shifted) {
    rows_to_tile(reinterpret_cast<const T*>(data), runs.stride, n, job.classes, tile, step);
    return {tile, step, job.classes, n};
  }
  for (int64_t c = 0; c < job.classes; ++c) {
    T* to = tile + c * step;
    for (int64_t r = 0; r < runs.count; to += runs.lengths[r++])
      read_run(source.dtype, row_of(job, slot, runs.offsets[r] + c * job.class_strides[slot]), runs.stride,
               runs.lengths[r], to);
    if (shifted)
      for (int64_t j = 0; j < n; ++j) tile[c * step + j] += job.shift[c];
  }
  return {tile, step, job.classes, n};
}

// --------------------------------------------------------------------------------------------------------
// The general row

// Evaluate the formula for `n` log-probabilities of one row, in double.
template <class T>
void formula(const Job<T>& job, const double* logs, double lse, double mean, int64_t n, double* values,
             double* const* derivatives) {
  const double given[3] = {0.0, lse, mean};
  alignas(64) double constants[2][kBlock], unused[kBlock];
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t length = std::min(kBlock, n - begin);
    const double* operands[kOperands] = {};
    double* out[kOperands] = {unused, unused, unused, unused};
    int count = 0;
    for (int k = 0; k < 3; ++k) {
      if (!job.statistics[k]) continue;
      if (k > 0) std::fill(constants[k - 1], constants[k - 1] + length, given[k]);
      operands[count] = k == 0 ? logs + begin : constants[k - 1];
      out[count++] = derivatives[k] + begin;
    }
    const int all = (1 << job.kernel->operands) - 1;
    job.kernel->f64[all & ~job.kernel->predictions ? kAll : kPredictions](length, operands, job.parameters, 1.0,
                                                                          values + begin, out);
  }
}

// Loss of one row with any formula, any weights q_c, any scores; gradients (times `scale`) where they are wanted.
// `z` and `q` have job.padded entries. Written for exactness; it is in double whatever T is.
template <class T>
double general_row(const Job<T>& job, const double* z, const double* q, double scale, double* work, double* dz,
                   double* dt) {
  const int64_t n = job.classes, stride = job.padded;
  double *const p = work, *const logs = work + stride, *const values = work + 2 * stride;
  double* const derivatives[3] = {work + 3 * stride, work + 4 * stride, work + 5 * stride};
  constexpr double nan = not_a_number<double>;
  const double m = row_maximum(z, job.padded);
  bool known = m > -infinity<double>;
  for (int64_t c = 0; c < n; ++c) known &= z[c] == z[c] && q[c] == q[c];
  if (!known) {
    if (dz) std::fill(dz, dz + n, nan);
    if (dt) std::fill(dt, dt + n, nan);
    return nan;
  }
  const int64_t k = std::find(z, z + n, m) - z;
  double others = 0.0, logarithm = 0.0, lse = m, mean = 0.0;  // others: probability of all but k
  if (m == infinity<double>) {                                // the limit: infinite scores share the probability
    const double count = static_cast<double>(std::count(z, z + n, m));
    for (int64_t c = 0; c < n; ++c) {
      p[c] = z[c] == m ? 1.0 / count : 0.0;
      logs[c] = z[c] == m ? -std::log(count) : -infinity<double>;
    }
    others = (count - 1.0) / count;
    mean = count == double(n) ? -std::log(count) : -infinity<double>;
  } else {
    const Pivot<double> pivoted = pivot<double, true>(m);
    Sum sum;
    double own = 0.0;
    for (int64_t i = 0; i < stride;) {
      const int64_t length = chunk_of(stride - i);
      sum.add(row_exp_far(z + i, length, pivoted, k - i, p + i, &own));
      i += length;
    }
    const double total = sum.value() + own;
    p[k] = own;
    for (int64_t c = 0; c < n; ++c) p[c] = p[c] / total;
    others = sum.value() / total;
    logarithm = std::log1p(sum.value() / own);
    for (int64_t c = 0; c < n; ++c) logs[c] = (z[c] - m) - logarithm;
    lse = m + logarithm;
    if (job.statistics[2]) {
      for (int64_t c = 0; c < n; ++c) mean += z[c] - m;
      mean = mean / static_cast<double>(n) - logarithm;
    }
  }
  if (job.linear) {
    for (int64_t c = 0; c < n; ++c) values[c] = -logs[c], derivatives[0][c] = -1.0;
  } else {
    for (int k = 0; k < 3; ++k)
      if (!job.statistics[k]) std::fill(derivatives[k], derivatives[k] + n, 0.0);
    formula(job, logs, lse, mean, n, values, derivatives);
  }
  // q_k times something infinite is 0 where q_k is.
  Sum loss, by_log, by_lse, by_mean;
  for (int64_t c = 0; c < n; ++c) {
    if (q[c] == 0.0) continue;
    loss.add(q[c] * values[c]);
    if (c != k) by_log.add(q[c] * derivatives[0][c]);
    if (job.statistics[1]) by_lse.add(q[c] * derivatives[1][c]);
    if (job.statistics[2]) by_mean.add(q[c] * derivatives[2][c]);
  }
  if (dz) {
    const double rest = by_log.value(), own = q[k] == 0.0 ? 0.0 : q[k] * derivatives[0][k];
    const double lse_sum = by_lse.value(), mean_sum = by_mean.value(), share = 1.0 / static_cast<double>(n);
    for (int64_t c = 0; c < n; ++c) {
      const double mine = c == k ? own : q[c] == 0.0 ? 0.0 : q[c] * derivatives[0][c];
      const double theirs = c == k ? rest : (rest + own) - mine;
      const double without = c == k ? others : 1.0 - p[c];
      double g = without == 0.0 ? 0.0 : mine * without;
      if (p[c] != 0.0) g += p[c] * (lse_sum - theirs);
      if (job.statistics[2]) g += (n == 1 ? 0.0 : share - p[c]) * mean_sum;
      dz[c] = g * scale;
    }
  }
  if (dt)
    for (int64_t c = 0; c < n; ++c) dt[c] = (1.0 - job.smoothing) * job.weight(c) * values[c] * scale;
  return loss.value();
}

// One row of a block through general_row, whatever its layout.
template <class T> void special_row(const Job<T>& job, int64_t j, const int64_t* offsets, Scratch<T>& s) {
  const int64_t n = job.classes, stride = job.padded;
  double* const wide = s.wide.get(10 * stride);
  double *const z = wide, *const q = wide + stride, *const dz = wide + 2 * stride, *const dt = wide + 3 * stride;
  const double smooth = job.smoothing / static_cast<double>(n), keep = 1.0 - job.smoothing;
  read_run(job.sources[kScores].dtype, row_of(job, kScores, offsets[kScores]), job.class_strides[kScores], n, z);
  for (int64_t c = 0; c < n && !job.shift.empty(); ++c) z[c] = double(T(z[c]) + job.shift[c]);
  std::fill(z + n, z + stride, -infinity<double>);
  if (job.probabilities) {
    read_run(job.sources[kTarget].dtype, row_of(job, kTarget, offsets[kTarget]), job.class_strides[kTarget], n, q);
    for (int64_t c = 0; c < n; ++c) q[c] = (q[c] * keep + smooth) * job.weight(c);
  } else {
    for (int64_t c = 0; c < n; ++c) q[c] = smooth * job.weight(c);
    q[s.own[j]] += keep * job.weight(s.own[j]);
  }
  std::fill(q + n, q + stride, 0.0);
  const bool by_scores = job.gradients[0], by_target = job.gradients[1];
  s.dots[j] = general_row(job, z, q, s.scale[j], wide + 4 * stride, by_scores ? dz : nullptr, by_target ? dt : nullptr);
  if (by_scores) write_row(job, kScoresGradient, offsets[kScoresGradient], dz);
  if (by_target) write_row(job, kTargetGradient, offsets[kTargetGradient], dt);
  s.state[j] = kDone;
}

// --------------------------------------------------------------------------------------------------------
// Steps of a block

// Q and what the excluded class leaves of it, for index targets.
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
  if (job.linear) return;
  const T* operands[kOperands] = {};
  T* out[kOperands] = {};
  int count = 0;
  for (int k = 0; k < 3; ++k) {
    if (!job.statistics[k]) continue;
    for (int64_t j = 0; j < n; ++j) {
      const double lse = double(s.own_score[j]) - s.logs[j];
      if (k == 0) s.operands[k][j] = static_cast<T>(s.logs[j]);
      if (k == 1)
        s.operands[k][j] = static_cast<T>(s.faint(j) ? std::log(s.others[j]) + s.offset[j] + s.maximum[j] : lse);
      if (k == 2)
        s.operands[k][j] =
            static_cast<T>(s.dots[j] / static_cast<double>(job.classes) -
                           (s.faint(j) ? std::log(s.others[j]) + s.offset[j] : lse - double(s.maximum[j])));
    }
    operands[count] = s.operands[k];
    out[count++] = s.derivatives[k];
  }
  T parameters[kMaxParameters];
  for (int k = 0; k < kMaxParameters; ++k) parameters[k] = static_cast<T>(job.parameters[k]);
  const int all = (1 << count) - 1;
  const int variant = !job.gradients[0] ? kNone : all & ~job.kernel->predictions ? kAll : kPredictions;
  if constexpr (sizeof(T) == 4)
    job.kernel->f32[variant](n, operands, parameters, 1.0, s.values, out);
  else
    job.kernel->f64[variant](n, operands, parameters, 1.0, s.values, out);
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
  if (s.uniform && job.linear && !job.probabilities && job.smoothing == 0.0) return plain_losses(s, factor, n);
  for (int64_t j = 0; j < n; ++j) {
    double loss = 0.0;
    if (s.state[j] == kCounts) {
      if (!job.linear) {
        loss = s.row_weight[j] * double(s.values[j]);
      } else if (job.probabilities) {
        loss = s.total[j] * -s.logs[j] - s.dots[j];
      } else {
        loss = (1.0 - job.smoothing) * s.row_weight[j] * -s.logs[j];
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

template <class T>
void write_gradient_row(const Job<T>& job, int64_t j, int64_t offset, T* e, const T* q, Scratch<T>& s) {
  const double a = s.a[j];
  T* const direct = row_in_place(job, kScoresGradient, offset);
  T* const out = direct ? direct : e;
  const bool weighted = job.probabilities || (job.smoothing != 0.0 && !job.weights.empty());
  const T* const weights = !weighted ? nullptr : q;
  if (a != 0.0 && !(std::abs(a) >= 16.0 * double(std::numeric_limits<T>::min())))
    row_combine_wide(e, weights, a, s.b[j], job.padded, out);
  else
    row_combine(e, weights, static_cast<T>(a), static_cast<T>(s.b[j]), job.padded, out);
  out[s.own[j]] = static_cast<T>(s.own_gradient[j]);
  if (!direct) write_row(job, kScoresGradient, offset, out);
}

// Rows of contiguous classes, one by one.
template <class T> void run_rows(const Job<T>& job, int64_t begin, int64_t n, Scratch<T>& s) {
  const bool by_scores = job.gradients[0], by_target = job.gradients[1];
  Runs* const runs = s.runs;
  int64_t offsets[kOperands] = {}, at[kOperands] = {}, run[kOperands] = {};
  for (int slot = 0; slot < kOperands; ++slot)
    if (job.sources[slot].present() && (slot != kTarget || job.probabilities))
      runs_of<T>(job, slot, begin, n, runs[slot]);
  // Exponentials of a row stay in its gradient; else in a buffer, which holds one row where nothing has to wait.
  const bool direct = by_scores && job.class_strides[kScoresGradient] == 1 &&
                      job.sources[kScoresGradient].dtype == kOwn<T> && job.padded == job.classes;
  const int64_t buffered = job.linear ? 1 : n;
  T* const exponentials = !by_scores ? s.exponentials.get(kChunk + kLanes)
                          : direct   ? nullptr
                                     : s.exponentials.get(buffered * job.padded);
  int64_t gradient_rows[kRows];
  for (int64_t j = 0; j < n; ++j) {
    for (int slot = 0; slot < kOperands; ++slot) {
      if (!job.sources[slot].present() || (slot == kTarget && !job.probabilities)) continue;
      offsets[slot] = runs[slot].offsets[run[slot]] + at[slot] * runs[slot].stride;
      if (++at[slot] == runs[slot].lengths[run[slot]]) at[slot] = 0, ++run[slot];
    }
    gradient_rows[j] = offsets[kScoresGradient];
    s.others[j] = 0, s.kept[j] = 1;
    const T* t = nullptr;
    if (job.probabilities && s.state[j] != kMasked) {
      t = read_row(job, kTarget, offsets[kTarget], T(0), s.target.get(job.padded));
      if (job.options.checks != kOff && row_outside(t, job.classes)) s.state[j] = kBad, s.uniform = false;
    }
    if (s.state[j] != kCounts) {
      const T value = s.state[j] == kBad ? not_a_number<T> : T(0);
      if (by_scores) fill_row(job, kScoresGradient, offsets[kScoresGradient], value);
      if (by_target) fill_row(job, kTargetGradient, offsets[kTargetGradient], value);
      continue;
    }
    if (job.general()) {
      special_row(job, j, offsets, s);
      s.uniform = false;
      continue;
    }
    const T* const z = read_row(job, kScores, offsets[kScores], -infinity<T>, s.scores.get(job.padded));
    const T m = row_maximum(z, job.padded);
    if (!(std::abs(m) < infinity<T>)) {
      special_row(job, j, offsets, s);
      s.uniform = false;
      continue;
    }
    if (job.probabilities) s.own[j] = static_cast<Index<T>>(row_find(z, m, job.classes));
    const int64_t own = s.own[j];
    const bool far = std::abs(double(m)) > kNear;
    const Pivot<T> pivoted = far ? pivot<T, true>(m) : pivot<T, false>(m);
    T* const e = direct      ? reinterpret_cast<T*>(row_of(job, kScoresGradient, offsets[kScoresGradient]))
                 : by_scores ? exponentials + (job.linear ? 0 : j * job.padded)
                             : exponentials;
    Sum sum;
    for (int64_t i = 0; i < job.padded;) {
      const int64_t length = chunk_of(job.padded - i);
      T* const to = by_scores ? e + i : e;
      sum.add(far ? row_exp_far(z + i, length, pivoted, own - i, to, &s.kept[j])
                  : row_exp_near(z + i, length, pivoted, own - i, to, &s.kept[j]));
      i += length;
    }
    s.others[j] = sum.value();
    s.maximum[j] = m;
    s.own_score[j] = z[own];
    s.offset[j] = pivoted.offset;
    const T* q = job.own_weights.empty() ? nullptr : job.own_weights.data();
    if (job.probabilities) {
      const T* const weights = q;
      q = t;
      if (weights || job.smoothing != 0.0) {
        T* const made = s.products.get(job.padded);
        row_weights(t, weights, static_cast<T>(1.0 - job.smoothing),
                    static_cast<T>(job.smoothing / static_cast<double>(job.classes)), job.classes, made);
        std::fill(made + job.classes, made + job.padded, T(0));
        q = made;
      }
      s.dots[j] = row_dot(z, m, q, job.padded);
      const T mine = q[own];
      if (own < kLanes || job.padded - own - 1 < kLanes) {
        // Too short for a sum of its own on one side: the sum of a copy without the entry.
        T* const copy = s.products.get(job.padded);
        if (copy != q) std::copy(q, q + job.padded, copy);
        copy[own] = 0;
        s.rest[j] = row_sum(copy, job.padded);
        copy[own] = mine;
        q = copy;
      } else {
        s.rest[j] = row_sum(q, own) + row_sum(q + own + 1, job.padded - own - 1);
      }
      s.mine[j] = double(mine);
      s.total[j] = s.rest[j] + s.mine[j];
      s.b[j] = -s.scale[j];
    } else {
      if (job.linear) index_weights(job, j, s);
      if (job.smoothing != 0.0)
        s.dots[j] = row_dot(z, m, q, job.classes == job.padded ? job.padded : job.classes);
      else if (job.statistics[2])
        s.dots[j] = row_dot(z, m, static_cast<const T*>(nullptr), job.padded);
    }
    if (by_target) {
      const double logarithm = std::log1p(s.others[j] / double(s.kept[j]));
      T* const place = row_in_place(job, kTargetGradient, offsets[kTargetGradient]);
      T* const out = place ? place : s.exponentials.get(2 * job.padded) + job.padded;
      row_losses(z, m, static_cast<T>(logarithm), job.own_weights.empty() ? nullptr : job.own_weights.data(),
                 s.scale[j] * (1.0 - job.smoothing), job.classes, out);
      if (!place) write_row(job, kTargetGradient, offsets[kTargetGradient], out);
    }
    if (by_scores && job.linear) {
      const double inverse = 1.0 / (s.others[j] + double(s.kept[j]));
      s.a[j] = s.total[j] * s.scale[j] / (s.others[j] + double(s.kept[j]));
      s.own_gradient[j] = s.scale[j] * ((s.rest[j] * double(s.kept[j]) - s.mine[j] * s.others[j]) * inverse);
      write_gradient_row(job, j, offsets[kScoresGradient], e, q, s);
    }
  }
  if (!job.linear || !job.sources[kUpstream].present()) evaluate(job, n, s);
  if (by_scores && !job.linear) {
    coefficients(s, n, false);
    add_extra(s, n);
    for (int64_t j = 0; j < n; ++j) {
      if (s.state[j] != kCounts) continue;
      T* const e =
          direct ? reinterpret_cast<T*>(row_of(job, kScoresGradient, gradient_rows[j])) : exponentials + j * job.padded;
      write_gradient_row<T>(job, j, gradient_rows[j], e, nullptr, s);
    }
  }
}

// Offsets of position j in all tensors that have classes.
template <class T> void offsets_at(const Job<T>& job, int64_t row, int64_t* offsets) {
  for (int slot = 0; slot < kOperands; ++slot) {
    if (!job.sources[slot].present()) continue;
    int64_t rest = row;
    offsets[slot] = 0;
    for (int d = job.walk.dims - 1; d >= 0; --d) {
      offsets[slot] += rest % job.walk.sizes[d] * job.sources[slot].strides[d];
      rest /= job.walk.sizes[d];
    }
  }
}

// Positions side by side.
template <class T> void run_tile(const Job<T>& job, int64_t begin, int64_t n, Scratch<T>& s) {
  const bool by_scores = job.gradients[0], by_target = job.gradients[1];
  const int64_t classes = job.classes;
  Runs* const runs = s.runs;
  const Tile<T> z = read_tile(job, kScores, runs_of<T>(job, kScores, begin, n, runs[kScores]), n, s.scores);
  Tile<T> t{};
  if (job.probabilities) {
    t = read_tile(job, kTarget, runs_of<T>(job, kTarget, begin, n, runs[kTarget]), n, s.target);
    for (int64_t c = 0; c < classes && job.options.checks != kOff; ++c) {
      const T* const x = t.z + c * t.stride;
      if (row_outside(x, n))
        for (int64_t j = 0; j < n; ++j)
          if (s.state[j] == kCounts && (x[j] < T(0) || x[j] > T(1))) s.state[j] = kBad, s.uniform = false;
    }
  }
  maxima(z, s.maximum);
  if (job.probabilities) argmaxima(z, s.maximum, s.own);
  const bool far = any_far(s.maximum, n);
  if (far) {
    for (int64_t j = 0; j < n; ++j) {
      const Pivot<T> p = pivot<T, true>(s.maximum[j]);
      s.magic[j] = p.magic, s.limit[j] = p.limit, s.offset[j] = p.offset;
    }
  } else {
    pivots_near(s.maximum, n, s.magic, s.limit, s.offset);
  }

  // The exponentials go where the gradient will be, if positions are contiguous there.
  T* e = nullptr;
  int64_t step = 0;
  bool in_place = false;
  if (by_scores) {
    const Runs& to = runs_of<T>(job, kScoresGradient, begin, n, runs[kScoresGradient]);
    in_place = to.count == 1 && (to.stride == 1 || n == 1) && job.sources[kScoresGradient].dtype == kOwn<T>;
    step = in_place ? job.class_strides[kScoresGradient] : (job.block_rows + kLanes - 1) & ~(kLanes - 1);
    e = in_place ? reinterpret_cast<T*>(row_of(job, kScoresGradient, to.offsets[0]))
                 : s.exponentials.get(step * classes);
  }
  if (far)
    exps_far(z, s, e, step);
  else
    exps_near(z, s, e, step);

  const double smooth = job.smoothing / static_cast<double>(classes);
  const T keep = static_cast<T>(1.0 - job.smoothing), narrow_smooth = static_cast<T>(smooth);
  const bool dotted = job.probabilities || job.smoothing != 0.0 || job.statistics[2];
  const auto class_weight = [&](int64_t c) {
    return job.own_weights.empty() || (!job.probabilities && job.smoothing == 0.0) ? T(1) : job.own_weights[c];
  };
  if (dotted) {
    for (double* x : {s.dots, s.dots_low, s.rest, s.rest_low, s.mine}) std::fill(x, x + n, 0.0);
    for (int64_t c = 0; c < classes; ++c)
      tile_dot(z.z + c * z.stride, job.probabilities ? t.z + c * t.stride : nullptr, keep, narrow_smooth,
               class_weight(c), static_cast<Index<T>>(c), n, s);
    if constexpr (sizeof(T) == 8) {
      for (int64_t j = 0; j < n; ++j) {
        if (std::isfinite(s.dots[j])) s.dots[j] += s.dots_low[j];
        s.rest[j] += s.rest_low[j];
      }
    }
  }
  if (job.probabilities) {
    for (int64_t j = 0; j < n; ++j) s.b[j] = -s.scale[j], s.total[j] = s.rest[j] + s.mine[j];
  } else if (job.linear && (dotted || !job.weights.empty())) {
    for (int64_t j = 0; j < n; ++j) index_weights(job, j, s);
  }
  for (int64_t j = 0; j < n; ++j) s.own_score[j] = z.z[s.own[j] * z.stride + j];
  if (!job.linear || !job.sources[kUpstream].present() || by_target) evaluate(job, n, s);
  if (s.uniform)
    std::fill(s.keep, s.keep + n, ~Bits<T>(0));
  else
    for (int64_t j = 0; j < n; ++j) s.keep[j] = s.state[j] == kMasked ? Bits<T>(0) : ~Bits<T>(0);

  if (by_target) {
    const Runs& to = runs_of<T>(job, kTargetGradient, begin, n, runs[kTargetGradient]);
    for (int64_t j = 0; j < n; ++j) {
      s.operands[0][j] = s.state[j] == kBad ? not_a_number<T> : static_cast<T>(-s.logs[j]);
    }
    for (int64_t c = 0; c < classes; ++c) {
      tile_losses(z.z + c * z.stride, (1.0 - job.smoothing) * job.weight(c), n, s, s.derivatives[0]);
      const T* from = s.derivatives[0];
      for (int64_t r = 0; r < to.count; from += to.lengths[r++])
        store_run(job.sources[kTargetGradient].dtype, from, to.stride, to.lengths[r],
                  row_of(job, kTargetGradient, to.offsets[r] + c * job.class_strides[kTargetGradient]));
    }
  }
  if (by_scores) {
    coefficients(s, n, dotted && job.linear);
    if (!job.linear) add_extra(s, n);
    for (int64_t j = 0; j < n && !s.uniform; ++j)
      if (s.state[j] == kBad) s.a[j] = s.b[j] = s.own_gradient[j] = not_a_number<double>;
    const bool plain = !dotted, wide = narrow_coefficients(s, n, dotted);
    const Runs& to = runs[kScoresGradient];
    const Source& gradient = job.sources[kScoresGradient];
    const bool by_rows =
        !in_place && to.count == 1 && job.class_strides[kScoresGradient] == 1 && gradient.dtype == kOwn<T>;
    for (int64_t c = 0; c < classes; ++c) {
      T* const row = e + c * step;
      const T* const q = job.probabilities ? t.z + c * t.stride : nullptr;
      if (wide)
        tile_combine_wide(row, q, keep, narrow_smooth, class_weight(c), static_cast<Index<T>>(c), n, s, row);
      else
        tile_combine(row, q, keep, narrow_smooth, class_weight(c), plain, static_cast<Index<T>>(c), n, s, row);
      if (in_place || by_rows) continue;
      const T* from = row;
      for (int64_t r = 0; r < to.count; from += to.lengths[r++])
        store_run(job.sources[kScoresGradient].dtype, from, to.stride, to.lengths[r],
                  row_of(job, kScoresGradient, to.offsets[r] + c * job.class_strides[kScoresGradient]));
    }
    if (by_rows)
      tile_to_rows(e, step, n, classes, reinterpret_cast<T*>(row_of(job, kScoresGradient, to.offsets[0])), to.stride);
  }
  for (int64_t j = 0; j < n && far; ++j) {
    if (s.state[j] != kCounts || std::abs(s.maximum[j]) < infinity<T>) continue;
    int64_t offsets[kOperands];
    offsets_at(job, begin + j, offsets);
    special_row(job, j, offsets, s);
    s.uniform = false;
  }
}

// Log-probabilities as they are (nll_loss): the formula of the picked one, and its gradient there alone.
template <class T> int run_picked(const Job<T>& job, int64_t begin, int64_t n, Scratch<T>& s) {
  int violation = 0;
  int64_t offsets[kOperands], places[kRows];
  const Source& scores = job.sources[kScores];
  for (int64_t j = 0; j < n; ++j) {
    offsets_at(job, begin + j, offsets);
    places[j] = offsets[kScoresGradient];
    T z = 0;
    if (s.state[j] == kCounts) {
      const int64_t place = offsets[kScores] + s.own[j] * job.class_strides[kScores];
      read_run(scores.dtype, row_of(job, kScores, place), 1, 1, &z);
      if (!job.shift.empty()) z += job.shift[s.own[j]];
      if (job.options.checks != kOff && z > T(0.0078125)) s.state[j] = kBad, violation = 1;
    }
    s.operands[0][j] = z;
    s.logs[j] = z;
  }
  if (!job.linear) {
    const T* operands[kOperands] = {s.operands[0]};
    T* out[kOperands] = {s.derivatives[0]};
    T parameters[kMaxParameters];
    for (int k = 0; k < kMaxParameters; ++k) parameters[k] = static_cast<T>(job.parameters[k]);
    const int variant = !job.gradients[0] ? kNone : 1 & ~job.kernel->predictions ? kAll : kPredictions;
    if constexpr (sizeof(T) == 4)
      job.kernel->f32[variant](n, operands, parameters, 1.0, s.values, out);
    else
      job.kernel->f64[variant](n, operands, parameters, 1.0, s.values, out);
  }
  if (!job.gradients[0]) return violation;
  const Source& to = job.sources[kScoresGradient];
  for (int64_t j = 0; j < n; ++j) {
    if (s.state[j] == kBad) {
      fill_row(job, kScoresGradient, places[j], not_a_number<T>);
      continue;
    }
    if (s.state[j] != kCounts) continue;
    const double slope = job.linear ? -1.0 : double(s.derivatives[0][j]);
    const T g = static_cast<T>(slope * s.row_weight[j] * s.scale[j]);
    write_run(to.dtype, &g, 1, row_of(job, kScoresGradient, places[j] + s.own[j] * job.class_strides[kScoresGradient]));
  }
  return violation;
}

// Targets that are indices, in place if they are contiguous 64-bit integers.
template <class T> const int64_t* indices_of(const Job<T>& job, int64_t begin, int64_t n, int64_t* buffer) {
  const Source& source = job.sources[kTarget];
  if (job.walk.dims == 1 && source.strides[0] == 1 && source.dtype == DType::kLong)
    return reinterpret_cast<const int64_t*>(source.data) + begin;
  return fetch(job.walk, source, begin, n, buffer);
}

template <class T> void run_block(Job<T>& job, int64_t block, Scratch<T>& s) {
  const int64_t begin = block * job.block_rows, n = std::min(job.block_rows, job.walk.numel - begin);
  const Options& options = job.options;
  const float* mask = mask_of(job, begin, n, s);
  const double* factor = factors(job, {kSampleWeight, kUpstream}, begin, n, s);
  int violation = 0;
  if (factor)
    for (int64_t j = 0; j < n; ++j) s.scale[j] = factor[j] * job.scale;
  if (job.probabilities) {
    for (int64_t j = 0; j < n; ++j) s.state[j] = mask && mask[j] == 0.0f ? kMasked : kCounts;
    s.uniform = !mask;
  } else {
    const int found = classify(indices_of(job, begin, n, s.indices), mask, job.classes, job.ignore_index, n, s);
    s.uniform = found == 0;
    if (found & kBad) violation = 2;
    for (int64_t j = 0; j < n && !job.weights.empty(); ++j) s.row_weight[j] = job.weights[s.own[j]];
  }
  if (violation && options.checks == kRaise) {
    job.violations[block] = static_cast<uint8_t>(violation);
    return;
  }
  if (job.picked)
    violation = run_picked(job, begin, n, s);
  else if (job.by_row)
    run_rows(job, begin, n, s);
  else
    run_tile(job, begin, n, s);
  for (int64_t j = 0; j < n && job.probabilities; ++j)
    if (s.state[j] == kBad) violation = 2;
  if (options.checks == kRaise) job.violations[block] = static_cast<uint8_t>(violation);
  if (job.sources[kUpstream].present()) return;
  losses(job, n, factor, s);
  if (options.reduction != kElements)
    job.sums[block] = sum_block(s.values, n);
  else
    write_run(job.result, s.values, n, job.values + begin * size_of(job.result));
}

// What the mean divides by: for indices the class weights of the rows that count, times sample_weight.
template <class T> double denominator(const Job<T>& job) {
  Weights s;
  int64_t buffer[kRows];
  const bool sampled = job.sources[kSampleWeight].present(), masked = job.sources[kMask].present();
  if (job.probabilities && !sampled && !masked) return static_cast<double>(job.walk.numel);
  Sum total;
  for (int64_t begin = 0; begin < job.walk.numel; begin += kRows) {
    const int64_t n = std::min(kRows, job.walk.numel - begin);
    const float* mask = mask_of(job, begin, n, s);
    const double* factor = factors(job, {kSampleWeight}, begin, n, s);
    const int64_t* y = job.probabilities ? nullptr : indices_of(job, begin, n, buffer);
    if (!mask && !factor && job.weights.empty()) {
      int64_t counted = 0;
      for (int64_t j = 0; j < n; ++j) counted += y[j] != job.ignore_index;
      total.add(static_cast<double>(counted));
      continue;
    }
    for (int64_t j = 0; j < n; ++j) {
      if (mask && mask[j] == 0.0f) continue;
      double w = factor ? factor[j] : 1.0;
      if (!job.probabilities) {
        if (y[j] == job.ignore_index) continue;
        if (!job.weights.empty() && y[j] >= 0 && y[j] < job.classes) w *= job.weights[y[j]];
      }
      total.add(w);
    }
  }
  return total.value();
}

template <class T> void run_blocks(int64_t begin, int64_t end, void* context) {
  Scratch<T> memory, *const scratch = &memory;  // on the stack: its pages are there already
  // What is the same for all blocks.
  const Job<T>& job = *static_cast<Job<T>*>(context);
  const int64_t n = std::min(job.block_rows, job.walk.numel);
  std::fill(scratch->scale, scratch->scale + n, job.scale);
  std::fill(scratch->row_weight, scratch->row_weight + n, 1.0);
  std::fill(scratch->total, scratch->total + n, 1.0);
  std::fill(scratch->rest, scratch->rest + n, 0.0);
  std::fill(scratch->b, scratch->b + n, 0.0);
  for (int64_t block = begin; block < end; ++block) run_block<T>(*static_cast<Job<T>*>(context), block, *scratch);
}

// A vector with an entry per class; false if the tensor is something else.
template <class T> bool class_vector(const Tensor& tensor, int64_t classes, std::vector<T>& values) {
  const DType dtype = dtype_of(tensor);
  if (!known(dtype) || !floating(dtype) || !tensor.is_cpu() || tensor.dim() != 1 || tensor.sizes()[0] != classes)
    return false;
  values.resize(classes);
  read_run(dtype, tensor.data_ptr(), tensor.strides()[0], classes, values.data());
  return true;
}

struct Arguments {
  int64_t kernel, code;
  const Tensor& a;
  const MaybeTensor &b, &c, &weight, &sample_weight, &mask, &upstream;
  const std::vector<double>& numbers;
};

template <class T> Result run(const Arguments& given) {
  const Result declined{{}, {}, {}, {}, {}, kDeclined};
  const Tensor &a = given.a, &b = *given.b;
  const std::vector<double>& numbers = given.numbers;
  Job<T> job;
  job.kernel = reinterpret_cast<const Kernel*>(given.kernel);
  job.options = Options(given.code);
  const Options& options = job.options;
  job.probabilities = floating(dtype_of(b));
  job.linear = options.family & 2;
  job.picked = options.family & 4;
  for (int k = 0; k < 3; ++k) job.statistics[k] = !job.linear && ((options.family >> (3 + k)) & 1);
  job.smoothing = numbers[2];
  if (!job.probabilities) job.ignore_index = static_cast<int64_t>(numbers[3]);
  if (job.probabilities && numbers[3] >= 0) return declined;
  if (job.picked && (job.probabilities || job.smoothing != 0.0 || job.statistics[1] || job.statistics[2]))
    return declined;
  if (!job.linear) {
    const int operands = job.statistics[0] + job.statistics[1] + job.statistics[2];
    if (!job.kernel || job.kernel->abi != kAbi || job.kernel->operands != operands || operands == 0) return declined;
  }
  std::copy(numbers.begin() + 4, numbers.end(), job.parameters);

  // The walk over rows: the scores without their class dimension.
  const int dims = static_cast<int>(a.dim()), class_dim = dims == 1 ? 0 : 1;
  const auto sizes = a.sizes(), strides = a.strides();
  job.classes = sizes[class_dim];
  if (job.classes == 0 || job.classes > (int64_t(1) << 30)) return declined;
  job.padded = std::max(job.classes, kLanes);
  int64_t row_sizes[kDims], row_strides[kDims];
  const auto without_classes = [&](const auto& full, int64_t* rows) {
    for (int i = 0, k = 0; i < dims; ++i)
      if (i != class_dim) rows[k++] = full[i];
  };
  without_classes(sizes, row_sizes);
  without_classes(strides, row_strides);
  start(job.walk, dims - 1, row_sizes, row_strides);
  const auto loss_strides = dense_strides(job.walk);

  const auto place = [&](int slot, const Tensor& tensor, const int64_t* full_strides, DType dtype, const void* data) {
    int64_t rows[kDims];
    for (int i = 0, k = 0; i < dims; ++i)
      if (i != class_dim) rows[k++] = full_strides[i];
    Source& source = job.sources[slot];
    for (int i = 0; i < dims - 1; ++i) source.strides[i] = rows[job.walk.order[i]];
    source.dtype = dtype;
    source.data = static_cast<const char*>(data);
    if (!source.data) source.data = reinterpret_cast<const char*>(&job);  // empty tensors: present, never read
    job.class_strides[slot] = full_strides[class_dim];
    (void)tensor;
  };
  const DType target_dtype = dtype_of(b);
  place(kScores, a, strides.data(), dtype_of(a), a.data_ptr());
  if (job.probabilities) {
    if (!floating(target_dtype) || b.dim() != dims) return declined;
    for (int i = 0; i < dims; ++i)
      if (b.sizes()[i] != sizes[i]) return declined;
    place(kTarget, b, b.strides().data(), target_dtype, b.data_ptr());
  } else {
    if (floating(target_dtype) || target_dtype == DType::kBool || b.dim() != dims - 1) return declined;
    if (!attach(job.walk, row_sizes, b, false, job.sources[kTarget])) return declined;
  }
  const MaybeTensor* extras[] = {&given.sample_weight, &given.mask, &given.upstream};
  for (int k = 0; k < 3; ++k)
    if (*extras[k] && !attach(job.walk, row_sizes, **extras[k], true, job.sources[kSampleWeight + k])) return declined;
  if (given.mask && job.sources[kMask].dtype != DType::kBool) return declined;
  if (given.weight) {
    const auto half = [](DType dtype) { return dtype == DType::kHalf || dtype == DType::kBFloat16; };
    if (half(dtype_of(*given.weight)) && !half(dtype_of(a))) return declined;  // refused, in words
    if (!class_vector(*given.weight, job.classes, job.weights)) return declined;
    job.own_weights.assign(job.weights.begin(), job.weights.end());
    job.own_weights.resize(job.padded, T(0));
  }
  if (given.c && !class_vector(*given.c, job.classes, job.shift)) return declined;
  job.total_weight = static_cast<double>(job.classes);
  if (given.weight) {
    Sum total;
    for (const double w : job.weights) total.add(w);
    job.total_weight = total.value();
  }

  Result result{{}, {}, {}, {}, {}, 0};
  job.result = options.result_dtype >= 0
                   ? static_cast<DType>(options.result_dtype)
                   : promote(job.sources[kScores].dtype, job.probabilities ? target_dtype : job.sources[kScores].dtype);
  const Tensor* operands[] = {&a, &b};
  for (int k = 0; k < (job.probabilities ? 2 : 1); ++k) {
    if (!((options.gradients >> k) & 1)) continue;
    Walk whole;
    start(whole, dims, sizes.data(), operands[k]->strides().data());
    const auto dense = dense_strides(whole);
    job.gradient_dtypes[k] = job.sources[k].dtype;
    allocate_gradient(job, result, k, dims, sizes.data(), dense.data());
    if (job.picked) std::memset(job.gradients[k], 0, job.gradient_sizes[k] * size_of(job.gradient_dtypes[k]));
    place(kScoresGradient + k, a, dense.data(), job.gradient_dtypes[k], job.gradients[k]);
    if (!job.gradients[k]) job.gradients[k] = reinterpret_cast<char*>(&job);
  }
  merge<kSources>(job.walk, job.sources);
  allocate_loss(job, result, dims - 1, row_sizes, loss_strides.data());

  const int64_t rows = job.walk.numel, classes = job.classes;
  job.by_row = job.general() || (!job.picked && ((job.class_strides[kScores] == 1 && classes >= kRowClasses) ||
                                                 (rows < kLanes && classes >= 8 * kLanes)));
  if (job.picked)
    job.block_rows = kRows;
  else if (job.by_row)
    job.block_rows = std::clamp<int64_t>(kGrain / classes, 1, 256);
  else
    job.block_rows =
        std::clamp<int64_t>(kTileBytes / static_cast<int64_t>(sizeof(T)) / classes, 64, kRows) & ~(kLanes - 1);
  const int64_t blocks = (rows + job.block_rows - 1) / job.block_rows;
  double denominated = 1.0;
  if (options.reduction == kMean) {
    denominated = numbers[0];
    if (std::isnan(denominated)) denominated = denominator(job);
  }
  set_scale(job, denominated, numbers[1]);
  job.sums.resize(blocks);
  job.violations.resize(blocks);
  const int64_t grain = std::max<int64_t>(1, kGrain / (job.block_rows * classes));
  if (blocks <= grain)
    run_blocks<T>(0, blocks, &job);
  else
    STABLE_TORCH_ERROR_CODE_CHECK(torch_parallel_for(0, blocks, grain, run_blocks<T>, &job));
  int64_t& status = std::get<5>(result);
  if (options.checks == kRaise)
    for (const uint8_t violation : job.violations)
      if (violation && (status == 0 || violation < status)) status = violation;
  finish(job, result);
  return result;
}

}  // namespace

Result class_scores(int64_t kernel, int64_t code, Tensor a, MaybeTensor b, MaybeTensor c, MaybeTensor d,
                    MaybeTensor weight, MaybeTensor sample_weight, MaybeTensor mask, MaybeTensor upstream,
                    std::vector<double> numbers) {
  const Result declined{{}, {}, {}, {}, {}, kDeclined};
  const DType dtype = dtype_of(a);
  if (!b || d || a.dim() == 0 || a.dim() > kDims || !a.is_cpu() || !b->is_cpu()) return declined;
  if (!known(dtype) || !floating(dtype) || !known(dtype_of(*b))) return declined;
  if (numbers.size() < 4 || numbers.size() > 4 + kMaxParameters) return declined;
  const Arguments given{kernel, code, a, b, c, weight, sample_weight, mask, upstream, numbers};
  return dtype == DType::kDouble || dtype_of(*b) == DType::kDouble ? run<double>(given) : run<float>(given);
}

}  // namespace losskit

LOSSKIT_OP(class_scores)
