/** The colours of the lines can be told apart and from the paper, also by the colour-blind. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

const style = readFileSync(new URL("../src/palette.css", import.meta.url), "utf8");

/** A colour of the style sheet as linear RGB: 0 by day, 1 by night. */
function colour(name, night) {
  const hex = new RegExp(`--${name}: light-dark\\((#\\w+), (#\\w+)\\)`).exec(style)[1 + night];
  const channels = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255);
  return channels.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
}

const apply = (matrix, v) => matrix.map((row) => row.reduce((sum, x, i) => sum + x * v[i], 0));
const luminance = (rgb) => apply([[0.2126, 0.7152, 0.0722]], rgb)[0];

function lab(rgb) {
  const white = [0.9505, 1, 1.089];
  const xyz = apply(
    [
      [0.4124, 0.3576, 0.1805],
      [0.2126, 0.7152, 0.0722],
      [0.0193, 0.1192, 0.9505],
    ],
    rgb,
  );
  const [x, y, z] = xyz.map((c, i) => Math.cbrt(Math.max(c, 0) / white[i]));
  return [116 * y - 16, 500 * (x - y), 200 * (y - z)];
}

// Machado, G. M., Oliveira, M. M. and Fernandes, L. A. F. (2009), severity 1.
const EYES = {
  ordinary: [
    [1, 0, 0],
    [0, 1, 0],
    [0, 0, 1],
  ],
  protanopia: [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
  ],
  deuteranopia: [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.01182, 0.04294, 0.968881],
  ],
  tritanopia: [
    [1.255528, -0.076749, -0.178779],
    [-0.078411, 0.930809, 0.147602],
    [0.004733, 0.691367, 0.3039],
  ],
};
const LINES = ["c0", "c1", "c2", "c3", "c4"];
const CLASSES = ["k0", "k1", "k2"];

for (const [night, theme] of ["light", "dark"].entries()) {
  test(`lines stand out from the ${theme} paper`, () => {
    for (const name of [...LINES, ...CLASSES, "soft", "accent", "edge"]) {
      const [a, b] = [colour(name, night), colour("paper", night)].map(luminance).sort((x, y) => y - x);
      const contrast = (a + 0.05) / (b + 0.05);
      assert.ok(contrast >= (["soft", "accent"].includes(name) ? 4.5 : 3), `${name}: ${contrast.toFixed(2)}`);
    }
  });

  test(`lines differ for every eye on ${theme} paper`, (t) => {
    for (const [eye, matrix] of Object.entries(EYES)) {
      let least = Infinity;
      for (const names of [LINES, CLASSES]) {
        const seen = names.map((name) => lab(apply(matrix, colour(name, night))));
        for (const [i, a] of seen.entries()) {
          for (const [j, b] of seen.slice(0, i).entries()) {
            const apart = Math.hypot(...a.map((x, k) => x - b[k]));
            assert.ok(apart > 15, `${eye}: ${names[i]} and ${names[j]} are ${apart.toFixed(1)} apart`);
            least = Math.min(least, apart);
          }
        }
      }
      t.diagnostic(`${eye}: at least ${least.toFixed(0)} apart`);
    }
  });
}
