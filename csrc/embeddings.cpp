// The loop of the embeddings family: rows of two or three tensors -> statistics of each row -> a formula of them.
//
// 1. A formula never sees embeddings. Its operands are statistics of a row (the cosine of two embeddings, their
//    distance, ...) and the target; the family bits of the code say which. So a new loss of the family is a new
//    formula.
// 2. Statistics are doubles and the formula runs in double whatever the dtype: rows are few, and `dp - dn + margin`
//    keeps the digits that the statistics have.
// 3. A block of rows stays in cache: one pass makes the statistics, the formula gives value and slopes, a second pass
//    writes the gradients by the embeddings, already scaled.
// 4. No epsilon, and no scale at which anything breaks. Squares of floats are exact in double, which they can neither
//    leave nor fill up. Doubles are scaled by a power of two and summed with their rounding errors.
// 5. Conversion to double costs more than the arithmetic, so differences of floats (p = 1, 2) and most gradients are
//    computed in float; rows where that is not as good as exact, by their scale or their cosine, in double.
// 6. Near cosine 1 the cosine has no digits left for 1 - cosine and its gradient: both come from w = x - |x|/|y| y,
// whose
//    terms cancel exactly: 1 - cosine = |w|^2 / (2 |x|^2). An error of |x|/|y| counts only squared.
//
// numbers: normalizer, factor, p, eps, parameters of the formula. Operands: two or three embeddings, then the target.
// Status: 1: a value outside the domain of the target.
#include <memory>

#include "op.h"
#include "primitives.h"

#define LOSSKIT_LAMBDA __attribute__((always_inline))

