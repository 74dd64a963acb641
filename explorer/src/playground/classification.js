/**
 * Points of classes in the plane, and a model that gives scores to each place.
 *
 * A loss of class scores has a score for each class. A loss of one score and a yes or no has one score for two classes,
 * and for three of them one each, every class against the others.
 */

import { chosenRowLoss } from "../classes.js";
import { sigmoid } from "../primitives.js";
import { elementLoss } from "./elements.js";
import { model } from "./models.js";

/** How many scores a place has, and the loss of a point: at(scores, label, by) fills the derivatives by the scores. */
function ofRows(card, chosen, classes) {
  const loss = chosenRowLoss(card, chosen);
  const at = (scores, label, by) => {
    const found = loss(Array.from(scores), [label]);
    by.set(found.by);
    return found.value;
  };
  return { outputs: classes, at, described: { rows: true } };
}

function ofAnswers(card, chosen, classes) {
  const { heads, at: one, target } = elementLoss(card, chosen);
  const outputs = classes === 2 ? 1 : classes;
  const no = target.choices.length ? Math.min(...target.choices) : 0;
  const slope = [0];
  const at = (scores, label, by) => {
    let sum = 0;
    for (let k = 0; k < outputs; k++) {
      const right = outputs === 1 ? label === 1 : label === k;
      sum += one([heads[0].link.of(scores[k])], right ? 1 : no, slope) / outputs;
      by[k] = (slope[0] * heads[0].link.slope(scores[k])) / outputs;
    }
    return sum;
  };
  const { name, low, width } = heads[0].link;
  return { outputs, at, described: { rows: false, no, heads: [{ operand: heads[0].name, name, low, width }] } };
}

/** The probabilities that the scores of a place are read as. */
function probabilities(scores, rows) {
  if (!rows && scores.length === 1) return [sigmoid(-scores[0]), sigmoid(scores[0])];
  const most = Math.max(...scores);
  const sizes = Array.from(scores, (z) => (rows ? Math.exp(z - most) : sigmoid(z)));
  const sum = sizes.reduce((a, b) => a + b);
  return sizes.map((x) => x / sum);
}

/** points: { x, y, label }. After an evaluation `pulls` holds each point's derivatives by its scores. */
export function classification(card, chosen, points, name, classes) {
  const { outputs, at, described } = (card.rows ? ofRows : ofAnswers)(card, chosen, classes);
  const net = model(name, 2, outputs);
  const scores = new Float64Array(outputs);
  const by = new Float64Array(outputs);
  const pulls = [];
  return {
    described: { model: name, inputs: 2, outputs, ...described },
    pulls,
    start: net.start,
    evaluate(parameters, gradient) {
      let sum = 0;
      pulls.length = points.length;
      for (const [i, { x, y, label }] of points.entries()) {
        net.forward(parameters, [x, y], scores);
        sum += at(scores, label, by) / points.length;
        for (let k = 0; k < outputs; k++) by[k] /= points.length;
        pulls[i] = Array.from(by);
        net.backward(parameters, by, gradient);
      }
      return sum;
    },
    /** What the model says of a place: a probability for each class. */
    belief(parameters, x, y) {
      net.forward(parameters, [x, y], scores);
      return probabilities(scores, described.rows);
    },
  };
}
