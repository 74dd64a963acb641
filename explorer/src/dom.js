/** Elements in few words. */

/** An element: attributes, on* listeners and `value`-like properties; children are nodes, texts, or nothing. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (["value", "checked", "open", "hidden", "selected", "innerHTML"].includes(name)) element[name] = value;
    else if (value !== false && value !== null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false && child !== ""));
  return element;
}

/** Replaces what is in an element. */
export const replace = (element, ...children) => element.replaceChildren(...children.filter(Boolean));
