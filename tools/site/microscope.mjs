/**
 * Uses the microscope of a page in headless Chromium: node microscope.mjs PAGE prints what it tells at its worst point,
 * after keys and after a zoom, the lines to copy, and what went wrong.
 */

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const { chromium } = createRequire(new URL("../../explorer/package.json", import.meta.url))("playwright-core");
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const browser = await chromium.launch({ executablePath, args: ["--headless", "--no-sandbox", "--disable-gpu"] });
try {
  const tab = await browser.newPage({ viewport: { width: 800, height: 900 } });
  const outside = [], errors = [];
  tab.on("request", (request) => /^(file|data|blob|about):/.test(request.url()) || outside.push(request.url()));
  tab.on("pageerror", (error) => errors.push(error.message));
  await tab.goto(pathToFileURL(process.argv[2]).href);
  const told = () => tab.evaluate(() => ({
    caption: document.querySelector(".microscope-table caption").textContent,
    cells: [...document.querySelectorAll(".microscope-table tbody td")].map((cell) => cell.textContent),
    lines: [...document.querySelectorAll(".microscope-code code")].map((code) => code.textContent),
  }));
  const worst = await told();
  await tab.focus(".microscope-plot");
  for (const key of ["ArrowRight", "ArrowDown", "ArrowDown"]) await tab.keyboard.press(key);
  const moved = await told();
  await tab.click(".microscope button[title^='Show the value']");
  const pressed = await tab.$$eval(".microscope [aria-pressed=true]", (found) => found.map((one) => one.textContent));
  const box = await (await tab.$(".microscope canvas")).boundingBox();
  const ink = () => tab.evaluate(() => document.querySelector(".microscope canvas").toDataURL());
  const before = await ink();
  await tab.mouse.move(box.x + 500, box.y + 60);
  await tab.mouse.down();
  await tab.mouse.move(box.x + 600, box.y + 60, { steps: 3 });
  await tab.mouse.up();
  const zoomed = (await ink()) !== before;
  await tab.mouse.click(box.x + 500, box.y + 60);
  const clicked = await told();
  await tab.setViewportSize({ width: 360, height: 800 });
  const wide = await tab.evaluate(() => document.documentElement.scrollWidth);
  console.log(JSON.stringify({ worst, moved, pressed, zoomed, clicked, wide, outside, errors }));
} finally {
  await browser.close();
}
