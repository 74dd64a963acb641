/** The list of losses to choose from, the panel of each chosen one, and what is said about it. */

import { h } from "./dom.js";
import { givenOf, show, variantOf } from "./formulas.js";
import { swatch } from "./plot.js";

/** Checkboxes by task; on(card, checked). */
export function choices(cards, on) {
  const tasks = [...new Set(cards.map((card) => card.task))];
  return tasks.map((task) =>
    h(
      "fieldset",
      {},
      h("legend", {}, task),
      cards
        .filter((card) => card.task === task)
        .map((card) =>
          h(
            "label",
            { title: card.summary, "data-name": card.name },
            h("input", { type: "checkbox", value: card.name, onchange: (e) => on(card, e.target.checked) }),
            h("span", {}, card.title),
          ),
        ),
    ),
  );
}

/**
 * Where the slider of something given ends, and what may be typed. Only the ends of the slider are known: from 0 on
 * and up to 1 they are limits of the loss, beyond that a view of what is unlimited. An end just above 0 means positive.
 */
function bounds(g) {
  const step = g.high - g.low > 3 ? 0.05 : 0.01;
  const least = g.low < 0 ? -Infinity : g.low > 0 ? Number.MIN_VALUE : 0;
  const low = Math.floor(Math.min(g.low, g.value) / step) * step;
  const most = g.high <= 1 ? g.high : Infinity;
  const from = g.low < 0 ? "a number" : g.low > 0 ? "above 0" : "at least 0";
  const allowed = most < Infinity ? `${from} and at most ${most}` : from;
  return { low, high: Math.max(g.high, g.value), step, least, most, allowed };
}

/**
 * The panel of a chosen loss. on.change(): a number moved; on.rebuild(): a switch; on.copy(), on.remove().
 */
export function panel(card, chosen, open, on) {
  const rows = givenOf(card, chosen).map((g) => control(card, chosen, g, on));
  const switches = card.switches.map((s) =>
    h(
      "label",
      { class: "switch", title: s.label },
      h("input", {
        type: "checkbox",
        checked: chosen.switches[s.name] ?? s.value,
        onchange: (e) => {
          if (e.target.checked === s.value) delete chosen.switches[s.name];
          else chosen.switches[s.name] = e.target.checked;
          on.rebuild(s.name);
        },
        "data-switch": s.name,
      }),
      ` ${s.name}`,
    ),
  );
  return h(
    "details",
    { class: "panel", open, "data-name": card.name },
    h("summary", {}, swatch(chosen.slot), card.title),
    rows,
    switches.length > 0 && h("div", { class: "switches" }, switches),
    h(
      "div",
      { class: "buttons" },
      h(
        "button",
        { type: "button", class: "quiet", onclick: on.copy, "aria-label": `Add ${card.title} once more` },
        "Add once more",
      ),
      h(
        "button",
        { type: "button", class: "quiet", onclick: on.remove, "aria-label": `Remove ${card.title}` },
        "Remove",
      ),
    ),
  );
}

/** A number for a narrow field. */
const typed = (x) => (x !== 0 && Math.abs(x) < 1e-3 ? x.toExponential() : x);

function control(card, chosen, g, on) {
  const set = (x) => {
    if (x === g.fallback) delete chosen.given[g.name];
    else chosen.given[g.name] = x;
    on.change();
  };
  g.fallback = card.curve.given.find((known) => known.name === g.name).value;
  const id = `${chosen.slot}-${g.name}`;
  const label = h("label", { for: id, title: g.label }, g.name);
  if (g.choices.length) {
    const options = g.choices.map((x) => h("option", { value: x, selected: x === g.value }, show(x)));
    return h(
      "div",
      { class: "given" },
      label,
      h("select", { id, onchange: (e) => set(Number(e.target.value)) }, options),
    );
  }
  const { low, high, step, least, most, allowed } = bounds(g);
  const number = h("input", {
    type: "number",
    id,
    step: "any",
    value: typed(g.value),
    onchange: (e) => e.target.reportValidity(),
    oninput: (e) => {
      const x = e.target.valueAsNumber;
      const fine = x >= least && x <= most;
      e.target.setAttribute("aria-invalid", String(!fine));
      e.target.setCustomValidity(fine ? "" : `${g.name} must be ${allowed}.`);
      if (!fine) return;
      slider.value = x;
      set(x);
    },
  });
  const slider = h("input", {
    type: "range",
    min: low,
    max: high,
    step,
    "aria-label": `${g.name} of ${card.title}`,
    oninput: (e) => {
      const x = Math.max(Number(e.target.value), Math.min(g.low, g.fallback));
      number.value = x;
      number.setAttribute("aria-invalid", "false");
      number.setCustomValidity("");
      set(x);
    },
  });
  slider.value = g.value;
  return h("div", { class: "given" }, label, slider, number);
}

/** What is said about a chosen loss. */
export function about(card, chosen) {
  const { switches } = variantOf(card, chosen.switches);
  const formula = card.formulas.find((f) => Object.entries(f.switches).every(([name, x]) => switches[name] === x));
  const drawn = formula?.gradients.filter((g) => g.name === card.curve.variable) ?? [];
  const gradients = drawn.length ? drawn : (formula?.gradients ?? []);
  const math = (mathml) => h("div", { class: "math", innerHTML: mathml });
  const term = (name, ...content) => [h("dt", {}, name), h("dd", {}, ...content)];
  return h(
    "article",
    { "data-name": card.name },
    h("h3", {}, card.title, h("code", {}, card.name)),
    h("p", { class: "summary" }, card.summary),
    formula && h("div", { class: "formula" }, math(formula.value)),
    card.symbols.length > 0 &&
      h(
        "p",
        { class: "symbols" },
        card.symbols.flatMap((s, i) => [i ? "; " : "", h("span", { innerHTML: s.mathml }), ` ${s.meaning}`]),
      ),
    h(
      "dl",
      {},
      term("Best for", card.bestFor),
      term("Not for", card.notFor),
      card.properties.length > 0 && term("Properties", card.properties.join(", ")),
      card.curve.given.length > 0 &&
        term(
          "Given",
          h(
            "ul",
            {},
            givenOf(card, chosen).map((g) => h("li", {}, h("code", {}, g.name), ` ${g.label}`)),
          ),
        ),
      gradients.map((g) => term(gradients.length > 1 ? `Gradient by ${g.name}` : "Gradient", math(g.mathml))),
      term("Source", card.reference),
    ),
  );
}
