/** The page's numbers are Python's: every loss, every setting of its switches, many parameters and points. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { cards } from "../generated/catalogue.js";
import { bound, over, variantOf } from "../src/formulas.js";
import * as lk from "../src/primitives.js";

const script = fileURLToPath(new URL("numbers.py", import.meta.url));
const python = execFileSync(process.env.PYTHON ?? "python3", [script], { maxBuffer: 1 << 28, encoding: "utf8" });
const expected = JSON.parse(python);
const float = (x) => (typeof x === "number" ? x : { inf: Infinity, "-inf": -Infinity, nan: NaN }[x]);

/** The difference, relative, or absolute where the numbers are near 0. */
function difference(found, wanted) {
  if (Object.is(found, wanted) || found === wanted || (Number.isNaN(found) && Number.isNaN(wanted))) return 0;
  const apart = Math.abs(found - wanted);
  return Number.isNaN(apart) ? Infinity : apart / Math.max(Math.abs(wanted), 0.01);
}

test("every loss, switch and derivative equals Python's to 1e-12", (t) => {
  let worst = 0;
  let count = 0;
  for (const { name, switches, rows } of expected.losses) {
    const card = cards.find((known) => known.name === name);
    assert.deepEqual(variantOf(card, switches).switches, switches);
    for (const { given, x, numbers } of rows) {
      const chosen = {
        name,
        switches,
        given: Object.fromEntries(Object.entries(given).map(([k, v]) => [k, float(v)])),
      };
      const functions = bound(card, chosen);
      for (const [i, key] of ["value", "slope", "curvature"].entries()) {
        const found = functions[key](float(x));
        const apart = difference(found, float(numbers[i]));
        const where = `${name} ${JSON.stringify({ switches, given, x })}: ${key} is ${found}, Python has ${numbers[i]}`;
        assert.ok(apart <= 1e-12, where);
        worst = Math.max(worst, apart);
        count++;
      }
    }
  }
  assert.equal(new Set(expected.losses.map((loss) => loss.name)).size, cards.length);
  t.diagnostic(`${count} numbers, largest difference ${worst.toExponential(2)}`);
});

test("primitives equal Python's", (t) => {
  const worst = {};
  for (const { name, xs, result } of expected.primitives) {
    const found = lk[name](...xs.map(float));
    const apart = difference(found, float(result));
    assert.ok(apart <= 1e-12, `${name}(${xs}) is ${found}, Python has ${result}`);
    worst[name] = Math.max(worst[name] ?? 0, apart);
  }
  for (const [name, x] of Object.entries(worst)) t.diagnostic(`${name} ${x.toExponential(1)}`);
});

test("NaN in gives NaN out", () => {
  const own = [lk.erf, lk.erfc, lk.expm1m, lk.minus_log1p, lk.log1mexp, lk.stop, lk.lgamma, lk.digamma, lk.trigamma];
  for (const f of [lk.softplus, lk.sigmoid, lk.log_sigmoid, ...own]) assert.ok(Number.isNaN(f(NaN)), f.name);
  for (const f of [lk.times, lk.xlogy, lk.logaddexp]) assert.ok(Number.isNaN(f(NaN, 0.5)) && Number.isNaN(f(0.5, NaN)));
});

test("derivatives by an axis are those of differences", () => {
  const step = 1e-4;
  const stopped = (card) => String(variantOf(card, {}).bind).includes("lk.stop("); // constants for differentiation
  for (const card of cards.filter((known) => !stopped(known))) {
    for (const axis of ["own", "probability", "logit"]) {
      const f = over(card, { name: card.name, given: {}, switches: {} }, axis, "axis");
      if (!f) {
        assert.ok(!["prediction", "logit", "probability", "log_probability"].includes(card.curve.kind), card.name);
        continue;
      }
      for (const x of axis === "own" ? [card.curve.low * 0.43 + card.curve.high * 0.57] : [0.23, 0.61, 0.87]) {
        const [a, b, c] = [x - step, x, x + step].map((at) => f(at));
        const where = `${card.name} over ${axis} at ${x}`;
        const near = (found, wanted, name) =>
          assert.ok(Math.abs(found - wanted) <= 1e-4 * (1 + Math.abs(wanted)), `${where}: ${name} ${found}, ${wanted}`);
        near(b.slope, (c.value - a.value) / (2 * step), "slope");
        near(b.curvature, (c.slope - a.slope) / (2 * step), "curvature");
      }
    }
  }
});

test("derivatives by the own variable are the loss's own on every axis", () => {
  const card = cards.find((known) => known.name === "binary_cross_entropy");
  const chosen = { name: card.name, given: { target: 0 }, switches: {} };
  const at = over(card, chosen, "logit", "own")(2);
  const own = bound(card, chosen);
  assert.equal(at.own, lk.sigmoid(2));
  assert.equal(at.slope, own.slope(at.own));
  assert.equal(at.curvature, own.curvature(at.own));
});

test("a variable does not exist outside its kind", () => {
  const card = cards.find((known) => known.name === "hinge_embedding_loss");
  assert.ok(Number.isNaN(over(card, { name: card.name, given: {}, switches: {} }, "own", "axis")(-1).slope));
});
