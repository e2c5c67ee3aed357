import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { Identity } from "../../src/mb_broker/page/identity.js";
import { Failure } from "../../src/mb_broker/page/protocol.js";

const KEY = "mb.token /";

/** A tab's storage. */
class FakeStorage {
  kept = new Map();
  getItem = (key) => this.kept.get(key) ?? null;
  setItem = (key, value) => void this.kept.set(key, value);
  removeItem = (key) => void this.kept.delete(key);
}

/** What the client is asked to do. */
let done;
/** What was sent, and how the broker answers it. */
let sent;
let answer;
/** @type {FakeStorage} */
let storage;
/** @type {Identity} */
let identity;

const client = {
  reconnect: () => done.push("reconnect"),
  drop: (_reason, pause) => done.push(`drop ${pause}`),
  stop: () => done.push("stop"),
};
const connection = {
  ask: async (...message) => {
    sent.push(message);
    const given = await answer(message);
    if (given instanceof Failure) throw given;
    return { text: JSON.stringify(given), elapsed: 1 };
  },
};

const accept = () => ({ status: "success", user: "anna" });
const reject = () => new Failure("UNAUTHORIZED", "the token is invalid");

beforeEach(() => {
  done = [];
  sent = [];
  answer = accept;
  storage = new FakeStorage();
  identity = new Identity(client, storage, KEY);
});

async function signIn(token = "mb_right") {
  identity.signIn(token);
  return identity.authenticate(connection);
}

test("without a token nothing is sent", async () => {
  assert.ok(await identity.authenticate(connection));
  assert.deepEqual(sent, []);
  assert.equal(identity.user, null);
});

test("a token is sent on a new connection, and kept for the tab when it was accepted", async () => {
  identity.signIn("mb_right");
  assert.deepEqual(done, ["reconnect"]);
  assert.ok(identity.isSigningIn);
  assert.equal(storage.kept.size, 0);
  assert.ok(await identity.authenticate(connection));
  assert.deepEqual(sent, [["request", "system.authenticate", '{"token":"mb_right"}', 5000]]);
  assert.equal(identity.user, "anna");
  assert.ok(identity.hasToken);
  assert.ok(!identity.isSigningIn);
  assert.deepEqual([...storage.kept], [[KEY, "mb_right"]]);
});

test("after a reload and after a reconnect it authenticates again", async () => {
  storage.setItem(KEY, "mb_kept");
  identity = new Identity(client, storage, KEY);
  for (let n = 1; n <= 2; n++) {
    assert.ok(await identity.authenticate(connection));
    assert.equal(sent.length, n);
    assert.equal(identity.user, "anna");
  }
});

test("the token of another broker on the same host is not sent", async () => {
  storage.setItem("mb.token /other/", "mb_other");
  identity = new Identity(client, storage, KEY);
  await identity.authenticate(connection);
  assert.deepEqual(sent, []);
});

test("a wrong token is tried once, and never kept", async () => {
  answer = reject;
  assert.ok(await signIn("mb_wrong")); // perhaps anonymous clients may do something
  assert.equal(identity.fault, "The broker does not know this token.");
  assert.equal(storage.kept.size, 0);
  assert.ok(await identity.authenticate(connection));
  assert.equal(sent.length, 1);
  answer = accept;
  await signIn();
  assert.equal(identity.fault, "");
});

test("if the broker needs a token, a wrong one stops the page until another is entered", async () => {
  await identity.authenticate(connection);
  identity.require();
  answer = reject;
  assert.ok(!(await signIn("mb_wrong")));
  assert.deepEqual(done, ["stop", "reconnect", "stop"]);
  assert.ok(identity.isRequired);
  answer = accept;
  assert.ok(await signIn());
  assert.ok(!identity.isRequired);
});

test("a token that is no longer accepted is forgotten", async () => {
  await signIn();
  answer = reject;
  assert.ok(await identity.authenticate(connection));
  assert.equal(identity.fault, "The broker no longer accepts your token.");
  assert.equal(identity.user, null);
  assert.ok(!identity.hasToken);
  assert.equal(storage.kept.size, 0);
});

test("so is one whose user may not do anything any more", async () => {
  await signIn();
  identity.require();
  assert.equal(identity.fault, "The broker no longer accepts your token.");
  assert.ok(identity.isRequired);
  assert.equal(identity.user, null);
  assert.equal(storage.kept.size, 0);
  assert.equal(done.at(-1), "stop");
});

