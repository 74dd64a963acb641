// A row of the embeddings family: its sums, its statistics, its gradients.
//
// 1. Results must be exact at every scale, without an epsilon. Squares of floats are exact in double: they neither
//    overflow it nor exhaust its digits. Doubles are scaled by a power of two and summed with their rounding errors.
// 2. There are two ways. The usual way, for floats with p = 1, 2 or a cosine: differences in float, their sums in
//    double, gradients in float. The careful way computes in double. It serves doubles, every other p, and rows of
//    floats whose scale or cosine would cost the usual way digits.
// 3. Near cosine 1 the cosine has no digits left for 1 - cosine and its gradient: both come from w = x - |x|/|y| y,
//    whose terms cancel exactly: 1 - cosine = |w|^2 / (2 |x|^2). An error of |x|/|y| counts only squared.
// 4. Sums are of vectors of eight, as GCC's own type: it would leave sums of doubles scalar, whose order it must keep.
#pragma once

#include <cstring>

#include "primitives.h"
#include "reduce.h"

#define LOSSKIT_LAMBDA __attribute__((always_inline))

#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed to inlined functions only

namespace losskit {

enum Pair { kAB, kAC, kBC, kPairs };
constexpr int kFirst[kPairs] = {0, 0, 1}, kSecond[kPairs] = {1, 2, 2};

// A distance, and the numbers that its gradient needs.
struct Distance {
  double value;
  double most;  // the largest difference
  double ties;  // p = inf: the number of differences of this magnitude
  double log;   // general p: log(value / most)
  double magnitude() const { return most == infinity<double> ? most : std::log(most) + log; }
};

// A cosine: sums of the rows times 2^-ex and 2^-ey.
struct Cosine {
  double value, complement;  // complement: 1 - |value|
  double xx, yy;
  double wx, wy;  // products of w with both rows
  int ex, ey;
};

// --------------------------------------------------------------------------------------------------------
// Sums over a row

constexpr int kLanes = 8;
constexpr int kAhead = 1024;  // elements to prefetch ahead: the hardware's prefetcher stops at the end of every page
template <class T> struct Pack {
  typedef T type __attribute__((vector_size(kLanes * sizeof(T))));
};
using Lanes = Pack<double>::type;
using LaneBits = Pack<int64_t>::type;

LOSSKIT_INLINE double folded(const Lanes& lanes) {
  typedef double Four __attribute__((vector_size(32)));
  Four low, high;
  std::memcpy(&low, &lanes, sizeof(low));
  std::memcpy(&high, reinterpret_cast<const char*>(&lanes) + sizeof(low), sizeof(high));
  low += high;
  return (low[0] + low[2]) + (low[1] + low[3]);
}

// x where `keep` is all ones, 0 where it is 0.
LOSSKIT_INLINE Lanes kept(const Lanes& x, const LaneBits& keep) { return (Lanes)((LaneBits)x & keep); }

// Calls step(which, eight elements of each row, which of these to keep); the last eight may overlap those before.
// `which` alternates, so that two sums do not wait for each other.
template <int rows, class T, class Step> LOSSKIT_INLINE void over(const T* const* x, int64_t n, Step step) {
  typename Pack<T>::type at[rows];
  const LaneBits all = ~LaneBits{};
  const auto load = [&](int64_t i) LOSSKIT_LAMBDA {
    for (int k = 0; k < rows; ++k) std::memcpy(&at[k], x[k] + i, sizeof(at[k]));
  };
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    for (int k = 0; k < rows; ++k) __builtin_prefetch(x[k] + i + kAhead);
    load(i), step(0, at, all);
    load(i + kLanes), step(1, at, all);
  }
  if (i + kLanes <= n) load(i), step(0, at, all), i += kLanes;
  if (i == n) return;
  static constexpr int64_t kKeep[2 * kLanes] = {0, 0, 0, 0, 0, 0, 0, 0, -1, -1, -1, -1, -1, -1, -1, -1};
  LaneBits keep;
  if (n >= kLanes) {
    std::memcpy(&keep, kKeep + (n - i), sizeof(keep));
    load(n - kLanes);
  } else {
    T row[rows][kLanes] = {};
    for (int k = 0; k < rows; ++k) std::memcpy(row[k] + kLanes - n, x[k], n * sizeof(T));
    for (int k = 0; k < rows; ++k) std::memcpy(&at[k], row[k], sizeof(at[k]));
    std::memcpy(&keep, kKeep + n, sizeof(keep));
  }
  step(1, at, keep);
}

