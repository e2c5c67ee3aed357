import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { Trace } from "../../src/mb_broker/page/trace.js";

const START = "2026-01-01T12:00:00.000Z";
const LATER = "2026-01-01T12:00:00.0125Z";

/** @type {Trace} */
let trace;
/** @type {number[]} */
let latencies;

beforeEach(() => {
  latencies = [];
  trace = new Trace((latency) => latencies.push(latency));
});

/** Give the trace one message of the audit feed. */
function take(fields, header, payload = {}) {
  trace.take(JSON.stringify({ timestamp: START, ...fields, message: { header, payload } }));
}

/** Service a asks, and service b is asked. */
function ask(requestId, topic = "do.it", parentRequestId = undefined) {
  const header = { action: "request", topic };
  take({ from: "a", timeout: 5000 }, { ...header, requestId, parentRequestId });
  take({ to: "b", maskedId: requestId }, { ...header, requestId: `b-${requestId}` });
}

/** Service b answers, and the broker returns it to service a. */
function answer(requestId, payload = {}, topic = "do.it") {
  const header = { action: "response", topic };
  take({ from: "b" }, { ...header, requestId: `b-${requestId}` }, payload);
  take({ to: "a", timestamp: LATER }, { ...header, requestId }, payload);
}

function publish(requestId, topic = "news.today") {
  take({ from: "a" }, { action: "publish", topic, requestId });
}

const roots = () => [...trace.roots()];
const errorOf = (code) => ({ error: { code, message: "words" } });

test("a request waits, and is answered after some milliseconds", () => {
  ask("q");
  const [exchange] = roots();
  assert.equal(exchange.status, "waiting");
  assert.equal(exchange.duration, null);
  assert.equal(exchange.brokerId, "b-q");
  assert.deepEqual(exchange.targets, ["b"]);
  answer("q", { done: true });
  assert.equal(exchange.status, "answered");
  assert.equal(exchange.duration, 12.5);
  assert.deepEqual(JSON.parse(exchange.answer).message.payload, { done: true });
  assert.deepEqual(latencies, [12.5]);
  assert.equal(roots().length, 1);
});

test("topics are the same in any case", () => {
  ask("q", "Do.It");
  answer("q", {}, "DO.IT");
  assert.equal(roots()[0].status, "answered");
});

test("a request fails with the error that comes back, and its latency counts", () => {
  ask("q");
  answer("q", errorOf("BAD"));
  const [exchange] = roots();
  assert.equal(exchange.status, "failed");
  assert.equal(exchange.error.code, "BAD");
  assert.equal(trace.failed, 1);
  assert.deepEqual(latencies, [12.5]);
});

test("a service's error in its own form is one as well", () => {
  ask("q");
  answer("q", 'error:{"code": "BAD", "message": "words"}');
  assert.deepEqual(roots()[0].error, { code: "BAD", message: "words" });
});

test("a request that reaches nobody fails without a latency", () => {
  take({ from: "a" }, { action: "request", topic: "no.one", requestId: "q" });
  take(
    { to: "a", timestamp: LATER },
    { action: "response", topic: "no.one", requestId: "q" },
    errorOf("NO_ROUTE_FOUND"),
  );
  assert.equal(roots()[0].status, "failed");
  assert.deepEqual(latencies, []);
});

test("a response to another service than the one that asked is not the answer", () => {
  ask("q");
  publish("p");
  take({ to: "other" }, { action: "response", topic: "do.it", requestId: "q" });
  assert.equal(roots()[1].status, "waiting");
});

test("an error that comes twice counts once", () => {
  ask("q");
  answer("q", errorOf("BAD"));
  take({ to: "a" }, { action: "response", topic: "do.it", requestId: "q" }, errorOf("BAD"));
  assert.equal(trace.failed, 1);
});

