// The stable order of numbers, as integers that compare alike: a radix sort from the lowest digit up.
//
// 1. Keys carry a 32-bit payload along: the place of an element, and perhaps a bit that belongs to it. So nothing has
// to
//    be looked up by place afterwards, which costs more than the sort in a long row.
// 2. A digit in which all keys agree is skipped: relevances of five grades take one pass, whatever their dtype.
// 3. Long rows have digits of 11 bits. Short ones have 8, since 2,048 counters would cost more than their elements, and
//    the shortest are inserted one by one.
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

// Keys and what they carry, sorted in place or into the other pair of arrays.
template <class Key> class Sorter {
 public:
  Key* keys = nullptr;
  uint32_t* payload = nullptr;

  void reserve(int64_t n) {
    for (int i = 0; i < 2; ++i) all_keys[i] = key_memory[i].get(n), all_payloads[i] = payload_memory[i].get(n);
    keys = all_keys[0], payload = all_payloads[0];
  }

  // The first n keys in ascending order, equal ones as they came.
  void sort(int64_t n) {
    if (n <= kInserted) return insert(n);
    if (n < kLong)
      by_digits<8>(n);
    else
      by_digits<11>(n);
  }

 private:
  static constexpr int64_t kInserted = 24, kLong = 6000;
  Buffer<Key> key_memory[2];
  Buffer<uint32_t> payload_memory[2];
  Key* all_keys[2] = {};
  uint32_t* all_payloads[2] = {};

  void insert(int64_t n) {
    for (int64_t i = 1; i < n; ++i) {
      const Key key = keys[i];
      const uint32_t carried = payload[i];
      int64_t at = i;
      for (; at > 0 && keys[at - 1] > key; --at) keys[at] = keys[at - 1], payload[at] = payload[at - 1];
      keys[at] = key, payload[at] = carried;
    }
  }

  template <int bits> void by_digits(int64_t n) {
    constexpr int kDigits = (8 * sizeof(Key) + bits - 1) / bits;
    constexpr uint32_t kValues = 1u << bits;
    uint32_t counts[kValues];
    Key all = ~Key(0), any = 0;
    for (int64_t i = 0; i < n; ++i) all &= keys[i], any |= keys[i];
    const Key differs = all ^ any;
    for (int d = 0; d < kDigits; ++d) {
      const auto digit = [d](Key key) { return static_cast<uint32_t>(key >> (d * bits)) & (kValues - 1); };
      if (!digit(differs)) continue;
      std::fill(counts, counts + kValues, 0u);
      for (int64_t i = 0; i < n; ++i) ++counts[digit(keys[i])];
      uint32_t before = 0;
      for (uint32_t& count : counts) before += std::exchange(count, before);
      Key* const other = keys == all_keys[0] ? all_keys[1] : all_keys[0];
      uint32_t* const carried = payload == all_payloads[0] ? all_payloads[1] : all_payloads[0];
      for (int64_t i = 0; i < n; ++i) {
        const uint32_t to = counts[digit(keys[i])]++;
        other[to] = keys[i], carried[to] = payload[i];
      }
      keys = other, payload = carried;
    }
  }
};

}  // namespace
}  // namespace losskit
