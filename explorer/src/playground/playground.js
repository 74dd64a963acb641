/**
 * The playground: losses that train on points which can be moved.
 *
 * 1. One state; the link, the controls and the trainings follow from it. What changes where points lie or how steps are
 *    made starts anew; a parameter of a loss, or a point that moves, changes the training that runs.
 * 2. A mode's view draws; this file knows no mode.
 */

import { h, patch, replace } from "../dom.js";
import { show } from "../formulas.js";
import { figure, swatch } from "../plot.js";
import { calm, clock } from "./clock.js";
import { key, pointer } from "./edit.js";
import { modeOf, read, write } from "./link.js";
import { forget, plane } from "./plane.js";
import { presets } from "./presets.js";
import { objectiveOf, pointsOf, train } from "./races.js";
import { MODES } from "./settings.js";
import { side } from "./side.js";
import { VIEWS } from "./views.js";
import { gone, named, pull, pullText, told } from "./words.js";

const $ = (id) => document.getElementById(id);
const DRAWN = 400; // numbers of a falling loss that are drawn
const COUNTED = 150; // milliseconds between two tables while things move
const BY_ITSELF = 1500; // steps after which a training that nobody started rests

/** cards: all of the catalogue; on.link(): the link has changed. */
export function playground(cards, on) {
  let state = null;
  let points = [];
  let races = [];
  let planes = [];
  let selected = -1;
  let rests = Infinity; // the step at which the clock stops
  let timer = 0;
  let [spoken, counted] = [0, 0]; // when the live text, and the table, were last made
  let waiting = false;
  const falling = figure($("falling"), "The loss falls");
  const cardOf = (chosen) => cards.find((card) => card.name === chosen.name);
  const view = () => VIEWS[state.mode];
  const window = () => MODES[state.mode].window(state.settings);
  const steps = () => Math.max(0, ...races.map(({ training }) => training.steps));
  const moving = () => races.filter(({ training, refused }) => !refused && training.gone === null && !training.done);

  const time = clock({
    speed: () => state.settings.speed,
    step: () => {
      for (const { training } of moving()) training.advance();
      return moving().length > 0 && steps() < rests;
    },
    draw,
    changed: () => {
      $("play").textContent = time.playing ? "Pause" : "Play";
      if (!time.playing) soon();
      say();
    },
  });

  // -------------------------------------------------------------------------------------------------------
  // Trainings

  function race(chosen) {
    const card = cardOf(chosen);
    const objective = objectiveOf(card, chosen, points, state);
    const name = named(card, chosen);
    return { chosen, card, name, objective, training: train(objective, state), refused: objective.refusal?.() ?? null };
  }

  /** Everything from the start. The planes stay: a hand may hold a point of one. */
  function begin() {
    points = pointsOf(state);
    races = state.losses.map(race);
    selected = Math.min(selected, points.length - 1);
    soon();
  }

  function restart() {
    begin();
    arrange();
  }

  /** A loss has another parameter: its training goes on under it. */
  function reformed() {
    races = races.map((old) => {
      const made = race(old.chosen);
      if (made.training.parameters.length !== old.training.parameters.length || made.refused) return made;
      old.training.objective = made.objective;
      old.training.refresh();
      return { ...made, training: old.training };
    });
    soon();
  }

  /** Points have moved: a loss that refuses one rests, and starts anew when it no longer does. */
  function moved() {
    state.points = points;
    if (state.settings.n !== undefined) state.settings.n = points.length;
    const refusals = races.map(({ objective }) => objective.refusal?.() ?? null);
    if (races.some(({ refused }, k) => Boolean(refused) !== Boolean(refusals[k]))) begin();
    for (const { training } of races) training.refresh();
    soon();
  }

  // -------------------------------------------------------------------------------------------------------
  // Pictures and numbers

  /** As many planes as the mode's view wants, with their titles. */
  function arrange() {
    const titles = view().together ? [null] : races.map(({ chosen, name }) => [swatch(chosen.slot), name]);
    planes = titles.map((title) => plane(title, pointer(host)));
    $("arena").style.setProperty("--panes", planes.length);
    $("arena").classList.toggle("square", !view().together);
    $("field").classList.toggle("beside", planes.length === 1);
    replace($("arena"), ...planes.map(({ root }) => root));
    $("play-how").textContent = view().how;
    $("play-keys").textContent = view().keys;
    $("arena").setAttribute("aria-label", `${MODES[state.mode].label}: ${points.length} points`);
    const heads = ["Loss", "Value", "Gradient", "Pulls most", "Do not pull", ...view().columns.map((c) => c.title)];
    replace($("race-head"), ...heads.map((text) => h("th", { scope: "col" }, text)));
    for (const button of $("edits").children) button.hidden = !view().edits.includes(button.dataset.edit);
    replace($("more"));
    view().arrange?.($("more"));
  }

  function soon() {
    later();
    if (waiting || time.playing) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  }

  function draw() {
    const limits = window();
    for (const [k, one] of planes.entries()) {
      one.begin(limits);
      view().draw(one, view().together ? races : [races[k]], points, selected, limits, time.playing);
    }
    const stride = Math.max(1, Math.ceil(steps() / DRAWN));
    const xs = Array.from({ length: Math.floor(steps() / stride) + 1 }, (_, i) => i * stride);
    if (xs.length < 2) xs.push(1);
    const lines = races.map(({ chosen, name, training }) => {
      const ys = xs.map((step) => training.history[step] ?? null);
      return { slot: chosen.slot, name, ys, note: training.gone !== null && " flew off" };
    });
    falling.update({ xs, lines, xLabel: "step", yLabel: "loss", description: described() });
    $("steps").textContent = steps();
    if (!time.playing || performance.now() - counted > COUNTED) count();
    if (time.playing && performance.now() - spoken > 6000) say();
  }

  /** The table, what went wrong, and what a view shows beside: slower than the pictures, so that it can be read. */
  function count() {
    counted = performance.now();
    patch($("race"), races.map(numbers));
    const flown = races.filter(({ training }) => training.gone !== null);
    const resting = races.filter(({ refused }) => refused);
    patch($("gone"), [...flown.map(wrong), ...resting.map(halted)]);
    view().show?.(races, points);
  }

  const paragraph = (text) => [text, () => h("p", {}, text)];
  const wrong = (one) => paragraph(gone(one, state.settings));
  const halted = ({ refused }) => paragraph(`${refused}. The loss rests until that point is moved.`);
  const described = () => `The loss of each training from step 0 to ${steps()}: the table below has the numbers.`;

  function numbers(one) {
    const { chosen, name, training, refused } = one;
    const { idle } = pull(one);
    const length = Math.hypot(...training.gradient);
    const cells = refused
      ? ["–", "–", "rests", "–", ...view().columns.map(() => "")]
      : [
          short(training.value),
          short(length),
          pullText(one),
          String(idle),
          ...view().columns.map(({ of }) => of(one, points)),
        ];
    const make = () =>
      h(
        "tr",
        {},
        h("th", { scope: "row" }, swatch(chosen.slot), name),
        cells.map((text) => h("td", {}, text)),
      );
    return [JSON.stringify([chosen.slot, name, cells]), make];
  }
  const short = (x) => show(Number(x.toPrecision(4)));

  /** The live text, when things rest, or now and then while they move. */
  function later() {
    clearTimeout(timer);
    timer = setTimeout(() => {
      say();
      on.link();
    }, 300);
  }
  function say(text = told(races, steps())) {
    spoken = performance.now();
    if ($("play-live").textContent !== text) $("play-live").textContent = text;
  }

  // -------------------------------------------------------------------------------------------------------
  // Hands

  const placesOn = (pane) => view().places?.(races[Math.max(planes.indexOf(pane), 0)]) ?? points;
  const spot = (i) => view().where(placesOn()[i], i, points.length);
  const host = {
    window,
    places: placesOn,
    selected: () => selected,
    select(i) {
      selected = i;
      $("selected").textContent = spot(i);
      say(spot(i));
      soon();
    },
    /** Points that are parameters are moved where they are; before the first step, and all others, where they start. */
    move(i, at, pane) {
      if (view().move && steps() > 0) {
        for (const one of pane ? [races[planes.indexOf(pane)]] : races) {
          view().move(one, i, at);
          one.training.refresh();
        }
        soon();
      } else {
        Object.assign(points[i], at);
        moved();
        if (view().move) begin();
      }
      $("selected").textContent = spot(i);
    },
    add(at) {
      if (!view().edits.includes("add") || points.length >= MODES[state.mode].settings.n.high) return;
      points.push(view().made(at, points));
      host.select(points.length - 1);
      moved();
    },
    remove(i) {
      if (!view().edits.includes("remove") || !points[i] || points.length <= MODES[state.mode].settings.n.low) return;
      points.splice(i, 1);
      selected = Math.min(i, points.length - 1);
      moved();
      host.select(selected);
    },
    click(i) {
      if (!points[i] || !view().click) return;
      view().click(points[i], state.settings);
      moved();
      reformed();
      host.select(i);
    },
    toggle: () => (time.playing ? time.pause() : play()),
  };
  $("arena").addEventListener("keydown", (e) => key(host, e) && e.preventDefault());
  const button = (edit, text, action) => h("button", { type: "button", "data-edit": edit, onclick: action }, text);
  const middle = () => window().map(([a, b]) => (a + b) / 2);
  replace(
    $("edits"),
    button("add", "Add a point", () => host.add({ x: middle()[0], y: middle()[1] })),
    button("remove", "Remove point", () => host.remove(selected)),
    button("click", "Change its class", () => host.click(selected)),
  );

  const controls = side(cards, { restart, reformed, later });

  function play() {
    if (!moving().length) begin();
    rests = Infinity;
    time.play();
  }
  $("play").addEventListener("click", host.toggle);
  $("step").addEventListener("click", () => {
    time.pause();
    for (const { training } of moving()) training.advance();
    soon();
  });
  $("again").addEventListener("click", begin);

  /** Shows what a link says, and plays it where motion is welcome. */
  function open(hash) {
    const result = read(hash, cards);
    time.pause();
    ({ state } = result);
    selected = -1;
    $("selected").textContent = "";
    replace($("play-problems"), ...result.problems.map((text) => h("span", {}, text)));
    const own = (mode) => presets.filter(({ link }) => modeOf(link) === mode);
    const slow = (text) => text.replace(/&speed=\d+/, ""); // the same training, however fast
    const link = slow(write({ ...state, theme: null }));
    const mark = (yes) => (yes ? "true" : null);
    replace(
      $("modes"),
      ...Object.entries(MODES).map(([mode, { label }]) =>
        h("li", {}, h("a", { href: `#${own(mode)[0].link}`, "aria-current": mark(mode === state.mode) }, label)),
      ),
    );
    replace(
      $("trainings"),
      ...own(state.mode).map((preset) =>
        h("li", {}, h("a", { href: `#${preset.link}`, "aria-current": mark(slow(preset.link) === link) }, preset.name)),
      ),
    );
    const preset = presets.find((one) => slow(one.link) === link);
    replace($("caption"), preset && h("p", {}, preset.hint), preset && h("p", {}, preset.why));
    controls.build(state);
    restart();
    draw();
    rests = BY_ITSELF;
    if (!calm()) time.play();
  }

  new ResizeObserver(() => state && soon()).observe($("arena"));
  return {
    open,
    link: () => (state ? write(state) : presets[0].link),
    state: () => state,
    stop: () => time.pause(),
    themed: () => {
      forget();
      if (state) soon();
    },
  };
}
