// The careful way of a row of embeddings: distances, cosines and their gradients in double, exact at every scale.
//
// 1. Doubles are scaled by a power of two and summed with their rounding errors.
// 2. Near cosine 1 the cosine has no digits left for 1 - cosine and its gradient: both come from w = x - |x|/|y| y,
//    whose terms cancel exactly: 1 - cosine = |w|^2 / (2 |x|^2). An error of |x|/|y| counts only squared.
#pragma once

#include "embeddings_sums.h"

namespace losskit {

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
// Sums

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
// Statistics

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
