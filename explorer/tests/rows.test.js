/** CSV files: which column is what, the loss and the gradient of every row, their histogram and the worst of them. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { cards } from "../generated/catalogue.js";
import { logSumExp, rowLoss } from "../src/classes.js";
import { parse } from "../src/csv.js";
import { histogram, scales, ticks } from "../src/histogram.js";
import { losses } from "../src/losses.js";
import { classNames, guess, PAGE, rolesOf, rolesOfAll } from "../src/roles.js";
import { choose } from "../src/state.js";
import { gradientShares, summary, worst } from "../src/worst.js";

const card = (name) => cards.find((known) => known.name === name);
const pair = (name, more = {}) => [card(name), { ...choose(card(name)), ...more }];
const near = (found, wanted, bound = 1e-12) =>
  assert.ok(Math.abs(found - wanted) <= bound * Math.max(1, Math.abs(wanted)), `${found}, not ${wanted}`);

/** The losses of a file whose columns are guessed, but for those that are chosen by the name of their role. */
function read(text, [c, chosen], picked = {}) {
  const table = parse(text);
  const columns = {};
  for (const role of rolesOf(c, chosen)) columns[role.key] = picked[role.name] ?? guess(role, table.names);
  return losses(table, c, chosen, columns);
}
const says = (message, text, who, picked) => assert.throws(() => read(text, who, picked), { message });

test("a CSV file gives the loss and the gradient of every row", () => {
  const found = read('Prediction,target\r\n0.5,0\r\n"3",1\r\n\r\n-1,-1\r\n', pair("mse_loss"));
  assert.deepEqual([...found.rows], [0.25, 4, 0]);
  assert.deepEqual([...found.gradients], [1, 4, 0]);
  assert.deepEqual(summary(found), { count: 3, undefined: 0, mean: 4.25 / 3, median: 0.25, largest: 4, line: 3 });
  assert.deepEqual([...read("input;target\n2;0", pair("l1_loss")).rows], [2]);
});

test("a column overrides what the page has given, a parameter does not become a column", () => {
  const huber = pair("huber_loss", { given: { delta: 2, target: 9 } });
  assert.deepEqual(
    rolesOf(...huber).map((role) => role.name),
    ["input", "target"],
  );
  assert.deepEqual([...read("input,target,delta\n1.5,0,1\n4,0,1", huber).rows], [1.125, 6]);
  assert.deepEqual([...read("input,target\n1.5,0\n4,0", huber, { target: PAGE }).rows], [13, 8]);
});

test("losses share the select of a role that means the same", () => {
  const roles = rolesOfAll([pair("mse_loss"), pair("huber_loss"), pair("soft_margin_loss"), pair("cross_entropy")]);
  assert.deepEqual(
    roles.map(({ name, losses }) => `${name}: ${[...losses].join()}`),
    [
      "input: MSELoss,HuberLoss",
      "target: MSELoss,HuberLoss",
      "input: SoftMarginLoss",
      "target: SoftMarginLoss",
      "scores: CrossEntropyLoss",
      "class: CrossEntropyLoss",
    ],
  );
});

test("what a line cannot hold is said, with what it may hold instead", () => {
  const says = (name) => rolesOf(...pair(name)).map((role) => `${role.name}: ${role.says}`);
  assert.deepEqual(says("cosine_embedding_loss"), [
    "cosine: cosine of the two embeddings, since a line cannot hold input1, input2",
    "target: -1 or 1",
  ]);
  assert.match(says("ctc_loss")[0], /^probability: .*, since a line cannot hold log_probs, targets,/);
});

