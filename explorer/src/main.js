/**
 * The page: what is chosen, drawn.
 *
 * 1. One state; everything visible follows from it. Controls are made anew only when the choice of losses changes, so
 *    that a slider keeps its focus while it moves; plots and numbers follow once per frame.
 * 2. The address follows the state a moment later. A preset is an ordinary link.
 * 3. A redraw is measured where anyone can see it: the performance panel of the browser shows it as "redraw".
 */

import { cards } from "../generated/catalogue.js";
import { batchOf } from "./batch.js";
import { about, choices, panel } from "./controls.js";
import { atCursor, ofCurves } from "./describe.js";
import { h, replace } from "./dom.js";
import { dotsOf, reach } from "./dots.js";
import { AXES, KINDS, limits, nameOf, over, points, sample, settle, show } from "./formulas.js";
import { isPlay } from "./playground/link.js";
import { playground } from "./playground/playground.js";
import { figure } from "./plot.js";
import { presets } from "./presets.js";
import { readout } from "./readout.js";
import { drawRows, load, loadBatch } from "./rows.js";
import { choose, drawable, empty, rangeRefused, read, straighten, write } from "./state.js";

const POINTS = 1001;
const $ = (id) => document.getElementById(id);
const cardOf = (chosen) => cards.find((card) => card.name === chosen.name);

let state = empty();
let trained = false; // whether the playground is shown, not the curves
let readers = []; // of each chosen loss at the cursor
const batch = batchOf(document);
let wide = !batch; // whether the range is the one that shows the batch
const timers = {};

const later = (name, wait, action) => {
  clearTimeout(timers[name]);
  timers[name] = setTimeout(action, wait);
};

// ---------------------------------------------------------------------------------------------------------
// Plots and numbers

const pointer = {
  move: (x) => setX(Number(x.toPrecision(3))),
  zoom: (from, to) => {
    const digits = 3 + Math.max(0, Math.ceil(Math.log10(Math.max(Math.abs(from), Math.abs(to)) / (to - from))));
    const [start, end] = [from, to].map((x) => Number(x.toPrecision(Math.min(digits, 17))));
    if (drawable(start, end)) change({ from: start, to: end });
  },
  reset: () => change({ from: null, to: null }),
};
const figures = {
  value: figure($("plots"), "Value", pointer),
  slope: figure($("plots"), "Gradient", pointer),
  curvature: figure($("plots"), "Curvature", pointer),
};

/** Inside another page there is no room for the curvature. */
const isShown = (key) => !((state.embed || batch) && key === "curvature");
const shownFigures = () => Object.entries(figures).filter(([key]) => isShown(key));

/** The axis as the plots name it. */
function axis() {
  const chosen = state.losses.map(cardOf);
  const [low, high] = limits(chosen, state.axis);
  const kinds = [...new Set(chosen.map((card) => card.curve.kind))];
  const mixed = state.axis === "own" && kinds.length > 1;
  const own = kinds.length === 1 ? KINDS[kinds[0]].label : "own variable of each loss";
  const { label, symbol } = AXES[state.axis];
  const [from, to] = [state.from ?? low, state.to ?? high];
  return { from, to, mixed, symbol, label: state.axis === "own" ? own : label };
}

