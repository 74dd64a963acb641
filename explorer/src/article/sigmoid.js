/** Cross entropy and squared error behind a sigmoid: their pulls by the logit, and a race from a bad start. */

import { h } from "../dom.js";
import { sigmoid } from "../primitives.js";
import { COLOURS, frame, legend } from "./frame.js";
import { byFactors, handle, slider } from "./hands.js";
import { byLogit, percent, say } from "./losses.js";
import { passes, race } from "./scores.js";
import { chart, path, s } from "./svg.js";

const [ENTROPY, SQUARE] = ["binary_cross_entropy_with_logits", "mse_loss"];
const BOTH = [ENTROPY, SQUARE];
const LABELS = { [ENTROPY]: "cross entropy of the logit", [SQUARE]: "squared error of its sigmoid" };
const LOGITS = [-10, 6];

const keys = () => legend(BOTH.map((name) => ({ colour: COLOURS[name], label: LABELS[name] })));

export function sigmoidFigure(root) {
  const { stage, say: tell } = frame(root, {
    title: "One example, whose right answer is yes",
    how: "Drag the logit, or focus it and use the arrow keys, with Shift further.",
    build: sigmoidFigure,
  });
  let z = -5;
  const f = Object.fromEntries(BOTH.map((name) => [name, byLogit(name, 1)]));
  const [left, right] = [h("div"), h("div")];
  stage.append(keys(), left, right);
  const picture = (parent, name, of, high, yLabel) => {
    const self = chart(parent, {
      name,
      height: 270,
      shelf: 20,
      x: LOGITS,
      y: [0, high],
      xLabel: "logit",
      yLabel,
      draw() {
        self.put(
          self.axes(),
          BOTH.map((one) => self.curve((x) => of(f[one](x)), COLOURS[one])),
          self.guide(z),
          BOTH.map((one) => self.spot(z, of(f[one](z)), COLOURS[one])),
        );
        self.knob.place(self.x(z), self.floor() + 14);
      },
    });
    self.knob = handle(self, {
      look: "knob",
      name: () => `logit, below the ${yLabel}`,
      says: () => say(z),
      at: () => [z],
      limits: [LOGITS, null],
      move(x) {
        z = x;
        all();
      },
    });
    return self;
  };
  const charts = [
    picture(left, "The loss over the logit", ({ value }) => value, 10.5, "loss"),
    picture(right, "The pull over the logit", ({ slope }) => -slope, 1.15, "pull upwards"),
  ];

  function all() {
    for (const one of charts) one.redraw();
    const [entropy, square] = BOTH.map((name) => -f[name](z).slope);
    tell(
      `At the logit ${say(z)} the model gives the right answer ${percent(sigmoid(z))}. Cross entropy pulls it up with ${say(entropy)}, ` +
        `squared error with ${say(square)}: ${say(entropy / square)} times less.`,
    );
  }
  all();
}

const MOST = 600;

export function raceFigure(root) {
  const {
    stage,
    controls,
    say: tell,
  } = frame(root, {
    title: "The race of one example",
    how: "Change where it starts and how large its steps are.",
    build: raceFigure,
  });
  const state = { start: -6, rate: 0.5 };
  let runs = [];
  const place = h("div", { class: "wide" });
  stage.append(keys(), place);
  const picture = chart(place, {
    name: "Probability of the right answer, step by step",
    height: 260,
    x: [0, MOST],
    y: [0, 1.08],
    xLabel: "step",
    yLabel: "probability of the right answer",
    draw() {
      picture.put(
        picture.axes(),
        s("line", { class: "guide", x1: picture.x(0), x2: picture.x(MOST), y1: picture.y(0.5), y2: picture.y(0.5) }),
        runs.map(({ name, logits, step }) => [
          s("path", {
            class: `curve ${COLOURS[name]}`,
            d: path(logits.map((z, i) => [picture.x(i), picture.y(sigmoid(z))])),
          }),
          step > 0 && picture.spot(step, sigmoid(logits[step]), COLOURS[name]),
        ]),
      );
    },
  });
  function all() {
    runs = BOTH.map((name) => {
      const logits = race(name, state.start, state.rate, MOST);
      return { name, logits, step: passes(logits) };
    });
    picture.redraw();
    const when = ({ name, step, logits }) => {
      const who = name === ENTROPY ? "cross entropy" : "squared error";
      return step >= 0
        ? `${who} in step ${step}`
        : `${who} never in ${MOST} steps: it ends at ${percent(sigmoid(logits.at(-1)))}`;
    };
    tell(
      `From ${percent(sigmoid(state.start))}, the right answer becomes the likelier one: ${runs.map(when).join("; ")}.`,
    );
  }
  slider(controls, {
    label: "logit at the start",
    min: -10,
    max: 0,
    step: 0.1,
    value: state.start,
    says: say,
    on(x) {
      state.start = x;
      all();
    },
  });
  slider(controls, {
    label: "size of a step",
    min: 0.05,
    max: 5,
    step: 0.01,
    value: state.rate,
    says: say,
    ...byFactors,
    on(x) {
      state.rate = x;
      all();
    },
  });
  all();
}
