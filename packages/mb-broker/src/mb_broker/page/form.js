// The form that sends messages, and the outcome of what it sent.

import { find, make, setText } from "./dom.js";
import { Failure, MAX_PAYLOAD, TOPIC } from "./protocol.js";
import { formatCount, formatDuration, prettyJson } from "./text.js";

/** @typedef {"request" | "publish"} Action */

/**
 * How a message ended.
 *
 * @typedef {object} Outcome
 * @property {"good" | "bad" | ""} result
 * @property {string} words
 * @property {string} [payload]
 */

export class FormView {
  #client;
  #refused;
  #topic = find("send-topic", HTMLInputElement);
  #payload = find("send-payload", HTMLTextAreaElement);
  #timeout = find("send-timeout", HTMLInputElement);
  #sent = 0;

  /**
   * @param {Pick<import("./client.js").Client, "request" | "publish">} client
   * @param {(failure: Failure) => void} refused is called when a message failed
   */
  constructor(client, refused) {
    this.#client = client;
    this.#refused = refused;
    find("send", HTMLFormElement).onsubmit = (event) => {
      event.preventDefault();
      const button = /** @type {HTMLButtonElement | null} */ (event.submitter);
      this.#submit(button?.value === "publish" ? "publish" : "request");
    };
    this.#payload.onkeydown = ({ key, ctrlKey, metaKey }) => {
      if (key === "Enter" && (ctrlKey || metaKey)) this.#submit("request");
    };
  }

  /**
   * Begin a message to this topic.
   *
   * @param {string} topic
   */
  use(topic) {
    this.#topic.value = topic;
    this.#payload.focus();
  }

  /** @param {Action} action */
  async #submit(action) {
    const [invalid] = this.#check(action);
    if (invalid) {
      invalid.focus();
      return;
    }
    const number = ++this.#sent;
    const topic = this.#topic.value.trim();
    this.#show({ result: "", words: `${action} ${topic}: waiting…` });
    const outcome = await this.#send(action, topic, oneLine(this.#payload.value));
    if (number === this.#sent) this.#show(outcome);
  }

  /**
   * @param {Action} action
   * @param {string} topic
   * @param {string} payload
   * @returns {Promise<Outcome>}
   */
  async #send(action, topic, payload) {
    try {
      if (action === "publish") {
        await this.#client.publish(topic, payload);
        return { result: "good", words: `✓ ${topic} was published` };
      }
      const timeout = Number(this.#timeout.value);
      const { text, elapsed } = await this.#client.request(topic, payload, timeout);
      const words = `✓ ${topic} answered in ${formatDuration(elapsed)}`;
      return { result: "good", words, payload: prettyJson(text) };
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      this.#refused(error);
      const { code, message, details } = error;
      return {
        result: "bad",
        words: `✕ ${code}: ${message}`,
        payload: details === undefined ? "" : JSON.stringify(details, null, 2),
      };
    }
  }

  /** @param {Outcome} outcome */
  #show({ result, words, payload = "" }) {
    const line = make("p", "", words);
    line.dataset.result = result;
    find("outcome").replaceChildren(line, ...(payload ? [make("pre", "", payload)] : []));
  }

  /**
   * Show what is wrong at each field; returns the invalid fields.
   *
   * @param {Action} action
   */
  #check(action) {
    /** @type {[HTMLElement, string][]} */
    const checked = [
      [this.#topic, topicFault(this.#topic.value.trim())],
      [this.#payload, payloadFault(this.#payload.value)],
      [this.#timeout, action === "request" ? timeoutFault(this.#timeout.value) : ""],
    ];
    for (const [field, fault] of checked) {
      field.setAttribute("aria-invalid", String(fault !== ""));
      setText(find(`${field.id}-fault`), fault);
    }
    return checked.filter(([, fault]) => fault).map(([field]) => field);
  }
}

/**
 * JSON on one line, as the protocol requires; JSON strings contain no line breaks.
 *
 * @param {string} json
 */
export function oneLine(json) {
  return json.trim().replace(/[\r\n]+/g, " ");
}

/** @param {string} topic */
export function topicFault(topic) {
  if (TOPIC.test(topic) && topic.length <= 255) return "";
  return "A topic has 1 to 5 segments joined by dots; each is a letter followed by letters and digits.";
}

/** @param {string} text */
export function payloadFault(text) {
  const payload = oneLine(text);
  const size = new TextEncoder().encode(payload).length;
  if (size > MAX_PAYLOAD)
    return `The payload has ${formatCount(size)} bytes; the limit is ${formatCount(MAX_PAYLOAD)}.`;
  try {
    if (payload) JSON.parse(payload);
    return "";
  } catch (error) {
    return `This is not valid JSON: ${/** @type {SyntaxError} */ (error).message}`;
  }
}

/** @param {string} text */
export function timeoutFault(text) {
  const timeout = Number(text);
  const valid = Number.isInteger(timeout) && timeout >= 1 && timeout <= 3_600_000;
  return valid ? "" : "The time limit must be a whole number of milliseconds from 1 to 3,600,000.";
}
