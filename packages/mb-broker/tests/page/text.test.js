import assert from "node:assert/strict";
import { test } from "node:test";
import {
  formatAge,
  formatBytes,
  formatClock,
  formatCount,
  formatDuration,
  formatPast,
  payloadIn,
  plural,
  prettyJson,
} from "../../src/mb_broker/page/text.js";

/** What a function makes of each value, with plain spaces. */
const each = (format, values) => values.map((value) => format(value).replaceAll("\u00a0", " "));

test("counts", () => {
  assert.deepEqual(each(formatCount, [0, 0.25, 12.34, 99.96, 100.4, 1234567]), [
    "0",
    "0.3",
    "12.3",
    "100",
    "100",
    "1,234,567",
  ]);
});

test("durations", () => {
  const values = [null, undefined, 0, 0.04, 0.05, 9.96, 10.4, 999, 1000, 61_500];
  assert.deepEqual(each(formatDuration, values), [
    "–",
    "–",
    "< 1 ms",
    "< 0.1 ms",
    "0.1 ms",
    "10 ms",
    "10 ms",
    "999 ms",
    "1 s",
    "61.5 s",
  ]);
});

test("ages", () => {
  const seconds = [-5, 0, 59, 60, 3599, 3600, 172_799, 172_800];
  assert.deepEqual(
    each(
      formatAge,
      seconds.map((second) => second * 1000),
    ),
    ["0 s", "0 s", "59 s", "1 min", "59 min", "1 h", "47 h", "2 d"],
  );
  assert.deepEqual(each(formatPast, [-10, 1499, 1500, 120_000]), [
    "now",
    "now",
    "2 s ago",
    "2 min ago",
  ]);
});

test("the time of day has milliseconds", () => {
  assert.equal(formatClock(new Date(2026, 0, 2, 3, 4, 5, 6).getTime()), "03:04:05.006");
});

test("bytes and plurals", () => {
  assert.deepEqual(each(formatBytes, [undefined, 0, 73_400_320]), ["–", "0 MB", "70 MB"]);
  const listeners = [0, 1, 2, 1000].map((count) => plural(count, "listener"));
  assert.deepEqual(listeners, ["0 listeners", "1 listener", "2 listeners", "1,000 listeners"]);
});

test("JSON is indented, and what is not JSON is left as it is", () => {
  assert.equal(prettyJson('{"a":[1]}'), '{\n  "a": [\n    1\n  ]\n}');
  assert.equal(prettyJson("not JSON"), "not JSON");
  assert.equal(prettyJson(""), "");
});

test("numbers keep the digits that came", { skip: !JSON.rawJSON && "no JSON.rawJSON" }, () => {
  assert.equal(prettyJson("12345678901234567890"), "12345678901234567890");
  assert.equal(prettyJson("1.0"), "1.0");
});

test("the payload in a message of the feed", () => {
  const within = (payload) => payloadIn(JSON.stringify({ message: { payload } }));
  assert.equal(within({ a: 1 }), '{\n  "a": 1\n}');
  assert.equal(within("words"), "words");
  assert.equal(within('error:{"code":"BAD"}'), 'error:{\n  "code": "BAD"\n}');
  assert.equal(within(undefined), "");
  assert.equal(payloadIn('{"message": {"payl'), '{"message": {"payl');
});
