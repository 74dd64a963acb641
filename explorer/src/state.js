/**
 * What the page shows, as the part of its address behind the #: a link restores the view.
 *
 * #loss=poisson_nll_loss:target=2,-log_input,+full&loss=dpo_loss:loss_type=hinge&axis=logit&by=own&from=-3&to=3&x=1
 * Only what differs from the defaults is written. What a link says and the page does not know is named, not guessed;
 * what the library would refuse is left out. `embed` shows a loss inside another page, `theme=dark` in its colours.
 */

import { AXES, limits, settle } from "./formulas.js";

export const empty = () => ({
  losses: [],
  axis: "own",
  by: "axis",
  from: null,
  to: null,
  x: null,
  embed: false,
  theme: null,
});

/** A loss of the catalogue with nothing changed: numbers that are given, and switches and words, by name. */
export const choose = (card) => ({ name: card.name, given: {}, switches: {} });

/** loss=huber_loss:delta=2 */
export function writeLoss({ name, given, switches }) {
  const numbers = Object.entries(given).map(([key, x]) => `${key}=${x}`);
  const flags = Object.entries(switches).map(([key, on]) =>
    typeof on === "string" ? `${key}=${on}` : (on ? "+" : "-") + key,
  );
  const settings = [...numbers, ...flags].join(",");
  return `loss=${name}${settings && `:${settings}`}`;
}

export function write(state) {
  const parts = state.losses.map(writeLoss);
  if (state.axis !== "own") parts.push(`axis=${state.axis}`);
  if (state.by !== "axis") parts.push(`by=${state.by}`);
  for (const key of ["from", "to", "x"]) if (state[key] !== null) parts.push(`${key}=${state[key]}`);
  if (state.embed) parts.push("embed");
  if (state.theme) parts.push(`theme=${state.theme}`);
  return parts.join("&");
}

/** The state of a link, and a sentence for each thing in it that the page does not know. */
export function read(hash, cards) {
  const state = empty();
  const problems = [];
  for (const [part, key, text] of partsOf(hash)) {
    if (key === "loss") readLoss(text, cards, state, problems);
    else if (key === "axis" && Object.hasOwn(AXES, text)) state.axis = text;
    else if (key === "by" && ["axis", "own"].includes(text)) state.by = text;
    else if (["from", "to", "x"].includes(key)) state[key] = number(text, key, problems);
    else if (part === "embed") state.embed = true;
    else if (key === "theme" && ["light", "dark"].includes(text)) state.theme = text;
    else problems.push(`The link says “${part}”, which this page does not know.`);
  }
  const reversed = straighten(state, cards);
  if (reversed) problems.push(`${reversed}; the link's range is left out.`);
  const [from, to] = rangeOf(state, cards);
  if (state.x !== null && (state.x < from || state.x > to)) {
    const end = state.x < from ? from : to;
    problems.push(`The link's x must be in the range ${from} to ${to}, got ${state.x}; ${end} is taken.`);
    state.x = end;
  }
  return { state, problems };
}

/** From where to where is drawn: as chosen, else as the losses have it. */
function rangeOf(state, cards) {
  const [low, high] = limits(
    state.losses.map(({ name }) => cards.find((card) => card.name === name)),
    state.axis,
  );
  return [state.from ?? low, state.to ?? high];
}

/** Takes out a range that cannot be drawn, and says so. */
export function straighten(state, cards) {
  const [from, to] = rangeOf(state, cards);
  if (drawable(from, to)) return null;
  state.from = state.to = null;
  return rangeRefused(from, to);
}

/** Whether a range has a beginning, an end, and numbers in between: beyond these, ticks of an axis have none. */
export const drawable = (from, to) =>
  to - from >= 1e-9 * Math.max(Math.abs(from), Math.abs(to), 1e-3) && to - from <= 1e15;

/** What is wrong with a range, without the end of the sentence. */
export function rangeRefused(from, to) {
  const rule = from < to ? "be neither too narrow nor too wide to be drawn" : "begin before it ends";
  return `The range must ${rule}, got ${from} to ${to}`;
}

/** The parts of a link: the whole of each, what stands before its = and what behind. */
export const partsOf = (hash) =>
  decoded(hash)
    .replace(/^#/, "")
    .split("&")
    .filter(Boolean)
    .map((part) => {
      const [key, ...rest] = part.split("=");
      return [part, key, rest.join("=")];
    });

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a stray % is shown as it is
  }
}

function number(text, what, problems) {
  const x = text.trim() === "" ? NaN : Number(text);
  if (Number.isFinite(x)) return x;
  problems.push(`The link's ${what} is “${text}”, which is not a number.`);
  return null;
}

/** Adds to the state what a link says about a loss, and to the problems what the page does not know. */
export function readLoss(text, cards, state, problems) {
  const [name, settings = "", ...more] = text.split(":");
  const card = cards.find((known) => known.name === name);
  if (!card) {
    problems.push(`The link names “${name}”, a loss that this page does not know.`);
    return;
  }
  const chosen = choose(card);
  for (const setting of settings.split(",").filter(Boolean)) {
    const [key, value] = setting.split("=");
    const word = card.switches.find((s) => s.name === key && s.words.length);
    const flag = card.switches.find((s) => s.name === key.slice(1) && !s.words.length);
    if (value === undefined && /^[+-]/.test(key) && flag) chosen.switches[flag.name] = key[0] === "+";
    else if (word?.words.includes(value)) chosen.switches[key] = value;
    else if (value !== undefined && card.curve.given.some((g) => g.name === key)) {
      const x = number(value, `${key} of ${name}`, problems);
      if (x !== null) chosen.given[key] = x;
    } else problems.push(`The link sets “${setting}” of ${name}, which this page does not know.`);
  }
  if (more.length) problems.push(`The link says “:${more.join(":")}” of ${name}, which this page does not know.`);
  problems.push(...settle(card, chosen).map((text) => `${text}; the link's value is left out.`));
  state.losses.push(chosen);
}
