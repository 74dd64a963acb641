/** Elements in few words. */

/** An element: attributes, on* listeners and `value`-like properties; children are nodes, texts, or nothing. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (["value", "checked", "open", "hidden", "selected", "innerHTML"].includes(name)) element[name] = value;
    else if (value !== false && value !== null && value !== undefined)
      element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child || child === 0));
  return element;
}

/** Makes children anew where their keys changed; entries are pairs of a key and a function that makes the child. */
export function patch(element, entries) {
  const old = [...element.children];
  for (const child of old.slice(entries.length)) child.remove();
  entries.forEach(([key, make], i) => {
    if (old[i]?.dataset.key === key) return;
    const child = make();
    child.dataset.key = key;
    if (old[i]) old[i].replaceWith(child);
    else element.append(child);
  });
}

/** Replaces what is in an element. */
export const replace = (element, ...children) => element.replaceChildren(...children.filter(Boolean));
