/** Losses of two or three embeddings: of every pair of points, or of an anchor, one like it and one unlike it. */

import { random } from "./random.js";
import { cosine, distance } from "./space.js";

/** More triplets than this are drawn by chance, so that a step stays short. */
const MOST = 600;

/** What a formula may speak of, but its parameters; "input" is a distance that the caller measures. */
const OF_PAIRS = ["cosine", "cosine_distance", "distance", "input", "target"];
const OF_TRIPLETS = ["positive_distance", "negative_distance"];

const spoken = (card) => card.functions[0].arguments.filter((name) => !card.parameters.includes(name));
const within = (card, names) => card.pairs === null && spoken(card).every((name) => names.includes(name));

/** Whether a card's formula is of pairs, or of triplets. */
export const isOfPairs = (card) => spoken(card).includes("target") && within(card, OF_PAIRS);
export const isOfTriplets = (card) => within(card, OF_TRIPLETS);

const pairsOf = (labels) => labels.flatMap((_, i) => labels.slice(0, i).map((_, j) => [j, i]));

/** All triplets, or some by chance. */
export function tripletsOf(labels, seed) {
  const all = [];
  for (const [a, own] of labels.entries())
    for (const [p, other] of labels.entries())
      if (p !== a && other === own) for (const [n, label] of labels.entries()) if (label !== own) all.push([a, p, n]);
  const chance = random(seed);
  for (let i = 0; i < Math.min(MOST, all.length - 1); i++) {
    const j = i + Math.floor(chance.uniform() * (all.length - i));
    if (all.length > MOST) [all[i], all[j]] = [all[j], all[i]];
  }
  return all.slice(0, MOST);
}

/** The mean over tuples of places: adds to `by` the derivatives by each place, and returns the loss. */
export function tuplesLoss(card, formula, numbers, labels, seed) {
  const triple = isOfTriplets(card);
  const tuples = triple ? tripletsOf(labels, seed) : pairsOf(labels);
  const eps = card.constants.eps ?? 0;
  const measured = Object.keys(formula.gradients);
  const measures = {
    cosine: (a, b) => cosine(a, b),
    cosine_distance(a, b) {
      const { value, first, second } = cosine(a, b);
      return { value: 1 - value, first: first.map((x) => -x), second: second.map((x) => -x) };
    },
    distance: (a, b) => distance(a, b, eps),
    input: (a, b) => distance(a, b),
    positive_distance: (a, b) => distance(a, b, eps),
    negative_distance: (a, _, c) => distance(a, c, eps),
  };
  const described = { tuples, measured };
  const loss = (places, by) => {
    let sum = 0;
    for (const [a, b, c] of tuples) {
      const speaks = { ...numbers, target: labels[a] === labels[b] ? 1 : -1 };
      const found = measured.map((name) => measures[name](places[a], places[b], places[c]));
      for (const [k, name] of measured.entries()) speaks[name] = found[k].value;
      const given = formula.arguments.map((name) => speaks[name]);
      sum += formula.value(...given) / tuples.length;
      for (const [k, name] of measured.entries()) {
        const slope = formula.gradients[name](...given) / tuples.length;
        const other = name === OF_TRIPLETS[1] ? c : b;
        for (const axis of [0, 1]) {
          by[a][axis] += slope * found[k].first[axis];
          by[other][axis] += slope * found[k].second[axis];
        }
      }
    }
    return sum;
  };
  return { loss, described };
}
