/**
 * The loss of a row of class scores: what the card's formula speaks of, and its derivative spread over the scores.
 *
 * A formula of class scores speaks of the log-softmax at the right class and of two numbers of the whole row; one of
 * margins of the difference between a right class and another, for every such pair, divided by the number of classes.
 */

import { givenOf, variantOf } from "./formulas.js";
import { times } from "./primitives.js";

/** The log of the sum of exponentials; the largest score is taken out, so that nothing overflows. */
export function logSumExp(scores) {
  const most = Math.max(...scores);
  if (!Number.isFinite(most)) return most;
  return most + Math.log(scores.reduce((sum, x) => sum + Math.exp(x - most), 0));
}

const length = (vector) => Math.hypot(...vector);
const mean = (vector) => vector.reduce((sum, x) => sum + x, 0) / vector.length;

/**
 * Where rows of class scores lie on the curve of a loss of one right class, as a function of columns and classes: at the
 * margin of that class over all others, or where scores are log-probabilities at its own. Null: pairs have no one place.
 */
export function placeOf({ rows: { terms, softmax } }) {
  if (terms !== "class") return null;
  return (columns, classes) =>
    Float64Array.from(classes, ([right], row) => {
      const own = columns[right][row];
      return softmax ? own - logSumExp(columns.map((column) => column[row]).filter((_, k) => k !== right)) : own;
    });
}

/** The loss of a row under a chosen loss's parameters and switches. */
export function chosenRowLoss(card, chosen) {
  const variant = variantOf(card, chosen.switches);
  const formula = card.rows.formulas.find(({ switches }) =>
    Object.entries(switches).every(([name, on]) => variant.switches[name] === on),
  );
  return rowLoss(card, formula, Object.fromEntries(givenOf(card, chosen).map((g) => [g.name, g.value])));
}

/**
 * formula: one of card.rows.formulas; numbers: its parameters by name. Returns a function of scores and right classes that
 * returns { value, gradient, by }: the length of the gradient by the scores, and the gradient itself.
 */
export function rowLoss(card, formula, numbers) {
  const { spoken, loss } = TERMS[card.rows.terms];
  const unknown = formula.arguments.find((name) => !spoken.includes(name) && !(name in numbers));
  if (unknown) throw new Error(`${card.title} needs “${unknown}”, which the columns of a file do not give.`);
  const call = (f, statistics) => f(...formula.arguments.map((name) => statistics[name] ?? numbers[name]));
  return (scores, right) => loss(formula, call, scores, right, { ...card.rows, ...numbers });
}

const STATISTICS = ["log_probability", "log_sum_exp", "mean_log_probability"];

/** What a row's loss adds up: what the formula may speak of, and the sum. */
const TERMS = {
  class: { spoken: STATISTICS, loss: ofClasses },
  pairs: { spoken: ["difference"], loss: ofPairs },
};

function ofPairs(formula, call, scores, right) {
  const gradient = scores.map(() => 0);
  let value = 0;
  const others = scores.map((_, j) => j).filter((j) => !right.includes(j));
  for (const i of right) {
    for (const j of others) {
      const statistics = { difference: scores[i] - scores[j] };
      const slope = call(formula.gradients.difference, statistics) / scores.length;
      value += call(formula.value, statistics) / scores.length;
      gradient[i] += slope;
      gradient[j] -= slope;
    }
  }
  return { value, gradient: length(gradient), by: gradient };
}

/** Without softmax the scores are log-probabilities already. Under label smoothing every class is right by its share. */
function ofClasses(formula, call, scores, [right], { softmax, label_smoothing: smoothing = 0 }) {
  const total = logSumExp(scores);
  const logs = softmax ? scores.map((x) => x - total) : scores;
  const probabilities = softmax ? logs.map(Math.exp) : scores.map(() => 0);
  const row = { log_sum_exp: total, mean_log_probability: mean(logs) };
  const gradient = scores.map(() => 0);
  const even = 1 / scores.length;
  let value = 0;
  for (const c of smoothing ? scores.keys() : [right]) {
    const share = (c === right ? 1 - smoothing : 0) + smoothing * even;
    const statistics = { ...row, log_probability: logs[c] };
    const by = (name) => (formula.gradients[name] ? share * call(formula.gradients[name], statistics) : 0);
    const [own, sum, average] = STATISTICS.map(by);
    value += times(share, call(formula.value, statistics));
    for (let k = 0; k < scores.length; k++) {
      const p = probabilities[k];
      gradient[k] += own * ((k === c) - p) + sum * p + average * (even - p);
    }
  }
  return { value, gradient: length(gradient), by: gradient };
}