namespace losskit {
namespace {

constexpr int kEmbeddings = 3, kPairs = 3;
constexpr int64_t kRows = 256;            // of a block, at most
constexpr int64_t kBlockElements = 4096;  // of one embedding in a block, where a row is not longer than this
constexpr int kSwapBit = 15;

// What an operand of the formula is: three bits each, from bit 0 of the family's.
enum Statistic { kAbsent, kCosine, kCosineDistance, kPositive, kNegative, kTarget };
enum Pair { kAB, kAC, kBC };
constexpr int kFirst[kPairs] = {0, 0, 1}, kSecond[kPairs] = {1, 2, 2};

// A distance, and what its gradient needs besides.
struct Distance {
  double value = 0.0;
  double most = 0.0;  // the largest difference
  double ties = 1.0;  // p = inf: how many are as large
  double log = 0.0;   // general p: log(value / most)
  bool wide = true;   // too far from 1 for arithmetic in float
  double magnitude() const { return most == infinity<double> ? most : std::log(most) + log; }
};

// A cosine: sums of the rows times 2^-ex and 2^-ey.
struct Cosine {
  double value, complement;  // complement: 1 - |value|
  double xx, yy;
  double wx, wy;  // products of w with both rows
  int ex, ey;
};

struct Job : Call {
  int embeddings = 0;
  int64_t width = 0;  // elements of a row
  int64_t rows = 0;   // of a block
  int64_t steps[kEmbeddings] = {};
  Statistic operand[kOperands] = {};
  bool cosine = false, pairs[kPairs] = {}, swap = false;
  double p = 2.0, eps = 0.0;
  std::vector<uint8_t> violations;  // by block
};

template <class T> struct Scratch : Weights {
  std::vector<T> read[kEmbeddings], written[kEmbeddings];
  const T* x[kEmbeddings][kRows];
  T* gradients[kEmbeddings];    // the first row's
  int64_t stride[kEmbeddings];  // 0: not wanted, one row to write into
  Distance distances[kPairs][kRows];
  Cosine cosines[kRows];
  double statistics[kOperands][kRows], slopes[kOperands][kRows], losses[kRows];
  T values[kRows];
  int64_t offsets[kRows];
};

// --------------------------------------------------------------------------------------------------------
// Sums over a row

constexpr int kLanes = 16;

template <int width, class A> LOSSKIT_INLINE A folded(A* lanes) {
  if constexpr (width > 0) {
    for (int j = 0; j < width; ++j) lanes[j] += lanes[j + width];
    return folded<width / 2>(lanes);
  }
  return lanes[0];
}
template <class A> LOSSKIT_INLINE A folded(A* lanes) { return folded<kLanes / 2>(lanes); }

// The sum of term(i), which is a double. Rows shorter than the lanes are not worth them.
template <class Term> LOSSKIT_INLINE double sum_plain(int64_t n, Term term) {
  double total = 0.0;
  int64_t i = 0;
  if (n >= kLanes) {
    double lanes[kLanes] = {};
    for (; i + kLanes <= n; i += kLanes)
      for (int j = 0; j < kLanes; ++j) lanes[j] += term(i + j);
    total = folded(lanes);
  }
  for (; i < n; ++i) total += term(i);
  return total;
}

// A product of doubles as a sum. Its larger part is exact, so it does no harm where the compiler contracts x - value.
struct Product {
  double value, error;
};
LOSSKIT_INLINE double upper(double x) { return from_bits<double>(bits(x) & ~Bits<double>((1 << 27) - 1)); }
LOSSKIT_INLINE Product product(double x, double y) {
  const double xh = upper(x), xl = x - xh, yh = upper(y), yl = y - yh;
  return {xh * yh, (xh * yl + xl * yh) + xl * yl};
}

// Sums of doubles with their rounding errors, in lanes.
struct Compensated {
  static constexpr int kCount = 8;
  double high[kCount] = {}, low[kCount] = {};
  LOSSKIT_INLINE void add(int j, double x, double error) {
    const double sum = high[j] + x, seen = sum - high[j];
    low[j] += ((high[j] - (sum - seen)) + (x - seen)) + error;
    high[j] = sum;
  }
  LOSSKIT_INLINE double value() const {
    Sum total;
    for (int j = 0; j < kCount; ++j) {
      total.add(high[j]);
      total.low += low[j];
    }
    return total.value();
  }
};

template <class Term> LOSSKIT_INLINE double sum_compensated(int64_t n, Term term) {
  Compensated sum;
  int64_t i = 0;
  for (; i + Compensated::kCount <= n; i += Compensated::kCount)
    for (int j = 0; j < Compensated::kCount; ++j) {
      const Product x = term(i + j);
      sum.add(j, x.value, x.error);
    }
  for (int j = 0; i < n; ++i, ++j) {
    const Product x = term(i);
    sum.add(j, x.value, x.error);
  }
  return sum.value();
}

// The largest term (none is negative); NaN if one is.
template <class Term> LOSSKIT_INLINE double largest(int64_t n, Term term) {
  double most[kLanes] = {}, nan[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int j = 0; j < kLanes; ++j) {
      const double x = term(i + j);
      most[j] = x > most[j] ? x : most[j];
      nan[j] += x * 0.0;  // infinity must stay infinity: see below
    }
  for (int j = 0; i < n; ++i, ++j) {
    const double x = term(i);
    most[j] = x > most[j] ? x : most[j];
    nan[j] += x * 0.0;
  }
  for (int j = 1; j < kLanes; ++j) most[0] = most[j] > most[0] ? most[j] : most[0];
  const double sum = folded(nan);
  return sum == sum || most[0] == infinity<double> ? most[0] : sum;
}

// 2^-e for a largest magnitude: what it takes to bring it to [1, 2). 0, infinities and NaN are left alone.
LOSSKIT_INLINE int exponent_of(double most) { return most > 0 && most < infinity<double> ? std::ilogb(most) : 0; }

// --------------------------------------------------------------------------------------------------------
// Statistics of a row

template <class A, class T> LOSSKIT_INLINE A difference(const T* x, const T* y, int64_t i, A eps) {
  return (static_cast<A>(x[i]) - static_cast<A>(y[i])) + eps;
}

// x times 2^shift: one factor would overflow for subnormal numbers.
struct Shift {
  double first, second;
  explicit Shift(int e) : first(std::ldexp(1.0, e / 2)), second(std::ldexp(1.0, e - e / 2)) {}
  LOSSKIT_INLINE double operator()(double x) const { return x * first * second; }
};

template <class T> LOSSKIT_INLINE Distance distance_of(const T* x, const T* y, int64_t n, double p, double eps) {
  Distance result;
  const auto magnitude = [&](int64_t i) LOSSKIT_LAMBDA { return absolute(difference<double>(x, y, i, eps)); };
  if (p == 2.0 || p == 1.0) {
    double sum;
    if constexpr (sizeof(T) == 4) {
      const float small = static_cast<float>(eps);
      sum = p == 2.0 ? sum_plain(n,
                                 [&](int64_t i) LOSSKIT_LAMBDA {
                                   const double d = static_cast<double>(difference<float>(x, y, i, small));
                                   return d * d;
                                 })
                     : sum_plain(n, [&](int64_t i) LOSSKIT_LAMBDA {
                         return static_cast<double>(absolute(difference<float>(x, y, i, small)));
                       });
      // Far from the ends of the range, and so large that the rounding of eps is nothing.
      const double floor = static_cast<double>(n) * (p == 2.0 ? 64.0 * eps * eps : 8.0 * std::fabs(eps));
      result.wide = !(sum > 1e-25 && sum < 1e35 && sum >= floor);
      if (result.wide)
        sum = sum_plain(n, [&](int64_t i) LOSSKIT_LAMBDA {
          const double d = magnitude(i);
          return p == 2.0 ? d * d : d;
        });
    } else {
      sum = sum_compensated(n, [&](int64_t i) LOSSKIT_LAMBDA {
        const double d = magnitude(i);
        return Product{p == 2.0 ? d * d : d, 0.0};
      });
      if (p == 2.0 && !(sum > 1e-200 && sum < 1e200)) {  // squares may have left the range
        const double most = largest(n, magnitude);
        const int e = exponent_of(most);
        const Shift shift(-e);
        sum = sum_compensated(n, [&](int64_t i) LOSSKIT_LAMBDA {
          const double d = shift(magnitude(i));
          return Product{d * d, 0.0};
        });
        result.value = most == infinity<double> ? most : std::ldexp(std::sqrt(sum), e);
        return result;
      }
    }
    result.value = p == 2.0 ? std::sqrt(sum) : sum;
    return result;
  }
  if (p == 0.0) {  // how many differ
    result.value = sum_plain(n, [&](int64_t i) LOSSKIT_LAMBDA {
      const double d = magnitude(i);
      return d > 0 ? 1.0 : d;
    });
    return result;
  }
  const double most = result.most = largest(n, magnitude);
  if (p == infinity<double>) {
    result.value = most;
    result.ties = sum_plain(n, [&](int64_t i) LOSSKIT_LAMBDA { return magnitude(i) == most ? 1.0 : 0.0; });
    return result;
  }
  result.value = most;
  if (!(most > 0 && most < infinity<double>)) return result;
  const double sum = sum_compensated(n, [&](int64_t i) LOSSKIT_LAMBDA {
    const double t = magnitude(i) / most;
    if (p == 3.0) return Product{t * t * t, 0.0};
    const double y = losskit::exp(p * losskit::log(t));
    return Product{t == 0 ? 0.0 : y, 0.0};
  });
  result.log = std::log(sum) / p;
  result.value = most * std::pow(sum, 1.0 / p);
  if (result.value == infinity<double>) result.value = std::exp(std::log(most) + result.log);
  return result;
}

// w = x - s |x|/|y| y, where s is the sign of the cosine: exact products, so that nothing is lost where they cancel.
struct Apart {
  double ratio, high, low;
  explicit Apart(const Cosine& cosine)
      : ratio(std::copysign(std::sqrt(cosine.xx / cosine.yy), cosine.value)), high(upper(ratio)), low(ratio - high) {}
  LOSSKIT_INLINE double operator()(double x, double y) const {
    const double yh = upper(y);
    return ((x - high * yh) - high * (y - yh)) - low * y;
  }
};

template <class T> LOSSKIT_INLINE Cosine cosine_of(const T* x, const T* y, int64_t n) {
  Cosine result{};
  double xy;
  if constexpr (sizeof(T) == 4) {
    double xs[kLanes] = {}, ys[kLanes] = {}, both[kLanes] = {};
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes)
      for (int j = 0; j < kLanes; ++j) {
        const double u = static_cast<double>(x[i + j]), v = static_cast<double>(y[i + j]);
        xs[j] += u * u;
        ys[j] += v * v;
        both[j] += u * v;
      }
    result.xx = folded(xs), result.yy = folded(ys), xy = folded(both);
    for (; i < n; ++i) {
      const double u = static_cast<double>(x[i]), v = static_cast<double>(y[i]);
      result.xx += u * u;
      result.yy += v * v;
      xy += u * v;
    }
  } else {
    const auto sums = [&](auto u, auto v) LOSSKIT_LAMBDA {
      const auto square = [](double d) LOSSKIT_LAMBDA { return Product{d * d, 0.0}; };
      result.xx = sum_compensated(n, [&](int64_t i) LOSSKIT_LAMBDA { return square(u(x[i])); });
      result.yy = sum_compensated(n, [&](int64_t i) LOSSKIT_LAMBDA { return square(v(y[i])); });
      xy = sum_compensated(n, [&](int64_t i) LOSSKIT_LAMBDA { return product(u(x[i]), v(y[i])); });
    };
    const auto same = [](double d) LOSSKIT_LAMBDA { return d; };
    const auto ordinary = [](double sum) { return sum > 1e-150 && sum < 1e150; };
    sums(same, same);
    if (!ordinary(result.xx) || !ordinary(result.yy)) {
      result.ex = exponent_of(largest(n, [&](int64_t i) LOSSKIT_LAMBDA { return absolute(x[i]); }));
      result.ey = exponent_of(largest(n, [&](int64_t i) LOSSKIT_LAMBDA { return absolute(y[i]); }));
      sums(Shift(-result.ex), Shift(-result.ey));
    }
  }
  const double squares = result.xx * result.yy;
  const double cosine = squares == 0.0 ? 0.0 : xy / std::sqrt(squares);
  result.value = clamp(cosine, -1.0, 1.0);
  result.complement = 1.0 - std::fabs(result.value);
  if (result.complement < (sizeof(T) == 4 ? 1e-6 : 0.5)) {
    const Shift u(-result.ex), v(-result.ey);
    const Apart apart(result);
    double lanes[3][kLanes] = {};
    const auto add = [&](int64_t i, int j) LOSSKIT_LAMBDA {
      const double a = u(static_cast<double>(x[i])), b = v(static_cast<double>(y[i])), w = apart(a, b);
      lanes[0][j] += w * w;
      lanes[1][j] += w * a;
      lanes[2][j] += w * b;
    };
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes)
      for (int j = 0; j < kLanes; ++j) add(i + j, j);
    for (int j = 0; i < n; ++i, ++j) add(i, j);
    const double sum = folded(lanes[0]);
    result.wx = folded(lanes[1]), result.wy = folded(lanes[2]);
    result.complement = sum / (2.0 * result.xx);
  }
  return result;
}

