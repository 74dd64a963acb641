/** The choice of columns: a select for each role, checkboxes where a role takes several. */

import { h } from "./dom.js";
import { show } from "./formulas.js";
import { PAGE } from "./roles.js";

/** The control of a role; column: what is chosen (see roles.js); on(column) is told what somebody chooses. */
export function roleControl(role, column, names, on) {
  return role.many ? boxes(role, column ?? [], names, on) : select(role, column, names, on);
}

const about = ({ says, losses }) => h("small", {}, `${says}; ${[...losses].join(", ")}`);

function select(role, column, names, on) {
  const option = (value, text) => h("option", { value, selected: value === (column ?? "") }, text);
  const read = (value) => (value === "" ? null : value === PAGE ? PAGE : Number(value));
  const page = role.value !== undefined && option(PAGE, `not in the file: ${show(role.value)} for every row`);
  const id = `role-${role.key.replace(/\W+/g, "-")}`;
  return h(
    "div",
    { class: "role" },
    h("label", { for: id }, role.name, about(role)),
    h(
      "select",
      { id, onchange: (e) => on(read(e.target.value)), "data-role": role.key },
      option("", "choose a column"),
      names.map((name, i) => option(i, name)),
      page,
    ),
  );
}

function boxes(role, chosen, names, on) {
  const root = h(
    "fieldset",
    { class: "role", "data-role": role.key },
    h("legend", {}, role.name, about(role)),
    h(
      "div",
      { class: "several" },
      names.map((name, i) =>
        h("label", {}, h("input", { type: "checkbox", value: i, checked: chosen.includes(i) }), ` ${name}`),
      ),
    ),
  );
  root.addEventListener("change", () =>
    on([...root.querySelectorAll("input:checked")].map((input) => Number(input.value))),
  );
  return root;
}
