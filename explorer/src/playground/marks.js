/** What is drawn on a plane in every mode: points, arrows, lines of a loss. */

import { look, STROKES } from "../plot.js";
import { arrow, ink } from "./plane.js";

/** Pixels of the arrow of a point that pulls as much as all do on average, and of the longest. */
const USUAL = 14;
const LONGEST = 110;

/** The length of an arrow on the screen. */
export const lengthOf = (share, count) => Math.min(share * count * USUAL, LONGEST);

/** Uses the colour, and the dashes, of the i-th loss. */
export function strokeOf(context, slot, dashed = true) {
  const { colour, dashes } = look(slot);
  const { dash, width } = STROKES[dashes];
  context.strokeStyle = ink(`c${colour}`);
  context.lineWidth = dashed ? width + 0.5 : 1.6;
  context.setLineDash(dashed ? dash : []);
}

/** The arrows of a loss in one stroke; each is [x, y, dx, dy] on the screen. */
export function arrows(context, slot, all) {
  strokeOf(context, slot, false);
  context.beginPath();
  for (const one of all) arrow(context, ...one);
  context.stroke();
}

/** The sign of a class: its colour, and a shape that tells it without. */
export function sign(context, label, x, y, size) {
  context.beginPath();
  if (label === 0) context.arc(x, y, size, 0, 2 * Math.PI);
  else if (label === 1) context.rect(x - 0.9 * size, y - 0.9 * size, 1.8 * size, 1.8 * size);
  else {
    context.moveTo(x, y - 1.25 * size);
    context.lineTo(x + 1.2 * size, y + 0.9 * size);
    context.lineTo(x - 1.2 * size, y + 0.9 * size);
    context.closePath();
  }
}

/** Points, those of a class in its colour, and a ring around the selected one. */
export function dots(plane, points, selected, size = 4) {
  const { context } = plane;
  context.setLineDash([]);
  context.lineWidth = 1.2;
  for (const { x, y, label } of points) {
    sign(context, label ?? 0, plane.x(x), plane.y(y), size);
    context.fillStyle = ink(label === undefined ? "text" : `k${label}`);
    context.strokeStyle = ink("paper");
    context.fill();
    context.stroke();
  }
  const point = points[selected];
  if (!point) return;
  context.beginPath();
  context.arc(plane.x(point.x), plane.y(point.y), size + 5, 0, 2 * Math.PI);
  context.strokeStyle = ink("accent");
  context.lineWidth = 2.5;
  context.stroke();
}
