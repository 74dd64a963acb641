// The stable order of numbers, as integers that compare alike: a radix sort from the lowest digit up.
//
// 1. Keys carry a 32-bit payload along: the place of an element, and perhaps a bit that belongs to it. So nothing has
// to
//    be looked up by place afterwards, which costs more than the sort in a long row.
// 2. Only the bits that differ are sorted by: relevances of five grades take one pass, whatever their dtype.
// 3. Digits have as many bits as their counters are worth, 11 at most: those of long rows then stay in L2. The shortest
// rows
//    are inserted one by one.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <memory>
#include <utility>

#include "drive.h"

namespace losskit {
namespace {

// Memory of which nothing is known, in huge pages where that pays.
template <class T> class Buffer {
 public:
  T* get(int64_t n) {
    if (n > size) {
      data.reset();
      data = std::make_unique_for_overwrite<T[]>(n);
      size = n;
      if (n * int64_t(sizeof(T)) >= (int64_t(2) << 20)) use_huge_pages(data.get(), n * sizeof(T));
    }
    return data.get();
  }

 private:
  std::unique_ptr<T[]> data;
  int64_t size = 0;
};

// A number as an integer of the same order; -0 and 0 are alike. NaN has a place, too, and is told by other means.
LOSSKIT_INLINE uint32_t ordered_key(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x + 0.0f);
  return bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u);
}
LOSSKIT_INLINE uint64_t ordered_key(double x) {
  const uint64_t bits = std::bit_cast<uint64_t>(x + 0.0);
  return bits ^ (static_cast<uint64_t>(static_cast<int64_t>(bits) >> 63) | (uint64_t(1) << 63));
}
LOSSKIT_INLINE uint64_t ordered_key(int64_t x) { return static_cast<uint64_t>(x) ^ (uint64_t(1) << 63); }
LOSSKIT_INLINE float number_of(uint32_t key) {
  return std::bit_cast<float>(key ^ ((key >> 31) ? 0x80000000u : 0xffffffffu));
}
LOSSKIT_INLINE double number_of(uint64_t key) {
  return std::bit_cast<double>(key ^ ((key >> 63) ? uint64_t(1) << 63 : ~uint64_t(0)));
}

template <class Key> struct Record {
  Key key;
  uint32_t payload;
};

// Records, sorted in place or into the other of two arrays.
template <class Key> class Sorter {
 public:
  Record<Key>* records = nullptr;

  void reserve(int64_t n) {
    for (int i = 0; i < 2; ++i) all[i] = memory[i].get(n);
    records = all[0];
  }

  // The first n records by ascending keys, equal ones as they came.
  void sort(int64_t n) {
    if (n <= kInserted) return insert(n);
    Key every = ~Key(0), any = 0;
    for (int64_t i = 0; i < n; ++i) every &= records[i].key, any |= records[i].key;
    const Key differs = every ^ any;
    if (differs == 0) return;
    const int first = std::countr_zero(differs), bits = std::bit_width(differs) - first;
    const int width = width_of(n, bits);
    for (int at = first; at < first + bits; at += width) by_digit(n, at, std::min(width, first + bits - at));
  }

 private:
  static constexpr int64_t kInserted = 24;
  static constexpr int kWidest = 11;
  Buffer<Record<Key>> memory[2];
  Record<Key>* all[2] = {};

  // Bits of a digit, so that passes and counters together take least: an element takes a pass about as long as two
  // counters.
  static int width_of(int64_t n, int bits) {
    int best = 0;
    int64_t least = std::numeric_limits<int64_t>::max();
    for (int passes = (bits + kWidest - 1) / kWidest; passes <= bits; ++passes) {
      const int width = (bits + passes - 1) / passes;
      const int64_t cost = passes * (2 * n + (int64_t(1) << width));
      if (cost < least) least = cost, best = width;
    }
    return best;
  }

  void insert(int64_t n) {
    for (int64_t i = 1; i < n; ++i) {
      const Record<Key> record = records[i];
      int64_t at = i;
      for (; at > 0 && records[at - 1].key > record.key; --at) records[at] = records[at - 1];
      records[at] = record;
    }
  }

  void by_digit(int64_t n, int at, int width) {
    uint32_t counts[1 << kWidest];
    const uint32_t values = 1u << width;
    const auto digit = [&](Key key) { return static_cast<uint32_t>(key >> at) & (values - 1); };
    std::fill(counts, counts + values, 0u);
    for (int64_t i = 0; i < n; ++i) ++counts[digit(records[i].key)];
    uint32_t before = 0;
    for (uint32_t v = 0; v < values; ++v) before += std::exchange(counts[v], before);
    Record<Key>* const other = records == all[0] ? all[1] : all[0];
    for (int64_t i = 0; i < n; ++i) {
      const Record<Key> record = records[i];
      other[counts[digit(record.key)]++] = record;
    }
    records = other;
  }
};

}  // namespace
}  // namespace losskit
