/** Numbers of the chapters about scores: races, margins, temperature, smoothing, focus, rare classes. */

import { classification } from "../playground/classification.js";
import { OPTIMIZERS } from "../playground/optimizers.js";
import { Training } from "../playground/training.js";
import { sigmoid } from "../primitives.js";
import { alone, byLogit, card, ofRow, toTarget } from "./losses.js";

const HALVINGS = 80;

/** The place between a and b where a function that begins below 0 becomes 0 or more. */
export function crossing(f, a, b) {
  for (let i = 0; i < HALVINGS; i++) {
    const middle = (a + b) / 2;
    if (f(middle) < 0) a = middle;
    else b = middle;
  }
  return b;
}

/** Plain steps of one example's logit under a loss of its probability or logit; the right answer is yes. */
export function race(name, start, rate, steps) {
  const f = byLogit(name, 1);
  const logits = [start];
  for (let i = 0; i < steps; i++) logits.push(logits[i] - rate * f(logits[i]).slope);
  return logits;
}

/** The first step after which the right answer is more likely than not, or -1. */
export const passes = (logits) => logits.findIndex((z) => sigmoid(z) > 0.5);

/**
 * A line between two classes, trained from 0 by plain steps: by how much each point's right score leads, how hard it
 * pulls, and the difference of the scores as a function of the plane: f(x, y) = base + across x + up y.
 */
export function separate(name, points, steps, rate, numbers = {}) {
  const objective = classification(card(name), { given: numbers, switches: {} }, points, "line", 2);
  const training = new Training(objective, objective.start(), OPTIMIZERS.SGD(rate));
  for (let i = 0; i < steps; i++) training.advance();
  const all = Array.from(training.parameters);
  const [base, across, up] = all.length === 3 ? all : [0, 1, 2].map((k) => all[k + 3] - all[k]);
  const leads = points.map(({ x, y, label }) => (label === 1 ? 1 : -1) * (base + across * x + up * y));
  return { base, across, up, leads, pulls: objective.pulls.map((by) => Math.hypot(...by)), value: training.value };
}

/** Value and slope over the lead of the right score, whichever way a loss is told the right answer. */
export const ofLead = (name, numbers = {}) => {
  const asked = card(name).curve.given.some((known) => known.name === "target");
  return asked ? toTarget(name, numbers)(1) : alone(name, numbers);
};

/** The lead from which on a loss does not pull any more, or null where it always does. */
export function satisfied(name, numbers, far) {
  const { slope } = ofLead(name, numbers);
  return slope(far) === 0 ? crossing((lead) => (slope(lead) === 0 ? 1 : -1), -far, far) : null;
}

/** The gradient by each similarity, the first of which is the right one, at a temperature. */
export const attention = (similarities, temperature) =>
  ofRow("cross_entropy")(
    similarities.map((one) => one / temperature),
    [0],
  ).by.map((one) => one / temperature);

/** Cross entropy of the lead of the right score over `classes` - 1 others, with smoothing: { value, slope }. */
export function smoothed(classes, smoothing) {
  const row = ofRow("cross_entropy", { label_smoothing: smoothing });
  const scores = (lead) => [lead, ...Array(classes - 1).fill(0)];
  return {
    value: (lead) => row(scores(lead), [0]).value,
    slope: (lead) => row(scores(lead), [0]).by[0],
  };
}

/** The lead at which the smoothed loss rests, or Infinity. */
export const restingLead = (classes, smoothing, far) =>
  smoothing === 0 ? Infinity : crossing(smoothed(classes, smoothing).slope, -far, far);

/** The size of the slope of focal loss by the lead of the right score. */
export const focused = (gamma) => {
  const { slope } = alone("softmax_focal_loss", { gamma });
  return (lead) => Math.abs(slope(lead));
};

/** What is done about a rare class: pulls at one score that all examples share, of the rare and of the common ones. */
export const WAYS = {
  nothing: ({ rare }) => pullsOf(rare, 1, 0),
  weight: ({ rare, weight }) => pullsOf(rare, weight, 0),
  adjustment: ({ rare }) => pullsOf(rare, 1, Math.log(rare / (1 - rare))),
};

function pullsOf(rare, weight, shift) {
  const name = "binary_cross_entropy_with_logits";
  const bind = toTarget(name, { pos_weight: weight }, { pos_weight: weight !== 1 });
  const [yes, no] = [bind(1), bind(0)];
  return {
    value: (z) => rare * yes.value(z + shift) + (1 - rare) * no.value(z + shift),
    rare: (z) => rare * yes.slope(z + shift),
    common: (z) => (1 - rare) * no.slope(z + shift),
  };
}
