/** Focal loss, which listens to the hard ones, and rare classes, which are outvoted. */

import { h } from "../dom.js";
import { random } from "../playground/random.js";
import { shares } from "../playground/shares.js";
import { sigmoid } from "../primitives.js";
import { frame, glide, legend } from "./frame.js";
import { byFactors, choice, handle, slider } from "./hands.js";
import { given, percent, say } from "./losses.js";
import { crossing, focused, WAYS } from "./scores.js";
import { arrow, chart, s } from "./svg.js";

/** Leads of the right score: most examples are right already. */
export const examples = () => {
  const chance = random(8);
  return Array.from({ length: 120 }, (_, i) => (i % 10 ? 2.6 : -0.9) + 1.1 * chance.normal());
};

/** The share of the pull that belongs to examples which are wrong. */
export function wrongShare(leads, gamma) {
  const part = shares(leads.map(focused(gamma)));
  return part.reduce((sum, one, i) => sum + (leads[i] < 0 ? one : 0), 0);
}

/** A bar of two shares, with their names. */
function bar(picture, y, share, names, colours) {
  const [a, b] = [picture.left, picture.width - picture.right];
  const middle = a + (b - a) * share;
  const text = (x, height, anchor, words, colour) =>
    s("text", { class: `strong ${colour}`, x, y: height, "text-anchor": anchor }, words);
  return [
    s("rect", { class: `bar ${colours[0]}`, x: a, y, width: Math.max(middle - a, 0), height: 18 }),
    s("rect", { class: `bar ${colours[1]}`, x: middle, y, width: Math.max(b - middle, 0), height: 18 }),
    text(a, y - 6, "start", `${names[0]} ${percent(share)}`, colours[0]),
    text(b, y + 32, "end", `${names[1]} ${percent(1 - share)}`, colours[1]),
  ];
}

export function focalFigure(root) {
  const {
    stage,
    controls,
    say: tell,
  } = frame(root, {
    title: "Each dot is an example; its size is its share of the pull",
    how: "Move gamma. At the left end of the slider, focal loss is cross entropy.",
    build: focalFigure,
  });
  const leads = examples();
  const known = given("softmax_focal_loss", "gamma");
  let gamma = known.value;
  const place = h("div", { class: "wide" });
  stage.append(
    legend([
      { colour: "c1", label: "pull of cross entropy" },
      { colour: "c0", label: "pull of focal loss" },
    ]),
    place,
  );
  const fall = random(4);
  const heights = leads.map(() => fall.uniform());
  const wrong = leads.filter((lead) => lead < 0).length;
  const picture = chart(place, {
    name: "Pull over the probability of the right answer, and the shares of a batch",
    height: 346,
    x: [0, 1],
    y: [0, 1.45],
    top: 140,
    xLabel: "probability of the right answer",
    draw() {
      const lead = (p) => Math.log(p / (1 - p));
      const inside = (p) => Math.min(Math.max(p, 1e-6), 1 - 1e-6);
      const part = shares(leads.map(focused(gamma)));
      picture.put(
        bar(picture, 24, wrongShare(leads, gamma), ["wrong examples pull", "right ones"], ["k1", "k0"]),
        leads.map((one, i) =>
          s("circle", {
            class: `spot ${one < 0 ? "k1" : "k0"}`,
            cx: picture.x(sigmoid(one)),
            cy: 78 + 44 * heights[i],
            r: 1.2 + 4.6 * Math.sqrt(part[i] * leads.length * 0.5),
          }),
        ),
        picture.axes(),
        picture.curve((p) => focused(0)(lead(inside(p))), "c1"),
        picture.curve((p) => focused(gamma)(lead(inside(p))), "c0"),
      );
    },
  });
  function all() {
    picture.redraw();
    tell(
      `${wrong} of ${leads.length} examples are wrong. With gamma ${say(gamma)} they have ${percent(wrongShare(leads, gamma))} of the pull; ` +
        `under cross entropy they have ${percent(wrongShare(leads, 0))}.`,
    );
  }
  slider(controls, {
    label: "gamma",
    title: known.label,
    min: known.low,
    max: known.high,
    step: 0.05,
    value: gamma,
    says: say,
    on(x) {
      gamma = x;
      all();
    },
  });
  all();
}

