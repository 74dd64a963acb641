/** Numbers of the chapter about NaN and 0: a number format by its rounding, three spellings of one loss, one step. */

import { toTarget } from "./losses.js";

const bits = new DataView(new ArrayBuffer(4));

/** To the nearest number with the upper 16 bits of a float32, to even where two are as near. */
function bfloat16(x) {
  bits.setFloat32(0, x);
  const word = bits.getUint32(0);
  if (!Number.isFinite(Math.fround(x))) return Math.fround(x);
  bits.setUint32(0, ((word + 0x7fff + ((word >>> 16) & 1)) & 0xffff0000) >>> 0);
  return bits.getFloat32(0);
}

/** Formats of numbers: what is stored of a result. */
export const FORMATS = { bfloat16, float32: Math.fround, float64: (x) => x };

/** The distance from 1 to the next number of a format. */
export function epsilon(round) {
  let step = 1;
  while (round(1 + step / 2) > 1) step /= 2;
  return step;
}

/** Operations that round every result, as a processor does. */
const rounded = (round) => ({
  minus: (a, b) => round(a - b),
  plus: (a, b) => round(a + b),
  times: (a, b) => round(a * b),
  over: (a, b) => round(a / b),
  exp: (a) => round(Math.exp(a)),
  log: (a) => round(Math.log(a)),
  log1p: (a) => round(Math.log1p(a)),
});

function sigmoid(m, z) {
  return m.over(1, m.plus(1, m.exp(-z)));
}

/** The loss -log(1 - sigmoid(z)) of an example whose right answer is no, and its gradient as backward computes it. */
export const SPELLINGS = {
  /** Word for word. */
  textbook(round, z) {
    const m = rounded(round);
    const s = sigmoid(m, z);
    const left = m.minus(1, s);
    const byS = m.over(1, left);
    return { value: -m.log(left), slope: m.times(byS, m.times(s, m.minus(1, s))) };
  },
  /** With the usual help: what goes into the logarithm is kept away from 0, and passes no gradient there. */
  clamped(round, z) {
    const m = rounded(round);
    const s = sigmoid(m, z);
    const left = m.minus(1, s);
    const least = epsilon(round);
    const byS = left < least ? 0 : m.over(1, left);
    return { value: -m.log(Math.max(left, least)), slope: m.times(byS, m.times(s, m.minus(1, s))) };
  },
  /** As losskit spells it: softplus, whose slope is the sigmoid. */
  stable(round, z) {
    const m = rounded(round);
    const e = m.exp(-Math.abs(z));
    return { value: m.plus(Math.max(z, 0), m.log1p(e)), slope: m.over(z >= 0 ? 1 : e, m.plus(1, e)) };
  },
};

/** The first score of a grid at which a spelling has no gradient of a number other than 0; Infinity where it has. */
export function breaks(spelling, round, scores) {
  const broken = scores.find((z) => {
    const { slope } = SPELLINGS[spelling](round, z);
    return !(Math.abs(slope) > 0 && Number.isFinite(slope));
  });
  return broken ?? Infinity;
}

/**
 * One step of a model y = weights . x on rows { x, target } under MSE. rows[i].out is true where a row is masked, and
 * `mask` how: "times" multiplies its loss by 0, "left" leaves it out of loss, gradient and denominator.
 */
export function step(weights, rows, mask, rate) {
  const bind = toTarget("mse_loss");
  const count = rows.filter(({ out }) => !out).length;
  const gradient = weights.map(() => 0);
  let loss = 0;
  const each = rows.map(({ x, target, out }) => {
    const prediction = x.reduce((sum, one, k) => sum + one * weights[k], 0);
    const { value, slope } = bind(target);
    const [own, by] = [value(prediction), slope(prediction)];
    if (out && mask === "left") return { prediction, loss: own, pull: 0 };
    const factor = out ? 0 : 1;
    loss += (factor * own) / count;
    const pulled = (factor * by) / count;
    for (let k = 0; k < weights.length; k++) gradient[k] += pulled * x[k];
    return { prediction, loss: own, pull: pulled };
  });
  return { each, loss, gradient, weights: weights.map((one, k) => one - rate * gradient[k]) };
}
