// The messages, each with its effects below it.

import { drawRows, find, make, setText } from "./dom.js";
import { isSystem } from "./protocol.js";
import { formatClock, formatDuration, payloadIn, plural } from "./text.js";

/**
 * @typedef {import("./model.js").Directory} Directory
 * @typedef {import("./trace.js").Exchange} Exchange
 */

const MAX_ROOTS = 100; // exchanges that are shown, each with its effects
const MAX_NAMES = 5; // of services that received one

/** One exchange: a line, its details when opened, and its effects below. */
class ExchangeRow {
  #directory;
  #action = make("span");
  #topic = make("b");
  #route = make("span", "route quiet");
  #when = make("span", "when quiet");
  #result = make("span", "result");
  #reason = make("span", "reason bad");
  #inside = make("div", "inside");
  #details;
  #effects = make("ol");
  #drawn = "";

  /** @param {Directory} directory */
  constructor(directory) {
    this.#directory = directory;
    const what = make("span", "what", this.#topic, " ", this.#action);
    const summary = make("summary", "", what, this.#result, this.#route, this.#when, this.#reason);
    this.#details = make("details", "", summary, this.#inside);
    this.node = make("li", "", this.#details);
  }

  /** @param {Exchange} exchange */
  draw(exchange) {
    const { action, topic, status, error, startedAt, from, effects } = exchange;
    this.#details.dataset.status = status;
    this.#action.className = action;
    setText(this.#action, action);
    setText(this.#topic, topic);
    setText(this.#route, `${this.#directory.nameOf(from)}${this.#to(exchange)}`);
    setText(this.#when, formatClock(startedAt));
    setText(this.#result, resultOf(exchange));
    setText(this.#reason, error ? String(error.message ?? "") : "");
    if (this.#details.open) this.#drawInside(exchange);
    else this.#details.ontoggle = () => this.#drawInside(exchange);
    if (effects.length && !this.#effects.isConnected) this.node.append(this.#effects);
    drawRows(
      this.#effects,
      effects,
      ({ number }) => number,
      () => new ExchangeRow(this.#directory),
    );
    if (!effects.length) this.#effects.remove();
  }

  /** @param {Exchange} exchange */
  #to({ targets }) {
    const names = targets.slice(0, MAX_NAMES).map((id) => this.#directory.nameOf(id));
    if (targets.length > MAX_NAMES) names.push(`${targets.length - MAX_NAMES} more`);
    return names.length ? ` → ${names.join(", ")}` : "";
  }

  /** @param {Exchange} exchange */
  #drawInside(exchange) {
    const { question, answer, error, targets, action, status } = exchange;
    const drawn = `${status} ${answer?.length} ${targets.length}`;
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    const facts = {
      From: exchange.from,
      To: targets.join(" "),
      "Request id": exchange.requestId,
      "Caused by": exchange.parentId,
      "Broker's id": exchange.brokerId,
      "Time limit": action === "request" ? formatDuration(exchange.timeout) : "",
    };
    this.#inside.replaceChildren(
      make("span", "quiet", "Payload"),
      make("pre", "", payloadIn(question)),
      ...(answer
        ? [make("span", "quiet", error ? "Error" : "Answer"), make("pre", "", payloadIn(answer))]
        : []),
      describe(facts),
    );
  }
}

/**
 * A list of the known facts.
 *
 * @param {Record<string, string>} facts
 */
function describe(facts) {
  const known = Object.entries(facts).filter(([, value]) => value);
  return make(
    "dl",
    "",
    ...known.flatMap(([name, value]) => [make("dt", "", name), make("dd", "code", value)]),
  );
}

/** @param {Exchange} exchange */
function resultOf({ status, action, error, duration, targets }) {
  const after = duration === null ? "" : ` ${formatDuration(duration)}`;
  switch (status) {
    case "failed":
      return `✕ ${error?.code}${after}`;
    case "answered":
      return `answered${after}`;
    case "unheard":
      return "unheard";
    case "waiting":
      return "waiting…";
    case "unknown":
      return "outcome not seen";
    default:
      return action === "publish" ? plural(targets.length, "listener") : "";
  }
}

/** The messages, filtered by the switches above them. */
export class MessagesView {
  #follow = find("follow", HTMLInputElement);
  #onlyErrors = find("only-errors", HTMLInputElement);
  #withSystem = find("with-system", HTMLInputElement);
  #filter = find("filter", HTMLInputElement);

  /**
   * @param {(following: boolean) => void} follow is called when the user switches Follow on or off
   * @param {() => void} changed is called when the user wants to see other messages
   */
  constructor(follow, changed) {
    this.#follow.onchange = () => follow(this.#follow.checked);
    this.#onlyErrors.onchange = this.#withSystem.onchange = changed;
    this.#filter.oninput = changed;
  }

  /** @param {import("./model.js").Model} model */
  draw({ trace, directory, following, notice, denied }) {
    this.#follow.checked = following && !denied.has("message");
    this.#follow.disabled = denied.has("message");
    setText(find("notice"), notice);
    const roots = this.#choose(trace.roots(), this.#wanted(directory));
    drawRows(
      find("trace"),
      roots,
      ({ number }) => number,
      () => new ExchangeRow(directory),
    );
    find("nothing").hidden = roots.length > 0;
    setText(find("nothing"), this.#nothing(trace.taken, following));
  }

  /**
   * @param {Iterable<Exchange>} roots
   * @param {(exchange: Exchange) => boolean} isWanted
   */
  #choose(roots, isWanted) {
    /** @type {(exchange: Exchange) => boolean} */
    const isShown = (exchange) => isWanted(exchange) || exchange.effects.some(isShown);
    const chosen = [];
    for (const root of roots) {
      if (chosen.length === MAX_ROOTS) break;
      if (isShown(root)) chosen.push(root);
    }
    return chosen;
  }

  /**
   * Whether an exchange is one that the user wants to see.
   *
   * @param {Directory} directory
   * @returns {(exchange: Exchange) => boolean}
   */
  #wanted(directory) {
    const onlyErrors = this.#onlyErrors.checked;
    const withSystem = this.#withSystem.checked;
    const word = this.#filter.value.trim().toLowerCase();
    /** @param {Exchange} exchange */
    const has = ({ from, targets, question, answer }) =>
      [question, answer ?? "", ...[from, ...targets].map((id) => directory.nameOf(id))].some(
        (text) => text.toLowerCase().includes(word),
      );
    return (exchange) =>
      (!onlyErrors || exchange.status === "failed") &&
      (withSystem || !isSystem(exchange.topic)) &&
      (!word || has(exchange));
  }

  /**
   * @param {number} taken
   * @param {boolean} following
   */
  #nothing(taken, following) {
    if (taken) return "No matching messages.";
    return following ? "No messages yet." : "Turn on Follow to see messages.";
  }
}
