// Sets of pixels in the order of their errors, and what each adds to the Jaccard loss of its set.
//
// 1. What is sorted is the error itself, or the score with the sign of the label; the label is carried along in a bit.
// So
//    after the sort nothing has to be looked up, and slopes go to the places of the pixels.
// 2. A step is written as a fraction of the sizes of intersection and union before it, which are integers.
// 3. Of classes, the probabilities of all pixels are computed first, class after class; then each class is sorted; then
// the
//    slopes of a pixel's classes go through its softmax. Of the class of the label, the error is the sum of the others'
//    probabilities.
#pragma once

#include "ordered_lists.h"

namespace losskit {
namespace {

struct ErrorsScratch {
  Buffer<float> scores32, labels, mask, out32;
  Buffer<double> scores64, out64;
};

LOSSKIT_CLONES inline void divide(double* x, const double* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] /= y[i];
}

// The loss of n sorted pixels; `error` gives the error of a key; `slope` takes a pixel, its label and its slope.
template <class Key, class Error, class Slope>
double loss_of_sorted(const Job& job, const Record<Key>* records, int64_t n, int64_t positives, const Error& error,
                      const Slope& slope) {
  double steps[kBlock], below[kBlock], errors[kBlock], values[kBlock], slopes[kBlock], unused[kBlock];
  int64_t intersection = positives, all = positives;  // before the next pixel
  Sum total;
  for (int64_t at = 0; at < n; at += kBlock) {
    const int64_t m = std::min(kBlock, n - at);
    const Record<Key>* const sorted = records + at;
    for (int64_t i = 0; i < m; ++i) {
      const int64_t positive = sorted[i].payload >> 31;
      const bool alone = all + positive == 0;  // the first mistake where the set is empty
      steps[i] = static_cast<double>(positive | alone ? 1 : intersection);
      below[i] = static_cast<double>(alone ? 1 : positive ? all : all * (all + 1));
      intersection -= positive, all += 1 - positive;
      errors[i] = error(sorted[i].key);
    }
    divide(steps, below, m);
    evaluate(job, m, errors, steps, values, slopes, unused);
    total.add(sum_block(values, m));
    if (job.options.gradients)
      for (int64_t i = 0; i < m; ++i) slope(sorted[i].payload & ~kFlag, sorted[i].payload >> 31, slopes[i]);
  }
  return total.value();
}

// --------------------------------------------------------------------------------------------------------
// Signs: one score for each pixel

template <class Key, class T> struct SignedSet {
  Job& job;
  Sorter<Key>& sorter;
  ErrorsScratch& scratch;
  int64_t unit;

  void run(Sum& sum) {
    const int64_t width = job.width, begin = unit * width;
    int64_t n = 0, positives = 0;
    bool lost = false;
    if (counts(job, unit)) {
      const float* mask =
          job.masks < 0 ? nullptr : read_all(job.elements, job.own[job.masks], begin, width, scratch.mask);
      const float* labels = read_all(job.elements, job.own[1], begin, width, scratch.labels);
      const T* scores = scores_of(begin);
      sorter.reserve(width);
      for (int64_t i = 0; i < width; ++i) {
        if (mask && mask[i] == 0.0f) continue;
        const float label = labels[i];
        if (label != 0.0f && label != 1.0f) lost |= !allowed(label, begin + i);
        const bool positive = label != 0.0f;
        const T right = positive ? scores[i] : -scores[i];
        lost |= right != right;
        sorter.records[n++] = {ordered_key(right), static_cast<uint32_t>(i) | (positive ? kFlag : 0u)};
        positives += positive;
      }
    }
    if (n == 0) {
      deliver(job, unit, 0.0, sum);
      return fill_gradient(job, 0.0, width, begin);
    }
    sorter.sort(n);
    const DType dtype = job.gradient_dtypes[0];
    if (dtype == DType::kDouble) {
      finish(n, positives, lost, reinterpret_cast<double*>(job.gradients[0]) + begin, sum);
    } else if (dtype == DType::kFloat) {
      finish(n, positives, lost, reinterpret_cast<float*>(job.gradients[0]) + begin, sum);
    } else {
      float* const out = job.options.gradients ? scratch.out32.get(width) : nullptr;
      finish(n, positives, lost, out, sum);
      if (out) write_gradient(job, out, width, begin);
    }
  }

  // Whether a label that is neither 0 nor 1 is let through; NaN is none.
  bool allowed(float label, int64_t place) {
    if (label != label) return false;
    if (job.options.checks == kRaise)
      job.report({0, place, static_cast<int64_t>(Violation::kLabel), place, static_cast<double>(label)});
    return job.options.checks == kOff;
  }

  const T* scores_of(int64_t begin) {
    if constexpr (sizeof(T) == 4)
      return read_all(job.elements, job.own[0], begin, job.width, scratch.scores32);
    else
      return read_all(job.elements, job.own[0], begin, job.width, scratch.scores64);
  }

  template <class To> void finish(int64_t n, int64_t positives, bool lost, To* out, Sum& sum) {
    const bool wanted = job.options.gradients;
    if (wanted && n < job.width) std::fill(out, out + job.width, To(0));
    const double factor = lost ? kNaN : factor_of(job, unit);
    const auto error = [](Key key) { return 1.0 - static_cast<double>(number_of(key)); };
    const double loss =
        loss_of_sorted(job, sorter.records, n, positives, error, [&](uint32_t pixel, uint32_t positive, double slope) {
          out[pixel] = static_cast<To>((positive ? -slope : slope) * factor);
        });
    deliver(job, unit, (lost ? kNaN : loss) * weight_of(job, unit), sum);
  }
};

template <class Key, class T> void run_signs(int64_t begin, int64_t end, void* context) {
  Job& job = *static_cast<Job*>(context);
  const auto scratch = std::make_unique<ErrorsScratch>();
  Sorter<Key> sorter;
  for (int64_t unit = begin; unit < end; ++unit) SignedSet<Key, T>{job, sorter, *scratch, unit}.run(job.sums[unit]);
}

// --------------------------------------------------------------------------------------------------------
// Classes: a softmax for each pixel

template <class T> T* errors_of(Job& job) {
  if constexpr (sizeof(T) == 4)
    return job.errors32.get(0);
  else
    return job.errors64.get(0);
}
template <class T> T* slopes_of(Job& job) {
  if constexpr (sizeof(T) == 4)
    return job.slopes32.get(0);
  else
    return job.slopes64.get(0);
}

// Pixels in blocks that do not cross an image: the image, the first pixel of it, how many.
struct PixelBlock {
  int64_t image, first, n;
};
inline PixelBlock pixel_block(const Job& job, int64_t block) {
  const int64_t of_image = (job.plane + kBlock - 1) / kBlock;
  const int64_t image = block / of_image, first = block % of_image * kBlock;
  return {image, first, std::min(kBlock, job.plane - first)};
}

// Where the errors of a class of a block of pixels are: set after set, class after class, pixel after pixel.
inline int64_t place_of_class(const Job& job, const PixelBlock& block, int64_t c) {
  const int64_t set = job.whole ? 0 : block.image, within = job.whole ? block.image * job.plane : 0;
  return (set * job.classes + c) * job.width + within + block.first;
}

// The classes of a block of pixels; -1 for those that do not count.
inline void labels_of_block(const Job& job, const PixelBlock& block, int64_t* labels) {
  const int64_t* const read = fetch(job.pixels, job.labels, block.image * job.plane + block.first, block.n, labels);
  for (int64_t i = 0; i < block.n; ++i) labels[i] = read[i] == job.ignored ? -1 : read[i];
}

LOSSKIT_CLONES inline void largest_of(const double* x, int64_t n, double* top) {
  for (int64_t i = 0; i < n; ++i) top[i] = x[i] > top[i] ? x[i] : top[i];
}
LOSSKIT_CLONES inline void exponentials_less(double* x, const double* top, int64_t n, double* total) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const double e = exp(x[i] == top[i] ? 0.0 : x[i] - top[i]);
    x[i] = e;
    total[i] += e;
  }
}
template <class T> LOSSKIT_INLINE void quotients_any(const double* e, const double* inverse, int64_t n, T* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(e[i] * inverse[i]);
}
LOSSKIT_CLONES inline void quotients(const double* e, const double* s, int64_t n, float* out) {
  quotients_any(e, s, n, out);
}
LOSSKIT_CLONES inline void quotients(const double* e, const double* s, int64_t n, double* out) {
  quotients_any(e, s, n, out);
}