test("only a name that means a role is guessed", () => {
  const guessed = (name, ...names) => {
    const all = rolesOf(...pair(name)).map((role) => guess(role, names));
    return all.map((at) => (Array.isArray(at) ? at.map((i) => names[i]).join() : at === null ? null : names[at]));
  };
  assert.deepEqual(guessed("mse_loss", "id", "y_true", "y-pred"), ["y-pred", "y_true"]);
  assert.deepEqual(guessed("gaussian_nll_loss", "prediction", "target", "sigma"), ["prediction", "target", null]);
  assert.deepEqual(guessed("binary_cross_entropy_with_logits", "prediction", "label"), [null, "label"]);
  assert.deepEqual(guessed("kl_div", "prediction", "target"), [null, "target"]);
  assert.deepEqual(guessed("cross_entropy", "prediction", "target"), [null, "target"]);
  assert.deepEqual(guessed("cross_entropy", "score0", "score1", "score2", "label"), ["score0,score1,score2", "label"]);
  assert.deepEqual(guessed("cross_entropy", "id", "logit_cat", "logit_dog", "class"), ["logit_cat,logit_dog", "class"]);
  assert.deepEqual(guessed("cross_entropy", "score1", "label"), [null, "label"]);
  assert.deepEqual(guessed("cross_entropy", "x1", "x2", "label"), [null, "label"]);
  assert.deepEqual(guessed("nll_loss", "p_0", "p_1", "log_prob_0", "log_prob_1", "y"), ["log_prob_0,log_prob_1", "y"]);
});

test("classes are called what follows the stem of their columns", () => {
  assert.deepEqual(classNames(["score1", "score2"]), ["1", "2"]);
  assert.deepEqual(classNames(["logit_cat", "logit_car"]), ["cat", "car"]);
  assert.deepEqual(classNames(["cat", "dog"]), ["cat", "dog"]);
});

test("what a file lacks or has wrong is said in one sentence", () => {
  const mse = pair("mse_loss");
  says("The file is empty; its first line must name the columns.", "", mse);
  says("The file has a line of names and no rows below it.", "input,target\n", mse);
  says("MSELoss: choose a column for target; the file has input and tide.", "input,tide\n1,2", mse);
  says("MSELoss: choose a column for input and a column for target; the file has a and b.", "a,b\n1,2", mse);
  says("Line 3, column target: “two” is not a number.", "input,target\n1,2\n1,two", mse);
  says("Line 3, column target: “” is not a number.", "input,target\n1,2\n1,", mse);
  says("Line 2 has 3 cells, and the file has 2 columns.", "input,target\n1,2,3", mse);
  says("The file has two columns called “input”.", "input,input\n1,2", mse);
});

test("a column is never taken for what its numbers contradict", () => {
  says(
    "Line 2, column input: input of BCELoss must be in [0, 1], got 1.5.",
    "input,target\n1.5,1",
    pair("binary_cross_entropy"),
  );
  says(
    "Line 3, column target: target of SoftMarginLoss must be -1 or 1, got 0.",
    "input,target\n1.5,1\n1,0",
    pair("soft_margin_loss"),
  );
  says(
    "Line 2, column var: var of GaussianNLLLoss must be non-negative, got -1.",
    "prediction,target,var\n0,0,-1",
    pair("gaussian_nll_loss"),
  );
  says(
    "Line 2, column prediction: input of KLDivLoss must be a log-probability (at most 0), got 3.2.",
    "prediction,target\n3.2,0.5",
    pair("kl_div"),
    { input: 0 },
  );
  says(
    "Line 2, column dist: input of HingeEmbeddingLoss must be a distance, at least 0, got -1.",
    "dist,target\n-1,1",
    pair("hinge_embedding_loss"),
  );
  says(
    "CrossEntropyLoss: choose two columns or more for scores; the file has prediction and target.",
    "prediction,target\n3.2,0.5",
    pair("cross_entropy"),
  );
  const probabilities = "p_0,p_1,label\n0.25,0.75,1\n0.9,0.1,0";
  says(
    /takes scores, and p_0 and p_1 are probabilities .*: take their logarithms/,
    probabilities,
    pair("cross_entropy"),
  );
  says(
    "Line 2, column log_prob_1: log_probability of NLLLoss must be a log-probability (at most 0), got 0.75.",
    "log_prob_0,log_prob_1,label\n-0.25,0.75,1",
    pair("nll_loss"),
  );
});

