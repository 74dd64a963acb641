/** Which losses a mode offers: what their cards say they speak of decides, no list. */

import { domainOf } from "../domains.js";
import { variantOf } from "../formulas.js";
import { isOfPairs, isOfTriplets } from "./tuples.js";

const targetOf = (card) => domainOf(card, variantOf(card, {}), "target");
const bounded = (domain) => Boolean(domain) && domain.low !== null && domain.high !== null;
const labels = (domain) => Boolean(domain) && (domain.choices.length > 0 || bounded(domain));

/** Losses of a prediction of y, whatever else they learn beside it. */
export const ofNumbers = (card) => card.learned !== null && card.curve.kind === "prediction" && !labels(targetOf(card));

/** Losses of a row of class scores, and of one score and whether it is right. */
export function ofClasses(card) {
  const { kind } = card.curve;
  if (card.rows) return kind === "logit" && !card.rows.several;
  const single = card.learned?.length === 1 && labels(targetOf(card));
  return Boolean(single) && (kind === "logit" || kind === "probability");
}

/** Losses of what is measured between embeddings: of two, of three, or of all pairs of a batch. */
export const ofEmbeddings = (card) =>
  card.functions !== null && (card.pairs !== null || isOfPairs(card) || isOfTriplets(card));

export const offered = (cards, fits) => cards.filter(fits);
