/**
 * A plot: title, legend, axes with names, drawn by uPlot.
 *
 * 1. A line is told apart by its colour, by its dashes and by a letter on it: five colours that the colour-blind can
 *    tell, three kinds of dashes; solid lines are drawn first, so that dashes show where two losses coincide.
 * 2. The y axis shows where the curves live: a pole does not flatten everything else.
 * 3. Colours come from the style sheet, so that light and dark are told in one place.
 */

import uPlot from "uplot";
import { h, patch } from "./dom.js";
import { show } from "./formulas.js";
import { letter, PLACES, places } from "./letters.js";

// Lengths of dashes and gaps and the width of each kind of line; dots are wide enough to be seen on another line.
export const STROKES = [
  { dash: [], width: 2 },
  { dash: [9, 6], width: 2 },
  { dash: [4, 7], width: 3.5 },
];

/** Colour number and dashes of the i-th line. */
export const look = (i) => ({ colour: i % 5, dashes: i % 3 });

/** A short piece of the i-th line, with its letter. */
export function swatch(i) {
  const { colour, dashes } = look(i);
  const line = h("span", { class: `swatch d${dashes}` });
  return h("span", { class: `key c${colour}`, "aria-hidden": "true" }, h("b", {}, letter(i)), line);
}

/** The colour of a class of the style sheet. */
export const styleOf = (name) => {
  const probe = document.getElementById("probe");
  probe.className = name;
  return getComputedStyle(probe).color;
};

/**
 * Where a curve lives: its tails are cut where they leave its middle 96 % by more than their width. Every fifth number
 * tells where the middle is: a sort of them all would take a sixth of a frame.
 */
function rangeOf(curve) {
  let [least, most] = [Infinity, -Infinity];
  const some = [];
  for (let i = 0; i < curve.length; i++) {
    const y = curve[i];
    if (y === null) continue;
    if (y < least) least = y;
    if (y > most) most = y;
    if (i % 5 === 0) some.push(y);
  }
  if (!some.length) return null;
  const sorted = Float64Array.from(some).sort();
  const at = (share) => sorted[Math.round(share * (sorted.length - 1))];
  const [a, b] = [at(0.02), at(0.98)];
  const width = b - a;
  const low = least >= a - width ? least : a - 0.1 * width;
  const high = most <= b + width ? most : b + 0.1 * width;
  return [Math.min(low, 0), Math.max(high, 0)];
}

/** The range of y that shows these curves and 0; what is ten times as high as an ordinary one of them is cut. */
export function span(curves) {
  const own = curves.map(rangeOf).filter(Boolean);
  const widths = own
    .map(([low, high]) => high - low)
    .filter((width) => width > 0)
    .sort((a, b) => a - b);
  if (!widths.length) return [-1, 1];
  const most = 10 * widths[(widths.length - 1) >> 1];
  const low = Math.max(Math.min(...own.map((range) => range[0])), -most);
  const high = Math.min(Math.max(...own.map((range) => range[1])), most);
  const margin = 0.05 * (high - low);
  return [low - (low < 0 ? margin : margin / 2), high + margin];
}

/** Where letters may stand: numbers of some of n points, from left to right. */
const evenly = (n) => Array.from({ length: PLACES }, (_, k) => Math.round(((k + 0.5) / PLACES) * (n - 1)));

