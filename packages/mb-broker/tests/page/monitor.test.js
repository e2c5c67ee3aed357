import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { Model } from "../../src/mb_broker/page/model.js";
import { Flood, Monitor } from "../../src/mb_broker/page/monitor.js";
import { Failure } from "../../src/mb_broker/page/protocol.js";

test("a flood is more than the limit, for some seconds on end", () => {
  const flood = new Flood(10, 2);
  const send = (count, from) => {
    const results = [];
    for (let n = 0; n < count; n++) results.push(flood.count(from + (1000 * n) / (count - 1)));
    return results.includes(true);
  };
  flood.count(1000);
  assert.ok(!send(20, 1000));
  assert.ok(!send(5, 2000)); // a quiet second starts over
  assert.ok(!send(20, 3000));
  assert.ok(send(20, 4000));
  assert.ok(Math.abs(flood.rate - 20) <= 1, String(flood.rate));
});

test("as many as the limit are not a flood", () => {
  const flood = new Flood(10, 1);
  flood.count(1000);
  for (let n = 1; n <= 100; n++) assert.ok(!flood.count(1000 + n * 100));
});

/** A client that is connected to a broker made of these answers. */
class FakeClient {
  state = "connected";
  asked = [];
  dropped = [];
  /** @type {Record<string, Failure>} */
  refused = {};
  answers = {
    "system.service.list": { services: [] },
    "system.topic.subscriptions": { subscriptions: [{ topic: "a.b" }] },
    "system.metrics": { metrics: {} },
  };

  async request(topic, payload) {
    this.asked.push(topic);
    if (this.refused[topic]) throw this.refused[topic];
    const answer = this.answers[topic] ?? {};
    if (answer instanceof Failure) throw answer;
    if (topic === "system.service.register") {
      const { name } = JSON.parse(payload);
      const now = new Date().toISOString();
      const me = { id: "my-id", name, connectedAt: now, lastHeartbeat: now };
      this.answers["system.service.list"] = { services: [me] };
    }
    return { text: JSON.stringify(answer), elapsed: 1 };
  }

  drop(reason) {
    this.dropped.push(reason);
  }
}

/** @type {FakeClient} */
let client;
/** @type {Model} */
let model;
/** @type {Monitor} */
let monitor;
/** What the identity is notified of. */
let noted;

beforeEach(() => {
  client = new FakeClient();
  model = new Model();
  noted = [];
  monitor = new Monitor(client, model, {
    admitted: () => noted.push("admitted"),
    learn: (user) => noted.push(`user ${user}`),
    refused: ({ code }) => noted.push(code),
    require: () => {
      noted.push("required");
      client.state = "stopped";
    },
  });
});

/** The broker denies this to anonymous clients, or to a user. */
function forbid(topic, user = null) {
  const details = { action: "request", topic, user };
  client.refused[topic] = new Failure("FORBIDDEN", `may not use ${topic}`, details);
}

/** A message of the audit feed: somebody published. */
function feed(from, topic = "news.today", payload = {}) {
  const entry = { timestamp: new Date().toISOString(), from };
  const message = { header: { action: "publish", topic, requestId: "p" }, payload };
  monitor.received({ topic: "system.message", payload: JSON.stringify({ ...entry, message }) });
}

test("after a connect it registers, reads who is there, and follows, in this order", async () => {
  await monitor.connected();
  assert.deepEqual(client.asked, [
    "system.service.register",
    "system.service.list",
    "system.topic.subscriptions",
    "system.topic.subscribe",
  ]);
  assert.equal(model.directory.own, "my-id");
  assert.deepEqual(model.directory.topics, [{ topic: "a.b" }]);
});

test("it does not follow after a connect if the user has switched Follow off", async () => {
  await monitor.follow(false);
  client.asked.length = 0;
  await monitor.connected();
  assert.ok(!client.asked.includes("system.topic.subscribe"));
  feed("a");
  assert.equal(model.trace.taken, 0);
});

test("each second it measures, and every third it reads who is there", async () => {
  await monitor.tick();
  await monitor.tick();
  assert.ok(!client.asked.includes("system.service.list"));
  await monitor.tick();
  const measured = client.asked.filter((topic) => topic === "system.metrics");
  assert.equal(measured.length, 3);
  const listed = client.asked.filter((topic) => topic === "system.service.list");
  assert.equal(listed.length, 1);
});

