/**
 * The modes of the playground and what can be set in them. Links, controls and sentences about what is refused are made
 * from these tables.
 */

import { show } from "../formulas.js";
import { CIRCLE, rounded, SQUARE, WINDOWS } from "./data.js";
import { ofClasses, ofEmbeddings, ofNumbers } from "./offers.js";

const words = (label, choices, value = Object.keys(choices)[0]) => ({ label, words: choices, value });
const number = (label, value, low, high, more = {}) => ({ label, value, low, high, ...more });
const whole = (label, value, low, high) => number(label, value, low, high, { whole: true });

/** How steps are made, in every mode. */
const steps = (optimizer, rate) => ({
  optimizer: words("Optimizer", { SGD: "SGD", Adam: "Adam" }, optimizer),
  lr: number("Learning rate", rate, 1e-4, 10, { logarithmic: true }),
  speed: number("Steps per second", 60, 1, 3000, { whole: true, logarithmic: true }),
  seed: whole("Seed", 1, 1, 9999),
});

export const MODES = {
  regression: {
    label: "Regression",
    fits: ofNumbers,
    settings: {
      data: words("Points", { line: "a line", wave: "a wave", spread: "a growing spread", counts: "counts" }),
      n: whole("How many", 40, 2, 300),
      noise: number("Noise", 0.3, 0, 2),
      outliers: whole("Outliers", 0, 0, 20),
      model: words("Model", { line: "line", cubic: "cubic", network: "network" }),
      ...steps("Adam", 0.05),
    },
    window: ({ data }) => [[-2, 2], WINDOWS[data]],
    writePoint: ({ x, y }) => `${x},${y}`,
    readPoint: ([x, y, ...more], window) => (more.length ? null : inside(x, y, window)),
  },
  classes: {
    label: "Classes",
    fits: ofClasses,
    settings: {
      shape: words("Points", { blobs: "clouds", moons: "moons", rings: "rings" }),
      classes: whole("Classes", 2, 2, 3),
      n: whole("How many", 81, 4, 300),
      noise: number("Noise", 0.6, 0, 2),
      rare: number("Last class, %", 100, 2, 100),
      wrong: whole("Mislabelled", 0, 0, 40),
      model: words("Model", { line: "linear", network: "network" }),
      ...steps("Adam", 0.05),
    },
    window: () => SQUARE,
    writePoint: ({ x, y, label, was }) => [x, y, label, ...(was === label ? [] : [was])].join(),
    readPoint: ([x, y, label, was = label], window, { classes }) => {
      const known = [label, was].every((k) => Number.isInteger(k) && k >= 0 && k < classes);
      return known && inside(x, y, window) && { ...inside(x, y, window), label, was };
    },
  },
  embeddings: {
    label: "Embeddings",
    fits: ofEmbeddings,
    settings: {
      space: words("Space", { circle: "a circle", plane: "the plane" }),
      classes: whole("Classes", 3, 2, 3),
      n: whole("How many", 24, 4, 60),
      width: number("Width of the start", 1, 0.01, 2),
      ...steps("SGD", 0.5),
    },
    window: ({ space }) => (space === "circle" ? CIRCLE : SQUARE),
    writePoint: ({ x, y, label }) => [x, y, label].join(),
    readPoint: ([x, y, label, ...more], window, { classes }) => {
      const known = !more.length && Number.isInteger(label) && label >= 0 && label < classes;
      return known && inside(x, y, window) && { ...inside(x, y, window), label };
    },
  },
};

const clamped = (x, [low, high]) => rounded(Math.min(Math.max(x, low), high));

/** A point of a link, moved to where it can be seen. */
function inside(x, y, [across, up]) {
  if (!Number.isFinite(x) || !Number.isFinite(y)) return null;
  return { x: clamped(x, across), y: clamped(y, up) };
}

/** What decides where points lie: another value of it makes them anew. */
export const OF_DATA = [
  "data",
  "shape",
  "space",
  "classes",
  "n",
  "noise",
  "width",
  "outliers",
  "rare",
  "wrong",
  "seed",
];

/** The losses that race, at most. */
export const MOST_LOSSES = 3;

/** What is taken for a text of a link, and a sentence where it is not what the text says. */
export function settle(name, setting, text) {
  if (setting.words) {
    if (Object.hasOwn(setting.words, text)) return { value: text };
    const known = Object.keys(setting.words);
    const list = `${known.slice(0, -1).join(", ")} or ${known.at(-1)}`;
    return { value: setting.value, problem: `${name} must be ${list}, got “${text}”; ${setting.value} is taken.` };
  }
  const x = text.trim() === "" ? NaN : Number(text);
  const { low, high, value } = setting;
  if (Number.isNaN(x)) return { value, problem: `${name} must be a number, got “${text}”; ${show(value)} is taken.` };
  const rounded = setting.whole && Number.isFinite(x) ? Math.round(x) : x;
  const nearest = Math.min(Math.max(rounded, low), high);
  if (nearest === x) return { value: x };
  const kind = setting.whole ? "a whole number from" : "from";
  const said = `${name} must be ${kind} ${show(low)} to ${show(high)}, got ${text}`;
  return { value: nearest, problem: `${said}; ${show(nearest)}, the nearest, is taken.` };
}
