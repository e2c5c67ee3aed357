// Polls the broker, follows its audit feed, and fills the model.

import { errorIn, Failure, isObject, isSystem, newId, parseJson } from "./protocol.js";
import { formatCount } from "./text.js";

/**
 * @typedef {import("./model.js").Model} Model
 * @typedef {import("./model.js").Part} Part
 * @typedef {Pick<import("./identity.js").Identity, "admitted" | "learn" | "refused" | "require">}
 *   Identity
 * @typedef {Pick<import("./client.js").Client, "state" | "request" | "drop">} Client
 */

const FEED = "system.message";
const SUBSCRIBE = "system.topic.subscribe";
const FEED_LIMIT = 3_000; // messages a second that a browser can take and still do other things
const FEED_PATIENCE = 2; // seconds above it
// Topics of the feed's messages that change the services or their subscriptions.
const CHANGES = /"system\.(authenticate|service\.register|topic\.(un)?subscribe)"/i;
/** @type {Record<Part, string>} */
const PARTS = {
  metrics: "its metrics",
  services: "its list of services",
  topics: "its list of topics",
  message: "the audit feed",
};

/**
 * Detects more than `limit` messages a second for `patience` seconds in a row.
 *
 * It does so while counting, because timers are late in a busy browser.
 */
export class Flood {
  /** Messages per second. */
  rate = 0;
  #since = 0;
  #counted = 0;
  #seconds = 0;

  /**
   * @param {number} limit
   * @param {number} patience
   */
  constructor(limit, patience) {
    this.limit = limit;
    this.patience = patience;
  }

  /**
   * Count a message; returns whether there are too many now.
   *
   * @param {number} now in milliseconds
   */
  count(now) {
    this.#counted += 1;
    const elapsed = now - this.#since;
    if (elapsed < 1000) return false;
    this.rate = (this.#counted / elapsed) * 1000;
    this.#seconds = this.rate > this.limit ? this.#seconds + 1 : 0;
    this.#since = now;
    this.#counted = 0;
    return this.#seconds >= this.patience;
  }
}

/** Polls the broker every second, and follows its feed. */
export class Monitor {
  #client;
  #model;
  #identity;
  #name = `Status page ${newId().slice(0, 8)}`;
  #seconds = 0;
  #asking = false;
  #directoryIsOld = false;
  /** @type {import("./model.js").Values | null} */
  #rates = null;
  #flood = new Flood(FEED_LIMIT, FEED_PATIENCE);

  /**
   * @param {Client} client
   * @param {Model} model
   * @param {Identity} identity
   */
  constructor(client, model, identity) {
    this.#client = client;
    this.#model = model;
    this.#identity = identity;
  }

  /** After every connect: register, read the directory, and follow the feed. */
  async connected() {
    this.#model.notice = "";
    this.#model.denied.clear();
    this.#model.directory.own = null;
    if (!(await this.#attempt("registration", () => this.#register()))) return;
    this.#identity.admitted();
    await this.#readDirectory(); // for our own id, before the feed brings our own messages
    if (this.#model.following) await this.#use("message", () => this.#subscribe());
  }

  disconnected() {
    this.#model.trace.interrupt();
    this.#model.metrics = {};
  }

  /** @param {{action: string, topic: string, payload: string}} message */
  received({ action, topic, payload }) {
    if (action === "response" && topic === SUBSCRIBE) this.#ended(payload);
    if (topic !== FEED || !this.#model.following) return;
    this.#findOwnId(payload);
    if (this.#isOwn(payload)) return;
    this.#model.trace.take(payload);
    if (CHANGES.test(payload)) this.#directoryIsOld = true;
    if (this.#flood.count(performance.now())) this.#giveUpFollowing();
  }

  /** @param {boolean} following */
  async follow(following) {
    const { trace } = this.#model;
    this.#model.following = following;
    this.#model.notice = "";
    if (!following) trace.interrupt();
    if (this.#client.state !== "connected") return;
    await this.#use("message", () => (following ? this.#subscribe() : this.#unsubscribe()));
  }

  /** Once a second. */
  async tick() {
    if (this.#client.state !== "connected" || this.#asking) return;
    this.#asking = true;
    this.#seconds += 1;
    const isDue = this.#directoryIsOld || this.#seconds % 3 === 0;
    try {
      await this.#use("metrics", () => this.#readMetrics());
      this.#sample();
      if (isDue) await this.#readDirectory();
    } finally {
      this.#asking = false;
    }
  }

  async #register() {
    const description = "The broker's own page, open in a browser";
    await this.#ask("system.service.register", { name: this.#name, description });
  }

  async #readMetrics() {
    const { metrics } = await this.#ask("system.metrics", {});
    this.#model.metrics = metrics;
    /** @param {string[]} names */
    const rate = (...names) =>
      names.reduce((sum, name) => sum + (metrics[`router.${name}`] ?? 0), 0);
    this.#rates = {
      message: rate("message.rate"),
      publish: rate("publish.rate"),
      request: rate("request.rate"),
      // Refused by the broker, answered with an error, or not answered.
      error: rate(
        "message.rate.error",
        "response.rate.error",
        "request.rate.timeout",
        "request.rate.dropped",
      ),
    };
  }

  /** Record what was measured in this second; of the rates and the latencies, one may be denied. */
  #sample() {
    const rates = this.#rates;
    this.#rates = null;
    if (rates === null && !this.#model.denied.has("metrics")) return;
    this.#model.samples.add(Date.now(), { ...rates, ...this.#model.latencies.take() });
  }

  async #readDirectory() {
    this.#directoryIsOld = false;
    const { directory } = this.#model;
    await this.#use("services", async () => {
      const { services } = await this.#ask("system.service.list", {});
      const me = directory.setServices(services, this.#name);
      if (me?.user) this.#identity.learn(me.user);
    });
    await this.#use("topics", async () => {
      const { subscriptions } = await this.#ask("system.topic.subscriptions", {});
      directory.topics = subscriptions;
    });
  }

  /** Stop following a feed that is too fast, before it keeps the browser busy. */
  #giveUpFollowing() {
    this.follow(false);
    this.#model.notice =
      `Follow was turned off: ${formatCount(this.#flood.rate)} messages a second are too many ` +
      "to show. Turn it on again when there are fewer.";
  }