// A loop: of __builtin_convertvector GCC 12 makes two conversions of four and puts them together, 1.5 times the time.
template <class V> LOSSKIT_INLINE Lanes widened(const V& x) {
  Lanes wide;
  for (int j = 0; j < kLanes; ++j) wide[j] = static_cast<double>(x[j]);
  return wide;
}
LOSSKIT_INLINE Lanes magnitudes(const Lanes& x) { return (Lanes)((LaneBits)x & INT64_MAX); }

// The squares (p = 2) or magnitudes (p = 1) of the differences of each pair, in float and summed in double.
template <int pairs, bool squares> struct Differences {
  static constexpr int kSums = pairs, kOf = pairs == 1 ? 2 : 3;
  float eps;
  Lanes sums[2][pairs] = {};
  template <class V> LOSSKIT_INLINE void add(int which, const V* at, const LaneBits& keep) {
    for (int k = 0; k < pairs; ++k) {
      const Lanes d = kept(widened((at[kFirst[k]] - at[kSecond[k]]) + eps), keep);
      sums[which][k] += squares ? d * d : magnitudes(d);
    }
  }
};

// |x|^2, |y|^2 and xy.
struct Products {
  static constexpr int kSums = 3, kOf = 2;
  Lanes sums[2][3] = {};
  template <class V> LOSSKIT_INLINE void add(int which, const V* at, const LaneBits& keep) {
    const Lanes u = kept(widened(at[0]), keep), v = kept(widened(at[1]), keep);
    sums[which][0] += u * u;
    sums[which][1] += v * v;
    sums[which][2] += u * v;
  }
};

// The sums of a row.
template <class Terms>
LOSSKIT_INLINE void sum_row(const float* const* x, int64_t n, const Terms& start, double* const* sums, int64_t row) {
  Terms terms = start;
  over<Terms::kOf>(x, n,
                   [&](int which, const auto* at, const LaneBits& keep) LOSSKIT_LAMBDA { terms.add(which, at, keep); });
  for (int k = 0; k < Terms::kSums; ++k) sums[k][row] = folded(terms.sums[0][k] + terms.sums[1][k]);
}

// Eight short rows at once, each in its lane: x[k][j] is where row j of embedding k starts.
using Eight = const float* [kLanes];
template <int rows> LOSSKIT_INLINE void load_column(const Eight* x, int64_t i, Pack<float>::type* at) {
  for (int k = 0; k < rows; ++k)
    for (int j = 0; j < kLanes; ++j) at[k][j] = x[k][j][i];
}
template <class Terms>
LOSSKIT_INLINE void sum_eight(const Eight* x, int64_t n, const Terms& start, double* const* sums, int64_t row) {
  Terms terms = start;
  Pack<float>::type at[Terms::kOf];
  for (int64_t i = 0; i < n; ++i) {
    load_column<Terms::kOf>(x, i, at);
    terms.add(0, at, ~LaneBits{});
  }
  for (int k = 0; k < Terms::kSums; ++k) std::memcpy(sums[k] + row, &terms.sums[0][k], sizeof(Lanes));
}

// --------------------------------------------------------------------------------------------------------
// Careful sums, of doubles

// The upper half of x's digits.
LOSSKIT_INLINE double upper(double x) { return from_bits<double>(bits(x) & ~Bits<double>((1 << 27) - 1)); }
LOSSKIT_INLINE Lanes upper(const Lanes& x) { return (Lanes)((LaneBits)x & ~int64_t((1 << 27) - 1)); }

