/**
 * Losses as springs, on the screen.
 *
 * Each point has a lane, in which a spring ties it to the prediction; below lie the places of rest of all losses, and
 * below them the loss as a landscape, on which the prediction rolls down.
 */

import { h } from "../dom.js";
import { points as evenly } from "../formulas.js";
import { rounded } from "../playground/data.js";
import { shares } from "../playground/shares.js";
import { COLOURS, frame, glide, whenSeen } from "./frame.js";
import { button, choice, handle, slider } from "./hands.js";
import { card, mean, say, springs, titleOf, tuned } from "./losses.js";
import { deepest, energy, rest } from "./rest.js";
import { arrow, chart, coil, path, s, ticks } from "./svg.js";

export const RANGE = [-4, 4];
const [LANE, ROW] = [27, 21];
const [MOST, FEWEST] = [12, 2];
const [USUAL, LONGEST] = [34, 130]; // pixels of the arrow of an average pull, and of the longest

const lane = (i) => 16 + i * LANE;

/** The spring of a point, and the arrow of its pull: `size` times as strong as the average, and to the side of its sign. */
function tie(drawing, at, point, y, size, colour) {
  const [from, to] = [drawing.x(at), drawing.x(point)];
  const length = Math.min(Math.abs(size) * USUAL, LONGEST, Math.abs(to - from) + 8);
  return [s("path", { class: "coil", d: coil(from, to, y, 6) }), arrow(from, y, Math.sign(size) * length, 0, colour)];
}

/** The line of numbers. */
function line(drawing, y) {
  const [from, to] = RANGE.map(drawing.x);
  return [
    s("line", { class: "axis", x1: from, x2: to, y1: y, y2: y }),
    ticks(RANGE, 5).map((v) => [
      s("line", { class: "axis", x1: drawing.x(v), x2: drawing.x(v), y1: y - 4, y2: y + 4 }),
      s("text", { x: drawing.x(v), y: y + 38, "text-anchor": "middle" }, say(v)),
    ]),
  ];
}

/** Where a loss rests, with its name beside it. */
function row(drawing, name, place, y, chosen) {
  const [from, to] = [place.from, place.to].map(drawing.x);
  const right = drawing.x(place.x) < drawing.width - 190;
  const text = { x: right ? to + 8 : from - 8, y: y + 13, "text-anchor": right ? "start" : "end" };
  return [
    s("line", { class: "grid", x1: drawing.x(RANGE[0]), x2: drawing.x(RANGE[1]), y1: y + 9, y2: y + 9 }),
    s("rect", { class: `bar ${COLOURS[name]}`, x: from - 2.5, y: y + 1, width: to - from + 5, height: 16, rx: 2 }),
    s("text", { ...text, class: chosen ? `strong ${COLOURS[name]}` : "" }, titleOf(name)),
  ];
}

/** The loss of all points over the prediction, from its lowest to its highest place; y is where the prediction stands. */
function landscape(drawing, all, at, colour, top) {
  const xs = evenly(...RANGE, 241);
  const heights = xs.map((x) => energy(all, x));
  const [low, high] = [Math.min(...heights), Math.max(...heights)];
  const y = (v) => top + 118 - (100 * (v - low)) / (high - low || 1);
  const ridge = xs.map((x, i) => [drawing.x(x), y(heights[i])]);
  const [left, right] = RANGE.map(drawing.x);
  return {
    y: y(energy(all, at)),
    drawn: [
      s("path", { class: `area ${colour}`, d: `${path([[left, top + 128], ...ridge, [right, top + 128]])}Z` }),
      s("path", { class: `curve lone ${colour}`, d: path(ridge) }),
      s("text", { x: left, y: top + 142 }, "loss of all points"),
    ],
  };
}

/**
 * Points on a line that are tied to one prediction. names: the losses to choose from, the first of which begins; points():
 * where the points begin, start: where the prediction does; told(state): what is said about it; build: the figure.
 */
