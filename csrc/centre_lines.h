// The centre lines of a mask, of images or volumes, and their derivatives: what openings of the mask and of each of its
// erosions remove. An erosion takes the least of a pixel and its neighbours across a side; an opening then takes the
// largest of all neighbours.
//
// 1. A mask is swept once, row by row. Each step follows the one that it needs by as many rows (of a volume: slices) as
//    it looks ahead, so that of every image between two steps only a few last rows are kept, which stay in the cache.
// 2. Minima and maxima are taken along one dimension after the other. So go derivatives back: of three neighbours the
//    first that is the least or the largest has the derivative, compared anew, as in torch's pooling. Where minima
//    along two dimensions are the same, each has half, as in torch's minimum.
// 3. Rows are padded to whole lanes. Beyond its columns an image is infinite, and a derivative 0.
#pragma once

#include <algorithm>
#include <vector>

#include "drive.h"
#include "primitives.h"

namespace losskit {
namespace {

constexpr int64_t kWide = 16;  // columns of a lane; as many lie before and after a row

struct Sizes {
  int64_t depth, height, width;
  bool volume;
  int64_t rows() const { return depth * height; }
};

// The last rows of an image.
template <class T> struct Rows {
  T* first = nullptr;
  int64_t mask = 0, stride = 0;
  LOSSKIT_INLINE T* operator[](int64_t row) const { return first + (row & mask) * stride; }
};

// Where a row lies along a dimension: how far it is to the next row, and how many there are before it and after.
struct Place {
  int64_t row, stride, before, after;
};

template <class T> LOSSKIT_INLINE T* beside(const Rows<T>& image, T* outside, const Place& at, int64_t step) {
  const bool inside = step < 0 ? -step <= at.before : step <= at.after;
  return inside ? image[at.row + step * at.stride] : outside;
}

// --------------------------------------------------------------------------------------------------------
// Rows; kMost: the largest of neighbours, else the least

template <bool kMost, class T> LOSSKIT_INLINE bool better(T a, T b) { return kMost ? a > b : a < b; }
template <bool kMost, class T> LOSSKIT_INLINE bool no_worse(T a, T b) { return kMost ? a >= b : a <= b; }
template <bool kMost, class T> LOSSKIT_INLINE T best(T a, T b) { return better<kMost>(b, a) ? b : a; }
template <class T> LOSSKIT_INLINE T positive(T x) { return x <= 0 ? T(0) : x; }

template <bool kMost, class T> LOSSKIT_INLINE void best_of(const T* a, const T* b, const T* c, int64_t n, T* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = best<kMost>(best<kMost>(a[i], b[i]), c[i]);
}

// What a number receives of the windows of three whose best it is: x are the numbers from the second before it to the
// second after it, g the derivatives by the windows around the one before it, itself and the one after it.
template <bool kMost, class T, class Put>
LOSSKIT_INLINE void hand_back(const T* const (&x)[5], const T* const (&g)[3], int64_t n, const Put& put) {
  const T *a = x[0], *b = x[1], *own = x[2], *d = x[3], *e = x[4], *first = g[0], *second = g[1], *third = g[2];
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const bool before = better<kMost>(own[i], b[i]), after = no_worse<kMost>(own[i], d[i]);
    T sum = better<kMost>(own[i], a[i]) & before ? first[i] : T(0);
    sum += before & after ? second[i] : T(0);
    sum += after & no_worse<kMost>(own[i], e[i]) ? third[i] : T(0);
    put(i, sum);
  }
}

template <bool kMost, class T, class Put>
LOSSKIT_INLINE void hand_back_along(const Place& at, const Rows<T>& x, T* outside, const Rows<T>& g, T* none, int64_t n,
                                    const Put& put) {
  const T* const numbers[] = {beside(x, outside, at, -2), beside(x, outside, at, -1), x[at.row],
                              beside(x, outside, at, 1), beside(x, outside, at, 2)};
  const T* const slopes[] = {beside(g, none, at, -1), g[at.row], beside(g, none, at, 1)};
  hand_back<kMost>(numbers, slopes, n, put);
}

template <bool kMost, class T, class Put>
LOSSKIT_INLINE void hand_back_in_row(const T* x, const T* g, int64_t n, const Put& put) {
  hand_back<kMost>({x - 2, x - 1, x, x + 1, x + 2}, {g - 1, g, g + 1}, n, put);
}

template <class T> LOSSKIT_INLINE double sum_of(const T* x, const T* factors, int64_t n) {
  double sum = 0;
  for (int64_t begin = 0; begin < n; begin += 64 * kWide) {
    const int64_t end = std::min(n, begin + 64 * kWide);
    T lanes[kWide] = {};
    for (int64_t from = begin; from < end; from += kWide)
      for (int64_t k = 0; k < kWide; ++k) lanes[k] += x[from + k] * factors[from + k];
    for (int64_t k = 0; k < kWide; ++k) sum += static_cast<double>(lanes[k]);
  }
  return sum;
}

// --------------------------------------------------------------------------------------------------------
// A mask

// What is kept of a mask that was eroded some times.
template <class T> struct Stage {
  Rows<T> image;       // itself
  Rows<T> widened[2];  // its next erosion, of which maxima are taken along rows; in volumes also along columns
  Rows<T> own;         // what its opening removes; then the derivative by that
  Rows<T> lines;       // the centre lines found before
  Rows<T> by_image, by_widened;
  Rows<T> by_least[2];  // derivatives by minima along the outer dimension, and along columns of a volume
};

template <class T> class Sweep {
 public:
  Sweep(const Sizes& sizes, int64_t stages, bool slopes)
      : sizes_(sizes), k_(stages), slopes_(slopes), stages_(stages + 1) {
    wide_ = (sizes.width + kWide - 1) / kWide * kWide;
    far_ = sizes.volume ? sizes.height : 1;
    extra_ = sizes.volume ? 1 : 0;
    found_ = (k_ + 1) * far_ + extra_;
    lowered_ = found_ + far_ + extra_;
    last_ = slopes ? lowered_ + k_ * far_ : found_;
    layout();
    memory_.assign(size_, T(0));
    layout();
    const T infinite = infinity<T>;
    const auto fill = [](const Rows<T>& rows, T x) {
      std::fill_n(rows.first - kWide, (rows.mask + 1) * rows.stride, x);
    };
    for (const Stage<T>& stage : stages_) fill(stage.image, infinite);
    const int64_t stride = stages_[0].image.stride;
    fill({highest_, 0, stride}, infinite), fill({ones_, 0, stride}, T(1));
    for (T* line : {lowest_, eroded_}) fill({line, 0, stride}, -infinite);
  }

  // The sum of the centre lines of x, and of them where y is not; (rows, width) each.
  LOSSKIT_INLINE void value(const T* x, const T* y, double (&sums)[2]) {
    sums[0] = sums[1] = 0;
    for (int64_t tick = 0; tick < sizes_.rows() + last_; ++tick) {
      forward(x, tick);
      const int64_t row = tick - found_;
      if (!inside(row)) continue;
      const T* lines = stages_[k_].lines[row];
      load_rest(y, row);
      sums[0] += sum_of(lines, ones_, wide_);
      sums[1] += sum_of(lines, rest_, wide_);
    }
  }

  // The derivatives of upstream times these sums; by x, unless that is null, of a sweep with slopes.
  LOSSKIT_INLINE void derivatives(const T* x, const T* y, const T (&upstream)[2], T* by_x, T* by_y) {
    for (int64_t tick = 0; tick < sizes_.rows() + last_; ++tick) {
      forward(x, tick);
      const int64_t row = tick - found_;
      if (by_y && inside(row)) {
        const T* lines = stages_[k_].lines[row];
        for (int64_t i = 0; i < sizes_.width; ++i) by_y[row * sizes_.width + i] = -upstream[1] * lines[i];
      }
      if (by_x) backward(y, upstream, by_x, tick);
    }
  }

 private:
  bool inside(int64_t row) const { return row >= 0 && row < sizes_.rows(); }

  // Where a row lies along the outer dimension (0), or along the columns of a volume (1).
  LOSSKIT_INLINE Place place(int64_t row, int dimension) const {
    if (!sizes_.volume) return {row, 1, row, sizes_.height - 1 - row};
    const int64_t slice = row / sizes_.height, in_slice = row - slice * sizes_.height;
    if (dimension == 0) return {row, sizes_.height, slice, sizes_.depth - 1 - slice};
    return {row, 1, in_slice, sizes_.height - 1 - in_slice};
  }

  LOSSKIT_INLINE void forward(const T* x, int64_t tick) {
    if (inside(tick)) std::copy_n(x + tick * sizes_.width, sizes_.width, stages_[0].image[tick]);
    for (int64_t k = 0; k < k_; ++k) {
      int64_t row = tick - (k + 1) * far_;
      if (inside(row)) erode(k, row);
      row -= extra_;
      if (sizes_.volume && inside(row)) {
        const Place at = place(row, 1);
        const Rows<T>& found = stages_[k].widened[0];
        best_of<true>(beside(found, lowest_, at, -1), found[row], beside(found, lowest_, at, 1), wide_,
                      stages_[k].widened[1][row]);
      }
      row -= far_;
      if (inside(row)) find(k, row);
    }
  }

  LOSSKIT_INLINE void erode(int64_t k, int64_t row) {
    const Rows<T>& image = stages_[k].image;
    const T* x = image[row];
    T* out = stages_[k + 1].image[row];
    best_of<false>(x - 1, x, x + 1, wide_, out);
    for (int dimension = 0; dimension <= extra_; ++dimension) {
      const Place at = place(row, dimension);
      best_of<false>(out, beside(image, highest_, at, -1), beside(image, highest_, at, 1), wide_, out);
    }
    std::fill(out + sizes_.width, out + wide_, infinity<T>);
    std::copy_n(out, sizes_.width, eroded_);
    best_of<true>(eroded_ - 1, eroded_, eroded_ + 1, wide_, stages_[k].widened[0][row]);
  }

  LOSSKIT_INLINE void find(int64_t k, int64_t row) {
    const Place at = place(row, 0);
    const Rows<T>& widened = stages_[k].widened[extra_];
    const T *a = beside(widened, lowest_, at, -1), *b = widened[row], *c = beside(widened, lowest_, at, 1);
    const T *x = stages_[k].image[row], *before = k ? stages_[k].lines[row] : none_;
    T *ridges = slopes_ ? stages_[k].own[row] : spare_, *after = stages_[k + 1].lines[row];
#pragma GCC ivdep
    for (int64_t i = 0; i < wide_; ++i) {
      const T own = positive(x[i] - best<true>(best<true>(a[i], b[i]), c[i]));
      ridges[i] = own;
      after[i] = before[i] + positive(own - before[i] * own);
    }
    std::fill(after + sizes_.width, after + wide_, T(0));
  }

  LOSSKIT_INLINE void backward(const T* y, const T (&upstream)[2], T* by_x, int64_t tick) {
    if (inside(tick - found_)) slopes_of_lines(y, upstream, tick - found_);
    for (int64_t k = 0; k < k_; ++k) {
      const int64_t row = tick - found_ - far_;
      if (sizes_.volume && inside(row)) {
        T* out = stages_[k].by_widened[row];
        hand_back_along<true>(place(row, 0), stages_[k].widened[1], lowest_, stages_[k].own, none_, wide_,
                              [out](int64_t i, T sum) __attribute__((always_inline)) { out[i] = sum; });
      }
      if (inside(row - extra_)) slopes_of_opening(k, row - extra_);
    }
    for (int64_t k = k_ - 1; k >= 0; --k) {
      int64_t row = tick - lowered_ - (k_ - 1 - k) * far_;
      if (inside(row)) slopes_of_minima(k, row);
      row -= far_;
      if (!inside(row)) continue;
      T* sum = stages_[k].by_image[row];
      for (int dimension = 0; dimension <= extra_; ++dimension)
        hand_back_along<false>(place(row, dimension), stages_[k].image, highest_, stages_[k].by_least[dimension], none_,
                               wide_, [sum](int64_t i, T more) __attribute__((always_inline)) { sum[i] += more; });
    }
    const int64_t row = tick - last_;
    if (inside(row)) std::copy_n(stages_[0].by_image[row], sizes_.width, by_x + row * sizes_.width);
  }

  // From the derivatives by all centre lines those by the ridges of each stage, which are also of its image.
  LOSSKIT_INLINE void slopes_of_lines(const T* y, const T (&upstream)[2], int64_t row) {
    load_rest(y, row);
    for (int64_t i = 0; i < wide_; ++i) spare_[i] = upstream[0] + upstream[1] * rest_[i];
    std::fill_n(stages_[k_].by_image[row], wide_, T(0));
    for (int64_t k = k_ - 1; k >= 0; --k) {
      const T* before = k ? stages_[k].lines[row] : none_;
      T *own = stages_[k].own[row], *by_image = stages_[k].by_image[row];
#pragma GCC ivdep
      for (int64_t i = 0; i < wide_; ++i) {
        const T ridge = own[i], slope = spare_[i];
        const bool adds = ridge - before[i] * ridge > 0;
        spare_[i] = adds ? slope * (1 - ridge) : slope;
        own[i] = adds & (ridge > 0) ? slope * (1 - before[i]) : T(0);
      }
      std::fill(own + sizes_.width, own + wide_, T(0));
      std::copy_n(own, wide_, by_image);
    }
  }

  // An opening is taken away: by the numbers of the erosion that are largest.
  LOSSKIT_INLINE void slopes_of_opening(int64_t k, int64_t row) {
    T *line = back_, *out = stages_[k + 1].by_image[row];
    hand_back_along<true>(place(row, extra_), stages_[k].widened[0], lowest_,
                          sizes_.volume ? stages_[k].by_widened : stages_[k].own, none_, wide_,
                          [line](int64_t i, T sum) __attribute__((always_inline)) { line[i] = sum; });
    std::copy_n(stages_[k + 1].image[row], sizes_.width, eroded_);
    hand_back_in_row<true>(eroded_, line, wide_,
                           [out](int64_t i, T sum) __attribute__((always_inline)) { out[i] -= sum; });
  }

  // The derivative by an erosion is of the least of the minima along dimensions: of the last, then of those before it.
  LOSSKIT_INLINE void slopes_of_minima(int64_t k, int64_t row) {
    const Rows<T>& image = stages_[k].image;
    const T *x = image[row], *slope = stages_[k + 1].by_image[row];
    T *line = back_, *out = stages_[k].by_image[row], *outer = stages_[k].by_least[0][row];
    const Place at = place(row, 0);
    const T *a = beside(image, highest_, at, -1), *b = beside(image, highest_, at, 1);
    if (!sizes_.volume) {
#pragma GCC ivdep
      for (int64_t i = 0; i < wide_; ++i) {
        const T first = best<false>(best<false>(a[i], x[i]), b[i]);
        const T last = best<false>(best<false>(x[i - 1], x[i]), x[i + 1]);
        outer[i] = slope[i] * part(first, last);
        line[i] = slope[i] - outer[i];
      }
    } else {
      const Place within = place(row, 1);
      const T *c = beside(image, highest_, within, -1), *d = beside(image, highest_, within, 1);
      T* middle = stages_[k].by_least[1][row];
#pragma GCC ivdep
      for (int64_t i = 0; i < wide_; ++i) {
        const T first = best<false>(best<false>(a[i], x[i]), b[i]);
        const T second = best<false>(best<false>(c[i], x[i]), d[i]);
        const T last = best<false>(best<false>(x[i - 1], x[i]), x[i + 1]);
        const T both = slope[i] * part(best<false>(first, second), last);
        line[i] = slope[i] - both;
        outer[i] = both * part(first, second);
        middle[i] = both - outer[i];
      }
    }
    hand_back_in_row<false>(x, line, wide_, [out](int64_t i, T sum) __attribute__((always_inline)) { out[i] += sum; });
  }

  // How much of a minimum belongs to the first of two.
  static LOSSKIT_INLINE T part(T a, T b) { return a < b ? T(1) : a == b ? T(0.5) : T(0); }

  LOSSKIT_INLINE void load_rest(const T* y, int64_t row) {
    const T* from = y + row * sizes_.width;
#pragma GCC ivdep
    for (int64_t i = 0; i < sizes_.width; ++i) rest_[i] = 1 - from[i];
  }

  // The places of everything in memory, of which the first time the size is found.
  void layout() {
    T* const start = aligned(memory_.data());
    size_ = 0;
    const auto rows = [&](int64_t from, int64_t to) {  // written at a lag, and last read at a lag
      int64_t depth = 1;
      while (depth <= to - from && depth < sizes_.rows()) depth *= 2;
      Rows<T> found{start + size_ + kWide, depth - 1, wide_ + 2 * kWide};
      size_ += depth * found.stride;
      return found;
    };
    for (T** line : {&lowest_, &highest_, &none_, &ones_, &rest_, &spare_, &back_, &eroded_}) *line = rows(0, 0).first;
    for (int64_t k = 0; k <= k_; ++k) {
      Stage<T>& stage = stages_[k];
      const int64_t first = k * far_, found = first + 2 * far_ + extra_, ends = lowered_ + (k_ - k) * far_;
      stage.image = rows(first, slopes_ ? ends + 2 * far_ : found);
      stage.lines = rows(first + far_ + extra_, slopes_ ? found_ : found);
      if (slopes_) stage.by_image = rows(found_, ends);
      if (k == k_) continue;
      for (int i = 0; i <= extra_; ++i)
        stage.widened[i] = rows(first + far_, slopes_ ? lowered_ + 2 * far_ : found + far_);
      if (!slopes_) continue;
      stage.own = rows(found, lowered_ + far_);
      if (sizes_.volume) stage.by_widened = rows(found_ + far_, lowered_ + 1);
      for (int i = 0; i <= extra_; ++i) stage.by_least[i] = rows(ends - far_, ends + far_);
    }
    size_ += kWide;
  }

  static T* aligned(T* x) {
    constexpr uintptr_t line = 64;
    return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(x) + line - 1) & ~(line - 1));
  }

  Sizes sizes_;
  int64_t k_;  // stages
  bool slopes_;
  std::vector<Stage<T>> stages_;
  std::vector<T> memory_;
  int64_t wide_, far_, extra_, size_ = 0;
  int64_t found_, lowered_, last_;  // lags of the centre lines, of the slopes of openings, of the end
  T *lowest_, *highest_, *none_, *ones_, *rest_, *spare_, *back_, *eroded_;
};

}  // namespace
}  // namespace losskit
