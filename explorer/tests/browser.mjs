/**
 * The built page in headless Chromium: node tests/browser.mjs [folder for screenshots]
 *
 * Needs a Chromium: CHROMIUM=/path, or Debian's /usr/bin/chromium (apt-get install chromium).
 */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, statSync } from "node:fs";
import { fileURLToPath, pathToFileURL } from "node:url";
import { chromium } from "playwright-core";
import { article } from "./browser-article.mjs";
import { playground } from "./browser-playground.mjs";

const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
if (!existsSync(executablePath)) {
  console.error(`There is no Chromium at ${executablePath}: install it (apt-get install chromium) or set CHROMIUM.`);
  process.exit(1);
}
const page = fileURLToPath(new URL("../../src/losskit_guide/explorer/index.html", import.meta.url));
const shots = process.argv[2];
if (shots) mkdirSync(shots, { recursive: true });
const size = statSync(page).size;
assert.ok(size < 400_000, `the page has ${size} bytes, and 400,000 are allowed`);
const script = fileURLToPath(new URL("numbers.py", import.meta.url));
const python = JSON.parse(
  execFileSync(process.env.PYTHON ?? "python3", [script], { maxBuffer: 1 << 28, encoding: "utf8" }),
);

const browser = await chromium.launch({
  executablePath,
  args: [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
const errors = [];
const requests = [];

async function visit(path, hash, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...options });
  const tab = await context.newPage();
  tab.on("console", (message) => ["error", "warning"].includes(message.type()) && errors.push(message.text()));
  tab.on("pageerror", (error) => errors.push(String(error)));
  tab.on("request", (request) => /^(file|data):/.test(request.url()) || requests.push(request.url()));
  await tab.goto(pathToFileURL(path).href + hash);
  return tab;
}

async function open(hash, options) {
  const tab = await visit(page, hash, options);
  await tab.waitForSelector("#choices label", { state: "attached" });
  await settle(tab);
  return tab;
}

const settle = (tab) =>
  tab.evaluate(
    () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 30)))),
  );

/** The table at the cursor: name and numbers of each row, in full precision. */
const numbers = (tab) =>
  tab.$$eval("#numbers tr", (rows) =>
    rows.map((row) => ({
      name: row.querySelector("th").textContent,
      numbers: [...row.querySelectorAll("data")].map((cell) => Number(cell.value)),
    })),
  );

const steps = [];
const step = async (name, action) => {
  const note = await action();
  steps.push(name);
  console.log(`ok  ${name}${note ? `: ${note}` : ""}`);
};
const shot = async (tab, name, more = {}) => shots && tab.screenshot({ path: `${shots}/${name}.png`, ...more });

