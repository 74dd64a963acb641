/** Which losses a mode offers: what their cards say they speak of decides, no list. */

import { domainOf } from "../domains.js";
import { variantOf } from "../formulas.js";

const targetOf = (card) => domainOf(card, variantOf(card, {}), "target");
const bounded = (domain) => Boolean(domain) && domain.low !== null && domain.high !== null;
const labels = (domain) => Boolean(domain) && (domain.choices.length > 0 || bounded(domain));

/** Losses of a prediction of y, whatever else they learn beside it. */
export const ofNumbers = (card) => card.learned !== null && card.curve.kind === "prediction" && !labels(targetOf(card));

export const offered = (cards, fits) => cards.filter(fits);
