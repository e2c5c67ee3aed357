// The charts of rates and latencies.

import { find, make, setText } from "./dom.js";
import { formatAge, formatCount, formatDuration } from "./text.js";

/**
 * @typedef {import("./model.js").Sample} Sample
 * @typedef {Sample & {x: number}} Point
 * @typedef {(value: number) => number} Scale
 */

const SVG = "http://www.w3.org/2000/svg";

/**
 * A new element of a drawing.
 *
 * @template {keyof SVGElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, string | number>} attributes
 * @param {string} [text]
 */
function draw(tag, attributes, text = "") {
  const node = document.createElementNS(SVG, tag);
  setAttributes(node, attributes);
  node.textContent = text;
  return node;
}

/**
 * @param {Element} node
 * @param {Record<string, string | number>} attributes
 */
function setAttributes(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
}

/**
 * The next round number that is not below `value`.
 *
 * @param {number} value
 */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  const steps = [1, 2, 3, 4, 6, 8, 10];
  return steps.map((step) => step * power).find((top) => top >= value) ?? value;
}

/** Lines over time, with a legend that has the latest values, or those under the pointer. */
class Chart {
  static #TOP = 8;
  static #BOTTOM = 18;
  #format;
  #svg = draw("svg", { role: "img" });
  #grid = draw("g", {});
  #cursor = draw("line", { class: "cursor", visibility: "hidden" });
  #lines;
  /** @type {Point[]} */
  #points = [];
  /** @type {number | null} */
  #pointer = null;

  /**
   * @param {HTMLElement} figure
   * @param {string} label
   * @param {Record<string, string>} names of values, each also a CSS class, with their labels
   * @param {(value: number) => string} format
   */
  constructor(figure, label, names, format) {
    this.#format = format;
    this.#svg.setAttribute("aria-label", label);
    this.#svg.append(this.#grid, this.#cursor);
    const legend = make("ul", "legend");
    this.#lines = Object.entries(names).map(([name, words]) => {
      const path = draw("path", { class: name });
      const value = make("b");
      this.#svg.append(path);
      legend.append(make("li", name, make("span", "", `${words} `, value)));
      return { name, path, value };
    });
    figure.append(this.#svg, legend);
    this.#svg.onpointermove = ({ offsetX }) => this.#point(offsetX);
    this.#svg.onpointerleave = () => this.#point(null);
  }

  /**
   * @param {Sample[]} samples
   * @param {number} from when the chart begins
   * @param {number} to when it ends
   * @param {number} gap milliseconds without a sample that interrupt a line
   */
  draw(samples, from, to, gap) {
    const width = this.#svg.clientWidth;
    const height = this.#svg.clientHeight - Chart.#BOTTOM;
    const highest = Math.max(
      ...samples.flatMap(({ values }) => this.#lines.map(({ name }) => values[name] ?? 0)),
      0,
    );
    const top = roundUp(highest);
    /** @type {Scale} */
    const y = (value) => height - (value / top) * (height - Chart.#TOP);
    this.#points = samples.map(({ time, values }) => ({
      time,
      values,
      x: ((time - from) / (to - from)) * width,
    }));
    this.#drawGrid(width, height, top, y, to - from);
    for (const { name, path } of this.#lines) path.setAttribute("d", this.#path(name, y, gap));
    setAttributes(this.#cursor, { y1: Chart.#TOP, y2: height });
    this.#drawLegend();
  }

  /**
   * A line that breaks where nothing was measured.
   *
   * @param {string} name
   * @param {Scale} y
   * @param {number} gap
   */
  #path(name, y, gap) {
    let d = "";
    let before = -Infinity;
    for (const { time, values, x } of this.#points) {
      const value = values[name] ?? null;
      if (value === null) continue;
      const place = `${x.toFixed(1)} ${y(value).toFixed(1)}`;
      // A single point is a line without length, which is not drawn: give it some length.
      d += time - before > gap ? `M${place}h.1` : `L${place}`;
      before = time;
    }
    return d;
  }

  /**
   * @param {number} width
   * @param {number} height
   * @param {number} top the highest value
   * @param {Scale} y
   * @param {number} span in milliseconds
   */
  #drawGrid(width, height, top, y, span) {
    const nodes = [0, top / 2, top].flatMap((value) => [
      draw("line", { x1: 0, x2: width, y1: y(value), y2: y(value) }),
      draw("text", { x: 2, y: y(value) - 3 }, value ? this.#format(value) : ""),
    ]);
    const foot = height + 14;
    nodes.push(
      draw("text", { x: 0, y: foot }, `${formatAge(span)} ago`),
      draw(
        "text",
        { x: width / 2, y: foot, "text-anchor": "middle" },
        `${formatAge(span / 2)} ago`,
      ),
      draw("text", { x: width, y: foot, "text-anchor": "end" }, "now"),
    );
    this.#grid.replaceChildren(...nodes);
  }

  /** @param {number | null} x where the pointer is, null if it is elsewhere */
  #point(x) {
    this.#pointer = x;
    this.#drawLegend();
  }

  #drawLegend() {
    const pointed = this.#pointer === null ? undefined : this.#nearest(this.#pointer);
    const point = this.#pointer === null ? this.#points.at(-1) : pointed;
    for (const { name, value } of this.#lines) {
      const known = point?.values[name] ?? null;
      setText(value, known === null ? "–" : this.#format(known));
    }
    setAttributes(this.#cursor, { visibility: pointed ? "visible" : "hidden" });
    if (pointed) setAttributes(this.#cursor, { x1: pointed.x, x2: pointed.x });
  }

  /**
   * @param {number} x
   * @returns {Point | undefined}
   */
  #nearest(x) {
    const [first, ...others] = this.#points;
    return others.reduce(
      (best, point) => (best && Math.abs(point.x - x) < Math.abs(best.x - x) ? point : best),
      first,
    );
  }
}

/** The two charts, over a span that the user picks. */
export class ChartsView {
  #span = find("span", HTMLSelectElement);
  #rates = new Chart(
    find("rates"),
    "Messages, publications, requests and errors per second",
    {
      message: "messages",
      publish: "published",
      request: "requested",
      error: "errors",
    },
    formatCount,
  );
  #latency = new Chart(
    find("latency"),
    "Average and slowest latency of requests",
    { average: "average", slowest: "slowest" },
    formatDuration,
  );

  /** @param {() => void} changed is called when the user picks another span */
  constructor(changed) {
    this.#span.onchange = changed;
  }

  /** @param {import("./model.js").Model} model */
  draw({ samples }) {
    const span = Number(this.#span.value) * 1000;
    const step = span / 360;
    const to = Date.now();
    const points = samples.since(to - span, step);
    const gap = Math.max(step, 1000) * 3.5;
    this.#rates.draw(points, to - span, to, gap);
    // Isolated measurements are drawn as points; only adjacent ones are joined.
    this.#latency.draw(points, to - span, to, gap);
  }
}