/** Puts the letters of several lines onto a plot; inks: the paper's colour, and slot and colour of each line. */
function drawLetters(u, { paper, lines }, stepped) {
  if (lines.length < 2) return;
  const [xs, ...curves] = u.data;
  const { left, top, width, height } = u.bbox;
  const spots = stepped ? [...xs.keys()].slice(0, -1) : evenly(xs.length);
  const across = spots.map((i) => u.valToPos(stepped ? (xs[i] + xs[i + 1]) / 2 : xs[i], "x", true));
  const heights = curves.map((ys) =>
    spots.map((i) => {
      const y = ys[i] === null || (stepped && ys[i] === 0) ? NaN : u.valToPos(ys[i], "y", true);
      return y >= top && y <= top + height ? y : null;
    }),
  );
  const { ctx } = u;
  const size = 8 * devicePixelRatio;
  ctx.save();
  ctx.font = `bold ${1.4 * size}px sans-serif`;
  ctx.textAlign = "center";
  ctx.textBaseline = "middle";
  ctx.setLineDash([]);
  ctx.lineWidth = 1.5 * devicePixelRatio;
  const scaled = (list) => list.map((x) => (x === null ? null : x / devicePixelRatio));
  for (const [j, k] of places(scaled(across), heights.map(scaled)).entries()) {
    if (k === null) continue;
    const x = Math.min(Math.max(across[k], left + size), left + width - size);
    const y = Math.min(Math.max(heights[j][k], top + size), top + height - size);
    ctx.beginPath();
    ctx.arc(x, y, size, 0, 2 * Math.PI);
    ctx.fillStyle = paper;
    ctx.fill();
    ctx.strokeStyle = ctx.fillStyle = lines[j].ink;
    ctx.stroke();
    ctx.fillText(letter(lines[j].slot), x, y + 0.1 * size);
  }
  ctx.restore();
}

/** Puts dots onto a plot, each list in its colour: { slot, xs, ys }. */
function drawDots(u, dots) {
  if (!dots.length) return;
  const { ctx, bbox } = u;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  for (const { slot, xs, ys } of dots) {
    ctx.fillStyle = styleOf(`c${look(slot).colour}`);
    ctx.globalAlpha = xs.length > 300 ? 0.35 : 0.6;
    for (let i = 0; i < xs.length; i++) {
      ctx.beginPath();
      ctx.arc(u.valToPos(xs[i], "x", true), u.valToPos(ys[i], "y", true), 4 * devicePixelRatio, 0, 2 * Math.PI);
      ctx.fill();
    }
  }
  ctx.restore();
}

/**
 * A figure in `parent`. on.move(x), on.zoom(from, to), on.reset() are told what the pointer does.
 * Its update({ xs, lines, x, xLabel, yLabel, description, ticks }) draws; a line is { slot, name, note, ys }, ticks are
 * numbers of the x axis: { at, text }. Its mark(x, read, said) moves the cursor: what is read there, shown and in words.
 * Its scatter(dots) puts dots onto it until it is told others.
 */
