/** The list of losses to choose from, the panel of each chosen one, and what is said about it. */

import { includes, must } from "./domains.js";
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

/** Where the slider of something given ends: what is worth looking at, its default, and no more than its domain. */
function ends({ low, high, value, domain }) {
  const step = high - low > 3 ? 0.05 : 0.01;
  const from = Math.floor(Math.min(low, value) / step) * step;
  const [least, most] = [domain?.low ?? -Infinity, domain?.high ?? Infinity];
  const to = Math.min(Math.max(high, value), most);
  return { min: Math.max(from, least), max: domain?.high_open && to === most ? to - step : to, step };
}

/**
 * The panel of a chosen loss with what is given of it. on.change(): a number moved; on.rebuild(): a switch; on.copy(),
 * on.remove(); on.problem(id, text): what is wrong in a field, or nothing. on.full, on.last: no
 * loss can be added, or removed; on.prefix: of ids, since the page has panels in two places.
 */
export function panel(card, chosen, open, on, given = givenOf(card, chosen)) {
  const rows = given.map((g) => control(card, chosen, g, on));
  const words = card.switches.filter((s) => s.words.length).map((s) => select(chosen, s, on));
  const switches = card.switches.filter((s) => !s.words.length).map((s) => box(chosen, s, on));
  return h(
    "details",
    { class: "panel", open, "data-name": card.name },
    h("summary", {}, swatch(chosen.slot), card.title),
    words,
    rows,
    switches.length > 0 && h("div", { class: "switches" }, switches),
    h(
      "div",
      { class: "buttons" },
      h(
        "button",
        {
          type: "button",
          class: "quiet",
          onclick: on.copy,
          disabled: on.full,
          "aria-label": `Add ${card.title} once more`,
        },
        "Add once more",
      ),
      h(
        "button",
        { type: "button", class: "quiet", onclick: on.remove, disabled: on.last, "aria-label": `Remove ${card.title}` },
        "Remove",
      ),
    ),
  );
}

function turn(chosen, { name, value }, to, on) {
  if (to === value) delete chosen.switches[name];
  else chosen.switches[name] = to;
  on.rebuild(name);
}

/** What is on or off, or there or not. */
const box = (chosen, s, on) =>
  h(
    "label",
    { class: "switch", title: s.label },
    h("input", {
      type: "checkbox",
      checked: chosen.switches[s.name] ?? s.value,
      onchange: (e) => turn(chosen, s, e.target.checked, on),
      "data-switch": s.name,
    }),
    ` ${s.name}`,
  );

/** One of several words. */
function select(chosen, s, on) {
  const id = `${on.prefix ?? ""}${chosen.slot}-${s.name}`;
  const value = chosen.switches[s.name] ?? s.value;
  const options = s.words.map((word) => h("option", { value: word, selected: word === value }, word));
  const onchange = (e) => turn(chosen, s, e.target.value, on);
  return h(
    "div",
    { class: "given" },
    h("label", { for: id, title: s.label }, s.name),
    h("select", { id, onchange, "data-switch": s.name }, options),
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
  const id = `${on.prefix ?? ""}${chosen.slot}-${g.name}`;
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
  let last = g.value;
  const take = (x) => {
    last = x;
    number.setAttribute("aria-invalid", "false");
    number.setCustomValidity("");
    on.problem(id, "");
    set(x);
  };
  const number = h("input", {
    type: "number",
    id,
    step: "any",
    value: typed(g.value),
    oninput: (e) => {
      const x = e.target.valueAsNumber;
      if (includes(g.domain, x)) {
        slider.value = x;
        take(x);
        return;
      }
      const wrong = must(g.name, g.domain, x);
      number.setAttribute("aria-invalid", "true");
      number.setCustomValidity(`${wrong}.`);
      on.problem(id, `${card.name}: ${wrong}; ${show(last)} is kept.`);
    },
    // Left with a number that the loss does not take, the field goes back to what is drawn; the sentence stays.
    onchange: () => {
      if (number.getAttribute("aria-invalid") !== "true") return;
      number.value = typed(last);
      number.setAttribute("aria-invalid", "false");
      number.setCustomValidity("");
    },
  });
  const slider = h("input", {
    type: "range",
    ...ends(g),
    "aria-label": `${g.name} of ${card.title}`,
    oninput: (e) => {
      // At its end the slider of what must be above a limit stands on that limit: the least known number is taken.
      const at = Number(e.target.value);
      const x = includes(g.domain, at) ? at : Math.min(g.low, g.fallback);
      number.value = typed(x);
      take(x);
    },
  });
  slider.value = g.value;
  return h("div", { class: "given" }, label, slider, number);
}

/** Words of a card, what stands between backticks as code. */
const prose = (text) => text.split("`").map((part, i) => (i % 2 ? h("code", {}, part) : part));

/** What is said about a chosen loss. */
export function about(card, chosen) {
  const { switches } = variantOf(card, chosen.switches);
  const formula = card.formulas.find((f) => Object.entries(f.switches).every(([name, x]) => switches[name] === x));
  const math = (mathml) => h("div", { class: "math", innerHTML: mathml });
  const term = (name, ...content) => [h("dt", {}, name), h("dd", {}, content)];
  return h(
    "article",
    { "data-name": card.name },
    h("h3", {}, card.title, h("code", {}, card.name)),
    h("p", { class: "summary" }, prose(card.summary)),
    formula?.equations.map(({ title, mathml }, i) =>
      h("div", { class: "formula" }, i > 0 && h("span", { class: "of" }, title), math(mathml)),
    ),
    card.symbols.length > 0 &&
      h(
        "p",
        { class: "symbols" },
        card.symbols.flatMap((s, i) => [i ? "; " : "", h("span", { innerHTML: s.mathml }), " ", prose(s.meaning)]),
      ),
    h(
      "dl",
      {},
      term("Best for", prose(card.bestFor)),
      term("Not for", prose(card.notFor)),
      card.properties.length > 0 && term("Properties", card.properties.join(", ")),
      card.curve.given.length > 0 &&
        term(
          "Given",
          h(
            "ul",
            {},
            givenOf(card, chosen).map((g) => h("li", {}, h("code", {}, g.name), " ", prose(g.label))),
          ),
        ),
      term("Source", card.reference),
    ),
  );
}