try {
  const tab = await open("");

  await step("the first view draws three curves", async () => {
    assert.equal((await numbers(tab)).length, 3);
    assert.equal(await tab.locator("#plots canvas").count(), 3);
    await shot(tab, "light");
    await shot(tab, "light-full", { fullPage: true });
  });

  await step("the first stop of the keyboard skips to the plots", async () => {
    await tab.keyboard.press("Tab");
    assert.equal(await tab.evaluate(() => document.activeElement.id), "skip");
    await tab.keyboard.press("Enter");
    assert.equal(await tab.evaluate(() => document.activeElement.id), "plots");
  });

  await step("a loss is picked and dropped with the keyboard", async () => {
    const box = tab.locator('#choices input[value="smooth_l1_loss"]');
    await box.focus();
    await tab.keyboard.press("Space");
    await settle(tab);
    assert.equal((await numbers(tab)).length, 4);
    await tab.keyboard.press("Space");
    await settle(tab);
    assert.equal((await numbers(tab)).length, 3);
    await tab.fill("#filter", "triplet");
    assert.equal(await tab.locator("#choices label:visible").count(), 3);
    await tab.fill("#filter", "");
  });

  await step("a slider moves a parameter, with the keyboard", async () => {
    const slider = tab.getByLabel("delta of HuberLoss");
    await slider.focus();
    await tab.keyboard.press("ArrowRight");
    await settle(tab);
    assert.match((await numbers(tab))[2].name, /delta=1\.05/);
    assert.equal(await tab.evaluate(() => document.activeElement.getAttribute("aria-label")), "delta of HuberLoss");
  });

  await step("a wrong number is marked and not drawn", async () => {
    const input = tab.locator('.panel[data-name="huber_loss"] input[type=number]').nth(1);
    await input.fill("-1");
    assert.equal(await input.getAttribute("aria-invalid"), "true");
    assert.equal(await input.evaluate((e) => e.validationMessage), "delta must be positive, got -1.");
    const said = "huber_loss: delta must be positive, got -1; 1.05 is kept.";
    assert.equal(await tab.textContent("#problems"), said);
    assert.match((await numbers(tab))[2].name, /delta=1\.05/);
    await input.press("Enter");
    assert.equal(await input.inputValue(), "1.05");
    assert.equal(await tab.textContent("#problems"), said);
    await input.fill("2");
    assert.equal(await tab.textContent("#problems"), "");
    assert.equal(await input.getAttribute("aria-invalid"), "false");
  });

  await step("a slider ends where the loss ends", async () => {
    const slider = tab.getByLabel("delta of HuberLoss");
    await slider.focus();
    await tab.keyboard.press("Home");
    await settle(tab);
    assert.match((await numbers(tab))[2].name, /delta=0\.001/);
    await tab.locator('.panel[data-name="huber_loss"] input[type=number]').nth(1).fill("1");
    const smoothing = await open("#loss=cross_entropy");
    const ends = await smoothing.getByLabel("label_smoothing of").evaluate((e) => [e.min, e.max]);
    assert.deepEqual(ends, ["0", "1"]);
    await smoothing.context().close();
  });

  await step("a range that ends before it begins is refused, and the last one kept", async () => {
    await tab.fill("input[name=from]", "5");
    await tab.keyboard.press("Enter");
    assert.match(await tab.textContent("#problems"), /must begin before it ends, got 5 to 4; −4 to 4 is kept\.$/);
    assert.equal(await tab.inputValue("input[name=from]"), "-4");
    await tab.fill("input[name=from]", "-3");
    await tab.keyboard.press("Enter");
    assert.equal(await tab.textContent("#problems"), "");
    await tab.click("#reset");
  });

  await step("bad links are answered in a sentence each, and something is drawn", async () => {
    const bad = [
      "loss=huber_loss&from=-1e308&to=1e308",
      "loss=huber_loss&from=1&to=1.0000000000000002",
      "loss=toString&axis=__proto__",
      "loss=mse_loss&x=NaN&n=5",
      "play=chess",
      "play=regression&n=1e9&lr=NaN&loss=huber_loss:delta=-1",
      "play=classes&loss=huber_loss&points=0,0,7",
      "play=embeddings&points=1,NaN&%ZZ=<b>",
    ];
    for (const link of bad) {
      const other = await open(`#${link}`);
      const said = await other.$$eval("#problems span, #play-problems span", (all) => all.map((e) => e.textContent));
      assert.ok(said.length > 0 && said.every((text) => text.trim().endsWith(".")), `${link}: ${said}`);
      assert.ok((await other.locator("canvas:visible").count()) > 0, link);
      await other.context().close();
    }
    for (const link of ["from=0&to=1e-11", "from=0&to=1e15", "from=1e14&to=1.01e14", "from=1&to=1.0000001"]) {
      const other = await open(`#loss=huber_loss&${link}`);
      assert.equal(await other.textContent("#problems"), "", link);
      await other.context().close();
    }
  });

  await step("a link that the library would refuse is refused in a sentence, the rest is drawn", async () => {
    const wrong = await open("#loss=huber_loss:delta=-2,target=1&loss=cross_entropy:label_smoothing=2&from=3&to=1");
    assert.deepEqual(await wrong.$$eval("#problems span", (all) => all.map((e) => e.textContent)), [
      "huber_loss: delta must be positive, got -2; the link's value is left out.",
      "cross_entropy: label_smoothing must be in [0, 1], got 2; the link's value is left out.",
      "The range must begin before it ends, got 3 to 1; the link's range is left out.",
    ]);
    assert.deepEqual(
      (await numbers(wrong)).map(({ name }) => name.slice(1)),
      ["HuberLoss(target=1, delta=1)", "CrossEntropyLoss(label_smoothing=0)"],
    );
    await wrong.context().close();
    const switched = await open("#loss=poisson_nll_loss:target=-1");
    await switched.locator('[data-switch="full"]').check();
    const said = "poisson_nll_loss: target must be non-negative, got -1 now; its default is taken.";
    assert.equal(await switched.textContent("#problems"), said);
    assert.match((await numbers(switched))[0].name, /target=1/);
    await switched.context().close();
  });

  await step("numbers are Python's", async () => {
    let worst = 0;
    let count = 0;
    for (const { name, switches, rows } of python.losses) {
      const row = rows[30 + 2 * 9]; // inside the range, parameters by chance
      const settings = [
        ...Object.entries(row.given).map(([key, x]) => `${key}=${x}`),
        ...Object.entries(switches).map(([key, on]) =>
          typeof on === "string" ? `${key}=${on}` : (on ? "+" : "-") + key,
        ),
      ];
      await tab.evaluate((hash) => (location.hash = hash), `loss=${name}:${settings.join(",")}&x=${row.x}`);
      await settle(tab);
      const [found] = await numbers(tab);
      const wanted = row.numbers.map((x) => (typeof x === "number" ? x : Number(x.replace("inf", "Infinity"))));
      for (const [i, y] of wanted.entries()) {
        if (Number.isNaN(wanted[0])) continue; // the page says "not defined"
        if (row.refused) {
          assert.ok(Number.isNaN(found.numbers[i + 1]), `${name} is drawn at ${row.x}, which the library refuses`);
          continue;
        }
        const apart = Math.abs(found.numbers[i + 1] - y) / Math.max(Math.abs(y), 0.01);
        assert.ok(apart <= 1e-12, `${name} ${settings} at ${row.x}: ${found.numbers[i + 1]}, Python has ${y}`);
        worst = Math.max(worst, apart);
        count++;
      }
    }
    return `${count} numbers, largest difference ${worst.toExponential(1)}`;
  });

  await step("hovering moves the cursor of every plot and the numbers", async () => {
    await tab.evaluate(() => (location.hash = "loss=mse_loss&loss=l1_loss"));
    await settle(tab);
    const over = tab.locator("#plots .u-over").first();
    await over.scrollIntoViewIfNeeded();
    const at = await over.boundingBox();
    await tab.mouse.move(at.x + 0.75 * at.width, at.y + 50);
    await settle(tab);
    const [mse] = await numbers(tab);
    assert.ok(Math.abs(mse.numbers[0] - 2) < 0.02 && Math.abs(mse.numbers[1] - 4) < 0.1, JSON.stringify(mse));
    const lines = await tab.$$eval("#plots .u-cursor-x", (all) => all.map((line) => line.style.transform));
    assert.ok(lines.length === 3 && lines.every((line) => !/translate\(-/.test(line)));
    await tab.waitForTimeout(500);
    assert.match(await tab.textContent("#live"), /^At x = 2.*MSELoss\(target=0\): value/);
  });

  await step("the arrow keys move the cursor, also after a click on a plot", async () => {
    await tab
      .locator("#plots .u-over")
      .first()
      .click({ position: { x: 200, y: 60 } });
    await tab.locator("#x-number").fill("1");
    await tab.locator("#plots").focus();
    await tab.keyboard.press("ArrowRight");
    assert.equal(await tab.inputValue("#x-number"), "1.08");
    await tab.keyboard.press("Shift+ArrowLeft");
    assert.equal(await tab.inputValue("#x-number"), "0.28");
    await tab
      .locator("#plots .u-over")
      .first()
      .click({ position: { x: 200, y: 60 } });
    const before = Number(await tab.inputValue("#x-number"));
    await tab.keyboard.press("ArrowRight");
    assert.ok(Math.abs(Number(await tab.inputValue("#x-number")) - before - 0.08) < 0.01);
    await tab.keyboard.press("End");
    assert.equal(await tab.inputValue("#x-number"), "4");
  });

  await step("plots say what they show, and follow the cursor and the parameters", async () => {
    const labels = () => tab.$$eval("#plots [role=img]", (all) => all.map((e) => e.getAttribute("aria-label")));
    await tab.evaluate(() => (location.hash = "loss=mse_loss&loss=huber_loss&x=3"));
    await settle(tab);
    const [value, slope] = await labels();
    assert.match(value, /^Curves of the loss over prediction from −4 to 4\. MSELoss\(target=0\): 16 at −4, 16 at 4,/);
    assert.match(value, /HuberLoss\(target=0, delta=1\): 3\.5 at −4, 3\.5 at 4, lowest 0 at 0/);
    assert.match(value, /At the cursor, x = 3: MSELoss\(target=0\): value 9, gradient 6;/);
    assert.match(slope, /^Curves of the gradient by prediction .*HuberLoss\(target=0, delta=1\): gradient 1\.$/);
    await tab.locator("#x-number").fill("2");
    assert.match((await labels())[0], /At the cursor, x = 2: MSELoss\(target=0\): value 4, gradient 4;/);
    await tab.getByLabel("delta of HuberLoss").fill("0.5");
    await settle(tab);
    assert.match((await labels())[0], /HuberLoss\(target=0, delta=0\.5\): 1\.875 at −4/);
    const captions = await tab.$$eval("table", (all) => all.filter((t) => !t.caption?.textContent).length);
    assert.equal(captions, 0);
  });

  await step("curves have letters, as the legend and the tables do; a lone curve needs none", async () => {
    const keys = () =>
      tab.$$eval(".legend .key b, #numbers .key b", (all) =>
        all.filter((e) => e.offsetWidth).map((e) => e.textContent),
      );
    assert.deepEqual(await keys(), ["A", "B", "A", "B", "A", "B", "A", "B"]);
    await tab.evaluate(() => (location.hash = "loss=mse_loss"));
    await settle(tab);
    assert.deepEqual(await keys(), []);
    await tab.evaluate(() => (location.hash = "loss=mse_loss&loss=l1_loss"));
    await settle(tab);
  });

  await step("dragging zooms, Reset and a double click return", async () => {
    const at = await tab.locator("#plots .u-over").first().boundingBox();
    await tab.mouse.move(at.x + 0.25 * at.width, at.y + 50);
    await tab.mouse.down();
    await tab.mouse.move(at.x + 0.5 * at.width, at.y + 50, { steps: 4 });
    await tab.mouse.up();
    await settle(tab);
    assert.ok(Math.abs(Number(await tab.inputValue("input[name=from]")) + 2) < 0.05);
    await tab.click("#reset");
    await settle(tab);
    assert.equal(await tab.inputValue("input[name=from]"), "-4");
    await tab.fill("input[name=from]", "1");
    await tab.keyboard.press("Enter");
    await tab
      .locator("#plots .u-over")
      .first()
      .dblclick({ position: { x: 90, y: 60 } });
    await settle(tab);
    assert.equal(await tab.inputValue("input[name=from]"), "-4");
    assert.match(await tab.innerText("#how"), /Drag across a plot to zoom, double-click .* arrow keys/);
  });

  await step("a preset compares BCE and MSE on a sigmoid", async () => {
    await tab.click("text=BCE against MSE on a sigmoid");
    await settle(tab);
    const [bce, mse] = await numbers(tab);
    const s = 1 / (1 + Math.exp(-5));
    const near = (a, b) => assert.ok(Math.abs(a - b) < 1e-9 * Math.abs(b), `${a} ${b}`);
    near(bce.numbers[1], Math.log1p(Math.exp(5)));
    near(bce.numbers[2], s);
    near(mse.numbers[1], s * s);
    near(mse.numbers[2], 2 * s * s * (1 - s));
    await shot(tab, "sigmoid");
  });

  await step("a link restores the view", async () => {
    await tab.getByLabel("own variable").first().check();
    await tab.locator("#x-number").fill("0.3");
    await tab.locator("input[name=to]").fill("0.9");
    await tab.keyboard.press("Enter");
    await tab.waitForTimeout(400);
    const hash = await tab.evaluate(() => location.hash);
    const other = await open(hash);
    assert.deepEqual(await numbers(other), await numbers(tab));
    assert.equal(await other.inputValue("input[name=to]"), "0.9");
    await other.context().close();
    const wrong = await open("#loss=no_loss&loss=mse_loss");
    assert.match(await wrong.textContent("#problems"), /“no_loss”/);
    assert.equal((await numbers(wrong)).length, 1);
    await wrong.context().close();
  });

  await step("losses that an axis cannot show say so", async () => {
    await tab.evaluate(() => (location.hash = "loss=hinge_embedding_loss&loss=cross_entropy&axis=probability"));
    await settle(tab);
    assert.match(await tab.locator("#plots .legend .absent").first().textContent(), /a loss of a distance: it cannot/);
    await tab.evaluate(() => (location.hash = "loss=hinge_embedding_loss&loss=cross_entropy"));
    await settle(tab);
    assert.match(await tab.locator("#plots .legend").first().textContent(), /over its distance.*over its logit/);
  });

  const drop = async (text) => {
    const data = await tab.evaluateHandle((body) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([body], "predictions.csv", { type: "text/csv" }));
      return transfer;
    }, text);
    await tab.dispatchEvent("main", "drop", { dataTransfer: data });
    await tab.waitForTimeout(100);
    await settle(tab);
  };
  const refusal = () => tab.textContent("#csv-problems");
  const cells = (selector) => tab.$$eval(`${selector} > *`, (all) => all.map((cell) => cell.textContent));
  const residual = (i) => Math.sqrt(-2 * Math.log((i + 0.5) / 500)) * Math.cos(2.39996 * i);

  await step("a dropped CSV file becomes a histogram", async () => {
    await tab.evaluate(() => (location.hash = "loss=mse_loss&loss=huber_loss"));
    await settle(tab);
    await drop("prediction,target\n1,0\nx,0\n");
    assert.equal(await refusal(), "Line 3, column prediction: “x” is not a number.");
    await drop("prediction,tide\n1,0\n");
    assert.match(await refusal(), /^MSELoss: choose a column for target; the file has prediction and tide\./);
    const rows = Array.from({ length: 500 }, (_, i) => `${residual(i)},0`);
    await drop(`prediction,target\n${rows.join("\n")}\n`);
    assert.equal(await refusal(), "");
    const first = await tab.$$eval("#csv-numbers tr:first-child data", (all) => all.map((cell) => Number(cell.value)));
    const mean = rows.reduce((sum, _, i) => sum + residual(i) ** 2, 0) / 500;
    assert.equal(first[0], 500);
    assert.ok(Math.abs(first[1] - mean) < 1e-12 * mean);
    assert.equal(await tab.locator("#histogram canvas").count(), 1);
  });

  await step("each role has a select, which is obeyed", async () => {
    assert.deepEqual(await tab.$$eval("#roles select", (all) => all.map((e) => e.selectedOptions[0].textContent)), [
      "prediction",
      "target",
    ]);
    await drop("a,tide\n1,0\n3,1\n");
    await tab.locator('[data-role="input prediction"]').selectOption({ label: "a" });
    assert.match(await refusal(), /^MSELoss: choose a column for target;/);
    await tab.locator('[data-role="target"]').selectOption({ label: "tide" });
    assert.equal(await refusal(), "");
    assert.equal((await cells("#csv-numbers tr:first-child"))[2], "2.5");
    await tab.locator('[data-role="target"]').selectOption({ label: "not in the file: 0 for every row" });
    assert.equal((await cells("#csv-numbers tr:first-child"))[2], "5");
    await tab.evaluate(() => (location.hash = "loss=kl_div&loss=cross_entropy"));
    await settle(tab);
    await drop("prediction,target\n1.5,0\n");
    assert.match(
      await refusal(),
      /KLDivLoss: choose a column for input;.*CrossEntropyLoss: choose two columns or more/,
    );
    await tab.locator('[data-role="input log_probability"]').selectOption({ label: "prediction" });
    assert.match(
      await refusal(),
      /^Line 2, column prediction: input of KLDivLoss must be a log-probability \(at most 0\)/,
    );
  });

  await step("outliers: a logarithmic histogram, the worst rows, and the shares of the gradient", async () => {
    await tab.evaluate(() => (location.hash = "loss=mse_loss&loss=l1_loss&loss=huber_loss"));
    await settle(tab);
    const rows = Array.from({ length: 500 }, (_, i) => `${i % 50 ? residual(i) * (i % 97 ? 1 : 20) : 0},0`);
    await drop(`prediction,target\n${rows.join("\n")}\n`);
    assert.ok(await tab.locator("#scale input[value=logarithmic]").isChecked());
    const label = () => tab.locator("#histogram [role=img]").getAttribute("aria-label");
    assert.match(await label(), /on a logarithmic axis\. MSELoss: 500 rows, median .* 30 losses are exactly zero/);
    assert.equal(await tab.textContent("#outer"), "The bar at “zero” holds 30 losses of exactly 0.");
    if (shots) await tab.locator("section:has(#drop)").screenshot({ path: `${shots}/csv.png` });
    await tab.locator("#scale input[value=linear]").check();
    await settle(tab);
    assert.match(await label(), /on a linear axis/);
    assert.equal(await tab.locator("#worst-rows tr").count(), 10);
    const byLoss = rows.map((row, i) => [Math.abs(Number(row.split(",")[0])), i]).sort((a, b) => b[0] - a[0]);
    assert.equal((await cells("#worst-rows tr:first-child"))[0], String(byLoss[0][1] + 2));
    assert.equal((await cells("#worst-rows tr:first-child"))[1], String(rows[byLoss[0][1]].split(",")[0]));
    await tab.locator("#worst-of").selectOption({ label: "L1Loss" });
    const largest = Number((await cells("#worst-rows tr:first-child"))[3]);
    assert.ok(Math.abs(largest - byLoss[0][0]) < 1e-5 * largest, "the table is that of the loss chosen above it");
    const shares = async (row) => (await cells(`#csv-shares tr:nth-child(${row})`)).slice(1).map(parseFloat);
    const [mse, l1] = [await shares(1), await shares(2)];
    assert.ok(mse[0] > 15 && l1[0] < 1.1, `${mse} and ${l1}`);
    assert.match(
      await tab.textContent("#pull"),
      /The 5 rows with the largest loss, of 500, have .* % of that of MSELoss/,
    );
  });

  await step("class scores are several columns, and classes their names or numbers", async () => {
    await tab.evaluate(() => (location.hash = "loss=cross_entropy&loss=multi_margin_loss"));
    await settle(tab);
    await drop("score0,score1,score2,label\n2,0,-1,0\n0,1,-0.5,0\n");
    assert.equal(await refusal(), "");
    const boxes = () => tab.$$eval("#roles input:checked", (all) => all.map((e) => e.parentElement.textContent.trim()));
    assert.deepEqual(await boxes(), ["score0", "score1", "score2"]);
    const ce = -(2 - Math.log(Math.exp(2) + 1 + Math.exp(-1)));
    const [line, scores, label, loss] = await cells("#worst-rows tr:last-child");
    assert.deepEqual([line, scores, label], ["2", "2, 0, -1", "0"]);
    assert.ok(Math.abs(Number(loss) - ce) < 1e-5);
    assert.equal((await cells("#csv-numbers tr:nth-child(2)"))[2], String(+((2 + 0.5) / 3 / 2).toPrecision(6)));
    await tab.locator("#roles").getByLabel("score2").uncheck();
    assert.equal((await cells("#csv-numbers tr:nth-child(2)"))[2], "0.5");
    await drop("logit_cat,logit_dog,label\n2,0,cat\n0,1,bird\n");
    assert.match(
      await refusal(),
      /^Line 3, column label: class of CrossEntropyLoss must be 0 to 1, or cat and dog, got “bird”/,
    );
    await drop("logit_cat,logit_dog,label\n2,0,cat\n0,1,dog\n");
    assert.equal(await refusal(), "");
    if (shots) await tab.locator("section:has(#drop)").screenshot({ path: `${shots}/classes.png` });
  });

  await step("inside another page: value, gradient and sliders, in its colours", async () => {
    for (const [address, name] of [
      ["#loss=gaussian_nll_loss&embed", "embed"],
      ["?embed#loss=gaussian_nll_loss&theme=dark", "embed-dark"],
    ]) {
      const small = await open(address, { viewport: { width: 720, height: 420 } });
      assert.equal(await small.locator("#plots canvas:visible").count(), 2);
      const visible = (selector) => small.locator(selector).filter({ visible: true }).count();
      for (const selector of ["header", "nav", "#picker", "#about", "#drop", "#view", "#numbers", ".buttons"])
        assert.equal(await visible(selector), 0, selector);
      assert.equal(await visible(".given input[type=range]"), 3);
      const [high, inner] = await small.evaluate(() => [document.documentElement.scrollHeight, innerHeight]);
      assert.ok(high <= inner, `${high} > ${inner}`);
      assert.match(await small.locator("figcaption").first().innerText(), /Value\s*2 at x = 2/);
      await small.waitForTimeout(300);
      const link = await small.getByText("Open in the explorer").evaluate((e) => e.href);
      assert.match(link, /index\.html#loss=gaussian_nll_loss$/);
      const scheme = await small.evaluate(() => getComputedStyle(document.documentElement).colorScheme);
      assert.equal(scheme, name === "embed" ? "light dark" : "dark");
      await shot(small, name);
      await small.context().close();
    }
    const phone = await open("#loss=gaussian_nll_loss&embed", { viewport: { width: 360, height: 560 } });
    const [wide, inner] = await phone.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.ok(wide <= inner, `${wide} > ${inner}`);
    await shot(phone, "embed-phone");
    await phone.context().close();
  });

  await step("a notebook's batch: its rows are there, on the curve, in a frame without an origin", async () => {
    const rows = Array.from({ length: 300 }, (_, i) => [residual(i) + 3, 3]);
    const data = {
      link: "loss=huber_loss:delta=0.5",
      table: `input,target\n${rows.map((row) => row.join()).join("\n")}`,
      rows: rows.map((_, i) => 10 + i),
      said: ["300 rows, \u003cb>of</b> a test."],
    };
    const json = JSON.stringify(data).replaceAll("<", "\\u003c");
    const html = readFileSync(page, "utf8").replace(
      "<!-- batch -->",
      () => `<script type="application/json" id="batch">${json}</script>`,
    );
    for (const colorScheme of ["light", "dark"]) {
      const notebook = await open("", { colorScheme });
      await notebook.goto("about:blank");
      const heard = [];
      await notebook.exposeFunction("heard", (what) => heard.push(what));
      await notebook.evaluate((text) => {
        addEventListener("message", (e) => window.heard(String(e.data)));
        const frame = document.createElement("iframe");
        frame.setAttribute("sandbox", "allow-scripts");
        frame.style.cssText = "width: 1000px; height: 740px; border: 0; display: block";
        frame.srcdoc = text;
        document.body.replaceChildren(frame);
      }, html);
      await notebook.waitForTimeout(800);
      const frame = notebook.frames().find((one) => one !== notebook.mainFrame());
      assert.equal(await frame.evaluate(() => origin), "null");
      assert.equal(await frame.textContent("#batch-said"), data.said[0], "what a batch says is no markup");
      assert.equal(await frame.textContent("#csv-problems"), "");
      assert.equal(await frame.locator("#worst-rows tr").count(), 10);
      const worst = rows.map(([x], i) => [Math.abs(x - 3), 10 + i]).sort((a, b) => b[0] - a[0])[0][1];
      assert.equal(await frame.textContent("#worst-rows tr:first-child th"), String(worst));
      assert.match(await frame.textContent("#dotted"), /moved to the target of the curve/);
      for (const selector of ["header", "nav", "#drop"])
        assert.equal(await frame.locator(selector).filter({ visible: true }).count(), 0, selector);
      await frame.getByLabel("delta of HuberLoss").press("ArrowRight");
      const moved = () => frame.textContent("#csv-numbers th");
      for (let i = 0; i < 50 && !(await moved()).includes("0.55"); i++) await frame.waitForTimeout(100);
      assert.match(await moved(), /delta=0\.55/);
      await notebook.evaluate(() => frames[0].postMessage({ link: "loss=mse_loss", table: "input,target\n1,2" }, "*"));
      await notebook.waitForTimeout(400);
      assert.match(await frame.textContent("#csv-numbers th"), /HuberLoss/, "messages change nothing");
      assert.deepEqual(heard, [], "and none is sent");
      await shot(notebook, `batch-${colorScheme}`);
      await notebook.context().close();
    }
  });

  await step("the theme switches, and follows the system", async () => {
    const paper = (t) => t.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const light = await paper(tab);
    await tab.click("#theme");
    await settle(tab);
    const darkened = await paper(tab);
    assert.notEqual(light, darkened);
    const night = await open("#loss=mse_loss&loss=l1_loss&loss=huber_loss&loss=gaussian_nll_loss&x=1.4", {
      colorScheme: "dark",
    });
    assert.equal(await paper(night), darkened);
    await shot(night, "dark");
    await shot(night, "dark-full", { fullPage: true });
    await night.context().close();
  });

  await step("it fits a phone", async () => {
    const phone = await open("", {
      viewport: { width: 390, height: 844 },
      deviceScaleFactor: 2,
      isMobile: true,
      hasTouch: true,
    });
    const [wide, inner] = await phone.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.ok(wide <= inner, `${wide} > ${inner}`);
    assert.match(await phone.innerText("#how"), /^Tap a plot to read it\./);
    await shot(phone, "phone");
    await shot(phone, "phone-full", { fullPage: true });
    await phone.locator("#plots .u-over").first().scrollIntoViewIfNeeded();
    const at = await phone.locator("#plots .u-over").first().boundingBox();
    await phone.touchscreen.tap(at.x + at.width / 4, at.y + 40);
    await settle(phone);
    assert.ok(Math.abs(Number(await phone.inputValue("#x-number")) + 2) < 0.1);
    await phone.context().close();
  });

  await step("every control has a name, and every loss is drawn without an error", async () => {
    const all = await tab.$$eval("#choices input", (boxes) => boxes.map((box) => box.value));
    await tab.evaluate((hash) => (location.hash = hash), all.map((name) => `loss=${name}`).join("&"));
    await settle(tab);
    assert.doesNotMatch((await tab.innerText("body")).replaceAll("may be NaN", ""), /\[object|undefined|NaN|`/);
    assert.ok((await tab.locator("#about math").count()) > all.length);
    const nameless = await tab.$$eval("button, input, select, [role=img]", (elements) =>
      elements
        .filter(
          (e) =>
            !(
              e.labels?.length ||
              e.getAttribute("aria-label") ||
              e.getAttribute("aria-labelledby") ||
              e.textContent.trim()
            ),
        )
        .map((e) => e.outerHTML),
    );
    assert.deepEqual(nameless, []);
    const ids = await tab.$$eval("[id]", (elements) => elements.map((e) => e.id));
    assert.equal(new Set(ids).size, ids.length);
    await shot(tab, "all-losses");
    return `${all.length} losses`;
  });

  await step("ten losses of 1,001 points are redrawn; how fast is printed, since machines differ", async () => {
    const ten = [
      "mse_loss",
      "l1_loss",
      "huber_loss",
      "smooth_l1_loss",
      "gaussian_nll_loss",
      "cross_entropy",
      "binary_cross_entropy_with_logits",
      "soft_margin_loss",
      "poisson_nll_loss",
      "multi_margin_loss",
    ];
    const fast = await open(`#${ten.map((name) => `loss=${name}`).join("&")}`);
    const [script, frames] = await fast.evaluate(async () => {
      const measured = [];
      new PerformanceObserver((list) =>
        measured.push(...list.getEntriesByName("redraw").map((e) => e.duration)),
      ).observe({ entryTypes: ["measure"] });
      const slider = document.querySelector('[aria-label="delta of HuberLoss"]');
      const intervals = [];
      let last = performance.now();
      for (let i = 0; i < 90; i++) {
        slider.value = 0.5 + (i % 30) / 10;
        slider.dispatchEvent(new Event("input", { bubbles: true }));
        await new Promise(requestAnimationFrame);
        intervals.push(performance.now() - last);
        last = performance.now();
      }
      await new Promise((done) => setTimeout(done, 100));
      return [measured, intervals];
    });
    const at = (list, share) => list.slice(10).sort((a, b) => a - b)[Math.floor(share * (list.length - 11))];
    await shot(fast, "ten");
    await fast.context().close();
    assert.ok(script.length > 50, `only ${script.length} redraws were measured`);
    return (
      `redraw ${at(script, 0.5).toFixed(1)} ms (95 %: ${at(script, 0.95).toFixed(1)} ms), ` +
      `from frame to frame ${at(frames, 0.5).toFixed(1)} ms (95 %: ${at(frames, 0.95).toFixed(1)} ms)`
    );
  });

  await playground({ open, settle, step, shot });
  await article({ visit, settle, step, shot });

  await step("no errors in the console, no requests", async () => {
    assert.deepEqual(errors, []);
    assert.deepEqual(requests, []);
  });
  console.log(`index.html has ${(size / 1000).toFixed(0)} kB; ${steps.length} steps passed.`);
} finally {
  await browser.close();
}