// --------------------------------------------------------------------------------------------------------
// Gradients of a row

// The gradient of a distance by one difference d, times a coefficient.
struct ByTwo {  // d / distance
  template <class A> LOSSKIT_INLINE A operator()(A d, A coefficient) const { return d * coefficient; }
};
struct ByRatio {  // the same where 1 / distance is not finite
  double distance;
  LOSSKIT_INLINE double operator()(double d, double coefficient) const { return d / distance * coefficient; }
};
struct ByOne {
  template <class A> LOSSKIT_INLINE A operator()(A d, A coefficient) const { return sign(d) * coefficient; }
};
struct ByMost {  // ties share it
  double most;
  LOSSKIT_INLINE double operator()(double d, double coefficient) const {
    return absolute(d) == most ? sign(d) * coefficient : 0.0 * coefficient;
  }
};
struct ByThree {
  double most, root;  // (distance / most)^-1
  LOSSKIT_INLINE double operator()(double d, double coefficient) const {
    const double t = absolute(d) / most * root;
    return sign(d) * (t * t * coefficient);
  }
};
struct ByPower {  // (|d| / distance)^(p - 1)
  double most, log, q;
  LOSSKIT_INLINE double operator()(double d, double coefficient) const {
    const double a = absolute(d), t = a / most;
    const Product back = product(t, most);  // t is rounded, and q multiplies what that does to the logarithm
    const double rest = ((a - back.value) - back.error) / a;
    const double y = losskit::exp(q * ((losskit::log(t) - log) + rest));
    return sign(d) * ((d == 0 ? 0.0 : y) * coefficient);
  }
};

