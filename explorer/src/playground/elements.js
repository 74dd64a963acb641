/**
 * A loss of single numbers, as a card has it: its value and its derivative by every operand that a model can predict.
 *
 * 1. What a model predicts is any number. An operand that the library takes only within limits is made from it: above
 *    a limit by softplus, between two by the sigmoid.
 * 2. An operand that only ever makes the loss smaller (the scale of MASELoss) is no prediction: a model would drive it
 *    to infinity. It keeps the value that the page gives it.
 */

import { domainOf } from "../domains.js";
import { givenOf, variantOf } from "../formulas.js";
import { sigmoid, softplus } from "../primitives.js";

const same = { name: "same", low: 0, of: (z) => z, slope: () => 1 };

/** How a model's output becomes an operand of this domain. */
export function linkOf(domain) {
  const { low = null, high = null } = domain ?? {};
  if (low !== null && high !== null) {
    const width = high - low;
    return {
      name: "sigmoid",
      low,
      width,
      of: (z) => low + width * sigmoid(z),
      slope: (z) => width * sigmoid(z) * sigmoid(-z),
    };
  }
  return low === null ? same : { name: "softplus", low, of: (z) => low + softplus(z), slope: sigmoid };
}

/** Numbers at which it is asked whether an operand has a best value. */
const PROBES = [0.02, 0.1, 0.5, 2, 10, 50];

/** Whether the derivative by an operand changes its sign: whether it can be learned. */
function learns(variant, numbers, operand, base) {
  const { given, bind } = variant;
  const slopes = PROBES.map((x) =>
    bind(...given.map((name) => (name === operand ? base + x : name === "target" ? 1 : numbers[name]))).by[operand](2),
  );
  return slopes.some((x) => x < 0) && slopes.some((x) => x > 0);
}

/** The operands that a model predicts under a chosen loss, the variable first. */
function headsOf(card, chosen, numbers) {
  const variant = variantOf(card, chosen.switches);
  const names = card.learned.filter((name) => {
    if (name === card.curve.variable) return true;
    return variant.given.includes(name) && learns(variant, numbers, name, domainOf(card, variant, name)?.low ?? 0);
  });
  return names.map((name) => ({ name, link: linkOf(domainOf(card, variant, name)) }));
}

/**
 * { heads, target, at }: `heads` are the operands that are predicted, `target` the domain of the target, and
 * at(operands, target, gradients) returns the loss and fills its derivatives by the operands.
 */
export function elementLoss(card, chosen) {
  const variant = variantOf(card, chosen.switches);
  const numbers = Object.fromEntries(givenOf(card, chosen).map((g) => [g.name, g.value]));
  const heads = headsOf(card, chosen, numbers);
  const given = variant.given.map((name) => numbers[name]);
  const places = heads.map(({ name }) => variant.given.indexOf(name));
  const target = variant.given.indexOf("target");
  const at = (operands, t, gradients) => {
    given[target] = t;
    for (let k = 1; k < heads.length; k++) given[places[k]] = operands[k];
    const bound = variant.bind(...given);
    gradients[0] = bound.slope(operands[0]);
    for (let k = 1; k < heads.length; k++) gradients[k] = bound.by[heads[k].name](operands[0]);
    return bound.value(operands[0]);
  };
  return { heads, at, target: domainOf(card, variant, "target") };
}
