/** The playground without a browser: random numbers, gradients of objectives, links, presets, what is offered. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { cards } from "../generated/catalogue.js";
import { answers, calibration, calibrationError } from "../src/playground/calibration.js";
import { read, write } from "../src/playground/link.js";
import { shares } from "../src/playground/shares.js";
import { model } from "../src/playground/models.js";
import { offered } from "../src/playground/offers.js";
import { presets } from "../src/playground/presets.js";
import { objectiveOf, pointsOf, train } from "../src/playground/races.js";
import { random } from "../src/playground/random.js";
import { MODES } from "../src/playground/settings.js";

const card = (name) => cards.find((known) => known.name === name);
const state = (link) => read(link, cards).state;
const problems = (link) => read(`#${link}`, cards).problems;

test("random numbers are those of the seed, and look like what they should be", () => {
  const take = (seed, kind) =>
    Array.from(
      { length: 4000 },
      (
        (chance) => () =>
          chance[kind]()
      )(random(seed)),
    );
  assert.deepEqual(take(3, "uniform"), take(3, "uniform"));
  assert.notDeepEqual(take(3, "uniform").slice(0, 5), take(4, "uniform").slice(0, 5));
  for (const [kind, mean, variance] of [
    ["uniform", 1 / 2, 1 / 12],
    ["normal", 0, 1],
  ]) {
    const all = take(7, kind);
    const average = all.reduce((a, b) => a + b) / all.length;
    const spread = all.reduce((sum, x) => sum + (x - average) ** 2, 0) / all.length;
    assert.ok(Math.abs(average - mean) < 4 * Math.sqrt(variance / all.length), `${kind} has the mean ${average}`);
    assert.ok(Math.abs(spread - variance) < 0.1 * variance, `${kind} has the variance ${spread}`);
  }
});

test("models have the gradient of differences", () => {
  for (const [name, inputs] of [
    ["line", 1],
    ["line", 2],
    ["cubic", 1],
    ["network", 1],
    ["network", 2],
  ]) {
    const net = model(name, inputs, 3);
    const chance = random(5);
    const parameters = Float64Array.from({ length: net.size }, chance.normal);
    const x = [0.7, -1.1].slice(0, inputs);
    const by = [0.3, -0.8, 1.7];
    const out = new Float64Array(3);
    const gradient = new Float64Array(net.size);
    net.forward(parameters, x, out);
    net.backward(parameters, by, gradient);
    const value = () => {
      net.forward(parameters, x, out);
      return by.reduce((sum, b, k) => sum + b * out[k], 0);
    };
    for (let i = 0; i < net.size; i++) {
      const [old, h] = [parameters[i], 1e-5];
      parameters[i] = old + h;
      const after = value();
      parameters[i] = old - h;
      const difference = (after - value()) / (2 * h);
      parameters[i] = old;
      assert.ok(Math.abs(difference - gradient[i]) < 1e-7, `${name}: ${gradient[i]}, not ${difference}`);
    }
  }
});

/** Targets that every loss takes. */
const POSITIVE = { regression: "&points=-1.5,1;-1,0.7;0,2;1,4;1.2,5" };

test("every loss that is offered trains", () => {
  for (const [mode, { fits, label }] of Object.entries(MODES)) {
    const all = offered(cards, fits);
    assert.ok(all.length > 5, label);
    for (const { name } of all) {
      const found = state(`play=${mode}&loss=${name}&optimizer=Adam&lr=0.03${POSITIVE[mode] ?? ""}`);
      const points = pointsOf(found);
      const objective = objectiveOf(card(name), found.losses[0], points, found);
      assert.equal(objective.refusal?.() ?? null, null);
      const training = train(objective, found);
      const first = training.value;
      for (let i = 0; i < 60; i++) training.advance();
      assert.equal(training.gone, null, name);
      assert.ok(training.value < first, `${name} rises from ${first} to ${training.value}`);
      assert.equal(objective.pulls.length, points.length);
    }
  }
});

test("an operand that only shrinks the loss is not learned, one with a best value is", () => {
  const heads = (name) => {
    const found = state(`play=regression&loss=${name}`);
    return objectiveOf(card(name), found.losses[0], pointsOf(found), found).described.heads.map((h) => h.operand);
  };
  assert.deepEqual(heads("mase_loss"), ["input"]);
  assert.deepEqual(heads("gaussian_nll_loss"), ["input", "var"]);
});