for (const topic of ["topic.subscribe", "topic.unsubscribe", "service.register", "authenticate"]) {
  test(`after system.${topic} it reads who is there at once`, async () => {
    feed("a", `system.${topic}`);
    await monitor.tick();
    assert.ok(client.asked.includes("system.service.list"));
  });
}

test("errors are the sum of all that went wrong", async () => {
  model.latencies.add(4);
  client.answers["system.metrics"] = {
    metrics: {
      "router.message.rate": 30,
      "router.publish.rate": 10,
      "router.request.rate": 20,
      "router.message.rate.error": 1,
      "router.response.rate.error": 2,
      "router.request.rate.timeout": 4,
    },
  };
  await monitor.tick();
  assert.deepEqual(model.samples.latest?.values, {
    message: 30,
    publish: 10,
    request: 20,
    error: 7,
    average: 4,
    slowest: 4,
  });
});

test("it asks nothing while there is no connection, or no answer yet", async () => {
  client.state = "waiting";
  await monitor.tick();
  assert.deepEqual(client.asked, []);
  client.state = "connected";
  await Promise.all([monitor.tick(), monitor.tick()]);
  assert.deepEqual(client.asked, ["system.metrics"]);
});

test("its own questions are not shown, but what the user sends from it is", async () => {
  await monitor.connected();
  feed("my-id", "system.metrics");
  assert.equal(model.trace.taken, 0);
  feed("my-id", "shop.sold");
  feed("other", "system.metrics");
  feed("other", "system.metrics", { about: "my-id" });
  assert.equal(model.trace.taken, 3);
});

test("other messages than those of the feed are skipped", () => {
  monitor.received({ topic: "news.today", payload: "{}" });
  assert.equal(model.trace.taken, 0);
});

test("what the broker refuses is said", async () => {
  client.answers["system.metrics"] = new Failure("INVALID_REQUEST", "not now");
  await monitor.tick();
  assert.equal(model.notice, "The broker refused its metrics: INVALID_REQUEST, not now");
  assert.equal(model.samples.latest, undefined);
});

test("a broker that does not answer is treated as dead, and a lost connection is not news", async () => {
  client.answers["system.metrics"] = new Failure("NO_ANSWER", "");
  await monitor.tick();
  assert.deepEqual(client.dropped, ["the broker does not answer"]);
  client.answers["system.metrics"] = new Failure("CONNECTION_LOST", "");
  await monitor.tick();
  assert.equal(client.dropped.length, 1);
  assert.equal(model.notice, "");
});

test("mistakes of its own are not hidden", async () => {
  client.request = async () => ({ text: "not JSON", elapsed: 1 });
  await assert.rejects(monitor.tick(), SyntaxError);
});

test("it stops following what nobody can read", (context) => {
  let now = 10_000;
  context.mock.method(performance, "now", () => now);
  feed("a");
  for (let n = 1; n <= 10_000 && model.following; n++) {
    now += 0.2; // 5,000 a second
    feed("a");
  }
  assert.equal(model.following, false);
  assert.match(model.notice, /^Follow was turned off: 5,00\d messages a second are too many/);
  assert.ok(client.asked.includes("system.topic.unsubscribe"));
});

test("without a connection there are no metrics, and what waits is unknown", () => {
  model.metrics = { "process.uptime": 7 };
  const header = { action: "request", topic: "do.it", requestId: "q" };
  const entry = { timestamp: new Date().toISOString(), from: "a", message: { header } };
  monitor.received({ topic: "system.message", payload: JSON.stringify(entry) });
  monitor.disconnected();
  assert.deepEqual(model.metrics, {});
  assert.deepEqual(
    [...model.trace.roots()].map(({ status }) => status),
    ["unknown"],
  );
});

test("a broker that needs a token is asked once", async () => {
  client.answers["system.service.register"] = new Failure("UNAUTHORIZED", "authenticate first");
  await monitor.connected();
  await monitor.tick();
  assert.deepEqual(client.asked, ["system.service.register"]);
  assert.deepEqual(noted, ["required"]);
  assert.equal(model.notice, "");
});

