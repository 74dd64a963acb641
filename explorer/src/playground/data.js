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
  line: [-3, 3],
  wave: [-3, 3],
  spread: [-4, 4],
  counts: [-0.8, 10],
};

/**
 * n points; outliers are every second one at the right end, so that a line must turn to follow them, and a flexible model
 * must choose.
 */
export function curvePoints({ data, n, noise, outliers, seed }) {
  const chance = random(seed);
  return Array.from({ length: n }, (_, i) => {
    const place = n > 1 ? -1.9 + (3.8 * (i + 0.6 * (chance.uniform() - 0.5))) / (n - 1) : 0;
    const x = Math.min(Math.max(place, -2), 2);
    let y = CURVES[data](x, noise, chance);
    if (i >= n - 2 * outliers && (n - i) % 2) y = data === "counts" ? 10 : chance.between(-2.6, -1.6);
    return { x: rounded(x), y: rounded(y) };
  });
}

/** Where classes and embeddings are looked at. */
export const SQUARE = [
  [-3, 3],
  [-3, 3],
];

export const CIRCLE = [
  [-1.35, 1.35],
  [-1.35, 1.35],
];

const around = (chance, x, y, size) => ({ x: x + size * chance.normal(), y: y + size * chance.normal() });

/** A point of a class by kind of data; a third class lies below the other two. */
const CLOUDS = {
  blobs: (chance, label, noise) =>
    around(
      chance,
      ...[
        [-1.2, 0.8],
        [1.2, 0.8],
        [0, -1.4],
      ][label],
      noise,
    ),
  moons: (chance, label, noise) => {
    const turn = Math.PI * chance.uniform();
    const [x, y] = [1.5 * Math.cos(turn), 1.5 * Math.sin(turn)];
    const at = [
      [x - 0.7, y - 0.5],
      [x * -1 + 0.7, -y + 0.5],
      [x * 0.8, y * 0.3 - 2.1],
    ][label];
    return around(chance, ...at, noise / 2);
  },
  rings: (chance, label, noise) => {
    const turn = 2 * Math.PI * chance.uniform();
    const radius = [0.4, 1.6, 2.6][label];
    return around(chance, radius * Math.cos(turn), radius * Math.sin(turn), noise / 2);
  },
};

/**
 * n points in turn of each class; the last class has `rare` per cent of its share; `wrong` of all have
 * another label.
 */
export function classPoints({ shape, n, classes, noise, rare, wrong, seed }) {
  const chance = random(seed);
  const weight = rare / 100;
  const share = n / (classes - 1 + weight);
  const last = Math.max(1, Math.round(share * weight));
  const limit = (x) => rounded(Math.min(Math.max(x, -3), 3));
  return Array.from({ length: n }, (_, i) => {
    const was = i >= n - last ? classes - 1 : i % (classes - 1);
    const { x, y } = CLOUDS[shape](chance, was, noise);
    const chosen = Math.floor(((i + 1) * wrong) / n) > Math.floor((i * wrong) / n);
    const label = chosen ? (was + 1) % classes : was;
    return { x: limit(x), y: limit(y), label, was };
  });
}

/** n embeddings around the origin, in turn of each class; on the circle they start somewhere on it. */
export function embeddedPoints({ space, n, classes, width, seed }) {
  const chance = random(seed);
  return Array.from({ length: n }, (_, i) => {
    const { x, y } = around(chance, 0, 0, width);
    const length = space === "circle" ? Math.hypot(x, y) : 1;
    return { x: rounded(x / length), y: rounded(y / length), label: i % classes };
  });
}
