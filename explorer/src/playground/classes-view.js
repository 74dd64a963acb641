/** Classes on the screen: what a model says of each place, the boundary, a ring around a point as wide as it pulls. */

import { show } from "../formulas.js";
import { answers, calibration, calibrationError } from "./calibration.js";
import { dots } from "./marks.js";
import { shares } from "./shares.js";
import { ink, plane } from "./plane.js";
import { look } from "../plot.js";

const FINE = 64; // places along a side that are asked what they are
const COARSE = 40; // while things move

const channels = (name) =>
  ink(name)
    .match(/[\d.]+/g)
    .map(Number);

/** The probabilities of a grid of places, class after class. */
function beliefs({ objective, training }, side, [[x0, x1], [y0, y1]], classes) {
  const grid = Array.from({ length: classes }, () => new Float64Array(side * side));
  for (let r = 0; r < side; r++) {
    for (let c = 0; c < side; c++) {
      const x = x0 + ((x1 - x0) * (c + 0.5)) / side;
      const y = y1 - ((y1 - y0) * (r + 0.5)) / side;
      const found = objective.belief(training.parameters, x, y);
      for (let k = 0; k < classes; k++) grid[k][r * side + c] = found[k];
    }
  }
  return grid;
}

const small = document.createElement("canvas");

/** The colour of each place is a mix of those of the classes by what the model believes. */
function shade(one, grid, side, [[x0, x1], [y0, y1]]) {
  small.width = small.height = side;
  const context = small.getContext("2d");
  const image = context.createImageData(side, side);
  const colours = grid.map((_, k) => channels(`k${k}`));
  const { data } = image;
  for (let i = 0; i < side * side; i++) {
    let most = 0;
    for (const [k, of] of grid.entries()) {
      for (let c = 0; c < 3; c++) data[4 * i + c] += of[i] * colours[k][c];
      if (of[i] > most) most = of[i];
    }
    data[4 * i + 3] = 255 * (0.08 + 0.3 * most);
  }
  context.putImageData(image, 0, 0);
  one.context.drawImage(small, one.x(x0), one.y(y1), one.x(x1) - one.x(x0), one.y(y0) - one.y(y1));
}

/** By how much a class leads at each place of the grid, or is behind. */
function leads(grid, k) {
  const own = grid[k];
  const found = new Float64Array(own.length);
  for (let i = 0; i < own.length; i++) {
    let most = 0;
    for (let j = 0; j < grid.length; j++) if (j !== k && grid[j][i] > most) most = grid[j][i];
    found[i] = own[i] - most;
  }
  return found;
}

/** Where one class stops to be the likeliest: lines through the cells of the grid, where a lead changes its sign. */
function boundary(one, grid, side, [[x0, x1], [y0, y1]]) {
  const { context } = one;
  const x = (c) => one.x(x0 + ((x1 - x0) * (c + 0.5)) / side);
  const y = (r) => one.y(y1 - ((y1 - y0) * (r + 0.5)) / side);
  context.beginPath();
  // Of two classes, the second leads where the first does not.
  for (let k = 0; k < (grid.length === 2 ? 1 : grid.length); k++) {
    const lead = leads(grid, k);
    for (let r = 0; r + 1 < side; r++) {
      for (let c = 0; c + 1 < side; c++) {
        const i = r * side + c;
        const [a, b, d, e] = [lead[i] > 0, lead[i + 1] > 0, lead[i + side + 1] > 0, lead[i + side] > 0];
        if (a === b && b === d && d === e) continue;
        cell(context, lead, side, r, c, x, y);
      }
    }
  }
  context.strokeStyle = ink("text");
  context.lineWidth = 1.8;
  context.setLineDash([]);
  context.stroke();
}

/** The piece of a boundary in a cell: between the places on its edges where the lead is 0. */
function cell(context, lead, side, r, c, x, y) {
  const corners = [
    [r, c],
    [r, c + 1],
    [r + 1, c + 1],
    [r + 1, c],
  ];
  const crossings = [];
  for (let e = 0; e < 4; e++) {
    const [p, q] = [corners[e], corners[(e + 1) % 4]];
    const [a, b] = [lead[p[0] * side + p[1]], lead[q[0] * side + q[1]]];
    if (a > 0 === b > 0) continue;
    const t = a / (a - b);
    crossings.push([x(p[1] + t * (q[1] - p[1])), y(p[0] + t * (q[0] - p[0]))]);
  }
  for (let e = 0; e + 1 < crossings.length; e += 2) {
    context.moveTo(...crossings[e]);
    context.lineTo(...crossings[e + 1]);
  }
}

