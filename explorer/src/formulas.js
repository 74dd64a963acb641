/**
 * Losses as functions of one number, laid over an axis.
 *
 * 1. Each loss has a variable of its own, of one of seven kinds. An axis says what a kind is at a point x: the
 *    variable v(x) and its two derivatives, from which the chain rule makes gradient and curvature by the axis.
 * 2. Over its own variable a loss exists only where that variable does: no distance below 0, no rate below 0.
 * 3. Where the value is NaN, so are the derivatives, although their formulas may give numbers there.
 */

import { domainOf, includes, must } from "./domains.js";
import { log_sigmoid, sigmoid } from "./primitives.js";

const within = (description, low, high) => ({ description, low, high, choices: [] });

/** What variables are called, where they exist, and what a file must say that has one. */
export const KINDS = {
  prediction: { label: "prediction", low: -Infinity, high: Infinity },
  logit: { label: "logit", low: -Infinity, high: Infinity },
  probability: { label: "probability", low: 0, high: 1, domain: within("a probability, in [0, 1]", 0, 1) },
  log_probability: {
    label: "log-probability",
    low: -Infinity,
    high: 0,
    domain: within("a log-probability, at most 0", null, 0),
  },
  distance: { label: "distance", low: 0, high: Infinity, domain: within("a distance, at least 0", 0, null) },
  cosine: { label: "cosine", low: -1, high: 1, domain: within("a cosine, in [-1, 1]", -1, 1) },
  difference: { label: "difference", low: -Infinity, high: Infinity },
};

const same = { v: (x) => x, d: () => 1, dd: () => 0 };
const squashed = {
  v: sigmoid,
  d: (z) => sigmoid(z) * sigmoid(-z),
  dd: (z) => sigmoid(z) * sigmoid(-z) * (sigmoid(-z) - sigmoid(z)),
};

/** Axes: `ways` has what each kind of variable is there; kinds that are missing cannot be drawn. */
export const AXES = {
  own: { label: "own variable", symbol: "x", ways: Object.fromEntries(Object.keys(KINDS).map((kind) => [kind, same])) },
  probability: {
    label: "probability p",
    symbol: "p",
    low: 0,
    high: 1,
    ways: {
      prediction: same,
      probability: same,
      logit: {
        v: (p) => Math.log(p) - Math.log1p(-p),
        d: (p) => 1 / (p * (1 - p)),
        dd: (p) => (2 * p - 1) / (p * (1 - p)) ** 2,
      },
      log_probability: { v: Math.log, d: (p) => 1 / p, dd: (p) => -1 / (p * p) },
    },
  },
  logit: {
    label: "logit z",
    symbol: "z",
    low: -6,
    high: 6,
    ways: {
      prediction: squashed,
      probability: squashed,
      logit: same,
      log_probability: { v: log_sigmoid, d: (z) => sigmoid(-z), dd: (z) => -sigmoid(z) * sigmoid(-z) },
    },
  },
};

const NOWHERE = { own: NaN, value: NaN, slope: NaN, curvature: NaN };

/** The variant of a loss under its switches. */
export function variantOf(card, switches) {
  const on = (name) => switches[name] ?? card.switches.find((known) => known.name === name).value;
  return card.curve.variants.find((variant) => Object.entries(variant.switches).every(([name, x]) => on(name) === x));
}

/** What is given, by name, at its value in a chosen loss and with its domain: only what the variant uses. */
export function givenOf(card, chosen) {
  const variant = variantOf(card, chosen.switches);
  const used = new Set(variant.given);
  return card.curve.given
    .filter((g) => used.has(g.name))
    .map((g) => ({ ...g, value: chosen.given[g.name] ?? g.value, domain: domainOf(card, variant, g.name) }));
}

/** Takes out of a chosen loss what the library would refuse; a sentence, without its end, for each. */
export function settle(card, chosen) {
  const variant = variantOf(card, chosen.switches);
  const refused = Object.entries(chosen.given).filter(([name, x]) => !includes(domainOf(card, variant, name), x));
  return refused.map(([name, x]) => {
    delete chosen.given[name];
    return `${card.name}: ${must(name, domainOf(card, variant, name), x)}`;
  });
}

/** Value, slope and curvature of a chosen loss as functions of its own variable. */
export function bound(card, chosen) {
  const variant = variantOf(card, chosen.switches);
  const values = Object.fromEntries(givenOf(card, chosen).map((g) => [g.name, g.value]));
  return variant.bind(...variant.given.map((name) => values[name]));
}

/**
 * A chosen loss as a function of the axis, or null where its kind of variable cannot be drawn.
 * by "axis": derivatives by the axis; by "own": derivatives by the loss's own variable.
 */
export function over(card, chosen, axis, by) {
  const { kind, variable } = card.curve;
  const way = AXES[axis].ways[kind];
  if (!way) return null;
  const { low, high } = KINDS[kind];
  const domain = variantOf(card, chosen.switches).domains[variable];
  const { value, slope, curvature } = bound(card, chosen);
  const chain = way !== same && by === "axis";
  return (x) => {
    const own = way.v(x);
    if (!(own >= low && own <= high && includes(domain, own))) return NOWHERE;
    const result = { own, value: value(own), slope: slope(own), curvature: curvature(own) };
    if (Number.isNaN(result.value)) return NOWHERE;
    if (chain) {
      const d = way.d(x);
      result.curvature = result.curvature * d * d + result.slope * way.dd(x);
      result.slope *= d;
    }
    return result;
  };
}

/** Value, slope and curvature at many points; null, a gap, where there is no finite number. */
export function sample(f, xs) {
  const finite = (x) => (Number.isFinite(x) ? x : null);
  const result = { value: [], slope: [], curvature: [] };
  for (const x of xs) {
    const at = f(x);
    result.value.push(finite(at.value));
    result.slope.push(finite(at.slope));
    result.curvature.push(finite(at.curvature));
  }
  return result;
}

/** The part of an axis that shows all of these losses. */
export function limits(cards, axis) {
  if (axis !== "own") return [AXES[axis].low, AXES[axis].high];
  if (!cards.length) return [-4, 4];
  return [Math.min(...cards.map((c) => c.curve.low)), Math.max(...cards.map((c) => c.curve.high))];
}

/** n points from low to high, both included. */
export const points = (low, high, n) => Array.from({ length: n }, (_, i) => low + ((high - low) * i) / (n - 1));

/** A number as people read it: six digits. */
export function show(x) {
  if (Number.isNaN(x)) return "not defined";
  if (!Number.isFinite(x)) return x > 0 ? "∞" : "−∞";
  const a = Math.abs(x);
  const text = a !== 0 && (a < 1e-4 || a >= 1e7) ? (+x.toPrecision(5)).toExponential() : String(+x.toPrecision(6));
  return text.replace("-", "−").replace("e−", "e-").replace("e+", "e");
}

/** A chosen loss with what is given and the switches that were turned: HuberLoss(target=0, delta=1). */
export function nameOf(card, chosen, without = []) {
  const given = givenOf(card, chosen).filter((g) => !without.includes(g.name));
  const turned = Object.entries(chosen.switches).filter(([name]) => !given.some((g) => g.name === name));
  const all = [...given.map((g) => `${g.name}=${show(g.value)}`), ...turned.map(([name, on]) => `${name}=${on}`)];
  return all.length ? `${card.title}(${all.join(", ")})` : card.title;
}