function redraw() {
  const start = performance.now();
  const { from, to, mixed, label, symbol } = axis();
  const xs = points(from, to, POINTS);
  const by =
    mixed || (state.by === "own" && state.axis !== "own") ? "own variable" : state.axis === "own" ? label : symbol;
  const lines = state.losses.map((chosen) => {
    const card = cardOf(chosen);
    const kind = KINDS[card.curve.kind].label;
    const f = over(card, chosen, state.axis, state.by);
    const note = f
      ? mixed && ` over its ${kind}`
      : ` is a loss of a ${kind}: it cannot be drawn over a ${AXES[state.axis].label}`;
    return { slot: chosen.slot, name: nameOf(card, chosen), note, f, ...(f && sample(f, xs)) };
  });
  readers = lines.map(({ slot, name, f }) => ({ slot, name, f }));
  state.x = state.x === null ? null : Math.min(Math.max(state.x, from), to);
  const yLabels = {
    value: "loss",
    slope: state.embed ? "gradient" : `gradient by ${by}`,
    curvature: `curvature by ${by}`,
  };
  document.body.classList.toggle("single", lines.length < 2);
  for (const [key, plot] of shownFigures()) {
    const yLabel = yLabels[key];
    const shown = lines.map((line) => ({ ...line, ys: line[key], note: (key === "value" || !line.f) && line.note }));
    const what = { xs, from, to, xLabel: label, yLabel, lines: shown };
    plot.update({ ...what, x: state.x, description: ofCurves(what) });
  }
  const { elements } = $("view");
  if (document.activeElement !== elements.from) elements.from.value = Number(from.toPrecision(6));
  if (document.activeElement !== elements.to) elements.to.value = Number(to.toPrecision(6));
  readNumbers();
  drawRows(
    state.losses.map((chosen) => [cardOf(chosen), chosen]),
    (samples) => scatter(samples, axis()),
  );
  // uPlot draws in a microtask; this one comes after it.
  queueMicrotask(() => {
    performance.clearMeasures("redraw");
    performance.measure("redraw", { start, end: performance.now() });
  });
}

/** Puts rows onto the curves of their losses, where all curves are over one variable of their own. */
function scatter(samples, { from, to, mixed }) {
  const dots = state.axis === "own" && !mixed ? samples.map(dotsOf).filter(Boolean) : [];
  figures.value.scatter(dots);
  if (wide || !dots.length) return;
  wide = true;
  const [low, high] = reach(dots, [from, to]);
  if (low < from || high > to) change({ from: low, to: high });
}

/** The link of what is shown. */
const shown = () => (trained ? play.link() : write(state));

/** Lets the address say what is shown, and marks the preset that it is. */
function address() {
  if (!batch) history.replaceState(null, "", `#${shown()}`);
  $("to-curves").href = `#${write({ ...state, theme: null })}`;
  $("to-play").href = `#${play.link()}`;
  if (trained) return;
  const link = write(state);
  $("whole").firstChild.href = `${location.pathname}#${write({ ...state, embed: false, theme: null })}`;
  for (const [i, item] of [...$("presets").children].entries()) {
    if (presets[i].link === link) item.firstChild.setAttribute("aria-current", "true");
    else item.firstChild.removeAttribute("aria-current");
  }
}

let waiting = false;
function draw() {
  if (trained) return;
  later("address", 250, address);
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    redraw();
  });
}

/** Where the cursor is. */
function cursor() {
  const { from, to } = axis();
  return state.x ?? Number((from + 0.75 * (to - from)).toPrecision(3));
}

function readNumbers() {
  const { from, to, symbol } = axis();
  const x = cursor();
  const found = readers.map(({ slot, name, f }) => ({ slot, name, at: f?.(x) }));
  $("x-range").value = Math.round((1000 * (x - from)) / (to - from));
  readout(found, x, symbol, state.axis === "own");
  const [only] = found.length === 1 ? found : [];
  for (const [key, plot] of shownFigures()) {
    const read = only?.at ? `${show(only.at[key])} at ${symbol} = ${show(x)}` : "";
    plot.mark(x, read, atCursor(x, symbol, found, key === "value" ? ["value", "slope"] : [key]));
  }
}

function setX(x) {
  const { from, to } = axis();
  state.x = Math.min(Math.max(x, from), to);
  readNumbers();
  later("address", 250, address);
}

function change(what) {
  Object.assign(state, what);
  draw();
}

// ---------------------------------------------------------------------------------------------------------
// Controls

const narrow = matchMedia("(max-width: 60rem)");

/** Says what is wrong in a field, in place of what was said of it before. */
function problem(id, text) {
  for (const said of [...$("problems").children]) if (said.dataset.of === id) said.remove();
  if (text) $("problems").append(h("span", { "data-of": id }, text));
}