function draw(one, [race], points, selected, limits, moving) {
  const { context } = one;
  const classes = race.objective.belief(race.training.parameters, 0, 0).length;
  const side = moving ? COARSE : FINE;
  const grid = beliefs(race, side, limits, classes);
  one.grid();
  one.inside(() => {
    shade(one, grid, side, limits);
    boundary(one, grid, side, limits);
    const part = shares(race.objective.pulls);
    context.strokeStyle = ink("text");
    context.lineWidth = 1.2;
    context.beginPath();
    for (const [i, { x, y }] of points.entries()) {
      const size = Math.sqrt(part[i] * points.length);
      if (size < 0.15) continue;
      const radius = 4 + Math.min(6 * size, 22);
      context.moveTo(one.x(x) + radius, one.y(y));
      context.arc(one.x(x), one.y(y), radius, 0, 2 * Math.PI);
    }
    context.globalAlpha = 0.75;
    context.stroke();
    context.globalAlpha = 1;
    dots(one, points, selected);
    context.beginPath();
    for (const { x, y, label, was } of points) {
      if (label === was) continue;
      const [px, py] = [one.x(x), one.y(y)];
      for (const side of [-1, 1]) {
        context.moveTo(px - 5, py - 5 * side);
        context.lineTo(px + 5, py + 5 * side);
      }
    }
    context.strokeStyle = ink("text");
    context.lineWidth = 2;
    context.stroke();
  });
}

const percent = (share) => `${Math.round(100 * share)} %`;
const right = (race, points) => percent(answers(race, points).filter((one) => one.right).length / points.length);
const error = (race, points) => percent(calibrationError(answers(race, points)));

/** How much of the gradient comes from the points of each class, and from those with a wrong label. */
function byClass({ objective }, points) {
  const part = shares(objective.pulls);
  const sum = (takes) => part.reduce((total, share, i) => total + (takes(points[i]) ? share : 0), 0);
  const labels = [...new Set(points.map(({ label }) => label))].sort();
  return labels.map((label) => percent(sum((point) => point.label === label))).join(" · ");
}
function byWrong({ objective }, points) {
  const part = shares(objective.pulls);
  return percent(part.reduce((total, share, i) => total + (points[i].label === points[i].was ? 0 : share), 0));
}

let chart = null;
const nothing = { over: () => false, grab: () => false, drag() {}, drop() {}, click() {} };

/** Of the points that a model is so sure of, how many are right: on the line, it knows what it knows. */
function chartOf(races, points) {
  const limits = [
    [0, 1],
    [0, 1],
  ];
  chart.begin(limits);
  chart.grid();
  const { context } = chart;
  context.beginPath();
  context.moveTo(chart.x(0), chart.y(0));
  context.lineTo(chart.x(1), chart.y(1));
  context.setLineDash([4, 4]);
  context.strokeStyle = ink("ink");
  context.stroke();
  context.setLineDash([]);
  for (const race of races) {
    context.strokeStyle = context.fillStyle = ink(`c${look(race.chosen.slot).colour}`);
    context.lineWidth = 2;
    context.beginPath();
    const bins = calibration(answers(race, points));
    for (const { sure, right } of bins) context.lineTo(chart.x(sure), chart.y(right));
    context.stroke();
    for (const { count, sure, right } of bins) {
      context.beginPath();
      context.arc(chart.x(sure), chart.y(right), 2 + 5 * Math.sqrt(count / points.length), 0, 2 * Math.PI);
      context.fill();
    }
  }
}

export const classesView = {
  together: false,
  draw,
  arrange(root) {
    chart = plane("How sure (across), how often right (up)", nothing);
    root.append(chart.root);
  },
  show: chartOf,
  columns: [
    { title: "Right", of: right },
    { title: "Calibration error", of: error },
    { title: "Pull by class", of: byClass },
    { title: "Pull of wrong labels", of: byWrong },
  ],
  edits: ["add", "remove", "click"],
  made: (at, points) => ({ ...at, label: points.at(-1)?.label ?? 0, was: points.at(-1)?.label ?? 0 }),
  click(point, { classes }) {
    point.label = (point.label + 1) % classes;
  },
  where: ({ x, y, label, was }, i, n) =>
    `point ${i + 1} of ${n}: x ${show(x)}, y ${show(y)}, class ${label + 1}${label === was ? "" : `, by right ${was + 1}`}`,
  how: "Click a point to give it another label, which is wrong and crossed; drag it to move it; click elsewhere to add one, double-click to remove one. A ring is as wide as the point pulls: its share of the gradient by the scores.",
  keys: "Arrow keys move the selected point, with Shift further; Page Up and Page Down select another one; L changes its label, A adds a point, Delete removes it; Space plays.",
};
