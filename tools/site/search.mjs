/**
 * Searches the built site from its folder, in headless Chromium: node search.mjs SITE WORDS ... prints the titles found.
 */

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const { chromium } = createRequire(new URL("../../explorer/package.json", import.meta.url))("playwright-core");
const [site, ...words] = process.argv.slice(2);
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const browser = await chromium.launch({ executablePath, args: ["--headless", "--no-sandbox", "--disable-gpu"] });
try {
  const tab = await browser.newPage();
  const outside = [];
  tab.on("request", (request) => /^(file|data|blob|about):/.test(request.url()) || outside.push(request.url()));
  await tab.goto(pathToFileURL(`${site}/guides/comparing.html`).href);
  await tab.click("[data-md-component=search-query]");
  await tab.keyboard.type(words.join(" "));
  await tab.waitForSelector(".md-search-result__item h1", { state: "attached", timeout: 20_000 });
  const titles = await tab.$$eval(".md-search-result__item h1", (found) => found.map((title) => title.textContent));
  console.log(JSON.stringify({ titles, outside }));
} finally {
  await browser.close();
}
