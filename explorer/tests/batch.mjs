/** What the page computes of batches, for tests/test_explain_batch.py: links and tables come in, losses go out, as JSON. */

import { readFileSync } from "node:fs";
import { cards } from "../generated/catalogue.js";
import { parse } from "../src/csv.js";
import { losses } from "../src/losses.js";
import { guess, rolesOf } from "../src/roles.js";
import { read } from "../src/state.js";

const plain = (numbers) => [...numbers].map((x) => (Number.isFinite(x) ? x : String(x)));

const found = JSON.parse(readFileSync(0, "utf8")).map(({ link, table: text }) => {
  const { state, problems } = read(link, cards);
  try {
    const [chosen] = state.losses;
    const card = cards.find(({ name }) => name === chosen.name);
    const table = parse(text);
    const columns = Object.fromEntries(rolesOf(card, chosen).map((role) => [role.key, guess(role, table.names)]));
    const { rows, gradients, places } = losses(table, card, chosen, columns);
    return { problems, rows: plain(rows), gradients: plain(gradients), places: places && plain(places) };
  } catch (error) {
    return { problems: [...problems, error.message] };
  }
});
console.log(JSON.stringify(found));
