/** Tables about the rows of a file: how much of the gradient the worst have, and which they are. */

import { h, patch, replace } from "./dom.js";
import { show } from "./formulas.js";
import { swatch } from "./plot.js";
import { PAGE } from "./roles.js";
import { gradientShares, SHARES, worst } from "./worst.js";

const $ = (id) => document.getElementById(id);
const percent = (part) => (part === null ? "–" : `${show(Number((100 * part).toPrecision(3)))} %`);

/** What the worst rows have of each loss's gradient: a sentence, and a table with bars. */
export function showShares(samples) {
  const found = samples.map((sample) => ({ ...sample, shares: gradientShares(sample) }));
  const bar = (part) => h("span", { class: "bar", style: `--part: ${part ?? 0}`, "aria-hidden": "true" });
  patch(
    $("csv-shares"),
    found.map(({ slot, name, shares }) => [
      JSON.stringify([slot, name, shares]),
      () =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, swatch(slot), name),
          shares.map(({ part }) => h("td", { class: `c${slot % 5}` }, bar(part), h("span", {}, percent(part)))),
        ),
    ]),
  );
  $("pull").textContent = sentence(found);
}

function sentence(found) {
  const [{ count }] = found[0].shares;
  const rows = Math.max(...found.map(({ rows }) => rows.length));
  const parts = found.filter(({ shares }) => shares[0].part !== null);
  if (!parts.length) return "No row has a finite gradient other than 0.";
  const said = parts.map(({ name, shares }) => `${percent(shares[0].part)} of that of ${name}`);
  const list = said.length > 1 ? `${said.slice(0, -1).join(", ")} and ${said.at(-1)}` : said[0];
  const these = `The ${count > 1 ? `${count} rows` : "row"} with the largest loss, of ${rows}, ${count > 1 ? "have" : "has"}`;
  return (
    `Each row pulls on the model by the length of its gradient by what the model predicts. ${these} ${list}; ` +
    `if all rows pulled alike, it would be ${percent(count / rows)}.`
  );
}

const id = ({ slot, loss }) => `${slot} ${loss}`;

/** The rows with the largest loss of one of the samples. */
export function showWorst(samples, table, columns) {
  const options = samples.map(({ slot, loss, name }) => [
    JSON.stringify([slot, loss, name]),
    () => h("option", { value: id({ slot, loss }) }, name),
  ]);
  const before = $("worst-of").value;
  patch($("worst-of"), options);
  if (samples.some((sample) => id(sample) === before)) $("worst-of").value = before;
  const sample = samples.find((one) => id(one) === $("worst-of").value) ?? samples[0];
  const heads = [
    $("csv-line").textContent,
    ...sample.roles.map((role) => role.name),
    "Loss",
    "Share of the total",
    "Gradient's length",
  ];
  replace($("worst-head"), h("tr", {}, ...heads.map((text) => h("th", { scope: "col" }, text))));
  const cells = ({ row }) => sample.roles.map((role) => cellText(role, row, sample, table, columns));
  patch(
    $("worst-rows"),
    worst(sample).map((one) => {
      const { line, row, loss, share } = one;
      const texts = [...cells(one), show(loss), percent(share), show(sample.gradients[row])];
      return [
        JSON.stringify([line, texts]),
        () =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, String(line)),
            texts.map((text) => h("td", {}, text)),
          ),
      ];
    }),
  );
}

const FEW = 5; // classes whose scores are all shown

/** What a row says for a role, as the file has it; of many classes the score of the right one and of the highest. */
function cellText({ key, many, value }, row, { classes }, table, columns) {
  const { cells } = table.rows[row];
  if (!many) return columns[key] === PAGE ? show(value) : cells[columns[key]];
  const scores = columns[key].map((at) => cells[at]);
  if (scores.length <= FEW) return scores.join(", ");
  const highest = scores.reduce((best, score, i) => (Number(score) > Number(scores[best]) ? i : best), 0);
  const right = classes[row].map((i) => scores[i]).join(", ");
  return `right ${right}; highest ${scores[highest]} (${table.names[columns[key][highest]]})`;
}
