// A tile of the regions family: all classes of some pixels, read in any layout, summed, and given its gradient.
#pragma once

#include "regions.h"
#include "transpose.h"

namespace losskit {
namespace {

template <class T> struct Scratch {
  int64_t room;  // pixels of a row
  std::vector<T> scores, out, target, narrow;
  alignas(64) T p[kLongest], q[kLongest], t[kLongest];
  alignas(64) T maxima[kLongest], share[kLongest], rest[kLongest], at_pivot[kLongest];
  alignas(64) T mask[kLongest], kept[kLongest];
  alignas(64) Index<T> pivot[kLongest], label[kLongest];
  alignas(64) int64_t indices[kLongest];
  explicit Scratch(const Job& job) : room((job.width + 15) / 16 * 16 + 16) {
    const size_t all = static_cast<size_t>(room * job.classes);
    scores.resize(all), out.resize(all), narrow.resize(all);
    if (job.soft) target.resize(all);
  }
};

// `n` pixels of a sample, from `at` on in the order of the walk.
template <class T> struct Tile {
  static constexpr DType kOwn = sizeof(T) == 4 ? DType::kFloat : DType::kDouble;
  const Job& job;
  Scratch<T>& s;
  int64_t sample, at, n;
  int64_t offsets[kTensors];  // of the first pixel, in elements
  bool dropped = false;

  Tile(const Job& job, Scratch<T>& s, int64_t sample, int64_t row, int64_t from, int64_t n)
      : job(job), s(s), sample(sample), at(row * job.inner + from), n(n) {
    for (int k = 0; k < kTensors; ++k) offsets[k] = sample * job.by_sample[k] + from * step(k);
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
  void prefetch(bool writes) const {
    if (at % job.inner + 2 * n > job.inner) return;
    const auto row = [&](int k, int64_t c) {
      const int64_t bytes = n * step(k) * size_of(job.tensors[k].dtype);
      const char* const from = data(k, c) + bytes;
      for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i);
    };
    for (const int k : {kScores, kShares, kGradient}) {
      if (k == kGradient && !writes) continue;
      const bool joint = job.by_class[k] == 1 || job.by_class[k] == 0;
      for (int64_t c = 0; c < (joint ? 1 : job.classes); ++c) row(k, c);
    }
  }

  // The rows of all classes as T, `apart` numbers from one to the next: in place if they are there, else in `to`.
  const T* rows(int k, T* to, int64_t& apart) const {
    const Source& source = job.tensors[k];
    const int64_t own = job.by_class[k];
    if (source.dtype == kOwn && (step(k) == 1 || n == 1)) {
      apart = own;
      return reinterpret_cast<const T*>(data(k));
    }
    apart = s.room;
    if (own == 1 && job.classes > 1 && step(k) >= job.classes) {
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
    for (int64_t c = 0; c < job.classes; ++c) read_run(source.dtype, data(k, c), step(k), n, to + c * s.room);
    return to;
  }

  // What the target and the masks say of the pixels: as `classify`.
  int look() {
    const bool masked = job.tensors[kPixels].present();
    if (masked) read_run(job.tensors[kPixels].dtype, data(kPixels), step(kPixels), n, s.mask);
    int found = 4;
    if (!job.soft) {
      read_run(job.tensors[kShares].dtype, data(kShares), step(kShares), n, s.indices);
      found = classify<T>(s.indices, masked ? s.mask : nullptr, job.classes, job.ignored, n, s.label, s.kept);
    } else if (masked) {
      found = 0;
      for (int64_t i = 0; i < n; ++i) s.kept[i] = s.mask[i], found |= s.mask[i] != 0 ? 4 : 1;
    }
    dropped = found & 1;
    return found;
  }

  // All that there is to know before the rows of the classes.
  void start(const T*& z, int64_t& apart) {
    z = rows(kScores, s.scores.data(), apart);
    if (job.activation != kSoftmax) return;
    largest(z, apart, job.classes, n, s.scores.data(), s.room, s.maxima, s.pivot);
    exponentials(s.scores.data(), s.room, job.classes, n, s.maxima, s.pivot, s.share, s.rest);
    z = s.scores.data(), apart = s.room;
  }

  // p and 1 - p of a class; z: its scores, or the exponentials of them.
  void activate(const T* z, int64_t c, const T*& p, bool drops) {
    p = s.p;
    if (job.activation == kSoftmax)
      shares(z, s.share, s.rest, s.pivot, static_cast<Index<T>>(c), n, s.p, s.q);
    else if (job.activation == kSigmoid)
      sigmoids(z, n, s.p, s.q);
    else
      p = z, complements(z, n, s.q);
    if (!drops) return;
    drop(s.kept, n, p, s.p), drop(s.kept, n, s.q, s.q);
    p = s.p;
  }

  // -- the first pass ---------------------------------------------------------------------------------------

  void add(Region* regions) {
    int64_t apart, target_apart = 0;
    const T *z, *target = nullptr;
    start(z, apart);
    if (job.soft) target = rows(kShares, s.target.data(), target_apart);
    for (int64_t c = job.background; c < job.classes; ++c) {
      const T* p;
      activate(z + c * apart, c, p, dropped);
      Sum* const sums = regions[c].sums;
      if (!job.soft) {
        (job.squares ? sums_of_labels<T, true> : sums_of_labels<T, false>)(p, s.q, s.label, static_cast<Index<T>>(c), n,
                                                                           sums);
        continue;
      }
      const T* t = target + c * target_apart;
      if (dropped) drop(s.kept, n, t, s.t), t = s.t;
      (job.squares ? sums_of_shares<T, true> : sums_of_shares<T, false>)(p, s.q, t, n, sums);
    }
  }

  // -- the second pass --------------------------------------------------------------------------------------

  void write(const Slopes* slopes) {
    int64_t apart, target_apart = 0;
    const T *z, *target = nullptr;
    bool any = false;
    for (int64_t c = job.background; c < job.classes; ++c) any |= slopes[c].alive;
    const bool direct = job.gradient_dtypes[0] == kOwn && (step(kGradient) == 1 || n == 1);
    const bool softmax = job.activation == kSoftmax;
    T* const straight = reinterpret_cast<T*>(const_cast<char*>(data(kGradient)));
    if (any) {
      start(z, apart);
      if (job.soft) target = rows(kShares, s.target.data(), target_apart);
    }
    const bool in_place = direct && !softmax;
    for (int64_t c = 0; c < job.classes; ++c) {
      T* const out = in_place ? straight + c * job.by_class[kGradient] : s.out.data() + c * s.room;
      if (!any || !slopes[c].alive) {
        std::fill(out, out + n, T(0));
        continue;
      }
      const T* p;
      activate(z + c * apart, c, p, false);
      const double* const f = slopes[c].factors;
      if (job.soft)
        write_shares(p, target + c * target_apart, f, out);
      else
        write_labels(p, static_cast<Index<T>>(c), f, out);
      if (dropped && !softmax) drop(s.kept, n, out, out);
    }
    if (softmax && any) {
      through_softmax(s.scores.data(), s.out.data(), s.room, job.classes, n, s.share, s.pivot, s.at_pivot, s.maxima);
      if (dropped)
        for (int64_t c = 0; c < job.classes; ++c) drop(s.kept, n, &s.out[c * s.room], &s.out[c * s.room]);
    }
    if (!in_place) store();
  }
  void write_labels(const T* p, Index<T> c, const double* f, T* out) {
    if (job.squares)
      (job.activation == kSigmoid ? slopes_of_labels<T, true, true> : slopes_of_labels<T, true, false>)(p, s.q, s.label,
                                                                                                        c, n, f, out);
    else
      (job.activation == kSigmoid ? slopes_of_labels<T, false, true>
                                  : slopes_of_labels<T, false, false>)(p, s.q, s.label, c, n, f, out);
  }
  void write_shares(const T* p, const T* t, const double* f, T* out) {
    if (job.squares)
      (job.activation == kSigmoid ? slopes_of_shares<T, true, true> : slopes_of_shares<T, true, false>)(p, s.q, t, n, f,
                                                                                                        out);
    else
      (job.activation == kSigmoid ? slopes_of_shares<T, false, true> : slopes_of_shares<T, false, false>)(p, s.q, t, n,
                                                                                                          f, out);
  }

  // The rows of the gradient, to where they belong.
  void store() {
    const DType dtype = job.gradient_dtypes[0];
    const int64_t apart = step(kGradient), item = size_of(dtype);
    char* const to = const_cast<char*>(data(kGradient));
    if (job.by_class[kGradient] == 1 && job.classes > 1 && apart >= job.classes) {
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
    for (int64_t c = 0; c < job.classes; ++c) {
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
