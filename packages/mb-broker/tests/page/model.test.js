import assert from "node:assert/strict";
import { test } from "node:test";
import { Directory, Latencies, Model, Samples } from "../../src/mb_broker/page/model.js";
import { Ring } from "../../src/mb_broker/page/ring.js";

test("a ring keeps the last items, and gives back the one that leaves", () => {
  const ring = new Ring(3);
  assert.deepEqual([...ring], []);
  assert.deepEqual(
    [1, 2, 3, 4, 5].map((item) => ring.push(item)),
    [undefined, undefined, undefined, 1, 2],
  );
  assert.deepEqual([...ring], [5, 4, 3]);
  assert.equal(ring.length, 3);
});

test("the latest sample is the one that was added last", () => {
  const samples = new Samples();
  assert.equal(samples.latest, undefined);
  samples.add(1000, { a: 1 });
  samples.add(2000, { a: 2 });
  assert.deepEqual(samples.latest, { time: 2000, values: { a: 2 } });
});

test("samples are given since a time, the oldest first", () => {
  const samples = new Samples();
  for (const second of [1, 2, 3, 4]) samples.add(second * 1000, { a: second });
  const times = samples.since(2000, 1000).map(({ time }) => time);
  assert.deepEqual(times, [2000, 3000, 4000]);
  assert.deepEqual(samples.since(5000, 1000), []);
});

test("over a long span, a point has the highest values of its samples", () => {
  const samples = new Samples();
  samples.add(10_000, { rate: 3, latency: null });
  samples.add(11_000, { rate: 9, latency: 5 });
  samples.add(12_000, { rate: 1, latency: null });
  samples.add(20_000, { rate: 0, latency: null });
  assert.deepEqual(samples.since(0, 10_000), [
    { time: 10_000, values: { rate: 9, latency: 5 } },
    { time: 20_000, values: { rate: 0, latency: null } },
  ]);
  // The samples themselves stay as they were.
  assert.deepEqual(samples.since(12_000, 1000)[0], {
    time: 12_000,
    values: { rate: 1, latency: null },
  });
});

test("samples of one hour are kept", () => {
  const samples = new Samples();
  for (let second = 0; second < 4000; second++) samples.add(second * 1000, {});
  const kept = samples.since(0, 1000);
  assert.equal(kept.length, 3600);
  assert.equal(kept[0].time, 400_000);
});

test("latencies are taken once", () => {
  const latencies = new Latencies();
  const none = { average: null, slowest: null };
  assert.deepEqual(latencies.take(), none);
  for (const latency of [1, 2, 6]) latencies.add(latency);
  assert.deepEqual(latencies.take(), { average: 3, slowest: 6 });
  assert.deepEqual(latencies.take(), none);
});

const ID = "0123456789abcdef";

/** A service as the broker lists it. */
const service = (id, name, lastHeartbeat = new Date().toISOString()) => ({
  id,
  name,
  description: "",
  connectedAt: lastHeartbeat,
  lastHeartbeat,
});

test("a service is called by its name, or by the beginning of its id", () => {
  const directory = new Directory();
  directory.setServices(
    [service("a", "Weather"), service(ID, ""), service("me", "Status page 1")],
    "Status page 1",
  );
  assert.equal(directory.nameOf("a"), "Weather");
  assert.equal(directory.nameOf(ID), "01234567");
  assert.equal(directory.nameOf("me"), "this page");
  assert.equal(directory.nameOf("gone-long-ago"), "gone-lon");
});

test("ages are those by the broker's clock", () => {
  const directory = new Directory();
  const brokerTime = Date.now() + 3_600_000;
  const me = service("me", "Status page 1", new Date(brokerTime).toISOString());
  directory.setServices([me], "Status page 1");
  const age = directory.age(new Date(brokerTime - 10_000).toISOString());
  assert.ok(Math.abs(age - 10_000) < 2000, String(age));
});

test("a list without this page leaves its id and the clock as they were", () => {
  const directory = new Directory();
  directory.setServices([service("me", "Status page 1")], "Status page 1");
  const { clockAhead } = directory;
  directory.setServices([service("a", "Weather", "2020-01-01T00:00:00Z")], "Status page 1");
  assert.equal(directory.own, "me");
  assert.equal(directory.clockAhead, clockAhead);
  assert.deepEqual(
    directory.services.map(({ id }) => id),
    ["a"],
  );
});

test("the model measures the requests of its trace", () => {
  const model = new Model();
  const take = (fields, header) =>
    model.trace.take(JSON.stringify({ ...fields, message: { header, payload: {} } }));
  const timestamp = "2026-01-01T00:00:00.000Z";
  const header = { action: "request", topic: "a.b", requestId: "q" };
  take({ timestamp, from: "a" }, header);
  take({ timestamp, to: "b", maskedId: "q" }, { ...header, requestId: "b" });
  const answered = { ...header, action: "response" };
  take({ timestamp: "2026-01-01T00:00:00.040Z", to: "a" }, answered);
  assert.deepEqual(model.latencies.take(), { average: 40, slowest: 40 });
});