// By the embeddings of a row, from the differences of its pairs; null outputs are not wanted.
template <class A, class T, bool third, bool swap, class By>
LOSSKIT_INLINE void combine(const T* a, const T* b, const T* c, int64_t n, A eps, const A* coefficients, const By* by,
                            T* __restrict ga, T* __restrict gb, T* __restrict gc) {
  const A ab = coefficients[kAB], ac = coefficients[kAC], bc = coefficients[kBC];
  const By by_ab = by[kAB], by_ac = by[kAC], by_bc = by[kBC];
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const A first = by_ab(difference<A>(a, b, i, eps), ab);
    const A second = third ? by_ac(difference<A>(a, c, i, eps), ac) : A(0);
    const A other = swap ? by_bc(difference<A>(b, c, i, eps), bc) : A(0);
    ga[i] = static_cast<T>(third ? first + second : first);
    gb[i] = static_cast<T>(swap ? other - first : -first);
    if (third) gc[i] = static_cast<T>(swap ? -second - other : -second);
  }
}

template <class A, class T, class By>
LOSSKIT_INLINE void combine_any(const Job& job, const T* const* x, A eps, const double* coefficients, const By* by,
                                T* const* out) {
  const A narrowed[kPairs] = {static_cast<A>(coefficients[0]), static_cast<A>(coefficients[1]),
                              static_cast<A>(coefficients[2])};
  const int64_t n = job.width;
  if (job.pairs[kBC] && narrowed[kBC] != 0)
    combine<A, T, true, true>(x[0], x[1], x[2], n, eps, narrowed, by, out[0], out[1], out[2]);
  else if (job.pairs[kAC])
    combine<A, T, true, false>(x[0], x[1], x[2], n, eps, narrowed, by, out[0], out[1], out[2]);
  else
    combine<A, T, false, false>(x[0], x[1], nullptr, n, eps, narrowed, by, out[0], out[1], nullptr);
}

template <class T>
LOSSKIT_INLINE void distance_gradients(const Job& job, const Distance* const* pairs, int64_t row, const double* slopes,
                                       const T* const* x, T* const* out) {
  double coefficients[kPairs] = {};
  bool wide = false, any = false, tiny = false;
  Distance near[kPairs];  // distances without a derivative are those of p = 1 with coefficient 0
  for (int k = 0; k < kPairs; ++k) {
    near[k].value = near[k].most = 1.0;
    if (!job.pairs[k] || slopes[k] == 0.0) continue;
    const bool flat = pairs[k][row].value == 0.0 || job.p == 0.0;
    if (!flat) near[k] = pairs[k][row];
    tiny |= job.p == 2.0 && near[k].value < 1e-290;
    coefficients[k] = flat ? slopes[k] * 0.0 : slopes[k];
    any |= coefficients[k] != 0.0;
  }
  if (!any) {
    for (int k = 0; k < job.embeddings; ++k) std::fill(out[k], out[k] + job.width, T(0));
    return;
  }
  if (tiny) {
    const ByRatio by[kPairs] = {{near[0].value}, {near[1].value}, {near[2].value}};
    return combine_any<double>(job, x, job.eps, coefficients, by, out);
  }
  for (int k = 0; k < kPairs; ++k) {
    coefficients[k] /= job.p == 2.0 ? near[k].value : job.p == infinity<double> ? near[k].ties : 1.0;
    const double size = std::fabs(coefficients[k]);
    wide |= size != 0.0 && (near[k].wide || !(size > 1e-25 && size < 1e25));
  }
  if (job.p == 2.0 || job.p == 1.0) {
    const ByTwo two[kPairs];
    const ByOne one[kPairs];
    if constexpr (sizeof(T) == 4) {
      const float eps = static_cast<float>(job.eps);
      if (!wide)
        return job.p == 2.0 ? combine_any<float>(job, x, eps, coefficients, two, out)
                            : combine_any<float>(job, x, eps, coefficients, one, out);
    }
    return job.p == 2.0 ? combine_any<double>(job, x, job.eps, coefficients, two, out)
                        : combine_any<double>(job, x, job.eps, coefficients, one, out);
  }
  if (job.p == infinity<double>) {
    ByMost by[kPairs];
    for (int k = 0; k < kPairs; ++k) by[k].most = near[k].most;
    return combine_any<double>(job, x, job.eps, coefficients, by, out);
  }
  if (job.p == 3.0) {
    ByThree by[kPairs];
    for (int k = 0; k < kPairs; ++k) by[k] = {near[k].most, std::exp(-near[k].log)};
    return combine_any<double>(job, x, job.eps, coefficients, by, out);
  }
  ByPower by[kPairs];
  for (int k = 0; k < kPairs; ++k) by[k] = {near[k].most, near[k].log, job.p - 1.0};
  combine_any<double>(job, x, job.eps, coefficients, by, out);
}

