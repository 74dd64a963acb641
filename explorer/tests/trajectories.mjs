/**
 * Trainings of the playground, as JSON for tests/test_playground.py: node tests/trajectories.mjs, after a build.
 *
 * Every preset by both optimizers: points, the start, and parameters and losses along 200 steps. A preset's rate is that
 * of its own optimizer; the other one has a rate at which nothing flies off.
 */

import { cards } from "../generated/catalogue.js";
import { givenOf } from "../src/formulas.js";
import { read } from "../src/playground/link.js";
import { OPTIMIZERS } from "../src/playground/optimizers.js";
import { presets } from "../src/playground/presets.js";
import { objectiveOf, pointsOf, train } from "../src/playground/races.js";

const STEPS = 200;
const RATES = { SGD: 0.02, Adam: 0.05 };
const numbers = (list) => Array.from(list, (x) => (Number.isFinite(x) ? x : String(x)));

function race(card, chosen, state) {
  const points = pointsOf(state);
  const objective = objectiveOf(card, chosen, points, state);
  const training = train(objective, state);
  const parameters = [numbers(training.parameters)];
  for (let i = 0; i < STEPS; i++) {
    training.advance();
    parameters.push(numbers(training.parameters));
  }
  const given = givenOf(card, chosen).map(({ name, value }) => [name, value]);
  const usual = card.switches.map(({ name, value }) => [name, value]);
  return {
    loss: card.name,
    given: Object.fromEntries(given),
    switches: { ...Object.fromEntries(usual), ...chosen.switches },
    described: objective.described,
    parameters: parameters.slice(0, training.history.length),
    history: numbers(training.history),
    gone: training.gone,
    pulls: numbers(training.objective.pulls.flat()),
  };
}

const found = [];
for (const { name, link } of presets) {
  for (const optimizer of Object.keys(OPTIMIZERS)) {
    const { state } = read(link, cards);
    const own = state.settings.optimizer === optimizer;
    Object.assign(state.settings, { optimizer, lr: own ? state.settings.lr : RATES[optimizer] });
    const races = state.losses.map((chosen) =>
      race(
        cards.find((card) => card.name === chosen.name),
        chosen,
        state,
      ),
    );
    found.push({ name, mode: state.mode, settings: state.settings, points: pointsOf(state), races });
  }
}
process.stdout.write(JSON.stringify(found));
