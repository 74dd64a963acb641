/** Margins: a line between two classes, and which points still pull at it. */

import { h } from "../dom.js";
import { classPoints, rounded } from "../playground/data.js";
import { shares } from "../playground/shares.js";
import { COLOURS, frame } from "./frame.js";
import { choice, handle, slider } from "./hands.js";
import { card, given, percent, say, titleOf } from "./losses.js";
import { ofLead, satisfied, separate } from "./scores.js";
import { chart, s } from "./svg.js";

const NAMES = ["hinge_loss", "squared_hinge_loss", "multi_margin_loss", "soft_margin_loss"];
const RATE = 0.3;
const LEADS = [-3, 6];

const twoClasses = () => classPoints({ shape: "blobs", n: 24, classes: 2, noise: 0.72, rare: 100, wrong: 0, seed: 6 });

export function marginsFigure(root) {
  const {
    stage,
    controls,
    say: tell,
  } = frame(root, {
    title: "Who still pulls",
    how: "Drag a point across the line, or focus it and use the arrow keys. Move the training on, and choose another loss.",
    build: marginsFigure,
  });
  const points = twoClasses();
  let [name, steps, margin] = [NAMES[0], 120, given("multi_margin_loss", "margin").value];
  let now = null;
  const [left, right] = [h("div"), h("div")];
  stage.append(left, right);
  const numbers = () => (name === "multi_margin_loss" ? { margin } : {});

  /** The ends of the line where base + across x + up y is a number, within the chart. */
  function line(plane, value, look) {
    const { base, across, up } = now;
    const far = 40;
    const length = Math.hypot(across, up);
    if (!(length > 0)) return null;
    const [nx, ny] = [across / length, up / length];
    const distance = (value - base) / length;
    const end = (sign) => [nx * distance - sign * far * ny, ny * distance + sign * far * nx];
    const [[x1, y1], [x2, y2]] = [end(1), end(-1)];
    return s("line", { class: look, x1: plane.x(x1), y1: plane.y(y1), x2: plane.x(x2), y2: plane.y(y2) });
  }

  const plane = chart(left, {
    name: "Points of two classes, and the line between them",
    height: 320,
    x: [-3.2, 3.2],
    y: [-1.6, 3],
    left: 30,
    draw() {
      const enough = satisfied(name, numbers(), 50);
      const part = shares(now.pulls);
      const lines = [
        line(plane, 0, "boundary"),
        enough !== null && [enough, -enough].map((v) => line(plane, v, "margin")),
      ];
      const rings = points.map(({ x, y }, i) => {
        const size = Math.sqrt(part[i] * points.length);
        return (
          size > 0.05 && s("circle", { class: "ring", cx: plane.x(x), cy: plane.y(y), r: 9 + Math.min(5 * size, 18) })
        );
      });
      plane.put(plane.axes(), plane.inside(lines, rings));
      points.forEach(({ x, y, label }, i) => {
        handles[i].place(plane.x(x), plane.y(y), `${label === 1 ? "k1" : "k0"} ${part[i] > 0 ? "" : "silent"}`);
      });
    },
  });
  const handles = points.map((point, i) =>
    handle(plane, {
      look: point.label === 1 ? "square" : "dot",
      name: () => `point ${i + 1} of ${points.length}, class ${point.label === 1 ? "of squares" : "of circles"}`,
      says: () => `${say(point.x)} across, ${say(point.y)} up`,
      at: () => [point.x, point.y],
      limits: [plane.xs, plane.ys],
      move(x, y) {
        [point.x, point.y] = [rounded(x), rounded(y)];
        all();
      },
    }),
  );
  const curve = chart(right, {
    name: "The loss over the lead of the right score",
    height: 320,
    x: LEADS,
    y: [0, 4.2],
    xLabel: "lead of the right score",
    yLabel: "loss",
    draw() {
      const { value } = ofLead(name, numbers());
      const scale = name === "multi_margin_loss" ? 0.5 : 1; // it divides by the number of classes
      const part = shares(now.pulls);
      curve.put(
        curve.axes(),
        curve.curve((lead) => scale * value(lead), `lone ${COLOURS[name]}`),
        points.map(({ label }, i) => {
          const lead = Math.min(Math.max(now.leads[i], LEADS[0]), LEADS[1]);
          const place = { x: curve.x(lead), y: curve.y(Math.min(scale * value(now.leads[i]), curve.ys[1])) };
          const look = `spot ${label === 1 ? "k1" : "k0"} ${part[i] > 0 ? "" : "silent"}`;
          if (label !== 1) return s("circle", { class: look, cx: place.x, cy: place.y, r: 5.5 });
          return s("rect", { class: look, x: place.x - 5, y: place.y - 5, width: 10, height: 10 });
        }),
      );
    },
  });

  function all() {
    now = separate(name, points, steps, RATE, numbers());
    plane.redraw();
    curve.redraw();
    const pulling = now.pulls.filter((one) => one > 0).length;
    const part = shares(now.pulls).sort((a, b) => b - a);
    const most = Math.ceil(points.length / 6);
    const top = part.slice(0, most).reduce((a, b) => a + b, 0);
    const wrong = now.leads.filter((lead) => !(lead > 0)).length;
    const who =
      pulling === 0
        ? "Nobody pulls any more: the loss asks for nothing else"
        : `${pulling} of ${points.length} points still pull; the ${most} strongest have ${percent(top)} of the pull`;
    tell(
      `${titleOf(name)} after ${steps} steps: ${who}. ${wrong === 0 ? "All points are" : `${points.length - wrong} of ${points.length} points are`} on their side.`,
    );
  }
  let knob = null;
  choice(controls, {
    label: "loss",
    options: NAMES.map((one) => ({ value: one, label: titleOf(one), colour: COLOURS[one], title: card(one).summary })),
    value: name,
    on(one) {
      name = one;
      knob.root.hidden = name !== "multi_margin_loss";
      all();
    },
  });
  slider(controls, {
    label: "steps of training",
    min: 0,
    max: 400,
    step: 5,
    value: steps,
    says: say,
    on(x) {
      steps = x;
      all();
    },
  });
  const { low, high, label, value } = given("multi_margin_loss", "margin");
  knob = slider(controls, {
    label: "margin",
    title: label,
    min: Math.max(low, 0),
    max: high,
    step: 0.05,
    value,
    says: say,
    on(x) {
      margin = x;
      all();
    },
  });
  knob.root.hidden = true;
  all();
}
