// Cause and effect, read from the audit feed (docs/protocol.md, "The audit feed").

import { errorIn, isObject, isSystem, parseJson } from "./protocol.js";
import { Ring } from "./ring.js";

/**
 * A message of the audit feed. It has `from` if a service sent the message, and `to` if the
 * broker did.
 *
 * @typedef {object} FeedEntry
 * @property {string} timestamp
 * @property {string} [from]
 * @property {string} [to]
 * @property {string} [maskedId] the id that the sender gave to a request that is passed on
 * @property {number} [timeout] in milliseconds
 * @property {{header: FeedHeader, payload?: unknown}} message
 *
 * @typedef {object} FeedHeader
 * @property {string} action
 * @property {string} topic
 * @property {string} [requestId]
 * @property {string} [parentRequestId]
 */

const MAX_RECENT = 500; // exchanges
const MAX_FAILED = 100; // older ones that failed
const MAX_WAITING = 1000; // older ones that still wait for an answer
const MAX_DEPTH = 16;
const MAX_TARGETS = 100; // services that are named as having received a message
const MAX_TEXT = 65_536; // characters of a message that are kept

/** A message and its outcome. */
export class Exchange {
  /** @type {"waiting" | "sent" | "unheard" | "answered" | "failed" | "unknown"} */
  status = "waiting";
  /** @type {import("./protocol.js").ErrorPayload | null} */
  error = null;
  /**
   * The audit feed's text of the answer.
   *
   * @type {string | null}
   */
  answer = null;
  /** @type {number | null} */
  endedAt = null;
  /** @type {Exchange[]} */
  effects = [];
  /**
   * The ids of the services that received it.
   *
   * @type {string[]}
   */
  targets = [];
  /** The id under which the broker forwarded it. */
  brokerId = "";

  /**
   * @param {number} number
   * @param {FeedEntry} entry
   * @param {string} text the entry as it came
   * @param {Exchange | null} parent
   */
  constructor(number, { timestamp, from, timeout, message: { header } }, text, parent) {
    this.number = number;
    this.action = header.action;
    this.topic = header.topic;
    this.requestId = header.requestId ?? "";
    this.parentId = header.parentRequestId ?? "";
    this.from = from ?? "";
    this.timeout = timeout;
    this.startedAt = toMillis(timestamp);
    this.question = shorten(text);
    /** The exchange that caused it. */
    this.parent = parent;
    this.depth = depthBelow(parent);
    parent?.effects.push(this);
  }

  get duration() {
    return this.endedAt === null ? null : Math.max(0, this.endedAt - this.startedAt);
  }
}

/**
 * How many levels of causes are above an effect of `parent`.
 *
 * @param {{depth: number} | null} parent
 */
function depthBelow(parent) {
  return parent ? parent.depth + 1 : 0;
}

/** Recent exchanges, each with its cause and effects. */
export class Trace {
  /** All messages of the feed so far. */
  taken = 0;
  /** All failed exchanges so far. */
  failed = 0;
  #measured;
  /** @type {Ring<Exchange>} */
  #recent = new Ring(MAX_RECENT);
  /** @type {Ring<Exchange>} */
  #olderFailed = new Ring(MAX_FAILED);
  /** @type {Set<Exchange>} */
  #olderWaiting = new Set();
  /** @type {Map<string | undefined, Exchange>} */
  #byId = new Map();
  /** @type {Exchange | null} */
  #last = null;
  #numbers = 0;

  /** @param {(latency: number) => void} measured is called for each request that was answered */
  constructor(measured) {
    this.#measured = measured;
  }

  /** Exchanges whose cause is not shown, newest first. */
  *roots() {
    for (const ring of [this.#recent, this.#olderFailed]) {
      for (const exchange of ring) {
        const { parent } = exchange;
        if (parent === null || this.#olderWaiting.has(parent)) yield exchange;
      }
    }
  }

  /**
   * Process one message of the feed.
   *
   * @param {string} text its payload
   */
  take(text) {
    this.taken += 1;
    /** @type {FeedEntry} */
    const entry = parseJson(text);
    const header = entry?.message?.header;
    if (!isObject(header) || typeof header.topic !== "string") return;
    const isResponse = header.action === "response";
    if (entry.from !== undefined) {
      if (isResponse) this.#responded(entry, text);
      else this.#asked(entry, text);
    } else if (isResponse) {
      this.#returned(entry, text);
    } else {
      this.#forwarded(entry);
    }
  }

  /** Mark a gap in the feed: answers to pending requests will not be seen. */
  interrupt() {
    for (const exchange of this.#recent) {
      if (exchange.status === "waiting") exchange.status = "unknown";
    }
    for (const exchange of this.#olderWaiting) this.#forget(exchange);
    this.#olderWaiting.clear();
    this.#last = null;
  }

  /**
   * A service sent a request or a publication.
   *
   * @param {FeedEntry} entry
   * @param {string} text
   */
  #asked(entry, text) {
    const exchange = this.#record(entry, text, this.#causeOf(entry.message.header));
    if (exchange.action === "publish") exchange.status = "sent";
    if (exchange.requestId) this.#byId.set(exchange.requestId, exchange);
  }

  /** @param {FeedHeader} header */
  #causeOf(header) {
    let cause = this.#byId.get(header.parentRequestId) ?? null;
    while (cause && cause.depth >= MAX_DEPTH) cause = cause.parent;
    return cause;
  }

  /**
   * @param {FeedEntry} entry
   * @param {string} text
   * @param {Exchange | null} cause
   */
  #record(entry, text, cause) {
    const exchange = new Exchange(++this.#numbers, entry, text, cause);
    this.#last = exchange;
    const oldest = this.#recent.push(exchange);
    if (oldest) this.#retire(oldest);
    return exchange;
  }

  /**
   * The broker forwarded a message to a subscriber.
   *
   * @param {FeedEntry} entry
   */
  #forwarded({ to, maskedId, message: { header } }) {
    const exchange = maskedId ? this.#byId.get(maskedId) : this.#last;
    if (!exchange || !sameTopic(exchange, header)) return;
    if (to !== undefined && exchange.targets.length < MAX_TARGETS) exchange.targets.push(to);
    if (exchange.brokerId || !header.requestId) return;
    exchange.brokerId = header.requestId;
    this.#byId.set(exchange.brokerId, exchange);
  }

