/**
 * Losses as springs: points on a line, one prediction, and where it rests.
 *
 * Each point has a lane, in which a spring ties it to the prediction; below lie the places of rest of all losses, and
 * below them the loss as a landscape, on which the prediction rolls down.
 */

import { h } from "../dom.js";
import { random } from "../playground/random.js";
import { rounded } from "../playground/data.js";
import { shares } from "../playground/shares.js";
import { COLOURS, frame, glide, whenSeen } from "./frame.js";
import { button, choice, handle, slider } from "./hands.js";
import { card, given, mean, percent, say, springs, titleOf, tuned } from "./losses.js";
import { average, mode, quantile } from "./places.js";
import { deepest, energy, pull, rest, valleys } from "./rest.js";
import { arrow, chart, coil, s } from "./svg.js";

const RANGE = [-4, 4];
const [LANE, ROW] = [27, 21];
const [MOST, FEWEST] = [12, 2];
const [USUAL, LONGEST] = [34, 130]; // pixels of the arrow of an average pull, and of the longest

/** Points that lie close on the left and far apart on the right. */
export const skewed = () => {
  const chance = random(1839);
  return Array.from({ length: 7 }, () => rounded(-3.2 - 2.3 * Math.log(1 - chance.uniform()))).sort((a, b) => a - b);
};

/** Two heaps, the smaller one on the right. */
export const heaps = () => {
  const chance = random(5);
  const around = (middle, n) => Array.from({ length: n }, () => rounded(middle + 0.4 * chance.normal()));
  return [...around(-1.7, 5), ...around(2, 3)].sort((a, b) => a - b);
};

/** What statistics calls the place where a loss rests, and where that is, computed from the points alone. */
function known(name, points, numbers) {
  const of = {
    mse_loss: () => `the mean of the points, ${say(average(points))}`,
    l1_loss: () => `their median, ${between(quantile(points, given("pinball_loss", "quantile").value))}`,
    pinball_loss: () => `their quantile ${say(numbers.quantile)}, ${between(quantile(points, numbers.quantile))}`,
    welsch_loss: () =>
      `the mode, ${say(mode(points, numbers.scale))}: where the points lie most densely, each blurred by the scale`,
  };
  return of[name]?.();
}

const between = ([low, high]) => (low === high ? say(low) : `anywhere from ${say(low)} to ${say(high)}`);

const side = (amount) => (amount > 0 ? "to the left" : "to the right");

