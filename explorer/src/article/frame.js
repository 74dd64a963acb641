/** What every figure has: a title, a stage, controls, a sentence that follows, and a way back to the beginning. */

import { h } from "../dom.js";
import { calm } from "../playground/clock.js";

const REST = 500; // milliseconds without a change, after which a screen reader is told

/**
 * The frame of a figure in `root`. build() makes the figure anew; how: what the reader can do. say(text) is what stands
 * under the figure: it changes with each movement, and is read out when the movement has ended.
 */
export function frame(root, { title, how, build }) {
  const id = root.dataset.figure;
  const stage = h("div", { class: "stage" });
  const controls = h("div", { class: "controls" });
  const said = h("p", { class: "said" });
  const live = h("p", { class: "unseen", role: "status", "aria-live": "polite" });
  const reset = h("button", { type: "button", class: "reset", onclick: again }, "Reset");
  root.classList.add("ready");
  root.setAttribute("aria-labelledby", `${id}-title`);
  root.replaceChildren(
    h("figcaption", { id: `${id}-title` }, title),
    stage,
    h("div", { class: "under" }, controls, reset),
    said,
    h("p", { class: "how" }, how),
    live,
  );
  let timer = 0;
  let first = true;

  function again() {
    clearTimeout(timer);
    build(root);
    root.querySelector(".reset").focus();
  }

  function say(text) {
    if (said.textContent === text) return;
    said.textContent = text;
    clearTimeout(timer);
    if (!first) timer = setTimeout(() => (live.textContent = text), REST);
    first = false;
  }
  return { root, stage, controls, say };
}

/** The losses of a figure, each with its line. */
export const legend = (entries) =>
  h(
    "ul",
    { class: "key" },
    entries.map(({ colour, label }) => h("li", {}, h("span", { class: `line ${colour}` }), label)),
  );

/** Moves a number to another in a moment, or at once where less motion is asked for; returns a function that stops it. */
export function glide(from, to, on) {
  if (calm() || !(Math.abs(to - from) > 0)) {
    on(to);
    return () => {};
  }
  const [start, length] = [performance.now(), 650];
  let frame = requestAnimationFrame(function tick(now) {
    const t = Math.min((now - start) / length, 1);
    on(t === 1 ? to : from + (to - from) * (1 - (1 - t) ** 4));
    if (t < 1) frame = requestAnimationFrame(tick);
  });
  return () => cancelAnimationFrame(frame);
}

/** Does something once, when an element is first seen. */
export function whenSeen(element, act) {
  const seen = new IntersectionObserver(
    ([{ isIntersecting }]) => {
      if (!isIntersecting) return;
      seen.disconnect();
      act();
    },
    { threshold: 0.3 },
  );
  seen.observe(element);
}

/** The colour of each loss, the same in all figures. */
export const COLOURS = {
  mse_loss: "c0",
  huber_loss: "c1",
  l1_loss: "c2",
  cauchy_loss: "c3",
  welsch_loss: "c3",
  geman_mcclure_loss: "c4",
  pinball_loss: "c4",
  binary_cross_entropy_with_logits: "c1",
  cross_entropy: "c1",
  hinge_loss: "c2",
  squared_hinge_loss: "c4",
  soft_margin_loss: "c0",
  multi_margin_loss: "c3",
};