// gx = g (y/|y| - c x/|x|) / |x|, and the same by y with the roles changed. Near |c| = 1 both from w.
template <class T>
LOSSKIT_INLINE void cosine_gradients(const Cosine& cosine, double slope, int64_t n, const T* x, const T* y,
                                     T* __restrict gx, T* __restrict gy) {
  const double c = cosine.value;
  const bool zero = cosine.xx == 0.0 || cosine.yy == 0.0;  // then the cosine is 0, whatever the other is
  if constexpr (sizeof(T) == 4) {
    const double both = slope * (zero ? 0.0 : 1.0 / std::sqrt(cosine.xx * cosine.yy));
    const double size_x = slope * (zero ? 0.0 : 1.0 / cosine.xx), size_y = slope * (zero ? 0.0 : 1.0 / cosine.yy);
    const double by_x = c * size_x, by_y = c * size_y;
    const double least = std::fmin(std::fabs(size_x), std::fabs(size_y));
    const double most = std::fmax(std::fabs(size_x), std::fabs(size_y));
    if (std::fabs(c) < 0.9 && std::fabs(slope) > 1e-20 && least > 1e-25 && most < 1e25) {
      const float p = static_cast<float>(both), q = static_cast<float>(by_x), r = static_cast<float>(by_y);
#pragma GCC ivdep
      for (int64_t i = 0; i < n; ++i) {
        const float u = x[i], v = y[i];
        gx[i] = p * v - q * u;
        gy[i] = p * u - r * v;
      }
      return;
    }
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      const double u = static_cast<double>(x[i]), v = static_cast<double>(y[i]);
      gx[i] = static_cast<float>(both * v - by_x * u);
      gy[i] = static_cast<float>(both * u - by_y * v);
    }
  } else {
    // u and v are x and y times a power of two, and so are the coefficients, the other way.
    const Shift scale_x(-cosine.ex), scale_y(-cosine.ey);
    if (zero) {
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
      // An error of the ratio leaves w the same across x (and y), where the gradient is, so what is along x is removed.
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
}

// --------------------------------------------------------------------------------------------------------
// Blocks

template <class T> LOSSKIT_INLINE void measure_any(const Job& job, Scratch<T>& scratch, int64_t n) {
  for (int k = 0; k < kPairs; ++k)
    if (job.pairs[k])
      for (int64_t i = 0; i < n; ++i)
        scratch.distances[k][i] =
            distance_of(scratch.x[kFirst[k]][i], scratch.x[kSecond[k]][i], job.width, job.p, job.eps);
  if (job.cosine)
    for (int64_t i = 0; i < n; ++i) scratch.cosines[i] = cosine_of(scratch.x[0][i], scratch.x[1][i], job.width);
}
LOSSKIT_CLONES void measure(const Job& job, Scratch<float>& scratch, int64_t n) { measure_any(job, scratch, n); }
LOSSKIT_CLONES void measure(const Job& job, Scratch<double>& scratch, int64_t n) { measure_any(job, scratch, n); }

template <class T>
LOSSKIT_INLINE void differentiate_any(const Job& job, Scratch<T>& scratch, int64_t n, const double (*slopes)[kRows],
                                      const double* cosine_slopes) {
  const Distance* const pairs[kPairs] = {scratch.distances[0], scratch.distances[1], scratch.distances[2]};
  for (int64_t i = 0; i < n; ++i) {
    const T* x[kEmbeddings];
    T* out[kEmbeddings];
    for (int k = 0; k < kEmbeddings; ++k) {
      x[k] = scratch.x[k][i];
      out[k] = scratch.gradients[k] + i * scratch.stride[k];
    }
    const double row[kPairs] = {slopes[kAB][i], slopes[kAC][i], slopes[kBC][i]};
    if (cosine_slopes[i] == 0.0 && row[kAB] == 0.0 && row[kAC] == 0.0 && row[kBC] == 0.0) {
      for (int k = 0; k < job.embeddings; ++k) std::fill(out[k], out[k] + job.width, T(0));  // whatever x is
    } else if (job.cosine) {
      cosine_gradients(scratch.cosines[i], cosine_slopes[i], job.width, x[0], x[1], out[0], out[1]);
    } else {
      distance_gradients(job, pairs, i, row, x, out);
    }
  }
}
LOSSKIT_CLONES void differentiate(const Job& job, Scratch<float>& scratch, int64_t n, const double (*slopes)[kRows],
                                  const double* cosine_slopes) {
  differentiate_any(job, scratch, n, slopes, cosine_slopes);
}
LOSSKIT_CLONES void differentiate(const Job& job, Scratch<double>& scratch, int64_t n, const double (*slopes)[kRows],
                                  const double* cosine_slopes) {
  differentiate_any(job, scratch, n, slopes, cosine_slopes);
}

bool outside(const Domain& domain, double x) {
  if (domain.kind == kAnything || x != x) return false;
  if (domain.kind == kSigns) return x != 1.0 && x != -1.0;
  return x < domain.low || x > domain.high || ((domain.open & 1) && x == domain.low) ||
         ((domain.open & 2) && x == domain.high);
}

// Where rows [begin, begin + n) of a source start, in elements.
void locate(const Walk& walk, const Source& source, int64_t begin, int64_t n, int64_t* offsets) {
  std::array<int64_t, kDims> index{};
  int64_t rest = begin, offset = 0;
  for (int d = walk.dims - 1; d >= 0; --d) {
    index[d] = rest % walk.sizes[d];
    rest /= walk.sizes[d];
    offset += index[d] * source.strides[d];
  }
  for (int64_t i = 0; i < n; ++i) {
    offsets[i] = offset;
    for (int d = walk.dims - 1; d >= 0; --d) {
      offset += source.strides[d];
      if (++index[d] < walk.sizes[d]) break;
      offset -= index[d] * source.strides[d];
      index[d] = 0;
    }
  }
}

// Rows as contiguous T: in place where they are that already.
template <class T> void read_rows(const Job& job, int64_t begin, int64_t n, Scratch<T>& scratch) {
  constexpr DType own = sizeof(T) == 4 ? DType::kFloat : DType::kDouble;
  for (int k = 0; k < job.embeddings; ++k) {
    const Source& source = job.sources[k];
    locate(job.walk, source, begin, n, scratch.offsets);
    const bool in_place = source.dtype == own && job.steps[k] == 1;
    if (!in_place) scratch.read[k].resize(n * job.width);
    for (int64_t i = 0; i < n; ++i) {
      const char* data = source.data + scratch.offsets[i] * size_of(source.dtype);
      if (in_place) {
        scratch.x[k][i] = reinterpret_cast<const T*>(data);
      } else {
        T* row = scratch.read[k].data() + i * job.width;
        read_run(source.dtype, data, job.steps[k], job.width, row);
        scratch.x[k][i] = row;
      }
    }
  }
}

// Where both distances are beyond the largest number, only the question which is larger is left: the larger stays.
template <class T> void compare_infinite(const Job& job, Scratch<T>& scratch, int64_t n) {
  double *positive = nullptr, *negative = nullptr;
  for (int k = 0; k < kOperands; ++k) {
    if (job.operand[k] == kPositive) positive = scratch.statistics[k];
    if (job.operand[k] == kNegative) negative = scratch.statistics[k];
  }
  for (int64_t i = 0; positive && negative && i < n; ++i) {
    if (positive[i] != infinity<double> || negative[i] != infinity<double>) continue;
    const double ab = scratch.distances[kAB][i].magnitude();
    double other = scratch.distances[kAC][i].magnitude();
    if (job.swap) other = minimum(other, scratch.distances[kBC][i].magnitude());
    if (ab <= other && other < infinity<double>) positive[i] = 0.0;
    if (other <= ab && ab < infinity<double>) negative[i] = 0.0;
  }
}

template <class T> void run_block(Job& job, int64_t block, Scratch<T>& scratch) {
  constexpr DType own = sizeof(T) == 4 ? DType::kFloat : DType::kDouble;
  const int64_t begin = block * job.rows, n = std::min(job.rows, job.walk.numel - begin);
  const Options& options = job.options;
  read_rows(job, begin, n, scratch);
  const float* mask = mask_of(job, begin, n, scratch);
  const double* factor = factors(job, {kSampleWeight, kUpstream}, begin, n, scratch);
  measure(job, scratch, n);

  const double* operands[kOperands] = {};
  double shares[kRows];  // of the slope by kNegative: what goes to the distance of the second and third
  for (int k = 0; k < kOperands; ++k) {
    double* const out = scratch.statistics[k];
    operands[k] = out;
    if (job.operand[k] == kTarget) operands[k] = fetch(job.walk, job.sources[job.embeddings], begin, n, out);
    for (int64_t i = 0; i < n; ++i) {
      switch (job.operand[k]) {
        case kCosine:
          out[i] = scratch.cosines[i].value;
          break;
        case kCosineDistance:
          out[i] = scratch.cosines[i].value > 0 ? scratch.cosines[i].complement : 1.0 - scratch.cosines[i].value;
          break;
        case kPositive:
          out[i] = scratch.distances[kAB][i].value;
          break;
        case kNegative: {
          const double own_distance = scratch.distances[kAC][i].value;
          const double other = job.swap ? scratch.distances[kBC][i].value : own_distance;
          shares[i] = !job.swap || own_distance < other ? 0.0 : own_distance > other ? 1.0 : 0.5;
          out[i] = minimum(own_distance, other);
          break;
        }
        default:
          break;
      }
    }
  }
  compare_infinite(job, scratch, n);

  bool violated = false;
  for (int k = 0; k < kOperands && options.checks != kOff; ++k) {
    if (job.operand[k] != kTarget) continue;
    for (int64_t i = 0; i < n; ++i)
      violated |= (!mask || mask[i] != 0.0f) && outside(job.kernel->domains[k], operands[k][i]);
  }
  job.violations[block] = violated;
  if (violated && options.checks == kRaise) return;

  double* slopes[kOperands];
  for (int k = 0; k < kOperands; ++k) slopes[k] = scratch.slopes[k];
  job.kernel->f64[options.gradients ? kAll : kNone](n, operands, job.parameters, 1.0, scratch.losses, slopes);
  if (violated) {  // checks("nan"): the offending rows poison their own results
    for (int64_t i = 0; i < n; ++i)
      for (int k = 0; k < kOperands; ++k)
        if (job.operand[k] == kTarget && outside(job.kernel->domains[k], operands[k][i])) {
          scratch.losses[i] = std::numeric_limits<double>::quiet_NaN();
          for (int s = 0; s < kOperands; ++s) slopes[s][i] = scratch.losses[i];
        }
  }
  if (!job.sources[kUpstream].present()) {
    T* const values = scratch.values;
    for (int64_t i = 0; i < n; ++i) values[i] = static_cast<T>(scratch.losses[i]);
    if (factor || mask) weigh(values, factor, mask, 1.0, n, values);
    if (options.reduction != kElements)
      job.sums[block] = sum_block(values, n);
    else
      write_run(job.result, values, n, job.values + begin * size_of(job.result));
  }
  if (!options.gradients) return;

  double by_pair[kPairs][kRows] = {}, by_cosine[kRows] = {};
  for (int k = 0; k < kOperands; ++k) {
    if (job.operand[k] == kAbsent || job.operand[k] == kTarget) continue;
    weigh(slopes[k], factor, mask, job.scale, n, slopes[k]);
    for (int64_t i = 0; i < n; ++i) {
      const double slope = slopes[k][i];
      if (job.operand[k] == kCosine) by_cosine[i] += slope;
      if (job.operand[k] == kCosineDistance) by_cosine[i] -= slope;
      if (job.operand[k] == kPositive) by_pair[kAB][i] = slope;
      if (job.operand[k] == kNegative) {
        by_pair[kAC][i] = slope * (1.0 - shares[i]);
        by_pair[kBC][i] = slope * shares[i];
      }
    }
  }
  for (int k = 0; k < job.embeddings; ++k) {
    const bool in_place = job.gradients[k] && job.gradient_dtypes[k] == own;
    scratch.written[k].resize(in_place ? 0 : job.gradients[k] ? n * job.width : job.width);
    scratch.gradients[k] =
        in_place ? reinterpret_cast<T*>(job.gradients[k]) + begin * job.width : scratch.written[k].data();
    scratch.stride[k] = job.gradients[k] ? job.width : 0;
  }
  differentiate(job, scratch, n, by_pair, by_cosine);
  for (int k = 0; k < job.embeddings; ++k) {
    if (!job.gradients[k] || job.gradient_dtypes[k] == own) continue;
    write_run(job.gradient_dtypes[k], scratch.gradients[k], n * job.width,
              job.gradients[k] + begin * job.width * size_of(job.gradient_dtypes[k]));
  }
}

template <class T> void run_blocks(int64_t begin, int64_t end, void* context) {
  const auto scratch = std::make_unique<Scratch<T>>();
  for (int64_t block = begin; block < end; ++block) run_block<T>(*static_cast<Job*>(context), block, *scratch);
}

// The number of rows that count, or the sum of their weights.
double denominator(const Job& job) {
  if (!job.sources[kSampleWeight].present() && !job.sources[kMask].present())
    return static_cast<double>(job.walk.numel);
  Weights scratch;
  Sum total;
  for (int64_t begin = 0; begin < job.walk.numel; begin += kBlock) {
    const int64_t n = std::min(kBlock, job.walk.numel - begin);
    const float* mask = mask_of(job, begin, n, scratch);
    const double* factor = factors(job, {kSampleWeight}, begin, n, scratch);
    if (factor && mask) weigh(factor, nullptr, mask, 1.0, n, scratch.factors);
    total.add(factor ? sum_block(scratch.factors, n) : sum_block(mask, n));
  }
  return total.value();
}

}  // namespace

