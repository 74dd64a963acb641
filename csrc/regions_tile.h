// A tile of the regions family: some pixels of all classes or of one, read in any layout, summed, and given a gradient.
#pragma once

#include "regions.h"
#include "transpose.h"

namespace losskit {
namespace {

template <class T> struct Scratch {
  int64_t room;  // pixels of a row
  std::vector<T> scores, out, target, narrow;
  alignas(64) T v[kLongest], t[kLongest], rows[3][kLongest];
  alignas(64) T mask[kLongest], kept[kLongest];
  alignas(64) Index<T> label[kLongest];
  alignas(64) int64_t indices[kLongest];
  explicit Scratch(const Job& job) : room((job.width + 15) / 16 * 16 + 16) {
    const size_t all = static_cast<size_t>(room * job.joint);
    scores.resize(all), out.resize(all), narrow.resize(all);
    if (job.soft) target.resize(all);
  }
};

// `n` pixels of a sample, from `at` on in the order of the walk, of `job.joint` classes from `first` on.
template <class T> struct Tile {
  static constexpr DType kOwn = sizeof(T) == 4 ? DType::kFloat : DType::kDouble;
  const Job& job;
  Scratch<T>& s;
  int64_t sample, first, at, n;
  int64_t offsets[kTensors];         // of the first pixel, in elements
  const int64_t* indices = nullptr;  // of class indices, where they are
  bool dropped = false;

  Tile(const Job& job, Scratch<T>& s, int64_t sample, int64_t first, int64_t row, int64_t from, int64_t n)
      : job(job), s(s), sample(sample), first(first), at(row * job.inner + from), n(n) {
    for (int k = 0; k < kTensors; ++k)
      offsets[k] = sample * job.by_sample[k] + first * job.by_class[k] + from * step(k);
    for (int d = job.pixels.dims - 2; d >= 0; --d) {
      const int64_t index = row % job.pixels.sizes[d];
      row /= job.pixels.sizes[d];
      for (int k = 0; k < kTensors; ++k) offsets[k] += index * job.tensors[k].strides[d];
    }
  }
  int64_t step(int k) const { return job.pixels.dims ? job.tensors[k].strides[job.pixels.dims - 1] : 1; }
  const char* data(int k, int64_t c = 0) const {
    const Source& source = job.tensors[k];
    return source.data + (offsets[k] + c * job.by_class[k]) * size_of(source.dtype);
  }

  // Fetches what the next tile reads, and what it writes: rows are too short for the processor to foresee.
  void prefetch(bool scores, bool gradient) const {
    if (at % job.inner + 2 * n > job.inner) return;
    for (const int k : {kScores, kShares, kGradient}) {
      if (k == kGradient ? !gradient : k == kScores && !scores) continue;
      const int64_t bytes = n * step(k) * size_of(job.tensors[k].dtype);
      const bool joint = job.by_class[k] == 1 || job.by_class[k] == 0;
      for (int64_t c = 0; c < (joint ? 1 : job.joint); ++c) {
        const char* const next = data(k, c) + bytes;
        for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(next + i);
      }
    }
  }

  // The rows of the tile's classes as T. They are read where they lie if they are of that type, else written to `to`.
  // apart: how many numbers are between the first ones of two rows.
  const T* rows(int k, T* to, int64_t& apart) const {
    const Source& source = job.tensors[k];
    const int64_t own = job.by_class[k];
    if (source.dtype == kOwn && (step(k) == 1 || n == 1)) {
      apart = own;
      return reinterpret_cast<const T*>(data(k));
    }
    apart = s.room;
    if (own == 1 && job.joint > 1 && step(k) >= job.classes) {
      const T* from = reinterpret_cast<const T*>(data(k));
      int64_t stride = step(k);
      if (source.dtype != kOwn) {
        stride = job.classes;
        if (step(k) == stride)
          read_run(source.dtype, data(k), 1, n * stride, s.narrow.data());
        else
          for (int64_t i = 0; i < n; ++i)
            read_run(source.dtype, data(k) + i * step(k) * size_of(source.dtype), 1, stride,
                     s.narrow.data() + i * stride);
        from = s.narrow.data();
      }
      rows_to_tile(from, stride, n, job.classes, to, s.room);
      return to;
    }
    for (int64_t c = 0; c < job.joint; ++c) read_run(source.dtype, data(k, c), step(k), n, to + c * s.room);
    return to;
  }

  // What the target and the masks say of the pixels: as `classify`.
  int look() {
    const bool masked = job.tensors[kPixels].present();
    if (masked) read_run(job.tensors[kPixels].dtype, data(kPixels), step(kPixels), n, s.mask);
    int found = 4;
    if (!job.soft) {
      indices = s.indices;
      if (job.tensors[kShares].dtype == DType::kLong && (step(kShares) == 1 || n == 1))
        indices = reinterpret_cast<const int64_t*>(data(kShares));
      else
        read_run(job.tensors[kShares].dtype, data(kShares), step(kShares), n, s.indices);
      found = classify<T>(indices, masked ? s.mask : nullptr, job.classes, job.ignored, n, s.label, s.kept);
    } else if (masked) {
      found = 0;
      for (int64_t i = 0; i < n; ++i) s.kept[i] = s.mask[i], found |= s.mask[i] != 0 ? 4 : 1;
    }
    dropped = found & 1;
    return found;
  }

  int64_t start() const { return std::max<int64_t>(job.background - first, 0); }  // the first class with a loss

  // Rows of probabilities, as `parts` takes them apart, of the classes with a loss; of all classes of a softmax.
  struct Rows {
    T* data;
    int64_t apart;
  };
  // Where rows of the gradient are: in its memory, or in a tile from which they are stored.
  Rows out() const {
    if (!direct()) return {s.out.data(), s.room};
    return {reinterpret_cast<T*>(const_cast<char*>(data(kGradient))), job.by_class[kGradient]};
  }
  bool direct() const {
    const Source& gradient = job.tensors[kGradient];
    return gradient.present() && gradient.dtype == kOwn && (step(kGradient) == 1 || n == 1);
  }
  Rows activated(Rows to) const {
    int64_t apart;
    const T* const z = rows(kScores, s.scores.data(), apart);
    if (job.activation == Activation::kNone) return {const_cast<T*>(z), apart};  // which nothing writes to
    if (job.activation == kSoftmax)
      softmaxes(z, apart, job.classes, n, to.data, to.apart, s.rows[0], s.rows[1], s.rows[2]);
    else
      for (int64_t c = start(); c < job.joint; ++c) sigmoids(z + c * apart, n, to.data + c * to.apart);
    return to;
  }

  // -- the first pass ---------------------------------------------------------------------------------------

  void add(Region* regions) {
    const Rows own = activated(job.keeps ? out() : Rows{s.out.data(), s.room});
    int64_t target_apart = 0;
    const T* const target = job.soft ? rows(kShares, s.target.data(), target_apart) : nullptr;
    for (int64_t c = start(); c < job.joint; ++c) {
      const T *v = own.data + c * own.apart, *t = target + c * target_apart;
      if (dropped) {  // 0 of 0 adds nothing
        drop(s.kept, n, v, s.v), v = s.v;
        if (job.soft) drop(s.kept, n, t, s.t), t = s.t;
      }
      if (job.activation == Activation::kNone)
        add_row<false>(v, t, first + c, regions[first + c].sums);
      else
        add_row<true>(v, t, first + c, regions[first + c].sums);
    }
    if (job.keeps && !direct()) store();
  }
  template <bool kept> void add_row(const T* v, const T* t, int64_t c, Sum* sums) {
    const auto own = static_cast<Index<T>>(c);
    if (!job.soft && job.measure == Measure::kSquares)
      sums_of_labels<T, Measure::kSquares, kept>(v, s.label, own, n, sums);
    else if (!job.soft)
      sums_of_labels<T, Measure::kProduct, kept>(v, s.label, own, n, sums);
    else if (job.measure == Measure::kSquares)
      sums_of_shares<T, Measure::kSquares, kept>(v, t, n, sums);
    else if (job.measure == Measure::kSmaller)
      sums_of_shares<T, Measure::kSmaller, kept>(v, t, n, sums);
    else
      sums_of_shares<T, Measure::kProduct, kept>(v, t, n, sums);
  }

  // -- the second pass --------------------------------------------------------------------------------------

  void write(const Slopes* slopes) {
    const Rows to = out();
    bool any = false;
    for (int64_t c = start(); c < job.joint; ++c) any |= slopes[first + c].alive;
    if (!any) {
      for (int64_t c = 0; c < job.joint; ++c) std::fill_n(to.data + c * to.apart, n, T(0));
      if (!direct()) store();
      return;
    }
    const bool softmax = job.activation == kSoftmax;
    Rows own{nullptr, 0};
    if (job.keeps)
      own.data = const_cast<T*>(rows(kGradient, to.data, own.apart));
    else
      own = activated(to);
    int64_t target_apart = 0;
    const T* const target = job.soft ? rows(kShares, s.target.data(), target_apart) : nullptr;
    const Rows slope = softmax ? Rows{s.scores.data(), s.room} : to;
    for (int64_t c = 0; c < job.joint; ++c) {
      T* const row = slope.data + c * slope.apart;
      const Slopes& by = slopes[first + c];
      if (by.alive)
        write_row(own.data + c * own.apart, target + c * target_apart, first + c, by.factors, row);
      else
        std::fill_n(row, n, T(0));
    }
    if (softmax)
      through_softmax(own.data, own.apart, slope.data, slope.apart, job.classes, n, to.data, to.apart, s.rows[0],
                      s.rows[1], s.rows[2]);
    for (int64_t c = 0; c < job.joint && dropped; ++c) drop(s.kept, n, to.data + c * to.apart, to.data + c * to.apart);
    if (!direct()) store();
  }
  void write_row(const T* v, const T* t, int64_t c, const double* f, T* row) {
    if (job.activation == kSoftmax)
      write_row<kSoftmax>(v, t, c, f, row);
    else if (job.activation == kSigmoid)
      write_row<kSigmoid>(v, t, c, f, row);
    else
      write_row<Activation::kNone>(v, t, c, f, row);
  }
  template <Activation of> void write_row(const T* v, const T* t, int64_t c, const double* f, T* row) {
    const auto own = static_cast<Index<T>>(c);
    if (!job.soft && job.measure == Measure::kSquares)
      slopes_of_labels<T, Measure::kSquares, of>(v, s.label, own, n, f, row);
    else if (!job.soft)
      slopes_of_labels<T, Measure::kProduct, of>(v, s.label, own, n, f, row);
    else if (job.measure == Measure::kSquares)
      slopes_of_shares<T, Measure::kSquares, of>(v, t, n, f, row);
    else if (job.measure == Measure::kSmaller)
      slopes_of_shares<T, Measure::kSmaller, of>(v, t, n, f, row);
    else
      slopes_of_shares<T, Measure::kProduct, of>(v, t, n, f, row);
  }

  // The rows of the gradient, to where they belong.
  void store() {
    const DType dtype = job.gradient_dtypes[0];
    const int64_t apart = step(kGradient), item = size_of(dtype);
    char* const to = const_cast<char*>(data(kGradient));
    if (job.by_class[kGradient] == 1 && job.joint > 1 && apart >= job.classes) {
      if (dtype == kOwn) {
        tile_to_rows(s.out.data(), s.room, n, job.classes, reinterpret_cast<T*>(to), apart);
      } else {
        tile_to_rows(s.out.data(), s.room, n, job.classes, s.narrow.data(), job.classes);
        if (apart == job.classes)
          write_run(dtype, s.narrow.data(), n * apart, to);
        else
          for (int64_t i = 0; i < n; ++i)
            write_run(dtype, s.narrow.data() + i * job.classes, job.classes, to + i * apart * item);
      }
      return;
    }
    for (int64_t c = 0; c < job.joint; ++c) {
      char* const row = to + c * job.by_class[kGradient] * item;
      if (apart == 1)
        write_run(dtype, s.out.data() + c * s.room, n, row);
      else
        write_apart(dtype, s.out.data() + c * s.room, n, apart, row);
    }
  }
};

}  // namespace
}  // namespace losskit
