/**
 * Letters on curves, so that they can be told apart without colour: A, B, C, as legends and tables have them.
 *
 * A letter stands where its curve is far from the others, as far to the right as it can, and not on another letter.
 */

/** The letter of the i-th line; after 26 of them comes A1. */
export const letter = (i) => String.fromCharCode(65 + (i % 26)) + (i >= 26 ? Math.floor(i / 26) : "");

const ENOUGH = 22; // pixels between a letter and another curve or letter

/** How many places along a plot a letter may have. */
export const PLACES = 24;

/**
 * For each curve the number of the place where its letter stands, or null where the curve is nowhere in sight.
 * xs: the places from left to right, in pixels; curves: heights there, null where there is none.
 */
export function places(xs, curves) {
  const taken = [];
  return curves.map((curve, own) => {
    let best = null;
    for (let k = xs.length - 1; k >= 0; k--) {
      if (curve[k] === null) continue;
      const others = curves.map((other, j) =>
        j === own || other[k] === null ? ENOUGH : Math.abs(other[k] - curve[k]),
      );
      const letters = taken.map(([x, y]) => Math.hypot(x - xs[k], y - curve[k]));
      const clear = Math.min(ENOUGH, ...letters);
      const score = clear + Math.min(clear, ...others);
      if (!best || score > best.score) best = { k, score };
    }
    if (best) taken.push([xs[best.k], curve[best.k]]);
    return best && best.k;
  });
}