export function figure(parent, title, on = {}, stepped = false) {
  const legend = h("ul", { class: "legend" });
  const canvas = h("div", { class: "canvas" });
  const reading = h("span", { class: "reading" });
  const caption = h("figcaption", {}, h("h3", {}, title, reading), legend);
  const root = h("figure", {}, caption, canvas);
  parent.append(root);
  let plot = null;
  let built = "";
  let range = [0, 1];
  let xRange = [0, 1];
  let marked = null;
  let inks = null;
  let stops = null;
  let described = "";
  let dots = [];

  const size = () => ({ width: Math.max(canvas.clientWidth, 200), height: Math.max(canvas.clientHeight, 120) });

  function build(lines, xLabel, yLabel, data) {
    plot?.destroy();
    const [ink, grid] = [styleOf("ink"), styleOf("grid")];
    inks = {
      paper: styleOf("paper"),
      lines: lines.map(({ slot }) => ({ slot, ink: styleOf(`c${look(slot).colour}`) })),
    };
    const font = `12px ${getComputedStyle(document.body).fontFamily}`;
    const axis = {
      stroke: ink,
      font,
      labelFont: font,
      labelSize: 24,
      labelGap: 0,
      grid: { stroke: grid, width: 1 },
      ticks: { stroke: grid, width: 1, size: 4 },
    };
    const numbers = (_, values) => values.map((x) => (x === null ? "" : show(x)));
    const options = {
      ...size(),
      legend: { show: false },
      padding: [8, stops ? 22 : 12, 0, 0],
      scales: { x: { time: false, range: () => xRange }, y: { range: () => range } },
      axes: [
        {
          ...axis,
          label: xLabel,
          size: 30,
          values: numbers,
          ...(stops && { splits: () => stops.map(({ at }) => at), values: () => stops.map(({ text }) => text) }),
        },
        { ...axis, label: yLabel, size: 52, values: numbers },
      ],
      series: [
        {},
        ...lines.map((line, i) => {
          const { dashes } = look(line.slot);
          const stroke = inks.lines[i].ink;
          return {
            label: line.name,
            stroke,
            pxAlign: 0,
            width: STROKES[dashes].width,
            dash: STROKES[dashes].dash.map((length) => length * devicePixelRatio),
            points: { show: false },
            ...(stepped && {
              paths: uPlot.paths.stepped({ align: 1 }),
              fill: stroke.replace(/rgb\((.*)\)/, "rgba($1, 0.1)"),
            }),
          };
        }),
      ],
      cursor: {
        show: !stepped,
        y: false,
        drag: { x: true, y: false, setScale: false },
        points: { size: 7 },
        bind: { mouseleave: () => null, dblclick: () => () => on.reset?.() },
      },
      hooks: {
        draw: [(u) => drawDots(u, dots), (u) => drawLetters(u, inks, stepped)],
        ready: [(u) => u.over.addEventListener("mousemove", (e) => on.move?.(u.posToVal(e.offsetX, "x")))],
        setSelect: [
          (u) => {
            const { left, width } = u.select;
            if (width > 4) on.zoom?.(u.posToVal(left, "x"), u.posToVal(left + width, "x"));
            u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          },
        ],
      },
    };
    plot = new uPlot(options, data, canvas);
    plot.root.setAttribute("aria-hidden", "true");
  }

  new ResizeObserver(() => {
    if (!plot) return;
    const now = size();
    if (now.width !== plot.width || now.height !== plot.height) {
      plot.setSize(now);
      move(marked);
    }
  }).observe(canvas);

  function mark(x, read = "", said = "") {
    move(x);
    reading.textContent = read;
    canvas.setAttribute("aria-label", `${described} ${said}`.trim());
  }

  function move(x) {
    marked = x;
    if (plot && x !== null) plot.setCursor({ left: plot.valToPos(x, "x"), top: 0 }, false);
  }

  function update({ xs, lines, x = null, xLabel, yLabel, description, ticks, from = xs[0], to = xs.at(-1) }) {
    const drawn = lines.filter((line) => line.ys).sort((a, b) => look(a.slot).dashes - look(b.slot).dashes);
    const data = [xs, ...drawn.map((line) => line.ys)];
    range = stepped ? [0, 1.05 * Math.max(1, ...drawn.flatMap((line) => line.ys))] : span(data.slice(1));
    xRange = [from, to];
    stops = ticks ?? null;
    const theme = getComputedStyle(document.documentElement).colorScheme;
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const form = JSON.stringify([drawn.map((line) => line.slot), xLabel, yLabel, Boolean(ticks), theme, dark]);
    if (form === built) plot.setData(data);
    else build(drawn, xLabel, yLabel, data);
    built = form;
    patch(
      legend,
      lines.map(({ slot, name, note, ys }) => [
        JSON.stringify([slot, name, note, Boolean(ys)]),
        () => h("li", { class: ys ? "" : "absent" }, swatch(slot), name, note && h("span", { class: "note" }, note)),
      ]),
    );
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", description);
    described = description;
    marked = x;
    queueMicrotask(() => move(marked)); // uPlot sets its scales in a microtask too, before this one
  }

  function scatter(found) {
    if (!found.length && !dots.length) return;
    dots = found;
    plot?.redraw(false);
  }

  return { root, update, mark, scatter };
}
