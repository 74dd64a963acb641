/** The section of the page about a CSV file: what it must hold, what is wrong with it, its losses. */

import { histogram, losses, needs, parse, summary } from "./csv.js";
import { h, patch } from "./dom.js";
import { nameOf, show } from "./formulas.js";
import { figure } from "./plot.js";
import { tableRow } from "./readout.js";

const $ = (id) => document.getElementById(id);
let table = null;
let bars = null;
let timer = 0;

/** Reads a file; what is wrong with it is said on the page. */
export async function load(file) {
  table = null;
  $("csv-result").hidden = true;
  complain([]);
  try {
    table = parse(await file.text());
    $("csv-name").textContent = `${file.name}: ${table.rows.length} rows, columns ${table.names.join(", ")}.`;
  } catch (error) {
    complain([error.message]);
  }
  $("csv-title").scrollIntoView({ block: "nearest" });
}

/** Draws the losses of the rows; chosen: pairs of a card and a chosen loss. */
export function drawRows(chosen) {
  ask(chosen);
  clearTimeout(timer);
  if (!table) return;
  if (table.rows.length * chosen.length > 10_000)
    timer = setTimeout(count, 150, chosen); // when the slider rests
  else count(chosen);
}

function count(chosen) {
  const samples = [];
  const problems = chosen.length ? [] : ["Choose a loss: it says what the columns mean."];
  for (const [card, settings] of chosen) {
    try {
      const found = losses(table, card, settings);
      const name = nameOf(card, settings, needs(card, settings));
      samples.push({ slot: settings.slot, name, rows: found.rows, ...summary(found) });
    } catch (error) {
      problems.push(error.message);
    }
  }
  complain(problems);
  $("csv-result").hidden = samples.length === 0;
  if (!samples.length) return;
  bars ??= figure($("histogram"), "Losses of the rows", {}, true);
  const { edges, counts, above } = histogram(samples.map((sample) => sample.rows));
  const tail = above ? ` (the last bar holds ${above} above ${show(Number(edges.at(-1).toPrecision(3)))})` : "";
  bars.update({
    xs: edges,
    lines: samples.map((sample, i) => ({
      slot: sample.slot,
      name: sample.name,
      note: sample.undefined > 0 && ` ${sample.undefined} rows without a finite loss`,
      ys: [...counts[i], counts[i].at(-1)],
    })),
    xLabel: `loss of a row${tail}`,
    yLabel: "rows",
    description: "Histogram of the losses of the rows. The table below has mean, median and largest loss.",
  });
  const numbers = (s) => [s.count, s.mean, s.median, s.largest, s.line];
  patch(
    $("csv-numbers"),
    samples.map((sample) => tableRow(sample.slot, sample.name, numbers(sample))),
  );
}

/** Says which columns the chosen losses need. */
function ask(chosen) {
  const columns = new Map(chosen.map(([card, settings]) => [`${needs(card, settings)}`, { card, settings }]));
  const code = (name) => h("code", {}, name);
  const said = [...columns.values()].map(({ card, settings }, i) => {
    const [first, ...rest] = needs(card, settings);
    const also = card.operands.includes(first) ? [" or ", code("prediction")] : ` (${card.curve.label})`;
    return [i > 0 && "; or ", code(first), also, rest.map((name) => [", ", code(name)])];
  });
  const sentence = () => h("span", {}, "Its first line names the columns. The chosen losses need ", said, ".");
  patch($("columns"), said.length ? [[[...columns.keys()].join(";"), sentence]] : []);
}

function complain(problems) {
  patch(
    $("csv-problems"),
    [...new Set(problems)].map((text) => [text, () => h("p", {}, text)]),
  );
}
