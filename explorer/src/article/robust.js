/** Robustness: what one point can do as it is dragged away, and what it costs on points that are all good. */

import { h } from "../dom.js";
import { random } from "../playground/random.js";
import { rounded } from "../playground/data.js";
import { COLOURS, frame, legend } from "./frame.js";
import { handle, slider } from "./hands.js";
import { drawn, estimates, mixed, squaredError } from "./cost.js";
import { percent, say, springs, titleOf, toTarget } from "./losses.js";
import { deepest } from "./rest.js";
import { chart, s } from "./svg.js";

const NAMES = ["mse_loss", "huber_loss", "l1_loss", "cauchy_loss"];
const FAR = 12;
const PLACES = 97;

const clean = () => {
  const chance = random(3);
  return Array.from({ length: 10 }, () => rounded(0.8 * chance.normal()));
};

const keys = () => legend(NAMES.map((name) => ({ colour: COLOURS[name], label: titleOf(name) })));

/** Where each loss rests as one more point stands at x. */
export const moved = (name, points, x) => {
  const all = [...points, x];
  return deepest(springs(name, all), all).x;
};

export function outlierFigure(root) {
  const { stage, say: tell } = frame(root, {
    title: "One point leaves",
    how: "Drag the point that leaves, or focus it and use the arrow keys, with Shift further. The other points stay.",
    build: outlierFigure,
  });
  const points = clean();
  let out = 2;
  const [left, right] = [h("div"), h("div")];
  stage.append(keys(), left, right);
  const xs = [-2, FAR];
  const grid = Array.from({ length: PLACES }, (_, i) => xs[0] + ((xs[1] - xs[0]) * i) / (PLACES - 1));
  const followed = Object.fromEntries(NAMES.map((name) => [name, grid.map((x) => moved(name, points, x))]));
  const [least, most] = [Math.min, Math.max].map((end) => end(...Object.values(followed).flat()));
  const slopes = Object.fromEntries(NAMES.map((name) => [name, toTarget(name)(0).slope]));

  /** The curve through the numbers of the grid. */
  const at = (list) => (x) =>
    list[Math.min(Math.max(Math.round(((x - xs[0]) / (xs[1] - xs[0])) * (PLACES - 1)), 0), PLACES - 1)];
  const rests = chart(left, {
    name: "Where the prediction rests, as one point leaves",
    height: 290,
    shelf: 12,
    x: xs,
    y: [least - 0.1 * (most - least), most],
    xLabel: "where the leaving point is",
    yLabel: "where the prediction rests",
    draw() {
      rests.put(
        rests.axes(),
        points.map((x) => s("circle", { class: "spot plain", cx: rests.x(x), cy: rests.floor(), r: 4.5 })),
        NAMES.map((name) => rests.curve(at(followed[name]), COLOURS[name], PLACES)),
        rests.guide(out),
        NAMES.map((name) => rests.spot(out, moved(name, points, out), COLOURS[name])),
      );
      leaving.place(rests.x(out), rests.floor(), "wrong");
    },
  });
  const leaving = handle(rests, {
    name: () => "the point that leaves",
    says: () => say(out),
    at: () => [out],
    limits: [xs, null],
    move(x) {
      out = rounded(x);
      all();
    },
  });
  const pulls = chart(right, {
    name: "The pull of a point by its distance from the prediction",
    height: 290,
    shelf: 12,
    x: [0, FAR],
    y: [0, 5],
    xLabel: "its distance from the prediction",
    yLabel: "its pull",
    draw() {
      const distance = (name) => Math.abs(out - moved(name, points, out));
      const pull = (name) => (x) => Math.abs(slopes[name](x));
      pulls.put(
        pulls.axes(),
        NAMES.map((name) => pulls.curve((x) => pull(name)(x || Number.MIN_VALUE), COLOURS[name])),
        NAMES.map((name) => pulls.spot(distance(name), pull(name)(distance(name)), COLOURS[name])),
      );
    },
  });

  function all() {
    rests.redraw();
    pulls.redraw();
    const said = NAMES.map((name) => {
      const x = moved(name, points, out);
      return `${titleOf(name)} rests at ${say(x)} and is pulled with ${say(Math.abs(slopes[name](out - x)))}`;
    });
    tell(`One of ${points.length + 1} points stands at ${say(out)}. ${said.join("; ")}.`);
  }
  all();
}

