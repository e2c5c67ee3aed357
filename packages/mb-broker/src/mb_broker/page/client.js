// The connection to the broker: one WebSocket after another.

import { decode, encode, errorIn, Failure, newId, parseJson } from "./protocol.js";

/** @typedef {import("./protocol.js").Message} Message */

/**
 * @typedef {object} Answer
 * @property {string} text the payload
 * @property {number} elapsed milliseconds
 *
 * @typedef {(action: "request" | "publish", topic: string, payload: string, timeout: number) =>
 *   Promise<Answer>} Ask
 */

const GREETING_LIMIT = 5_000; // all in milliseconds
const MARGIN = 2_000; // so that the broker's own TIMEOUT comes first
const FIRST_DELAY = 100;
const LAST_DELAY = 2_000;
const STABLE_AFTER = 1_000;

/** One WebSocket, from opening to closing. */
class Connection {
  #socket;
  #handler;
  /** @type {Map<string, Pending>} */
  #pending = new Map();
  #greeting;
  #ended = false;

  /**
   * @typedef {object} ConnectionHandler
   * @property {() => void} greeted
   * @property {(message: Message) => void} received
   * @property {(reason: string) => void} lost
   *
   * @typedef {object} Pending
   * @property {(answer: Answer) => void} resolve
   * @property {(failure: Failure) => void} reject
   * @property {ReturnType<typeof setTimeout>} timer
   * @property {number} sentAt
   *
   * @param {string} url
   * @param {ConnectionHandler} handler
   */
  constructor(url, handler) {
    this.#handler = handler;
    this.#socket = new WebSocket(url);
    this.#socket.onmessage = ({ data }) => this.#receive(decode(String(data)));
    this.#socket.onclose = ({ reason }) => this.end(reason || "the broker can't be reached");
    this.#greeting = setTimeout(
      () => this.end("the broker did not send its greeting"),
      GREETING_LIMIT,
    );
  }

  /**
   * Send a request or a publication and wait for its answer; throws a Failure if there is none.
   *
   * @param {"request" | "publish"} action
   * @param {string} topic
   * @param {string} payload
   * @param {number} timeout in milliseconds
   * @returns {Promise<Answer>}
   */
  ask(action, topic, payload, timeout) {
    const requestId = newId();
    const header = action === "request" ? { requestId, timeout } : { requestId };
    const sentAt = performance.now();
    return new Promise((resolve, reject) => {
      const giveUp = () => this.#settle(requestId, noAnswer(topic, timeout));
      const timer = setTimeout(giveUp, timeout + MARGIN);
      this.#pending.set(requestId, { resolve, reject, timer, sentAt });
      this.#socket.send(encode(action, topic, payload, header));
    });
  }

  get isOpen() {
    return !this.#ended;
  }

  /**
   * Drop the connection without waiting for the other side.
   *
   * @param {string} reason
   */
  end(reason) {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.#greeting);
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
    for (const id of [...this.#pending.keys()]) {
      this.#settle(id, new Failure("CONNECTION_LOST", `the connection was lost: ${reason}`));
    }
    this.#handler.lost(reason);
  }

  /** @param {Message} message */
  #receive(message) {
    const { action, topic, requestId, payload } = message;
    if (action === "response" && this.#pending.has(requestId)) {
      const error = errorIn(payload, parseJson(payload));
      const failure = error && new Failure(error.code, error.message, error.details);
      this.#settle(requestId, failure, payload);
    } else if (topic === "system.heartbeat") {
      if (action === "request") this.#socket.send(encode("response", topic, "{}", { requestId }));
    } else if (topic === "system.initialize") {
      clearTimeout(this.#greeting);
      this.#handler.greeted();
    } else {
      this.#handler.received(message);
    }
  }

  /**
   * @param {string} requestId
   * @param {Failure | null} failure
   * @param {string} [text]
   */
  #settle(requestId, failure, text = "") {
    const pending = this.#pending.get(requestId);
    if (pending === undefined) return;
    this.#pending.delete(requestId);
    clearTimeout(pending.timer);
    const elapsed = performance.now() - pending.sentAt;
    if (failure) pending.reject(Object.assign(failure, { elapsed }));
    else pending.resolve({ text, elapsed });
  }
}

/**
 * @param {string} topic
 * @param {number} timeout
 */
