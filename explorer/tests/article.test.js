/** The article without a browser: what its figures compute, compared with what is computed here, another way. */

import assert from "node:assert/strict";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { test } from "node:test";
import { cards as all } from "../generated/catalogue.js";
import { bound } from "../src/formulas.js";
import { breaks, epsilon, FORMATS, SPELLINGS, step } from "../src/article/arithmetic.js";
import { drawn, estimates, mixed, squaredError } from "../src/article/cost.js";
import { alone, byLogit, given, springs, toTarget } from "../src/article/losses.js";
import { LOSSES } from "../src/article/names.js";
import { average, mode, quantile } from "../src/article/places.js";
import { deepest, energy, pull, rest, valleys } from "../src/article/rest.js";
import * as scores from "../src/article/scores.js";
import { random } from "../src/playground/random.js";

const read = (path) => readFileSync(new URL(path, import.meta.url), "utf8");
const near = (found, wanted, tolerance = 1e-9) =>
  assert.ok(Math.abs(found - wanted) <= tolerance * (1 + Math.abs(wanted)), `${found} instead of ${wanted}`);
const sigmoid = (z) => 1 / (1 + Math.exp(-z));

/** Samples of 2 to 11 points, some of them with points that are equal. */
const samples = Array.from({ length: 40 }, (_, i) => {
  const chance = random(100 + i);
  const points = Array.from({ length: 2 + (i % 10) }, () => 3 * chance.normal());
  return i % 4 ? points : [...points, points[0], points[0]];
});

const STARTS = [-20, -1, 0.3, 20];

test("the loss of the script is the loss of the catalogue, at every parameter", () => {
  for (const name of LOSSES) {
    const card = all.find((known) => known.name === name);
    const usual = bound(card, { given: {}, switches: {} });
    const found = alone(name);
    for (const x of [-2.3, -0.4, 0.2, 0.9]) {
      assert.equal(found.value(x), usual.value(x), name);
      assert.equal(found.slope(x), usual.slope(x), name);
    }
  }
});

test("a pull is the derivative of the energy", () => {
  const points = samples[7];
  for (const name of [
    "mse_loss",
    "l1_loss",
    "pinball_loss",
    "huber_loss",
    "welsch_loss",
    "cauchy_loss",
    "geman_mcclure_loss",
  ]) {
    const tied = springs(name, points);
    for (const x of [-2.1, 0.123, 1.7]) {
      const h = 1e-5;
      near(pull(tied, x), (energy(tied, x + h) - energy(tied, x - h)) / (2 * h), 1e-7);
    }
  }
});

test("MSE rests at the mean, from every start", () => {
  for (const points of samples) {
    const mean = points.reduce((a, b) => a + b) / points.length;
    near(average(points), mean, 1e-14);
    for (const start of STARTS) near(rest(springs("mse_loss", points), points, start).x, mean, 1e-9);
  }
});

test("Huber rests at the mean of the points, of which the far ones are drawn in to delta", () => {
  for (const points of samples) {
    for (const delta of [0.1, 1, 5]) {
      const { x } = rest(springs("huber_loss", points, { delta }), points, 20);
      near(average(points.map((p) => x + Math.min(Math.max(p - x, -delta), delta))), x, 1e-9);
    }
  }
});

/** The share of points below x, and at or below it. */
const below = (points, x) => [points.filter((p) => p < x).length, points.filter((p) => p <= x).length];

test("L1 rests at the median: as many points on one side as on the other", () => {
  for (const points of samples) {
    const sorted = [...points].sort((a, b) => a - b);
    const middle = (sorted.length - 1) / 2;
    const [low, high] = [sorted[Math.floor(middle)], sorted[Math.ceil(middle)]];
    assert.deepEqual(quantile(points, 0.5), [low, high]);
    for (const start of STARTS) {
      const { x, from, to } = rest(springs("l1_loss", points), points, start);
      assert.deepEqual([from, to], [low, high], `from ${start}`);
      assert.ok(x >= low && x <= high);
    }
  }
});

