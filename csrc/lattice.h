// What the ops of sequences share (CTC, transducers, chains, time warping): a batch of samples, each with a lattice of
// its own; lengths; sums in lanes; masses in log space.
#pragma once

#include <cstring>

#include "drive.h"
#include "primitives.h"

namespace losskit {
namespace {

constexpr int64_t kLanes = 8;  // accumulators; rows are padded to them

// --------------------------------------------------------------------------------------------------------
// Reductions in lanes, by hand: the compiler may not reorder a sum

LOSSKIT_INLINE double sum_lanes(const double* x) {
  return ((x[0] + x[4]) + (x[1] + x[5])) + ((x[2] + x[6]) + (x[3] + x[7]));
}

// The sum of x[i] * y[i].
template <class X> LOSSKIT_INLINE double dot(const X* x, const X* y, int64_t n) {
  double lanes[kLanes] = {};
  const int64_t even = n / kLanes * kLanes;
  for (int64_t i = 0; i < even; i += kLanes)
    for (int64_t j = 0; j < kLanes; ++j) lanes[j] += static_cast<double>(x[i + j] * y[i + j]);
  for (int64_t i = even; i < n; ++i) lanes[i - even] += static_cast<double>(x[i] * y[i]);
  return sum_lanes(lanes);
}

// The sum of n numbers, n a multiple of kLanes.
LOSSKIT_INLINE double sum(const double* x, int64_t n) {
  double lanes[kLanes] = {};
  for (int64_t i = 0; i < n; i += kLanes)
    for (int64_t j = 0; j < kLanes; ++j) lanes[j] += x[i + j];
  return sum_lanes(lanes);
}

// Vectors of 64 bytes, of which GCC makes what the machine has: arrays of lanes it takes apart into scalars.
template <class X> struct VectorOf {
  typedef X type __attribute__((vector_size(64)));
};

// The largest; NaN is passed over.
template <class X> LOSSKIT_INLINE X largest(const X* x, int64_t n) {
  constexpr int64_t width = 64 / sizeof(X);
  X lanes[width];
  if (n < width) {
    lanes[0] = -infinity<X>;
    for (int64_t i = 0; i < n; ++i) lanes[0] = x[i] > lanes[0] ? x[i] : lanes[0];
    return lanes[0];
  }
  typename VectorOf<X>::type most = {}, from;
  most -= infinity<X>;
  for (int64_t i = 0; i < n; i += width) {
    std::memcpy(&from, x + (i + width <= n ? i : n - width), sizeof from);  // the last may overlap the one before
    most = from > most ? from : most;
  }
  std::memcpy(lanes, &most, sizeof most);
  for (int64_t step = width / 2; step > 0; step /= 2)
    for (int64_t j = 0; j < step; ++j) lanes[j] = lanes[j + step] > lanes[j] ? lanes[j + step] : lanes[j];
  return lanes[0];
}

// Whether there is a NaN, or a number above the limit.
template <class T> LOSSKIT_INLINE bool any_wild(const T* x, T limit, int64_t n) {
  int32_t found = 0;
  for (int64_t i = 0; i < n; ++i) found |= !(x[i] <= limit);
  return found != 0;
}

// exp(x - top) for x <= top, corrected for the rounding error of x - top.
template <class T> LOSSKIT_INLINE T exp_below(T x, T top) {
  const T d = x - top, back = d - x;
  const T lost = (x - (d - back)) - (top + back);
  const T e = exp_nabs(d);
  return e + where(d > -1000, e * lost, T(0));
}

// `size` bytes each, from a row to every `stride`-th place.
inline void scatter(const char* from, int64_t size, int64_t n, int64_t stride, char* to) {
  for (int64_t i = 0; i < n; ++i) std::memcpy(to + i * stride * size, from + i * size, size);
}

// --------------------------------------------------------------------------------------------------------
// Masses in log space
//
// For each state there is the best path's log-probability v, and r >= 0, the sum of all other paths relative to it: no
// logarithm in the recursion. (v, r) stands for e^v (1 + r).

struct Logs {
  double* v;
  double* r;
};

// The sum of up to three masses. The best path keeps its v exactly, the rest is a sum of positive terms.
LOSSKIT_INLINE void add_logs(double a, double ra, double b, double rb, double c, double rc, double& v, double& r) {
  const double most = maximum(maximum(a, b), c);
  const bool first = a == most, second = !first & (b == most), third = !(first | second);
  const double x = where(first, ra, (1 + ra) * exp_nabs(a == most ? 0.0 : a - most));
  const double y = where(second, rb, (1 + rb) * exp_nabs(b == most ? 0.0 : b - most));
  const double z = where(third, rc, (1 + rc) * exp_nabs(c == most ? 0.0 : c - most));
  v = most;
  r = where(most == -infinity<double>, 0.0, x + y + z);
}

// r counts paths: it would overflow after some hundred frames.
inline void fold(Logs logs, int64_t width) {
  for (int64_t j = 0; j < width; ++j)
    if (logs.r[j] > 0x1p200) logs.v[j] += std::log1p(logs.r[j]), logs.r[j] = 0;
}

// --------------------------------------------------------------------------------------------------------
// Lengths

inline bool integers(const Tensor& tensor) {
  const DType dtype = dtype_of(tensor);
  return tensor.is_cpu() && dtype != DType::kBool && known(dtype) && !floating(dtype);
}

inline bool read_lengths(const Tensor& tensor, int64_t samples, std::vector<int64_t>& lengths) {
  if (!integers(tensor) || tensor.dim() > 1 || tensor.numel() != samples) return false;
  lengths.resize(samples);
  const int64_t stride = tensor.dim() ? tensor.strides()[0] : 0;
  if (samples) read_any<int64_t>(dtype_of(tensor), tensor.data_ptr(), stride, samples, lengths.data());
  return true;
}

// --------------------------------------------------------------------------------------------------------
// A batch: a block is a sample, and a sample has one loss

struct Batch : Call {
  int64_t samples = 1;
  std::vector<double> factors, losses;
  std::vector<float> mask;  // 0: the sample does not count; empty: all do

