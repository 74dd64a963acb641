/**
 * Builds the page, one index.html that holds everything and asks the network for nothing, and the figures of the
 * site's article: generated/figures.js and generated/figures.css, which the site takes (tools/site/hooks.py).
 *
 * 1. The catalogue becomes a module of real functions, so that the page needs no eval and its security policy can
 *    forbid everything but the one script whose hash stands in it.
 * 2. LaTeX becomes MathML here; browsers draw that by themselves, so no library and no fonts travel with the page.
 * 3. Texts in other languages (C++, Triton, Python) stay out: the page shows mathematics.
 */

import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import temml from "temml";
import { LOSSES } from "./src/article/names.js";
import { presets } from "./src/playground/presets.js";
import { MODES } from "./src/playground/settings.js";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const CATALOGUE = here("../src/losskit_guide/catalogue.json");
const PAGE = here("../src/losskit_guide/explorer/index.html");

// torch's name of the variance is a keyword here; printed formulas spell it like this.
const legal = (name) => (name === "var" ? "var_" : name);

function functionOf(name, statements) {
  const body = [...statements];
  const last = body.pop();
  return `${name}: (x) => { ${body.join(" ")} return ${last}; }`;
}

/** Domains by name; null where everything is allowed. */
function domainsOf(variant) {
  const limited = (d) => d.low !== null || d.high !== null || d.choices.length > 0;
  return Object.fromEntries(Object.entries(variant.domains ?? {}).map(([name, d]) => [name, limited(d) ? d : null]));
}

/**
 * The operands by which the loss of one number is differentiated, the variable first: what a model may predict of a
 * target. Null where a formula speaks of anything but operands and parameters, or asks for a parameter.
 */
function learnedOf({ operands, parameters, variants, curve }) {
  const [names, settings] = [operands, parameters].map((list) => list.map(({ name }) => name));
  const gradients = Object.keys(variants[0].gradients);
  const known = variants[0].arguments.every((name) => names.includes(name) || settings.includes(name));
  const plain = gradients.every((name) => names.includes(name)) && gradients[0] === curve.variable;
  const asks = parameters.some(({ required }) => required);
  return names.includes("target") && !gradients.includes("target") && known && plain && !asks ? gradients : null;
}

/** A variant as a function of what is given that returns functions of the variable, and of it `by` other operands. */
function variantText(variant, card) {
  const [variable, ...given] = variant.arguments.map(legal);
  const functions = ["value", "slope", "curvature"]
    .map((name) => functionOf(name, variant[name].javascript).replace("(x) =>", `(${variable}) =>`))
    .join(",\n");
  const { switches } = variant;
  const [, ...others] = learnedOf(card) ?? [];
  const same = card.variants.find((v) => JSON.stringify(v.switches) === JSON.stringify(switches));
  const slopes = others.map((name) =>
    functionOf(name, same.gradients[name].javascript).replace("(x) =>", `(${variable}) =>`),
  );
  const by = others.length ? `, by: { ${slopes.join(", ")} }` : "";
  return `{ switches: ${JSON.stringify(switches)}, given: ${JSON.stringify(variant.arguments.slice(1))},
    domains: ${JSON.stringify(domainsOf(variant))},
    bind: (${given.join(", ")}) => ({ ${functions}${by} }) }`;
}

/** The formula of a loss of rows: functions of what it speaks of and of its numbers, with the derivative by each. */
function rowText(variant) {
  const names = variant.arguments.map(legal).join(", ");
  const of = (name, text) => functionOf(name, text.javascript).replace("(x) =>", `(${names}) =>`);
  const gradients = Object.entries(variant.gradients).map(([name, text]) => of(name, text));
  return `{ switches: ${JSON.stringify(variant.switches)}, arguments: ${JSON.stringify(variant.arguments)},
    ${of("value", variant.value)}, gradients: { ${gradients.join(", ")} } }`;
}

/**
 * What a loss of embeddings needs beside its curve: its formulas as functions of what they speak of, how pairs become
 * that, and the constants that no formula names.
 */
function embeddingText(card) {
  const constants = card.parameters.filter((p) => typeof p.default === "number").map((p) => [p.name, p.default]);
  const sides = Object.entries(card.pairs?.terms ?? {}).map(([side, term]) => {
    const names = term.arguments.map(legal).join(", ");
    const of = (name, text) => functionOf(name, text.javascript).replace("(x) =>", `(${names}) =>`);
    const functions = `${of("value", term.value)}, ${of("gradient", term.gradients.similarity)}`;
    return `${side}: { arguments: ${JSON.stringify(term.arguments)}, ${functions} }`;
  });
  const pairs =
    card.pairs && `{ ...${JSON.stringify({ ...card.pairs, terms: null })}, terms: { ${sides.join(", ")} } }`;
  return `functions: [${card.variants.map(rowText).join(",")}], pairs: ${pairs ?? null},
    constants: ${JSON.stringify(Object.fromEntries(constants))},`;
}

/** The kinds of variables that are measured between embeddings. */
const MEASURED = ["distance", "cosine"];

/**
 * MathML of a formula: a mark in the place of a text that many cards share, and the texts. What only says again what the
 * style sheet or a browser knows is left out: a display formula is a block, and a fence looks like any operator.
 */
const texts = new Map();
function mathml(latex, displayMode = true) {
  const made = temml
    .renderToString(latex, { displayMode, throwOnError: true })
    .replace(' class="tml-display" style="display:block math;"', "")
    .replaceAll(' fence="true"', "");
  if (!texts.has(made)) texts.set(made, texts.size);
  return `@math ${texts.get(made)}`;
}

