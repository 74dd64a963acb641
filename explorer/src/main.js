/**
 * The page: what is chosen, drawn.
 *
 * 1. One state; everything visible follows from it. Controls are made anew only when the choice of losses changes, so
 *    that a slider keeps its focus while it moves; plots and numbers follow once per frame.
 * 2. The address follows the state a moment later. A preset is an ordinary link.
 * 3. A redraw is measured where anyone can see it: the performance panel of the browser shows it as "redraw".
 */

import { cards } from "../generated/catalogue.js";
import { about, choices, panel } from "./controls.js";
import { histogram, losses, needs, parse, summary } from "./csv.js";
import { h, patch, replace } from "./dom.js";
import { AXES, KINDS, limits, nameOf, over, points, sample, show } from "./formulas.js";
import { figure, swatch } from "./plot.js";
import { presets } from "./presets.js";
import { choose, empty, read, write } from "./state.js";

const POINTS = 1001;
const $ = (id) => document.getElementById(id);
const cardOf = (chosen) => cards.find((card) => card.name === chosen.name);

let state = empty();
let table = null; // of the CSV file
let readers = []; // of each chosen loss at the cursor
const timers = {};

const later = (name, wait, action) => {
  clearTimeout(timers[name]);
  timers[name] = setTimeout(action, wait);
};

// ---------------------------------------------------------------------------------------------------------
// Plots and numbers

const pointer = {
  move: (x) => setX(Number(x.toPrecision(3))),
  zoom: (from, to) => change({ from: Number(from.toPrecision(3)), to: Number(to.toPrecision(3)) }),
  reset: () => change({ from: null, to: null }),
};
const figures = {
  value: figure($("plots"), "Value", pointer),
  slope: figure($("plots"), "Gradient", pointer),
  curvature: figure($("plots"), "Curvature", pointer),
};
const bars = figure($("histogram"), "Losses of the rows", {}, true);

/** The axis as the plots name it. */
function axis() {
  const chosen = state.losses.map(cardOf);
  const [low, high] = limits(chosen, state.axis);
  const kinds = [...new Set(chosen.map((card) => card.curve.kind))];
  const mixed = state.axis === "own" && kinds.length > 1;
  const own = kinds.length === 1 ? KINDS[kinds[0]].label : "own variable of each loss";
  const { label, symbol } = AXES[state.axis];
  const from = state.from ?? low;
  const to = Math.max(state.to ?? high, from + 1e-9);
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
  const names = lines.map((line) => line.name).join(", ") || "no loss";
  const yLabels = { value: "loss", slope: `gradient by ${by}`, curvature: `curvature by ${by}` };
  for (const [key, plot] of Object.entries(figures)) {
    plot.update({
      xs,
      from,
      to,
      x: state.x,
      xLabel: label,
      yLabel: yLabels[key],
      lines: lines.map((line) => ({ ...line, ys: line[key], note: (key === "value" || !line.f) && line.note })),
      description: `${yLabels[key]} of ${names} over ${label} from ${show(from)} to ${show(to)}. The table below has the numbers.`,
    });
  }
  $("x-name").textContent = symbol;
  const { elements } = $("view");
  if (document.activeElement !== elements.from) elements.from.value = Number(from.toPrecision(6));
  if (document.activeElement !== elements.to) elements.to.value = Number(to.toPrecision(6));
  readNumbers();
  drawRows();
  // uPlot draws in a microtask; this one comes after it.
  queueMicrotask(() => {
    performance.clearMeasures("redraw");
    performance.measure("redraw", { start, end: performance.now() });
  });
}

let waiting = false;
function draw() {
  later("address", 250, () => history.replaceState(null, "", `#${write(state)}`));
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    redraw();
  });
}

/** The numbers at the cursor: in the table at once, aloud when it rests. */
function readNumbers() {
  const { from, to, symbol } = axis();
  const x = state.x ?? Number((from + 0.75 * (to - from)).toPrecision(3));
  if (document.activeElement !== $("x-number")) $("x-number").value = x;
  $("x-range").value = Math.round((1000 * (x - from)) / (to - from));
  $("x-range").setAttribute("aria-valuetext", `${symbol} = ${show(x)}`);
  const cell = (y) => h("td", {}, h("data", { value: String(y) }, show(y)));
  const found = readers.map(({ slot, name, f }) => ({ slot, name, at: f?.(x) }));
  $("numbers").parentElement.classList.toggle("own", state.axis === "own"); // where the own variable is x
  patch(
    $("numbers"),
    found.map(({ slot, name, at }) => [
      JSON.stringify([slot, name, at && Object.values(at).map(String)]),
      () =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, swatch(slot), name),
          at ? [at.own, at.value, at.slope, at.curvature].map(cell) : h("td", { colspan: 4 }, "not on this axis"),
        ),
    ]),
  );
  later("live", 400, () => {
    const said = found.map(({ name, at }) =>
      at
        ? `${name}: value ${show(at.value)}, gradient ${show(at.slope)}, curvature ${show(at.curvature)}`
        : `${name}: not on this axis`,
    );
    const text = `At ${symbol} = ${show(x)}. ${said.join(". ")}.`;
    if ($("live").textContent !== text) $("live").textContent = text;
  });
  for (const plot of Object.values(figures)) plot.mark(x);
}

function setX(x) {
  const { from, to } = axis();
  state.x = Math.min(Math.max(x, from), to);
  readNumbers();
  later("address", 250, () => history.replaceState(null, "", `#${write(state)}`));
}

function change(what) {
  Object.assign(state, what);
  draw();
}

// ---------------------------------------------------------------------------------------------------------
// The CSV file