// A product as a sum. Its larger part is exact, so it does no harm where the compiler contracts x - value.
template <class V> struct Product {
  V value, error;
  LOSSKIT_INLINE Product(const V& x, const V& y) {
    const V xh = upper(x), xl = x - xh, yh = upper(y), yl = y - yh;
    value = xh * yh;
    error = (xh * yl + xl * yh) + xl * yl;
  }
};

// A sum with its rounding errors.
struct Compensated {
  Lanes high = {}, low = {};
  LOSSKIT_INLINE void add(const Lanes& x) {
    const Lanes sum = high + x, seen = sum - high;
    low += (high - (sum - seen)) + (x - seen);
    high = sum;
  }
  LOSSKIT_INLINE void add(const Product<Lanes>& x) {
    add(x.value);
    low += x.error;
  }
  LOSSKIT_INLINE double value() const {
    Sum total;
    for (int j = 0; j < kLanes; ++j) {
      total.add(high[j]);
      total.low += low[j];
    }
    return total.value();
  }
};

// The largest magnitude; NaN if one is.
struct Largest {
  Lanes most = {}, nan = {};
  LOSSKIT_INLINE void add(const Lanes& x) {
    most = x > most ? x : most;
    nan += x * 0.0;  // infinity must stay infinity: see below
  }
  LOSSKIT_INLINE double value() const {
    double result = 0.0;
    for (int j = 0; j < kLanes; ++j) result = most[j] > result ? most[j] : result;
    const double sum = folded(nan);
    return sum == sum || result == infinity<double> ? result : sum;
  }
};
LOSSKIT_INLINE double largest(const double* x, int64_t n) {
  Largest most;
  over<1>(&x, n, [&](int, const Lanes* at, const LaneBits&) LOSSKIT_LAMBDA { most.add(magnitudes(*at)); });
  return most.value();
}

// The factor 2^-e that brings a largest magnitude to [1, 2). 0, infinities and NaN are left alone.
LOSSKIT_INLINE int exponent_of(double most) { return most > 0 && most < infinity<double> ? std::ilogb(most) : 0; }

// x times 2^shift: one factor would overflow for subnormal numbers.
struct Shift {
  double first, second;
  explicit Shift(int e) : first(std::ldexp(1.0, e / 2)), second(std::ldexp(1.0, e - e / 2)) {}
  template <class V> LOSSKIT_INLINE V operator()(const V& x) const { return x * first * second; }
};

// --------------------------------------------------------------------------------------------------------
// Careful statistics

LOSSKIT_INLINE Distance distance_of(const double* x, const double* y, int64_t n, double p, double eps) {
  const double* const rows[] = {x, y};
  const auto sum = [&](auto term) LOSSKIT_LAMBDA {
    Compensated total;
    over<2>(rows, n, [&](int, const Lanes* at, const LaneBits& keep) LOSSKIT_LAMBDA {
      total.add(Lanes(term(kept(magnitudes((at[0] - at[1]) + eps), keep))));
    });
    return total.value();
  };
  Distance result{0.0, infinity<double>, 1.0, 0.0};
  if (p == 1.0) {
    result.value = sum([](const Lanes& d) LOSSKIT_LAMBDA { return d; });
    return result;
  }
  if (p == 0.0) {  // how many differ
    result.value = sum([](const Lanes& d) LOSSKIT_LAMBDA { return d > 0 ? Lanes{} + 1.0 : d; });
    return result;
  }
  if (p == 2.0) {
    const double squares = sum([](const Lanes& d) LOSSKIT_LAMBDA { return d * d; });
    result.value = std::sqrt(squares);
    if (squares > 1e-200 && squares < 1e200) return result;  // otherwise squares may have left the range
  }
  Largest largest;
  over<2>(rows, n, [&](int, const Lanes* at, const LaneBits& keep) LOSSKIT_LAMBDA {
    largest.add(kept(magnitudes((at[0] - at[1]) + eps), keep));
  });
  const double most = result.value = result.most = largest.value();
  if (p == infinity<double>)
    result.ties = sum([&](const Lanes& d) LOSSKIT_LAMBDA { return d == most ? Lanes{} + 1.0 : Lanes{}; });
  if (p == infinity<double> || !(most > 0 && most < infinity<double>)) return result;
  if (p == 2.0) {
    const int e = exponent_of(most);
    const Shift shift(-e);
    const double squares = sum([&](const Lanes& d) LOSSKIT_LAMBDA { return shift(d) * shift(d); });
    result.value = std::ldexp(std::sqrt(squares), e);
    result.log = 0.5 * std::log(squares) - std::log(std::ldexp(most, -e));
    return result;
  }
  const double powers = sum([&](const Lanes& d) LOSSKIT_LAMBDA {
    Lanes t = d / most;
    if (p == 3.0) return t * t * t;
    double y[kLanes];
    std::memcpy(y, &t, sizeof(y));
    for (int j = 0; j < kLanes; ++j) y[j] = y[j] == 0 ? 0.0 : losskit::exp(p * losskit::log(y[j]));
    std::memcpy(&t, y, sizeof(y));
    return t;
  });
  result.log = std::log(powers) / p;
  result.value = most * std::pow(powers, 1.0 / p);
  if (result.value == infinity<double>) result.value = std::exp(std::log(most) + result.log);
  return result;
}

