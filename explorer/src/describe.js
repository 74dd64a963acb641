/** What plots show, in words, for those who do not see them. */

import { show } from "./formulas.js";

const MOST = 6; // of the curves that are described; the table has all

/** A plot of curves over an axis: what is drawn, from where to where, and the numbers at its ends and extremes. */
export function ofCurves({ yLabel, xLabel, from, to, xs, lines }) {
  const drawn = lines.filter((line) => line.ys);
  if (!drawn.length) return "Nothing is drawn: no loss that this axis can show is chosen.";
  const said = drawn.slice(0, MOST).map(({ name, ys }) => `${name}: ${numbers(xs, ys)}`);
  if (drawn.length > MOST) said.push(`and ${drawn.length - MOST} more, which the table of numbers has`);
  return `Curves of the ${yLabel} over ${xLabel} from ${show(from)} to ${show(to)}. ${said.join(". ")}.`;
}

function numbers(xs, ys) {
  let least = null;
  let most = null;
  for (let i = 0; i < ys.length; i++) {
    if (ys[i] === null) continue;
    if (least === null || ys[i] < ys[least]) least = i;
    if (most === null || ys[i] > ys[most]) most = i;
  }
  if (least === null) return "no finite number in this range";
  const at = (i) => `${show(ys[i] ?? NaN)} at ${show(xs[i])}`;
  const ends = `${at(0)}, ${at(ys.length - 1)}`;
  return ys[least] === ys[most] ? `${ends}, the same everywhere` : `${ends}, lowest ${at(least)}, highest ${at(most)}`;
}

/** What there is at the cursor, of one key (value, slope, curvature) or of several. */
export function atCursor(x, symbol, found, keys) {
  const named = { value: "value", slope: "gradient", curvature: "curvature" };
  const said = found
    .filter(({ at }) => at)
    .slice(0, MOST)
    .map(({ name, at }) => `${name}: ${keys.map((key) => `${named[key]} ${show(at[key])}`).join(", ")}`);
  return said.length ? `At the cursor, ${symbol} = ${show(x)}: ${said.join("; ")}.` : "";
}

/** A histogram of losses. */
export function ofHistogram(samples, { above, below, zeros }, logarithmic) {
  const said = samples
    .slice(0, MOST)
    .map(
      (s) => `${s.name}: ${s.count} rows, median ${show(s.median)}, mean ${show(s.mean)}, largest ${show(s.largest)}`,
    );
  const extra = [
    zeros && `${zeros} losses are exactly zero`,
    below && `the first bar holds ${below} smaller losses too`,
    above && `the last bar holds ${above} larger losses too`,
  ].filter(Boolean);
  const scale = logarithmic ? "logarithmic" : "linear";
  return `Histogram of the losses of the rows on a ${scale} axis. ${[...said, ...extra].join(". ")}.`;
}