test("presets are links that say what they are, with every caption", () => {
  for (const { name, link, hint, why } of presets) {
    assert.deepEqual(problems(link), [], name);
    assert.equal(write(state(link)), link, name);
    assert.ok(hint.length > 40 && why.length > 40, name);
  }
});

test("a mode alone is its first preset", () => {
  for (const mode of Object.keys(MODES)) {
    assert.deepEqual(problems(`play=${mode}`), []);
    assert.ok(presets.some(({ link }) => link === write(state(`play=${mode}`)) && link.startsWith(`play=${mode}&`)));
  }
});

test("a link keeps points that were moved", () => {
  const link = "play=regression&loss=huber_loss:delta=2&n=3&points=-1.2,0.5;0,2.1;1.999,-2";
  assert.deepEqual(problems(link), []);
  assert.deepEqual(state(link).points, [
    { x: -1.2, y: 0.5 },
    { x: 0, y: 2.1 },
    { x: 1.999, y: -2 },
  ]);
  assert.equal(write(state(link)), link);
});

test("every bad link is answered, and starts from an allowed state", () => {
  const bad = [
    ...["", "=", "=wind", "=Outliers", "=toString", "=__proto__", "=regression&play=classes"].map((x) => `play${x}`),
    ...["1e9", "NaN", "-5", "2.5", "Infinity", "", "two"].map((n) => `play=regression&n=${n}`),
    ...["lr=0", "seed=", "model=forest", "data=toString", "theme=blue", "%", "%ZZ=1", "<b>", "axis=logit", "embed"].map(
      (x) => `play=regression&${x}`,
    ),
    ...["1,2", "1,NaN;2,3", "", "1,2;3", "1,2;1e400,2", Array(301).fill("1,1").join(";")].map(
      (x) => `play=regression&points=${x}`,
    ),
    ...["no_loss", "cross_entropy", "huber_loss:delta=NaN", "huber_loss:delta=Infinity", "huber_loss:delta=1:2"].map(
      (x) => `play=regression&loss=${x}`,
    ),
    "play=classes&points=0,0,7;1,1,0;0,1,1;1,0,1",
    "play=classes&rare=0&classes=9&wrong=99",
    "play=embeddings&space=cube&classes=0",
    "play=embeddings&points=1,2",
    "loss=huber_loss&play=",
  ];
  for (const link of bad) {
    const { state: found, problems: said } = read(`#${link}`, cards);
    assert.ok(said.length > 0, link);
    for (const sentence of said) assert.match(sentence, /^.*\S.*\.$/, link);
    assert.ok(found.losses.length > 0, link);
    const again = read(write(found), cards);
    assert.deepEqual(again.problems, [], `${link} became ${write(found)}`);
    const { fits, settings } = MODES[found.mode];
    for (const chosen of found.losses)
      assert.ok(
        offered(cards, fits).some((one) => one.name === chosen.name),
        link,
      );
    for (const [name, { low, high, words }] of Object.entries(settings)) {
      const x = found.settings[name];
      assert.ok(words ? Object.hasOwn(words, x) : x >= low && x <= high, `${link}: ${name} is ${x}`);
    }
  }
});