export function tiedFigure(root, { title, how, names, points: begin, start, told, build }) {
  const { stage, controls, say: tell } = frame(root, { title, how, build });
  const points = begin();
  const numbers = Object.fromEntries(
    names.filter(tuned).map((name) => [name, { [tuned(name).name]: tuned(name).value }]),
  );
  let name = names[0];
  let at = start;
  let origin = start; // from where it was let go
  let stop = () => {};
  let handles = [];

  const formula = h("div", { class: "formula wide" });
  const place = h("div", { class: "wide" });
  stage.append(formula, place);
  const drawing = chart(place, { name: title, x: RANGE, height: 0, draw });
  const bound = (which) => springs(which, points, numbers[which]);
  const resting = (which, from) => rest(bound(which), points, from);

  function settle(glides = true) {
    stop();
    const { x } = resting(name, (origin = at));
    stop = glide(glides ? at : x, x, (now) => {
      at = now;
      drawing.redraw();
    });
  }

  const prediction = handle(drawing, {
    look: "knob",
    name: () => "prediction",
    says: () => say(at),
    at: () => [at],
    limits: [RANGE, null],
    move(x) {
      stop();
      at = x;
      drawing.redraw();
    },
    release: settle,
  });

  function pointHandle(i) {
    return handle(drawing, {
      name: () => `point ${i + 1} of ${points.length}`,
      says: () => say(points[i]),
      at: () => [points[i]],
      limits: [RANGE, null],
      move(x) {
        points[i] = rounded(x);
        settle(false);
      },
      remove: () => remove(i),
    });
  }

  function count() {
    while (handles.length > points.length) handles.pop().remove();
    while (handles.length < points.length) handles.push(pointHandle(handles.length));
    more.disabled = points.length >= MOST;
    less.disabled = points.length <= FEWEST;
  }
  function remove(i) {
    if (points.length <= FEWEST) return;
    points.splice(i, 1);
    count();
    settle();
    (handles[Math.min(i, handles.length - 1)] ?? prediction).root.focus();
  }

  function draw() {
    const axis = points.length * LANE + 26;
    const rows = axis + 50;
    const land = rows + names.length * ROW + 12;
    drawing.size(land + 148);
    const all = bound(name);
    const colour = COLOURS[name];
    const here = resting(name, origin);
    const pulls = all.map(({ slope }) => slope(at));
    const part = shares(pulls);
    const ground = landscape(drawing, all, at, colour, land);
    const px = drawing.x(at);
    drawing.put(
      s("line", { class: "guide", x1: px, x2: px, y1: 2, y2: ground.y }),
      points.map((x, i) => tie(drawing, at, x, lane(i), -Math.sign(pulls[i]) * part[i] * points.length, colour)),
      line(drawing, axis),
      names.map((which, i) =>
        row(drawing, which, which === name ? here : deepest(bound(which), points), rows + i * ROW, which === name),
      ),
      ground.drawn,
      s("circle", { class: `spot ${colour}`, cx: px, cy: ground.y - 7, r: 7 }),
    );
    points.forEach((x, i) => handles[i].place(drawing.x(x), lane(i)));
    prediction.place(px, axis + 10, colour);
    tell(told({ name, points, at, origin, all, part, place: here, numbers: numbers[name] }));
  }

  let knob = null;
  function chosen(which) {
    name = which;
    formula.innerHTML = card(name).formulas[0].equations[0].mathml;
    knob?.remove();
    knob = null;
    const tuning = tuned(name);
    if (tuning) {
      const narrow = tuning.name === "quantile";
      knob = slider(controls, {
        label: tuning.name,
        title: tuning.label,
        min: narrow ? 0.02 : 0.1,
        max: narrow ? 0.98 : 3,
        step: 0.01,
        value: numbers[name][tuning.name],
        says: say,
        on(x) {
          numbers[name][tuning.name] = x;
          settle(false);
        },
      }).root;
    }
  }
  choice(controls, {
    label: "loss",
    options: names.map((which) => ({
      value: which,
      label: titleOf(which),
      colour: COLOURS[which],
      title: card(which).summary,
    })),
    value: name,
    on(which) {
      chosen(which);
      settle();
    },
  });
  const more = button(controls, "Add a point", () => {
    points.push(rounded(mean(RANGE) + 0.5));
    count();
    settle();
    handles.at(-1).root.focus();
  });
  const less = button(controls, "Remove one", () => remove(points.length - 1));
  chosen(name);
  count();
  drawing.redraw();
  whenSeen(place, settle);
}