test("a publication is sent to those who are subscribed", () => {
  publish("p");
  for (const to of ["b", "c"]) take({ to }, { action: "publish", topic: "news.today" });
  const [exchange] = roots();
  assert.equal(exchange.status, "sent");
  assert.deepEqual(exchange.targets, ["b", "c"]);
});

test("a publication that nobody is subscribed to is unheard, which is not an error", () => {
  publish("p");
  take(
    { to: "a" },
    { action: "response", topic: "news.today", requestId: "p" },
    errorOf("NO_ROUTE_FOUND"),
  );
  assert.equal(roots()[0].status, "unheard");
  assert.equal(trace.failed, 0);
});

test("a publication that the broker refuses for another reason fails", () => {
  publish("p");
  const response = { action: "response", topic: "news.today", requestId: "p" };
  take({ to: "a" }, response, errorOf("UNAUTHORIZED"));
  assert.equal(roots()[0].status, "failed");
});

test("a message without an id is refused with an id that nobody has seen", () => {
  take({ from: "a" }, { action: "publish", topic: "system.log" });
  const response = { action: "response", topic: "system.log", requestId: "new" };
  take({ to: "other" }, response, errorOf("BAD"));
  assert.equal(roots()[0].status, "sent");
  take({ to: "a" }, response, errorOf("BAD"));
  assert.equal(roots()[0].status, "failed");
});

test("the answer to a request without an id is the end of it", () => {
  take({ from: "a" }, { action: "request", topic: "do.it" });
  take({ to: "b" }, { action: "request", topic: "do.it", requestId: "b-id" });
  take({ from: "b" }, { action: "response", topic: "do.it", requestId: "b-id" });
  assert.equal(roots()[0].status, "answered");
});

test("a response that nobody waits for is an error of its own", () => {
  take({ from: "b" }, { action: "response", topic: "do.it", requestId: "unknown" });
  const [stray] = roots();
  assert.equal(stray.status, "failed");
  assert.equal(stray.error.code, "INVALID_REQUEST_ID");
});

test("a second response, and one of a service that was not asked, are errors below the request", () => {
  ask("q");
  take({ from: "c" }, { action: "response", topic: "do.it", requestId: "b-q" });
  assert.equal(roots()[0].status, "waiting");
  answer("q");
  take({ from: "b" }, { action: "response", topic: "do.it", requestId: "b-q" });
  const [request] = roots();
  assert.equal(request.status, "answered");
  assert.deepEqual(
    request.effects.map(({ status }) => status),
    ["failed", "failed"],
  );
  assert.equal(trace.failed, 2);
});

test("answers to heartbeats are not shown", () => {
  take({ from: "b" }, { action: "response", topic: "system.heartbeat", requestId: "h" });
  assert.deepEqual(roots(), []);
});

test("effects are shown below their cause, by either of its ids", () => {
  ask("q");
  ask("inner", "inner.one", "b-q");
  ask("own", "inner.two", "q");
  const [cause, ...others] = roots();
  assert.deepEqual(others, []);
  assert.deepEqual(
    cause.effects.map(({ topic }) => topic),
    ["inner.one", "inner.two"],
  );
  assert.equal(cause.effects[0].parentId, "b-q");
});

test("effects are nested to a depth of 16, and go on beside each other", () => {
  ask("q0");
  for (let n = 1; n < 40; n++) ask(`q${n}`, "inner.one", `b-q${n - 1}`);
  let deepest = 0;
  let count = 0;
  const visit = (exchange) => {
    deepest = Math.max(deepest, exchange.depth);
    count += 1;
    exchange.effects.forEach(visit);
  };
  roots().forEach(visit);
  assert.equal(deepest, 16);
  assert.equal(count, 40);
});

test("roots are given from the newest to the oldest", () => {
  for (const id of ["1", "2", "3"]) ask(id);
  assert.deepEqual(
    roots().map(({ requestId }) => requestId),
    ["3", "2", "1"],
  );
});

