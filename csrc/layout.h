// How the tensors of one call are walked together: in the memory order of the first one, in blocks.
//
// 1. Dimensions are sorted by the strides of the first tensor and merged where every tensor allows it, so that
//    contiguous, transposed and channels-last calls all become one run of contiguous elements.
// 2. A tensor that is broadcast has stride 0 along the broadcast dimensions and is never materialised: a block
//    of it is read into a buffer in L1.
// 3. Outputs are dense in this same order, so their element `i` belongs to element `i` of the walk.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <utility>

#include "convert.h"

namespace losskit {

constexpr int kDims = wire::kMaxDims;  // before merging; calls that need more run the eager formula

struct Source {
  const char* data = nullptr;
  DType dtype = DType::kFloat;
  std::array<int64_t, kDims> strides{};  // in elements, one per walked dimension
  bool present() const { return data != nullptr; }
};

struct Walk {
  int dims = 0;
  int64_t numel = 1;
  std::array<int64_t, kDims> sizes{};
  std::array<int, kDims> order{};  // order[i]: the tensor dimension that is walked as dimension i, before merging
  // The tensor that the walk was started with.
  int tensor_dims = 0;
  std::array<int64_t, kDims> tensor_sizes{};
};

// The order in which to walk a tensor of these sizes and strides: largest stride first, ties left alone.
inline void start(Walk& walk, int dims, const int64_t* sizes, const int64_t* strides) {
  walk.tensor_dims = walk.dims = dims;
  for (int i = 0; i < dims; ++i) {
    walk.order[i] = i;
    walk.tensor_sizes[i] = sizes[i];
    walk.numel *= sizes[i];
  }
  const auto step = [&](int dim) { return sizes[dim] == 1 ? 0 : strides[dim]; };
  for (int i = 1; i < dims; ++i)  // std::stable_sort asks for memory
    for (int k = i; k > 0 && step(walk.order[k]) > step(walk.order[k - 1]); --k)
      std::swap(walk.order[k], walk.order[k - 1]);
  for (int i = 0; i < dims; ++i) walk.sizes[i] = sizes[walk.order[i]];
}

// Strides of a dense tensor that is laid out in the order of the walk.
inline std::array<int64_t, kDims> dense_strides(const Walk& walk) {
  std::array<int64_t, kDims> strides{};
  int64_t step = 1;
  for (int i = walk.tensor_dims - 1; i >= 0; --i) {
    strides[walk.order[i]] = step;
    step *= std::max<int64_t>(walk.tensor_sizes[walk.order[i]], 1);
  }
  return strides;
}

// The place of element `i` of the walk in the flattened tensor, that is in the order of its dimensions.
inline int64_t place_of(const Walk& walk, int64_t i) {
  std::array<int64_t, kDims> index{};
  for (int d = walk.tensor_dims - 1; d >= 0; --d) {
    const int64_t size = walk.tensor_sizes[walk.order[d]];
    index[walk.order[d]] = i % size;
    i /= size;
  }
  int64_t place = 0;
  for (int d = 0; d < walk.tensor_dims; ++d) place = place * walk.tensor_sizes[d] + index[d];
  return place;
}

// Merge neighbouring dimensions that all sources walk as one.
template <int N> void merge(Walk& walk, std::array<Source, N>& sources) {
  int kept = 0;
  for (int i = 0; i < walk.dims; ++i) {
    if (walk.sizes[i] == 1) continue;
    const bool joins = kept > 0 && std::all_of(sources.begin(), sources.end(), [&](const Source& source) {
                         return !source.present() || source.strides[kept - 1] == source.strides[i] * walk.sizes[i];
                       });
    if (joins) {
      walk.sizes[kept - 1] *= walk.sizes[i];
    } else {
      walk.sizes[kept++] = walk.sizes[i];
    }
    for (Source& source : sources) source.strides[kept - 1] = source.strides[i];
  }
  walk.dims = kept;
}

constexpr int64_t kShort = 64;  // rows of fewer numbers are not worth a call each

// Each number `width` times, n elements in all. Stores are whole vectors, whose ends the next number overwrites.
template <class T> LOSSKIT_CLONES void spread(const T* numbers, int64_t width, int64_t n, T* out) {
  typedef T Vector __attribute__((vector_size(64)));
  constexpr int64_t kVector = sizeof(Vector) / sizeof(T);
  for (; n >= width + kVector; n -= width, out += width, ++numbers) {
    const Vector own = *numbers - Vector{};
    for (int64_t i = 0; i < width; i += kVector) std::memcpy(out + i, &own, sizeof own);
  }
  for (; n > 0; n -= width, out += width, ++numbers) std::fill(out, out + std::min(width, n), *numbers);
}

// Whether rows are short, and all have the same numbers.
inline bool alike(const Walk& walk, const Source& source) {
  return walk.dims == 2 && walk.sizes[1] < kShort && source.strides[0] == 0 && source.strides[1] != 0;
}

// Elements [begin, begin + n) of rows of up to kShort elements: each row its own number, or all rows the same ones.
template <class T> const T* repeat(const Walk& walk, const Source& source, int64_t begin, int64_t n, T* buffer) {
  constexpr int64_t kMost = 1026;  // rows that a block of 1024 elements touches
  const int64_t width = walk.sizes[1], first = begin / width;
  const int64_t rows = std::min((begin + n - 1) / width - first + 1, kMost);
  T numbers[kMost];
  if (source.strides[1] == 0)
    read_run(source.dtype, source.data + first * source.strides[0] * size_of(source.dtype), source.strides[0], rows,
             numbers);
  else
    read_run(source.dtype, source.data, source.strides[1], width, numbers);
  int64_t at = begin % width;
  if (source.strides[1] == 0) {
    const int64_t run = std::min(width - at, n);
    std::fill(buffer, buffer + run, numbers[0]);
    spread(numbers + 1, width, n - run, buffer + run);
    return buffer;
  }
  for (int64_t i = 0; i < std::min(width, n); ++i) buffer[i] = numbers[(at + i) % width];
  for (int64_t done = width; done < n; done *= 2)  // what is there once more
    std::copy(buffer, buffer + std::min(done, n - done), buffer + done);
  return buffer;
}

// Whether neighbouring elements of the walk are neighbours in the source.
inline bool dense(const Walk& walk, const Source& source) {
  int64_t step = 1;
  for (int d = walk.dims - 1; d >= 0; step *= walk.sizes[d--])
    if (source.strides[d] != step) return false;
  return true;
}

// Elements [begin, begin + n) of the walk as contiguous T: in place if they are, else in `buffer`.
template <class T> const T* fetch(const Walk& walk, const Source& source, int64_t begin, int64_t n, T* buffer) {
  constexpr DType own = std::is_integral_v<T> ? DType::kLong : sizeof(T) == 4 ? DType::kFloat : DType::kDouble;
  const int64_t item = size_of(source.dtype);
  // Beside a source that is broadcast, one that is not keeps its dimensions.
  if (walk.dims <= 1 || dense(walk, source)) {
    const int64_t stride = walk.dims == 0 ? 0 : source.strides[walk.dims - 1];
    const char* data = source.data + begin * stride * item;
    if (stride == 1 && source.dtype == own) return reinterpret_cast<const T*>(data);
    read_run(source.dtype, data, stride, n, buffer);
    return buffer;
  }
  const int inner = walk.dims - 1;
  if (walk.dims == 2 && walk.sizes[1] < kShort && (source.strides[0] == 0 || source.strides[1] == 0))
    return repeat(walk, source, begin, n, buffer);
  std::array<int64_t, kDims> index{};
  int64_t rest = begin;
  int64_t offset = 0;
  for (int d = inner; d >= 0; --d) {
    index[d] = rest % walk.sizes[d];
    rest /= walk.sizes[d];
    offset += index[d] * source.strides[d];
  }
  for (int64_t done = 0; done < n;) {
    const int64_t run = std::min(walk.sizes[inner] - index[inner], n - done);
    const char* data = source.data + offset * item;
    if (run == n && source.strides[inner] == 1 && source.dtype == own) return reinterpret_cast<const T*>(data);
    read_run(source.dtype, data, source.strides[inner], run, buffer + done);
    done += run;
    index[inner] += run;
    offset += run * source.strides[inner];
    for (int d = inner; d > 0 && index[d] == walk.sizes[d]; --d) {
      offset += source.strides[d - 1] - index[d] * source.strides[d];
      index[d] = 0;
      ++index[d - 1];
    }
  }
  return buffer;
}

}  // namespace losskit
