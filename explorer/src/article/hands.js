/** What a reader takes hold of: handles in a chart, sliders, choices, buttons; all of them with the keyboard, too. */

import { h } from "../dom.js";
import { s } from "./svg.js";

const SHAPES = {
  dot: "M-8 0A8 8 0 1 1 8 0A8 8 0 1 1 -8 0Z",
  square: "M-7-7H7V7H-7Z",
  knob: "M0-13L9-3V11H-9V-3Z",
};

/**
 * A handle of a chart, which is drawn by `place(x, y)` on the screen.
 *
 * name(): what it is; says(): where it is, in words; at(): its numbers [x, y], of which one may be left out; limits: of
 * each, null where it does not move that way; move(x, y); on.release(), on.remove() where they make sense.
 */
export function handle(chart, { look = "dot", name, says, at, limits, move, release, remove }) {
  const [acrossLimits, upLimits] = limits;
  const only = upLimits ? (acrossLimits ? null : "vertical") : "horizontal";
  const root = s(
    "g",
    { class: `handle ${look}`, tabindex: 0, role: "slider", "aria-orientation": only },
    s("circle", { class: "reach", r: 22 }),
    s("circle", { class: "halo", r: 15 }),
    s("path", { class: "body", d: SHAPES[look] }),
    look === "knob" && s("path", { class: "grip", d: "M-3 0V7M3 0V7" }),
  );
  chart.front.append(root);
  const clamp = (v, range) => Math.min(Math.max(v, range[0]), range[1]);
  const to = (x, y) =>
    move(acrossLimits ? clamp(x, acrossLimits) : undefined, upLimits ? clamp(y, upLimits) : undefined);
  let grip = null;
  const place = (e) => {
    const box = chart.svg.getBoundingClientRect();
    return [e.clientX - box.left, e.clientY - box.top];
  };
  root.addEventListener("pointerdown", (e) => {
    if (e.button !== 0) return;
    e.preventDefault();
    root.focus({ preventScroll: true });
    root.setPointerCapture(e.pointerId);
    root.classList.add("held");
    const [px, py] = place(e);
    const [x, y] = at();
    grip = [px - (acrossLimits ? chart.x(x) : px), py - (upLimits ? chart.y(y) : py)];
  });
  root.addEventListener("pointermove", (e) => {
    if (!grip) return;
    const [px, py] = place(e);
    to(chart.fromX(px - grip[0]), upLimits ? chart.fromY(py - grip[1]) : undefined);
  });
  const drop = () => {
    if (!grip) return;
    grip = null;
    root.classList.remove("held");
    release?.();
  };
  root.addEventListener("pointerup", drop);
  root.addEventListener("pointercancel", drop);
  root.addEventListener("dblclick", () => remove?.());
  root.addEventListener("keydown", (e) => {
    const [x, y] = at();
    const step = (range) => ((range[1] - range[0]) / 100) * (e.shiftKey ? 10 : 1);
    const sign = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[e.key];
    const upward = upLimits && (!acrossLimits || /Up|Down/.test(e.key));
    if (sign && upward) to(x, y + sign * step(upLimits));
    else if (sign) to(x + sign * step(acrossLimits), y);
    else if (e.key === "Home" || e.key === "End") {
      const end = e.key === "Home" ? 0 : 1;
      if (only === "vertical") to(x, upLimits[end]);
      else to(acrossLimits[end], y);
    } else if ((e.key === "Delete" || e.key === "Backspace") && remove) remove();
    else if ((e.key === "Enter" || e.key === " ") && release) release();
    else return;
    e.preventDefault();
  });
  return {
    root,
    remove: () => root.remove(),
    place(px, py, colour = "") {
      root.setAttribute("transform", `translate(${px.toFixed(2)} ${py.toFixed(2)})`);
      root.setAttribute("class", `handle ${look} ${colour} ${grip ? "held" : ""}`);
      const [x, y] = at();
      const [value, range] = only === "vertical" ? [y, upLimits] : [x, acrossLimits];
      root.setAttribute("aria-label", name());
      root.setAttribute("aria-valuemin", range[0]);
      root.setAttribute("aria-valuemax", range[1]);
      root.setAttribute("aria-valuenow", value);
      root.setAttribute("aria-valuetext", says());
    },
  };
}

let sliders = 0;

/** A slider with its value beside it; of(position) is the number at a position, where the slider is not even. */
export function slider(parent, { label, min, max, step, value, says, on, of = (v) => v, position = (v) => v, title }) {
  const id = `slider-${++sliders}`;
  const output = h("output", { for: id }, says(value));
  const input = h("input", {
    id,
    type: "range",
    min: position(min),
    max: position(max),
    step,
    "aria-valuetext": says(value),
    oninput: () => take(of(Number(input.value))),
  });
  const take = (v) => {
    output.textContent = says(v);
    input.setAttribute("aria-valuetext", says(v));
    on(v);
  };
  input.value = position(value);
  const root = h("div", { class: "slider", title }, h("label", { for: id }, label), input, output);
  parent.append(root);
  return { root, input };
}

/** Sliders of factors: as far from 1 to 2 as from 2 to 4. */
export const byFactors = { of: (v) => 10 ** v, position: Math.log10 };

let groups = 0;

/** One of several, as radio buttons; options are { value, label, colour, title }. */
export function choice(parent, { label, options, value, on }) {
  const group = `choice-${++groups}`;
  const root = h(
    "fieldset",
    { class: "choice" },
    h("legend", {}, label),
    options.map((option) =>
      h(
        "label",
        { class: option.colour ?? "", title: option.title },
        h("input", {
          type: "radio",
          name: group,
          value: option.value,
          checked: option.value === value,
          onchange: () => on(option.value),
        }),
        h("span", {}, option.label),
      ),
    ),
  );
  parent.append(root);
  return root;
}

export function button(parent, text, on) {
  const root = h("button", { type: "button", onclick: on }, text);
  parent.append(root);
  return root;
}