// The errors of all classes of a block of pixels.
template <class T> void write_errors(int64_t begin, int64_t end, void* context) {
  Job& job = *static_cast<Job*>(context);
  T* const errors = errors_of<T>(job);
  std::vector<double> planes(job.classes * kBlock);
  double top[kBlock], total[kBlock];
  int64_t labels[kBlock];
  for (int64_t b = begin; b < end; ++b) {
    const PixelBlock block = pixel_block(job, b);
    const int64_t n = block.n;
    std::fill(top, top + n, -infinity<double>);
    std::fill(total, total + n, 0.0);
    labels_of_block(job, block, labels);
    for (int64_t c = 0; c < job.classes; ++c) {
      double* const x = planes.data() + c * kBlock;
      const double* read =
          fetch(job.elements, job.own[0], (block.image * job.classes + c) * job.plane + block.first, n, x);
      if (read != x) std::copy(read, read + n, x);
      largest_of(x, n, top);
    }
    for (int64_t c = 0; c < job.classes; ++c) exponentials_less(planes.data() + c * kBlock, top, n, total);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t label = labels[i];
      if (label < 0 || label >= job.classes) continue;
      double others = 0.0;  // in place of the label's own exponential
      for (int64_t c = 0; c < job.classes; ++c)
        if (c != label) others += planes[c * kBlock + i];
      planes[label * kBlock + i] = others;
    }
    for (int64_t i = 0; i < n; ++i) total[i] = 1.0 / total[i];
    for (int64_t c = 0; c < job.classes; ++c)
      quotients(planes.data() + c * kBlock, total, n, errors + place_of_class(job, block, c));
  }
}

