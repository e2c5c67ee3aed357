// The tables of services and topics.

import { drawRows, find, make, setText } from "./dom.js";
import { isSystem, TOPIC } from "./protocol.js";
import { formatCount, formatPast } from "./text.js";

/**
 * @typedef {import("./model.js").Directory} Directory
 * @typedef {import("./model.js").Service} Service
 * @typedef {import("./model.js").Subscription} Subscription
 */

const MAX_ROWS = 200; // of a table

/** A row of the table of services. */
class ServiceRow {
  #directory;
  #name = make("span");
  #user = make("span", "user");
  #description = make("small");
  #id = make("span", "code");
  #connected = make("td", "age");
  #seen = make("td", "age");

  /** @param {Directory} directory */
  constructor(directory) {
    this.#directory = directory;
    const name = make("th", "", this.#name, " ", this.#user, this.#description, this.#id);
    name.scope = "row";
    this.node = make("tr", "", name, this.#connected, this.#seen);
  }

  /** @param {Service} service */
  draw({ id, name, user, description, connectedAt, lastHeartbeat }) {
    setText(this.#name, name || "(not registered)");
    this.#name.className = name ? "" : "quiet";
    setText(this.#user, user ? `user ${user}` : "");
    setText(this.#description, id === this.#directory.own ? "this page" : description);
    setText(this.#id, id);
    setText(this.#connected, formatPast(this.#directory.age(connectedAt)));
    this.#connected.title = connectedAt;
    setText(this.#seen, formatPast(this.#directory.age(lastHeartbeat)));
  }
}

/** A row of the table of topics: one topic and action, and its subscribers. */
class TopicRow {
  #directory;
  #listeners = make("td");

  /**
   * @param {Directory} directory
   * @param {Subscription} subscription
   * @param {(topic: string) => void} use
   */
  constructor(directory, { topic, action }, use) {
    this.#directory = directory;
    const name = make("th", "", isUsable(topic) ? useButton(topic, use) : breakable(topic));
    name.scope = "row";
    this.node = make("tr", "", name, make("td", "", action), this.#listeners);
  }

  /** @param {Subscription} subscription */
  draw({ subscribers }) {
    const names = subscribers
      .slice(0, MAX_ROWS)
      .map(
        ({ serviceId, priority }) =>
          this.#directory.nameOf(serviceId) + (priority ? ` (priority ${priority})` : ""),
      );
    const more = subscribers.length - names.length;
    setText(this.#listeners, names.join(", ") + (more ? ` and ${formatCount(more)} more` : ""));
  }
}

/**
 * Whether one can send to a subscribed topic: not to patterns and feeds.
 *
 * @param {string} topic
 */
function isUsable(topic) {
  return TOPIC.test(topic) && !isSystem(topic);
}

/**
 * A topic that may wrap after each dot.
 *
 * @param {string} topic
 */
function breakable(topic) {
  return make("span", "", ...topic.split(/(?<=\.)/).flatMap((part) => [part, make("wbr")]));
}

/**
 * @param {string} topic
 * @param {(topic: string) => void} use
 */
function useButton(topic, use) {
  const button = make("button", "plain", breakable(topic));
  button.type = "button";
  button.title = "Send to this topic";
  button.onclick = () => use(topic);
  return button;
}

/** The tables of services and topics, and the topics that the form offers. */
export class TablesView {
  #use;

  /** @param {(topic: string) => void} use is called with a topic to which the user wants to send */
  constructor(use) {
    this.#use = use;
  }

  /** @param {import("./model.js").Model} model */
  draw({ directory, denied }) {
    const { services, topics } = directory;
    drawRows(
      find("services"),
      services.slice(0, MAX_ROWS),
      ({ id }) => id,
      () => new ServiceRow(directory),
    );
    drawRows(
      find("topics"),
      topics.slice(0, MAX_ROWS),
      ({ topic, action }) => `${action} ${topic}`,
      (subscription) => new TopicRow(directory, subscription, this.#use),
    );
    setText(find("services-more"), more(services));
    const isEmpty = topics.length === 0 && !denied.has("topics");
    setText(find("topics-more"), isEmpty ? "No subscriptions yet." : more(topics));
    const names = new Set(topics.map(({ topic }) => topic).filter(isUsable));
    drawRows(find("known-topics"), [...names].slice(0, MAX_ROWS), (topic) => topic, makeOption);
  }
}

/** @param {unknown[]} items */
function more(items) {
  return items.length > MAX_ROWS ? `and ${formatCount(items.length - MAX_ROWS)} more` : "";
}

/** @param {string} topic */
function makeOption(topic) {
  const node = make("option");
  node.value = topic;
  return { node, draw() {} };
}
