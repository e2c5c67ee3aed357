// This page is a client of the broker that serves it (docs/page.md).  This module connects its
// parts: the client feeds the monitor, the monitor fills the model, the views draw the model.

import { ChartsView } from "./charts.js";
import { Client } from "./client.js";
import { FormView } from "./form.js";
import { Identity } from "./identity.js";
import { MessagesView } from "./messages.js";
import { Model } from "./model.js";
import { Monitor } from "./monitor.js";
import { SignInView } from "./signin.js";
import { ConnectionView, FiguresView } from "./status.js";
import { TablesView } from "./tables.js";

const FRAME = 250; // milliseconds between two drawings, at least

function start() {
  const model = new Model();
  const scheme = location.protocol === "https:" ? "wss://" : "ws://";
  const client = new Client(`${scheme}${location.host}${location.pathname}`, {
    authenticate: (connection) => identity.authenticate(connection),
    changed() {
      if (client.state === "waiting") monitor.disconnected();
      changed();
    },
    connected: () => void monitor.connected().then(changed),
    received(message) {
      monitor.received(message);
      changed();
    },
  });
  // The path is part of the key: other brokers may be served from the same host.
  const identity = new Identity(client, tabStorage(), `mb.token ${location.pathname}`);
  const monitor = new Monitor(client, model, identity);
  const form = new FormView(client, (failure) => {
    identity.refused(failure);
    changed();
  });
  const changed = batched(() => {
    for (const view of views) view.draw(model);
  });
  const views = [
    new ConnectionView(client),
    new SignInView(identity, changed),
    new FiguresView(),
    new ChartsView(changed),
    new TablesView((topic) => form.use(topic)),
    new MessagesView((following) => monitor.follow(following).then(changed), changed),
  ];
  setInterval(() => monitor.tick().then(changed), 1000);
  window.addEventListener("resize", changed);
  window.addEventListener("online", () => client.retryNow());
  document.addEventListener("visibilitychange", () => document.hidden || client.retryNow());
  client.connect();
  // For use in the browser's console.
  Object.assign(globalThis, { mb: Object.freeze({ client, model }) });
}

/** What the browser keeps for this tab only; null if the user has switched that off. */
function tabStorage() {
  try {
    return window.sessionStorage;
  } catch {
    return null;
  }
}

/**
 * Return a function that draws soon: once for many calls, and never while the page is hidden.
 *
 * @param {() => void} drawAll
 */
function batched(drawAll) {
  let due = false;
  const paint = () => {
    due = false;
    drawAll();
  };
  return () => {
    if (due) return;
    due = true;
    setTimeout(() => requestAnimationFrame(paint), FRAME);
  };
}

start();