// The losses of units: a class of a set each.
template <class Key, class T> void run_pixels(int64_t begin, int64_t end, void* context) {
  Job& job = *static_cast<Job*>(context);
  Sorter<Key> sorter;
  T* const slopes = job.options.gradients ? slopes_of<T>(job) : nullptr;
  int64_t labels[kBlock];
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t set = unit / job.classes, c = unit % job.classes, at = unit * job.width;
    T* const out = slopes ? slopes + at : nullptr;
    if (out) std::fill(out, out + job.width, T(0));
    if (job.many[unit] == 0.0 || !counts(job, unit)) {
      deliver(job, unit, 0.0, job.sums[unit]);
      continue;
    }
    const T* const errors = errors_of<T>(job) + at;
    sorter.reserve(job.width);
    int64_t n = 0, positives = 0;
    bool lost = job.spoilt[set];
    for (int64_t first = 0; first < job.width; first += kBlock) {
      const int64_t m = std::min(kBlock, job.width - first);
      const int64_t* const read = fetch(job.pixels, job.labels, set * job.width + first, m, labels);
      for (int64_t i = 0; i < m; ++i) {
        if (read[i] == job.ignored) continue;
        const bool positive = read[i] == c;
        const T error = errors[first + i];
        lost |= error != error;
        sorter.records[n++] = {static_cast<Key>(~ordered_key(error)),
                               static_cast<uint32_t>(first + i) | (positive ? kFlag : 0u)};
        positives += positive;
      }
    }
    sorter.sort(n);
    const double factor = lost ? kNaN : factor_of(job, unit);
    const double loss = loss_of_sorted(
        job, sorter.records, n, positives, [](Key key) { return static_cast<double>(number_of(Key(~key))); },
        [&](uint32_t pixel, uint32_t positive, double slope) {
          out[pixel] = static_cast<T>((positive ? -slope : slope) * factor);
        });
    deliver(job, unit, (lost ? kNaN : loss) * weight_of(job, unit), job.sums[unit]);
  }
}

// The slopes of all classes of a block of pixels by their scores. With l the class of the label, whose probability is 1
// less that of the others, sums are over the others, and over differences of slopes to that of l.
template <class T> void through_softmax(int64_t begin, int64_t end, void* context) {
  Job& job = *static_cast<Job*>(context);
  const T *const errors = errors_of<T>(job), *const slopes = slopes_of<T>(job);
  int64_t labels[kBlock];
  double own[kBlock], sums[kBlock], out[kBlock];
  for (int64_t b = begin; b < end; ++b) {
    const PixelBlock block = pixel_block(job, b);
    const int64_t n = block.n;
    labels_of_block(job, block, labels);
    const bool active = job.active[job.whole ? 0 : block.image];
    for (int64_t i = 0; i < n; ++i) {
      const bool there = labels[i] >= 0 && labels[i] < job.classes;
      own[i] = there ? static_cast<double>(slopes[place_of_class(job, block, labels[i]) + i]) : 0.0;
      sums[i] = 0.0;
    }
    for (int64_t c = 0; c < job.classes; ++c) {
      const T *const p = errors + place_of_class(job, block, c), *const g = slopes + place_of_class(job, block, c);
      for (int64_t i = 0; i < n; ++i)
        if (labels[i] != c) sums[i] += static_cast<double>(p[i]) * (static_cast<double>(g[i]) - own[i]);
    }
    for (int64_t c = 0; c < job.classes; ++c) {
      const T *const p = errors + place_of_class(job, block, c), *const g = slopes + place_of_class(job, block, c);
      for (int64_t i = 0; i < n; ++i) {
        const double probability = labels[i] == c ? 1.0 - static_cast<double>(p[i]) : static_cast<double>(p[i]);
        const double slope = labels[i] == c ? -sums[i] : static_cast<double>(g[i]) - own[i] - sums[i];
        out[i] = labels[i] == -1 || !active ? 0.0 : probability * slope;
      }
      write_gradient(job, out, n, (block.image * job.classes + c) * job.plane + block.first);
    }
  }
}

}  // namespace
}  // namespace losskit