const SCORES = [-7, 7];
const LABELS = { nothing: "nothing", weight: "a weight", adjustment: "logit adjustment" };

/** Where the pulls of the rare and of the common examples are the same. */
export const balance = (pulls) => crossing((z) => pulls.rare(z) + pulls.common(z), -60, 60);

export function rareFigure(root) {
  const {
    stage,
    controls,
    say: tell,
  } = frame(root, {
    title: "A vote on one score",
    how: "Change how rare the class is, what is done about it, and drag the score that all examples share. Let go, and it rolls to where the pulls are even.",
    build: rareFigure,
  });
  const state = { rare: 0.05, way: "nothing" };
  state.weight = (1 - state.rare) / state.rare; // as much as the others are more
  let z = 0;
  let stop = () => {};
  const place = h("div", { class: "wide" });
  stage.append(place);
  const pulls = () => WAYS[state.way](state);
  const part = (all) => shares([all.rare(z), all.common(z)])[0];
  const picture = chart(place, {
    name: "The loss of the batch over the score of the rare class",
    height: 364,
    x: SCORES,
    y: [0, 1],
    top: 78,
    shelf: 20,
    xLabel: "score of the rare class, when nothing else is known",
    draw() {
      const all = pulls();
      const grid = Array.from({ length: 121 }, (_, i) => all.value(SCORES[0] + ((SCORES[1] - SCORES[0]) * i) / 120));
      const [low, high] = [Math.min(...grid), Math.max(...grid)];
      picture.ys = [low - 0.04 * (high - low), high];
      const [x, y] = [picture.x(z), picture.y(all.value(z))];
      const length = (share) => 150 * share;
      picture.put(
        bar(picture, 26, part(all), ["the rare class pulls up", "the common one down"], ["k1", "k0"]),
        picture.xAxis(),
        picture.curve(all.value, "lone c4"),
        picture.guide(z, y),
        s("circle", { class: "spot c4", cx: x, cy: y - 7, r: 7 }),
        arrow(x + 8, y - 7, length(part(all)), 0, "k1"),
        arrow(x - 8, y - 7, -length(1 - part(all)), 0, "k0"),
      );
      knob.place(x, picture.floor() + 14);
    },
  });
  const knob = handle(picture, {
    look: "knob",
    name: () => "score of the rare class",
    says: () => say(z),
    at: () => [z],
    limits: [SCORES, null],
    move(x) {
      stop();
      z = x;
      all();
    },
    release() {
      stop();
      stop = glide(z, balance(pulls()), (now) => {
        z = now;
        all();
      });
    },
  });
  function all() {
    picture.redraw();
    const now = pulls();
    const end = balance(now);
    const means =
      state.way === "adjustment"
        ? "its own score asks for no class more than for the other"
        : `the model then says ${percent(sigmoid(end))} for the rare class`;
    tell(
      `${percent(state.rare)} of the examples are of the rare class. At the score ${say(z)} it has ${percent(part(now))} of the pull. ` +
        `The pulls are even at ${say(Math.abs(end) < 1e-9 ? 0 : end)}: ${means}.`,
    );
  }
  choice(controls, {
    label: "what is done",
    options: Object.entries(LABELS).map(([value, label]) => ({ value, label })),
    value: state.way,
    on(way) {
      state.way = way;
      weight.root.hidden = way !== "weight";
      all();
    },
  });
  slider(controls, {
    label: "share of the rare class",
    min: 0.005,
    max: 0.5,
    step: 0.01,
    value: state.rare,
    says: percent,
    ...byFactors,
    on(x) {
      state.rare = x;
      all();
    },
  });
  const weight = slider(controls, {
    label: "pos_weight",
    title: given("binary_cross_entropy_with_logits", "pos_weight").label,
    min: 1,
    max: 200,
    step: 0.01,
    value: state.weight,
    says: say,
    ...byFactors,
    on(x) {
      state.weight = x;
      all();
    },
  });
  weight.root.hidden = true;
  all();
}
