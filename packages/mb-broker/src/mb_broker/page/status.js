// The state of the connection, and the current figures.

import { find, setText } from "./dom.js";
import { formatAge, formatBytes, formatCount, formatDuration } from "./text.js";

/** @type {Record<string, string>} */
const TITLES = {
  connecting: "MB broker (not connected)",
  waiting: "MB broker (not connected)",
  stopped: "MB broker (not signed in)",
};

/** The state of the connection, in the head of the page and in its title. */
export class ConnectionView {
  #client;
  #wasConnected = false;

  /** @param {import("./client.js").Client} client */
  constructor(client) {
    this.#client = client;
    find("retry").onclick = () => client.retryNow();
  }

  draw() {
    const { state, reason, retryAt } = this.#client;
    this.#wasConnected ||= state === "connected";
    find("state").dataset.state = state;
    find("retry").hidden = state !== "waiting";
    setText(find("status"), this.#words(state, reason));
    const seconds = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
    setText(find("countdown"), state === "waiting" ? `next attempt in ${seconds} s` : "");
    document.title = TITLES[state] ?? `MB broker at ${location.host}`;
  }

  /**
   * The same words for every attempt, because screen readers read them out when they change.
   *
   * @param {string} state
   * @param {string} reason
   */
  #words(state, reason) {
    if (state === "connected") return `Connected to ${location.host}`;
    if (state === "stopped") return `Not signed in to ${location.host}`;
    if (!reason) return `Connecting to ${location.host}…`;
    return this.#wasConnected ? "Connection lost: reconnecting…" : "Not connected: retrying…";
  }
}

/** The current figures. */
export class FiguresView {
  /** @param {import("./model.js").Model} model */
  draw({ directory, samples, metrics, denied }) {
    const values = samples.latest?.values;
    const rate = values?.message ?? null;
    const topics = new Set(directory.topics.map(({ topic }) => topic));
    /**
     * @param {import("./model.js").Part} part
     * @param {number} count
     */
    const countOf = (part, count) => (denied.has(part) ? "–" : formatCount(count));
    setText(find("tile-services"), countOf("services", directory.services.length));
    setText(find("tile-topics"), countOf("topics", topics.size));
    setText(find("tile-messages"), rate === null ? "–" : `${formatCount(rate)}/s`);
    setText(find("tile-latency"), formatDuration(values?.average));
    const uptime = metrics["process.uptime"];
    setText(find("tile-uptime"), uptime === undefined ? "–" : formatAge(uptime * 1000));
    setText(find("tile-memory"), formatBytes(metrics["process.memory.bytes"]));
  }
}
