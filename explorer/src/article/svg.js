/** Drawings: elements of SVG, marks, and a chart, whose numbers become places on the screen. */

import { points as evenly } from "../formulas.js";
import { say } from "./losses.js";

export function s(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child || child === 0));
  return element;
}

/** A line through places, with a gap where one is no number. */
export function path(places) {
  let pen = "M";
  const parts = places.map(([x, y]) => {
    if (!Number.isFinite(x) || !Number.isFinite(y)) {
      pen = "M";
      return "";
    }
    const part = `${pen}${x.toFixed(2)} ${y.toFixed(2)}`;
    pen = "L";
    return part;
  });
  return parts.join("");
}

/** A coil from one place to another on the same height. */
export function coil(from, to, y, height) {
  const [turns, straight] = [7, 0.12];
  const length = to - from;
  const places = [[from, y]];
  for (let i = 0; i <= 2 * turns; i++) {
    const t = straight + ((1 - 2 * straight) * i) / (2 * turns);
    places.push([from + t * length, i === 0 || i === 2 * turns ? y : y + (i % 2 ? -height : height)]);
  }
  return path([...places, [to, y]]);
}

/** An arrow from a place over (dx, dy); nothing where it is too short to see. */
export function arrow(x, y, dx, dy, name) {
  const length = Math.hypot(dx, dy);
  if (!(length > 1.5)) return null;
  const [ux, uy] = [dx / length, dy / length];
  const head = Math.min(8, 0.7 * length);
  const [ex, ey] = [x + dx, y + dy];
  const wing = (side) => [ex - head * ux + side * 0.6 * head * uy, ey - head * uy - side * 0.6 * head * ux];
  const shaft = path([
    [x, y],
    [ex - 0.5 * head * ux, ey - 0.5 * head * uy],
  ]);
  return s(
    "g",
    { class: `arrow ${name}` },
    s("path", { d: shaft }),
    s("path", { class: "head", d: `${path([wing(1), [ex, ey], wing(-1)])}Z` }),
  );
}

/** Multiples of 1, 2 or 5 times a power of ten. */
export function ticks([low, high], rough) {
  const power = 10 ** Math.floor(Math.log10((high - low) / rough));
  const step = [1, 2, 5, 10].map((x) => x * power).find((x) => x >= (high - low) / rough);
  const [first, last] = [Math.ceil(low / step - 1e-9), Math.floor(high / step + 1e-9)];
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

let charts = 0;

/**
 * A chart in `parent`. x and y are ranges, of which y may be replaced before a drawing; a chart of rows has no y. `top`
 * pixels are free above it, and `shelf` below its axis, for a knob. draw() is called whenever the width changes, and by
 * `redraw`.
 */
export function chart(
  parent,
  { name, height, x, y, xLabel, yLabel, left = y ? 40 : 14, right = 14, top, shelf = 0, draw },
) {
  const marks = s("g", { "aria-hidden": "true" });
  const front = s("g");
  const clip = `inside-${++charts}`;
  const window = s("rect");
  const svg = s(
    "svg",
    { class: "chart", role: "group", "aria-label": name },
    s("clipPath", { id: clip }, window),
    marks,
    front,
  );
  parent.append(svg);
  const above = top ?? (yLabel ? 24 : 8);
  const below = shelf + (xLabel ? 40 : 22);
  const self = { svg, front, xs: x, ys: y, width: 0, height, left, right, top: above };

  const across = () => self.width - left - right;
  const up = () => self.height - below - above;
  self.floor = () => self.height - below;
  self.x = (v) => left + ((v - self.xs[0]) / (self.xs[1] - self.xs[0])) * across();
  self.y = (v) => self.floor() - ((v - self.ys[0]) / (self.ys[1] - self.ys[0])) * up();
  self.fromX = (px) => self.xs[0] + ((px - left) / across()) * (self.xs[1] - self.xs[0]);
  self.fromY = (py) => self.ys[0] + ((self.floor() - py) / up()) * (self.ys[1] - self.ys[0]);

  /** Elements of which only what lies within the axes is seen. */
  self.inside = (...elements) => s("g", { "clip-path": `url(#${clip})` }, elements);

  /** The curve of a function over the x axis. */
  self.curve = (f, look, places = 181) => {
    const far = 2 * (self.ys[1] - self.ys[0]);
    const height = (v) => self.y(Math.min(Math.max(v, self.ys[0] - far), self.ys[1] + far));
    const at = (v) => [self.x(v), height(f(v))];
    return self.inside(s("path", { class: `curve ${look}`, d: path(evenly(...self.xs, places).map(at)) }));
  };

  /** A spot of a curve, which waits at the edge while its number is beyond. */
  self.spot = (v, height, look, r = 6) => {
    const inside = ([low, high], one) => Math.min(Math.max(one, low), high);
    return s("circle", {
      class: `spot ${look}`,
      cx: self.x(inside(self.xs, v)),
      cy: self.y(inside(self.ys, height)),
      r,
    });
  };

  self.guide = (v, from = above) =>
    s("line", { class: "guide", x1: self.x(v), x2: self.x(v), y1: from, y2: self.floor() });

  self.xAxis = () => {
    const base = self.floor();
    return [
      ticks(self.xs, Math.max(3, Math.floor(self.width / 90))).map((v) => [
        s("line", { class: "grid", x1: self.x(v), x2: self.x(v), y1: above, y2: base }),
        s("text", { x: self.x(v), y: base + shelf + 15, "text-anchor": "middle" }, say(v)),
      ]),
      s("line", { class: "axis", x1: left, x2: self.width - right, y1: base, y2: base }),
      xLabel && s("text", { x: self.width - right, y: self.height - 6, "text-anchor": "end" }, xLabel),
    ];
  };
  self.yAxis = () => [
    ticks(self.ys, 4).map((v) => [
      s("line", { class: "grid", x1: left, x2: self.width - right, y1: self.y(v), y2: self.y(v) }),
      s("text", { x: left - 6, y: self.y(v) + 4, "text-anchor": "end" }, say(v)),
    ]),
    yLabel && s("text", { x: left, y: above - 11 }, yLabel),
  ];
  self.axes = () => [self.yAxis(), self.xAxis()];
  self.put = (...elements) => marks.replaceChildren(...elements.flat(Infinity).filter(Boolean));
  self.redraw = () => {
    self.width = parent.clientWidth;
    if (!self.width) return;
    self.size(self.height);
    draw(self);
  };
  /** Sets the height, also while it is drawn. */
  self.size = (pixels) => {
    self.height = pixels;
    svg.setAttribute("viewBox", `0 0 ${self.width} ${pixels}`);
    svg.setAttribute("width", self.width);
    svg.setAttribute("height", pixels);
    for (const [key, v] of Object.entries({
      x: left,
      y: above,
      width: Math.max(across(), 0),
      height: Math.max(up(), 0),
    }))
      window.setAttribute(key, v);
  };
  let seen = 0;
  new ResizeObserver(() => {
    if (parent.clientWidth === seen) return;
    seen = parent.clientWidth;
    self.redraw();
  }).observe(parent);
  return self;
}
