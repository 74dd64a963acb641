/** The numbers at the cursor: in the table at once, aloud when the cursor rests. */

import { h, patch } from "./dom.js";
import { show } from "./formulas.js";
import { swatch } from "./plot.js";

/** A row of a table: the loss, and its numbers or a text in their place. Cells hold the numbers in full precision. */
export function tableRow(slot, name, numbers, text = "") {
  const cell = (y) => h("td", {}, y === null ? "–" : h("data", { value: String(y) }, show(y)));
  const cells = numbers ? numbers.map(cell) : h("td", { colspan: 4 }, text);
  const make = () => h("tr", {}, h("th", { scope: "row" }, swatch(slot), name), cells);
  return [JSON.stringify([slot, name, numbers?.map(String)]), make];
}

let timer = 0;

/** found: slot, name and what there is at x, of each loss; `own` where the own variable of every loss is x. */
export function readout(found, x, symbol, own) {
  const $ = (id) => document.getElementById(id);
  if (document.activeElement !== $("x-number")) $("x-number").value = x;
  $("x-name").textContent = symbol;
  $("x-range").setAttribute("aria-valuetext", `${symbol} = ${show(x)}`);
  $("numbers").parentElement.classList.toggle("own", own);
  const numbers = (at) => at && [at.own, at.value, at.slope, at.curvature];
  patch(
    $("numbers"),
    found.map(({ slot, name, at }) => tableRow(slot, name, numbers(at), "not on this axis")),
  );
  clearTimeout(timer);
  timer = setTimeout(() => {
    const said = found.map(({ name, at }) => {
      if (!at) return `${name}: not on this axis`;
      return `${name}: value ${show(at.value)}, gradient ${show(at.slope)}, curvature ${show(at.curvature)}`;
    });
    const text = `At ${symbol} = ${show(x)}. ${said.join(". ")}.`;
    if ($("live").textContent !== text) $("live").textContent = text;
  }, 400);
}
