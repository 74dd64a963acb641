/**
 * What the rows of a file must say for a loss: its roles, and which columns seem to be them.
 *
 * 1. A role is an operand of the loss; several losses share it where it means the same: one select serves them all.
 * 2. A column is guessed by its name only, and only by names that mean the role: "prediction" is no score, and "x1, x2"
 *    are no scores of classes. What is not guessed must be chosen. Whether the numbers fit is checked when they are read.
 * 3. A chosen column is its number in the file, several are a list; "page" takes the value that the page has.
 */

import { givenOf, KINDS } from "./formulas.js";

/** The role is not in the file: the page's value stands in. */
export const PAGE = "page";

/** Names of columns, without signs between words, that mean a kind of variable or an operand. */
const NAMES = {
  prediction: "prediction predictions pred predicted ypred yhat output estimate forecast",
  logit: "logit score rawscore z",
  probability: "probability prob proba p",
  log_probability: "logprobability logprob logp",
  distance: "distance dist",
  cosine: "cosine cosinesimilarity cos",
  target: "target truth ytrue y label actual observed",
  class: "label target class truth ytrue y actual",
  var: "var variance",
};
const STEMS = {
  logit: "score logit output z classscore p prob proba probability",
  log_probability: "logprobability logprob logp lp",
};

const plain = (name) => name.toLowerCase().replace(/[^a-z0-9]/g, "");
const words = (key) => (NAMES[key] ?? "").split(" ").filter(Boolean);

/** The roles of a chosen loss: { key, name, says, kind, many, domain, value }. */
export function rolesOf(card, chosen) {
  const { kind, variable, label } = card.curve;
  if (card.rows) {
    const { scores, several } = card.rows;
    return [
      { key: `${scores} of classes`, name: scores, says: "one column for each class", kind, many: true },
      several
        ? { key: "classes", name: "classes", says: "the right ones, as in 0|2", kind: "class", several }
        : { key: "class", name: "class", says: "the right one: its number or its column", kind: "class" },
    ];
  }
  const whole = card.operands.includes(variable);
  const operands = givenOf(card, chosen).filter((g) => !card.parameters.includes(g.name));
  const tensors = card.operands.filter((name) => !operands.some((g) => g.name === name));
  const instead = `${label}, since a line cannot hold ${tensors.join(", ")}`;
  return [
    { key: `${variable} ${kind}`, name: variable, says: whole ? KINDS[kind].label : instead, kind },
    ...operands.map((g) => ({
      key: g.choices.length ? `${g.name} ${g.choices}` : g.name,
      name: g.name,
      says: g.choices.length ? g.choices.join(" or ") : g.label.replace(/\.$/, ""),
      kind: g.name,
      value: g.value,
    })),
  ];
}

/** The roles of several losses, each once, with the titles of the losses that it serves. */
export function rolesOfAll(pairs) {
  const roles = new Map();
  for (const [card, chosen] of pairs) {
    for (const role of rolesOf(card, chosen)) {
      const known = roles.get(role.key) ?? { ...role, losses: new Set() };
      known.losses.add(card.title);
      roles.set(role.key, known);
    }
  }
  return [...roles.values()];
}

/** The column that seems to be a role, the columns if there are many, or null. */
export function guess(role, names) {
  if (role.many) return guessMany(STEMS[role.kind]?.split(" ") ?? [], names);
  const wanted = [plain(role.name), ...words(role.kind)];
  const simple = names.map(plain);
  const at = wanted.map((name) => simple.indexOf(name)).find((found) => found >= 0);
  return at ?? null;
}

/** Two columns or more with a common stem that means scores, as in score0, score1 or logit_cat, logit_dog. */
function guessMany(stems, names) {
  for (const stem of stems) {
    const at = names.map((_, i) => i).filter((i) => stemOf(names[i]) === stem || stemOf(names[i]) === `${stem}s`);
    if (at.length > 1) return at;
  }
  return null;
}

function stemOf(name) {
  const parts = name.match(/^(.*?)[\s_.-]*\d+$/) ?? name.match(/^(.+)[\s_.-]+[^\s_.-]+$/);
  return parts ? plain(parts[1]) : null;
}

/** What classes are called: what follows the common stem of their columns, or else the whole names. */
export function classNames(names) {
  const cut = (pattern) => {
    const parts = names.map((name) => name.match(pattern));
    return parts.every((found) => found && found[1] === parts[0]?.[1]) ? parts.map((found) => found[2]) : null;
  };
  return cut(/^(\D*?)[\s_.-]*(\d+)$/) ?? cut(/^(.*?)[\s_.-]+(.+)$/) ?? names;
}