  void read_weights() {
    Weights scratch;
    for (int64_t begin = 0; begin < samples; begin += kBlock) {
      const int64_t n = std::min(kBlock, samples - begin);
      if (const float* counts = mask_of(*this, begin, n, scratch)) mask.insert(mask.end(), counts, counts + n);
      if (const double* more = losskit::factors(*this, {kSampleWeight, kUpstream}, begin, n, scratch))
        factors.insert(factors.end(), more, more + n);
    }
  }

  // Leave out the samples that cannot have a loss, as if they were masked.
  template <class Has> void leave_out(const Has& has_loss) {
    for (int64_t i = 0; i < samples; ++i) {
      if (has_loss(i)) continue;
      if (mask.empty()) mask.assign(samples, 1.0f);
      mask[i] = 0.0f;
    }
  }

  bool counts(int64_t i) const { return mask.empty() || mask[i] != 0.0f; }
  double factor(int64_t i) const { return factors.empty() ? 1.0 : factors[i]; }

  // The sum of the weights of the samples that count, or their number.
  double counted() const {
    Sum total;
    for (int64_t i = 0; i < samples; ++i)
      if (counts(i)) total.add(factor(i));
    return total.value();
  }

  // The unreduced losses, weighed and rounded, and the sums of their blocks.
  void reduce_losses(bool wide) { wide ? reduce_as<double>() : reduce_as<float>(); }

 private:
  template <class T> void reduce_as() {
    T values[kBlock];
    for (int64_t block = 0; block * kBlock < samples; ++block) {
      const int64_t begin = block * kBlock, n = std::min(kBlock, samples - begin);
      for (int64_t i = 0; i < n; ++i) values[i] = static_cast<T>(losses[begin + i]);
      weigh(values, factors.empty() ? nullptr : factors.data() + begin, mask.empty() ? nullptr : mask.data() + begin,
            1.0, n, values);
      if (options.reduction != kElements)
        sums[block] = sum_block(values, n);
      else
        write_run(result, values, n, values_at(begin));
    }
  }
  char* values_at(int64_t i) { return Call::values + i * size_of(result); }
};

}  // namespace
}  // namespace losskit
