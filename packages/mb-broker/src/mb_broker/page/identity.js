// Who this page is to the broker: a user with a token, or an anonymous client.

import { Failure, isObject, parseJson } from "./protocol.js";

const AUTHENTICATE = "system.authenticate";
const LIMIT = 5_000; // milliseconds, for the broker's answer
const LATER = 10_000; // milliseconds until a token that was accepted before is tried again
// What may be over in a moment: for example, the user has too many connections, of which the broker
// has not yet noticed that some are dead.
const TEMPORARY = new Set(["SERVICE_UNAVAILABLE", "TIMEOUT", "NO_ANSWER"]);

/**
 * The page's token. It is kept for this tab only, and no other part of the page can read it.
 *
 * A token that was just entered is tried once; one that was accepted is used for every connection.
 */
export class Identity {
  /**
   * The user that the broker knows this page as.
   *
   * @type {string | null}
   */
  user = null;
  /** Whether the broker does nothing for this page without a token. */
  isRequired = false;
  /** Whether the broker denied something that a user may be allowed to do. */
  isOffered = false;
  /** Why the last token was not accepted. */
  fault = "";
  #client;
  #storage;
  #key;
  #token = "";
  /** @type {{token: string} | null} */
  #entered = null;

  /**
   * @param {Pick<import("./client.js").Client, "reconnect" | "drop" | "stop">} client
   * @param {Pick<Storage, "getItem" | "setItem" | "removeItem"> | null} storage of this tab; null
   *   if the browser has none, so that the token is lost with a reload
   * @param {string} key in the storage
   */
  constructor(client, storage, key) {
    this.#client = client;
    this.#storage = storage;
    this.#key = key;
    this.#token = storage?.getItem(key) ?? "";
  }

  get hasToken() {
    return this.#token !== "";
  }

  get isSigningIn() {
    return this.#entered !== null;
  }

  /**
   * Authenticate on a new connection: the user of a connection can't be changed.
   *
   * @param {string} token
   */
  signIn(token) {
    this.fault = "";
    this.#entered = { token };
    this.#client.reconnect("signing in");
  }

  /** Forget the token. What this page has shown has to be removed, too. */
  signOut() {
    this.#token = "";
    this.#entered = null;
    this.#storage?.removeItem(this.#key);
  }

  /**
   * Send the token, if there is one, before anything else is sent on this connection.
   *
   * @param {{ask: import("./client.js").Ask}} connection
   * @returns whether to go on: as the user, or anonymously
   */
  async authenticate(connection) {
    this.user = null;
    this.isOffered = false;
    const entered = this.#entered;
    const token = entered?.token ?? this.#token;
    if (!token) return true;
    try {
      const payload = JSON.stringify({ token });
      const { text } = await connection.ask("request", AUTHENTICATE, payload, LIMIT);
      this.#accept(token, parseJson(text)?.user);
      return true;
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      if (entered !== this.#entered) return false; // another token was entered in the meantime
      return entered ? this.#refuseEntered(error) : this.#refuseKept(error);
    } finally {
      if (entered === this.#entered) this.#entered = null;
    }
  }

  /** The broker needs a token: without one, there is nothing to do. */
  require() {
    if (this.hasToken) {
      this.fault = NO_LONGER;
      this.signOut();
    }
    this.user = null;
    this.isRequired = true;
    this.#client.stop("the broker needs a token");
  }

  /** The broker accepts this page, with a token or without. */
  admitted() {
    this.isRequired = false;
  }

  /**
   * The broker denied something, perhaps because this page is anonymous.
   *
   * @param {Failure} failure
   */
  refused({ code, details }) {
    if (code !== "FORBIDDEN" || !isObject(details)) return;
    // Services may have this error, too: but not with a user that is null.
    if (details.user === null && "action" in details) this.isOffered = this.user === null;
  }

  /**
   * The broker knows this page as a user, perhaps by a certificate or a proxy's token.
   *
   * @param {string} user
   */
  learn(user) {
    this.user = user;
    this.isOffered = false;
  }

  /**
   * @param {string} token
   * @param {unknown} user
   */
  #accept(token, user) {
    this.#token = token;
    try {
      this.#storage?.setItem(this.#key, token);
    } catch {
      // The storage is full or switched off: the token is lost with a reload.
    }
    this.fault = "";
    this.isRequired = false;
    this.learn(String(user));
  }

  /** @param {Failure} failure */
  #refuseEntered({ code, message }) {
    if (code === "UNAUTHORIZED") this.fault = "The broker does not know this token.";
    else if (code === "TOPIC_NOT_SUPPORTED") this.fault = "This broker has no users or tokens.";
    else this.fault = `You could not be signed in: ${code}, ${message}`;
    if (this.isRequired && code !== "TOPIC_NOT_SUPPORTED") {
      this.#client.stop("the broker did not accept the token");
      return false;
    }
    return code !== "CONNECTION_LOST";
  }

  /** @param {Failure} failure */
  #refuseKept({ code, message }) {
    if (code === "CONNECTION_LOST") return false;
    if (TEMPORARY.has(code)) {
      this.fault = `You could not be signed in: ${code}, ${message}`;
      this.#client.drop("the broker refused to authenticate this page", LATER);
      return false;
    }
    this.signOut();
    if (code !== "TOPIC_NOT_SUPPORTED") this.fault = NO_LONGER;
    return true;
  }
}

const NO_LONGER = "The broker no longer accepts your token.";
