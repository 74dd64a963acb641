/** The losses of the article as functions, with the parameters that their cards say unless others are given. */

import { cards } from "../../generated/article.js";
import { chosenRowLoss } from "../classes.js";
import { over, show, variantOf } from "../formulas.js";

export const card = (name) => cards.find((known) => known.name === name);
export const titleOf = (name) => card(name).title;

/** What is given of a loss beside its variable: its usual value, the range worth looking at, what it means. */
export const given = (name, parameter) => card(name).curve.given.find((known) => known.name === parameter);

/** The parameter by which a loss of residuals is tuned, or undefined: Huber's delta, the scale of Cauchy's. */
export const tuned = (name) => card(name).curve.given.find((known) => known.name !== "target");

/** A function that binds a loss to a target: { value, slope, curvature } of the prediction. */
export function toTarget(name, numbers = {}, switches = {}) {
  const variant = variantOf(card(name), switches);
  const values = variant.given.map((known) => numbers[known] ?? given(name, known).value);
  const place = variant.given.indexOf("target");
  return (target) => {
    values[place] = target;
    return variant.bind(...values);
  };
}

/** A loss without a target: of a margin, or of one score more than another. */
export function alone(name, numbers = {}) {
  const variant = variantOf(card(name), {});
  return variant.bind(...variant.given.map((known) => numbers[known] ?? given(name, known).value));
}

/** A loss as a spring to each of these targets. */
export const springs = (name, targets, numbers) => targets.map(toTarget(name, numbers));

/** Value and slope over the logit, by the chain rule where a loss speaks of the probability. */
export const byLogit = (name, target) => over(card(name), { given: { target }, switches: {} }, "logit", "axis");

/** The loss of a row of scores with its gradient by the scores. */
export const ofRow = (name, numbers = {}) => chosenRowLoss(card(name), { given: numbers, switches: {} });

/** A number in running text, with three digits. */
export const say = (x) => show(Number.isFinite(x) ? Number(x.toPrecision(3)) : x);

/** A share in running text. */
export function percent(share) {
  const size = 100 * share;
  if (size > 0 && size < 0.001) return "almost nothing";
  return `${say(size < 10 ? Number(size.toPrecision(2)) : Math.round(size))}\u00a0%`;
}

export const mean = (list) => list.reduce((sum, x) => sum + x, 0) / list.length;
