/**
 * How many rows have which loss: several samples over shared bins, evenly spaced in the loss or in its logarithm.
 *
 * 1. Losses that span more than two decades are counted over their logarithm: else one bar holds nearly all of them.
 * 2. A loss of exactly 0 has no logarithm: such rows have a bar of their own, left of the others.
 * 3. What lies far from the rest is counted in the outermost bar, and said.
 */

import { points, show } from "./formulas.js";

const DECADES = 2;
const BEYOND = 0.01; // the share of rows that may be counted in an outermost bar, where there are enough of them
const ENOUGH = 1 / BEYOND;

/** Whether losses can be counted over their logarithm, and whether that shows them better. */
export function scales(samples) {
  const all = finite(samples);
  const positive = all.filter((x) => x > 0);
  const possible = positive.length > 0 && all[0] >= 0;
  return { possible, better: possible && Math.log10(positive.at(-1) / positive[0]) > DECADES };
}

const finite = (samples) => Float64Array.from(samples.flatMap((rows) => [...rows.filter(Number.isFinite)])).sort();

/**
 * edges and counts of each sample; `above` and `below` tell how many of the outermost bars' are beyond them. Over the
 * logarithm edges are powers of ten, and `zeros` tells how many losses are 0: the first bar's, a gap of one bar follows.
 */
export function histogram(samples, logarithmic, bins = 40) {
  const all = finite(samples);
  if (!all.length) return { edges: [0, 1], counts: samples.map(() => [0]), above: 0, below: 0, zeros: 0 };
  return logarithmic ? overPowers(samples, all, bins) : overLosses(samples, all, bins);
}

function overLosses(samples, all, bins) {
  const [low, most] = [all[0], all.at(-1)];
  const usual = all[Math.floor((1 - BEYOND) * (all.length - 1))];
  const capped = all.length > ENOUGH && most > low + 2 * (usual - low) && usual > low;
  const high = capped ? usual : most > low ? most : low + 1;
  const counts = samples.map((rows) => count(rows.filter(Number.isFinite), low, high, bins));
  const above = capped ? all.filter((x) => x > high).length : 0;
  return { edges: points(low, high, bins + 1), counts, above, below: 0, zeros: 0 };
}

function overPowers(samples, all, bins) {
  const powers = all.filter((x) => x > 0).map(Math.log10);
  const [least, most] = [powers[0], powers.at(-1)];
  const usual = powers[Math.ceil(BEYOND * (powers.length - 1))];
  const capped = powers.length > ENOUGH && least < most - 2 * (most - usual) && usual < most;
  const low = capped ? usual : most > least ? least : least - 0.5;
  const high = most > least ? most : most + 0.5;
  const zeros = all.length - powers.length;
  const width = (high - low) / bins;
  const counts = samples.map((rows) => {
    const counted = count(rows.filter((x) => Number.isFinite(x) && x > 0).map(Math.log10), low, high, bins);
    return zeros ? [rows.filter((x) => x === 0).length, 0, ...counted] : counted;
  });
  const edges = points(low, high, bins + 1);
  return {
    edges: zeros ? [low - 2 * width, low - width, ...edges] : edges,
    counts,
    above: 0,
    below: capped ? powers.filter((x) => x < low).length : 0,
    zeros,
  };
}

function count(values, low, high, bins) {
  const result = new Array(bins).fill(0);
  for (const x of values) {
    result[Math.max(0, Math.min(bins - 1, Math.floor(((x - low) / (high - low)) * bins)))]++;
  }
  return result;
}

/** Where an axis of powers of ten has its numbers, `most` at most, and what they are; 0 stands under its own bar. */
export function ticks({ edges, zeros }, most = 10) {
  const low = edges[zeros ? 2 : 0];
  const high = edges.at(-1);
  const every = Math.max(1, Math.ceil((high - low) / most));
  const found = [];
  for (let power = Math.floor(low); power <= high; power++) {
    const digits = 3 * (high - low) > most ? [1] : [1, 2, 5];
    if (power % every === 0) found.push(...digits.map((digit) => digit * 10 ** power));
  }
  const inside = found.map((x) => ({ at: Math.log10(x), text: show(x) })).filter(({ at }) => at >= low && at <= high);
  return zeros ? [{ at: (edges[0] + edges[1]) / 2, text: "zero" }, ...inside] : inside;
}
