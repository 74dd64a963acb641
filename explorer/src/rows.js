/** The section of the page about a CSV file: which column is what, what is wrong with it, its losses. */

import { parse } from "./csv.js";
import { ofHistogram } from "./describe.js";
import { h, patch, replace } from "./dom.js";
import { told } from "./dots.js";
import { nameOf, show } from "./formulas.js";
import { histogram, scales, ticks } from "./histogram.js";
import { losses } from "./losses.js";
import { figure } from "./plot.js";
import { tableRow } from "./readout.js";
import { guess, rolesOf, rolesOfAll } from "./roles.js";
import { roleControl } from "./selects.js";
import { showShares, showWorst } from "./tables.js";
import { ordered, summary } from "./worst.js";

const $ = (id) => document.getElementById(id);
let table = null;
let columns = {}; // by the key of a role: what is chosen for it
let scale = null; // "linear" or "logarithmic" once somebody has chosen
let again = () => {}; // counts what was counted last
let bars = null;
let timer = 0;
let placed = () => {}; // is told the samples with their places on the curves

/** Reads a file; what is wrong with it is said on the page. */
export async function load(file) {
  forget();
  try {
    table = parse(await file.text());
    $("csv-name").textContent = `${file.name}: ${table.rows.length} rows, columns ${table.names.join(", ")}.`;
    $("csv-file").hidden = false;
    $("roles").replaceChildren();
  } catch (error) {
    complain([error.message]);
  }
  $("csv-title").scrollIntoView({ block: "nearest" });
}

function forget() {
  table = null;
  columns = {};
  scale = null;
  $("csv-result").hidden = $("csv-file").hidden = true;
  complain([]);
}

/** Shows the rows of a notebook's batch; rows: what they are called there; said: sentences about them. */
export function loadBatch({ table: text, rows, said }) {
  forget();
  table = parse(text);
  for (const [i, row] of table.rows.entries()) row.line = rows[i];
  $("csv-title").textContent = "The batch";
  for (const element of document.querySelectorAll(".line")) element.textContent = element.dataset.row;
  replace($("batch-said"), ...said.map((sentence) => h("p", {}, sentence)));
}

/** Draws the losses of the rows; chosen: pairs of a card and a chosen loss; on(samples) is told their places. */
export function drawRows(chosen, on = () => {}) {
  placed = on;
  ask(chosen);
  clearTimeout(timer);
  if (!table) return;
  again = () => count(chosen);
  offer(chosen);
  if (table.rows.length * chosen.length > 10_000)
    timer = setTimeout(again, 150); // when the slider rests
  else again();
}

/** One select for each role of the chosen losses. */
function offer(chosen) {
  const roles = rolesOfAll(chosen);
  for (const role of roles) if (!(role.key in columns)) columns[role.key] = guess(role, table.names);
  const set = (role, column) => {
    columns[role.key] = column;
    again();
  };
  patch(
    $("roles"),
    roles.map((role) => [
      JSON.stringify([role.key, role.value, [...role.losses], table.names]),
      () => roleControl(role, columns[role.key], table.names, (column) => set(role, column)),
    ]),
  );
}

function count(chosen) {
  const samples = [];
  const problems = chosen.length ? [] : ["Choose a loss: it says what the columns mean."];
  for (const [card, settings] of chosen) {
    try {
      const found = losses(table, card, settings, columns);
      const roles = rolesOf(card, settings);
      const name = nameOf(
        card,
        settings,
        roles.map((role) => role.name),
      );
      samples.push({
        slot: settings.slot,
        loss: card.name,
        name,
        roles,
        ...found,
        ...summary(found),
        order: ordered(found.rows),
      });
    } catch (error) {
      problems.push(error.message);
    }
  }
  complain(problems);
  $("csv-result").hidden = samples.length === 0;
  placed(samples);
  $("dotted").textContent = told(samples);
  if (!samples.length) return;
  drawHistogram(samples);
  patch(
    $("csv-numbers"),
    samples.map((s) => tableRow(s.slot, s.name, [s.count, s.mean, s.median, s.largest, s.line])),
  );
  showShares(samples);
  showWorst(samples, table, columns);
}

function drawHistogram(samples) {
  const rows = samples.map((sample) => sample.rows);
  const { possible, better } = scales(rows);
  const logarithmic = possible && (scale ? scale === "logarithmic" : better);
  for (const input of $("scale").querySelectorAll("input")) {
    input.checked = (input.value === "logarithmic") === logarithmic;
    input.disabled = input.value === "logarithmic" && !possible;
  }
  $("scale-why").textContent = possible ? "" : "Losses below 0, or all of them 0, have no logarithm.";
  const counted = histogram(rows, logarithmic);
  const { edges, counts, above, below, zeros } = counted;
  const losses = (n) => `${n} ${n > 1 ? "losses" : "loss"}`;
  const outer = [
    zeros && `The bar at “zero” holds ${losses(zeros)} of exactly 0.`,
    below && `The first bar holds ${losses(below)} below ${edge(10 ** edges[zeros ? 2 : 0])}.`,
    above && `The last bar holds ${losses(above)} above ${edge(edges.at(-1))}.`,
  ];
  $("outer").textContent = outer.filter(Boolean).join(" ");
  bars ??= figure($("histogram"), "Losses of the rows", {}, true);
  bars.update({
    xs: edges,
    lines: samples.map((sample, i) => ({
      slot: sample.slot,
      name: sample.name,
      note: sample.undefined > 0 && ` ${sample.undefined} rows without a finite loss`,
      ys: [...counts[i], counts[i].at(-1)],
    })),
    xLabel: `loss of a row${logarithmic ? " (logarithmic)" : ""}`,
    yLabel: "rows",
    ticks: logarithmic ? ticks(counted, $("histogram").clientWidth / 60) : null,
    description: ofHistogram(samples, counted, logarithmic),
  });
}

const edge = (x) => show(Number(x.toPrecision(3)));

/** Says which columns the chosen losses need. */
function ask(chosen) {
  const roles = rolesOfAll(chosen);
  const said = roles.map(({ name, says }, i) => [i > 0 && "; ", h("code", {}, name), ` (${says})`]);
  const sentence = () => h("span", {}, "Its first line names the columns. The chosen losses need ", said, ".");
  const key = roles.map((role) => role.key).join(";");
  patch($("columns"), said.length && !table ? [[key, sentence]] : []);
}

function complain(problems) {
  patch(
    $("csv-problems"),
    [...new Set(problems)].map((text) => [text, () => h("p", {}, text)]),
  );
}

$("scale").addEventListener("change", (e) => {
  scale = e.target.value;
  again();
});
$("worst-of").addEventListener("change", () => again());
