/**
 * Where the rows of a file lie on the plot of a loss: a dot at each row's own variable and its loss.
 *
 * 1. A row has operands of its own, such as its target, and a curve has one target for all. Where a loss depends on the
 *    difference of the two alone, rows are moved to the curve's target; whether it does is tried on rows.
 * 2. Of very many rows some are drawn, evenly, and it is said.
 */

const MOST = 2000;
const TRIED = 64;
const FAR = 2; // ranges of nearly all dots, beyond which a dot is not looked for

/** places: the rows' variables, shifted by `by` where value(place) is the row's loss there, too. */
export function moved(places, by, rows, value) {
  const step = Math.max(1, Math.floor(rows.length / TRIED));
  const shifted = places.map((x, i) => x - by[i]);
  for (let i = 0; i < rows.length; i += step) {
    const [there, here] = [value(shifted[i]), rows[i]];
    if (!(Math.abs(there - here) <= 1e-6 * (1e-6 + Math.abs(here)))) return null;
  }
  return shifted;
}

/** Some of a sample's rows as dots: { slot, xs, ys }, or null where they have no place on the curve. */
export function dotsOf({ slot, rows, places }) {
  if (!places) return null;
  const step = Math.max(1, Math.ceil(rows.length / MOST));
  const kept = [...rows.keys()].filter((i) => i % step === 0 && Number.isFinite(rows[i]) && Number.isFinite(places[i]));
  return { slot, xs: kept.map((i) => places[i]), ys: kept.map((i) => rows[i]), step };
}

/** The range that holds all dots, or where few are far away nearly all, and what is worth looking at anyway. */
export function reach(dots, [low, high]) {
  const all = Float64Array.from(dots.flatMap(({ xs }) => xs)).sort();
  if (!all.length) return [low, high];
  const at = (share) => all[Math.round(share * (all.length - 1))];
  const [left, right] = [Math.min(low, at(0.01)), Math.max(high, at(0.99))];
  const room = FAR * (right - left);
  const ends = [Math.min(left, Math.max(at(0), left - room)), Math.max(right, Math.min(at(1), right + room))];
  return ends.map((x) => Number(x.toPrecision(3)));
}

const WHERE = {
  own: "its own variable",
  moved: "its variable, moved to the target of the curve, since the loss depends on the difference alone",
  margin: "the margin of its right class over all others, where the curve is that of two classes",
};

/** What the dots are, in a sentence. */
export function told(samples) {
  const placed = samples.filter(({ places }) => places);
  if (!placed.length) return "";
  const step = dotsOf(placed[0]).step;
  const some = step > 1 ? `, of which one in ${step} is drawn` : "";
  const where = WHERE[placed[0].where];
  return `Dots on the plot of the value are rows${some}: each at its loss and ${where}.`;
}
