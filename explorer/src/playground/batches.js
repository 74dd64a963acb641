/**
 * Losses of all pairs of a batch: each row meets every column, and the formula speaks of aggregates of its pairs.
 *
 * Who belongs together is data of the card. Where a loss wants two views, the second half of the points is the other
 * view of the first: point i and point i + N / 2 are one example.
 */

import { cosine, distance } from "./space.js";

const SIDES = ["positive", "negative"];

/** The aggregates of numbers: the value, and the derivative by each; of several largest the first has it. */
const AGGREGATES = {
  log_sum_exp(xs) {
    if (!xs.length) return { value: -Infinity, by: [] };
    const most = Math.max(...xs);
    const sum = xs.reduce((total, x) => total + Math.exp(x - most), 0);
    return { value: most + Math.log(sum), by: xs.map((x) => Math.exp(x - most) / sum) };
  },
  sum: (xs) => ({ value: xs.reduce((a, b) => a + b, 0), by: xs.map(() => 1) }),
  mean: (xs) => ({
    value: xs.length ? xs.reduce((a, b) => a + b, 0) / xs.length : 0,
    by: xs.map(() => 1 / xs.length),
  }),
  max: (xs) => only(xs, Math.max(...xs)),
  min: (xs) => only(xs, Math.min(...xs)),
};

function only(xs, value) {
  const at = xs.indexOf(value);
  return { value, by: xs.map((_, i) => (i === at ? 1 : 0)) };
}

/** Rows, columns, and on which side a pair of them is: 1 positive, 0 negative, null no pair. */
function layout(pairing, labels) {
  const all = labels.map((_, i) => i);
  const half = Math.floor(all.length / 2);
  if (pairing === "labels") {
    return { rows: all, columns: all, side: (i, j) => (i === j ? null : +(labels[i] === labels[j])) };
  }
  if (pairing === "views") {
    const both = all.slice(0, 2 * half);
    return { rows: both, columns: both, side: (i, j) => (i === j ? null : +(i % half === j % half)) };
  }
  return { rows: all.slice(0, half), columns: all.slice(half, 2 * half), side: (i, j) => +(j === i + half) };
}

/** As tuplesLoss, for a card with `pairs`. */
export function batchLoss(card, formula, numbers, labels) {
  const { pairing, measure, both_ways: bothWays, needs, terms } = card.pairs;
  const { rows, columns, side } = layout(pairing, labels);
  const measured = measure === "distance" ? distance : cosine;
  const scale = "temperature" in numbers ? 1 / numbers.temperature : (numbers.logit_scale ?? 1);
  const bias = numbers.logit_bias ?? 0;
  const wanted = Object.keys(formula.gradients).map((name) => {
    const [own, ...rest] = name.split("_");
    return { name, own, how: rest.join("_") };
  });

  /** The loss of one row against its columns; each pair is { i, j, s }. Fills the derivatives by `s` and returns it. */
  function ofRow(pairs, share, slopes) {
    const speaks = { ...numbers };
    const aggregated = {};
    for (const [k, own] of SIDES.entries()) {
      const mine = pairs.filter((pair) => pair.positive === (k === 0));
      const term = terms[own];
      const given = (f, s) => f(...term.arguments.map((name) => (name === "similarity" ? s : numbers[name])));
      aggregated[own] = {
        mine,
        xs: mine.map(({ s }) => (term ? given(term.value, s) : s)),
        by: mine.map(({ s }) => (term ? given(term.gradient, s) : 1)),
      };
    }
    const found = wanted.map(({ own, how }) => AGGREGATES[how](aggregated[own].xs));
    for (const [k, { name }] of wanted.entries()) speaks[name] = found[k].value;
    const given = formula.arguments.map((name) => speaks[name]);
    for (const [k, { name, own }] of wanted.entries()) {
      const slope = share * formula.gradients[name](...given);
      const { mine, by } = aggregated[own];
      for (const [m, pair] of mine.entries()) slopes.push([pair, slope * found[k].by[m] * by[m]]);
    }
    return share * formula.value(...given);
  }

  /** Every row of one direction. */
  function oneWay(from, to, sideOf, places, by, part) {
    const all = from.map((i) =>
      to
        .filter((j) => sideOf(i, j) !== null)
        .map((j) => {
          const m = measured(places[i], places[j]);
          return { i, j, m, s: m.value * scale + bias, positive: sideOf(i, j) === 1 };
        }),
    );
    const has = (pairs, positive) => pairs.some((pair) => pair.positive === positive);
    const counted = all.filter(
      (pairs) => needs === "nothing" || (has(pairs, true) && (needs !== "both" || has(pairs, false))),
    );
    let sum = 0;
    for (const pairs of counted) {
      const slopes = [];
      sum += ofRow(pairs, part / counted.length, slopes);
      for (const [{ i, j, m }, slope] of slopes) {
        for (const axis of [0, 1]) {
          by[i][axis] += slope * scale * m.first[axis];
          by[j][axis] += slope * scale * m.second[axis];
        }
      }
    }
    return sum;
  }

  const loss = (places, by) => {
    if (!bothWays) return oneWay(rows, columns, side, places, by, 1);
    const back = oneWay(columns, rows, (j, i) => side(i, j), places, by, 0.5);
    return oneWay(rows, columns, side, places, by, 0.5) + back;
  };
  return { loss, described: { pairing } };
}