test("class scores give the losses that the cards have worked out, with the length of their gradients", () => {
  const catalogue = JSON.parse(
    readFileSync(new URL("../../src/losskit_guide/catalogue.json", import.meta.url), "utf8"),
  );
  let count = 0;
  for (const { name, cases } of catalogue.losses.filter(({ name }) => card(name)?.rows)) {
    for (const { arguments: given, value, grad } of cases) {
      const { input, target, ...numbers } = given;
      const labels = Array.isArray(target) ? target.slice(0, target.indexOf(-1)) : [target];
      if (Array.isArray(target) && !target.includes(-1)) continue; // probabilities of the classes
      if (Object.values(numbers).some(Array.isArray)) continue; // a number for each class, which the page does not ask
      const header = `${input.map((_, i) => `${name === "nll_loss" ? "log_prob" : "score"}${i}`).join()},label`;
      const found = read(`${header}\n${input.join()},${labels.join("|")}`, pair(name, { given: numbers }), {
        classes: input.length,
      });
      near(found.rows[0], value, 1e-5);
      near(found.gradients[0], Math.hypot(...grad), 1e-5);
      count++;
    }
  }
  assert.ok(count >= 11, `only ${count} cases`);
});

test("two classes give the curve of the card, and differences its gradient", () => {
  for (const smoothing of [0, 0.3]) {
    const [c, chosen] = pair("cross_entropy", { given: { label_smoothing: smoothing } });
    const { value } = c.curve.variants[0].bind(smoothing);
    for (const margin of [-30, -1, 0, 2, 40]) {
      near(read(`score0,score1,label\n${margin + 7},7,0`, [c, chosen]).rows[0], value(margin));
    }
    const scores = [0.3, -1.2, 2.1];
    const f = rowLoss(c, c.rows.formulas[0], { label_smoothing: smoothing });
    const slopes = scores.map((_, k) => {
      const moved = (step) =>
        f(
          scores.map((x, i) => (i === k ? x + step : x)),
          [1],
        ).value;
      return (moved(1e-5) - moved(-1e-5)) / 2e-5;
    });
    near(f(scores, [1]).gradient, Math.hypot(...slopes), 1e-8);
  }
});

test("a formula of what no column gives is refused", () => {
  const odd = { switches: {}, arguments: ["log_probability", "entropy"], value: () => 0, gradients: {} };
  assert.throws(() => rowLoss(card("cross_entropy"), odd, {}), { message: /needs “entropy”, which the columns/ });
});

test("the log of a sum of exponentials does not overflow", () => {
  near(logSumExp([1000, 1000]), 1000 + Math.LN2);
  assert.equal(logSumExp([-Infinity, -Infinity]), -Infinity);
});

test("a class is named by number or by its column", () => {
  const ce = pair("cross_entropy");
  const rows = (labels) => [
    ...read(`score_cat,score_dog\n${labels.map((x) => `2,0,${x}`).join("\n")}`.replace("dog\n", "dog,label\n"), ce)
      .rows,
  ];
  const [cat, dog] = [Math.log1p(Math.exp(-2)), Math.log1p(Math.exp(2))];
  for (const labels of [
    ["cat", "dog"],
    ["score_cat", "Dog"],
    [0, 1],
    ["0.0", "1"],
  ]) {
    const found = rows(labels);
    near(found[0], cat);
    near(found[1], dog);
  }
  // Columns that count from 1 are meant by their names.
  near(read("score1,score2,label\n2,0,1\n2,0,2", ce).rows[0], cat);
  says(
    "Line 3, column label: class of CrossEntropyLoss must be 0 to 1, or cat and dog, got “2”.",
    "score_cat,score_dog,label\n1,2,0\n1,2,2",
    ce,
  );
  says(
    "Line 3, column label: class of CrossEntropyLoss must be 0 to 1, or cat and dog, got “bird”.",
    "score_cat,score_dog,label\n1,2,cat\n1,2,bird",
    ce,
  );
});

