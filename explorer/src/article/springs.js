/** The chapter about springs: its points, and what is said about where a prediction rests among them. */

import { random } from "../playground/random.js";
import { rounded } from "../playground/data.js";
import { given, percent, say, titleOf, tuned } from "./losses.js";
import { average, mode, quantile } from "./places.js";
import { pull, valleys } from "./rest.js";
import { RANGE, tiedFigure } from "./springs-view.js";

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
function known(name, points, numbers, x) {
  const of = {
    mse_loss: () => `the mean of the points, ${say(average(points))}`,
    huber_loss: () => {
      const drawnIn = (point) => x + Math.min(Math.max(point - x, -numbers.delta), numbers.delta);
      return `the mean, ${say(average(points.map(drawnIn)))}, of the points with the far ones drawn in to the distance delta`;
    },
    l1_loss: () => `their median, ${between(quantile(points, given("pinball_loss", "quantile").value))}`,
    pinball_loss: () => `their ${say(numbers.quantile)}-quantile, ${between(quantile(points, numbers.quantile))}`,
    welsch_loss: () =>
      `the mode, ${say(mode(points, numbers.scale))}: where the points lie most densely, each blurred by the scale`,
  };
  return of[name]();
}

const between = ([low, high]) => (low === high ? say(low) : `anywhere from ${say(low)} to ${say(high)}`);

const side = (amount) => (amount > 0 ? "to the left" : "to the right");

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
  const same = known(name, points, numbers, place.x);
  const who =
    part[most] > 0 ? ` The point at ${say(points[most])} pulls hardest, with ${percent(part[most])} of all pull.` : "";
  return `${title} rests ${rests}. That is ${same}.${who}`;
}

export const springsFigure = (root) =>
  tiedFigure(root, {
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
  const tuning = tuned(name);
  const title = tuning ? `${titleOf(name)} with ${tuning.name} ${say(numbers[tuning.name])}` : titleOf(name);
  const many = found.length === 1 ? "one valley: every start leads to the same place" : `${found.length} valleys`;
  if (Math.abs(at - place.x) > 1e-6) return `${title} has ${many}. Held at ${say(at)}; let it go.`;
  const deep = Math.abs(place.x - low.x) < 1e-4;
  const end = `From ${say(origin)} it rolls to ${say(place.x)}`;
  if (found.length === 1) return `${title} has ${many}. ${end}.`;
  return `${title} has ${many}. ${end}, ${deep ? "the deepest of them" : `and not to the deepest, at ${say(low.x)}`}.`;
}

export const valleysFigure = (root) =>
  tiedFigure(root, {
    title: "Where it begins decides where it ends",
    how: "Drag the prediction to another start and let it go; change the scale; move the points. The keyboard works as above.",
    names: ["welsch_loss", "cauchy_loss", "geman_mcclure_loss", "mse_loss"],
    points: heaps,
    start: RANGE[1] - 1,
    told: trapped,
    build: valleysFigure,
  });