  /**
   * A service sent a response.
   *
   * @param {FeedEntry} entry
   * @param {string} text
   */
  #responded(entry, text) {
    const { header } = entry.message;
    if (isSystem(header.topic)) return; // a heartbeat
    const exchange = this.#byId.get(header.requestId);
    if (exchange?.status === "waiting" && exchange.targets.includes(entry.from ?? "")) {
      exchange.answer = shorten(text);
      // The broker can't forward the answer to a request without an id.
      if (!exchange.requestId) this.#finish(exchange, entry);
    } else {
      const stray = this.#record(entry, text, exchange ?? null);
      this.#fail(stray, {
        code: "INVALID_REQUEST_ID",
        message: "nobody is waiting for this response",
      });
    }
  }

  /**
   * The broker sent a response to the requester.
   *
   * @param {FeedEntry} entry
   * @param {string} text
   */
  #returned(entry, text) {
    const exchange = this.#answeredBy(entry);
    if (!exchange) return;
    exchange.answer = shorten(text);
    this.#finish(exchange, entry);
  }

  /**
   * The exchange that a response of the broker belongs to.
   *
   * @param {FeedEntry} entry
   */
  #answeredBy({ to, message: { header } }) {
    const last = this.#last?.from === to ? this.#last : null;
    if (last?.requestId === header.requestId) return last;
    const known = this.#byId.get(header.requestId);
    if (known) return known.from === to ? known : null;
    // A message without an id is answered, if at all, with an id that the feed has not shown.
    return last && !last.requestId && sameTopic(last, header) ? last : null;
  }

  /**
   * @param {Exchange} exchange
   * @param {FeedEntry} entry the answer
   */
  #finish(exchange, { timestamp, message: { payload } }) {
    exchange.endedAt = toMillis(timestamp);
    const error = errorIn(typeof payload === "string" ? payload : "", payload);
    if (error && isUnheard(exchange, error)) exchange.status = "unheard";
    else if (error) this.#fail(exchange, error);
    else if (exchange.action === "request") exchange.status = "answered";
    const wasAsked = exchange.action === "request" && exchange.targets.length > 0;
    if (wasAsked) this.#measured(exchange.duration ?? 0);
    if (this.#olderWaiting.delete(exchange)) this.#retire(exchange);
  }

  /**
   * @param {Exchange} exchange
   * @param {import("./protocol.js").ErrorPayload} error
   */
  #fail(exchange, error) {
    if (exchange.status !== "failed") this.failed += 1;
    exchange.status = "failed";
    exchange.error = error;
  }

  /**
   * Keep an older exchange while it waits, and for some time if it failed.
   *
   * @param {Exchange} exchange
   */
  #retire(exchange) {
    /** @type {Exchange | undefined} */
    let leaving = exchange;
    if (exchange.status === "waiting") {
      this.#olderWaiting.add(exchange);
      if (this.#olderWaiting.size <= MAX_WAITING) return;
      [leaving] = this.#olderWaiting;
      if (leaving) this.#olderWaiting.delete(leaving);
    } else if (exchange.status === "failed") {
      leaving = this.#olderFailed.push(exchange);
    }
    if (leaving) this.#forget(leaving);
  }

  /** @param {Exchange} exchange */
  #forget(exchange) {
    for (const id of [exchange.requestId, exchange.brokerId]) {
      if (this.#byId.get(id) === exchange) this.#byId.delete(id);
    }
    for (const effect of exchange.effects) effect.parent = null;
    const siblings = exchange.parent?.effects;
    siblings?.splice(siblings.indexOf(exchange), 1);
  }
}

/**
 * Whether an error only says that nobody is subscribed to a publication: it counts as dropped.
 *
 * @param {Exchange} exchange
 * @param {import("./protocol.js").ErrorPayload} error
 */
function isUnheard({ action }, { code }) {
  return action === "publish" && code === "NO_ROUTE_FOUND";
}

/**
 * @param {Exchange} exchange
 * @param {FeedHeader} header
 */
function sameTopic(exchange, header) {
  return exchange.topic.toLowerCase() === header.topic.toLowerCase();
}

/** @param {string} text */
function shorten(text) {
  return text.length > MAX_TEXT ? text.slice(0, MAX_TEXT) : text;
}

/**
 * A timestamp in milliseconds, with the digits beyond the third, which Date.parse ignores.
 *
 * @param {string} timestamp
 */
function toMillis(timestamp) {
  const finer = /\.\d{3}(\d+)/.exec(timestamp);
  return Date.parse(timestamp) + (finer ? Number(`0.${finer[1]}`) : 0);
}
