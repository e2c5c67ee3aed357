import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";
import { Client, retryDelay } from "../../src/mb_broker/page/client.js";
import { decode, Failure } from "../../src/mb_broker/page/protocol.js";

/** A WebSocket whose other side is the test. */
class FakeSocket {
  /** @type {FakeSocket[]} */
  static opened = [];
  sent = [];
  closed = false;

  constructor(url) {
    this.url = url;
    FakeSocket.opened.push(this);
  }

  send(text) {
    this.sent.push(text);
  }

  close() {
    this.closed = true;
  }

  /** Let the broker send this. */
  receive(text) {
    this.onmessage({ data: text });
  }
}

const GREETING = "publish:system.initialize:1.0.0\n{}";

/** @type {Client} */
let client;
/** @type {{changed: string[], connected: number, received: object[]}} */
let seen;

beforeEach(() => {
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout"] });
  mock.restoreAll();
  mock.method(Math, "random", () => 1);
  globalThis.WebSocket = FakeSocket;
  FakeSocket.opened.length = 0;
  seen = { changed: [], connected: 0, received: [] };
  client = new Client("ws://broker/", {
    changed: () => seen.changed.push(client.state),
    connected: () => {
      seen.connected += 1;
    },
    received: (message) => seen.received.push(message),
  });
});

const socket = () => FakeSocket.opened.at(-1);

function connect() {
  client.connect();
  socket().receive(GREETING);
}

/** The id of the last message that was sent. */
const sentId = () => decode(socket().sent.at(-1)).requestId;

test("attempts are spread and grow apart", () => {
  const delays = [0, 1, 2, 5, 50].map((attempts) => [
    retryDelay(attempts, 0),
    retryDelay(attempts, 1),
  ]);
  assert.deepEqual(delays, [
    [50, 100],
    [100, 200],
    [200, 400],
    [1000, 2000],
    [1000, 2000],
  ]);
});

test("it is connected when the broker has greeted", () => {
  client.connect();
  assert.equal(client.state, "connecting");
  socket().receive(GREETING);
  assert.equal(client.state, "connected");
  assert.equal(seen.connected, 1);
  assert.equal(socket().url, "ws://broker/");
  mock.timers.tick(60_000);
  assert.equal(client.state, "connected");
});

test("a broker that does not greet within five seconds is given up", () => {
  client.connect();
  mock.timers.tick(4999);
  assert.equal(client.state, "connecting");
  mock.timers.tick(1);
  assert.equal(client.state, "waiting");
  assert.equal(client.reason, "the broker did not send its greeting");
  assert.ok(socket().closed);
});

test("a request is answered with the payload as it came", async () => {
  connect();
  const answer = client.request("do.it", '{"n": 1}', 700);
  assert.equal(socket().sent[0], `request:do.it:1.0.0:${sentId()}::700\n{"n": 1}`);
  socket().receive(`response:do.it:1.0.0:${sentId()}\n{"big": 12345678901234567890}`);
  assert.equal((await answer).text, '{"big": 12345678901234567890}');
});

test("an error is a Failure with its details", async () => {
  connect();
  const answer = client.request("do.it", "");
  const error = { code: "BAD", message: "it broke", details: { limit: 7 } };
  socket().receive(`response:do.it:1.0.0:${sentId()}\n${JSON.stringify({ error })}`);
  await assert.rejects(answer, (failure) => {
    assert.ok(failure instanceof Failure);
    const { code, message, details } = failure;
    assert.deepEqual({ code, message, details }, error);
    return true;
  });
});

test("a publication is confirmed, and has no time limit in its header", async () => {
  connect();
  const confirmed = client.publish("shop.sold", "{}");
  assert.equal(socket().sent[0], `publish:shop.sold:1.0.0:${sentId()}\n{}`);
  socket().receive(`response:shop.sold:1.0.0:${sentId()}\n{}`);
  assert.equal((await confirmed).text, "{}");
});

test("without an answer a request fails two seconds after its time limit", async () => {
  connect();
  const answer = client.request("do.it", "", 700);
  let settled = false;
  const failed = assert.rejects(answer, { code: "NO_ANSWER" }).then(() => {
    settled = true;
  });
  mock.timers.tick(2699);
  await new Promise((resolve) => setImmediate(resolve));
  assert.ok(!settled);
  mock.timers.tick(1);
  await failed;
  // The answer that comes too late is nobody's.
  socket().receive(`response:do.it:1.0.0:${sentId()}\n{}`);
  assert.equal(seen.received.length, 1);
});

test("nothing can be sent without a connection", async () => {
  await assert.rejects(client.request("do.it", ""), { code: "NOT_CONNECTED" });
  client.connect();
  await assert.rejects(client.publish("do.it", ""), { code: "NOT_CONNECTED" });
});

test("heartbeats are answered", () => {
  connect();
  socket().receive("request:system.heartbeat:1.0.0:beat\n{}");
  assert.deepEqual(socket().sent, ["response:system.heartbeat:1.0.0:beat\n{}"]);
  assert.deepEqual(seen.received, []);
});

