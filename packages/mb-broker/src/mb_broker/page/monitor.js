// Polls the broker, follows its audit feed, and fills the model.

import { Failure, isSystem, newId, parseJson } from "./protocol.js";
import { formatCount } from "./text.js";

/**
 * @typedef {import("./model.js").Model} Model
 * @typedef {Pick<import("./client.js").Client, "state" | "request" | "drop">} Client
 */

const FEED = "system.message";
const FEED_LIMIT = 3_000; // messages a second that a browser can take and still do other things
const FEED_PATIENCE = 2; // seconds above it
// Topics of the feed's messages that change the services or their subscriptions.
const CHANGES = /"system\.(service\.register|topic\.(un)?subscribe)"/i;

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
  #name = `Status page ${newId().slice(0, 8)}`;
  #seconds = 0;
  #asking = false;
  #directoryIsOld = false;
  #flood = new Flood(FEED_LIMIT, FEED_PATIENCE);

  /**
   * @param {Client} client
   * @param {Model} model
   */
  constructor(client, model) {
    this.#client = client;
    this.#model = model;
  }

  /** After every connect: register, read the directory, and follow the feed. */
  async connected() {
    this.#model.notice = "";
    this.#model.directory.own = null;
    await this.#attempt("registration", async () => {
      const description = "The broker's own page, open in a browser";
      await this.#ask("system.service.register", {
        name: this.#name,
        description,
      });
      await this.#readDirectory(); // for our own id, before the feed brings our own messages
      if (this.#model.following) await this.#subscribe();
    });
  }

  disconnected() {
    this.#model.trace.interrupt();
    this.#model.metrics = {};
  }

  /** @param {{topic: string, payload: string}} message */
  received({ topic, payload }) {
    if (topic !== FEED || !this.#model.following || this.#isOwn(payload)) return;
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
    await this.#attempt("the audit feed", () =>
      following ? this.#subscribe() : this.#unsubscribe(),
    );
  }

  /** Once a second. */
  async tick() {
    if (this.#client.state !== "connected" || this.#asking) return;
    this.#asking = true;
    this.#seconds += 1;
    const isDue = this.#directoryIsOld || this.#seconds % 3 === 0;
    try {
      await this.#attempt("its metrics", () => this.#measure());
      if (isDue) await this.#attempt("its lists", () => this.#readDirectory());
    } finally {
      this.#asking = false;
    }
  }

  async #measure() {
    const { metrics } = await this.#ask("system.metrics", {});
    this.#model.metrics = metrics;
    /** @param {string[]} names */
    const rate = (...names) =>
      names.reduce((sum, name) => sum + (metrics[`router.${name}`] ?? 0), 0);
    this.#model.samples.add(Date.now(), {
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
      ...this.#model.latencies.take(),
    });
  }

  async #readDirectory() {
    this.#directoryIsOld = false;
    const { services } = await this.#ask("system.service.list", {});
    this.#model.directory.setServices(services, this.#name);
    const { subscriptions } = await this.#ask("system.topic.subscriptions", {});
    this.#model.directory.topics = subscriptions;
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

  #subscribe() {
    return this.#ask("system.topic.subscribe", {
      action: "publish",
      topic: FEED,
    });
  }

  #unsubscribe() {
    return this.#ask("system.topic.unsubscribe", {
      action: "publish",
      topic: FEED,
    });
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
   * Do something that the broker may refuse; treat a broker that does not answer as dead.
   *
   * @param {string} what the broker refused, in words
   * @param {() => Promise<void>} action
   */
  async #attempt(what, action) {
    try {
      await action();
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      if (error.code === "NO_ANSWER") this.#client.drop("the broker does not answer");
      else if (error.code !== "CONNECTION_LOST" && error.code !== "NOT_CONNECTED") {
        this.#model.notice = `The broker refused ${what}: ${error.code}, ${error.message}`;
      }
    }
  }
}
