/**
 * LaTeX to MathML for the site: a line of JSON in, [latex, display], and a line of JSON out, the MathML.
 *
 * Temml is the explorer's, so that both set their formulas alike; `make explorer` installs it.
 */

import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const temml = createRequire(new URL("../../explorer/package.json", import.meta.url))("temml");

for await (const line of createInterface({ input: process.stdin })) {
  const [latex, displayMode] = JSON.parse(line);
  let answer;
  try {
    answer = { mathml: temml.renderToString(latex, { displayMode, throwOnError: true, annotate: false }) };
  } catch (problem) {
    answer = { problem: problem.message };
  }
  console.log(JSON.stringify(answer));
}
