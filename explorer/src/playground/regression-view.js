/** Regression on the screen: the points, a curve for each loss, and an arrow where a point pulls at it. */

import { points as evenly, show, variantOf } from "../formulas.js";
import { arrows, dots, lengthOf, strokeOf } from "./marks.js";
import { shares } from "./shares.js";
import { ink } from "./plane.js";
import { look } from "../plot.js";

const PLACES = 121;

/** Whether the losses are one loss at several places between 0 and 1, as quantiles are. */
function levels(races) {
  const [{ card, chosen }] = races;
  if (races.length < 2 || races.some((race) => race.card !== card)) return false;
  const { domains } = variantOf(card, chosen.switches);
  return card.parameters.some((name) => {
    const domain = domains[name];
    const values = new Set(races.map((race) => race.chosen.given[name]));
    return domain?.low === 0 && domain.high === 1 && values.size === races.length;
  });
}

function fill(plane, xs, lower, upper, colour, alpha) {
  const { context } = plane;
  context.beginPath();
  for (let i = 0; i < xs.length; i++) context.lineTo(plane.x(xs[i]), plane.y(lower[i]));
  for (let i = xs.length - 1; i >= 0; i--) context.lineTo(plane.x(xs[i]), plane.y(upper[i]));
  context.globalAlpha = alpha;
  context.fillStyle = colour;
  context.fill();
  context.globalAlpha = 1;
}

function draw(plane, races, points, selected, [across]) {
  const { context } = plane;
  plane.grid();
  plane.inside(() => {
    const xs = evenly(...across, PLACES);
    const fits = races.map(({ training, objective }) => xs.map((x) => objective.fit(training.parameters, x)));
    const ys = fits.map((fit) => fit.map(({ y }) => y));
    if (levels(races)) {
      const lowest = xs.map((_, i) => Math.min(...ys.map((y) => y[i])));
      const highest = xs.map((_, i) => Math.max(...ys.map((y) => y[i])));
      fill(plane, xs, lowest, highest, ink("ink"), 0.12);
    }
    for (const [k, { chosen }] of races.entries()) {
      if (fits[k][0].spread !== null) {
        const edge = (side) => fits[k].map(({ y, spread }) => y + side * spread);
        fill(plane, xs, edge(-1), edge(1), ink(`c${look(chosen.slot).colour}`), 0.13);
      }
      context.beginPath();
      for (let i = 0; i < xs.length; i++) context.lineTo(plane.x(xs[i]), plane.y(ys[k][i]));
      strokeOf(context, chosen.slot);
      context.stroke();
    }
    for (const [k, { chosen, training, objective, refused }] of races.entries()) {
      if (refused) continue;
      const beside = 5 * (k - (races.length - 1) / 2);
      const part = shares(objective.pulls);
      const at = points.map(({ x }, i) => {
        const length = lengthOf(part[i], points.length);
        const y = plane.y(objective.fit(training.parameters, x).y);
        return [plane.x(x) + beside, y, 0, Math.sign(objective.pulls[i]) * length];
      });
      arrows(context, chosen.slot, at);
    }
    dots(plane, points, selected);
  });
}

/** What the fit is now, in words: a line by its numbers. */
function fitted({ objective, training }) {
  const { model, heads } = objective.described;
  if (model !== "line" || heads[0].name !== "same") return "";
  const [base, slope] = training.parameters;
  const sign = slope < 0 ? "−" : "+";
  return `${show(Number(base.toPrecision(3)))} ${sign} ${show(Math.abs(Number(slope.toPrecision(3))))} x`;
}

export const regressionView = {
  together: true,
  draw,
  columns: [{ title: "Fit", of: fitted }],
  edits: ["add", "remove"],
  made: (at) => ({ ...at }),
  where: ({ x, y }, i, n) => `point ${i + 1} of ${n}: x ${show(x)}, y ${show(y)}`,
  keys: "Arrow keys move the selected point, with Shift further; Page Up and Page Down select another one; A adds one, Delete removes it; Space plays.",
  how: "Drag a point; click to add one, double-click to remove one. An arrow is a point's pull: its share of the gradient.",
};