  /**
   * Whether a message of the feed is about this page's own requests, which are not shown.
   *
   * @param {string} text
   */
  #isOwn(text) {
    const { own } = this.#model.directory;
    if (own === null || !text.includes(own)) return false;
    const entry = parseJson(text);
    return (
      (entry?.from === own || entry?.to === own) && isSystem(entry.message?.header?.topic ?? "")
    );
  }

  /**
   * Find this page's id in a message of the feed, if the list of services is denied.
   *
   * @param {string} text
   */
  #findOwnId(text) {
    if (this.#model.directory.own !== null || !text.includes(this.#name)) return;
    const entry = parseJson(text);
    const { topic } = entry?.message?.header ?? {};
    if (entry?.from && topic === "system.service.register") this.#model.directory.own = entry.from;
  }

  async #subscribe() {
    await this.#ask(SUBSCRIBE, { action: "publish", topic: FEED });
    // The feed shows this, and with it our own id.
    if (this.#model.directory.own === null) await this.#register();
  }

  async #unsubscribe() {
    await this.#ask("system.topic.unsubscribe", { action: "publish", topic: FEED });
  }

  /**
   * @param {string} topic
   * @param {object} payload
   */
  async #ask(topic, payload) {
    const { text } = await this.#client.request(topic, JSON.stringify(payload));
    return JSON.parse(text);
  }

  /**
   * Ask for a part of what the broker knows, unless that was denied on this connection.
   *
   * @param {Part} part
   * @param {() => Promise<void>} action
   */
  async #use(part, action) {
    if (!this.#model.denied.has(part)) await this.#attempt(PARTS[part], action, part);
  }

  /**
   * Do something that the broker may refuse; treat a broker that does not answer as dead.
   *
   * @param {string} what the broker refused, in words
   * @param {() => Promise<void>} action
   * @param {Part} [part] that may be denied
   * @returns whether it was not refused
   */
  async #attempt(what, action, part) {
    try {
      await action();
      return true;
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      const { code, message } = error;
      if (code === "NO_ANSWER") this.#client.drop("the broker does not answer");
      else if (code === "UNAUTHORIZED") this.#identity.require();
      else if (code === "FORBIDDEN" && part) this.#deny(part, error);
      else if (code !== "CONNECTION_LOST" && code !== "NOT_CONNECTED") {
        this.#model.notice = `The broker refused ${what}: ${code}, ${message}`;
      }
      return false;
    }
  }

  /**
   * The broker has ended a subscription, because roles have changed.
   *
   * @param {string} payload an error
   */
  #ended(payload) {
    const error = errorIn(payload, parseJson(payload));
    if (error?.code !== "FORBIDDEN" || !isObject(error.details)) return;
    if (error.details.topic !== FEED) return;
    this.#deny("message", new Failure(error.code, error.message, error.details));
  }

  /**
   * Don't ask for this again, and don't show what was known of it.
   *
   * @param {Part} part
   * @param {Failure} failure
   */
  #deny(part, failure) {
    const { denied, directory, trace } = this.#model;
    denied.add(part);
    if (part === "metrics") this.#model.metrics = {};
    else if (part === "services") directory.setServices([], this.#name);
    else if (part === "topics") directory.topics = [];
    else trace.interrupt();
    const { details } = failure;
    if (isObject(details) && typeof details.user === "string") this.#identity.learn(details.user);
    else this.#identity.refused(failure);
  }
}
