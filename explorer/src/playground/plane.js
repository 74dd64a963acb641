/**
 * A piece of the plane on a canvas: where its points are on the screen, its grid, and what a pointer does on it.
 *
 * Whoever draws speaks of numbers; a plane turns them into pixels. Colours come from the style sheet.
 */

import { h } from "../dom.js";
import { points as evenly, show } from "../formulas.js";
import { styleOf } from "../plot.js";

let inks = {};

/** The colour of a class, asked of the style sheet once; `forget` where the theme has changed. */
export const ink = (name) => (inks[name] ??= styleOf(name));
export const forget = () => (inks = {});

const NEAR = 14; // pixels from a point that still touch it
const FINGER = 26;

/** Ticks of an axis: multiples of 1, 2 or 5 times a power of ten. */
function ticks(low, high) {
  const rough = (high - low) / 6;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((x) => x * power).find((x) => x >= rough);
  const first = Math.ceil(low / step);
  return evenly(first, Math.floor(high / step), Math.floor(high / step) - first + 1).map((x) => x * step);
}

/**
 * on.grab(at, reach, pane): the pointer went down; true where it holds something from now on. on.drag(at), on.drop(),
 * on.click(at): it went down and up on nothing. Positions are numbers of the plane, reach how far pixels of NEAR are.
 */
export function plane(title, on) {
  const canvas = h("canvas", { "aria-hidden": "true" });
  const root = h("figure", { class: "pane" }, title && h("figcaption", {}, title), canvas);
  const context = canvas.getContext("2d");
  const self = { root, context, width: 0, height: 0, left: 34, bottom: 22 };
  let [x0, x1, y0, y1] = [0, 1, 0, 1];

  self.x = (x) => self.left + ((x - x0) / (x1 - x0)) * (self.width - self.left - 6);
  self.y = (y) => self.height - self.bottom - ((y - y0) / (y1 - y0)) * (self.height - self.bottom - 6);
  const back = (px, py) => ({
    x: x0 + ((px - self.left) / (self.width - self.left - 6)) * (x1 - x0),
    y: y0 + ((self.height - self.bottom - py) / (self.height - self.bottom - 6)) * (y1 - y0),
  });

  /** Clears the canvas; both ranges are as long on the screen where `square` is asked for by the style sheet. */
  self.begin = ([across, up]) => {
    [[x0, x1], [y0, y1]] = [across, up];
    const ratio = devicePixelRatio;
    self.width = canvas.clientWidth;
    self.height = canvas.clientHeight;
    const [wide, high] = [Math.round(self.width * ratio), Math.round(self.height * ratio)];
    if (canvas.width !== wide || canvas.height !== high) [canvas.width, canvas.height] = [wide, high];
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, self.width, self.height);
    context.lineJoin = "round";
  };

  self.grid = () => {
    context.strokeStyle = ink("grid");
    context.fillStyle = ink("ink");
    context.lineWidth = 1;
    context.font = "12px system-ui, sans-serif";
    context.beginPath();
    context.textAlign = "center";
    context.textBaseline = "top";
    for (const x of ticks(x0, x1)) {
      const at = Math.round(self.x(x)) + 0.5;
      context.moveTo(at, 6);
      context.lineTo(at, self.height - self.bottom);
      context.fillText(show(Number(x.toPrecision(6))), at, self.height - self.bottom + 5);
    }
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const y of ticks(y0, y1)) {
      const at = Math.round(self.y(y)) + 0.5;
      context.moveTo(self.left, at);
      context.lineTo(self.width - 6, at);
      context.fillText(show(Number(y.toPrecision(6))), self.left - 6, at);
    }
    context.stroke();
  };

  /** Draws only what lies inside the axes. */
  self.inside = (draw) => {
    context.save();
    context.beginPath();
    context.rect(self.left, 0, self.width - self.left, self.height - self.bottom);
    context.clip();
    draw();
    context.restore();
  };

  let holds = false;
  let went = null; // where the pointer went down
  const place = (e) => {
    const box = canvas.getBoundingClientRect();
    return back(e.clientX - box.left, e.clientY - box.top);
  };
  /** What touches `at`, by its distance in pixels. */
  self.nearest = (list, at, finger) => {
    const far = list.map(({ x, y }) => Math.hypot(self.x(x) - self.x(at.x), self.y(y) - self.y(at.y)));
    const best = far.indexOf(Math.min(...far));
    return far[best] <= (finger ? FINGER : NEAR) ? best : -1;
  };
  canvas.addEventListener("pointerdown", (e) => {
    if (e.button !== 0) return;
    went = [e.clientX, e.clientY];
    holds = on.grab(place(e), e.pointerType === "touch", self);
    if (holds) canvas.setPointerCapture(e.pointerId);
  });
  canvas.addEventListener("pointermove", (e) => {
    const over = holds || on.over(place(e), self);
    canvas.style.cursor = holds ? "grabbing" : over ? "grab" : "";
    if (holds) on.drag(place(e));
  });
  canvas.addEventListener("pointerup", (e) => {
    const moved = went ? Math.hypot(e.clientX - went[0], e.clientY - went[1]) : Infinity;
    if (holds) on.drop(moved > 4);
    else if (moved <= 4) on.click(place(e), self);
    holds = false;
    went = null;
  });
  canvas.addEventListener("pointercancel", () => {
    if (holds) on.drop(true);
    holds = false;
    went = null;
  });
  // A finger on a point moves it; anywhere else it scrolls the page.
  canvas.addEventListener("touchstart", (e) => holds && e.preventDefault(), { passive: false });
  return self;
}

/** An arrow from one place of the screen to another; too short a one is nothing. */
export function arrow(context, x, y, dx, dy) {
  const length = Math.hypot(dx, dy);
  if (!(length > 1.5)) return;
  const [ux, uy] = [dx / length, dy / length];
  const head = Math.min(6, length);
  context.moveTo(x, y);
  context.lineTo(x + dx, y + dy);
  context.moveTo(x + dx - head * (ux + 0.6 * uy), y + dy - head * (uy - 0.6 * ux));
  context.lineTo(x + dx, y + dy);
  context.lineTo(x + dx - head * (ux - 0.6 * uy), y + dy - head * (uy + 0.6 * ux));
}
