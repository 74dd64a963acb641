// Class scores, between tensors and the loops: where rows and positions lie, and their numbers as contiguous T.
//
// Rows and tiles are read in place where they are contiguous T already, and gradients are written in place likewise.
#pragma once

#include "class_scores.h"
#include "class_scores_rows.h"
#include "class_scores_tile.h"

namespace losskit {
namespace {

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

// As write_run, `stride` elements apart. Scattered stores do not vectorise: no clones.
template <class T> void store_run(DType dtype, const T* from, int64_t stride, int64_t n, void* to) {
  if (stride == 1) return write_run(dtype, from, n, to);
  as_floating(dtype, to, [&]<class To>(To* out) {
    for (int64_t i = 0; i < n; ++i) out[i * stride] = narrow<To>(from[i]);
  });
}

// Where row `offset` of a slot's tensor begins.
template <class T> char* row_of(const Job<T>& job, int slot, int64_t offset) {
  return const_cast<char*>(job.sources[slot].data) + offset * size_of(job.sources[slot].dtype);
}

// A row as contiguous numbers: in place if it is contiguous T and stays as it is, else copied to `buffer`. Rows shorter
// than kLanes are filled up with `padding`.
template <class T> const T* read_row(const Job<T>& job, int slot, int64_t offset, T padding, T* buffer) {
  const Source& source = job.sources[slot];
  const char* data = row_of(job, slot, offset);
  if (job.class_strides[slot] == 1 && source.dtype == kOwn<T> && !job.copied(slot) && job.padded == job.classes)
    return reinterpret_cast<const T*>(data);
  read_run(source.dtype, data, job.class_strides[slot], job.classes, buffer);
  std::fill(buffer + job.classes, buffer + job.padded, padding);
  return buffer;
}

// The address of a gradient's row; null if the row has to be converted or scattered.
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

// A block as a tile: in place if its positions are contiguous T, else copied.
template <class T> Tile<T> read_tile(const Job<T>& job, int slot, const Runs& runs, int64_t n, Buffer<T>& buffer) {
  const Source& source = job.sources[slot];
  const char* data = row_of(job, slot, runs.offsets[0]);
  if (runs.count == 1 && (runs.stride == 1 || n == 1) && source.dtype == kOwn<T> && !job.copied(slot))
    return {reinterpret_cast<const T*>(data), job.class_strides[slot], job.classes, n};
  const int64_t step = (job.block_rows + kLanes - 1) & ~(kLanes - 1);
  T* const tile = buffer.get(step * job.classes);
  if (runs.count == 1 && job.class_strides[slot] == 1 && source.dtype == kOwn<T>) {
    rows_to_tile(reinterpret_cast<const T*>(data), runs.stride, n, job.classes, tile, step);
    return {tile, step, job.classes, n};
  }
  for (int64_t c = 0; c < job.classes; ++c) {
    T* to = tile + c * step;
    for (int64_t r = 0; r < runs.count; to += runs.lengths[r++])
      read_run(source.dtype, row_of(job, slot, runs.offsets[r] + c * job.class_strides[slot]), runs.stride,
               runs.lengths[r], to);
  }
  return {tile, step, job.classes, n};
}

// Offsets of position j in all tensors that have classes.
template <class T> void offsets_at(const Job<T>& job, int64_t row, int64_t* offsets) {
  for (int slot = 0; slot < kSlots; ++slot) {
    if (!job.sources[slot].present()) continue;
    int64_t rest = row;
    offsets[slot] = 0;
    for (int d = job.walk.dims - 1; d >= 0; --d) {
      offsets[slot] += rest % job.walk.sizes[d] * job.sources[slot].strides[d];
      rest /= job.walk.sizes[d];
    }
  }
}

}  // namespace
}  // namespace losskit
