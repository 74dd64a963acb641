/** What moves, in words: for the live text, and for what went wrong. */

import { show } from "../formulas.js";
import { shares } from "./shares.js";

const three = (x) => show(Number(x.toPrecision(3)));
const percent = (share) => `${Math.round(100 * share)} %`;

/** A loss by its title and by what differs from the defaults. */
export function named(card, { given, switches }) {
  const numbers = Object.entries(given).map(([name, x]) => `${name}=${show(x)}`);
  const flags = Object.entries(switches).filter(([name]) => !(name in given));
  const all = [...numbers, ...flags.map(([name, on]) => `${name}=${on}`)];
  return all.length ? `${card.title}(${all.join(", ")})` : card.title;
}

/** Who pulls hardest, and how many do not pull. */
export function pull({ objective }) {
  const part = shares(objective.pulls);
  const most = Math.max(...part);
  const idle = part.filter((share) => share === 0).length;
  return { point: part.indexOf(most), share: most, idle };
}

export const pullText = (race) => {
  const { point, share } = pull(race);
  return share > 0 ? `point ${point + 1}: ${percent(share)}` : "nobody";
};

/** One sentence for each loss. */
export function told(races, steps) {
  const said = races.map((race) => {
    const { name, training, refused } = race;
    if (refused) return `${name} rests: ${refused}`;
    if (training.gone !== null) return `${name} diverged at step ${training.gone}`;
    const { point, share, idle } = pull(race);
    const puller = share > 0 ? `, point ${point + 1} pulls most with ${percent(share)}` : "";
    return `${name}: loss ${three(training.value)}${puller}${idle ? `, ${idle} points do not pull` : ""}`;
  });
  return `Step ${steps}. ${said.join(". ")}.`;
}

/** Why a training flew off, and the way out. */
export function gone({ name, training }, { optimizer, lr }) {
  const why =
    optimizer === "SGD"
      ? `With a step of ${show(lr)} times the gradient it overshoots by more each time: rate times curvature is above 2.`
      : `Its steps of about ${show(lr)} jump over the valley.`;
  return `${name} flew off: after step ${training.gone} its loss is beyond 1e12. ${why} A smaller learning rate brings it back; what is drawn is its last finite state.`;
}
