"""What is required of a transport: each check of the suite belongs to one of these."""

from __future__ import annotations

from ..conformance import ContractBroken, Requirement, expect, violation

__all__ = ["ContractBroken", "Requirement", "expect", "violation"]


# Of the plugin

FOUND = Requirement(
    "an installed transport is found by its scheme, through an entry point of that name in the "
    "group mb.transports",
    "docs/plugins.md",
)

# Of a Wire

_WIRE = "mb_core.wire.Wire"

NEVER_RAISES = Requirement(
    "no method of a Wire raises because of what the other side did: it moves to CLOSED, and says "
    "why in `error`",
    _WIRE,
)
TYPES = Requirement(
    "receive_data gives a list of bytes, send a number, data_to_send bytes; state is a WireState, "
    "error an MBError or None",
    _WIRE,
)
DOWNWARDS = Requirement(
    "a Wire moves from HANDSHAKE to CLOSED, and never back", "mb_core.wire.WireState"
)
ONE_REASON = Requirement(
    "`error` says why a Wire is closing or closed; there is none before, and it stays as it is",
    f"{_WIRE}.error",
)
SILENT_WHEN_CLOSED = Requirement("after CLOSED, received data is ignored", _WIRE)
HANDSHAKE = Requirement(
    "a client's and a server's Wire that are given each other's output are OPEN after their "
    "handshake, without a message and without an error",
    _WIRE,
)
QUIET = Requirement(
    "two Wires that were given all of each other's output come to rest", f"{_WIRE}.data_to_send"
)
SPLITS = Requirement(
    "a Wire gives the messages that were sent, whole and in order, however their bytes were split",
    f"{_WIRE}.receive_data",
)
PROMPT = Requirement(
    "receive_data gives a message with its last byte, neither before nor later",
    f"{_WIRE}.receive_data",
)
COUNTS = Requirement("send returns how many bytes it adds to the output", f"{_WIRE}.send")
OUTPUT_ONCE = Requirement(
    "data_to_send returns everything that is to be written now, and returns it once",
    f"{_WIRE}.data_to_send",
)
OWN_STATE = Requirement("one Wire serves one connection: two share nothing", "mb_core.wire")
PROPORTION = Requirement(
    "a Wire works in proportion to the bytes received, however they were split", _WIRE
)
LIMIT = Requirement(
    "a message of max_message bytes is accepted; a larger one closes the Wire with "
    "MessageTooLarge, after the messages that were complete before it",
    "mb_core.wire.Limits, mb_core.wire.Wire.error",
)
NO_ROOM_OVER_LIMIT = Requirement(
    "a message over the limit is refused before there is room for it: by its announced length, or "
    "when that many bytes have come",
    "mb_core.wire.Limits",
)
EOF_WITHIN = Requirement(
    "an end of the stream within a message or a handshake closes the Wire with an error",
    f"{_WIRE}.receive_eof",
)
EOF_BETWEEN = Requirement(
    "an end of the stream between messages closes the Wire: without an error, or with a "
    "RemoteProtocolError where the transport has a farewell that did not come",
    f"{_WIRE}.receive_eof",
)
CLOSES = Requirement(
    "close begins an orderly end after everything that is queued: the other side gets it, both "
    "Wires are CLOSED when the streams have ended, and neither has an error",
    f"{_WIRE}.close",
)
TWICE = Requirement("receive_eof and close are safe to call twice, and then change nothing", _WIRE)

# Of a Link

_LINK = "mb_core.link.Link"

IN_TIME = Requirement(
    "everything that is waited for happens in time, and nothing blocks the event loop", _LINK
)
NO_BUG = Requirement("nothing goes wrong that only the log shows", _LINK)
HANDLED_IN_ORDER = Requirement(
    "messages_received brings messages and is never called after link_lost, which is called once",
    "mb_core.link.LinkHandler",
)
NOTHING_LEFT = Requirement(
    "when all Links and Listeners are closed, no task, no socket and no file is left",
    "mb_core.transport, mb_core.link.Listener",
)
MESSAGES = Requirement("messages arrive as they were sent, each once and in order", f"{_LINK}.send")
GREETED = Requirement(
    "what a handler sends from within `accept` is sent, before all that is sent later",
    "mb_core.link.Accept",
)
PEER = Requirement("`peer` names the other side, for logs and errors", f"{_LINK}.peer")
COALESCED = Requirement(
    "what is sent in one turn of the loop leaves in few writes", f"{_LINK}.send"
)
COUNTED = Requirement(
    "messages_sent and bytes_sent count the messages that were handed over, and their bytes",
    f"{_LINK}.messages_sent",
)
PROGRESS = Requirement(
    "progress changes with what arrives, and not with what is taken at once",
    f"{_LINK}.progress",
)
HELD = Requirement(
    "a Link whose other side does not read is congested, and drain waits until it reads",
    f"{_LINK}.drain",
)
DRAIN_ENDS = Requirement("a lost connection ends the wait of drain", f"{_LINK}.drain")
CANCELLED = Requirement("when it is cancelled, nothing is lost", f"{_LINK}.drain")
UNSENT = Requirement(
    "take_unsent gives back, in order and once, the messages of which nothing has left",
    f"{_LINK}.take_unsent",
)
NOT_SENT = Requirement(
    "sending on a Link that is closing or closed raises ConnectionLost with sent=False",
    f"{_LINK}.send",
)
ORDERLY = Requirement(
    "after close, what was sent arrives, and both sides see an end without an error",
    f"{_LINK}.close",
)
ABORTED = Requirement(
    "abort ends a Link at once and without an error; the other side notices the end",
    f"{_LINK}.abort",
)
GIVEN_UP = Requirement(
    "an orderly end that the other side does not answer is given up at the close time limit, with "
    "an error",
    f"{_LINK}.close",
)
LOST = Requirement(
    "a connection that breaks, or ends within a message, is lost with an error",
    "mb_core.link.LinkHandler",
)
UNDISTURBED = Requirement(
    "what an untrusted client sends ends its connection and no other", "mb_core.link.Backend.listen"
)
NO_CONNECTION = Requirement(
    "connecting raises ConnectError, which names the place, where no connection comes about",
    "mb_core.link.Backend.connect, mb_core.transport.LinkTransport.connect",
)
CANCELLED_CONNECT = Requirement(
    "a connect that is cancelled leaves no connection or task",
    "mb_core.link.Backend.connect, mb_core.transport.LinkTransport.connect",
)
IN_USE = Requirement(
    "listening at a URL at which somebody listens raises ConnectError, and disturbs nobody",
    "mb_core.transport.Sockets.listen, mb_core.transport.LinkTransport.listen",
)
RELEASED = Requirement(
    "a Listener that is closed accepts nothing more, its Links live on, and its URL is free",
    "mb_core.link.Listener, mb_core.transport.Sockets.release",
)
STALE = Requirement(
    "what a broker that was killed has left at a URL does not keep the next one from listening",
    "mb_core.transport.Sockets.listen",
)
BAD_URL = Requirement(
    "a URL that says no place raises ConnectError", "mb_core.transport.Sockets.address"
)

# Of all together

WORKS = Requirement("the client and the broker work over it", "docs/architecture.md")