function noAnswer(topic, timeout) {
  return new Failure(
    "NO_ANSWER",
    `${topic} was not answered within ${timeout} ms, not even by the broker`,
  );
}

/** A connection that reconnects automatically. */
export class Client {
  /**
   * What it is doing; when it is "stopped", it does nothing until connect() is called.
   *
   * @type {"connecting" | "connected" | "waiting" | "stopped"}
   */
  state = "connecting";
  /** Why the last connection ended. */
  reason = "";
  /** When the next attempt is due. */
  retryAt = 0;
  #url;
  #handler;
  /** @type {Connection | null} */
  #connection = null;
  #attempts = 0;
  #connectedAt = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /**
   * @typedef {object} ClientHandler
   * @property {(connection: {ask: Ask}) => Promise<boolean>} [authenticate] is called before
   *   anything else is sent; returns whether to go on
   * @property {() => void} changed when `state` is another
   * @property {() => void} connected
   * @property {(message: Message) => void} received
   *
   * @param {string} url
   * @param {ClientHandler} handler
   */
  constructor(url, handler) {
    this.#url = url;
    this.#handler = handler;
  }

  connect() {
    clearTimeout(this.#timer);
    this.#change("connecting");
    const connection = new Connection(this.#url, {
      greeted: () => void this.#greeted(connection),
      received: (message) => this.#handler.received(message),
      lost: (reason) => this.#lost(reason),
    });
    this.#connection = connection;
  }

  /** Don't wait for the next attempt. */
  retryNow() {
    if (this.state === "waiting") this.connect();
  }

  /**
   * Treat the connection as dead.
   *
   * @param {string} reason
   * @param {number} [pause] milliseconds until the next attempt, instead of the usual delay
   */
  drop(reason, pause) {
    this.#connection?.end(reason);
    if (pause !== undefined) this.#retryIn(pause);
  }

  /**
   * Drop the connection, and open another one at once.
   *
   * @param {string} reason
   */
  reconnect(reason) {
    this.drop(reason);
    this.connect();
  }

  /**
   * Drop the connection, and don't reconnect.
   *
   * @param {string} reason
   */
  stop(reason) {
    this.drop(reason);
    clearTimeout(this.#timer);
    this.#change("stopped");
  }

  /**
   * @param {string} topic
   * @param {string} payload
   * @param {number} [timeout] in milliseconds
   */
  async request(topic, payload, timeout = 5_000) {
    return this.#connected().ask("request", topic, payload, timeout);
  }

  /**
   * Publish, and wait for the broker to confirm.
   *
   * @param {string} topic
   * @param {string} payload
   */
  async publish(topic, payload) {
    return this.#connected().ask("publish", topic, payload, 5_000);
  }

  #connected() {
    if (this.state === "connected" && this.#connection) return this.#connection;
    const remedy = this.state === "stopped" ? this.reason : "try again when the connection is back";
    throw new Failure("NOT_CONNECTED", `not connected to the broker: ${remedy}`);
  }

  /** @param {Connection} connection */
  async #greeted(connection) {
    const { authenticate } = this.#handler;
    if (authenticate && !(await authenticate(connection))) return;
    if (!connection.isOpen) return;
    this.#connectedAt = performance.now();
    this.#change("connected");
    this.#handler.connected();
  }

  /** @param {string} reason */
  #lost(reason) {
    const stable =
      this.state === "connected" && performance.now() - this.#connectedAt > STABLE_AFTER;
    this.#attempts = stable ? 0 : this.#attempts + 1;
    const delay = retryDelay(this.#attempts, Math.random());
    this.reason = reason;
    this.#retryIn(delay);
    this.#change("waiting");
  }

  /** @param {number} delay in milliseconds */
  #retryIn(delay) {
    clearTimeout(this.#timer);
    this.retryAt = Date.now() + delay;
    this.#timer = setTimeout(() => this.connect(), delay);
  }

  /** @param {Client["state"]} state */
  #change(state) {
    this.state = state;
    this.#handler.changed();
  }
}

/**
 * How long to wait before an attempt, in ms: doubled each time, with random jitter.
 *
 * @param {number} attempts
 * @param {number} random from 0 to 1
 */
export function retryDelay(attempts, random) {
  return Math.min(LAST_DELAY, FIRST_DELAY * 2 ** attempts) * (0.5 + random / 2);
}
