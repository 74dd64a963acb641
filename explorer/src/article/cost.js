/**
 * What robustness costs, measured: many small samples from a seed, and where each loss rests on them.
 *
 * A sample's points are normal around 0, and some are wild: far to the right. Which are wild follows from a number
 * of their own, so that a larger share of wild points leaves the others where they are.
 */

import { random } from "../playground/random.js";
import { toTarget } from "./losses.js";
import { quantile } from "./places.js";
import { rest } from "./rest.js";

export function drawn({ seed, samples, size, far }) {
  const chance = random(seed);
  const point = () => ({ usual: chance.normal(), luck: chance.uniform(), wild: far + chance.normal() });
  return Array.from({ length: samples }, () => Array.from({ length: size }, point));
}

/** The points of the samples where a share of all is wild. */
export const mixed = (samples, share) =>
  samples.map((sample) => sample.map(({ usual, luck, wild }) => (luck < share ? wild : usual)));

/** Where a loss rests on each sample, from its median downhill. */
export function estimates(name, samples, numbers) {
  const bind = toTarget(name, numbers);
  return samples.map((points) => rest(points.map(bind), points, quantile(points, 0.5)[0], 1).x);
}

/** The mean squared distance from the truth, which is 0. */
export const squaredError = (places) => places.reduce((sum, x) => sum + x * x, 0) / places.length;