// w = x - s |x|/|y| y, where s is the sign of the cosine: exact products, so that nothing is lost where they cancel.
struct Apart {
  double ratio, high, low;
  explicit Apart(const Cosine& cosine)
      : ratio(std::copysign(std::sqrt(cosine.xx / cosine.yy), cosine.value)), high(upper(ratio)), low(ratio - high) {}
  template <class V> LOSSKIT_INLINE V operator()(const V& x, const V& y) const {
    const V yh = upper(y);
    return ((x - high * yh) - high * (y - yh)) - low * y;
  }
};

LOSSKIT_INLINE Cosine cosine_of(const double* x, const double* y, int64_t n) {
  const double* const rows[] = {x, y};
  Cosine result{};
  double xy;
  const auto sum = [&](const Shift& u, const Shift& v) LOSSKIT_LAMBDA {
    Compensated xs, ys, both;
    over<2>(rows, n, [&](int, const Lanes* at, const LaneBits& keep) LOSSKIT_LAMBDA {
      const Lanes a = kept(u(at[0]), keep), b = kept(v(at[1]), keep);
      xs.add(Lanes(a * a));
      ys.add(Lanes(b * b));
      both.add(Product<Lanes>(a, b));
    });
    result.xx = xs.value(), result.yy = ys.value(), xy = both.value();
  };
  const auto ordinary = [](double sum) { return sum > 1e-150 && sum < 1e150; };
  sum(Shift(0), Shift(0));
  if (!ordinary(result.xx) || !ordinary(result.yy)) {
    result.ex = exponent_of(largest(x, n)), result.ey = exponent_of(largest(y, n));
    sum(Shift(-result.ex), Shift(-result.ey));
  }
  const double squares = result.xx * result.yy;
  result.value = squares == 0.0 ? 0.0 : clamp(xy / std::sqrt(squares), -1.0, 1.0);
  result.complement = 1.0 - std::fabs(result.value);
  if (result.complement >= 0.5) return result;
  const Shift u(-result.ex), v(-result.ey);
  const Apart apart(result);
  Lanes ww = {}, wx = {}, wy = {};
  over<2>(rows, n, [&](int, const Lanes* at, const LaneBits& keep) LOSSKIT_LAMBDA {
    const Lanes a = kept(u(at[0]), keep), b = kept(v(at[1]), keep), w = apart(a, b);
    ww += w * w;
    wx += w * a;
    wy += w * b;
  });
  result.wx = folded(wx), result.wy = folded(wy);
  result.complement = folded(ww) / (2.0 * result.xx);
  return result;
}

// --------------------------------------------------------------------------------------------------------
// Gradients