test("pinball rests at the quantile: a share q of the points lies below", () => {
  for (const points of samples) {
    for (const q of [0.02, 0.1, 0.25, 0.37, 0.5, 0.8, 0.98]) {
      const [low, high] = quantile(points, q);
      for (const x of [low, high]) {
        const [less, most] = below(points, x);
        assert.ok(less <= q * points.length + 1e-9 && most >= q * points.length - 1e-9, `${x} is no quantile ${q}`);
      }
      for (const start of STARTS) {
        const { from, to } = rest(springs("pinball_loss", points, { quantile: q }), points, start);
        assert.deepEqual([from, to], [low, high], `quantile ${q} of ${points}`);
      }
    }
  }
});

test("Welsch rests at the mode of the points, blurred by its scale", () => {
  for (const points of samples) {
    for (const scale of [0.5, 1, 2]) {
      const found = deepest(springs("welsch_loss", points, { scale }), points).x;
      const height = (x) => points.reduce((sum, p) => sum + Math.exp(-0.5 * ((x - p) / scale) ** 2), 0);
      const [low, high] = [Math.min(...points), Math.max(...points)];
      const grid = Array.from({ length: 20001 }, (_, i) => low + ((high - low) * i) / 20000);
      const top = Math.max(...grid.map(height));
      assert.ok(height(found) >= top * (1 - 1e-9), `${found} is no mode of ${points}`);
      near(height(mode(points, scale)), height(found), 1e-9);
    }
  }
});

test("a convex loss has one valley; one that gives way has several, and the start decides", () => {
  const heaps = [-2.1, -2, -1.8, -1.7, 1.9, 2, 2.3];
  for (const name of ["mse_loss", "huber_loss", "l1_loss"])
    assert.equal(valleys(springs(name, heaps), heaps).length, 1);
  for (const name of ["welsch_loss", "cauchy_loss", "geman_mcclure_loss"]) {
    const tied = springs(name, heaps, { scale: 0.5 });
    const found = valleys(tied, heaps);
    assert.equal(found.length, 2, name);
    for (const { x } of found) for (const side of [-1e-3, 1e-3]) assert.ok(energy(tied, x + side) > energy(tied, x));
    assert.ok(rest(tied, heaps, 3).x > 1.5 && rest(tied, heaps, -3).x < -1.5);
    assert.ok(deepest(tied, heaps).x < 0);
    assert.equal(valleys(springs(name, heaps, { scale: 8 }), heaps).length, 1);
  }
});

test("what one far point can do: MSE follows, Huber and L1 have a limit, Cauchy forgets", () => {
  const points = samples[9];
  const at = (name, x) => deepest(springs(name, [...points, x]), [...points, x]).x;
  const alone_ = (name) => deepest(springs(name, points), points).x;
  near(at("mse_loss", 1000) - at("mse_loss", 100), 900 / (points.length + 1), 1e-9);
  near(at("huber_loss", 1000), at("huber_loss", 100), 1e-9);
  assert.equal(at("l1_loss", 1000), at("l1_loss", 100));
  const far = Math.abs(at("cauchy_loss", 1e6) - alone_("cauchy_loss"));
  assert.ok(far < 1e-5 && far < Math.abs(at("cauchy_loss", 10) - alone_("cauchy_loss")));
  const slopes = (name) => [1, 10, 100].map((x) => toTarget(name)(0).slope(x));
  assert.deepEqual(slopes("mse_loss"), [2, 20, 200]);
  assert.deepEqual(
    slopes("huber_loss"),
    [1, 1, 1].map((x) => x * given("huber_loss", "delta").value),
  );
  assert.deepEqual(slopes("l1_loss"), [1, 1, 1]);
  assert.ok(slopes("cauchy_loss")[2] < slopes("cauchy_loss")[1]);
});

test("the premium of robustness is what statistics says, and it pays where points are wild", () => {
  const chosen = drawn({ seed: 1, samples: 400, size: 20, far: 8 });
  const error = (name, share) => squaredError(estimates(name, mixed(chosen, share)));
  const clean = mixed(chosen, 0);
  near(error("mse_loss", 0), squaredError(clean.map(average)), 1e-9);
  near(error("mse_loss", 0), 1 / 20, 0.15);
  const efficiency = error("mse_loss", 0) / error("l1_loss", 0);
  assert.ok(Math.abs(efficiency - 2 / Math.PI) < 0.08, `the median has the efficiency ${efficiency}`);
  assert.ok(error("huber_loss", 0) > error("mse_loss", 0) && error("huber_loss", 0) < error("l1_loss", 0));
  for (const name of ["huber_loss", "l1_loss", "cauchy_loss"])
    assert.ok(error(name, 0.1) < 0.5 * error("mse_loss", 0.1));
});