Result embeddings(int64_t kernel, int64_t code, Tensor a, MaybeTensor b, MaybeTensor c, MaybeTensor d, MaybeTensor,
                  MaybeTensor sample_weight, MaybeTensor mask, MaybeTensor upstream, std::vector<double> numbers) {
  const Result declined{{}, {}, {}, {}, {}, kDeclined};
  Job job;
  job.kernel = reinterpret_cast<const Kernel*>(kernel);
  job.options = Options(code);
  const Options& options = job.options;
  const int dims = static_cast<int>(a.dim()) - 1;
  if (dims < 0 || dims > kDims || job.kernel->abi != kAbi || !b) return declined;
  if (numbers.size() < 4 || numbers.size() > 4 + kMaxParameters) return declined;

  bool targeted = false;
  int operands = 0;
  for (int k = 0; k < kOperands; ++k) {
    job.operand[k] = static_cast<Statistic>((options.family >> (3 * k)) & 7);
    operands += job.operand[k] != kAbsent;
    job.cosine |= job.operand[k] == kCosine || job.operand[k] == kCosineDistance;
    job.pairs[kAB] |= job.operand[k] == kPositive;
    job.pairs[kAC] |= job.operand[k] == kNegative;
    targeted |= job.operand[k] == kTarget;
  }
  if (operands != job.kernel->operands) return declined;
  job.swap = job.pairs[kBC] = job.pairs[kAC] && ((options.family >> kSwapBit) & 1);
  job.p = numbers[2], job.eps = numbers[3];
  std::copy(numbers.begin() + 4, numbers.end(), job.parameters);

  const auto sizes = a.sizes();
  start(job.walk, dims, sizes.data(), a.strides().data());
  std::array<int64_t, kDims + 1> strides{};
  job.width = sizes[dims];
  const auto rows = dense_strides(job.walk);
  for (int i = 0; i < dims; ++i) strides[i] = rows[i] * std::max<int64_t>(job.width, 1);
  strides[dims] = 1;

  const Tensor* tensors[] = {&a, &*b, c ? &*c : nullptr, d ? &*d : nullptr};
  job.embeddings = job.pairs[kAC] ? 3 : 2;
  for (int k = 0; k < kOperands; ++k)
    if ((tensors[k] != nullptr) != (k < job.embeddings + targeted)) return declined;
  DType dtype = DType::kByte;
  for (int k = 0; k < job.embeddings; ++k) {
    Source& source = job.sources[k];
    const Tensor& tensor = *tensors[k];
    source.dtype = job.gradient_dtypes[k] = dtype_of(tensor);
    const auto own_sizes = tensor.sizes(), own_strides = tensor.strides();
    if (!floating(source.dtype) || !tensor.is_cpu() || own_sizes.size() != sizes.size() ||
        !std::equal(sizes.begin(), sizes.end(), own_sizes.begin()))
      return declined;
    for (int i = 0; i < dims; ++i) source.strides[i] = own_strides[job.walk.order[i]];
    job.steps[k] = own_strides[dims];
    source.data = static_cast<const char*>(tensor.data_ptr());
    if (!source.data) source.data = reinterpret_cast<const char*>(&job);  // empty: present, never read
    dtype = promote(dtype, source.dtype);
  }
  const Tensor* extras[] = {targeted ? tensors[job.embeddings] : nullptr, sample_weight ? &*sample_weight : nullptr,
                            mask ? &*mask : nullptr, upstream ? &*upstream : nullptr};
  const int slots[] = {job.embeddings, kSampleWeight, kMask, kUpstream};
  for (int k = 0; k < 4; ++k)
    if (extras[k] && !attach(job.walk, sizes.data(), *extras[k], k > 0, job.sources[slots[k]])) return declined;
  if (mask && job.sources[kMask].dtype != DType::kBool) return declined;
  if (targeted) dtype = promote(dtype, job.sources[job.embeddings].dtype);
  merge<kSources>(job.walk, job.sources);

  job.result = options.result_dtype >= 0 ? static_cast<DType>(options.result_dtype) : dtype;
  double denominated = 1.0;
  if (options.reduction == kMean) denominated = std::isnan(numbers[0]) ? denominator(job) : numbers[0];
  set_scale(job, denominated, numbers[1]);

  Result result{{}, {}, {}, {}, {}, 0};
  for (int k = 0; k < job.embeddings; ++k) allocate_gradient(job, result, k, dims + 1, sizes.data(), strides.data());
  allocate_loss(job, result, dims, sizes.data(), rows.data());

  job.rows = std::clamp<int64_t>(kBlockElements / std::max<int64_t>(job.width, 1), 1, kRows);
  const int64_t blocks = (job.walk.numel + job.rows - 1) / job.rows;
  job.sums.resize(blocks);
  job.violations.resize(blocks);
  const auto run = dtype == DType::kDouble ? run_blocks<double> : run_blocks<float>;
  const int64_t elements = std::max<int64_t>(1, job.rows * job.width * job.embeddings);
  const int64_t grain = std::max<int64_t>(1, 32768 / elements);  // a thread is woken for that many elements
  if (blocks <= grain)
    run(0, blocks, &job);
  else
    STABLE_TORCH_ERROR_CODE_CHECK(torch_parallel_for(0, blocks, grain, run, &job));

  if (options.checks == kRaise)
    for (const uint8_t violated : job.violations)
      if (violated) std::get<5>(result) = 1;
  finish(job, result);
  return result;
}

}  // namespace losskit

LOSSKIT_OP(embeddings)