/** Makes the controls of the chosen losses anew. */
function build() {
  const reversed = straighten(state, cards);
  if (reversed) problem("range", `${reversed}; the whole range is shown.`);
  const taken = new Set(state.losses.map((chosen) => chosen.slot));
  for (const chosen of state.losses) {
    if (chosen.slot === undefined) {
      chosen.slot = 0;
      while (taken.has(chosen.slot)) chosen.slot++;
      taken.add(chosen.slot);
    }
  }
  const opened = Object.fromEntries([...$("panels").children].map((p) => [p.dataset.slot, p.open]));
  replace(
    $("panels"),
    ...state.losses.map((chosen, i) => {
      const card = cardOf(chosen);
      const made = panel(card, chosen, opened[chosen.slot] ?? (state.embed || !narrow.matches), {
        change: draw,
        problem,
        rebuild: (name) => {
          const refused = settle(card, chosen).map((text) => `${text} now; its default is taken.`);
          problem(`${chosen.slot}-switches`, refused.join(" "));
          build();
          $("panels").children[i].querySelector(`[data-switch="${name}"]`).focus();
        },
        copy: () => {
          const { name, given, switches } = chosen;
          state.losses.splice(i + 1, 0, { name, given: { ...given }, switches: { ...switches } });
          build();
          $("panels").children[i + 1].querySelector("summary").focus();
        },
        remove: () => {
          state.losses.splice(i, 1);
          build();
          ($("panels").children[Math.min(i, state.losses.length - 1)] ?? $("picker")).querySelector("summary").focus();
        },
      });
      made.dataset.slot = chosen.slot;
      return made;
    }),
  );
  for (const box of $("choices").querySelectorAll("input")) {
    box.checked = state.losses.some((chosen) => chosen.name === box.value);
  }
  const seen = new Map(state.losses.map((chosen) => [`${chosen.name} ${JSON.stringify(chosen.switches)}`, chosen]));
  replace($("about"), ...[...seen.values()].map((chosen) => about(cardOf(chosen), chosen)));
  for (const input of document.querySelectorAll("input[name=axis]")) input.checked = input.value === state.axis;
  for (const input of document.querySelectorAll("input[name=by]")) {
    input.checked = input.value === state.by;
    input.disabled = state.axis === "own";
  }
  draw();
}

const play = playground(cards, { link: address });
const TAGLINES = [
  "Value, gradient and curvature of every loss, from the same formulas that the kernels compute.",
  "Losses train in front of you, by the same formulas that the kernels compute. Grab the points.",
];

/** Shows the playground or the curves. */
function turn(toPlay) {
  trained = toPlay;
  $("curves").hidden = trained;
  $("playground").hidden = !trained;
  $("tagline").textContent = TAGLINES[Number(trained)];
  $("skip").href = trained ? "#arena" : "#plots";
  $("skip").textContent = trained ? "Skip to the training" : "Skip to the plots";
  for (const [id, current] of [
    ["to-curves", !trained],
    ["to-play", trained],
  ]) {
    if (current) $(id).setAttribute("aria-current", "page");
    else $(id).removeAttribute("aria-current");
  }
}

/** Shows what the address says; "embed" and "theme" may also stand behind a ?, where they outlive every link. */
function restore(asked) {
  clearTimeout(timers.address);
  const link = asked || presets[0].link;
  const whole = [link, location.search.slice(1)].filter(Boolean).join("&");
  turn(isPlay(link));
  if (trained) {
    document.documentElement.classList.remove("embed");
    play.open(whole);
    const { theme } = play.state();
    if (theme) document.documentElement.dataset.theme = theme;
    themed();
    address();
    return;
  }
  play.stop();
  const result = read(whole, cards);
  state = result.state;
  document.documentElement.classList.toggle("embed", state.embed);
  if (state.theme) document.documentElement.dataset.theme = state.theme;
  for (const [key, { root }] of Object.entries(figures)) root.hidden = !isShown(key);
  $("whole").hidden = !state.embed;
  if (state.theme) themed();
  replace($("panels"));
  replace($("problems"), ...result.problems.map((text) => h("span", {}, text)));
  $("hint").textContent = presets.find((preset) => preset.link === decodeURIComponent(link))?.hint ?? "";
  build();
}

