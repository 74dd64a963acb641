/** What each mode shows. */

import { classesView } from "./classes-view.js";
import { embeddingsView } from "./embeddings-view.js";
import { regressionView } from "./regression-view.js";

export const VIEWS = { regression: regressionView, classes: classesView, embeddings: embeddingsView };