function figureOf(root, { title, how, names, points: begin, start, told, build }) {
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
    const lanes = points.length * LANE;
    const axis = lanes + 26;
    const rows = axis + 50;
    const land = rows + names.length * ROW + 12;
    drawing.size(land + 148);
    const all = bound(name);
    const colour = COLOURS[name];
    const pulls = all.map(({ slope }) => slope(at));
    const part = shares(pulls);
    const px = drawing.x(at);
    const lane = (i) => 16 + i * LANE;
    const tied = points.map((x, i) => {
      const width = Math.min(part[i] * points.length * USUAL, LONGEST, Math.abs(drawing.x(x) - px) + 8);
      return [
        s("path", { class: "coil", d: coil(px, drawing.x(x), lane(i), 6) }),
        arrow(px, lane(i), -Math.sign(pulls[i]) * width, 0, colour),
      ];
    });
    const ticks = [-4, -2, 0, 2, 4].map((x) => [
      s("line", { class: "axis", x1: drawing.x(x), x2: drawing.x(x), y1: axis - 4, y2: axis + 4 }),
      s("text", { x: drawing.x(x), y: axis + 38, "text-anchor": "middle" }, say(x)),
    ]);
    const found = names.map((which, i) => {
      const { from, to, x } = which === name ? resting(name, origin) : deepest(bound(which), points);
      const y = rows + i * ROW;
      const [a, b] = [drawing.x(from), drawing.x(to)];
      const right = drawing.x(x) < drawing.width - 190;
      return [
        s("line", { class: "grid", x1: 14, x2: drawing.width - 14, y1: y + 9, y2: y + 9 }),
        s("rect", { class: `bar ${COLOURS[which]}`, x: a - 2.5, y: y + 1, width: b - a + 5, height: 16, rx: 2 }),
        s(
          "text",
          {
            class: which === name ? `strong ${colour}` : "",
            x: right ? b + 8 : a - 8,
            y: y + 13,
            "text-anchor": right ? "start" : "end",
          },
          titleOf(which),
        ),
      ];
    });
    const ground = landscape(all, colour, land);
    drawing.put(
      s("line", { class: "guide", x1: px, x2: px, y1: 2, y2: ground.y }),
      tied,
      s("line", { class: "axis", x1: 14, x2: drawing.width - 14, y1: axis, y2: axis }),
      ticks,
      found,
      ground.drawn,
      s("circle", { class: `spot ${colour}`, cx: px, cy: ground.y - 7, r: 7 }),
    );
    points.forEach((x, i) => handles[i].place(drawing.x(x), lane(i)));
    prediction.place(px, axis + 10, colour);
    const one = { name, points, at, origin, all, pulls, part, numbers: numbers[name] };
    tell(told({ ...one, place: resting(name, origin) }));
  }

  /** The loss of all points over the prediction, from its lowest to its highest place. */
  function landscape(all, colour, top) {
    const n = 240;
    const xs = Array.from({ length: n + 1 }, (_, i) => RANGE[0] + ((RANGE[1] - RANGE[0]) * i) / n);
    const heights = xs.map((x) => energy(all, x));
    const [low, high] = [Math.min(...heights), Math.max(...heights)];
    const y = (v) => top + 118 - (100 * (v - low)) / (high - low || 1);
    const line = xs.map((x, i) => `${drawing.x(x).toFixed(1)} ${y(heights[i]).toFixed(1)}`).join("L");
    const [a, b] = [drawing.x(RANGE[0]), drawing.x(RANGE[1])];
    return {
      y: y(energy(all, at)),
      drawn: [
        s("path", { class: `area ${colour}`, d: `M${a} ${top + 128}L${line}L${b} ${top + 128}Z` }),
        s("path", { class: `curve lone ${colour}`, d: `M${line}` }),
        s("text", { x: 16, y: top + 142 }, "loss of all points"),
      ],
    };
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

/** A sentence about who pulls, and where it comes to rest. */
function balanced({ name, points, at, all, part, place, numbers }) {
  const now = pull(all, at);
  const held = Math.abs(at - place.x) > 1e-6;
  const title = titleOf(name);
  if (held)
    return `${title} at ${say(at)}: the points pull it ${side(now)}, with ${say(Math.abs(now))} on average. Let it go.`;
  const most = part.indexOf(Math.max(...part));
  const rests =
    place.to - place.from > 1e-6 ? `anywhere from ${say(place.from)} to ${say(place.to)}` : `at ${say(place.x)}`;
  const same = known(name, points, numbers);
  const who =
    part[most] > 0 ? ` The point at ${say(points[most])} pulls hardest, with ${percent(part[most])} of all pull.` : "";
  return `${title} rests ${rests}${same ? `. That is ${same}` : ", between the mean and the median or near them"}.${who}`;
}

export const springsFigure = (root) =>
  figureOf(root, {
    title: "Every point is tied to the prediction",
    how: "Drag a point, or the prediction and let it go. With the keyboard: Tab to a point or to the prediction, then the arrow keys, with Shift further; Delete removes a point, Enter lets the prediction go.",
    names: ["mse_loss", "l1_loss", "pinball_loss", "welsch_loss", "huber_loss"],
    points: skewed,
    start: RANGE[1],
    told: balanced,
    build: springsFigure,
  });

/** A sentence about the valleys, and which one the start leads to. */
function trapped({ name, points, at, origin, all, place, numbers }) {
  const found = valleys(all, points);
  const low = found.reduce((best, one) => (one.energy < best.energy ? one : best));
  const title = `${titleOf(name)} with ${tuned(name) ? `${tuned(name).name} ${say(numbers[tuned(name).name])}` : "its one setting"}`;
  const many = found.length === 1 ? "one valley: every start leads to the same place" : `${found.length} valleys`;
  if (Math.abs(at - place.x) > 1e-6) return `${title} has ${many}. Held at ${say(at)}; let it go.`;
  const deep = Math.abs(place.x - low.x) < 1e-4;
  const end = `From ${say(origin)} it rolls to ${say(place.x)}`;
  if (found.length === 1) return `${title} has ${many}. ${end}.`;
  return `${title} has ${many}. ${end}, ${deep ? "the deepest of them" : `and not to the deepest, at ${say(low.x)}`}.`;
}

export const valleysFigure = (root) =>
  figureOf(root, {
    title: "Where it begins decides where it ends",
    how: "Drag the prediction to another start and let it go; change the scale; move the points. The keyboard works as above.",
    names: ["welsch_loss", "cauchy_loss", "geman_mcclure_loss", "mse_loss"],
    points: heaps,
    start: RANGE[1] - 1,
    told: trapped,
    build: valleysFigure,
  });
