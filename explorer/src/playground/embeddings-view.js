/** Embeddings on the screen: each loss has its own copy of the points and moves them; an arrow is where it pulls one. */

import { show } from "../formulas.js";
import { arrow, ink } from "./plane.js";
import { dots, lengthOf } from "./marks.js";
import { shares } from "./shares.js";

/** How far points have gone is drawn behind them, over so many steps. */
const LONGEST = 60;

const placesOf = ({ objective, training }) => objective.places(training.parameters);

/** The last places of a training's points, one list for each step; made anew after a restart. */
const trails = new WeakMap();
function trailOf({ training }, places) {
  const trail = trails.get(training) ?? [];
  if (trail.at(-1)?.steps !== training.steps) trail.push({ steps: training.steps, places });
  if (trail.length > LONGEST) trail.shift();
  trails.set(training, trail);
  return trail;
}

function draw(one, [race], _points, selected) {
  const { context } = one;
  const places = placesOf(race);
  one.grid();
  one.inside(() => {
    if (race.objective.described.space === "circle") {
      context.beginPath();
      context.ellipse(one.x(0), one.y(0), one.x(1) - one.x(0), one.y(0) - one.y(1), 0, 0, 2 * Math.PI);
      context.strokeStyle = ink("ink");
      context.lineWidth = 1;
      context.setLineDash([]);
      context.stroke();
    }
    const trail = trailOf(race, places);
    context.lineWidth = 1.2;
    context.globalAlpha = 0.45;
    for (const [i, { label }] of places.entries()) {
      context.beginPath();
      for (const { places: then } of trail) context.lineTo(one.x(then[i].x), one.y(then[i].y));
      context.strokeStyle = ink(`k${label}`);
      context.stroke();
    }
    context.globalAlpha = 1;
    const { pulls } = race.objective;
    const part = shares(pulls);
    context.beginPath();
    for (const [i, { x, y }] of places.entries()) {
      const [bx, by] = pulls[i];
      const size = Math.hypot(bx, by);
      if (!(size > 0)) continue;
      const length = 1.4 * lengthOf(part[i], places.length);
      arrow(context, one.x(x), one.y(y), (-bx / size) * length, (by / size) * length);
    }
    context.strokeStyle = ink("text");
    context.lineWidth = 1.3;
    context.stroke();
    dots(one, places, selected, 5);
  });
}

const meanOf = (list) => (list.length ? list.reduce((a, b) => a + b, 0) / list.length : NaN);

/** The mean distance between points of one class, and of different ones. */
function spread(race, alike) {
  const places = placesOf(race);
  const far = places.flatMap((a, i) =>
    places.slice(0, i).flatMap((b) => ((a.label === b.label) === alike ? [Math.hypot(a.x - b.x, a.y - b.y)] : [])),
  );
  return meanOf(far);
}

const short = (x) => show(Number(x.toPrecision(3)));

/** The share of points whose nearest neighbour is of their class. */
function neighbours(race) {
  const places = placesOf(race);
  const right = places.filter((a, i) => {
    const others = places.filter((_, j) => j !== i);
    const far = others.map((b) => Math.hypot(a.x - b.x, a.y - b.y));
    return others[far.indexOf(Math.min(...far))].label === a.label;
  });
  return `${Math.round((100 * right.length) / places.length)} %`;
}

export const embeddingsView = {
  together: false,
  draw,
  places: placesOf,
  move: ({ objective, training }, i, at) => objective.move(training.parameters, i, at),
  columns: [
    { title: "Apart, same class", of: (race) => short(spread(race, true)) },
    { title: "other class", of: (race) => short(spread(race, false)) },
    { title: "Nearest is alike", of: neighbours },
  ],
  edits: ["click"],
  click(point, { classes }) {
    point.label = (point.label + 1) % classes;
  },
  where: ({ x, y, label }, i, n) => `point ${i + 1} of ${n}: x ${show(x)}, y ${show(y)}, class ${label + 1}`,
  how: "Drag a point, and see what its loss does with it; click it to give it another class. An arrow is where the loss pulls a point, as long as its share of the gradient.",
  keys: "Arrow keys move the selected point, with Shift further; Page Up and Page Down select another one; L changes its class; Space plays.",
};
