// Makes elements. Text is always text: names and reasons may be a tenant's.

const SVG = "http://www.w3.org/2000/svg";

/** Controls, bidirectional overrides and other characters that show nothing. */
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cs}]/gu;

/** A text from a daemon with what can't be printed replaced. */
export const printable = (text) => String(text).replace(UNPRINTABLE, "\ufffd");

/**
 * An element.
 * @param {string} tag
 * @param {object} attributes `on` holds listeners; false, null and undefined leave one out
 * @param {...(Node|string|null)} children
 */
export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** An element of SVG. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, { on = {}, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== null && value !== undefined) {
      node.setAttribute(name, value === true ? "" : value);
    }
  }
  for (const [name, listener] of Object.entries(on)) node.addEventListener(name, listener);
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** Sets a text only where it differs: an equal one would be painted and announced again. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Puts these children into a node in this order and moves only those that stand elsewhere. */
export function arrange(parent, children) {
  let next = parent.firstChild;
  for (const child of children) {
    if (child === next) next = next.nextSibling;
    else parent.insertBefore(child, next);
  }
  while (next) {
    const gone = next;
    next = next.nextSibling;
    gone.remove();
  }
}

/** The mark of a state: told apart by its shape, its colour and the word beside it. */
export const shape = (kind) => element("span", { class: "shape", "data-kind": kind, "aria-hidden": "true" });

export const byId = (id) => document.getElementById(id);