const WIDE = [-1.6, 2.6];
const BINS = 84;

/** The premium: small samples from a seed, where each loss rests on them, and how far that is from the truth. */
export function costFigure(root) {
  const {
    stage,
    controls,
    say: tell,
  } = frame(root, {
    title: "The premium, and what it insures",
    how: "Move the share of wild points away from nothing, and back.",
    build: costFigure,
  });
  const setting = { seed: 1, samples: 400, size: 20, far: 8 };
  const samples = drawn(setting);
  let share = 0;
  let found = [];
  const place = h("div", { class: "wide" });
  stage.append(place);
  const lane = 62;
  const picture = chart(place, {
    name: "Where each loss rests on many samples",
    height: NAMES.length * lane + 34,
    x: WIDE,
    xLabel: "place of rest; the truth is the upright line",
    draw() {
      const zero = picture.x(0);
      picture.put(
        picture.xAxis(),
        found.map(({ name, places, error }, i) => {
          const base = (i + 1) * lane - 12;
          const counts = new Array(BINS).fill(0);
          const width = (WIDE[1] - WIDE[0]) / BINS;
          for (const x of places) counts[Math.min(Math.max(Math.floor((x - WIDE[0]) / width), 0), BINS - 1)]++;
          const high = 40 / (setting.samples / 8);
          return [
            s("line", { class: "axis", x1: picture.x(WIDE[0]), x2: picture.x(WIDE[1]), y1: base, y2: base }),
            counts.map((n, k) => {
              const height = Math.min(n * high, 42);
              const x = picture.x(WIDE[0] + k * width);
              const wide = picture.x(WIDE[0] + (k + 1) * width) - x;
              return (
                n > 0 &&
                s("rect", { class: `bar ${COLOURS[name]}`, x, y: base - height, width: Math.max(wide - 1, 1), height })
              );
            }),
            s(
              "text",
              { class: `strong ${COLOURS[name]}`, x: picture.width - 12, y: base - 30, "text-anchor": "end" },
              titleOf(name),
            ),
            s("text", { x: picture.width - 12, y: base - 14, "text-anchor": "end" }, `off by ${say(Math.sqrt(error))}`),
          ];
        }),
        s("line", { class: "boundary", x1: zero, x2: zero, y1: 6, y2: picture.floor() }),
      );
    },
  });

  function all() {
    const now = mixed(samples, share);
    found = NAMES.map((name) => {
      const places = estimates(name, now);
      return { name, places, error: squaredError(places) };
    });
    const sorted = [...found].sort((a, b) => a.error - b.error);
    const [best, ...others] = sorted;
    const more = others.map(
      ({ name, error }) => `that of ${titleOf(name)} is ${say(error / best.error)} times as large`,
    );
    picture.redraw();
    tell(
      `${share > 0 ? `With ${percent(share)} wild points` : "Without wild points"}, ${titleOf(best.name)} is nearest to the truth: its squared error is the least, ` +
        `${more.join(", ")}. (${setting.samples} samples of ${setting.size} points.)`,
    );
  }
  let waiting = 0;
  slider(controls, {
    label: "wild points",
    min: 0,
    max: 0.25,
    step: 0.01,
    value: share,
    says: (x) => (x > 0 ? percent(x) : "none"),
    on(x) {
      share = x;
      cancelAnimationFrame(waiting);
      waiting = requestAnimationFrame(all);
    },
  });
  all();
}