test("behind a sigmoid the pull of a square vanishes, that of cross entropy is the error", () => {
  for (const z of [-12, -5, -1, 0, 3]) {
    const p = sigmoid(z);
    near(byLogit("binary_cross_entropy_with_logits", 1)(z).slope, p - 1);
    near(byLogit("mse_loss", 1)(z).slope, 2 * (p - 1) * p * (1 - p));
  }
  const passes = (name, start) => scores.passes(scores.race(name, start, 0.5, 600));
  let z = -6;
  let count = 0;
  while (sigmoid(z) <= 0.5) [z, count] = [z + 0.5 * (1 - sigmoid(z)), count + 1];
  assert.equal(passes("binary_cross_entropy_with_logits", -6), count);
  assert.ok(passes("mse_loss", -6) > 20 * count);
  assert.equal(passes("mse_loss", -10), -1);
});

test("a hinge is content at its margin, and soft margin never", () => {
  near(scores.satisfied("hinge_loss", {}, 50), 1);
  near(scores.satisfied("multi_margin_loss", { margin: 2.5 }, 50), 2.5);
  assert.equal(scores.satisfied("soft_margin_loss", {}, 50), null);
  const chance = random(4);
  const points = Array.from({ length: 20 }, (_, i) => ({
    x: (i % 2 ? 1 : -1) + 0.8 * chance.normal(),
    y: chance.normal(),
    label: i % 2,
  }));
  for (const name of ["hinge_loss", "squared_hinge_loss", "multi_margin_loss"]) {
    const { leads, pulls } = scores.separate(name, points, 100, 0.3);
    assert.ok(pulls.some((one) => one > 0) && pulls.some((one) => one === 0), name);
    leads.forEach(
      (lead, i) => Math.abs(lead - 1) > 1e-9 && assert.equal(pulls[i] > 0, lead < 1, `${name}: lead ${lead}`),
    );
  }
  const { leads, pulls, base, across, up } = scores.separate("soft_margin_loss", points, 100, 0.3);
  points.forEach(({ x, y, label }, i) => {
    near(leads[i], (label ? 1 : -1) * (base + across * x + up * y));
    near(pulls[i] * points.length, sigmoid(-leads[i]));
  });
});

test("a low temperature sends the pull to the hardest", () => {
  const similar = [0.7, 0.5, 0.1, -0.4];
  for (const temperature of [0.02, 0.1, 1, 2]) {
    const sizes = similar.map((one) => Math.exp(one / temperature));
    const sum = sizes.reduce((a, b) => a + b);
    scores.attention(similar, temperature).forEach((by, i) => near(by, (sizes[i] / sum - (i === 0)) / temperature));
    const [positive] = scores.attention([0.7, 0.5], temperature);
    near(positive, toPair(temperature).slope(0.7));
  }
  function toPair(temperature) {
    return alone("info_nce_loss", { temperature, negative_similarity: 0.5 });
  }
});

test("smoothing has a finite best lead, which is the logarithm of the odds that it asks for", () => {
  for (const classes of [2, 10, 1000]) {
    for (const smoothing of [0.01, 0.1, 0.5]) {
      const right = 1 - smoothing + smoothing / classes;
      near(scores.restingLead(classes, smoothing, 60), Math.log(right / (smoothing / classes)));
      const { value } = scores.smoothed(classes, smoothing);
      const lead = scores.restingLead(classes, smoothing, 60);
      assert.ok(value(lead + 0.01) > value(lead) && value(lead - 0.01) > value(lead));
    }
    assert.equal(scores.restingLead(classes, 0, 60), Infinity);
    assert.ok(scores.smoothed(classes, 0).slope(30) < 0);
  }
});

