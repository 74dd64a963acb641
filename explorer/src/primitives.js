/**
 * The primitives of formulas in JavaScript, as losskit_guide/scalar.py has them in Python.
 *
 * 1. Formulas spell what JavaScript has as Math.*, and everything else as lk.*: the functions of this file.
 * 2. NaN in gives NaN out; what Math leaves inaccurate in the tails is accurate here.
 */

/** log(1 + exp(x)), accurate in both tails. */
export const softplus = (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

export const log_sigmoid = (x) => -softplus(-x);

export function sigmoid(x) {
  const e = Math.exp(-Math.abs(x));
  return (x >= 0 ? 1 : e) / (1 + e);
}

export const clamp = (x, low, high) => (x < low ? low : x > high ? high : x);

/** weight * x, and 0 where weight is 0 and x is infinite. */
export const times = (weight, x) => (weight === 0 && x === x ? weight : weight * x);

/** a * b, and 0 where one of them is 0 and the other infinite. */
export const mute = (a, b) => ((a === 0 || b === 0) && a === a && b === b ? 0 : a * b);

/** x * log(y), and 0 where x is 0. */
export const xlogy = (x, y) => times(x, Math.log(y));

/** log(exp(a) + exp(b)) without overflow. */
export const logaddexp = (a, b) => (a === b ? a + Math.LN2 : Math.max(a, b) + Math.log1p(Math.exp(-Math.abs(a - b))));

/** The value; what is in it is a constant where the formula is differentiated. */
export const stop = (x) => x;

const horner = (x, coefficients) => coefficients.reduceRight((sum, c) => sum * x + c, 0);
const EXPM1M = Array.from(
  { length: 19 },
  (_, k) => 1 / Array.from({ length: k + 2 }, (_, i) => i + 1).reduce((a, b) => a * b),
);
const MINUS_LOG1P = Array.from({ length: 18 }, (_, k) => 2 / (2 * k + 3));

/** exp(x) - 1 - x, by the series near 0. */
export const expm1m = (x) => (Math.abs(x) < 1 ? x * x * horner(x, EXPM1M) : x === Infinity ? x : Math.expm1(x) - x);

/** x - log(1 + x), by the series of the inverse hyperbolic tangent near 0. */
export function minus_log1p(x) {
  if (!(x > -0.5 && x < 1)) return x === Infinity ? x : x - Math.log1p(x);
  const s = x / (2 + x);
  return s * (x - s * s * horner(s * s, MINUS_LOG1P));
}

/** log(1 - exp(-x)) for x > 0. */
export const log1mexp = (x) => (x < Math.LN2 ? Math.log(-Math.expm1(-x)) : Math.log1p(-Math.exp(-x)));

/** The continued fraction of erf, without its difference from 1. */
export const erfc = (x) => (x < 2.5 ? 1 - erf(x) : x > 28 ? 0 : tail(x));

/** 1 - erf(a) for a >= 2.5, by its continued fraction (Lentz's method). */
function tail(a) {
  let fraction = a;
  for (let n = 60; n > 0; n--) fraction = a + n / 2 / fraction;
  return Math.exp(-a * a) / Math.sqrt(Math.PI) / fraction;
}

/** By its series of positive terms, and from 2.5 by the continued fraction of its complement (Lentz's method). */
export function erf(x) {
  const a = Math.abs(x);
  if (!(a < 6)) return x !== x ? x : Math.sign(x);
  const scale = Math.exp(-a * a) / Math.sqrt(Math.PI);
  if (a < 2.5) {
    let term = 2 * a;
    let sum = term;
    for (let n = 1; term > 1e-17 * sum; n++) sum += term *= (2 * a * a) / (2 * n + 1);
    return Math.sign(x) * scale * sum;
  }
  let fraction = a;
  for (let n = 60; n > 0; n--) fraction = a + n / 2 / fraction;
  return Math.sign(x) * (1 - scale / fraction);
}

/** Recurrence to x >= 12, then Stirling's series; reflection below 0. */
export function lgamma(x) {
  if (x === -Infinity) return NaN;
  if (x <= 0 && x === Math.floor(x)) return Infinity;
  if (x < 0) return Math.log(Math.PI / Math.abs(Math.sin(Math.PI * x))) - lgamma(1 - x);
  if (x === Infinity) return x;
  if (x === 1 || x === 2) return 0;
  let product = 1;
  while (x < 12) product *= x++;
  const y = 1 / (x * x);
  const series = (1 / 12 - y * (1 / 360 - y * (1 / 1260 - y * (1 / 1680 - y * (1 / 1188 - (y * 691) / 360360))))) / x;
  return (x - 0.5) * Math.log(x) - x + 0.5 * Math.log(2 * Math.PI) + series - Math.log(product);
}

/** Recurrence to x >= 10, then the asymptotic series; reflection below 0. */
export function digamma(x) {
  if (x === -Infinity) return NaN;
  if (x <= 0 && x === Math.floor(x)) return x === 0 ? -1 / x : NaN;
  if (x < 0) return digamma(1 - x) - Math.PI / Math.tan(Math.PI * x);
  let shift = 0;
  while (x < 10) shift -= 1 / x++;
  const y = 1 / (x * x);
  const series = y * (1 / 12 - y * (1 / 120 - y * (1 / 252 - y * (1 / 240 - y * (1 / 132 - (y * 691) / 32760)))));
  return shift + Math.log(x) - 0.5 / x - series;
}

/** As digamma, with the derivative of its series. */
export function trigamma(x) {
  if (x === -Infinity) return NaN;
  if (x <= 0 && x === Math.floor(x)) return Infinity;
  if (x < 0) return Math.PI ** 2 / Math.sin(Math.PI * x) ** 2 - trigamma(1 - x);
  let shift = 0;
  for (; x < 10; x++) shift += 1 / (x * x);
  const y = 1 / (x * x);
  const series = y * (1 / 6 - y * (1 / 30 - y * (1 / 42 - y * (1 / 30 - y * (5 / 66 - (y * 691) / 2730)))));
  return shift + 1 / x + y / 2 + series / x;
}