test("other messages are handed on", () => {
  connect();
  socket().receive("publish:system.message:1.0.0\n{}");
  assert.deepEqual(
    seen.received.map(({ topic }) => topic),
    ["system.message"],
  );
});

test("a lost connection fails what waits, and is opened again", async () => {
  connect();
  const failed = assert.rejects(client.request("do.it", ""), {
    code: "CONNECTION_LOST",
    message: "the connection was lost: the broker ends",
  });
  socket().onclose({ reason: "the broker ends" });
  await failed;
  assert.equal(client.reason, "the broker ends");
  assert.equal(client.state, "waiting");
  mock.timers.tick(200);
  assert.equal(FakeSocket.opened.length, 2);
  socket().receive(GREETING);
  assert.equal(seen.connected, 2);
  assert.deepEqual(seen.changed, ["connecting", "connected", "waiting", "connecting", "connected"]);
});

test("attempts go on, each after a longer time", () => {
  client.connect();
  for (const delay of [200, 400, 800, 1600, 2000, 2000]) {
    const attempts = FakeSocket.opened.length;
    socket().onclose({ reason: "" });
    assert.equal(client.reason, "the broker can't be reached");
    mock.timers.tick(delay - 1);
    assert.equal(FakeSocket.opened.length, attempts);
    mock.timers.tick(1);
    assert.equal(FakeSocket.opened.length, attempts + 1);
  }
});

test("the next attempt can be made at once, and is made once", () => {
  client.connect();
  client.retryNow();
  assert.equal(FakeSocket.opened.length, 1);
  socket().onclose({ reason: "" });
  client.retryNow();
  assert.equal(FakeSocket.opened.length, 2);
  mock.timers.tick(300);
  assert.equal(FakeSocket.opened.length, 2);
});

test("a connection that is dropped does not wait for the other side", () => {
  connect();
  client.drop("the broker does not answer");
  assert.ok(socket().closed);
  assert.equal(socket().onmessage, null);
  assert.equal(client.state, "waiting");
  assert.equal(client.reason, "the broker does not answer");
});

test("it authenticates before it is connected", async () => {
  const asked = [];
  client = new Client("ws://broker/", {
    authenticate: async (connection) => {
      asked.push(client.state);
      await connection.ask("request", "system.authenticate", "{}", 700);
      return true;
    },
    changed: () => seen.changed.push(client.state),
    connected: () => {
      seen.connected += 1;
    },
    received: () => {},
  });
  connect();
  assert.deepEqual(asked, ["connecting"]);
  await assert.rejects(client.request("do.it", ""), { code: "NOT_CONNECTED" });
  socket().receive("request:system.heartbeat:1.0.0\n{}");
  const [authenticating, heartbeat] = socket().sent;
  assert.equal(heartbeat, "response:system.heartbeat:1.0.0\n{}");
  socket().receive(`response:system.authenticate:1.0.0:${decode(authenticating).requestId}\n{}`);
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(client.state, "connected");
  assert.equal(seen.connected, 1);
  assert.deepEqual(seen.changed, ["connecting", "connected"]);
});

for (const [goesOn, isLost] of [
  [false, false],
  [true, true],
]) {
  test(`it is not connected if it ${isLost ? "loses the connection" : "may not go on"}`, async () => {
    client = new Client("ws://broker/", {
      authenticate: async () => {
        if (isLost) socket().onclose({ reason: "" });
        return goesOn;
      },
      changed: () => {},
      connected: () => {
        seen.connected += 1;
      },
      received: () => {},
    });
    connect();
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(seen.connected, 0);
    assert.equal(client.state, isLost ? "waiting" : "connecting");
  });
}

test("when it is stopped it does not connect again by itself", async () => {
  connect();
  client.stop("the broker needs a token");
  assert.ok(socket().closed);
  client.retryNow();
  mock.timers.tick(60_000);
  assert.equal(FakeSocket.opened.length, 1);
  assert.equal(client.state, "stopped");
  await assert.rejects(client.request("do.it", ""), {
    code: "NOT_CONNECTED",
    message: "not connected to the broker: the broker needs a token",
  });
  client.stop("the broker needs a token"); // again
  client.connect();
  socket().receive(GREETING);
  assert.equal(client.state, "connected");
});

test("a pause replaces the delay of one attempt", () => {
  connect();
  client.drop("the broker refuses", 10_000);
  mock.timers.tick(9_999);
  assert.equal(FakeSocket.opened.length, 1);
  mock.timers.tick(1);
  assert.equal(FakeSocket.opened.length, 2);
  socket().onclose({ reason: "" });
  mock.timers.tick(2_000);
  assert.equal(FakeSocket.opened.length, 3);
});

test("it reconnects at once, once", () => {
  connect();
  client.reconnect("signing in");
  assert.equal(FakeSocket.opened.length, 2);
  assert.equal(client.state, "connecting");
  mock.timers.tick(4_000);
  assert.equal(FakeSocket.opened.length, 2);
});
