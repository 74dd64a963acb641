/** The figures of the article in headless Chromium, a part of browser.mjs: hands, keys, words, screens. */

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const PAGE = here("../generated/article.html");

/** The article's figures between its headings, as the site has them, without the site. */
function shell() {
  const markdown = readFileSync(here("../../docs/what-a-loss-asks-for.md"), "utf8");
  const parts = [...markdown.matchAll(/^(#+) (.*)$|^<figure.*<\/figure>$/gm)].map(([line, marks, words]) =>
    marks ? `<h${marks.length}>${words}</h${marks.length}>` : line,
  );
  return `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>The article</title>
<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="figures.css">
<style>html { font-size: 125%; color-scheme: light dark; } body { margin: 0.8rem; } * { box-sizing: border-box; }</style>
</head><body><main class="article">${parts.join("\n")}</main><script src="figures.js" defer></script></body></html>`;
}

const FIGURES = [...shell().matchAll(/data-figure="(\w+)"/g)].map((match) => match[1]);
const number = (text) => Number(text.replace("−", "-"));

export async function article({ visit, settle, step, shot }) {
  writeFileSync(PAGE, shell());
  const open = async (options) => {
    const tab = await visit(PAGE, "", { reducedMotion: "reduce", ...options });
    await tab.waitForSelector('[data-figure="zero"] .said');
    await settle(tab);
    return tab;
  };
  const within = (tab, name) => ({
    said: () => tab.textContent(`[data-figure="${name}"] .said`),
    live: () => tab.textContent(`[data-figure="${name}"] [aria-live]`),
    find: (inner) => tab.locator(`[data-figure="${name}"] ${inner}`),
    handle: (label) => tab.locator(`[data-figure="${name}"] .handle[aria-label="${label}"]`),
    label: (text) => tab.locator(`[data-figure="${name}"]`).getByLabel(text, { exact: true }),
  });

  /** Drags what has a handle by so many pixels. */
  async function drag(tab, handle, dx, dy = 0) {
    await handle.scrollIntoViewIfNeeded();
    const box = await handle.locator(".body").boundingBox();
    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
    await tab.mouse.move(x, y);
    await tab.mouse.down();
    await tab.mouse.move(x + dx, y + dy, { steps: 5 });
    await tab.mouse.up();
    await settle(tab);
  }

  const tab = await open();
  const springs = within(tab, "springs");
  const points = () =>
    tab.$$eval('[data-figure="springs"] .handle.dot', (all) => all.map((e) => Number(e.ariaValueNow)));

  await step("article: every figure is drawn, speaks, and has names for what can be held", async () => {
    for (const name of FIGURES) {
      const one = within(tab, name);
      assert.ok((await one.said()).length > 30, `${name} says nothing`);
      assert.ok(name === "nan" || (await one.find("svg").count()) > 0, `${name} shows nothing`);
      assert.ok(await one.find(".reset").count());
      await tab.locator(`[data-figure="${name}"]`).scrollIntoViewIfNeeded();
      if (shot) await shot(tab, `article-${name}`);
    }
    const nameless = await tab.$$eval(".handle, input, button", (all) =>
      all
        .filter((e) => !(e.ariaLabel || e.labels?.[0]?.textContent.trim() || e.textContent.trim()))
        .map((e) => e.outerHTML.slice(0, 120)),
    );
    assert.deepEqual(nameless, []);
    const wordless = await tab.$$eval(".handle", (all) => all.filter((e) => !e.getAttribute("aria-valuetext")).length);
    assert.equal(wordless, 0);
    const ids = await tab.$$eval("[id]", (all) => all.map((e) => e.id));
    assert.equal(new Set(ids).size, ids.length);
    return `${FIGURES.length} figures`;
  });

  await step("article: a dragged point moves the mean, and a screen reader hears of it", async () => {
    const before = await points();
    await drag(tab, springs.handle("point 7 of 7"), 60);
    const after = await points();
    assert.ok(after[6] > before[6] + 0.3, `${before[6]} to ${after[6]}`);
    const mean = after.reduce((a, b) => a + b) / after.length;
    const [, found] = /MSELoss rests at (\S+)\. That is the mean/.exec(await springs.said());
    assert.ok(Math.abs(number(found) - mean) < 0.006, `${found}, and the mean is ${mean}`);
    await tab.waitForFunction(() => {
      const [said, live] = [".said", "[aria-live]"].map((inner) =>
        document.querySelector(`[data-figure="springs"] ${inner}`),
      );
      return said.textContent === live.textContent;
    });
  });

  await step("article: all of it with the keyboard: points, losses, the prediction", async () => {
    await springs.label("L1Loss").focus();
    await tab.keyboard.press("Space");
    await settle(tab);
    const median = (await points()).sort((a, b) => a - b)[3];
    const rests = async () => number(/rests at (\S+?)\.? /.exec(await springs.said())[1]);
    assert.ok(Math.abs((await rests()) - median) < 0.006);
    await springs.handle("point 4 of 7").focus();
    await tab.keyboard.press("Shift+ArrowRight");
    await tab.keyboard.press("ArrowLeft");
    const moved = await points();
    assert.ok(Math.abs(moved[3] - median - 0.72) < 0.01);
    await tab.keyboard.press("Delete");
    assert.equal((await points()).length, 6);
    assert.match(await springs.said(), /rests anywhere from \S+ to \S+\. That is their median, anywhere from/);
    assert.equal(await tab.evaluate(() => document.activeElement.getAttribute("aria-label")), "point 4 of 6");
    await springs.find("button").first().press("Enter");
    assert.equal((await points()).length, 7);
    await springs.handle("prediction").focus();
    await tab.keyboard.press("Home");
    assert.match(await springs.said(), /^L1Loss at −4: the points pull it to the right/);
    await tab.keyboard.press("Enter");
    assert.match(await springs.said(), /^L1Loss rests at/);
  });

  await step("article: the quantile's slider moves the place of rest; Reset returns", async () => {
    await springs.label("PinballLoss").check();
    const slider = springs.find('input[type="range"]');
    await slider.focus();
    await tab.keyboard.press("Home");
    const least = Math.min(...(await points()));
    assert.ok(
      (await springs.said()).includes(`rests at ${String(least.toPrecision(3)).replace("-", "−")}`),
      await springs.said(),
    );
    assert.equal(await slider.getAttribute("aria-valuetext"), "0.02");
    await springs.find(".reset").click();
    // It is let go once it is seen.
    await tab.waitForFunction(() =>
      document.querySelector('[data-figure="springs"] .said').textContent.startsWith("MSELoss rests"),
    );
    assert.equal(await tab.evaluate(() => document.activeElement.className), "reset");
  });

  await step("article: the start decides between two valleys", async () => {
    const valleys = within(tab, "valleys");
    assert.match(
      await valleys.said(),
      /WelschLoss with scale 1 has 2 valleys\. From 3 it rolls to \S+, and not to the deepest/,
    );
    await drag(tab, valleys.handle("prediction"), -330);
    assert.match(await valleys.said(), /From −\S+ it rolls to −\S+, the deepest of them\./);
    await valleys.label("MSELoss").check();
    assert.match(await valleys.said(), /one valley/);
  });

  await step("article: a far point carries MSE away; wild points turn the order around", async () => {
    const outlier = within(tab, "outlier");
    const rests = async () =>
      (await outlier.said()).match(/Loss rests at (\S+)/g).map((text) => number(text.split(" ").at(-1)));
    const before = await rests();
    await drag(tab, outlier.handle("the point that leaves"), 200);
    const after = await rests();
    assert.ok(after[0] > before[0] + 0.3, `${before} to ${after}`);
    for (const k of [1, 2, 3]) assert.ok(Math.abs(after[k] - before[k]) < 0.15, `${before} to ${after}`);
    const cost = within(tab, "cost");
    assert.match(await cost.said(), /^Without wild points, MSELoss is nearest/);
    await cost.label("wild points").fill("0.1");
    await settle(tab);
    assert.match(await cost.said(), /^With 10\s% wild points, (?!MSELoss)\w+ is nearest to the truth: .*MSELoss is \d/);
  });

  await step("article: the sigmoid takes the pull from a square; the race shows it", async () => {
    const sigmoid = within(tab, "sigmoid");
    await sigmoid.handle("logit, below the loss").focus();
    await tab.keyboard.press("Home");
    assert.match(await sigmoid.said(), /^At the logit −10 .* pulls it up with 1, squared error with 9\.08e-5/);
    const race = within(tab, "race");
    assert.match(await race.said(), /cross entropy in step \d+; squared error in step \d+\.$/);
    await race.label("logit at the start").fill("-9");
    assert.match(await race.said(), /squared error never in 600 steps/);
  });

  await step("article: a hinge lets go of most points, soft margin of none", async () => {
    const margins = within(tab, "margins");
    const pulling = async () => Number(/: (\d+) of 24 points still pull/.exec(await margins.said())[1]);
    assert.ok((await pulling()) < 12);
    await margins.label("SoftMarginLoss").check();
    assert.equal(await pulling(), 24);
    await margins.label("MultiMarginLoss").check();
    const few = await pulling();
    await margins.label("margin").fill("4");
    assert.ok((await pulling()) > few);
    const before = await margins.said();
    await drag(tab, margins.handle("point 20 of 24, class of squares"), -150, 40);
    assert.notEqual(await margins.said(), before);
  });

  await step("article: temperature, smoothing, gamma, weights", async () => {
    const temperature = within(tab, "temperature");
    await temperature.label("temperature").fill("0");
    assert.match(await temperature.said(), /^At temperature 1 the hardest of 6 others.* gets 2\d\s%/);
    const smoothing = within(tab, "smoothing");
    assert.match(await smoothing.said(), /^Without smoothing the loss falls for ever/);
    await smoothing.label("label smoothing").fill("0.1");
    assert.match(
      await smoothing.said(),
      /over 10 classes, .* leads by 4\.51: the model then gives the right answer 91\s%/,
    );
    const focal = within(tab, "focal");
    await focal.label("gamma").fill("0");
    const [, now, plain] = /they have (\d+)\s% of the pull; under cross entropy they have (\d+)/.exec(
      await focal.said(),
    );
    assert.equal(now, plain);
    const rare = within(tab, "rare");
    await rare.label("a weight").check();
    assert.match(await rare.said(), /it has 50\s% of the pull\. The pulls are even at 0:/);
    await rare.label("logit adjustment").check();
    assert.match(await rare.said(), /it has 50\s% of the pull\. The pulls are even at 0: its own score/);
    await rare.label("nothing").check();
    await rare.handle("score of the rare class").focus();
    await tab.keyboard.press("Enter");
    assert.match(await rare.said(), /At the score −2\.94 it has 50\s% of the pull/);
  });

  await step("article: one NaN, with and without masks; one zero", async () => {
    const nan = within(tab, "nan");
    const first = nan.label("Take the label: row 1 of 6");
    await first.click();
    assert.match(await nan.said(), /The mean is NaN, and the next step would make 2 of 2 weights NaN\.$/);
    await nan.label("loss times zero").check();
    assert.match(await nan.said(), /Zero times NaN is NaN/);
    await nan.label("left out (mask=)").check();
    assert.match(await nan.said(), /The mean over 5 rows is \d.*sound/);
    await nan.label("none").check();
    await nan.find("button", { hasText: "Take a step" }).getByText("Take a step").click();
    assert.match(await nan.said(), /^Step 1\..* 2 of 2 weights are NaN/);
    const zero = within(tab, "zero");
    assert.match(await zero.said(), /^In float32, at 12: the textbook has the loss 12 and the gradient 1/);
    await zero.handle("score, below the loss").focus();
    await tab.keyboard.press("End");
    assert.match(
      await zero.said(),
      /the loss ∞ and the gradient NaN; with a clamp, 15\.9 and 0; as losskit spells it, 42 and 1\./,
    );
    await zero.label("float64").check();
    assert.match(await zero.said(), /^In float64, at 42: .* From 36\.7 on/);
    await tab.context().close();
  });

  await step("article: the prediction rolls where motion is welcome", async () => {
    const lively = await open({ reducedMotion: "no-preference" });
    const one = within(lively, "springs");
    const at = async () => Number(await one.handle("prediction").getAttribute("aria-valuenow"));
    await one.find("svg").scrollIntoViewIfNeeded();
    const rests = () => /^MSELoss rests at/.test(document.querySelector('[data-figure="springs"] .said').textContent);
    await lively.waitForFunction(rests);
    await one.handle("prediction").focus();
    await lively.keyboard.press("End");
    assert.equal(await at(), 4);
    const places = await lively.evaluate(async () => {
      const knob = document.querySelector('[data-figure="springs"] .handle.knob');
      const seen = new Set();
      knob.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }));
      for (let i = 0; i < 120 && seen.size < 8; i++) {
        await new Promise(requestAnimationFrame);
        seen.add(knob.getAttribute("aria-valuenow"));
      }
      return seen.size;
    });
    assert.ok(places >= 2, `${places} places on the way`);
    await lively.waitForFunction(rests);
    await lively.context().close();
  });

  await step("article: a phone shows all of it, with no way to the side, and lets the page scroll", async () => {
    const phone = await open({ viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true });
    const widths = await phone.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.equal(widths[0], widths[1]);
    const wide = await phone.$$eval("[data-figure] :is(div, p, svg, svg text, input, button, label, ul)", (all) =>
      all.filter((e) => e.getBoundingClientRect().right > innerWidth).map((e) => e.outerHTML.slice(0, 90)),
    );
    assert.deepEqual(wide, []);
    const actions = await phone.$$eval("svg.chart, .handle", (all) => all.map((e) => getComputedStyle(e).touchAction));
    assert.deepEqual([...new Set(actions)].sort(), ["auto", "none"]);
    if (shot) await shot(phone, "article-phone", { fullPage: true });
    await phone.context().close();
  });

  await step("article: colours follow the page, by day and by night", async () => {
    const day = await open();
    const ink = () => day.$eval('[data-figure="springs"] .body', (e) => getComputedStyle(e).fill);
    const light = await ink();
    await day.evaluate(() => (document.body.style.colorScheme = "dark"));
    assert.notEqual(await ink(), light);
    await day.context().close();
  });
}
