/** Temperature, which decides whom a row of scores listens to, and label smoothing, which gives certainty an end. */

import { h } from "../dom.js";
import { random } from "../playground/random.js";
import { rounded } from "../playground/data.js";
import { shares } from "../playground/shares.js";
import { sigmoid } from "../primitives.js";
import { frame, glide, legend } from "./frame.js";
import { byFactors, handle, slider } from "./hands.js";
import { given, percent, say } from "./losses.js";
import { attention, restingLead, smoothed } from "./scores.js";
import { arrow, chart, s } from "./svg.js";

/** A right candidate and others, from near to far. */
const candidates = () => {
  const chance = random(21);
  const others = Array.from({ length: 6 }, () => rounded(chance.between(-0.3, 0.55)));
  return [0.7, ...others.sort((a, b) => b - a)];
};

export function temperatureFigure(root) {
  const {
    stage,
    controls,
    say: tell,
  } = frame(root, {
    title: "Whom the pull goes to",
    how: "Drag a candidate up or down, or focus it and use the arrow keys. Then turn the temperature.",
    build: temperatureFigure,
  });
  const similar = candidates();
  const known = given("info_nce_loss", "temperature");
  let temperature = known.value;
  const place = h("div", { class: "wide" });
  stage.append(place);
  const name = (i) => (i === 0 ? "the right one" : `other ${i}`);
  const picture = chart(place, {
    name: "Similarity of each candidate, and how it is pulled",
    height: 330,
    x: [-0.6, similar.length - 0.4],
    y: [-1.5, 1.7],
    yLabel: "similarity",
    draw() {
      const pulls = attention(similar, temperature);
      const others = shares(pulls.slice(1));
      const part = [1, ...others];
      picture.put(
        picture.yAxis(),
        similar.map((y, i) => [
          s("line", { class: "axis", x1: picture.x(i), x2: picture.x(i), y1: picture.y(-1), y2: picture.y(1) }),
          arrow(
            picture.x(i),
            picture.y(y) - Math.sign(pulls[i]) * -12,
            0,
            Math.sign(pulls[i]) * part[i] * 70,
            i === 0 ? "k0" : "k1",
          ),
          s(
            "text",
            { x: picture.x(i), y: picture.floor() + 15, "text-anchor": "middle", class: i === 0 ? "strong k0" : "" },
            i === 0 ? "right" : `${Math.round(100 * others[i - 1])} %`,
          ),
        ]),
      );
      similar.forEach((y, i) => handles[i].place(picture.x(i), picture.y(y), i === 0 ? "k0" : "k1"));
    },
  });
  const handles = similar.map((_, i) =>
    handle(picture, {
      name: () => `similarity of ${name(i)}`,
      says: () => say(similar[i]),
      at: () => [i, similar[i]],
      limits: [null, [-1, 1]],
      move(_x, y) {
        similar[i] = rounded(y);
        all();
      },
    }),
  );
  function all() {
    picture.redraw();
    const pulls = attention(similar, temperature);
    const others = shares(pulls.slice(1));
    const hardest = similar.indexOf(Math.max(...similar.slice(1)), 1);
    tell(
      `At temperature ${say(temperature)} the hardest of ${others.length} others, at similarity ${say(similar[hardest])}, gets ${percent(others[hardest - 1])} of what pushes them away, ` +
        `and the easiest ${percent(Math.min(...others))}. The right one is pulled up with ${say(-pulls[0])}.`,
    );
  }
  slider(controls, {
    label: "temperature",
    title: known.label,
    min: 0.02,
    max: 2,
    step: 0.01,
    value: temperature,
    says: say,
    ...byFactors,
    on(x) {
      temperature = x;
      all();
    },
  });
  all();
}

const FAR = 60;

export function smoothingFigure(root) {
  const {
    stage,
    controls,
    say: tell,
  } = frame(root, {
    title: "A place of rest for certainty",
    how: "Move the smoothing away from nothing, then change the number of classes.",
    build: smoothingFigure,
  });
  const known = given("cross_entropy", "label_smoothing");
  const state = { smoothing: known.value, classes: 10 };
  let at = 0;
  let stop = () => {};
  const place = h("div", { class: "wide" });
  stage.append(
    legend([
      { colour: "c1", label: "without smoothing" },
      { colour: "c0", label: "with smoothing" },
    ]),
    place,
  );
  const picture = chart(place, {
    name: "Cross entropy over the lead of the right score",
    height: 280,
    x: [-3, 14],
    y: [0, 5],
    xLabel: "lead of the right score over every other",
    yLabel: "loss",
    draw() {
      const [plain, smooth] = [smoothed(state.classes, 0), smoothed(state.classes, state.smoothing)];
      const x = Math.min(at, picture.xs[1]);
      picture.put(
        picture.axes(),
        picture.curve(plain.value, "c1"),
        picture.curve(smooth.value, "c0"),
        picture.guide(x, picture.y(smooth.value(x))),
        s("circle", { class: "spot c0", cx: picture.x(x), cy: picture.y(smooth.value(x)) - 7, r: 7 }),
      );
    },
  });
  function all(glides) {
    const lead = restingLead(state.classes, state.smoothing, FAR);
    const end = Math.min(lead, picture.xs[1] - 0.4);
    stop();
    stop = glide(glides ? at : end, end, (x) => {
      at = x;
      picture.redraw();
    });
    const likely = sigmoid(lead - Math.log(state.classes - 1));
    tell(
      Number.isFinite(lead)
        ? `With label smoothing ${say(state.smoothing)} over ${state.classes} classes, the loss is least where the right score leads by ${say(lead)}: the model then gives the right answer ${percent(likely)}, and wants no more.`
        : `Without smoothing the loss falls for ever: over ${state.classes} classes, a lead of ${say(picture.xs[1])} still pulls upwards with ${say(-smoothed(state.classes, 0).slope(picture.xs[1]))}.`,
    );
  }
  slider(controls, {
    label: "label smoothing",
    title: known.label,
    min: known.low,
    max: 0.5,
    step: 0.01,
    value: state.smoothing,
    says: (x) => (x > 0 ? say(x) : "none"),
    on(x) {
      state.smoothing = x;
      all(false);
    },
  });
  slider(controls, {
    label: "classes",
    min: 2,
    max: 1000,
    step: 0.01,
    value: state.classes,
    says: (x) => say(Math.round(x)),
    of: (v) => Math.round(10 ** v),
    position: Math.log10,
    on(x) {
      state.classes = x;
      all(false);
    },
  });
  all(true);
}