test("of old exchanges, those that failed and those that wait are kept, in bounds", () => {
  ask("bad");
  answer("bad", errorOf("EARLY"));
  ask("slow");
  for (let n = 0; n < 2000; n++) {
    ask(`q${n}`);
    answer(`q${n}`);
  }
  assert.equal(roots().length, 501); // 500 recent ones, and the one that failed
  answer("slow", errorOf("LATE"));
  assert.deepEqual(
    roots()
      .slice(500)
      .map(({ error }) => error.code),
    ["LATE", "EARLY"],
  );
  for (let n = 0; n < 1000; n++) {
    ask(`bad${n}`);
    answer(`bad${n}`, errorOf("BAD"));
  }
  assert.equal(roots().length, 600);
  assert.equal(trace.failed, 1002);
});

test("requests that are never answered are forgotten at last", () => {
  ask("first");
  for (let n = 0; n < 1600; n++) ask(`q${n}`);
  assert.equal(roots().length, 500);
  // Nobody is known to wait for this answer any more, and it is not shown as an error.
  take({ to: "a" }, { action: "response", topic: "do.it", requestId: "first" });
  assert.equal(trace.failed, 0);
  answer("q200");
  assert.equal(latencies.length, 1);
});

test("an effect whose cause is forgotten stands alone", () => {
  ask("cause");
  answer("cause");
  for (let n = 0; n < 499; n++) publish(`p${n}`);
  ask("effect", "inner.one", "b-cause");
  const known = roots().find(({ requestId }) => requestId === "effect");
  assert.equal(known?.parent, null);
  assert.ok(!roots().some(({ requestId }) => requestId === "cause"));
});

test("an effect stands alone while its cause is old and still waits", () => {
  ask("cause");
  for (let n = 0; n < 499; n++) publish(`p${n}`);
  ask("effect", "inner.one", "b-cause");
  assert.equal(roots()[0].parent?.requestId, "cause");
  assert.equal(roots()[0].requestId, "effect");
});

test("a cause that is kept loses the effects that are forgotten", () => {
  ask("cause");
  ask("effect", "inner.one", "b-cause");
  answer("effect", {}, "inner.one");
  for (let n = 0; n < 600; n++) publish(`p${n}`);
  answer("cause", errorOf("LATE"));
  const cause = roots().at(-1);
  assert.equal(cause.requestId, "cause");
  assert.deepEqual(cause.effects, []);
});

test("after a gap, the last message gets no answer either", () => {
  ask("q");
  trace.interrupt();
  take({ from: "a" }, { action: "publish", topic: "system.log" });
  trace.interrupt();
  const refused = { action: "response", topic: "system.log", requestId: "new" };
  take({ to: "a" }, refused, errorOf("BAD"));
  assert.deepEqual(
    roots().map(({ status }) => status),
    ["sent", "unknown"],
  );
});

test("after a gap, what waited is unknown, and later answers do not count", () => {
  for (let n = 0; n < 600; n++) ask(`q${n}`);
  trace.interrupt();
  assert.deepEqual(new Set(roots().map(({ status }) => status)), new Set(["unknown"]));
  answer("q0");
  assert.deepEqual(latencies, []);
});

test("long texts are cut", () => {
  const payload = "x".repeat(100_000);
  take({ from: "a" }, { action: "publish", topic: "news.today", requestId: "p" }, payload);
  assert.equal(roots()[0].question.length, 65_536);
});

test("what is not a message of the feed is counted and skipped", () => {
  for (const text of ["", "7", "null", "{}", '{"message": {}}', '{"message": {"header": []}}']) {
    trace.take(text);
  }
  trace.take('{"from": "a", "message": {"header": {"action": "publish", "topic": 7}}}');
  assert.equal(trace.taken, 7);
  assert.deepEqual(roots(), []);
});

test("a message that is passed on without having been sent is skipped", () => {
  take({ to: "b" }, { action: "publish", topic: "news.today" });
  take({ to: "b", maskedId: "?" }, { action: "request", topic: "do.it", requestId: "b" });
  assert.deepEqual(roots(), []);
});
