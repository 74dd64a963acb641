/** What NaN and 0 do to a training: a batch with one missing label, and a gradient that rounding takes away. */

import { h, replace } from "../dom.js";
import { points as evenly } from "../formulas.js";
import { rounded } from "../playground/data.js";
import { random } from "../playground/random.js";
import { breaks, FORMATS, SPELLINGS, step } from "./arithmetic.js";
import { frame, legend } from "./frame.js";
import { button, choice, handle } from "./hands.js";
import { say } from "./losses.js";
import { chart, s } from "./svg.js";

const RATE = 0.1;
const MASKS = { none: "none", times: "loss times zero", left: "left out (mask=)" };

const begin = () => {
  const chance = random(2);
  const rows = Array.from({ length: 6 }, () => {
    const x = [1, rounded(chance.between(-1, 1))];
    return { x, target: rounded(0.5 + x[1] + 0.1 * chance.normal()) };
  });
  return { weights: [0, 0], rows };
};

/** A number of a batch; what is no number is called by the name that it has in a log. */
const shown = (x) => (Number.isNaN(x) ? "NaN" : say(x));

export function nanFigure(root) {
  const {
    stage,
    controls,
    say: tell,
  } = frame(root, {
    title: "A batch, and the step that follows from it",
    how: "Take a label away, then take a step. Then start again with another mask.",
    build: nanFigure,
  });
  const state = { ...begin(), mask: "none", steps: 0 };
  const lost = state.rows.map(() => false);
  const place = h("div", { class: "wide" });
  stage.append(place);
  const rows = () =>
    state.rows.map((row, i) => ({ ...row, target: lost[i] ? NaN : row.target, out: lost[i] && state.mask !== "none" }));
  const compute = () => step(state.weights, rows(), state.mask, RATE);

  const cells = state.rows.map((row, i) => {
    const toggle = h("button", { type: "button", onclick: () => ((lost[i] = !lost[i]), all()) });
    const list = h("dl");
    const root = h("div", { class: "cell" }, list, toggle);
    return { root, list, toggle };
  });
  const sums = h("p", { class: "sums" });
  place.append(
    h(
      "div",
      { class: "batch" },
      cells.map((cell) => cell.root),
    ),
    sums,
  );

  function all() {
    const now = compute();
    const ill = (x) => Number.isNaN(x);
    cells.forEach(({ root, list, toggle }, i) => {
      const { prediction, loss, pull } = now.each[i];
      const target = lost[i] ? NaN : state.rows[i].target;
      const entries = { label: target, prediction, loss, pull };
      replace(list, ...Object.entries(entries).flatMap(([name, x]) => [h("dt", {}, name), h("dd", {}, shown(x))]));
      toggle.textContent = lost[i] ? "Give it back" : "Take the label";
      toggle.setAttribute("aria-label", `${toggle.textContent}: row ${i + 1} of ${cells.length}`);
      root.className = `cell ${ill(pull) || ill(prediction) ? "ill" : ""} ${lost[i] && state.mask !== "none" ? "out" : ""}`;
    });
    const sum = (name, text) => h("span", {}, `${name} `, h("b", {}, text));
    replace(
      sums,
      sum("mean loss", shown(now.loss)),
      sum("gradient", now.gradient.map(shown).join(", ")),
      sum("weights now", state.weights.map(shown).join(", ")),
      sum("after the step", now.weights.map(shown).join(", ")),
    );
    const missing = lost.filter(Boolean).length;
    const dead = state.weights.filter(ill).length;
    const next = now.weights.filter(ill).length;
    const labels = missing === 1 ? "One label is" : `${missing} labels are`;
    const said = [
      `Step ${state.steps}.`,
      missing === 0 ? "Every row has its label." : `${labels} missing.`,
      dead > 0
        ? `${dead} of ${state.weights.length} weights are NaN, and so is every prediction: no later batch can heal them.`
        : next > 0
          ? `The mean is NaN, and the next step would make ${next} of ${state.weights.length} weights NaN.${state.mask === "times" ? " Zero times NaN is NaN: multiplying hides nothing." : ""}`
          : `The mean over ${cells.length - (state.mask === "left" ? missing : 0)} rows is ${shown(now.loss)}, and the step is sound.`,
    ];
    tell(said.join(" "));
  }
  choice(controls, {
    label: "mask of what is missing",
    options: Object.entries(MASKS).map(([value, label]) => ({ value, label })),
    value: state.mask,
    on(mask) {
      state.mask = mask;
      all();
    },
  });
  button(controls, "Take a step", () => {
    state.weights = compute().weights;
    state.steps++;
    all();
  });
  all();
}

