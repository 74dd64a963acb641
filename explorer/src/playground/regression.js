/** Points in the plane, and a model that predicts y, and what else a loss asks for, from x. */

import { includes, must } from "../domains.js";
import { elementLoss } from "./elements.js";
import { model } from "./models.js";

/** What y a variable predicts: itself, or its exponential where that is the target which pulls no more. */
function meaning({ at, heads }) {
  const operands = heads.map(({ link }) => link.of(1));
  operands[0] = 0.7;
  const pull = (target) => {
    const by = [];
    at(operands, target, by);
    return Math.abs(by[0]);
  };
  return pull(Math.exp(0.7)) < 1e-9 && pull(0.7) > 1e-9 ? Math.exp : same;
}

const same = (x) => x;

/** What stands beside a prediction and is a spread around it. */
const SPREADS = { var: Math.sqrt, scale: same };

/**
 * points: { x, y }, which may change between two evaluations. After each, `pulls` holds the derivative of the loss by
 * each point's prediction.
 */
export function regression(card, chosen, points, name) {
  const loss = elementLoss(card, chosen);
  const { heads, at, target } = loss;
  const net = model(name, 1, heads.length);
  const [raw, operands, by] = [0, 1, 2].map(() => new Float64Array(heads.length));
  const predicted = meaning(loss);
  const spread = heads.findIndex((head) => Object.hasOwn(SPREADS, head.name));
  const pulls = [];

  const forward = (parameters, x) => {
    net.forward(parameters, [x], raw);
    for (let k = 0; k < heads.length; k++) operands[k] = heads[k].link.of(raw[k]);
  };
  return {
    described: { model: name, inputs: 1, heads: heads.map(({ name: operand, link }) => ({ operand, ...link })) },
    pulls,
    start: net.start,
    /** A sentence about the first point that the library would refuse, or null. */
    refusal() {
      const wrong = points.find(({ y }) => !includes(target, y));
      return wrong ? `${card.name}: ${must("target", target, wrong.y)}` : null;
    },
    evaluate(parameters, gradient) {
      let sum = 0;
      pulls.length = points.length;
      for (const [i, { x, y }] of points.entries()) {
        forward(parameters, x);
        sum += at(operands, y, by) / points.length;
        for (let k = 0; k < heads.length; k++) by[k] *= heads[k].link.slope(raw[k]) / points.length;
        pulls[i] = by[0];
        net.backward(parameters, by, gradient);
      }
      return sum;
    },
    /** The prediction at x, and its spread where the loss has one. */
    fit(parameters, x) {
      forward(parameters, x);
      return {
        y: predicted(operands[0]),
        spread: spread > 0 ? SPREADS[heads[spread].name](operands[spread]) : null,
      };
    },
  };
}