test("focal loss is cross entropy at gamma 0, and quieter for those who know", () => {
  for (const lead of [-3, 0, 2]) {
    near(scores.focused(0)(lead), sigmoid(-lead));
    const focal = (z) => (1 - sigmoid(z)) ** 2 * -Math.log(sigmoid(z));
    near(scores.focused(2)(lead), Math.abs(focal(lead + 1e-5) - focal(lead - 1e-5)) / 2e-5, 1e-7);
  }
  assert.ok(scores.focused(2)(3) < 0.1 * scores.focused(0)(3));
});

test("a rare class is outvoted: where the pulls are even", () => {
  const rests = ({ rare, common }) => scores.crossing((z) => rare(z) + common(z), -60, 60);
  for (const rare of [0.01, 0.2, 0.5]) {
    const odds = rare / (1 - rare);
    near(rests(scores.WAYS.nothing({ rare })), Math.log(odds), 1e-8);
    near(rests(scores.WAYS.weight({ rare, weight: 7 })), Math.log(7 * odds), 1e-8);
    near(rests(scores.WAYS.adjustment({ rare })), 0, 1e-8);
    for (const way of Object.values(scores.WAYS)) {
      const pulls = way({ rare, weight: 3 });
      const slope = (pulls.value(0.4 + 1e-5) - pulls.value(0.4 - 1e-5)) / 2e-5;
      near(pulls.rare(0.4) + pulls.common(0.4), slope, 1e-7);
    }
  }
});

test("formats round as they should", () => {
  assert.equal(epsilon(FORMATS.float32), 2 ** -23);
  assert.equal(epsilon(FORMATS.float64), Number.EPSILON);
  assert.equal(epsilon(FORMATS.bfloat16), 2 ** -7);
  const pairs = { 1.00390625: 1, 1.01171875: 1.015625, 3.140625: 3.140625, 0.1: 0.10009765625, Infinity: Infinity };
  for (const [x, wanted] of Object.entries(pairs)) assert.equal(FORMATS.bfloat16(Number(x)), wanted);
  assert.equal(FORMATS.bfloat16(-1.01171875), -1.015625);
  assert.ok(Number.isNaN(FORMATS.bfloat16(NaN)));
});

test("the textbook breaks where 1 - sigmoid is 0, a clamp falls silent there, the stable spelling does neither", () => {
  const grid = Array.from({ length: 8000 }, (_, i) => i / 100);
  for (const round of Object.values(FORMATS)) {
    const end = breaks("textbook", round, grid);
    assert.equal(
      end,
      grid.find((z) => round(1 - round(1 / round(1 + round(Math.exp(-z))))) === 0),
    );
    assert.equal(breaks("stable", round, grid), Infinity);
    const beyond = SPELLINGS.textbook(round, end + 1);
    assert.ok(beyond.value === Infinity && Number.isNaN(beyond.slope));
    assert.equal(SPELLINGS.clamped(round, end + 1).slope, 0);
    for (const z of [-5, 0, 3, 30]) {
      const { value, slope } = SPELLINGS.stable(round, z);
      near(value, Math.log1p(Math.exp(z)), 8 * epsilon(round));
      near(slope, sigmoid(z), 8 * epsilon(round));
    }
  }
});

test("one NaN makes every weight NaN, times 0 too; left out, it is not there", () => {
  const rows = [
    { x: [1, 0.5], target: 1 },
    { x: [1, -0.3], target: 0.2 },
    { x: [1, 0.8], target: NaN },
  ];
  const masked = rows.map((row) => ({ ...row, out: Number.isNaN(row.target) }));
  const without = step([0.1, 0.2], rows.slice(0, 2), "none", 0.1);
  const by = rows.slice(0, 2).map(({ x, target }) => (2 * (0.1 + 0.2 * x[1] - target)) / 2);
  near(without.gradient[0], by[0] + by[1]);
  near(without.gradient[1], 0.5 * by[0] - 0.3 * by[1]);
  for (const [given_, mask] of [
    [rows, "none"],
    [masked, "times"],
  ]) {
    const { loss, weights } = step([0.1, 0.2], given_, mask, 0.1);
    assert.ok(Number.isNaN(loss) && weights.every(Number.isNaN), mask);
    assert.ok(step(weights, rows.slice(0, 2), "none", 0.1).weights.every(Number.isNaN));
  }
  const left = step([0.1, 0.2], masked, "left", 0.1);
  assert.deepEqual([left.loss, left.weights], [without.loss, without.weights]);
});

