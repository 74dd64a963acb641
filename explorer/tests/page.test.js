/** Links, domains, ranges, presets and letters, without a browser. */

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { cards } from "../generated/catalogue.js";
import { atCursor, ofCurves } from "../src/describe.js";
import { givenOf, limits, nameOf, over, settle, show } from "../src/formulas.js";
import { letter, places } from "../src/letters.js";
import { presets } from "../src/presets.js";
import { choose, empty, read, write } from "../src/state.js";

const card = (name) => cards.find((known) => known.name === name);

test("what the page does with a loss is data of its card: no code asks for a family, a task or a loss by name", () => {
  const here = (path) => new URL(path, import.meta.url);
  const { losses } = JSON.parse(readFileSync(here("../../src/losskit_guide/catalogue.json"), "utf8"));
  const names = losses.flatMap((loss) => [loss.name, loss.class_name, loss.family, loss.task]);
  const all = readdirSync(here("../src"), { recursive: true });
  // Presets and the article are about certain losses.
  const files = all.filter((file) => file.endsWith(".js") && !/presets\.js$|^article/.test(file));
  const sources = [...files.map((file) => `../src/${file}`), "../build.mjs"];
  for (const source of sources) {
    const text = readFileSync(here(source), "utf8");
    const code = text.replace(/\/\*[^]*?\*\/|\/\/ .*/g, "");
    const strings = [...code.matchAll(/(["'`])(.*?)\1/g)].map((match) => match[2]);
    for (const name of names) assert.ok(!strings.includes(name), `${source} asks for ${name}`);
    assert.doesNotMatch(code, /\.family\b/, source);
  }
  assert.ok(sources.length > 15);
});

test("a link restores what it was made of", () => {
  const state = {
    ...empty(),
    losses: [
      { name: "huber_loss", given: { delta: 2.5, target: -1 }, switches: {} },
      { name: "poisson_nll_loss", given: { eps: 1e-8 }, switches: { log_input: false, full: true } },
      { name: "binary_cross_entropy_with_logits", given: { pos_weight: 3 }, switches: { pos_weight: true } },
      { name: "dpo_loss", given: { beta: 0.5 }, switches: { loss_type: "hinge" } },
    ],
    axis: "logit",
    by: "own",
    from: -2,
    to: 3.5,
    x: 0.25,
    embed: true,
    theme: "dark",
  };
  const { state: found, problems } = read(`#${write(state)}`, cards);
  assert.deepEqual(problems, []);
  assert.deepEqual(found, state);
  assert.deepEqual(read(`#${encodeURIComponent(write(state))}`, cards).state, state);
});

test("a word selects the formula, and what it does not use is not asked for", () => {
  const dpo = card("dpo_loss");
  assert.deepEqual(dpo.switches[0].words.slice(0, 3), ["sigmoid", "robust", "hinge"]);
  const names = (word) => givenOf(dpo, { given: {}, switches: word ? { loss_type: word } : {} }).map((g) => g.name);
  assert.ok(names("discopop").includes("tau"));
  assert.ok(!names(null).includes("tau"));
  const { state, problems } = read("#loss=dpo_loss:loss_type=apo_zero&loss=dpo_loss:loss_type=apo,+loss_type", cards);
  assert.deepEqual(
    state.losses.map(({ switches }) => switches),
    [{ loss_type: "apo_zero" }, {}],
  );
  assert.deepEqual(problems, [
    "The link sets “loss_type=apo” of dpo_loss, which this page does not know.",
    "The link sets “+loss_type” of dpo_loss, which this page does not know.",
  ]);
  assert.match(nameOf(dpo, state.losses[0]), /loss_type=apo_zero\)$/);
});

test("an operand that may be missing is there when it is switched on", () => {
  const grpo = card("grpo_loss");
  const names = (switches) => givenOf(grpo, { given: {}, switches }).map((g) => g.name);
  assert.ok(!names({}).includes("ref_log_prob") && !names({}).includes("beta"));
  assert.ok(names({ ref_log_prob: true }).includes("ref_log_prob") && names({ ref_log_prob: true }).includes("beta"));
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

test("names that every object has are no losses, settings or axes; what is said twice is named", () => {
  const said = (link) => read(link, cards).problems;
  for (const name of ["toString", "__proto__", "constructor", ""]) {
    assert.equal(said(`loss=${name}`).length, 1, name);
    assert.equal(said(`loss=mse_loss:${name || "="}=1`).length, 1, name);
    assert.equal(said(`loss=mse_loss&axis=${name}`).length, 1, name);
  }
  assert.deepEqual(said("loss=huber_loss:delta=1:delta=2"), [
    "The link says “:delta=2” of huber_loss, which this page does not know.",
  ]);
  assert.deepEqual(said("&&&"), []);
  assert.equal(said("n=5&play&theme&x=1e400&from=NaN").length, 5);
});

test("a link may not say what the library refuses", () => {
  const refused = (link) => read(link, cards);
  const { state, problems } = refused("loss=huber_loss:delta=-2&loss=gaussian_nll_loss:var=-1,target=2");
  assert.deepEqual(problems, [
    "huber_loss: delta must be positive, got -2; the link's value is left out.",
    "gaussian_nll_loss: var must be non-negative, got -1; the link's value is left out.",
  ]);
  assert.deepEqual(
    state.losses.map(({ given }) => given),
    [{}, { target: 2 }],
  );
  const one = (link) => refused(link).problems.join("\n");
  assert.match(one("loss=cross_entropy:label_smoothing=2"), /label_smoothing must be in \[0, 1\], got 2;/);
  assert.match(one("loss=huber_loss:delta=0"), /delta must be positive, got 0;/);
  assert.match(one("loss=soft_margin_loss:target=0"), /target must be -1 or 1, got 0;/);
  assert.match(one("loss=multi_margin_loss:p=1.5"), /p must be 1 or 2, got 1.5;/);
  assert.match(one("loss=binary_cross_entropy_with_logits:pos_weight=-1"), /pos_weight must be non-negative, got -1;/);
  assert.equal(one("loss=smooth_l1_loss:beta=0&loss=huber_loss:delta=1e-300&loss=cross_entropy:label_smoothing=1"), "");
});

test("what the library takes may depend on a switch", () => {
  const poisson = card("poisson_nll_loss");
  assert.deepEqual(read("loss=poisson_nll_loss:target=-1", cards).problems, []);
  assert.match(read("loss=poisson_nll_loss:target=-1,+full", cards).problems[0], /target must be non-negative, got -1/);
  const chosen = { ...choose(poisson), given: { target: -1 }, switches: { full: true } };
  assert.deepEqual(settle(poisson, chosen), ["poisson_nll_loss: target must be non-negative, got -1"]);
  assert.deepEqual(chosen.given, {});
  const rate = over(poisson, { ...chosen, given: { eps: 1 }, switches: { log_input: false } }, "own", "axis");
  assert.ok(Number.isNaN(rate(-0.5).value) && Number.isFinite(rate(0.5).value));
  assert.ok(Number.isFinite(over(poisson, { ...chosen, switches: {} }, "own", "axis")(-0.5).value));
});

test("a link's range must begin before it ends, also with one end of its own", () => {
  const range = (link) => read(link, cards);
  for (const link of ["loss=mse_loss&from=3&to=1", "loss=mse_loss&from=9", "loss=mse_loss&from=2&to=2"]) {
    const { state, problems } = range(link);
    assert.match(problems[0], /^The range must begin before it ends, got \S+ to \S+; the link's range is left out\.$/);
    assert.equal(state.from ?? state.to, null);
  }
  assert.deepEqual(range("loss=mse_loss&from=3").problems, []);
  for (const ends of ["from=1&to=1.0000000000000002", "from=-1e308&to=1e308", "from=0&to=1e-300"]) {
    const { state, problems } = range(`loss=mse_loss&${ends}`);
    assert.match(problems[0], /^The range must be neither too narrow nor too wide to be drawn, got .*; the link's/);
    assert.equal(state.from ?? state.to, null);
  }
  assert.deepEqual(range("loss=mse_loss&from=1&to=1.00001").problems, []);
});

test("an x outside of the range is refused in a sentence, and the nearest end is taken", () => {
  for (const [link, x, range] of [
    ["from=-2&to=3&x=7", 3, "-2 to 3, got 7"],
    ["x=-7&from=-2&to=3", -2, "-2 to 3, got -7"],
    ["from=3&to=-2&x=100", 4, "-4 to 4, got 100"],
  ]) {
    const { state, problems } = read(`loss=mse_loss&${link}`, cards);
    assert.equal(problems.at(-1), `The link's x must be in the range ${range}; ${x} is taken.`);
    assert.equal(state.x, x);
  }
  for (const x of [-2, 0, 3]) assert.deepEqual(read(`loss=mse_loss&from=-2&to=3&x=${x}`, cards).problems, []);
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

test("letters name lines: A to Z, then A1", () => {
  assert.deepEqual([0, 1, 25, 26, 53].map(letter), ["A", "B", "Z", "A1", "B2"]);
});

test("a letter stands where its curve is apart from the others, and not on another letter", () => {
  const xs = [0, 50, 100, 150];
  const apart = places(xs, [
    [10, 10, 10, 10],
    [90, 60, 11, 12],
  ]);
  assert.deepEqual(apart, [1, 1]);
  const [a, b] = places(xs, [
    [10, 10, 10, 10],
    [10, 10, 10, 10],
  ]);
  assert.notEqual(a, b);
  assert.deepEqual(
    places(xs, [
      [null, null, null, null],
      [null, 5, null, null],
    ]),
    [null, 1],
  );
});

test("a plot says what it shows: range, ends, extremes, and what is at the cursor", () => {
  const lines = [
    { name: "A", ys: [4, 0, 1] },
    { name: "B", ys: [2, 2, 2] },
    { name: "C", ys: [null, null, null] },
  ];
  const said = ofCurves({ yLabel: "loss", xLabel: "prediction", from: -2, to: 1, xs: [-2, 0, 1], lines });
  assert.equal(
    said,
    "Curves of the loss over prediction from −2 to 1. A: 4 at −2, 1 at 1, lowest 0 at 0, highest 4 at −2. " +
      "B: 2 at −2, 2 at 1, the same everywhere. C: no finite number in this range.",
  );
  const found = [{ name: "A", at: { value: 0.5, slope: -1 } }, { name: "B" }];
  assert.equal(atCursor(0.5, "x", found, ["value", "slope"]), "At the cursor, x = 0.5: A: value 0.5, gradient −1.");
});
