import assert from "node:assert/strict";
import { test } from "node:test";
import { oneLine, payloadFault, timeoutFault, topicFault } from "../../src/mb_broker/page/form.js";

test("a payload is sent on one line, with all its digits", () => {
  assert.equal(
    oneLine('\n{\r\n  "big": 12345678901234567890\n}\n'),
    '{   "big": 12345678901234567890 }',
  );
});

test("topics of five words and 255 letters are allowed", () => {
  for (const topic of ["a", "A.b.c.d.e9", "a".repeat(255)]) assert.equal(topicFault(topic), "");
  for (const topic of ["", "a.", "9a", "a b", "a.b.c.d.e.f", "a".repeat(256)]) {
    assert.match(topicFault(topic), /^A topic has 1 to 5 segments/);
  }
});

test("payloads are JSON or empty, and not larger than the broker takes", () => {
  for (const text of ["", "  ", "{}", "7", '"x"', `"${"x".repeat(16_382)}"`]) {
    assert.equal(payloadFault(text), "");
  }
  for (const text of ["{", "'x'", '{"a": 1}\n{"b": 2}', "NaN"]) {
    assert.match(payloadFault(text), /^This is not valid JSON: ./);
  }
  assert.equal(
    payloadFault(`"${"é".repeat(8192)}"`),
    "The payload has 16,386 bytes; the limit is 16,384.",
  );
});

test("a time limit is a whole number from 1 to one hour", () => {
  for (const text of ["1", "5000", "3600000"]) assert.equal(timeoutFault(text), "");
  for (const text of ["", "0", "-1", "1.5", "3600001", "words"]) {
    assert.match(timeoutFault(text), /^The time limit must be a whole number/);
  }
});