for (const code of ["SERVICE_UNAVAILABLE", "TIMEOUT", "NO_ANSWER"]) {
  test(`after ${code} an accepted token is tried again, ten seconds later`, async () => {
    await signIn();
    answer = () => new Failure(code, "anna already has 1 connection");
    assert.ok(!(await identity.authenticate(connection)));
    assert.equal(done.at(-1), "drop 10000");
    assert.match(identity.fault, /: \w+, anna already has 1 connection$/);
    assert.equal(storage.kept.size, 1);
    answer = accept;
    assert.ok(await identity.authenticate(connection));
    assert.equal(identity.fault, "");
  });

  test(`after ${code} one that was just entered is not`, async () => {
    answer = () => new Failure(code, "anna already has 1 connection");
    assert.ok(await signIn());
    assert.match(
      identity.fault,
      /^You could not be signed in: \w+, anna already has 1 connection$/,
    );
    assert.ok(await identity.authenticate(connection));
    assert.equal(sent.length, 1);
  });
}

test("a token that was accepted outlives lost connections, one that was entered does not", async () => {
  const lose = () => new Failure("CONNECTION_LOST", "the connection was lost: gone");
  answer = lose;
  assert.ok(!(await signIn()));
  assert.match(identity.fault, /^You could not be signed in: CONNECTION_LOST/);
  await identity.authenticate(connection);
  assert.equal(sent.length, 1);
  answer = accept;
  await signIn();
  answer = lose;
  assert.ok(!(await identity.authenticate(connection)));
  assert.ok(identity.hasToken);
  assert.equal(identity.fault, "");
  assert.deepEqual(done, ["reconnect", "reconnect"]); // the client does the rest
});

test("a connection that a token ends is not opened again if the broker needs one", async () => {
  identity.require();
  answer = () => new Failure("CONNECTION_LOST", "the connection was lost: too long");
  assert.ok(!(await signIn("x".repeat(20_000))));
  assert.deepEqual(done, ["stop", "reconnect", "stop"]);
  assert.match(identity.fault, /too long$/);
});

test("another token may be entered before the first is answered", async () => {
  let answerFirst = (_answer) => {};
  answer = () =>
    new Promise((resolve) => {
      answerFirst = resolve;
    });
  identity.signIn("mb_first");
  const first = identity.authenticate(connection);
  identity.signIn("mb_first"); // the same, by a double click
  answerFirst(new Failure("CONNECTION_LOST", ""));
  assert.ok(!(await first));
  assert.equal(identity.fault, "");
  assert.ok(identity.isSigningIn);
  answer = accept;
  assert.ok(await identity.authenticate(connection));
  assert.equal(sent.length, 2);
  assert.equal(identity.user, "anna");
});

test("a broker without users needs no token", async () => {
  answer = () => new Failure("TOPIC_NOT_SUPPORTED", "there is no system topic");
  identity.require();
  assert.ok(await signIn());
  assert.equal(identity.fault, "This broker has no users or tokens.");
  storage.setItem(KEY, "mb_kept");
  identity = new Identity(client, storage, KEY);
  assert.ok(await identity.authenticate(connection));
  assert.equal(identity.fault, "");
  assert.ok(!identity.hasToken);
});

test("to sign out forgets the token", async () => {
  await signIn();
  identity.signOut();
  assert.ok(!identity.hasToken);
  assert.equal(storage.kept.size, 0);
});

test("without storage the token is kept until the page is loaded again", async () => {
  identity = new Identity(client, null, KEY);
  await signIn();
  assert.ok(identity.hasToken);
  identity.signOut();
  storage.setItem = () => {
    throw new DOMException("full", "QuotaExceededError");
  };
  identity = new Identity(client, storage, KEY);
  assert.ok(await signIn());
  assert.ok(identity.hasToken);
});

test("signing in is offered when the broker denies something to an anonymous client", () => {
  const refuse = (code, details) => identity.refused(new Failure(code, "", details));
  refuse("FORBIDDEN", undefined); // as a service may answer
  refuse("FORBIDDEN", { user: null });
  refuse("NO_ROUTE_FOUND", { action: "request", topic: "a.b", user: null });
  refuse("FORBIDDEN", { action: "request", topic: "a.b", user: "anna" });
  assert.ok(!identity.isOffered);
  refuse("FORBIDDEN", { action: "request", topic: "a.b", user: null });
  assert.ok(identity.isOffered);
  identity.learn("proxy-user");
  assert.ok(!identity.isOffered);
  assert.equal(identity.user, "proxy-user");
});

test("a new connection may have no need to sign in", async () => {
  const details = { action: "request", topic: "a.b", user: null };
  identity.refused(new Failure("FORBIDDEN", "", details));
  await identity.authenticate(connection);
  assert.ok(!identity.isOffered);
});

test("nothing that others can read has the token", async () => {
  await signIn("mb_secret");
  assert.ok(!JSON.stringify(identity).includes("mb_secret"));
  answer = () => new Failure("INVALID_REQUEST", "no");
  await signIn("mb_secret");
  assert.ok(!JSON.stringify(identity).includes("mb_secret"));
});

test("mistakes of its own are not hidden", async () => {
  identity.signIn("mb_right");
  answer = () => {
    throw new TypeError("a mistake");
  };
  await assert.rejects(identity.authenticate(connection), TypeError);
  assert.ok(!identity.isSigningIn);
});
