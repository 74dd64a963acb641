/**
 * Where a prediction rests that springs pull.
 *
 * 1. A spring is a loss bound to its target. The pull at x is the mean of the slopes; where it is 0, x rests.
 * 2. From a start the prediction goes downhill: to the first place where the pull is gone or turns. Losses with a kink
 *    turn their pull there, and between two points of a flat valley there is none.
 */

const ROUNDING = 1e-12; // of the sum of the sizes of all pulls
const HALVINGS = 60;

/** The mean slope at x; what is left of a sum that cancels is 0. */
export function pull(springs, x) {
  let [sum, size] = [0, 0];
  for (const { slope } of springs) {
    const one = slope(x);
    sum += one;
    size += Math.abs(one);
  }
  return Math.abs(sum) <= ROUNDING * size ? 0 : sum / springs.length;
}

export const energy = (springs, x) => springs.reduce((sum, { value }) => sum + value(x), 0) / springs.length;

/** Targets, and `pieces` - 1 places between two of them: where a pull that turns is noticed. */
export function nodes(targets, pieces) {
  const sorted = [...new Set(targets)].sort((a, b) => a - b);
  const between = (a, b) => Array.from({ length: pieces }, (_, k) => a + ((b - a) * k) / pieces);
  return [...sorted.slice(1).flatMap((b, i) => between(sorted[i], b)), sorted.at(-1)];
}

/**
 * The place of rest downhill of `start`, and from where to where it rests as well: { x, from, to }. No loss of residuals
 * pulls a prediction beyond all targets.
 */
export function rest(springs, targets, start, pieces = 16) {
  const places = nodes(targets, pieces);
  const first = Math.sign(pull(springs, start));
  if (first === 0) return flat(springs, places, start);
  const ahead = first > 0 ? places.filter((x) => x < start).reverse() : places.filter((x) => x > start);
  let before = start;
  for (const node of ahead) {
    if (Math.sign(pull(springs, node)) !== first) return flat(springs, places, turn(springs, first, before, node));
    before = node;
  }
  return { x: before, from: before, to: before };
}

/** The first place from a to b where the pull is no longer of this sign; a target that is met but for rounding is met. */
function turn(springs, sign, a, b) {
  const [start, end] = [a, b];
  for (let i = 0; i < HALVINGS; i++) {
    const middle = (a + b) / 2;
    if (Math.sign(pull(springs, middle)) === sign) a = middle;
    else b = middle;
  }
  const near = [start, end].find((x) => Math.abs(x - b) <= 1e-9 * (1 + Math.abs(x)));
  return near ?? b;
}

/** A place of rest with the flat ground around it. */
function flat(springs, places, x) {
  let [from, to] = [x, x];
  for (const node of places.filter((one) => one > x)) {
    if (pull(springs, (to + node) / 2) !== 0) break;
    to = node;
  }
  for (const node of places.filter((one) => one < x).reverse()) {
    if (pull(springs, (from + node) / 2) !== 0) break;
    from = node;
  }
  return { x, from, to };
}

/** All places of rest, each with its height, from the left to the right: where a pull to the right ends. */
export function valleys(springs, targets, pieces = 16) {
  const places = nodes(targets, pieces);
  const found = [];
  let sign = -1; // to the left of all targets
  places.forEach((node, i) => {
    const now = Math.sign(pull(springs, node));
    if (sign < 0 && now >= 0) {
      const place = flat(springs, places, i > 0 ? turn(springs, -1, places[i - 1], node) : node);
      found.push({ ...place, energy: energy(springs, place.x) });
    }
    sign = now;
  });
  return found;
}

/** The lowest place of rest. */
export const deepest = (springs, targets) =>
  valleys(springs, targets).reduce((best, one) => (one.energy < best.energy ? one : best));
