// Powers, special functions and functions of angles: the second part of primitives.h, by the same rules.
//
//  1. Results of float are computed in double, with fewer terms (`K` is the type that the result is for): that is as
//     fast as sums in two floats, and rounds once in effect. The exception is erf, which needs no more than float.
//  2. Intervals are reduced by selection, not by loops: every element takes the same steps.
#pragma once

#include "primitives.h"

namespace losskit {

// The upper 26 bits of a double; a product of two such numbers is exact.
LOSSKIT_INLINE double head(double x) { return from_bits<double>(bits(x) & (~Bits<double>(0) << 27)); }

template <class T> constexpr Bits<T> sign_bit = Bits<T>(1) << (8 * sizeof(T) - 1);
// y with its sign turned where that of x is negative.
template <class T> LOSSKIT_INLINE T turned(T y, T x) { return from_bits<T>(bits(y) ^ (bits(x) & sign_bit<T>)); }

// e^(x + low) where low is far below x; |x| may be anything. ULP 0.75.
LOSSKIT_INLINE double exp_of_two(double x, double low) {
  using F = Format<double>;
  Reduced<double> e = reduce(limited(x, F::exp_zero, F::exp_inf));
  e.tail += limited(low, -0x1p-30, 0x1p-30) * (1 + e.r + e.tail);
  return scaled(e);
}

// ---------------------------------------------------------------------------------------------------------
// Powers.

// log(x) for finite x > 0, good to 2^-64. 3 log(1 + f) = 2 s (3 + z + z^2 P(z)), s = f/(2 + f), z = s^2, in two words.
LOSSKIT_INLINE TwoWords<double> log_of(double x) {
  using F = Format<double>;
  const bool subnormal = x < std::numeric_limits<double>::min();
  const Bits<double> i = split(x * (subnormal ? 0x1p53 : 1.0));
  const double k = exponent<double>(i) - (subnormal ? 53.0 : 0.0);
  const double f = from_bits<double>((i & ~exponent_mask<double>)+bits(0.75)) - 1;
  const double d = 2 + f, s = f / d;
  const double d1 = head(d), d2 = f - (d1 - 2);
  const double s1 = head(s), s2 = ((f - s1 * d1) - s1 * d2) / d;
  const double z = s * s, z1 = s1 * s1;
  const double rest =
      s2 * (s + s1) + z * z *
                          polynomial(z, 6.0000000000032394e-1, 4.2857142843365514e-1, 3.3333335572275491e-1,
                                     2.7272542306926301e-1, 2.3085453880399559e-1, 1.9778194710858973e-1,
                                     2.0657875839014006e-1);
  const double t1 = head(3 + z1 + rest), t2 = rest - ((t1 - 3) - z1);
  const double p = s1 * t1, q = s2 * t1 + t2 * s;
  const double w = head(p + q), v = q - (w - p);
  constexpr double third1 = 0x1.555555p-1, third2 = 0x1.5555555555555p-27;  // 2/3 in two words
  const double a = k * F::ln2_hi, b = w * third1;
  const double y = a + b;
  return {y, (b - (y - a)) + (w * third2 + v * (2.0 / 3) + k * F::ln2_lo)};
}

LOSSKIT_INLINE bool whole(double a) { return (a >= 0x1p52) | ((a + 0x1p52) - 0x1p52 == a); }  // a >= 0

// base^by for floats: e^(by log(base)) in double, to 2^-34. In double no float is subnormal, and no result overflows.
LOSSKIT_INLINE double power_of_floats(double a, double by) {
  using F = Format<double>;
  const Bits<double> i = split(a);
  const double k = exponent<double>(i), f = from_bits<double>((i & ~exponent_mask<double>)+bits(0.75)) - 1;
  const double h = 0.5 * f * f, s = f / (2 + f), z = s * s;
  const double tail = s * (h + z * polynomial(z, 6.6666666711891465e-1, 3.9999984279878681e-1, 2.8573208954421681e-1,
                                              2.2134388913253686e-1, 2.0130057500299872e-1)) -
                      h;
  const double x = by * (k * 0.6931471805599453 + (f + tail));
  constexpr double magic = 0x1.8p52 + F::bias;
  const double t = limited(x, -700.0, 700.0) * log2_e<double> + magic, n = t - magic;
  const double q = (limited(x, -700.0, 700.0) - n * F::ln2_hi) - n * F::ln2_lo;
  const double p = 1 + (q + q * q *
                                polynomial(q, 5.0000000000253453e-1, 1.6666666718727599e-1, 4.1666666338277099e-2,
                                           8.3332985702368832e-3, 1.3888938656730248e-3, 1.9899218659629784e-4,
                                           2.4812595237866384e-5));
  return p * from_bits<double>(bits(t) << F::mantissa);
}

// As C's pow, NaN and infinities too. ULP 0.51/0.9.
template <class T> LOSSKIT_INLINE T power(T base, T by) {
  const double x = double(base), y = double(by), a = absolute(x), b = absolute(y);
  const double limit = where(b > 0x1p65, turned(0x1p65, y), y);  // beyond, nothing but 1 has a finite power
  double p;
  if constexpr (std::is_same_v<T, float>) {
    p = power_of_floats(a, limit);
  } else {
    const TwoWords<double> l = log_of(a);
    const double l1 = head(l.high), l2 = l.low + (l.high - l1), y1 = head(limit);
    const double p1 = y1 * l1, p2 = (limit - y1) * l1 + limit * l2;
    const double sum = p1 + p2;
    p = exp_of_two(sum, p2 - (sum - p1));
  }
  const double zero = where(y == y, 0.0, y), top = where(y < 0, 0.0, zero + infinity<double>);
  const double bottom = where(y < 0, infinity<double>, zero);
  p = where(a == 0, bottom, where(a == infinity<double>, top, where(a == a, p, a)));
  // Choices within choices, not conditions of both arguments: GCC moves those of an exponent that is the same for all
  // elements out of the loop, and then cannot combine them with conditions of elements.
  const bool odd = whole(b) & !whole(0.5 * b);
  p = from_bits<double>(bits(p) ^ (bits(x) & (Bits<double>(odd) << 63)));
  p = where(x < 0, where(whole(b), p, where(x == -infinity<double>, p, not_a_number<double>)), p);
  return T(where(x == 1, 1.0, where(y == 0, 1.0, p)));
}

// The same where the exponent is 1/2, 1 or 2. Correctly rounded.
template <class T> LOSSKIT_INLINE T root(T base, T) {
  return where(base == -infinity<T>, infinity<T>, sqrt(base) + 0);  // the root of -0 is -0, its power is 0
}
template <class T> LOSSKIT_INLINE T first_power(T base, T) { return base; }
template <class T> LOSSKIT_INLINE T square(T base, T) { return base * base; }

// ---------------------------------------------------------------------------------------------------------
// The error function.

// erf(x)/x - 1, z = x^2 <= 1.
template <class K, class T> LOSSKIT_INLINE T erf_near(T z) {
  if constexpr (std::is_same_v<K, float>)
    return polynomial(z, T(1.2837916568932239e-1), T(-3.7612625567398905e-1), T(1.12835822479902e-1),
                      T(-2.6853691099624162e-2), T(5.1880988892521749e-3), T(-8.0081893219954815e-4),
                      T(7.8472591234057904e-5));
  else
    return polynomial(z, T(1.2837916709551256e-1), T(-3.7612638903183454e-1), T(1.1283791670942442e-1),
                      T(-2.6866170642899308e-2), T(5.2239776046899659e-3), T(-8.548325870703971e-4),
                      T(1.2055292035174393e-4), T(-1.4924685750072198e-5), T(1.6446833684025832e-6),
                      T(-1.6204216644959769e-7), T(1.370256913134439e-8), T(-7.7648058950077834e-10));
}

// e^(a^2) erfc(a) for a >= 1/2.
template <class K, class T> LOSSKIT_INLINE T erfc_scaled(T a) {
  const T q = (a - T(3.75)) / (a + T(3.75));
  T p;
  if constexpr (std::is_same_v<K, float>)
    p = polynomial(q, T(1.2375126305735538), T(-1.4024078193311845e-1), T(3.5854751550304588e-3),
                   T(8.2283059230618155e-2), T(-1.0880542725725566e-1), T(9.2243119709408919e-2),
                   T(-5.868112520373471e-2), T(2.8605594160189537e-2), T(-9.7902830847737751e-3),
                   T(1.3264346228045534e-3), T(3.6620496615670116e-4));
  else
    p = polynomial(q, T(1.2375126308378275), T(-1.4024059858554677e-1), T(3.58541548547836e-3),
                   T(8.2276738490119253e-2), T(-1.0880393014231524e-1), T(9.2304321161392783e-2),
                   T(-5.8693398578840116e-2), T(2.8362277400964236e-2), T(-9.7465796738678626e-3),
                   T(1.7556260269054526e-3), T(2.937144333003852e-4), T(-2.9015508821247509e-4),
                   T(5.1645798700186559e-5), T(2.238789294861185e-5), T(-1.14347529051499e-5), T(-9.819477309629024e-7),
                   T(1.7339965216553659e-6), T(-4.530377538805547e-8), T(-2.3749480792402471e-7),
                   T(1.3543773038161638e-8), T(2.3671129813718842e-8));
  return p / (1 + 2 * a);
}

// ULP 0.9/1.1.
template <class T> LOSSKIT_INLINE T erf(T x) {
  const T a = absolute(x), b = a > 6 ? T(6) : a;  // erf(6) is 1
  const T z = b * b;
  const T near = a + a * erf_near<T>(z), far = 1 - exp_nabs(z) * erfc_scaled<T>(b);
  return turned(where(a < 1, near, far), x);
}

// 1 - erf(x), accurate in both tails. ULP 0.51/2.5.
template <class T> LOSSKIT_INLINE T erfc(T x) {
  const double w = double(x), a = absolute(w), b = a > 28 ? 28.0 : a;
  const double b1 = head(b), z1 = b1 * b1, z2 = (b - b1) * (b + b1), z = z1 + z2;
  const double far = exp_of_two(-z, (z - z1) - z2) * erfc_scaled<T>(b);
  const double near = 1 - (b + b * erf_near<T>(z));
  const double y = where(a < 0.5, near, far);
  return T(where(w < 0, 2 - y, y));
}

// ---------------------------------------------------------------------------------------------------------
// The logarithm of the gamma function and its derivatives. From 8 the asymptotic series; (2, 8) leads down to (1, 2]
// by steps of 1, which are exact. (0, 1) leads up to (1, 2), but x + 1 would be rounded, so formulas take x instead. On
// [1, 2] a polynomial with the roots as factors, so that the results next to them keep their digits. Left of 0 by
// reflection.

LOSSKIT_INLINE double mirrored(double x) { return x > 0 ? x : 1 - x; }

// Of x < 0, how far |x| is above or below the next whole number; 0 beyond 2^52.
LOSSKIT_INLINE double part_of(double x) {
  const double a = absolute(x), b = a > 0x1p52 ? 0x1p52 : a;
  return b - ((b + 0x1p52) - 0x1p52);
}

// sin(pi t)/pi, |t| <= 1/2.
template <class K> LOSSKIT_INLINE double sine_of(double t) {
  const double z = t * t;
  double p;
  if constexpr (std::is_same_v<K, float>)
    p = polynomial(z, -1.6449334370007811, 8.1171817640949184e-1, -1.9045957895166746e-1, 2.4750397317188855e-2);
  else
    p = polynomial(z, -1.6449340668482264, 8.1174242528334672e-1, -1.9075182412170469e-1, 2.6147847808525589e-2,
                   -2.3460809189918093e-3, 1.4842794604725442e-4, -6.9723445793590956e-6, 2.4526425771257155e-7);
  return t + t * z * p;
}

// cos(pi t), |t| <= 1/2, as the sine of the rest of the right angle: its relative error counts.
template <class K> LOSSKIT_INLINE double cosine_of(double t) { return M_PI * sine_of<K>(0.5 - absolute(t)); }

// What stands between y and (1, 2]: y = near + whole steps, if 1 < y < 8.
struct Steps {
  double near, product, sum;  // of what was left behind: the product, and numerator of the sum of 1/x over it
};
LOSSKIT_INLINE Steps step(Steps s, double y, double j) {
  const bool above = y > j;
  const double x = y - (j - 1);
  const double factor = where(above, x, 1.0);
  return {where(above, s.near - 1, s.near), s.product * factor, s.sum * factor + where(above, s.product, 0.0)};
}
LOSSKIT_INLINE Steps steps(double y) {
  return step(step(step(step(step(step({y, 1, 0}, y, 2), y, 3), y, 4), y, 5), y, 6), y, 7);
}

// x > 0: ULP 0.5/3.0, at the roots too. x < 0: the error is that of the larger of log|sin(pi x)| and lgamma(1 - x).
template <class T> LOSSKIT_INLINE T lgamma(T argument) {
  const double x = double(argument), y = mirrored(x);
  const Steps s = steps(y);
  const bool large = y >= 8, small = y < 1;
  const double one = where(small, 1.0, 0.0), t = s.near - (1.5 - one);
  const double l = log(where(large | small, y, s.product));
  const double u = 1 / y, z = u * u;
  double p, q;
  if constexpr (std::is_same_v<T, float>) {
    p = polynomial(t, 4.8312895228382041e-1, -1.4595989710604723e-1, 6.2911053422595009e-2, -3.1308266618150747e-2,
                   1.6808106383612156e-2, -9.4325081420585447e-3, 5.3259377378860259e-3, -3.1372121923987899e-3,
                   2.4468508146358015e-3, -1.48842713803394e-3);
    q = polynomial(z, 8.3333238144436647e-2, -2.7597633532938401e-3);
  } else {
    p = polynomial(t, 4.8312895054098087e-1, -1.4595989591430594e-1, 6.2911401074569731e-2, -3.1308487501052557e-2,
                   1.6797098630793168e-2, -9.4256224448672193e-3, 5.4464578588493528e-3, -3.2120742196309481e-3,
                   1.9229158707250974e-3, -1.1644113916701661e-3, 7.1152499759577351e-4, -4.380350314587896e-4,
                   2.7126404961978182e-4, -1.6857251665297059e-4, 1.0561729823198494e-4, -6.7934901796076701e-5,
                   4.2181470724876756e-5, -2.1492229189059411e-5, 1.4711818562206094e-5, -1.8524213146260845e-5,
                   1.0962758526558961e-5);
    q = polynomial(z, 8.3333333333332413e-2, -2.7777777767743809e-3, 7.9365041118757392e-4, -5.9516900026827964e-4,
                   8.3527474198865747e-4, -1.6081030473411712e-3);
  }
  const double low = (s.near - (1 - one)) * (s.near - (2 - one)) * p + where(small, -l, l);
  const double high = (y - 0.5) * (l - 1) + (4.1893853320467274e-1 + u * q);
  const double right = where(large, high, low);
  const double left = -log(absolute(sine_of<T>(part_of(x)))) - right;
  return T(where(x <= 0, where(x == -infinity<double>, -x, left), right));
}

// ULP 0.5/2.5 for x > 0, at its root too.
template <class T> LOSSKIT_INLINE T digamma(T argument) {
  const double x = double(argument), y = mirrored(x);
  const Steps s = steps(y);
  const bool large = y >= 8, small = y < 1;
  const double one = where(small, 1.0, 0.0), t = s.near - (1.5 - one);
  const double u = where(large, 1.0, where(small, -1.0, s.sum)) / where(large | small, y, s.product), z = u * u;
  double p, q;
  if constexpr (std::is_same_v<T, float>) {
    p = polynomial(t, 9.5105587622839449e-1, -4.2362749637753644e-1, 2.4054249468941039e-1, -1.4839892088569187e-1,
                   9.4985997875823208e-2, -6.2055114256979564e-2, 4.0835140440370815e-2, -2.5791539243780623e-2,
                   1.7183676912133235e-2, -1.6365294749823487e-2, 1.0791888049954904e-2);
    q = polynomial(z, 8.3332881325102817e-2, -8.2452469864316685e-3);
  } else {
    p = polynomial(t, 9.5105587603183284e-1, -4.2362742128146047e-1, 2.4054248424080257e-1, -1.4840492305392819e-1,
                   9.4988724451238502e-2, -6.1922133270489815e-2, 4.076083402139815e-2, -2.6975796902208651e-2,
                   1.7907246139933334e-2, -1.1908213593611636e-2, 7.927057688549205e-3, -5.2800439481248632e-3,
                   3.5177271847911316e-3, -2.3443734990198843e-3, 1.5659949395148446e-3, -1.0441759478593802e-3,
                   6.790931352890383e-4, -4.5133856535807001e-4, 3.574160892346243e-4, -2.4223026660345615e-4,
                   4.2653333844373586e-5, -2.196484669517091e-5, 1.565197980393198e-4, -1.0893022856498073e-4);
    q = polynomial(z, 8.333333333332317e-2, -8.3333333217936543e-3, 3.9682494389457635e-3, -4.1658294131029913e-3,
                   7.4957160376572752e-3, -1.7190827846733595e-2);
  }
  constexpr double root_hi = 1.4616321449683622, root_lo = 9.5499954299656974e-17;
  const double low = u + ((s.near - (root_hi - one)) - root_lo) * p;
  const double high = log(y) - (0.5 * u + z * q);
  const double right = where(large, high, low);
  const double part = part_of(x);
  const double left = right + cosine_of<T>(part) / sine_of<T>(part);
  const double pole = where(x == 0, turned(-infinity<double>, x), not_a_number<double>);
  return T(where(x <= 0, where(part == 0, pole, left), right));
}

// ULP 0.5/2.5 for x > 0. Here the steps lead up, for all terms of the sum have one sign then.
template <class T> LOSSKIT_INLINE T trigamma(T argument) {
  const double x = double(argument), y = mirrored(x);
  const bool large = y >= 8;
  double product = 1, sum = 0;
  const auto add = [&](double j) {
    const double square = (y + j) * (y + j);
    sum = sum * square + product;
    product *= square;
  };
  add(1), add(2), add(3), add(4), add(5), add(6), add(7);
  const double near = 1 / (y * y) + sum / product;
  const double u = 1 / (y + where(large, 0.0, 8.0)), z = u * u;
  double p;
  if constexpr (std::is_same_v<T, float>)
    p = polynomial(z, 1.666666447551369e-1, -3.3324795729775682e-2, 2.2853962053024184e-2);
  else
    p = polynomial(z, 1.6666666666666391e-1, -3.3333333328808418e-2, 2.3809521282457197e-2, -3.3332660133668722e-2,
                   7.5660761842656368e-2, -2.4532127127600817e-1, 8.2665723449836925e-1);
  const double right = where(large, 0.0, near) + (u + (0.5 * z + z * u * p));
  const double sine = sine_of<T>(part_of(x));
  const double left = 1 / (sine * sine) - right;
  return T(where(x <= 0, where(x == -infinity<double>, not_a_number<double>, left), right));
}

// ---------------------------------------------------------------------------------------------------------
// What is left of exp and log when their first terms are taken off.

// e^x - 1 - x. The sum as in expm1, but with a polynomial whose error is small beside x^2, and x taken off before the
// small parts are added. ULP 1.79/2.1. In double, results of float would be good to 0.51 ULP, and take three times as
// long.
template <class T> LOSSKIT_INLINE T expm1m(T x) {
  using F = Format<T>;
  const Reduced<T> e = reduce(limited(x, T(-2 - F::mantissa), F::exp_inf));
  const T scale = from_bits<T>((e.n - F::bias - 1) << F::mantissa);  // 2^(n-1)
  const T q = e.r - e.whole * F::ln2_lo, z = q * q;
  T tail;  // e^q - 1 - q
  if constexpr (std::is_same_v<T, float>)
    tail = T(0.5) * z + z * q *
                            ((1.66666657e-1f + q * 4.16665114e-2f) +
                             z * ((8.33359826e-3f + q * 1.39305019e-3f) + z * 1.97134505e-4f));
  else
    tail = z * polynomial(q, 5.0e-1, 1.6666666666666666e-1, 4.1666666666666671e-2, 8.3333333333344053e-3,
                          1.3888888888882174e-3, 1.984126983720585e-4, 2.4801587329958653e-5, 2.7557325977637934e-6,
                          2.755726899068694e-7, 2.5046992729998828e-8, 2.0916342160700185e-9, 1.7513994093159662e-10);
  const T a = scale - T(0.5), b = scale * e.r, s = a + b;
  const T taken = T(0.5) * (x > F::exp_inf ? F::exp_inf : x);
  const T y = (s - taken) + ((b - (s - a)) + scale * (tail - e.whole * F::ln2_lo));
  return y + y;
}

// x - log(1 + x). ULP 3.10/2.9.
template <class T> LOSSKIT_INLINE T minus_log1p(T x) {
  using F = Format<T>;
  const Bits<T> i = split(1 + x);
  const Bits<T> k = (i & exponent_mask<T>)-(F::bias << F::mantissa);
  const T scale = T(0.5) * from_bits<T>(((F::bias + 1) << F::mantissa) - k);
  const T f = from_bits<T>(bits(x) - k) + (scale - 1);
  const TwoWords<T> l = log_parts(f, exponent<T>(i));
  const T y = (x - l.high) - l.low;
  return where(x > -1, where(x < infinity<T>, y, x), -log_ends(1 + x));
}

// log(1 - e^-x) for x > 0; -inf at 0, NaN below. ULP 0.5/1.6.
template <class T> LOSSKIT_INLINE T log1mexp(T x) {
  const double w = double(x), e = exp_nabs(w);
  return T(where(w < 0.6931471805599453, log(-expm1(-w)), log1p(-e)));
}

// ---------------------------------------------------------------------------------------------------------
// Angles.

template <class T> LOSSKIT_INLINE T floor(T x) {
  if constexpr (std::is_same_v<T, float>)
    return __builtin_floorf(x);
  else
    return __builtin_floor(x);
}

// sin(x + turn pi/2). x = n pi/2 + r + tail, with pi/2 in three words of which the first two times n are exact, if
// |x| < 1.6e6; farther away the angle loses digits, and from 2^52 it has none.
template <class T> LOSSKIT_INLINE T sine(T argument, Bits<double> turn) {
  constexpr double magic = 0x1.8p52;
  constexpr double pi1 = 1.5707963267341256, pi2 = 6.077100506303966e-11, pi3 = 2.0222662487959506e-21;
  const double x = double(argument), t = x * 6.3661977236758138e-1 + magic, n = t - magic;
  const double a = x - n * pi1, b = n * pi2, c = a - b;
  const double low = ((a - c) - b) - n * pi3;
  const double r = limited(c + low, -0.8, 0.8), tail = limited((c - r) + low, -0x1p-50, 0x1p-50), z = r * r;
  double s, c2;
  if constexpr (std::is_same_v<T, float>) {
    s = polynomial(z, -1.6666654494601357e-1, 8.3321538654246054e-3, -1.9514304540173329e-4);
    c2 = polynomial(z, 4.1666645923258985e-2, -1.3887325718567091e-3, 2.4433997404745287e-5);
  } else {
    s = polynomial(z, -1.6666666666666666e-1, 8.333333333333099e-3, -1.9841269841054635e-4, 2.7557319127988599e-6,
                   -2.5052085659641118e-8, 1.6056213459688853e-10, -7.4833482147294e-13);
    c2 = polynomial(z, 4.1666666666666595e-2, -1.388888888887339e-3, 2.4801587289041504e-5, -2.7557314228295013e-7,
                    2.0875706697776509e-9, -1.1358798905706606e-11);
  }
  const double sine = r + (r * z * s + tail * (1 - 0.5 * z));
  const double h = 0.5 * z, w = 1 - h;
  const double cosine = w + (((1 - w) - h) + (z * z * c2 - r * tail));
  const Bits<double> i = bits(t) + turn;
  const Bits<double> odd = -(i & 1);
  const double y = from_bits<double>((bits(cosine) & odd) | (bits(sine) & ~odd));
  return T(from_bits<double>(bits(y) ^ ((i & 2) << 62)));
}

// ULP 0.5/0.9 below 1.6e6.
template <class T> LOSSKIT_INLINE T sin(T x) { return where(x == 0, x, sine(x, 0)); }  // keeps -0
template <class T> LOSSKIT_INLINE T cos(T x) { return sine(x, 1); }

// The angle of the point (x, y), as C's atan2. The smaller side over the larger, or (smaller - larger)/(smaller +
// larger), an eighth of a turn from it. ULP 0.5/1.7.
template <class K> LOSSKIT_INLINE double angle(double y, double x) {
  const double a = absolute(x), b = absolute(y);
  const bool steep = b > a;
  const double wide = where(steep, b, a), thin = where(steep, a, b);
  const double size = where(wide > 0x1p1000, 0x1p-4, 1.0);
  const double end = where(thin == infinity<double>, 1.0, 0.0);
  const double m = where(wide == infinity<double>, 1.0, where(wide == 0, 1.0, wide * size));
  const double k = where(wide == infinity<double>, end, thin * size);
  const double far = where(k > 0.41421356237309503 * m, 1.0, 0.0);
  const double t = (k - far * m) / (m + far * k), z = t * t;
  double p;
  if constexpr (std::is_same_v<K, float>)
    p = polynomial(z, -3.3333314566025524e-1, 1.9998441197357128e-1, -1.4243046417809646e-1, 1.0590635390455641e-1,
                   -6.0709388107377776e-2);
  else
    p = polynomial(z, -3.3333333333333187e-1, 1.9999999999951196e-1, -1.4285714279992009e-1, 1.1111110774487824e-1,
                   -9.0908975266945052e-2, 7.6920564822232085e-2, -6.6630651014856365e-2, 5.8476270100383337e-2,
                   -5.0382036226465775e-2, 3.8038359074801187e-2, -1.7880217137586814e-2);
  // In quarters of pi: the angle is q pi/4 + or - atan(t).
  const double turn = where(x < 0, 4.0, turned(2.0, x) - 2 == 0 ? 0.0 : 4.0);
  const double u = where(steep, -1.0, 1.0), v = where(turn > 0, -1.0, 1.0);
  const double q = turn + v * (where(steep, 2.0, 0.0) + u * far);
  const double r = q * 0.7853981633974483 + (u * v * (t + t * z * p) + q * 3.061616997868383e-17);
  return turned(where(x == x, where(y == y, r, y), x), y);
}

template <class T> LOSSKIT_INLINE T atan2(T y, T x) { return T(angle<T>(double(y), double(x))); }

// NaN beyond 1. ULP 0.5/1.8.
template <class T> LOSSKIT_INLINE T acos(T argument) {
  const double x = double(argument);
  return T(2 * angle<T>(sqrt(1 - x), sqrt(1 + x)));
}

}  // namespace losskit
