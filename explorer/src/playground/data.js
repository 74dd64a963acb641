/** Points to begin with, made from a seed: where they lie, how noisy they are, and how many are far off. */

import { poisson, random } from "./random.js";

/** Links hold points with three decimals, so data has no more: a link restores the very same numbers. */
export const rounded = (x) => Math.round(x * 1000) / 1000;

/** y at x by kind of data, with noise of a size. */
const CURVES = {
  line: (x, noise, chance) => 0.8 * x + noise * chance.normal(),
  wave: (x, noise, chance) => 1.2 * Math.sin(2 * x) + noise * chance.normal(),
  spread: (x, noise, chance) => 0.5 * x + noise * (0.1 + 0.5 * (x + 2)) * chance.normal(),
  counts: (x, noise, chance) => poisson(chance, Math.exp(0.6 + 0.6 * x + 0.2 * noise * chance.normal())),
};

/** Where a regression is looked at: x from -2 to 2, and y by kind of data. */
export const WINDOWS = {
  line: [-3, 5],
  wave: [-3, 5],
  spread: [-4, 4],
  counts: [-0.8, 10],
};

/** n points; the outliers are the last of them, at the right end, so that a line must turn to follow. */
export function curvePoints({ data, n, noise, outliers, seed }) {
  const chance = random(seed);
  return Array.from({ length: n }, (_, i) => {
    const place = n > 1 ? -1.9 + (3.8 * (i + 0.6 * (chance.uniform() - 0.5))) / (n - 1) : 0;
    const x = Math.min(Math.max(place, -2), 2);
    let y = CURVES[data](x, noise, chance);
    if (i >= n - outliers) y = data === "counts" ? 10 : chance.between(-2.6, -1.6);
    return { x: rounded(x), y: rounded(y) };
  });
}
