/** Points that are parameters themselves: a loss of embeddings moves them. */

import { givenOf, variantOf } from "../formulas.js";
import { batchLoss } from "./batches.js";
import { SPACES } from "./space.js";
import { tuplesLoss } from "./tuples.js";

/** points: { x, y, label }, where they start. After an evaluation `pulls` holds the derivatives by each place. */
export function embeddings(card, chosen, points, space, seed) {
  const { size, of, place, along, back } = SPACES[space];
  const labels = points.map(({ label }) => label);
  const variant = variantOf(card, chosen.switches);
  const formula = card.functions.find(({ switches }) =>
    Object.entries(switches).every(([name, on]) => variant.switches[name] === on),
  );
  const numbers = Object.fromEntries(givenOf(card, chosen).map((g) => [g.name, g.value]));
  const { loss, described } = (card.pairs ? batchLoss : tuplesLoss)(card, formula, numbers, labels, seed);
  const pulls = [];
  const placesOf = (parameters) => labels.map((_, i) => place(parameters, i));
  return {
    described: { space, ...described },
    pulls,
    start: () => Float64Array.from(points.flatMap(of)),
    evaluate(parameters, gradient) {
      const by = labels.map(() => [0, 0]);
      const value = loss(placesOf(parameters), by);
      pulls.length = labels.length;
      for (let i = 0; i < labels.length; i++) {
        pulls[i] = along(parameters, i, by[i]);
        back(parameters, i, by[i], gradient);
      }
      return value;
    },
    places: (parameters) => placesOf(parameters).map(([x, y], i) => ({ x, y, label: labels[i] })),
    /** Puts a point somewhere else. */
    move(parameters, i, at) {
      parameters.set(of(at), size * i);
    },
  };
}
