/** The playground in headless Chromium, a part of browser.mjs: hands, keys, links, screens, frames. */

import assert from "node:assert/strict";

const OUTLIERS = "play=regression&loss=mse_loss&loss=huber_loss:delta=0.5&loss=l1_loss&n=20&outliers=2";
const MEASURED = 120; // frames

const value = (tab, row, column) =>
  tab.$eval(`#race tr:nth-child(${row}) td:nth-child(${column + 1})`, (cell) => cell.textContent);
const pulled = async (tab, row) => Number(/: (\d+) %/.exec(await value(tab, row, 3))?.[1] ?? 0);
const steps = async (tab) => Number(await tab.textContent("#steps"));

/** Where a place of a plane is on the screen; the margins are those of plane.js. */
async function spot(tab, pane, [x, y], [[x0, x1], [y0, y1]]) {
  const canvas = tab.locator("#arena canvas").nth(pane);
  await canvas.scrollIntoViewIfNeeded();
  const box = await canvas.boundingBox();
  return [
    box.x + 34 + ((x - x0) / (x1 - x0)) * (box.width - 40),
    box.y + box.height - 22 - ((y - y0) / (y1 - y0)) * (box.height - 28),
  ];
}

const REGRESSION = [
  [-2, 2],
  [-3, 3],
];
const SQUARE = [
  [-3, 3],
  [-3, 3],
];
const CIRCLE = [
  [-1.35, 1.35],
  [-1.35, 1.35],
];

async function drag(tab, from, to) {
  await tab.mouse.move(...from);
  await tab.mouse.down();
  await tab.mouse.move(...to, { steps: 6 });
  await tab.mouse.up();
}

/** A page that rests: nothing starts by itself where motion is unwelcome. */
const still = (open, hash, more = {}) => open(`#${hash}`, { reducedMotion: "reduce", ...more });
const link = (tab) => tab.evaluate(() => location.hash);

