/**
 * Predictions from a CSV file: the loss of every row, computed here. Nothing leaves the page.
 *
 * 1. Columns are named as a loss names what it takes. The first may also be called "prediction", or by the kind of
 *    variable that it is ("logit", "probability", ...).
 * 2. A parameter such as delta is that of the page, a class weight too; an operand such as target is a column.
 * 3. What cannot be computed is refused in one sentence that names the line and the column.
 */

import { givenOf, KINDS, points, variantOf } from "./formulas.js";

/** Rows of cells; the separator is the one of , ; and tab that the first line has most of. Quotes may hold it. */
export function parse(text) {
  const first = text.replace(/^\uFEFF/, "").split(/\r?\n/, 1)[0];
  const count = (c) => first.split(c).length;
  const separator = [",", ";", "\t"].reduce((a, b) => (count(b) > count(a) ? b : a));
  const rows = [];
  let row = [];
  let cell = "";
  let quoted = false;
  let line = 1;
  let start = 1;
  const endCell = () => {
    row.push(cell.trim());
    cell = "";
  };
  const endRow = () => {
    endCell();
    if (row.length > 1 || row[0] !== "") rows.push({ line: start, cells: row });
    row = [];
  };
  const body = text.replace(/^\uFEFF/, "");
  for (let i = 0; i < body.length; i++) {
    const c = body[i];
    if (c === "\n") line++;
    if (quoted) {
      if (c !== '"') cell += c;
      else if (body[i + 1] === '"') cell += body[++i];
      else quoted = false;
    } else if (c === '"' && cell.trim() === "") {
      quoted = true;
      cell = "";
    } else if (c === separator) endCell();
    else if (c === "\n") {
      endRow();
      start = line;
    } else if (c !== "\r") cell += c;
  }
  endRow();
  if (rows.length === 0) throw new Error("The file is empty; its first line must name the columns.");
  const [header, ...data] = rows;
  if (data.length === 0) throw new Error("The file has a line of names and no rows below it.");
  const names = header.cells.map((name) => name.toLowerCase());
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined) throw new Error(`The file has two columns called “${twice}”.`);
  for (const { line: at, cells } of data) {
    if (cells.length !== names.length)
      throw new Error(`Line ${at} has ${cells.length} cells, and the file has ${names.length} columns.`);
  }
  return { names, rows: data };
}

/** The columns that a chosen loss needs; the first is its variable. */
export function needs(card, chosen) {
  const operands = givenOf(card, chosen).filter((g) => !card.parameters.includes(g.name));
  return [card.curve.variable, ...operands.map((g) => g.name)];
}

const listed = (names) => (names.length > 1 ? `${names.slice(0, -1).join(", ")} and ${names.at(-1)}` : names[0]);

/** The loss of every row under a chosen loss. */
export function losses(table, card, chosen) {
  const { kind } = card.curve;
  const names = needs(card, chosen);
  const found = (name, i) => {
    const also = i === 0 ? [name, "prediction", kind] : [name];
    return also.map((n) => table.names.indexOf(n)).find((at) => at >= 0) ?? -1;
  };
  const at = names.map(found);
  const missing = names.filter((_, i) => at[i] < 0);
  if (missing.length) {
    const have = `the file has ${table.names.join(", ")}`;
    throw new Error(
      `${card.title} needs ${names.length > 1 ? "the columns" : "the column"} ${listed(names)}; ` +
        `${listed(missing)} ${missing.length > 1 ? "are" : "is"} missing (${have}).`,
    );
  }
  const columns = names.map((name, i) => {
    const column = numbers(table, at[i]);
    const { choices } = i ? card.curve.given.find((g) => g.name === name) : { choices: [] };
    const { low, high } = i ? KINDS.prediction : KINDS[kind];
    const wrong = column.findIndex((x) => !(x >= low && x <= high) || (choices.length > 0 && !choices.includes(x)));
    if (wrong < 0) return column;
    const said = choices.length
      ? `${card.title} takes ${choices.join(" or ")}, not ${column[wrong]}`
      : `${column[wrong]} is no ${KINDS[kind].label}, which ${card.title} takes as its ${name}`;
    throw new Error(`Line ${table.rows[wrong].line}, column ${table.names[at[i]]}: ${said}.`);
  });
  const variant = variantOf(card, chosen.switches);
  const settings = Object.fromEntries(givenOf(card, chosen).map((g) => [g.name, g.value]));
  const given = variant.given.map((name) => columns[names.indexOf(name)] ?? settings[name]);
  const [variable] = columns;
  const rows = Float64Array.from(variable, (x, row) =>
    variant.bind(...given.map((g) => (typeof g === "number" ? g : g[row]))).value(x),
  );
  return { rows, lines: table.rows.map((row) => row.line) };
}

/** A column as numbers, read once. */
function numbers(table, at) {
  table.columns ??= [];
  return (table.columns[at] ??= Float64Array.from(table.rows, ({ line, cells }) => {
    const x = cells[at] === "" ? NaN : Number(cells[at]);
    if (Number.isNaN(x)) throw new Error(`Line ${line}, column ${table.names[at]}: “${cells[at]}” is not a number.`);
    return x;
  }));
}

/** Counts of several samples over shared bins; what lies far above the rest is counted in the last one. */
export function histogram(samples, bins = 40) {
  const all = Float64Array.from(samples.flatMap((rows) => [...rows.filter(Number.isFinite)])).sort();
  if (!all.length) return { edges: [0, 1], counts: samples.map(() => [0]), above: 0 };
  const low = all[0];
  const usual = all[Math.floor(0.99 * (all.length - 1))];
  const capped = all.at(-1) > low + 2 * (usual - low) && usual > low;
  const high = capped ? usual : all.at(-1) > low ? all.at(-1) : low + 1;
  const edges = points(low, high, bins + 1);
  const counts = samples.map((rows) => {
    const count = new Array(bins).fill(0);
    for (const x of rows) {
      if (Number.isFinite(x)) count[Math.min(bins - 1, Math.floor(((x - low) / (high - low)) * bins))]++;
    }
    return count;
  });
  return { edges, counts, above: capped ? all.filter((x) => x > high).length : 0 };
}

/** What one says about a sample: its size, mean, median, largest loss and its line. */
export function summary({ rows, lines }) {
  const finite = Float64Array.from(rows.filter(Number.isFinite)).sort();
  const n = finite.length;
  const middle = n % 2 ? finite[(n - 1) / 2] : (finite[n / 2 - 1] + finite[n / 2]) / 2;
  const worst = finite.at(-1);
  return {
    count: rows.length,
    undefined: rows.length - n,
    mean: finite.reduce((sum, x) => sum + x, 0) / n,
    median: n ? middle : NaN,
    largest: n ? worst : NaN,
    line: n ? lines[rows.indexOf(worst)] : null,
  };
}