function drawRows() {
  const columns = new Map(
    state.losses.map((chosen) => {
      const card = cardOf(chosen);
      const names = needs(card, chosen);
      return [names.join(), { names, operand: card.operands.includes(names[0]), label: card.curve.label }];
    }),
  );
  const asks = ({ names: [first, ...rest], operand, label }, i) => [
    i > 0 && "; or ",
    h("code", {}, first),
    operand ? [" or ", h("code", {}, "prediction")] : ` (${label})`,
    rest.map((name) => [", ", h("code", {}, name)]),
  ];
  patch(
    $("columns"),
    columns.size
      ? [
          [
            [...columns.keys()].join(";"),
            () =>
              h(
                "span",
                {},
                "Its first line names the columns. The chosen losses need ",
                [...columns.values()].map(asks),
                ".",
              ),
          ],
        ]
      : [],
  );
  if (!table) return;
  const samples = [];
  const problems = new Set();
  for (const chosen of state.losses) {
    const card = cardOf(chosen);
    try {
      const found = losses(table, card, chosen);
      samples.push({ slot: chosen.slot, name: nameOf(card, chosen, needs(card, chosen)), ...found, ...summary(found) });
    } catch (error) {
      problems.add(error.message);
    }
  }
  csvProblems([...problems]);
  $("csv-result").hidden = samples.length === 0;
  if (!samples.length) return;
  const { edges, counts, above } = histogram(samples.map((s) => s.rows));
  const note = (s) => s.undefined > 0 && ` ${s.undefined} rows without a finite loss`;
  bars.update({
    xs: edges,
    lines: samples.map((s, i) => ({ slot: s.slot, name: s.name, note: note(s), ys: [...counts[i], counts[i].at(-1)] })),
    xLabel: above
      ? `loss of a row (the last bar holds ${above} above ${Number(edges.at(-1).toPrecision(3))})`
      : "loss of a row",
    yLabel: "rows",
    description: "Histogram of the losses of the rows. The table below has mean, median and largest loss.",
  });
  patch(
    $("csv-numbers"),
    samples.map(({ slot, name, count, mean, median, largest, line }) => {
      const cells = [count, mean, median, largest, line];
      return [
        JSON.stringify([slot, name, cells]),
        () =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, swatch(slot), name),
            cells.map((x) => h("td", {}, x === null ? "–" : h("data", { value: String(x) }, show(x)))),
          ),
      ];
    }),
  );
}

const csvProblems = (texts) => {
  const now = texts.join("\n");
  if ($("csv-problems").dataset.texts === now) return;
  $("csv-problems").dataset.texts = now;
  replace($("csv-problems"), ...texts.map((text) => h("p", {}, text)));
};

async function load(file) {
  table = null;
  $("csv-result").hidden = true;
  csvProblems([]);
  try {
    table = parse(await file.text());
  } catch (error) {
    return csvProblems([error.message]);
  }
  $("csv-name").textContent = `${file.name}: ${table.rows.length} rows, columns ${table.names.join(", ")}.`;
  if (!state.losses.length) csvProblems(["Choose a loss first: it says what the columns mean."]);
  $("csv-title").scrollIntoView({ block: "nearest" });
  draw();
}

// ---------------------------------------------------------------------------------------------------------
// Controls

const narrow = matchMedia("(max-width: 60rem)");

/** Makes the controls of the chosen losses anew. */
function build() {
  const taken = new Set(state.losses.map((chosen) => chosen.slot));
  for (const chosen of state.losses) {
    if (chosen.slot === undefined) {
      chosen.slot = 0;
      while (taken.has(chosen.slot)) chosen.slot++;
      taken.add(chosen.slot);
    }
  }
  const open = Object.fromEntries([...$("panels").children].map((p) => [p.dataset.slot, p.open]));
  replace(
    $("panels"),
    ...state.losses.map((chosen, i) => {
      const card = cardOf(chosen);
      const made = panel(card, chosen, open[chosen.slot] ?? !narrow.matches, {
        change: draw,
        rebuild: (name) => {
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

/** Shows what the address says. */
function restore() {
  clearTimeout(timers.address);
  const link = location.hash.slice(1) || presets[0].link;
  const result = read(link, cards);
  state = result.state;
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
$("picker").open = !narrow.matches;
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
    const { from, to } = Object.fromEntries(["from", "to"].map((k) => [k, $("view").elements[k].valueAsNumber]));
    if (from < to) Object.assign(state, { from, to });
    for (const key of ["from", "to"]) $("view").elements[key].setAttribute("aria-invalid", String(!(from < to)));
  }
  build();
});
$("reset").addEventListener("click", () => change({ from: null, to: null }));
$("x-number").addEventListener("input", (e) => Number.isFinite(e.target.valueAsNumber) && setX(e.target.valueAsNumber));
$("x-range").addEventListener("input", (e) => {
  const { from, to } = axis();
  setX(Number((from + ((to - from) * e.target.value) / 1000).toPrecision(4)));
});
$("file").addEventListener("change", (e) => e.target.files[0] && load(e.target.files[0]));
$("skip").addEventListener("click", (e) => {
  e.preventDefault();
  $("plots").focus();
});
document.addEventListener("dragover", (e) => {
  e.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (e) => e.relatedTarget === null && document.body.classList.remove("dropping"));
document.addEventListener("drop", (e) => {
  e.preventDefault();
  document.body.classList.remove("dropping");
  if (e.dataTransfer.files[0]) load(e.dataTransfer.files[0]);
});
$("share").addEventListener("click", async (e) => {
  history.replaceState(null, "", `#${write(state)}`);
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
  draw();
}
$("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  themed();
});
dark.addEventListener("change", themed);
addEventListener("hashchange", restore);
restore();
themed();