replace(
  $("choices"),
  ...choices(cards, (card, checked) => {
    state.losses = state.losses.filter((chosen) => chosen.name !== card.name);
    if (checked) state.losses.push(choose(card));
    build();
  }),
);
$("picker").open = !narrow.matches && !batch;
replace($("presets"), ...presets.map((p) => h("li", {}, h("a", { href: `#${p.link}`, title: p.hint }, p.name))));

$("filter").addEventListener("input", (e) => {
  const words = e.target.value.toLowerCase().split(/\s+/);
  for (const group of $("choices").children) {
    for (const label of group.querySelectorAll("label")) {
      const text =
        `${label.textContent} ${label.dataset.name} ${label.title} ${group.firstChild.textContent}`.toLowerCase();
      label.hidden = !words.every((word) => text.includes(word));
    }
    group.hidden = !group.querySelector("label:not([hidden])");
  }
});
$("view").addEventListener("submit", (e) => e.preventDefault());
$("view").addEventListener("change", (e) => {
  if (e.target.name === "axis") Object.assign(state, { axis: e.target.value, from: null, to: null, x: null });
  else if (e.target.name === "by") state.by = e.target.value;
  else {
    const { from: before, to: after } = axis();
    const { elements } = $("view");
    const [from, to] = [elements.from.valueAsNumber, elements.to.valueAsNumber];
    const fits = drawable(from, to);
    if (fits) Object.assign(state, { from, to });
    else [elements.from.value, elements.to.value] = [before, after];
    const text = `${rangeRefused(from, to)}; ${show(before)} to ${show(after)} is kept.`;
    problem("range", fits ? "" : text.replaceAll("NaN", "no number"));
  }
  build();
});
$("reset").addEventListener("click", () => change({ from: null, to: null }));
$("x-number").addEventListener("input", (e) => Number.isFinite(e.target.valueAsNumber) && setX(e.target.valueAsNumber));
$("x-range").addEventListener("input", (e) => {
  const { from, to } = axis();
  setX(Number((from + ((to - from) * e.target.value) / 1000).toPrecision(4)));
});

/** How far each key moves the cursor, as a share of the range. */
const KEYS = { ArrowLeft: -0.01, ArrowRight: 0.01, Home: -1, End: 1 };
$("plots").addEventListener("keydown", (e) => {
  if (!(e.key in KEYS) || e.altKey || e.ctrlKey || e.metaKey) return;
  e.preventDefault();
  const { from, to } = axis();
  const step = KEYS[e.key] * (e.shiftKey ? 10 : 1) * (to - from);
  setX(Number((cursor() + step).toPrecision(4)));
});
const take = (file) => file && load(file).then(draw);
$("file").addEventListener("change", (e) => take(e.target.files[0]));
$("skip").addEventListener("click", (e) => {
  e.preventDefault();
  $(trained ? "arena" : "plots").focus();
});
document.addEventListener("dragover", (e) => {
  e.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (e) => e.relatedTarget === null && document.body.classList.remove("dropping"));
document.addEventListener("drop", (e) => {
  e.preventDefault();
  document.body.classList.remove("dropping");
  if (!trained && !batch) take(e.dataTransfer.files[0]);
});
$("share").addEventListener("click", async (e) => {
  address();
  const copied = await navigator.clipboard?.writeText(location.href).then(
    () => true,
    () => false,
  );
  e.target.textContent = copied ? "Link copied" : "The address is the link";
  later("share", 2000, () => ($("share").textContent = "Copy link"));
});

const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
function themed() {
  $("theme").textContent = isDark() ? "Light" : "Dark";
  $("theme").setAttribute("aria-label", isDark() ? "Switch to light colours" : "Switch to dark colours");
  play.themed();
  draw();
}
$("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  const current = trained ? play.state() : state;
  if (current.theme) current.theme = document.documentElement.dataset.theme;
  themed();
});
dark.addEventListener("change", themed);
if (batch) {
  document.documentElement.classList.add("batch");
  loadBatch(batch);
  restore(batch.link);
} else {
  addEventListener("hashchange", () => restore(location.hash.slice(1)));
  restore(location.hash.slice(1));
}
themed();