const SCORES = [-6, 42];
const LOOKS = { textbook: "c1", clamped: "c2", stable: "c0" };
const TITLES = { textbook: "as in the textbook", clamped: "with a clamp", stable: "as losskit spells it" };

export function zeroFigure(root) {
  const {
    stage,
    controls,
    say: tell,
  } = frame(root, {
    title: "One loss, spelled in three ways",
    how: "Drag the score, or focus it and use the arrow keys, with Shift further; change the format of the numbers.",
    build: zeroFigure,
  });
  let [z, format] = [12, "float32"];
  const [left, right] = [h("div"), h("div")];
  stage.append(legend(Object.keys(SPELLINGS).map((one) => ({ colour: LOOKS[one], label: TITLES[one] }))), left, right);
  const at = (spelling, x) => SPELLINGS[spelling](FORMATS[format], x);
  const picture = (parent, name, key, y, yLabel) => {
    const self = chart(parent, {
      name,
      height: 290,
      shelf: 20,
      x: SCORES,
      y,
      xLabel: "score of an example whose right answer is no",
      yLabel,
      draw() {
        const curve = (one) => self.curve((x) => at(one, x)[key], LOOKS[one], 385);
        const spots = Object.keys(SPELLINGS).map((one) => {
          const v = at(one, z)[key];
          return Number.isFinite(v) && self.spot(z, v, LOOKS[one]);
        });
        const end = Math.min(breaks("textbook", FORMATS[format], grid), SCORES[1]);
        const lost = shown(at("textbook", SCORES[1])[key]);
        const ruin = end < SCORES[1] && [
          s("rect", {
            class: "ruin",
            x: self.x(end),
            y: self.top,
            width: self.x(SCORES[1]) - self.x(end),
            height: self.floor() - self.top,
          }),
          s(
            "text",
            { class: "strong c1", x: self.x(SCORES[1]), y: self.top - 11, "text-anchor": "end" },
            `textbook: ${lost}`,
          ),
        ];
        self.put(ruin, self.axes(), self.guide(z), ["stable", "clamped", "textbook"].map(curve), spots);
        self.knob.place(self.x(z), self.floor() + 14);
      },
    });
    self.knob = handle(self, {
      look: "knob",
      name: () => `score, below the ${yLabel}`,
      says: () => say(z),
      at: () => [z],
      limits: [SCORES, null],
      move(x) {
        z = x;
        all();
      },
    });
    return self;
  };
  const charts = [
    picture(left, "The loss over the score", "value", [0, 44], "loss"),
    picture(right, "The gradient over the score", "slope", [-0.1, 1.25], "gradient"),
  ];
  const grid = evenly(...SCORES, 4801);

  function all() {
    for (const one of charts) one.redraw();
    const [textbook, clamped, stable] = ["textbook", "clamped", "stable"].map((one) => at(one, z));
    const end = breaks("textbook", FORMATS[format], grid);
    const limit = Number.isFinite(end)
      ? `From ${say(end)} on, the probability is one to the last bit, and nothing is left of its distance to one`
      : "Nowhere here is the probability rounded to one";
    tell(
      `In ${format}, at ${say(z)}: the textbook has the loss ${shown(textbook.value)} and the gradient ${shown(textbook.slope)}; with a clamp, ${shown(clamped.value)} and ${shown(clamped.slope)}; ` +
        `as losskit spells it, ${shown(stable.value)} and ${shown(stable.slope)}. ${limit}.`,
    );
  }
  choice(controls, {
    label: "numbers are",
    options: Object.keys(FORMATS).map((value) => ({ value, label: value })),
    value: format,
    on(name) {
      format = name;
      all();
    },
  });
  all();
}
