// Elements of the page. Untrusted text is only ever inserted as text.

/**
 * The element of index.html with this id.
 *
 * @template {HTMLElement} [T=HTMLElement]
 * @param {string} id
 * @param {new () => T} [type] what kind of element it is
 * @returns {T}
 */
export function find(id, type) {
  const found = document.getElementById(id);
  if (!(found instanceof (type ?? HTMLElement))) {
    throw new TypeError(`index.html has no such element: ${id}`);
  }
  return /** @type {T} */ (found);
}

/**
 * A new element.
 *
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {string} [className]
 * @param {...(Node | string)} children
 */
export function make(tag, className = "", ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

/**
 * Write text only if it changed, because every write affects selections and screen readers.
 *
 * @param {Node} node
 * @param {string} text
 */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * What shows one item of a list.
 *
 * @template T
 * @typedef {{node: Element, draw: (item: T) => void}} Row
 */

/** @type {WeakMap<Element, Map<unknown, Row<any>>>} */
const rowsOf = new WeakMap();

/**
 * Draw each item in its own row, which is kept as long as its key exists, so focus stays in place.
 *
 * @template T
 * @param {Element} parent
 * @param {T[]} items
 * @param {(item: T) => unknown} keyOf
 * @param {(item: T) => Row<T>} makeRow
 */
export function drawRows(parent, items, keyOf, makeRow) {
  const old = rowsOf.get(parent) ?? new Map();
  const rows = new Map();
  for (const item of items) {
    const key = keyOf(item);
    const row = old.get(key) ?? makeRow(item);
    old.delete(key);
    rows.set(key, row);
    row.draw(item);
  }
  for (const { node } of old.values()) node.remove();
  let next = parent.firstElementChild;
  for (const { node } of rows.values()) {
    if (node === next) next = next?.nextElementSibling ?? null;
    else parent.insertBefore(node, next);
  }
  rowsOf.set(parent, rows);
}
