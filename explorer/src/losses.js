/**
 * The loss and the gradient of every row of a file, computed here. Nothing leaves the page.
 *
 * What the library would refuse is refused in one sentence that names the line and the column. A parameter such as delta
 * is that of the page.
 */

import { chosenRowLoss, placeOf } from "./classes.js";
import { numbers } from "./csv.js";
import { domainOf, includes, must } from "./domains.js";
import { moved } from "./dots.js";
import { givenOf, KINDS, variantOf } from "./formulas.js";
import { classNames, PAGE, rolesOf } from "./roles.js";

const listed = (names) => (names.length > 1 ? `${names.slice(0, -1).join(", ")} and ${names.at(-1)}` : names[0]);

/**
 * columns: by the key of a role, what is chosen for it (see roles.js). Returns the rows' losses, the lengths of their
 * gradients by what the model predicts, their lines, and their places on the curve (see dots.js) or null.
 */
export function losses(table, card, chosen, columns) {
  const roles = rolesOf(card, chosen);
  const missing = roles.filter(({ key, many }) => columns[key] == null || (many && columns[key].length < 2));
  if (missing.length) {
    const asked = missing.map(({ name, many }) => (many ? `two columns or more for ${name}` : `a column for ${name}`));
    throw new Error(`${card.title}: choose ${listed(asked)}; the file has ${listed(table.names)}.`);
  }
  const found = card.rows ? ofScores : ofNumbers;
  return { ...found(table, card, chosen, roles, columns), lines: table.rows.map((row) => row.line) };
}

function ofNumbers(table, card, chosen, roles, columns) {
  const variant = variantOf(card, chosen.switches);
  const settings = Object.fromEntries(givenOf(card, chosen).map((g) => [g.name, g.value]));
  const read = Object.fromEntries(
    roles
      .filter(({ key }) => columns[key] !== PAGE)
      .map((role) => [role.name, checked(table, columns[role.key], card, variant, role)]),
  );
  const variable = read[card.curve.variable];
  const rows = new Float64Array(variable.length);
  const gradients = new Float64Array(variable.length);
  for (const [row, x] of variable.entries()) {
    const { value, slope } = variant.bind(...variant.given.map((name) => read[name]?.[row] ?? settings[name]));
    rows[row] = value(x);
    gradients[row] = Math.abs(slope(x));
  }
  return { rows, gradients, ...onCurve(card, variant, settings, read, variable, rows) };
}

/** Where rows of numbers lie on the curve, and how they came there. */
function onCurve(card, variant, settings, read, variable, rows) {
  const others = Object.keys(read).filter((name) => name !== card.curve.variable);
  if (others.length !== 1) return { places: variable, where: "own" };
  const [name] = others;
  const { value } = variant.bind(...variant.given.map((key) => settings[key]));
  const by = read[name].map((x) => x - settings[name]);
  const places = by.some((x) => x !== 0) ? moved(variable, by, rows, value) : null;
  return places ? { places, where: "moved" } : { places: variable, where: "own" };
}

/** A column for a role, every number of which the library would take. */
function checked(table, at, card, variant, { name, kind }) {
  const column = numbers(table, at);
  const domain = domainOf(card, variant, name);
  const limits = domain ?? (name === card.curve.variable && KINDS[kind].domain);
  const wrong = limits ? column.findIndex((x) => !includes(limits, x)) : -1;
  if (wrong < 0) return column;
  throw new Error(`${place(table, wrong, at)}: ${must(`${name} of ${card.title}`, limits, column[wrong])}.`);
}

const place = (table, row, at) => `Line ${table.rows[row].line}, column ${table.names[at]}`;

function ofScores(table, card, chosen, [scores, right], columns) {
  const at = columns[scores.key];
  const variant = variantOf(card, chosen.switches);
  const read = at.map((i) => checked(table, i, card, variant, { name: card.curve.variable, kind: card.curve.kind }));
  const names = at.map((i) => table.names[i]);
  if (card.rows.softmax && areProbabilities(read)) {
    const how = "take their logarithms, whose softmax is the same";
    throw new Error(
      `${card.title} takes scores, and ${listed(names)} are probabilities (each row adds up to 1): ${how}.`,
    );
  }
  const classes = labels(table, columns[right.key], names, right.several, card.title);
  const loss = chosenRowLoss(card, chosen);
  const found = classes.map((label, row) =>
    loss(
      read.map((column) => column[row]),
      label,
    ),
  );
  return {
    rows: Float64Array.from(found, ({ value }) => value),
    gradients: Float64Array.from(found, ({ gradient }) => gradient),
    classes,
    places: placeOf(card)?.(read, classes) ?? null,
    where: card.rows.softmax ? "margin" : "own",
  };
}

const areProbabilities = (columns) =>
  columns[0].every((_, row) => {
    const cells = columns.map((column) => column[row]);
    return cells.every((x) => x >= 0 && x <= 1) && Math.abs(cells.reduce((a, b) => a + b) - 1) < 1e-3;
  });

/** The right classes of each row, as a list: by the names of their columns, or by number where numbers are no names. */
function labels(table, at, names, several, title) {
  const short = classNames(names).map((name) => name.toLowerCase());
  const cells = table.rows.map((row) => {
    const text = row.cells[at].toLowerCase();
    return several ? text.split(/[|;\s]+/).filter(Boolean) : [text];
  });
  const all = names.length;
  const byName = (text) => (short.indexOf(text) + 1 || names.indexOf(text) + 1) - 1;
  const byNumber = (text) => {
    const x = text === "" ? NaN : Number(text);
    return Number.isInteger(x) && x >= 0 && x < all ? x : -1;
  };
  const every = cells.flat();
  const named = every.every((text) => byName(text) >= 0) || every.some((text) => Number.isNaN(Number(text)));
  const read = named ? byName : byNumber;
  return cells.map((row, i) => {
    const found = row.map(read);
    const wrong = found.indexOf(-1);
    if (wrong < 0) return found;
    const allowed = `0 to ${all - 1}, or ${listed(short)}`;
    const said = `class of ${title} must be ${allowed}, got “${row[wrong]}”`;
    throw new Error(`${place(table, i, at)}: ${said}.`);
  });
}