// By two (three) embeddings from the differences of their pairs, p = 1 or 2; `by` has the slope of each pair.
template <bool third, bool swap, bool squares>
LOSSKIT_INLINE void combine(const float* const* x, int64_t n, float eps, const float* by, float* const* out) {
  const float *a = x[0], *b = x[1], *c = third ? x[2] : nullptr;
  float* __restrict ga = out[0], * __restrict gb = out[1], * __restrict gc = third ? out[2] : nullptr;
  const float ab = by[kAB], ac = by[kAC], bc = by[kBC];
  const auto part = [eps](float u, float v, float slope) LOSSKIT_LAMBDA {
    const float d = (u - v) + eps;
    return (squares ? d : sign(d)) * slope;
  };
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const float first = part(a[i], b[i], ab);
    const float second = third ? part(a[i], c[i], ac) : 0.0f;
    const float other = swap ? part(b[i], c[i], bc) : 0.0f;
    ga[i] = third ? first + second : first;
    gb[i] = swap ? other - first : -first;
    if (third) gc[i] = swap ? -second - other : -second;
  }
}
template <bool squares>
LOSSKIT_INLINE void combine(bool third, const float* const* x, int64_t n, float eps, const float* by,
                            float* const* out) {
  if (third && by[kBC] != 0)
    combine<true, true, squares>(x, n, eps, by, out);
  else if (third)
    combine<true, false, squares>(x, n, eps, by, out);
  else
    combine<false, false, squares>(x, n, eps, by, out);
}

// gx = g (y/|y| - c x/|x|) / |x| = both y - by_x x, and the same by y with the roles changed.
template <class A>
LOSSKIT_INLINE void turn(const float* const* x, int64_t n, A both, A by_x, A by_y, float* const* out) {
  const float *a = x[0], *b = x[1];
  float* __restrict ga = out[0], * __restrict gb = out[1];
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const A u = static_cast<A>(a[i]), v = static_cast<A>(b[i]);
    ga[i] = static_cast<float>(both * v - by_x * u);
    gb[i] = static_cast<float>(both * u - by_y * v);
  }
}

// The same of eight short rows, in double. Rows without a slope get zeros, whatever is in them.
LOSSKIT_INLINE void store_column(const Lanes& gradient, const Lanes& slope, int64_t i, float* const* out) {
  const Lanes g = slope != 0 ? gradient : Lanes{};
  for (int j = 0; j < kLanes; ++j) out[j][i] = static_cast<float>(g[j]);
}
LOSSKIT_INLINE Lanes eight(const double* x) {
  Lanes lanes;
  std::memcpy(&lanes, x, sizeof(lanes));
  return lanes;
}
template <bool third>
LOSSKIT_INLINE void combine_eight(const Eight* x, int64_t n, bool squares, double eps, const Lanes* by,
                                  float* const (*out)[kLanes]) {
  Pack<float>::type at[third ? 3 : 2];
  const Lanes any = magnitudes(by[kAB]) + magnitudes(by[kAC]) + magnitudes(by[kBC]);
  for (int64_t i = 0; i < n; ++i) {
    load_column<third ? 3 : 2>(x, i, at);
    const auto part = [&](int pair) LOSSKIT_LAMBDA {
      const Lanes d = (widened(at[kFirst[pair]]) - widened(at[kSecond[pair]])) + eps;
      return Lanes((squares ? d : d > 0 ? Lanes{} + 1.0 : d < 0 ? Lanes{} - 1.0 : d) * by[pair]);
    };
    const Lanes first = part(kAB);
    if constexpr (third) {
      const Lanes second = part(kAC), other = part(kBC);
      store_column(first + second, any, i, out[0]);
      store_column(other - first, any, i, out[1]);
      store_column(-second - other, any, i, out[2]);
    } else {
      store_column(first, any, i, out[0]);
      store_column(-first, any, i, out[1]);
    }
  }
}
LOSSKIT_INLINE void turn_eight(const Eight* x, int64_t n, const Lanes& slope, const Lanes& c, const Lanes* by,
                               float* const (*out)[kLanes]) {
  Pack<float>::type at[2];
  const Lanes by_x = c * by[1], by_y = c * by[2];
  for (int64_t i = 0; i < n; ++i) {
    load_column<2>(x, i, at);
    const Lanes u = widened(at[0]), v = widened(at[1]);
    store_column(by[0] * v - by_x * u, slope, i, out[0]);
    store_column(by[0] * u - by_y * v, slope, i, out[1]);
  }
}

