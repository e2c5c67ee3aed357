import assert from "node:assert/strict";
import { test } from "node:test";
import {
  decode,
  encode,
  errorIn,
  isSystem,
  newId,
  parseJson,
  TOPIC,
} from "../../src/mb_broker/page/protocol.js";

test("a header has no more fields than it needs", () => {
  assert.equal(encode("publish", "a.b", "{}"), "publish:a.b:1.0.0\n{}");
  const header = { requestId: "id", timeout: 5000 };
  assert.equal(encode("request", "a.b", "", header), "request:a.b:1.0.0:id::5000\n");
  assert.equal(encode("response", "a.b", "1", { requestId: "id" }), "response:a.b:1.0.0:id\n1");
});

test("a message is read whatever the case of its header, and its payload is left as it is", () => {
  const message = decode('PUBLISH:Shop.Sold:1.0.0:ID:Parent:5000\n{"Big": 1.0}\nrest');
  assert.deepEqual(message, {
    action: "publish",
    topic: "shop.sold",
    requestId: "ID",
    payload: '{"Big": 1.0}\nrest',
  });
});

test("a message may lack its payload, its id and all else", () => {
  const none = { topic: "", requestId: "", payload: "" };
  assert.deepEqual(decode("publish:a"), { ...none, action: "publish", topic: "a" });
  assert.deepEqual(decode(""), { ...none, action: "" });
  assert.deepEqual(decode("\nx"), { ...none, action: "", payload: "x" });
});

test("ids are random UUIDs", () => {
  const ids = Array.from({ length: 200 }, newId);
  for (const id of ids) {
    assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  }
  assert.equal(new Set(ids).size, ids.length);
});

/** @param {string} text */
const read = (text) => errorIn(text, parseJson(text));

test("an error is read as the broker and as services write it", () => {
  const error = { code: "BAD", message: "it broke" };
  assert.deepEqual(read('{"error": {"code": "BAD", "message": "it broke"}}'), error);
  assert.deepEqual(read('error:{"code": "BAD", "message": "it broke"}'), error);
  const details = { limit: 7 };
  const whole = { ...error, details };
  assert.deepEqual(read(JSON.stringify({ error: whole })), whole);
  assert.deepEqual(read(`error:${JSON.stringify(whole)}`), whole);
  assert.deepEqual(read('error:{"code": "BAD"}'), { code: "BAD", message: "" });
  const other = { code: "INTERNAL_ERROR", message: "something else" };
  assert.deepEqual(read("error:something else"), other);
});

test("other payloads are data, also with a key named error", () => {
  for (const text of [
    "",
    "null",
    "7",
    '"error"',
    "[]",
    "{}",
    "not JSON",
    '{"error": "words"}',
    '{"error": null}',
    '{"error": {"code": 7, "message": "x"}}',
    '{"error": {"code": "BAD"}}',
    '{"error": {"code": "BAD", "message": "x"}, "more": 1}',
  ]) {
    assert.equal(read(text), null, text);
  }
});

test("topics are 1 to 5 words", () => {
  for (const topic of ["a", "A.b1.c.d.e", "system.x"]) assert.match(topic, TOPIC);
  for (const topic of ["", "1a", "a.", ".a", "a..b", "a.b.c.d.e.f", "a b", "news.#", "a\n"]) {
    assert.doesNotMatch(topic, TOPIC);
  }
});

test("the broker's own topics begin with the word system", () => {
  for (const topic of ["system", "system.heartbeat", "SYSTEM.log"]) assert.ok(isSystem(topic));
  for (const topic of ["systems.x", "my.system", ""]) assert.ok(!isSystem(topic));
});
