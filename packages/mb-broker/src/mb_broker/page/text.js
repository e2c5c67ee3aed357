// Values as text: numbers, times and JSON.

const counts = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

/** @param {number} count */
export function formatCount(count) {
  return counts.format(count >= 100 ? Math.round(count) : count);
}

/** @param {number | null | undefined} millis */
export function formatDuration(millis) {
  if (millis === null || millis === undefined) return "–";
  if (millis >= 1000) return `${counts.format(millis / 1000)}\u00a0s`;
  if (millis >= 10) return `${Math.round(millis)}\u00a0ms`;
  if (millis >= 0.05) return `${counts.format(millis)}\u00a0ms`;
  return millis > 0 ? "<\u00a00.1\u00a0ms" : "<\u00a01\u00a0ms"; // 0 by a clock of milliseconds
}

/** @param {number} millis */
export function formatAge(millis) {
  const seconds = Math.max(0, Math.round(millis / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

/** @param {number} millis how long ago */
export function formatPast(millis) {
  return millis < 1500 ? "now" : `${formatAge(millis)} ago`;
}

/**
 * The local time of day, to the millisecond.
 *
 * @param {number} millis
 */
export function formatClock(millis) {
  const date = new Date(millis);
  /** @param {number} number */
  const two = (number) => String(number).padStart(2, "0");
  const clock = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return `${clock}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

/** @param {number | undefined} bytes */
export function formatBytes(bytes) {
  return bytes === undefined ? "–" : `${formatCount(Math.round(bytes / 1_048_576))} MB`;
}

/**
 * @param {number} count
 * @param {string} one the word for one of them
 */
export function plural(count, one) {
  return `${formatCount(count)} ${one}${count === 1 ? "" : "s"}`;
}

/**
 * JSON for people; numbers keep all their digits if the browser supports that.
 *
 * @param {string} text
 */
export function prettyJson(text) {
  const value = parseExactly(text);
  return value === undefined ? text : JSON.stringify(value, null, 2);
}

/**
 * The value of a JSON text, for JSON.stringify to keep the spelling of numbers; undefined if it
is not valid.
 *
 * @param {string} text
 */
function parseExactly(text) {
  /** @type {JSON & {rawJSON?: (text: string) => unknown}} */
  const { rawJSON } = JSON; // Chromium 114, Firefox 135, Safari 18.4
  /**
   * @param {string} _key
   * @param {unknown} value
   * @param {{source: string}} [context]
   */
  const keepDigits = (_key, value, context) =>
    rawJSON && context && typeof value === "number" ? rawJSON(context.source) : value;
  try {
    return JSON.parse(text, rawJSON && keepDigits);
  } catch {
    return undefined;
  }
}

/**
 * The payload in a message of the audit feed, for people.
 *
 * @param {string} text
 */
export function payloadIn(text) {
  const entry = parseExactly(text);
  if (entry === undefined) return text; // it was too long to keep whole
  const { payload } = entry.message;
  if (typeof payload !== "string") return JSON.stringify(payload, null, 2) ?? "";
  return payload.startsWith("error:") ? `error:${prettyJson(payload.slice(6))}` : payload;
}
