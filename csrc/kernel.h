// The contract between the block functions, one set per formula, and the loop that calls them.
//
// 1. A block function sees at most `kBlock` contiguous numbers of one type. Strides, broadcasting, dtypes,
//    weights, masks and reductions are the loop's business (pointwise.cpp), so a formula compiles in well under
//    a second and a user's own formula needs neither torch's headers nor the loop's.
// 2. The block size is 1024: the buffers of one block (4 KB each in float) stay in a 32 KB L1 cache, and one
//    indirect call per 1024 elements costs nothing that can be measured.
// 3. `scale` multiplies gradients: it is 1/N of a mean, so that the gradient is written ready to be handed over.
// 4. target_clones picks AVX-512, AVX2 or plain code when the library is loaded. Everything a block function
//    calls is inlined into it (LOSSKIT_INLINE), so it is compiled for the clone's instruction set.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#ifndef LOSSKIT_INLINE
#define LOSSKIT_INLINE inline __attribute__((always_inline))
#endif

#if defined(LOSSKIT_CLONES)  // given on the compiler's command line
#elif defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
// GCC 11 knows these names, but cannot choose by them at run time: there users' kernels are plain code.
#define LOSSKIT_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define LOSSKIT_CLONES
#endif

namespace losskit {

constexpr int64_t kBlock = 1024;
constexpr int kOperands = 8;
constexpr int32_t kAbi = 4;

// Which gradients a block function writes beside the value. kCounts: no value, but how often an element counts in the
// denominator of a mean, where the declaration says so.
enum Variant { kNone = 0, kPredictions = 1, kAll = 2, kCounts = 3, kVariants = 4 };

// What values an operand may have; NaN is always let through, since NaN in gives NaN out.
// kPlaces: whole numbers from 0 to the last place of a row, plus `high`.
// kPosition: there is no tensor; it is the place of an element in its row.
enum DomainKind : int32_t { kAnything = 0, kInterval = 1, kSigns = 2, kPlaces = 3, kPosition = 4 };
struct Domain {
  int32_t kind;
  int16_t open;  // bit 0: low is excluded; bit 1: high is excluded
  int16_t back;  // not 0: it is the difference from the operand so many places before that must be in the domain
  double low, high;
};

template <class T>
using BlockFunction = void (*)(int64_t n, const T* const* operands, const T* parameters, double scale, T* value,
                               T* const* gradients);

struct Kernel {
  int32_t abi;
  int32_t operands;
  int32_t parameters;
  int32_t predictions;  // bits of the operands whose gradients the kPredictions variant writes
  int32_t per_row;      // bits of the operands that may have one number for each row
  int32_t several;      // whether the formula is several loops over a block, which may take it in parts
  BlockFunction<float> f32[kVariants];
  BlockFunction<double> f64[kVariants];
  Domain domains[kOperands];
};

// A factor as an unevaluated sum, so that a float times 1/N costs one rounding and no conversion to double.
// `low` has the sign of `high` and is never 0: an infinite gradient must stay infinite.
template <class T> struct Scale {
  T high, low;
  explicit Scale(double scale) : high(static_cast<T>(scale)), low(0) {
    if (std::abs(static_cast<double>(high)) > std::abs(scale)) high = std::nextafter(high, T(0));
    low = static_cast<T>(scale - static_cast<double>(high));
    if (!std::isfinite(high)) low = high;
    if (low == 0) low = high * std::numeric_limits<T>::epsilon() * std::numeric_limits<T>::epsilon();
  }
};

template <class T> LOSSKIT_INLINE T scaled(T gradient, Scale<T> scale) {
  return gradient * scale.high + gradient * scale.low;
}

}  // namespace losskit

// A formula of one loop and without counts; another one defines what has these names in its own namespace.
constexpr bool several_loops = false;
constexpr std::nullptr_t block_counts_f32 = nullptr, block_counts_f64 = nullptr;

// Instantiate `block<T, gradients>` of the enclosing namespace for both types and export the kernel.
#define LOSSKIT_BLOCK(T, suffix, gradients)                                                                         \
  LOSSKIT_CLONES static void block_##suffix(int64_t n, const T* const* operands, const T* parameters, double scale, \
                                            T* value, T* const* out) {                                              \
    block<T, gradients>(n, operands, parameters, scale, value, out);                                                \
  }

#define LOSSKIT_KERNEL_OF_ALL(symbol, operands, parameters, bits, rows, ...) \
  LOSSKIT_BLOCK(float, all_f32, losskit::kAll)                               \
  LOSSKIT_BLOCK(double, all_f64, losskit::kAll)                              \
  LOSSKIT_KERNEL(symbol, operands, parameters, bits, rows, all, __VA_ARGS__)

// Where all operands are predictions, one function serves both.
#define LOSSKIT_KERNEL_OF_PREDICTIONS(symbol, operands, parameters, bits, rows, ...) \
  LOSSKIT_KERNEL(symbol, operands, parameters, bits, rows, predictions, __VA_ARGS__)

#define LOSSKIT_COUNTS                               \
  LOSSKIT_BLOCK(float, counts_f32, losskit::kCounts) \
  LOSSKIT_BLOCK(double, counts_f64, losskit::kCounts)

#define LOSSKIT_KERNEL(symbol, operands, parameters, bits, rows, of_all, ...)                                       \
  LOSSKIT_BLOCK(float, value_f32, losskit::kNone)                                                                   \
  LOSSKIT_BLOCK(float, predictions_f32, losskit::kPredictions)                                                      \
  LOSSKIT_BLOCK(double, value_f64, losskit::kNone)                                                                  \
  LOSSKIT_BLOCK(double, predictions_f64, losskit::kPredictions)                                                     \
  extern "C" __attribute__((visibility("default")))                                                                 \
  const losskit::Kernel symbol = {losskit::kAbi,                                                                    \
                                  operands,                                                                         \
                                  parameters,                                                                       \
                                  bits,                                                                             \
                                  rows,                                                                             \
                                  several_loops,                                                                    \
                                  {block_value_f32, block_predictions_f32, block_##of_all##_f32, block_counts_f32}, \
                                  {block_value_f64, block_predictions_f64, block_##of_all##_f64, block_counts_f64}, \
                                  {__VA_ARGS__}};
