/**
 * The playground's state as a link: #play=regression&loss=mse_loss&loss=huber_loss:delta=2&data=wave&n=60&seed=3
 *
 * Only what differs from the defaults is written, and a mode alone is its first preset. Points that somebody moved are
 * all in it: points=-1.2,0.5;0,3.1. What a link says and the playground does not know, or refuses, is named, and the
 * nearest that it allows is taken.
 */

import { partsOf, readLoss, writeLoss } from "../state.js";
import { offered } from "./offers.js";
import { presets } from "./presets.js";
import { MODES, MOST_LOSSES, settle } from "./settings.js";

/** The mode of a link of the playground. */
export const modeOf = (hash) => partsOf(hash).find(([, key]) => key === "play")[2];

/** Whether a link is one of the playground. */
export const isPlay = (hash) => partsOf(hash).some(([, key]) => key === "play");

/** The state of a mode with nothing changed, and no losses. */
function fresh(mode) {
  const values = Object.entries(MODES[mode].settings).map(([name, { value }]) => [name, value]);
  return { mode, losses: [], settings: Object.fromEntries(values), points: null, theme: null };
}

export function write({ mode, losses, settings, points, theme }) {
  const parts = [`play=${mode}`, ...losses.map(writeLoss)];
  for (const [name, { value }] of Object.entries(MODES[mode].settings))
    if (settings[name] !== value) parts.push(`${name}=${settings[name]}`);
  if (points) parts.push(`points=${points.map((point) => MODES[mode].writePoint(point)).join(";")}`);
  if (theme) parts.push(`theme=${theme}`);
  return parts.join("&");
}

/** The state of a link, and a sentence for each thing in it that is not taken as it stands. */
export function read(hash, cards) {
  const problems = [];
  const parts = partsOf(hash);
  const named = modeOf(hash);
  const known = Object.hasOwn(MODES, named);
  const mode = known ? named : Object.keys(MODES)[0];
  if (!known) problems.push(`The link says “play=${named}”, which this page does not know; ${mode} is shown.`);
  const first = presets.find(({ link }) => modeOf(link) === mode).link;
  if (known && parts.length === 1) return read(first, cards);
  const state = fresh(mode);
  const { settings, fits, readPoint } = MODES[mode];
  for (const [part, key, text] of parts) {
    if (key === "play" && text === named) continue;
    if (key === "loss") readLoss(text, cards, state, problems);
    else if (Object.hasOwn(settings, key)) {
      const { value, problem } = settle(key, settings[key], text);
      state.settings[key] = value;
      if (problem) problems.push(problem);
    } else if (key === "points" && readPoint) state.points = pointsOf(text, state, problems);
    else if (key === "theme" && ["light", "dark"].includes(text)) state.theme = text;
    else problems.push(`The link says “${part}”, which the playground does not know.`);
  }
  const all = offered(cards, fits);
  const of = (chosen) => all.find((card) => card.name === chosen.name);
  for (const chosen of state.losses.filter((c) => !of(c)))
    problems.push(`${chosen.name} cannot be trained under ${MODES[mode].label}; it is left out.`);
  state.losses = state.losses.filter(of);
  for (const { name } of state.losses.splice(MOST_LOSSES))
    problems.push(`At most ${MOST_LOSSES} losses race; ${name} is left out.`);
  if (!state.losses.length) state.losses = read(first, cards).state.losses;
  return { state, problems };
}

function pointsOf(text, state, problems) {
  const { settings, readPoint, window } = MODES[state.mode];
  const all = text.split(";").filter(Boolean);
  const found = all.map((one) => readPoint(one.split(",").map(Number), window(state.settings), state.settings));
  const wrong = found.findIndex((point) => !point);
  const { low, high } = settings.n;
  const refused = (why) => problems.push(`The link's points ${why}; points of the seed stand in their place.`);
  if (wrong >= 0) refused(`have “${all[wrong]}”, which is no point`);
  else if (found.length < low || found.length > high) refused(`must be ${low} to ${high}, got ${found.length}`);
  else {
    state.settings.n = found.length;
    return found;
  }
  return null;
}
