/** The figures of the site's article, each in the element that asks for it by its name. */

import { nanFigure, zeroFigure } from "./broken.js";
import { focalFigure, rareFigure } from "./focus.js";
import { marginsFigure } from "./margins.js";
import { costFigure, outlierFigure } from "./robust.js";
import { smoothingFigure, temperatureFigure } from "./sharpness.js";
import { raceFigure, sigmoidFigure } from "./sigmoid.js";
import { springsFigure, valleysFigure } from "./springs.js";

const FIGURES = {
  springs: springsFigure,
  outlier: outlierFigure,
  cost: costFigure,
  valleys: valleysFigure,
  sigmoid: sigmoidFigure,
  race: raceFigure,
  margins: marginsFigure,
  temperature: temperatureFigure,
  smoothing: smoothingFigure,
  focal: focalFigure,
  rare: rareFigure,
  nan: nanFigure,
  zero: zeroFigure,
};

for (const root of document.querySelectorAll("[data-figure]")) FIGURES[root.dataset.figure](root);
