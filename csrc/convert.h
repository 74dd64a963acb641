// Between the dtypes of tensors and the two compute types, float and double.
//
// Halves are converted with integer arithmetic that vectorises on every instruction set; both directions were
// compared with torch for all 65,536 values. Rounding is to nearest even, NaN stays NaN.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "generated/wire.h"
#include "kernel.h"

namespace losskit {

using wire::DType;

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

LOSSKIT_INLINE float to_float(Half h) {
  const uint32_t sign = static_cast<uint32_t>(h.bits & 0x8000u) << 16;
  const uint32_t magnitude = h.bits & 0x7fffu;
  const uint32_t normal = (magnitude << 13) + (112u << 23);
  const uint32_t special = normal + (112u << 23);
  const float subnormal = std::bit_cast<float>((magnitude << 13) + (113u << 23)) - 6.103515625e-05f;
  uint32_t bits = magnitude >= 0x7c00u ? special : normal;
  bits = magnitude < 0x0400u ? std::bit_cast<uint32_t>(subnormal) : bits;
  return std::bit_cast<float>(bits | sign);
}

LOSSKIT_INLINE float to_float(BFloat16 h) { return std::bit_cast<float>(static_cast<uint32_t>(h.bits) << 16); }

LOSSKIT_INLINE Half to_half(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t sign = bits & 0x80000000u;
  const uint32_t magnitude = bits ^ sign;
  const uint32_t normal = (magnitude + 0xc8000fffu + ((magnitude >> 13) & 1u)) >> 13;
  const float shifted = std::bit_cast<float>(magnitude) + 0.5f;  // lines up the last bit of a subnormal half
  const uint32_t subnormal = std::bit_cast<uint32_t>(shifted) - 0x3f000000u;
  uint32_t result = magnitude < 0x38800000u ? subnormal : normal;
  result = magnitude >= 0x47800000u ? 0x7c00u : result;
  result = magnitude > 0x7f800000u ? 0x7e00u : result;
  return {static_cast<uint16_t>(result | (sign >> 16))};
}

LOSSKIT_INLINE BFloat16 to_bfloat16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return {static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded)};
}

template <class T, class From> LOSSKIT_INLINE T widen(From x) { return static_cast<T>(x); }
template <class T> LOSSKIT_INLINE T widen(Half x) { return static_cast<T>(to_float(x)); }
template <class T> LOSSKIT_INLINE T widen(BFloat16 x) { return static_cast<T>(to_float(x)); }

template <class To, class T> LOSSKIT_INLINE To narrow(T x) {
  if constexpr (std::is_same_v<To, Half>)
    return to_half(static_cast<float>(x));
  else if constexpr (std::is_same_v<To, BFloat16>)
    return to_bfloat16(static_cast<float>(x));
  else
    return static_cast<To>(x);
}

// `n` numbers, `stride` elements apart, as T. The common strides get loops that vectorise.
template <class T, class From> LOSSKIT_INLINE void read(const From* from, int64_t stride, int64_t n, T* to) {
  if (stride == 1) {
    for (int64_t i = 0; i < n; ++i) to[i] = widen<T>(from[i]);
  } else if (stride == 0) {
    const T value = widen<T>(from[0]);
    for (int64_t i = 0; i < n; ++i) to[i] = value;
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] = widen<T>(from[i * stride]);
  }
}

template <class T> LOSSKIT_INLINE void read_integers(DType dtype, const void* from, int64_t stride, int64_t n, T* to) {
  switch (dtype) {
    case DType::kByte:
    case DType::kBool:
      return read(static_cast<const uint8_t*>(from), stride, n, to);
    case DType::kChar:
      return read(static_cast<const int8_t*>(from), stride, n, to);
    case DType::kShort:
      return read(static_cast<const int16_t*>(from), stride, n, to);
    case DType::kInt:
      return read(static_cast<const int32_t*>(from), stride, n, to);
    case DType::kUInt16:
      return read(static_cast<const uint16_t*>(from), stride, n, to);
    case DType::kUInt32:
      return read(static_cast<const uint32_t*>(from), stride, n, to);
    default:
      return read(static_cast<const int64_t*>(from), stride, n, to);
  }
}

template <class T> LOSSKIT_INLINE void read_any(DType dtype, const void* from, int64_t stride, int64_t n, T* to) {
  switch (dtype) {
    case DType::kHalf:
      return read(static_cast<const Half*>(from), stride, n, to);
    case DType::kFloat:
      return read(static_cast<const float*>(from), stride, n, to);
    case DType::kDouble:
      return read(static_cast<const double*>(from), stride, n, to);
    case DType::kBFloat16:
      return read(static_cast<const BFloat16*>(from), stride, n, to);
    default:
      return read_integers(dtype, from, stride, n, to);
  }
}

LOSSKIT_CLONES inline void read_run(DType dtype, const void* from, int64_t stride, int64_t n, float* to) {
  read_any<float>(dtype, from, stride, n, to);
}
LOSSKIT_CLONES inline void read_run(DType dtype, const void* from, int64_t stride, int64_t n, double* to) {
  read_any<double>(dtype, from, stride, n, to);
}

// Class indices, of any width.
LOSSKIT_CLONES inline void read_run(DType dtype, const void* from, int64_t stride, int64_t n, int64_t* to) {
  read_integers(dtype, from, stride, n, to);
}

// `loop(out)`, where `out` is `to` as a pointer to the type of a floating dtype.
template <class Loop> LOSSKIT_INLINE void as_floating(DType dtype, void* to, const Loop& loop) {
  switch (dtype) {
    case DType::kHalf:
      return loop(static_cast<Half*>(to));
    case DType::kBFloat16:
      return loop(static_cast<BFloat16*>(to));
    case DType::kDouble:
      return loop(static_cast<double*>(to));
    default:
      return loop(static_cast<float*>(to));
  }
}

template <class T> LOSSKIT_INLINE void write_any(DType dtype, const T* from, int64_t n, void* to) {
  as_floating(dtype, to, [&]<class To>(To* out) __attribute__((always_inline)) {
    for (int64_t i = 0; i < n; ++i) out[i] = narrow<To>(from[i]);
  });
}

LOSSKIT_CLONES inline void write_run(DType dtype, const float* from, int64_t n, void* to) {
  write_any(dtype, from, n, to);
}
LOSSKIT_CLONES inline void write_run(DType dtype, const double* from, int64_t n, void* to) {
  write_any(dtype, from, n, to);
}

// As write_run, `step` elements apart.
template <class T> LOSSKIT_INLINE void write_any_apart(DType dtype, const T* from, int64_t n, int64_t step, void* to) {
  as_floating(dtype, to, [&]<class To>(To* out) __attribute__((always_inline)) {
    for (int64_t i = 0; i < n; ++i) out[i * step] = narrow<To>(from[i]);
  });
}

LOSSKIT_CLONES inline void write_apart(DType dtype, const float* from, int64_t n, int64_t step, void* to) {
  write_any_apart(dtype, from, n, step, to);
}
LOSSKIT_CLONES inline void write_apart(DType dtype, const double* from, int64_t n, int64_t step, void* to) {
  write_any_apart(dtype, from, n, step, to);
}

inline int64_t size_of(DType dtype) {
  switch (dtype) {
    case DType::kByte:
    case DType::kBool:
    case DType::kChar:
      return 1;
    case DType::kShort:
    case DType::kHalf:
    case DType::kBFloat16:
    case DType::kUInt16:
      return 2;
    case DType::kInt:
    case DType::kFloat:
    case DType::kUInt32:
      return 4;
    default:
      return 8;
  }
}

}  // namespace losskit
