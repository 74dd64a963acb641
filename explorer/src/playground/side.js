/** What is beside the training: the panels of its losses, the choice of others, and the settings. */

import { choices, panel } from "../controls.js";
import { h, replace } from "../dom.js";
import { givenOf, settle, show } from "../formulas.js";
import { choose } from "../state.js";
import { bindSlider, rows } from "./form.js";
import { offered } from "./offers.js";
import { MODES, MOST_LOSSES, OF_DATA } from "./settings.js";

const $ = (id) => document.getElementById(id);
const narrow = matchMedia("(max-width: 60rem)");

/** Says what is wrong in a field, in place of what was said of it before. */
function problem(id, text) {
  for (const said of [...$("play-problems").children]) if (said.dataset.of === id) said.remove();
  if (text) $("play-problems").append(h("span", { "data-of": id }, text));
}

/**
 * on.restart(): what is trained has changed; on.reformed(): a parameter of a loss; on.later(): nothing but the link.
 * Its build(state) makes all controls anew.
 */
export function side(cards, on) {
  let state = null;

  function panels() {
    for (const [i, chosen] of state.losses.entries()) chosen.slot = i;
    replace($("play-panels"), ...state.losses.map(panelOf));
    const full = state.losses.length >= MOST_LOSSES;
    const more = full ? `${MOST_LOSSES} losses race, and no more can.` : `Up to ${MOST_LOSSES} losses race.`;
    $("play-most").textContent = more;
    for (const box of $("play-choices").querySelectorAll("input")) {
      const own = state.losses.filter((chosen) => chosen.name === box.value);
      box.checked = own.length > 0;
      box.disabled = box.checked ? own.length === state.losses.length : full;
    }
  }

  function changed(i) {
    panels();
    on.restart();
    $("play-panels").children[Math.min(i, state.losses.length - 1)].querySelector("summary").focus();
  }

  function panelOf(chosen, i) {
    const card = cards.find(({ name }) => name === chosen.name);
    const given = givenOf(card, chosen).filter((g) => card.parameters.includes(g.name));
    const told = {
      prefix: "play-",
      full: state.losses.length >= MOST_LOSSES,
      last: state.losses.length === 1,
      change: on.reformed,
      problem,
      rebuild: (name) => {
        const refused = settle(card, chosen).map((text) => `${text} now; its default is taken.`);
        problem(`play-${i}-switches`, refused.join(" "));
        changed(i);
        $("play-panels").children[i].querySelector(`[data-switch="${name}"]`)?.focus();
      },
      copy: () => {
        const again = { ...choose(card), given: { ...chosen.given }, switches: { ...chosen.switches } };
        state.losses.splice(i + 1, 0, again);
        changed(i + 1);
      },
      remove: () => {
        state.losses.splice(i, 1);
        changed(i);
      },
    };
    return panel(card, chosen, given.length > 0 && !narrow.matches, told, given);
  }

  function build(of) {
    state = of;
    const { settings, fits } = MODES[state.mode];
    const pick = (card, checked) => {
      state.losses = state.losses.filter((chosen) => chosen.name !== card.name);
      if (checked) state.losses.push(choose(card));
      panels();
      on.restart();
    };
    replace($("play-choices"), ...choices(offered(cards, fits), pick));
    const { speed, ...others } = settings;
    const change = (name, value) => {
      state.settings[name] = value;
      if (OF_DATA.includes(name)) state.points = null;
      on.restart();
    };
    const wrong = (name, text) => problem(`play-${name}`, text);
    replace($("play-settings"), ...rows(others, state.settings, { change, problem: wrong }));
    const fast = $("speed").cloneNode();
    $("speed").replaceWith(fast);
    const tell = (x) => ($("speed-said").textContent = `${show(x)} steps/s`);
    const set = bindSlider(fast, speed, (x) => {
      state.settings.speed = x;
      tell(x);
      on.later();
    });
    set(state.settings.speed);
    tell(state.settings.speed);
    panels();
  }

  return { build };
}
