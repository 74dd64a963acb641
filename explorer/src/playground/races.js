/** What a state of the playground trains: its points, and a training for each of its losses, all from the same start. */

import { classification } from "./classification.js";
import { classPoints, curvePoints, embeddedPoints } from "./data.js";
import { embeddings } from "./embeddings.js";
import { OPTIMIZERS } from "./optimizers.js";
import { random } from "./random.js";
import { regression } from "./regression.js";
import { Training } from "./training.js";

/** By mode: the points of its settings, and what a loss does with them. */
const RACES = {
  regression: {
    points: curvePoints,
    objective: (card, chosen, points, { model }) => regression(card, chosen, points, model),
  },
  classes: {
    points: classPoints,
    objective: (card, chosen, points, { model, classes }) => classification(card, chosen, points, model, classes),
  },
  embeddings: {
    points: embeddedPoints,
    objective: (card, chosen, points, { space, seed }) => embeddings(card, chosen, points, space, seed),
  },
};

export const pointsOf = ({ mode, settings, points }) => points ?? RACES[mode].points(settings);

export const objectiveOf = (card, chosen, points, { mode, settings }) =>
  RACES[mode].objective(card, chosen, points, settings);

export function train(objective, { settings }) {
  const start = objective.start(random(settings.seed + 1000));
  return new Training(objective, start, OPTIMIZERS[settings.optimizer](settings.lr));
}
