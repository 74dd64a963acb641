/**
 * Draws docs/images/playground-light.png and -dark.png, the picture of the guide: npm run picture, after a build.
 *
 * Outliers drawn away from a line, after a fixed number of steps, without motion: the same picture on every run.
 */

import { fileURLToPath, pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const page = pathToFileURL(here("../src/losskit_guide/explorer/index.html")).href;
const LINK = "#play=regression&loss=mse_loss&loss=huber_loss:delta=0.5&loss=l1_loss&n=20&outliers=2";
const STEPS = 150;

const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const browser = await chromium.launch({ executablePath, args: ["--headless", "--no-sandbox", "--disable-gpu"] });
try {
  for (const colorScheme of ["light", "dark"]) {
    const viewport = { width: 1180, height: 760 };
    const tab = await browser.newPage({ viewport, colorScheme, reducedMotion: "reduce" });
    await tab.goto(page + LINK);
    await tab.waitForSelector("#arena canvas");
    await tab.evaluate((steps) => {
      for (let i = 0; i < steps; i++) document.getElementById("step").click();
    }, STEPS);
    await tab.waitForTimeout(500);
    const main = await tab.locator("#playground main").boundingBox();
    const field = await tab.locator("#field").boundingBox();
    const clip = {
      x: main.x - 12,
      y: main.y - 12,
      width: main.width + 24,
      height: field.y + field.height - main.y + 12,
    };
    await tab.screenshot({ path: here(`../docs/images/playground-${colorScheme}.png`), clip });
  }
} finally {
  await browser.close();
}