// What is written, not computed.

const ARTICLE = read("../../docs/what-a-loss-asks-for.md");
const SOURCES = readdirSync(new URL("../src/article/", import.meta.url)).filter((name) => name.endsWith(".js"));
const source = (name) => read(`../src/article/${name}`);
/** Names that have a digit. */
const NAMES = /\b(L1Loss|b?float\d\d)\b/g;

/** Prose with digits, without what is no prose: tags, formulas, code, addresses. */
function numbersIn(markdown) {
  const prose = markdown
    .replace(/^---[\s\S]*?---\n/, "")
    .replace(/<[^>]*>/g, "")
    .replace(/\$\$[\s\S]*?\$\$|\$[^$]*\$|`[^`]*`/g, "")
    .replace(/\]\([^)]*\)/g, "]")
    .replace(NAMES, "");
  return prose.match(/.*\d.*/g) ?? [];
}

/** The texts of a script: of its strings, and of its templates what stands between expressions. */
function texts(script) {
  const found = [];
  const open = []; // of each expression that is read, the text of the template around it and the braces within
  let text = null; // of the string that is read, after its quotation mark
  for (let i = 0; i < script.length; i++) {
    const c = script[i];
    if (text !== null) {
      const quote = text[0];
      if (c === "\\") text += script[++i];
      else if (c === quote) [text] = [null, found.push(text.slice(1))];
      else if (quote === "`" && c === "$" && script[i + 1] === "{") {
        open.push({ text, braces: 0 });
        [text, i] = [null, i + 1];
      } else text += c;
    } else if (c === '"' || c === "`") text = c;
    else if (open.length && c === "{") open.at(-1).braces++;
    else if (open.length && c === "}" && open.at(-1).braces-- === 0) text = open.pop().text;
  }
  return found;
}

/** Texts of a script that are sentences, two words or more, and have a digit which no expression gave. */
function numbersSaid(script) {
  const code = script.replace(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$|\/\/ .*$/gm, "");
  const words = texts(code).map((text) => text.replace(NAMES, ""));
  return words.filter((text) => /[a-z]{2,} [a-z]{2,}/i.test(text) && /\d/.test(text));
}

test("no number of the article was typed", () => {
  assert.deepEqual(numbersIn(ARTICLE), []);
  for (const name of SOURCES) assert.deepEqual(numbersSaid(source(name)), [], name);
});

test("a number that was typed would be noticed", () => {
  assert.deepEqual(numbersIn("It pulls $x^2$ with `0.5`, [so](a1.md).\nIt pulls with 0.5.\n"), ["It pulls with 0.5."]);
  assert.deepEqual(numbersSaid('say(`It pulls ${f({ x: 1 })}`); say("It pulls with 3");'), ["It pulls with 3"]);
  assert.deepEqual(numbersSaid("`a ${x ? `It pulls with 3 ${y + 1}` : 4} b`"), ["It pulls with 3 "]);
  assert.ok(SOURCES.flatMap((name) => texts(source(name))).some((text) => text.includes(" rests ")));
});

test("each figure of the article exists, and each figure is in the article", () => {
  const asked = [...ARTICLE.matchAll(/data-figure="(\w+)"/g)].map((match) => match[1]);
  const made = [...source("main.js").matchAll(/^ {2}(\w+): \w+Figure,$/gm)].map((match) => match[1]);
  assert.deepEqual(asked, made);
  assert.ok(asked.length > 10);
});

test("the script is small, and carries no loss that no figure uses", () => {
  assert.ok(statSync(new URL("../generated/figures.js", import.meta.url)).size < 150_000);
  const scripts = SOURCES.filter((name) => name !== "names.js")
    .map(source)
    .join("");
  for (const name of LOSSES) assert.ok(scripts.includes(`"${name}"`), name);
});