export async function playground({ open, settle, step, shot }) {
  const rest = async (tab) => {
    await settle(tab);
    await tab.waitForTimeout(400);
  };

  await step("playground: the switch shows it and returns to the curves", async () => {
    const tab = await open("#loss=mse_loss", { reducedMotion: "reduce" });
    await tab.waitForTimeout(300);
    await tab.click("#to-play");
    await rest(tab);
    assert.match(await link(tab), /^#play=regression&loss=mse_loss/);
    assert.ok((await tab.isVisible("#arena canvas")) && !(await tab.isVisible("#plots")));
    assert.equal(await tab.getAttribute("#to-play", "aria-current"), "page");
    await tab.click("#to-curves");
    await rest(tab);
    assert.equal(await link(tab), "#loss=mse_loss");
    assert.ok(await tab.isVisible("#plots canvas >> nth=0"));
    await tab.context().close();
  });

  await step("playground: plays, pauses, steps and starts again; the loss falls", async () => {
    const tab = await open(`#${OUTLIERS}`);
    await tab.waitForTimeout(600);
    assert.equal(await tab.textContent("#play"), "Pause");
    assert.ok((await steps(tab)) > 3);
    await tab.click("#play");
    const paused = await steps(tab);
    await tab.waitForTimeout(200);
    assert.equal(await steps(tab), paused);
    await tab.click("#again");
    await rest(tab);
    assert.equal(await steps(tab), 0);
    const first = Number(await value(tab, 1, 1));
    for (let i = 0; i < 5; i++) await tab.click("#step");
    await rest(tab);
    assert.equal(await steps(tab), 5);
    assert.ok(Number(await value(tab, 1, 1)) < first);
    assert.match(await tab.textContent("#play-live"), /^Step 5\. MSELoss: loss .* pulls most with \d+ %\. HuberLoss/);
    await tab.context().close();
  });

  await step("playground: an outlier that is dragged away pulls at MSE, and no harder at Huber", async () => {
    const tab = await still(open, OUTLIERS);
    await tab.fill("#speed", "1000");
    await tab.click("#play");
    await tab.waitForTimeout(1200);
    await tab.click("#play");
    await rest(tab);
    const before = await pulled(tab, 1);
    const { x, y } = await tab.evaluate(() => ({ x: 1.9, y: -2 }));
    await tab.focus("#arena");
    await tab.keyboard.press("PageUp"); // the last point
    const [, left, height] = /x (\S+), y (\S+)$/.exec(await tab.textContent("#selected"));
    const place = [left, height].map((text) => Number(text.replace("−", "-")));
    await drag(tab, await spot(tab, 0, place, REGRESSION), await spot(tab, 0, [x, -2.95], REGRESSION));
    await rest(tab);
    assert.match(await link(tab), /&points=.*;1\.\d+,-2\.9\d*$/);
    assert.ok((await pulled(tab, 1)) > before, `${await pulled(tab, 1)} % after ${before} %, at ${y}`);
    assert.ok((await pulled(tab, 2)) < (await pulled(tab, 1)) && (await pulled(tab, 3)) <= 6);
    const again = await still(open, (await link(tab)).slice(1));
    assert.equal((await link(again)).split("points=")[1], (await link(tab)).split("points=")[1]);
    await again.context().close();
    await tab.context().close();
  });

  await step("playground: points are added by a click, removed by two, and all of it with the keyboard", async () => {
    const tab = await still(open, OUTLIERS);
    await tab.keyboard.press("Tab");
    assert.equal(await tab.textContent(":focus"), "Skip to the training");
    await tab.keyboard.press("Enter");
    assert.equal(await tab.evaluate(() => document.activeElement.id), "arena");
    await tab.keyboard.press("PageDown");
    const said = () => tab.textContent("#play-live");
    assert.match(await said(), /^point 1 of 20: x −1\.\d+, y/);
    const before = await tab.textContent("#selected");
    await tab.keyboard.press("ArrowUp");
    await tab.keyboard.press("Shift+ArrowRight");
    assert.notEqual(await tab.textContent("#selected"), before);
    await tab.keyboard.press("a");
    assert.match(await said(), /^point 21 of 21: x 0, y 0$/);
    await tab.keyboard.press("Delete");
    assert.match(await said(), /of 20/);
    await tab.keyboard.press("Space");
    assert.equal(await tab.textContent("#play"), "Pause");
    await tab.keyboard.press("Space");
    assert.equal(await tab.textContent("#play"), "Play");
    const at = await spot(tab, 0, [-1, 2.5], REGRESSION);
    await tab.mouse.click(...at);
    await rest(tab);
    assert.match(await tab.textContent("#selected"), /^point 21 of 21: x −?1\.?\d*, y 2\.[45]/);
    await tab.waitForTimeout(500);
    await tab.mouse.dblclick(...at);
    await rest(tab);
    assert.match(await link(tab), /n=20/);
    await tab.context().close();
  });

  await step("playground: every control is reached with Tab, and has a name", async () => {
    for (const mode of ["regression", "classes", "embeddings"]) {
      const tab = await still(open, `play=${mode}`);
      const nameless = await tab.$$eval("#playground :is(button, input, select, [role=application])", (all) =>
        all
          .filter((e) => e.checkVisibility())
          .filter((e) => !(e.labels?.length || e.getAttribute("aria-label") || e.textContent.trim()))
          .map((e) => e.outerHTML),
      );
      assert.deepEqual(nameless, []);
      const ids = await tab.$$eval("[id]", (elements) => elements.map((e) => e.id));
      assert.equal(new Set(ids).size, ids.length);
      const wanted = new Set(["share", "theme", "play", "step", "again", "arena", "play-lr", "play-seed"]);
      for (let i = 0; i < 90 && wanted.size; i++) {
        await tab.keyboard.press("Tab");
        wanted.delete(await tab.evaluate(() => document.activeElement.id));
      }
      assert.deepEqual([...wanted], [], mode);
      assert.doesNotMatch(await tab.innerText("#playground"), /\[object|undefined|NaN/);
      await tab.context().close();
    }
  });

  await step("playground: what a link may not say is said, and the nearest is shown", async () => {
    const tab = await still(open, "play=classes&loss=mse_loss&loss=hinge_loss&n=9999&model=forest&tide=2");
    assert.deepEqual(await tab.$$eval("#play-problems span", (all) => all.map((e) => e.textContent)), [
      "n must be a whole number from 4 to 300, got 9999; 300, the nearest, is taken.",
      "model must be line or network, got “forest”; line is taken.",
      "The link says “tide=2”, which the playground does not know.",
      "mse_loss cannot be trained under Classes; it is left out.",
    ]);
    assert.equal(await tab.inputValue("#play-n"), "300");
    await tab.fill("#play-n", "3");
    const said = "How many must be a whole number from 4 to 300, got 3; 300 is kept.";
    assert.equal((await tab.$$eval("#play-problems span", (all) => all.at(-1).textContent)).trim(), said);
    await tab.context().close();
  });

  await step("playground: a loss that flies off stays on the page, with the reason", async () => {
    const tab = await open("#play=regression&loss=mse_loss&loss=huber_loss&optimizer=SGD&lr=1.1&speed=300");
    await tab.waitForSelector("#gone p");
    assert.match(
      await tab.textContent("#gone"),
      /^MSELoss flew off: after step \d+ .* rate times curvature is above 2/,
    );
    assert.match(await tab.textContent("#falling .legend"), /MSELoss flew off/);
    await tab.waitForTimeout(300);
    assert.ok((await steps(tab)) > 30, "Huber goes on");
    await tab.context().close();
    const refused = await still(open, "play=regression&loss=tweedie_deviance_loss&loss=mse_loss&points=0,1;1,-2");
    assert.match(
      await refused.textContent("#gone"),
      /^tweedie_deviance_loss: target must be non-negative, got -2\. The/,
    );
    assert.match(await refused.textContent("#race tr:first-child"), /rests/);
    await refused.context().close();
  });

  await step("playground: a click mislabels a point, whose ring and share of the pull grow", async () => {
    const tab = await still(open, "play=classes&loss=cross_entropy&loss=multi_margin_loss&noise=0.5");
    await tab.fill("#speed", "1000");
    await tab.click("#play");
    await tab.waitForTimeout(1500);
    await tab.click("#play");
    await tab.focus("#arena");
    await tab.keyboard.press("PageDown");
    const place = /x (\S+), y (\S+),/.exec(await tab.textContent("#selected")).slice(1);
    const numbers = place.map((text) => Number(text.replace("−", "-")));
    assert.equal(await value(tab, 1, 8), "0 %");
    await tab.mouse.click(...(await spot(tab, 1, numbers, SQUARE)));
    await rest(tab);
    assert.match(await tab.textContent("#selected"), /class 2, by right 1$/);
    assert.ok(parseFloat(await value(tab, 1, 8)) > 20, await value(tab, 1, 8));
    assert.match(await link(tab), /,1,0;/);
    await tab.keyboard.press("l");
    await rest(tab);
    assert.equal(await value(tab, 1, 8), "0 %");
    await tab.context().close();
  });

  await step("playground: an embedding that is dragged moves in its own picture, and its loss answers", async () => {
    const tab = await still(open, "play=embeddings&loss=sup_con_loss&loss=triplet_margin_loss");
    for (let i = 0; i < 3; i++) await tab.click("#step");
    await tab.focus("#arena");
    await tab.keyboard.press("PageDown");
    const place = /x (\S+), y (\S+),/.exec(await tab.textContent("#selected")).slice(1);
    const numbers = place.map((text) => Number(text.replace("−", "-")));
    const before = [await value(tab, 1, 1), await value(tab, 2, 1)];
    await drag(
      tab,
      await spot(tab, 0, numbers, CIRCLE),
      await spot(
        tab,
        0,
        numbers.map((x) => -x),
        CIRCLE,
      ),
    );
    await rest(tab);
    assert.notEqual(await value(tab, 1, 1), before[0]);
    assert.equal(await value(tab, 2, 1), before[1]);
    await tab.context().close();
  });

  await step("playground: a point is held through what its move starts anew", async () => {
    const tab = await still(open, "play=embeddings&loss=sup_con_loss");
    await tab.focus("#arena");
    await tab.keyboard.press("PageDown");
    const place = /x (\S+), y (\S+),/.exec(await tab.textContent("#selected")).slice(1);
    const numbers = place.map((text) => Number(text.replace("−", "-")));
    await drag(tab, await spot(tab, 0, numbers, CIRCLE), await spot(tab, 0, [0.02, 1], CIRCLE));
    await rest(tab);
    assert.match(await tab.textContent("#selected"), /^point 1 of 24: x 0(\.0\d*)?, y (1|0\.99)/);
    assert.match(await link(tab), /&points=0(\.0\d*)?,(1|0\.99\d*),0;/);
    await tab.context().close();
    const refused = await still(open, "play=regression&loss=tweedie_deviance_loss&loss=mse_loss&points=0,1;1,-2;1.5,2");
    await drag(refused, await spot(refused, 0, [1, -2], REGRESSION), await spot(refused, 0, [1, 1.5], REGRESSION));
    await rest(refused);
    assert.match(await link(refused), /;(1|0\.99\d*|1\.0\d*),1\.(5|4\d)\d*;/);
    assert.equal(await refused.textContent("#gone"), "");
    await refused.context().close();
  });

  await step("playground: a finger on a point moves it, and elsewhere scrolls the page", async () => {
    const size = { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true };
    const tab = await still(open, "play=regression&loss=mse_loss&points=-1,0;0,2;1,1", size);
    const touch = await tab.context().newCDPSession(tab);
    const swipe = async (from, to) => {
      const send = (type, points) => touch.send("Input.dispatchTouchEvent", { type, touchPoints: points });
      await send("touchStart", [{ x: from[0], y: from[1] }]);
      for (let i = 1; i <= 5; i++) {
        const [x, y] = [0, 1].map((k) => from[k] + ((to[k] - from[k]) * i) / 5);
        await send("touchMove", [{ x, y }]);
      }
      await send("touchEnd", []);
      await rest(tab);
    };
    const scrolled = () => tab.evaluate(() => scrollY);
    const from = await spot(tab, 0, [0, 2], REGRESSION);
    const top = await scrolled();
    await swipe(from, await spot(tab, 0, [0, -2], REGRESSION));
    assert.match(await link(tab), /points=-1,0;-?0(\.0\d*)?,-(2|1\.9)/);
    assert.equal(await scrolled(), top);
    const low = await spot(tab, 0, [1.5, -1.5], REGRESSION);
    await swipe(low, [low[0], low[1] - 150]);
    assert.ok((await scrolled()) > top + 50, `${await scrolled()} after ${top}`);
    await tab.context().close();
  });

  await step("playground: nothing starts by itself where motion is unwelcome", async () => {
    const tab = await still(open, OUTLIERS);
    await tab.waitForTimeout(400);
    assert.deepEqual([await tab.textContent("#play"), await steps(tab)], ["Play", 0]);
    await tab.context().close();
  });

  await step("playground: it fits a phone, by day and by night", async () => {
    for (const mode of ["regression", "classes", "embeddings"]) {
      for (const colorScheme of ["light", "dark"]) {
        const wide = await open(`#play=${mode}`, { colorScheme });
        await wide.waitForTimeout(2500);
        await shot(wide, `play-${mode}-${colorScheme}`, { fullPage: true });
        await wide.context().close();
        const size = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
        const phone = await open(`#play=${mode}`, { colorScheme, ...size });
        await phone.waitForTimeout(1500);
        const [own, inner] = await phone.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
        assert.ok(own <= inner, `${mode}: ${own} > ${inner}`);
        await shot(phone, `play-${mode}-${colorScheme}-phone`, { fullPage: true });
        await phone.context().close();
      }
    }
  });

  await step(
    "playground: frames of 300 points and three losses; how fast is printed, since machines differ",
    async () => {
      const said = [];
      for (const [name, hash] of [
        ["line", "play=regression&loss=mse_loss&loss=huber_loss&loss=l1_loss&n=300"],
        ["network", "play=regression&loss=mse_loss&loss=huber_loss&loss=l1_loss&n=300&model=network"],
        ["classes, line", "play=classes&loss=cross_entropy&loss=multi_margin_loss&loss=hinge_loss&n=300"],
        [
          "classes, network",
          "play=classes&loss=cross_entropy&loss=multi_margin_loss&loss=hinge_loss&n=300&model=network",
        ],
        [
          "embeddings, 24 points",
          "play=embeddings&loss=sup_con_loss&loss=cosine_embedding_loss&loss=triplet_margin_loss",
        ],
      ]) {
        const tab = await open(`#${hash}`);
        const measured = await tab.evaluate(async (frames) => {
          const found = [];
          new PerformanceObserver((list) => {
            found.push(...list.getEntriesByName("frame").map((e) => e.duration));
          }).observe({ entryTypes: ["measure"] });
          const start = performance.now();
          while (found.length < frames && performance.now() - start < 15_000)
            await new Promise((done) => setTimeout(done, 100));
          return found;
        }, MEASURED);
        const sorted = measured.slice(10).sort((a, b) => a - b);
        assert.ok(sorted.length > 20, `${name}: only ${measured.length} frames were measured`);
        const at = (share) => sorted[Math.floor(share * (sorted.length - 1))].toFixed(1);
        said.push(`${name} ${at(0.5)} ms (95 %: ${at(0.95)} ms)`);
        await tab.context().close();
      }
      return `script of a frame: ${said.join("; ")}`;
    },
  );
}
