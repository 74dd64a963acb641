/** The controls of the settings: a list of words is a select, a number a slider with a field. */

import { h } from "../dom.js";
import { show } from "../formulas.js";

/** The position of a slider, 0 to 1000, of a number, and back. */
const scales = (low, high, logarithmic) => {
  const [a, b] = logarithmic ? [Math.log(low), Math.log(high)] : [low, high];
  return {
    place: (x) => Math.round((1000 * ((logarithmic ? Math.log(x) : x) - a)) / (b - a)),
    at: (place) => {
      const x = a + ((b - a) * place) / 1000;
      return logarithmic ? Math.exp(x) : x;
    },
  };
};

/** A number of a slider as people would type it. */
const tidy = ({ whole, logarithmic }, x) => (whole ? Math.round(x) : Number(x.toPrecision(logarithmic ? 2 : 3)));

/** A slider alone that is told its number, and tells. */
export function bindSlider(input, setting, on) {
  const { place, at } = scales(setting.low, setting.high, setting.logarithmic);
  Object.assign(input, { min: 0, max: 1000, step: setting.logarithmic ? 10 : 1 });
  input.addEventListener("input", () => on(tidy(setting, at(Number(input.value)))));
  return (x) => (input.value = place(x));
}

/** The rows of a form; on.change(name, value), on.problem(name, text). */
export const rows = (settings, values, on) =>
  Object.entries(settings).map(([name, setting]) => row(name, setting, values[name], on));

function row(name, setting, value, on) {
  const id = `play-${name}`;
  const label = h("label", { for: id }, setting.label);
  if (setting.words) {
    const options = Object.entries(setting.words).map(([word, text]) =>
      h("option", { value: word, selected: word === value }, text),
    );
    return h(
      "div",
      { class: "given" },
      label,
      h("select", { id, onchange: (e) => on.change(name, e.target.value) }, options),
    );
  }
  const slider = h("input", { type: "range", "aria-label": `${setting.label}, slider` });
  let last = value;
  const take = (x) => {
    last = x;
    field.setAttribute("aria-invalid", "false");
    on.problem(name, "");
    on.change(name, x);
  };
  const set = bindSlider(slider, setting, (x) => take((field.value = x)));
  const field = h("input", {
    type: "number",
    id,
    step: "any",
    value,
    oninput: () => {
      const x = field.valueAsNumber;
      const { low, high, whole } = setting;
      if (x >= low && x <= high && !(whole && x !== Math.round(x))) {
        set(x);
        take(x);
        return;
      }
      field.setAttribute("aria-invalid", "true");
      const kind = whole ? "a whole number from" : "from";
      const got = Number.isNaN(x) ? "no number" : x;
      const said = `${setting.label} must be ${kind} ${show(low)} to ${show(high)}, got ${got}`;
      on.problem(name, `${said}; ${show(last)} is kept.`);
    },
    onchange: () => {
      if (field.getAttribute("aria-invalid") !== "true") return;
      field.value = last;
      field.setAttribute("aria-invalid", "false");
    },
  });
  set(value);
  return h("div", { class: "given" }, label, slider, field);
}