test("so is one that needs a token later", async () => {
  await monitor.connected();
  client.asked.length = 0;
  client.answers["system.metrics"] = new Failure("UNAUTHORIZED", "authenticate first");
  await monitor.tick();
  await monitor.tick();
  assert.deepEqual(client.asked, ["system.metrics"]);
  assert.deepEqual(noted, ["admitted", "required"]);
});

test("what is denied is not asked for again, and the rest works", async () => {
  forbid("system.service.list");
  forbid("system.topic.subscribe");
  await monitor.connected();
  for (let n = 0; n < 6; n++) await monitor.tick();
  assert.deepEqual(model.denied, new Set(["services", "message"]));
  const asked = (topic) => client.asked.filter((each) => each === topic).length;
  assert.equal(asked("system.service.list"), 1);
  assert.equal(asked("system.topic.subscribe"), 1);
  assert.equal(asked("system.topic.subscriptions"), 3);
  assert.equal(asked("system.metrics"), 6);
  assert.deepEqual(model.directory.topics, [{ topic: "a.b" }]);
  assert.deepEqual(noted, ["admitted", "FORBIDDEN", "FORBIDDEN"]);
  assert.equal(model.notice, "");
});

test("what is denied after a reconnect is no longer shown", async () => {
  client.answers["system.metrics"] = { metrics: { "process.uptime": 7 } };
  await monitor.connected();
  await monitor.tick();
  for (const topic of ["system.metrics", "system.service.list", "system.topic.subscriptions"]) {
    forbid(topic, "anna");
  }
  await monitor.connected();
  await monitor.tick();
  assert.deepEqual(model.denied, new Set(["services", "topics", "metrics"]));
  assert.deepEqual(noted, ["admitted", "admitted", "user anna", "user anna", "user anna"]);
  assert.deepEqual(model.metrics, {});
  assert.deepEqual(model.directory.services, []);
  assert.deepEqual(model.directory.topics, []);
});

test("a new connection is asked for everything again", async () => {
  forbid("system.metrics");
  await monitor.connected();
  await monitor.tick();
  client.refused = {};
  client.answers["system.metrics"] = { metrics: { "process.uptime": 7 } };
  await monitor.connected();
  await monitor.tick();
  assert.deepEqual(model.denied, new Set());
  assert.deepEqual(model.metrics, { "process.uptime": 7 });
});

test("latencies are measured without metrics, too", async () => {
  forbid("system.metrics");
  await monitor.tick();
  model.latencies.add(4);
  await monitor.tick();
  assert.deepEqual(model.samples.latest?.values, { average: 4, slowest: 4 });
});

test("its user is what the list of services says", async () => {
  const request = client.request.bind(client);
  client.request = async (topic, payload) => {
    const answer = await request(topic, payload);
    for (const service of client.answers["system.service.list"].services) service.user = "anna";
    return answer;
  };
  await monitor.connected();
  assert.deepEqual(noted, ["admitted", "user anna"]);
});

test("without the list of services it finds its own id in the feed", async () => {
  forbid("system.service.list");
  await monitor.connected();
  const { name } = client.answers["system.service.list"].services[0];
  assert.deepEqual(client.asked, [
    "system.service.register",
    "system.service.list",
    "system.topic.subscriptions",
    "system.topic.subscribe",
    "system.service.register",
  ]);
  assert.equal(model.directory.own, null);
  feed("other-id", "news.today", { name });
  assert.equal(model.directory.own, null);
  feed("my-id", "system.service.register", { name });
  assert.equal(model.directory.own, "my-id");
  feed("my-id", "system.metrics");
  assert.equal(model.trace.taken, 1);
});

test("it stops following when the broker ends its subscription", async () => {
  await monitor.connected();
  /** The broker says that it has ended this, with this error. */
  const end = (topic, code = "FORBIDDEN") => {
    const error = { code, message: "may not", details: { action: "subscribe", topic, user: null } };
    const payload = JSON.stringify({ error });
    monitor.received({ action: "response", topic: "system.topic.subscribe", payload });
  };
  end("shop.#");
  end("system.message", "INVALID_REQUEST");
  assert.deepEqual(model.denied, new Set());
  end("system.message");
  assert.deepEqual(model.denied, new Set(["message"]));
  assert.deepEqual(noted, ["admitted", "FORBIDDEN"]);
});