test("a link that says what is refused is answered in sentences, and starts from the nearest", () => {
  assert.deepEqual(problems("play=regression&loss=mse_loss&n=1000&noise=-1&lr=fast&seed=2.4&data=moon&wind=3"), [
    "n must be a whole number from 2 to 300, got 1000; 300, the nearest, is taken.",
    "noise must be from 0 to 2, got -1; 0, the nearest, is taken.",
    "lr must be a number, got “fast”; 0.05 is taken.",
    "seed must be a whole number from 1 to 9999, got 2.4; 2, the nearest, is taken.",
    "data must be line, wave, spread or counts, got “moon”; line is taken.",
    "The link says “wind=3”, which the playground does not know.",
  ]);
  const { settings } = state("play=regression&n=1000&noise=-1&lr=Infinity");
  assert.deepEqual([settings.n, settings.noise, settings.lr], [300, 0, 10]);
  assert.deepEqual(problems("play=chess"), [
    "The link says “play=chess”, which this page does not know; regression is shown.",
  ]);
  const of = (losses) => problems(`play=regression&${losses}`);
  assert.deepEqual(of("loss=ctc_loss"), ["ctc_loss cannot be trained under Regression; it is left out."]);
  assert.equal(state("play=regression&loss=ctc_loss").losses.length, 3);
  assert.deepEqual(of("loss=mse_loss&loss=l1_loss&loss=huber_loss&loss=mape_loss"), [
    "At most 3 losses race; mape_loss is left out.",
  ]);
  assert.deepEqual(of("loss=huber_loss:delta=-1"), [
    "huber_loss: delta must be positive, got -1; the link's value is left out.",
  ]);
  assert.deepEqual(of("points=1,two;0,0"), [
    "The link's points have “1,two”, which is no point; points of the seed stand in their place.",
  ]);
  assert.deepEqual(of("points=1,2"), [
    "The link's points must be 2 to 300, got 1; points of the seed stand in their place.",
  ]);
  assert.deepEqual(state("play=regression&points=9,2;0,-99").points, [
    { x: 2, y: 2 },
    { x: 0, y: -3 },
  ]);
});

test("a point that a loss does not take is named", () => {
  const found = state("play=regression&loss=tweedie_deviance_loss&points=0,1;1,-2");
  const objective = objectiveOf(card("tweedie_deviance_loss"), found.losses[0], pointsOf(found), found);
  assert.equal(objective.refusal(), "tweedie_deviance_loss: target must be non-negative, got -2");
});

test("a training that diverges stops at its last finite parameters and knows the step", () => {
  const found = state("play=regression&loss=mse_loss&optimizer=SGD&lr=5");
  const training = train(objectiveOf(card("mse_loss"), found.losses[0], pointsOf(found), found), found);
  for (let i = 0; i < 200; i++) training.advance();
  assert.ok(training.gone > 3 && training.gone < 60, `${training.gone}`);
  assert.equal(training.steps, training.gone - 1);
  assert.ok(training.parameters.every(Number.isFinite) && Number.isFinite(training.value));
});

test("calibration compares how sure a model is with how often it is right", () => {
  const all = [
    ...Array.from({ length: 10 }, (_, i) => ({ sure: 0.72, right: i < 5 })),
    ...Array.from({ length: 10 }, (_, i) => ({ sure: 0.95, right: i < 9 })),
  ];
  const [low, high] = calibration(all);
  assert.deepEqual([low.count, low.right, high.count, high.right], [10, 0.5, 10, 0.9]);
  assert.ok(Math.abs(calibrationError(all) - (0.22 + 0.05) / 2) < 1e-12);
});

/** The trainings of a preset after so many steps. */
function after(name, steps, more = "") {
  const found = state(presets.find((preset) => preset.name === name).link + more);
  const points = pointsOf(found);
  return found.losses.map((chosen) => {
    const objective = objectiveOf(card(chosen.name), chosen, points, found);
    const training = train(objective, found);
    for (let i = 0; i < steps; i++) training.advance();
    return { objective, training, points };
  });
}
const mean = (all, of) => all.reduce((sum, x) => sum + of(x), 0) / all.length;

test("captions of regression say what happens", () => {
  const far = ({ objective, training, points }) => {
    const part = shares(objective.pulls);
    return part.filter((_, i) => Math.abs(points[i].y - objective.fit(training.parameters, points[i].x).y) > 2);
  };
  const [mse, huber] = after("Outliers", 200).map((one) => Math.max(...far(one)));
  assert.ok(mse > 1.5 * huber, `${mse} and ${huber}`);
  const [, , tukey] = after("Letting go", 200);
  assert.deepEqual(new Set(far(tukey)), new Set([0]));
  const below = after("Quantiles", 300).map(({ objective, training, points }) =>
    mean(points, ({ x, y }) => +(y < objective.fit(training.parameters, x).y)),
  );
  for (const [k, share] of [0.1, 0.5, 0.9].entries()) assert.ok(Math.abs(below[k] - share) < 0.03, `${below}`);
  const [left, right] = [-1.8, 1.8].map((x) =>
    after("Mean and spread", 300).map(({ objective, training }) => objective.fit(training.parameters, x).spread),
  );
  for (const k of left.keys()) assert.ok(right[k] > 3 * left[k], `${left} and ${right}`);
  const [poisson, line] = after("Counts", 300).map(
    ({ objective, training }) => objective.fit(training.parameters, -2).y,
  );
  assert.ok(poisson > 0 && line < 0, `${poisson} and ${line}`);
  const [detour, , straight] = after("A network among outliers", 300).map(({ objective, training, points }) => {
    const part = shares(objective.pulls);
    return part.reduce((sum, share, i) => sum + (points[i].y < -1.5 ? share : 0), 0);
  });
  assert.ok(detour > 3 * straight, `${detour} and ${straight}`);
  const jitter = ({ training }) => Math.max(...training.history.slice(-20)) - Math.min(...training.history.slice(-20));
  const [calm, , shaking] = after("No rest for L1", 300).map(jitter);
  assert.ok(shaking > 1e-4 && calm < 1e-9, `${shaking} and ${calm}`);
});

