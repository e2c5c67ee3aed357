/**
 * The last `capacity` items.
 *
 * @template T
 */
export class Ring {
  /** @type {T[]} */
  #items = [];
  #start = 0;

  /** @param {number} capacity */
  constructor(capacity) {
    this.capacity = capacity;
  }

  get length() {
    return this.#items.length;
  }

  /**
   * Add an item; returns the oldest one if it was removed to make room.
   *
   * @param {T} item
   * @returns {T | undefined}
   */
  push(item) {
    if (this.#items.length < this.capacity) {
      this.#items.push(item);
      return undefined;
    }
    const oldest = this.#items[this.#start];
    this.#items[this.#start] = item;
    this.#start = (this.#start + 1) % this.capacity;
    return oldest;
  }

  /**
   * From the newest to the oldest.
   *
   * @returns {Generator<T, void>}
   */
  *[Symbol.iterator]() {
    const { length } = this.#items;
    for (let index = length - 1; index >= 0; index--) {
      yield/** @type {T} */ (this.#items[(this.#start + index) % length]);
    }
  }
}