// The careful gradients by the distance of a pair, added to those of its two embeddings.
LOSSKIT_INLINE void add_distance_gradient(const double* x, const double* y, int64_t n, double p, double eps,
                                          const Distance& distance, double slope, double* __restrict gx,
                                          double* __restrict gy) {
  const auto loop = [&](auto by) LOSSKIT_LAMBDA {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      const double part = by((x[i] - y[i]) + eps);
      gx[i] += part;
      gy[i] -= part;
    }
  };
  const double value = distance.value, most = distance.most, log = distance.log;
  if (value == 0.0 || p == 0.0) {  // no derivative: 0, or NaN if the slope is NaN
    slope *= 0.0;
    return loop([=](double d) LOSSKIT_LAMBDA { return sign(d) * slope; });
  }
  if (p == 1.0) return loop([=](double d) LOSSKIT_LAMBDA { return sign(d) * slope; });
  if (p == 2.0) {
    if (value < 1e-290) return loop([=](double d) LOSSKIT_LAMBDA { return d / value * slope; });
    const double by = slope / value;
    return loop([=](double d) LOSSKIT_LAMBDA { return d * by; });
  }
  if (p == infinity<double>) {  // ties share it
    const double by = slope / distance.ties;
    return loop([=](double d) LOSSKIT_LAMBDA { return absolute(d) == most ? sign(d) * by : 0.0 * by; });
  }
  if (p == 3.0) {
    const double root = std::exp(-log);
    return loop([=](double d) LOSSKIT_LAMBDA {
      const double t = absolute(d) / most * root;
      return sign(d) * (t * t * slope);
    });
  }
  loop([=](double d) LOSSKIT_LAMBDA {  // (|d| / distance)^(p - 1)
    const double a = absolute(d), t = a / most;
    const Product<double> back(t, most);  // the rounding of t: p - 1 multiplies its effect on the logarithm
    const double rest = ((a - back.value) - back.error) / a;
    const double y = losskit::exp((p - 1.0) * ((losskit::log(t) - log) + rest));
    return sign(d) * ((d == 0 ? 0.0 : y) * slope);
  });
}

// The careful gradients by a cosine, near |c| = 1 from w.
LOSSKIT_INLINE void cosine_gradients(const Cosine& cosine, double slope, int64_t n, const double* x, const double* y,
                                     double* __restrict gx, double* __restrict gy) {
  const double c = cosine.value;
  // u and v are x and y times a power of two, and so are the coefficients, the other way.
  const Shift scale_x(-cosine.ex), scale_y(-cosine.ey);
  if (cosine.xx == 0.0 || cosine.yy == 0.0) {  // then the cosine is 0, whatever the other is
    for (int64_t i = 0; i < n; ++i) gx[i] = gy[i] = slope * 0.0;
  } else if (std::fabs(c) < 0.5) {
    const double both = 1.0 / std::sqrt(cosine.xx * cosine.yy), by_x = c / cosine.xx, by_y = c / cosine.yy;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      const double u = scale_x(x[i]), v = scale_y(y[i]);
      gx[i] = (both * v - by_x * u) * scale_x.first * slope * scale_x.second;
      gy[i] = (both * u - by_y * v) * scale_y.first * slope * scale_y.second;
    }
  } else {
    const Apart apart(cosine);
    // An error of the ratio changes w only along x (and y), and the gradient is across: w's part along x is removed.
    const double s = std::copysign(1.0, c), back = 1.0 / apart.ratio;
    const double by_x = 1.0 / cosine.xx, by_y = 1.0 / cosine.yy;
    const double along_x = cosine.wx * by_x, along_y = cosine.wy * by_y;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      const double u = scale_x(x[i]), v = scale_y(y[i]), w = apart(u, v);
      gx[i] = s * (along_x * u - w) * by_x * scale_x.first * slope * scale_x.second;
      gy[i] = s * (w - along_y * v) * back * by_y * scale_y.first * slope * scale_y.second;
    }
  }
}

}  // namespace losskit