/** A bound as people write it: a parameter by its name, a root as one. */
function bound(x) {
  const square = Math.round(x * x);
  const root = Math.abs(x * x - square) < 1e-12 * square && !Number.isInteger(x);
  return typeof x === "string" ? x : root ? `√${square}` : +x.toPrecision(4);
}

function properties({ convex, lipschitz, minimum, ...facts }) {
  const words = ["smooth", "robust", "symmetric"].filter((word) => facts[word]);
  if (convex) words.unshift(typeof convex === "string" ? `convex in ${convex} alone` : "convex");
  if (lipschitz !== null) words.push(`gradient at most ${bound(lipschitz)}`);
  if (minimum !== null) words.push(`minimum ${minimum}`);
  return words;
}

function cardText(card) {
  const { curve } = card;
  const switches = Object.keys(curve.variants[0].switches).map((name) => {
    const declared = [...card.parameters, ...card.operands].find((known) => known.name === name);
    const values = [...new Set(curve.variants.map((variant) => variant.switches[name]))];
    const words = values.every((value) => typeof value === "string") ? values : [];
    return { name, label: declared.doc, value: card.usual[name], words };
  });
  const equation = ({ title, latex }) => ({ title, mathml: mathml(latex) });
  const formulas = card.variants.map(({ switches, equations }) => ({ switches, equations: equations.map(equation) }));
  const data = {
    name: card.name,
    title: card.class_name,
    task: card.task,
    summary: card.summary,
    advice: card.advice,
    bestFor: card.best_for,
    notFor: card.not_for,
    properties: properties(card.facts),
    reference: card.reference,
    symbols: card.symbols.map((symbol) => ({ mathml: mathml(symbol.latex, false), meaning: symbol.meaning })),
    formulas,
    operands: card.operands.map((operand) => operand.name),
    parameters: card.parameters.map((parameter) => parameter.name),
    switches,
    learned: learnedOf(card),
  };
  const { variable, label, kind, low, high, given } = curve;
  const outer = JSON.stringify({ variable, label, kind, low, high, given }).slice(0, -1);
  const rows = card.rows && `{ ...${JSON.stringify(card.rows)}, formulas: [${card.variants.map(rowText).join(",")}] }`;
  const own = MEASURED.includes(kind) ? embeddingText(card) : "functions: null,";
  return `{ ...${JSON.stringify(data)}, rows: ${rows}, ${own}
    curve: ${outer}, "variants": [${curve.variants.map((variant) => variantText(variant, card)).join(",")}] } }`;
}

/** A card without what the article never says: a formula and its meaning are on the page of the loss. */
function brief(card) {
  const variants = card.variants.map((variant) => ({ ...variant, equations: variant.equations.slice(0, 1) }));
  return { ...card, variants, symbols: [], advice: "", best_for: "", not_for: "", reference: "" };
}

const drawn = JSON.parse(readFileSync(CATALOGUE, "utf8")).losses.filter((card) => card.curve);
mkdirSync(here("generated"), { recursive: true });

/** A module of cards; `text` makes the text of one. */
function write(path, cards, text) {
  texts.clear();
  const written = cards
    .map(text)
    .join(",\n")
    .replace(/"@math (\d+)"/g, "math[$1]");
  writeFileSync(
    here(path),
    `// Made by build.mjs from losskit_guide/catalogue.json. Do not edit.
import * as lk from "../src/primitives.js";
const math = ${JSON.stringify([...texts.keys()], null, 0)};
export const cards = [${written}];\n`,
  );
}
write("generated/catalogue.js", drawn, (card) => cardText(card));
const told = LOSSES.map((name) => drawn.find((card) => card.name === name));
write("generated/article.js", told, (card) => cardText(brief(card)));

const bundle = async (entry) =>
  (
    await build({
      entryPoints: [here(entry)],
      bundle: true,
      minify: true,
      format: "iife",
      write: false,
      charset: "utf8",
    })
  ).outputFiles[0].text;
const script = await bundle("src/main.js");
const unpack = (await bundle("src/unpack.js")).trim();
const style = await bundle("src/style.css");
const hashes = [script, unpack].map((text) => `'sha256-${createHash("sha256").update(text).digest("base64")}'`);
const policy = `default-src 'none'; script-src ${hashes.join(" ")}; style-src 'unsafe-inline'; img-src data:`;
// What `losskit explore --play` opens by its name: the modes, and the trainings.
const trainings = [
  ...Object.keys(MODES).map((name) => ({ name, link: `play=${name}` })),
  ...presets.map(({ name, link }) => ({ name, link })),
];
const parts = {
  TRAININGS: JSON.stringify(trainings).replaceAll("<", "\\u003c"),
  POLICY: policy,
  LICENCE: readFileSync(here("node_modules/uplot/LICENSE"), "utf8").trim(),
  STYLE: style.trim(),
  PACKED: gzipSync(script, { level: 9 }).toString("base64"),
  UNPACK: unpack,
};
const page = readFileSync(here("src/index.html"), "utf8").replace(/\{\{(\w+)\}\}/g, (_, name) => parts[name]);
mkdirSync(here("../src/losskit_guide/explorer"), { recursive: true });
writeFileSync(PAGE, page);
console.log(`index.html: ${drawn.length} losses, ${(Buffer.byteLength(page) / 1000).toFixed(0)} kB`);

const figures = await bundle("src/article/main.js");
writeFileSync(here("generated/figures.js"), figures);
writeFileSync(here("generated/figures.css"), await bundle("src/article/style.css"));
console.log(`figures.js: ${told.length} losses, ${(Buffer.byteLength(figures) / 1000).toFixed(0)} kB`);
