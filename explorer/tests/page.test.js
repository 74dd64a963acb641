/** Links, CSV files, ranges and presets, without a browser. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { cards } from "../generated/catalogue.js";
import { histogram, losses, needs, parse, summary } from "../src/csv.js";
import { limits, nameOf, show } from "../src/formulas.js";
import { presets } from "../src/presets.js";
import { choose, empty, read, write } from "../src/state.js";

const card = (name) => cards.find((known) => known.name === name);

test("a link restores what it was made of", () => {
  const state = {
    ...empty(),
    losses: [
      { name: "huber_loss", given: { delta: 2.5, target: -1 }, switches: {} },
      { name: "poisson_nll_loss", given: { eps: 1e-8 }, switches: { log_input: false, full: true } },
      { name: "binary_cross_entropy_with_logits", given: { pos_weight: 3 }, switches: { pos_weight: true } },
    ],
    axis: "logit",
    by: "own",
    from: -2,
    to: 3.5,
    x: 0.25,
  };
  const { state: found, problems } = read(`#${write(state)}`, cards);
  assert.deepEqual(problems, []);
  assert.deepEqual(found, state);
  assert.deepEqual(read(`#${encodeURIComponent(write(state))}`, cards).state, state);
});

test("a link's unknown parts are named and the rest is kept", () => {
  const { state, problems } = read(
    "#loss=no_loss&loss=huber_loss:delta=two,gamma=1,+x&axis=wind&from=3&to=1&100%",
    cards,
  );
  assert.equal(state.losses.length, 1);
  assert.deepEqual(state.losses[0].given, {});
  assert.equal(state.axis, "own");
  assert.equal(state.from, null);
  assert.equal(problems.length, 7);
  assert.match(problems[0], /“no_loss”/);
  assert.match(problems[1], /delta of huber_loss is “two”/);
});

test("presets name losses, parameters and axes that exist", () => {
  for (const { name, link } of presets) {
    const { state, problems } = read(link, cards);
    assert.deepEqual(problems, [], name);
    assert.equal(write(state), link, name);
  }
});

test("a name says what is given", () => {
  assert.equal(nameOf(card("huber_loss"), choose(card("huber_loss"))), "HuberLoss(target=0, delta=1)");
  const nll = { ...choose(card("poisson_nll_loss")), switches: { log_input: false, full: true } };
  assert.equal(nameOf(card("poisson_nll_loss"), nll), "PoissonNLLLoss(target=1, eps=1e-8, log_input=false, full=true)");
});

test("losses that share a plot share its range", () => {
  assert.deepEqual(limits([card("binary_cross_entropy"), card("mse_loss")], "own"), [-4, 4]);
  assert.deepEqual(limits([card("mse_loss")], "probability"), [0, 1]);
});

test("numbers are shown with six digits", () => {
  assert.equal(show(1 / 3), "0.333333");
  assert.equal(show(-1e-9), "−1e-9");
  assert.equal(show(NaN), "not defined");
  assert.equal(show(-Infinity), "−∞");
});

test("a CSV file gives the loss of every row", () => {
  const table = parse('Prediction,target\r\n0.5,0\r\n"3",1\r\n\r\n-1,-1\r\n');
  const found = losses(table, card("mse_loss"), choose(card("mse_loss")));
  assert.deepEqual([...found.rows], [0.25, 4, 0]);
  assert.deepEqual(summary(found), { count: 3, undefined: 0, mean: 4.25 / 3, median: 0.25, largest: 4, line: 3 });
  assert.deepEqual([...losses(parse("input;target\n2;0"), card("l1_loss"), choose(card("l1_loss"))).rows], [2]);
});

test("a column overrides what the page has given, a parameter does not become a column", () => {
  const chosen = { ...choose(card("huber_loss")), given: { delta: 2, target: 9 } };
  assert.deepEqual(needs(card("huber_loss"), chosen), ["input", "target"]);
  assert.deepEqual([...losses(parse("input,target\n1.5,0\n4,0"), card("huber_loss"), chosen).rows], [1.125, 6]);
});

test("what a CSV file lacks is said in one sentence", () => {
  const mse = [card("mse_loss"), choose(card("mse_loss"))];
  const said = (text, pattern, [c, chosen] = mse) =>
    assert.throws(() => losses(parse(text), c, chosen), { message: pattern });
  said("", "The file is empty; its first line must name the columns.");
  said("input,target\n", "The file has a line of names and no rows below it.");
  said(
    "input,truth\n1,2",
    "MSELoss needs the columns input and target; target is missing (the file has input, truth).",
  );
  said("input,target\n1,2\n1,two", "Line 3, column target: “two” is not a number.");
  said("input,target\n1,2\n1,", "Line 3, column target: “” is not a number.");
  said("input,target\n1,2,3", "Line 2 has 3 cells, and the file has 2 columns.");
  said("input,input\n1,2", "The file has two columns called “input”.");
  const bce = [card("binary_cross_entropy"), choose(card("binary_cross_entropy"))];
  said("input,target\n1.5,1", "Line 2, column input: 1.5 is no probability, which BCELoss takes as its input.", bce);
  const soft = [card("soft_margin_loss"), choose(card("soft_margin_loss"))];
  said("input,target\n1.5,0", "Line 2, column target: SoftMarginLoss takes -1 or 1, not 0.", soft);
});

test("a histogram counts every finite row once", () => {
  const { edges, counts, above } = histogram(
    [
      [0, 1, 2, 3, 4, NaN],
      [4, 4],
    ],
    4,
  );
  assert.deepEqual(edges, [0, 1, 2, 3, 4]);
  assert.deepEqual(counts, [
    [1, 1, 1, 2],
    [0, 0, 0, 2],
  ]);
  assert.equal(above, 0);
  const wild = histogram([[...Array(200).keys()].map((i) => i / 200).concat(1e6)], 10);
  assert.ok(wild.edges.at(-1) < 1.1 && wild.above >= 1);
  assert.equal(
    wild.counts[0].reduce((a, b) => a + b),
    201,
  );
});
