// Everything that the views draw, in bounded memory.

import { Ring } from "./ring.js";
import { Trace } from "./trace.js";

/**
 * @typedef {Record<string, number | null>} Values by name; null if nothing was measured
 *
 * @typedef {object} Sample
 * @property {number} time in milliseconds
 * @property {Values} values
 *
 * @typedef {object} Service
 * @property {string} id
 * @property {string} name
 * @property {string} description
 * @property {string} connectedAt
 * @property {string} lastHeartbeat
 * @property {string | null} [user] missing if the broker has no users, null for an anonymous client
 *
 * @typedef {object} Subscription
 * @property {string} topic
 * @property {string} action
 * @property {{serviceId: string, priority?: number}[]} subscribers
 *
 * @typedef {"metrics" | "services" | "topics" | "message"} Part of what the broker knows, as roles
 *   name it
 */

const HOUR = 3600; // seconds of samples that are kept

/** Measurements, one sample per second. */
export class Samples {
  /** @type {Ring<Sample>} */
  #ring = new Ring(HOUR);

  /**
   * @param {number} time in milliseconds
   * @param {Values} values
   */
  add(time, values) {
    this.#ring.push({ time, values });
  }

  /** @returns {Sample | undefined} */
  get latest() {
    return this.#ring[Symbol.iterator]().next().value ?? undefined;
  }

  /**
   * The samples since `from`, oldest first; the highest values of each `step` milliseconds.
   *
   * @param {number} from
   * @param {number} step
   */
  since(from, step) {
    /** @type {Sample[]} */
    const points = [];
    for (const sample of this.#ring) {
      if (sample.time < from) break;
      const time = step > 1000 ? Math.floor(sample.time / step) * step : sample.time;
      const point = points.at(-1);
      if (point?.time === time) raise(point.values, sample.values);
      else points.push({ time, values: { ...sample.values } });
    }
    return points.reverse();
  }
}

/**
 * Replace each of `values` by the one of `others` if that is higher.
 *
 * @param {Values} values
 * @param {Values} others
 */
function raise(values, others) {
  for (const [name, value] of Object.entries(others)) {
    const known = values[name] ?? null;
    if (known === null || (value ?? 0) > known) values[name] = value;
  }
}

/** The latencies since the last call of take(), in milliseconds. */
export class Latencies {
  #count = 0;
  #sum = 0;
  #slowest = 0;

  /** @param {number} latency */
  add(latency) {
    this.#count += 1;
    this.#sum += latency;
    this.#slowest = Math.max(this.#slowest, latency);
  }

  take() {
    const taken = this.#count
      ? { average: this.#sum / this.#count, slowest: this.#slowest }
      : { average: null, slowest: null };
    this.#count = this.#sum = this.#slowest = 0;
    return taken;
  }
}

/** The connected services and their subscriptions. */
export class Directory {
  /** @type {Service[]} */
  services = [];
  /** @type {Subscription[]} */
  topics = [];
  /**
   * This page's id.
   *
   * @type {string | null}
   */
  own = null;
  /** Milliseconds by which the broker's clock is ahead of ours. */
  clockAhead = 0;
  /** @type {Map<string, string>} */
  #names = new Map();

  /**
   * Set the services; returns the one that is this page, if it is among them.
   *
   * @param {Service[]} services
   * @param {string} ownName the name by which this page is registered
   */
  setServices(services, ownName) {
    this.services = services;
    this.#names = new Map(services.map(({ id, name }) => [id, name]));
    const me = services.find(({ name }) => name === ownName);
    if (me === undefined) return undefined;
    this.own = me.id;
    // The request that these services answer is the last message the broker received from us.
    this.clockAhead = Date.parse(me.lastHeartbeat) - Date.now();
    return me;
  }

  /**
   * A service's name, or the beginning of its id.
   *
   * @param {string} id
   */
  nameOf(id) {
    if (id === this.own) return "this page";
    return this.#names.get(id) || String(id).slice(0, 8);
  }

  /**
   * Milliseconds since a time by the broker's clock.
   *
   * @param {string} timestamp
   */
  age(timestamp) {
    return Date.now() + this.clockAhead - Date.parse(timestamp);
  }
}

export class Model {
  /**
   * The broker's metrics, by name.
   *
   * @type {Record<string, number | undefined>}
   */
  metrics = {};
  notice = "";
  following = true;
  /**
   * What this page may not see.
   *
   * @type {Set<Part>}
   */
  denied = new Set();
  directory = new Directory();
  samples = new Samples();
  latencies = new Latencies();
  trace = new Trace((latency) => this.latencies.add(latency));
}
