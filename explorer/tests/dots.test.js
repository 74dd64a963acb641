/** The rows of a file on the curve of a loss, and the batch that a notebook puts into the page. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { cards } from "../generated/catalogue.js";
import { batchOf } from "../src/batch.js";
import { parse } from "../src/csv.js";
import { dotsOf, reach, told } from "../src/dots.js";
import { bound } from "../src/formulas.js";
import { losses } from "../src/losses.js";
import { guess, rolesOf } from "../src/roles.js";
import { choose } from "../src/state.js";

const card = (name) => cards.find((known) => known.name === name);

function read(text, name, given = {}) {
  const chosen = { ...choose(card(name)), given };
  const table = parse(text);
  const columns = Object.fromEntries(rolesOf(card(name), chosen).map((role) => [role.key, guess(role, table.names)]));
  return { chosen, ...losses(table, card(name), chosen, columns) };
}

test("a loss of a difference has its rows moved to the target of the curve, which they then lie on", () => {
  const found = read("input,target\n1,3\n2,-1\n0.5,0.5\n", "huber_loss", { target: 2 });
  assert.deepEqual([...found.places], [0, 5, 2]);
  assert.equal(found.where, "moved");
  const { value } = bound(card("huber_loss"), found.chosen);
  for (const [i, x] of found.places.entries()) assert.ok(Math.abs(value(x) - found.rows[i]) < 1e-12);
});

test("another loss leaves them at their own variable", () => {
  const found = read("input,target\n1,0\n-2,1\n", "binary_cross_entropy_with_logits");
  assert.deepEqual([[...found.places], found.where], [[1, -2], "own"]);
  assert.equal(read("input,target\n1,0\n-2,0\n", "mse_loss").where, "own", "they are where the target is already");
});

test("rows of class scores lie at the margin of the right class, pairs nowhere", () => {
  const text = "score0,score1,score2,class\n1,2,3,2\n0,-1,4,0\n";
  const found = read(text, "cross_entropy");
  assert.equal(found.where, "margin");
  assert.ok(Math.abs(found.places[0] - (3 - Math.log(Math.exp(1) + Math.exp(2)))) < 1e-12);
  const { value } = bound(card("cross_entropy"), found.chosen);
  for (const [i, x] of found.places.entries()) assert.ok(Math.abs(value(x) - found.rows[i]) < 1e-12);
  assert.equal(read(text, "multi_margin_loss").places, null);
  assert.equal(dotsOf(read(text, "multi_margin_loss")), null);
});

test("of very many rows some are drawn, and it is said", () => {
  const rows = Float64Array.from({ length: 9000 }, (_, i) => i);
  const many = { slot: 0, rows, places: rows, where: "own" };
  assert.equal(dotsOf(many).xs.length, 1800);
  assert.match(told([many]), /of which one in 5 is drawn/);
  assert.doesNotMatch(told([{ ...many, rows: rows.slice(0, 9), places: rows.slice(0, 9) }]), /drawn/);
  assert.equal(told([{ slot: 0, rows, places: null }]), "");
  const broken = { slot: 0, rows: [1, NaN, 3], places: [1, 2, Infinity] };
  assert.deepEqual(dotsOf(broken).xs, [1]);
});

test("the range holds the dots, but for the few that are very far away", () => {
  assert.deepEqual(reach([], [-4, 4]), [-4, 4]);
  assert.deepEqual(reach([{ xs: [0, 9] }], [-4, 4]), [-4, 9]);
  const xs = [...Array.from({ length: 999 }, (_, i) => i / 1000), 1e6];
  assert.deepEqual(reach([{ xs }], [-4, 4]), [-4, 20]);
});

test("the page takes the batch of its own element, as texts and numbers", () => {
  const page = (textContent) => ({ getElementById: (id) => (id === "batch" ? { textContent } : null) });
  assert.equal(batchOf({ getElementById: () => null }), null);
  const data = { link: "loss=mse_loss", table: "input,target\n1,2", rows: [7], said: ["one"], more: 1 };
  const { more, ...own } = data;
  assert.deepEqual(batchOf(page(JSON.stringify(data))), own);
  assert.throws(() => batchOf(page("alert(1)")));
});
