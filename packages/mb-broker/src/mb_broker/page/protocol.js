// Messages as text and as values (docs/protocol.md).

/**
 * @typedef {object} Message
 * @property {string} action in lower case
 * @property {string} topic in lower case
 * @property {string} requestId "" if it has none
 * @property {string} payload the text as it came
 */

/**
 * @typedef {object} ErrorPayload
 * @property {string} code
 * @property {string} message
 * @property {unknown} [details]
 */

const VERSION = "1.0.0";
/** Bytes: the broker's default.  It may close a connection that sends more. */
export const MAX_PAYLOAD = 16_384;
export const TOPIC = /^[a-z][a-z0-9]*(\.[a-z][a-z0-9]*){0,4}$/i;

/** Why a request failed: a code of the protocol, or one that only this page uses. */
export class Failure extends Error {
  /** Milliseconds since the request was sent. */
  elapsed = 0;

  /**
   * @param {string} code
   * @param {string} message
   * @param {unknown} [details]
   */
  constructor(code, message, details) {
    super(message);
    this.code = code;
    this.details = details;
  }
}

/** A random UUID; crypto.randomUUID is missing where the page came over http from another host. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x40;
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

/**
 * @param {string} action
 * @param {string} topic
 * @param {string} payload
 * @param {{requestId?: string, timeout?: number}} [header] `timeout` in milliseconds
 */
export function encode(action, topic, payload, { requestId = "", timeout } = {}) {
  const fields = [action, topic, VERSION, requestId, "", String(timeout ?? "")];
  while (fields.at(-1) === "") fields.pop();
  return `${fields.join(":")}\n${payload}`;
}

/**
 * @param {string} text
 * @returns {Message}
 */
export function decode(text) {
  const end = text.indexOf("\n");
  const header = end < 0 ? text : text.slice(0, end);
  const [action = "", topic = "", , requestId = ""] = header.split(":");
  const payload = end < 0 ? "" : text.slice(end + 1);
  return {
    action: action.toLowerCase(),
    topic: topic.toLowerCase(),
    requestId,
    payload,
  };
}

/**
 * The value of a JSON text; undefined if it is not valid.
 *
 * @param {string} text
 * @returns {any}
 */
export function parseJson(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/**
 * @param {unknown} value
 * @returns {value is Record<string, any>}
 */
export function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/**
 * The error that a payload represents, or null.
 *
 * The broker sends {"error":{...}}, a service error:{...}; with other keys, `error` is data.
 *
 * @param {string} text the payload
 * @param {unknown} value the payload as JSON, undefined if it is not valid
 * @returns {ErrorPayload | null}
 */
export function errorIn(text, value) {
  if (text.startsWith("error:")) {
    const error = parseJson(text.slice(6));
    if (isObject(error) && typeof error.code === "string") {
      return { code: error.code, message: "", ...error };
    }
    return { code: "INTERNAL_ERROR", message: text.slice(6) };
  }
  if (!isObject(value) || !isObject(value.error) || Object.keys(value).length !== 1) return null;
  const { code, message, details } = value.error;
  if (typeof code !== "string" || typeof message !== "string") return null;
  return details === undefined ? { code, message } : { code, message, details };
}

/**
 * Whether the broker itself answers on this topic.
 *
 * @param {string} topic
 */
export function isSystem(topic) {
  return /^system(\.|$)/i.test(topic);
}