test("a histogram counts every finite row once", () => {
  const { edges, counts, above } = histogram(
    [
      [0, 1, 2, 3, 4, NaN],
      [4, 4],
    ],
    false,
    4,
  );
  assert.deepEqual(edges, [0, 1, 2, 3, 4]);
  assert.deepEqual(counts, [
    [1, 1, 1, 2],
    [0, 0, 0, 2],
  ]);
  assert.equal(above, 0);
  const wild = histogram([[...Array(200).keys()].map((i) => i / 200).concat(1e6)], false, 10);
  assert.ok(wild.edges.at(-1) < 1.1 && wild.above >= 1);
  assert.equal(
    wild.counts[0].reduce((a, b) => a + b),
    201,
  );
});

test("few rows are all shown where they are", () => {
  const few = histogram([[0, 0.1, 9]], false, 9);
  assert.deepEqual([few.edges.at(-1), few.above], [9, 0]);
  const powers = histogram([[1e-9, 1, 1.1]], true, 9);
  assert.deepEqual([powers.edges[0], powers.below], [-9, 0]);
});

test("a logarithmic histogram has even bins in powers of ten, and a bar for zeros", () => {
  const found = histogram([[0, 0, 0.001, 0.002, 0.5, 1, Infinity], [1]], true, 3);
  const close = (a, b) => a.forEach((x, i) => near(x, b[i]));
  close(found.edges, [-5, -4, -3, -2, -1, 0]);
  assert.deepEqual(found.counts, [
    [2, 0, 2, 0, 2],
    [0, 0, 0, 0, 1],
  ]);
  assert.deepEqual([found.zeros, found.below, found.above], [2, 0, 0]);
  assert.deepEqual(ticks(found), [
    { at: -4.5, text: "zero" },
    ...[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1]
      .map((x) => ({ at: Math.log10(x), text: String(x) }))
      .filter(({ at }) => at >= found.edges[2] && at <= 0),
  ]);
  const tiny = histogram([[1e-300, ...Array(200).fill(0.1), 10]], true, 10);
  assert.ok(tiny.edges[0] > -3 && tiny.below === 1, "one tiny loss does not squeeze the others");
  assert.equal(
    tiny.counts[0].reduce((a, b) => a + b),
    202,
  );
});

test("the logarithm is chosen where losses span more than two decades, and cannot be below 0", () => {
  assert.deepEqual(scales([[1, 99], [50]]), { possible: true, better: false });
  assert.deepEqual(scales([[1, 99], [101]]), { possible: true, better: true });
  assert.deepEqual(scales([[-1, 1e9]]), { possible: false, better: false });
  assert.deepEqual(scales([[0, 0, NaN]]), { possible: false, better: false });
});

test("the worst rows come first, what has no finite loss before all", () => {
  const lines = [2, 3, 4, 5];
  const finite = worst({ rows: Float64Array.of(1, 6, 0, 3), lines }, 3);
  assert.deepEqual(finite, [
    { row: 1, line: 3, loss: 6, share: 0.6 },
    { row: 3, line: 5, loss: 3, share: 0.3 },
    { row: 0, line: 2, loss: 1, share: 0.1 },
  ]);
  assert.equal(worst({ rows: Float64Array.of(5, -1), lines: [2, 3] })[0].share, null);
  const wild = worst({ rows: Float64Array.of(1, NaN, Infinity, -3), lines });
  assert.deepEqual(
    wild.map(({ line, share }) => [line, share]),
    [
      [3, null],
      [4, null],
      [2, null],
      [5, null],
    ],
  );
});

test("outliers have most of the gradient of a square, and their share of that of an absolute value", () => {
  const text = `prediction,target\n${Array.from({ length: 200 }, (_, i) => `${i < 2 ? 100 : i % 2 ? 1 : -1},0`).join("\n")}`;
  const shares = (name) => gradientShares(read(text, pair(name))).map(({ part }) => part);
  near(shares("mse_loss")[0], 200 / 398);
  near(shares("l1_loss")[0], 0.01);
  near(shares("l1_loss")[2], 0.5);
  assert.deepEqual(
    gradientShares(read(text, pair("l1_loss"))).map(({ count }) => count),
    [2, 20, 100],
  );
  assert.equal(gradientShares({ rows: [0, 0], gradients: [0, 0] })[0].part, null);
});