test("captions of classes say what happens", () => {
  const sure = after("How sure", 300).map(({ objective, training, points }) =>
    mean(answers({ objective, training }, points), (a) => a.sure),
  );
  const right = after("How sure", 300).map(({ objective, training, points }) =>
    mean(answers({ objective, training }, points), (a) => +a.right),
  );
  assert.ok(Math.abs(sure[0] - right[0]) < 0.03, `${sure[0]} and ${right[0]}`);
  assert.ok(sure[1] < right[1] - 0.05 && sure[2] < right[2] - 0.05, `${sure} and ${right}`);
  const few = ({ objective, training, points }) =>
    mean(
      points.filter(({ label }) => label === 1),
      ({ x, y }) => objective.belief(training.parameters, x, y)[1],
    );
  const [plain, weighted] = after("A rare class", 300).map(few);
  assert.ok(weighted > plain + 0.1, `${plain} and ${weighted}`);
  const idle = ({ objective }) => mean(shares(objective.pulls), (share) => +(share === 0));
  const [all, ...hinges] = after("Who still pulls", 300).map(idle);
  assert.ok(all === 0 && hinges.every((share) => share > 0.7), `${all} and ${hinges}`);
  const truly = ({ objective, training, points }) =>
    mean(points, ({ x, y, was }) => {
      const belief = objective.belief(training.parameters, x, y);
      return +(belief.indexOf(Math.max(...belief)) === was);
    });
  const [bent, kept] = after("Wrong labels", 500).map(truly);
  assert.ok(kept > bent + 0.02, `${kept} and ${bent}`);
  for (const share of after("Three classes", 300).map(truly)) assert.ok(share < 0.62, `${share}`);
  for (const share of after("Three classes", 300, "&model=network").map(truly)) assert.ok(share > 0.97, `${share}`);
});

test("captions of embeddings say what happens", () => {
  const apart = ({ objective, training }, alike) => {
    const places = objective.places(training.parameters);
    const pairs = places.flatMap((a, i) => places.slice(0, i).map((b) => [a, b]));
    const some = pairs.filter(([a, b]) => (a.label === b.label) === alike);
    return some.map(([a, b]) => Math.hypot(a.x - b.x, a.y - b.y));
  };
  const [supcon, late] = after("Clusters form", 200);
  assert.ok(Math.max(...apart(supcon, true)) < 0.2 && Math.min(...apart(supcon, false)) > 1);
  assert.ok(Math.max(...apart(late, true)) > 0.5);
  for (const one of after("Pairs, not classes", 300)) assert.ok(mean(apart(one, true), (x) => x) > 0.9);
  const [collapsed, ...held] = after("Collapse", 250);
  assert.ok(Math.min(...apart(collapsed, false)) < 0.3);
  for (const one of held) assert.ok(Math.min(...apart(one, false)) > 1);
  for (const { training } of [collapsed, ...held]) assert.ok(training.value < 0.01);
  const wrong = (one) => Math.max(...apart(one, true));
  const stalled = after("Stalled", 800).map(wrong);
  const passed = after("Stalled", 800, "&space=plane").map(wrong);
  assert.ok(Math.min(...stalled) > 0.5, `${stalled}`);
  assert.ok(passed[2] < stalled[2], `${passed} and ${stalled}`);
});
