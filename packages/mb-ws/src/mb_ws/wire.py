"""A message on WebSocket: one text frame, no subprotocol (docs/protocol.md, "WebSocket").

Binary frames are read too, as the reference broker does, and never written.
"""

from __future__ import annotations

import math
from http import HTTPStatus

from websockets.client import ClientProtocol
from websockets.datastructures import MultipleValuesError
from websockets.exceptions import InvalidMessage, InvalidUpgrade, InvalidURI, PayloadTooBig
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import Protocol, Side, State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from mb_core.authenticators import NO_CREDENTIALS
from mb_core.errors import ConnectError, MBError, MessageTooLarge, RemoteProtocolError
from mb_core.message import is_text
from mb_core.url import URL
from mb_core.wire import Limits, Site, Visit, WireState, foreign_protocol

from .bearer import bearer_credentials, bearer_headers
from .close_frames import close_reason, is_abnormal
from .frames import KEY, MASKED, OPCODE, OPCODES, TEXT, MaskingKeys, apply_mask, text_head
from .handshake_errors import Secrets, fault_text, is_foreign, refusal_error
from .http import page_response, request_target, text_response, wants_websocket
from .websockets_log import log

__all__ = ["WebSocketWire", "client_wire", "server_wire"]

_STATES = {
    State.CONNECTING: WireState.HANDSHAKE,
    State.OPEN: WireState.OPEN,
    State.CLOSING: WireState.CLOSING,
    State.CLOSED: WireState.CLOSED,
}
_HTTP_1_0 = b"HTTP/1.0"
# The most frames other than whole messages that are read at once. Each takes about 10 us, and one
# read of a stream can return 40,000 of them.
_MAX_SLOW_FRAMES = 16
# Bytes of the beginning that are shown if it is not a handshake.
_START_SIZE = 64


def client_wire(url: URL, limits: Limits, token: str | None = None) -> WebSocketWire:
    """Return the client's side of a connection. Its handshake is ready to be sent.

    Args:
        token: Sent as `Authorization: Bearer`, unless it has characters that can't be sent so.

    Raises:
        ConnectError: The URL is invalid.
    """
    try:
        uri = parse_uri(url.full)
    except InvalidURI as error:
        # Its text has the query, which may be a secret.
        raise ConnectError(f"invalid URL {url}: {error.msg}", final=True) from None
    except UnicodeError as error:
        raise ConnectError(f"invalid URL {url}: {error}", final=True) from None
    protocol = ClientProtocol(uri, max_size=limits.max_message, logger=log)
    request = protocol.connect()
    request.headers.update(bearer_headers(token))
    protocol.send_request(request)
    return WebSocketWire(protocol, limits, secrets=Secrets(url, token))


def server_wire(limits: Limits, site: Site | None = None) -> WebSocketWire:
    """Return the broker's side of a connection, which accepts any path.

    A request that is not a handshake gets a page of the site.
    """
    protocol = ServerProtocol(max_size=limits.max_message, logger=log)
    return WebSocketWire(protocol, limits, site)


class WebSocketWire:
    """A `Wire` for WebSocket. Create it with `client_wire` or `server_wire`.

    websockets does the handshake and the close. In between, nearly all frames are a whole message
    each. Those are written and read here; any other goes to websockets, whole.
    """

    def __init__(
        self,
        protocol: Protocol,
        limits: Limits,
        site: Site | None = None,
        secrets: Secrets | None = None,
    ) -> None:
        self.error: MBError | None = None
        self.held_back = False
        self.credentials = NO_CREDENTIALS
        self._secrets = secrets  # a client's
        self._protocol = protocol
        self._limit = limits.max_message
        self._site = site
        self._ended = False
        self._start = b""  # the first bytes that came
        self._has_received = False  # whether anything has arrived after the handshake
        self._output: list[bytes] = []
        self._keys = MaskingKeys() if protocol.side is Side.CLIENT else None
        # A client delays only itself.
        self._max_slow_frames = _MAX_SLOW_FRAMES if protocol.side is Side.SERVER else math.inf
        self._masked = MASKED if protocol.side is Side.SERVER else 0  # what comes
        # The beginning of a frame, and the number of bytes it needs to be complete.
        self._input = bytearray()
        self._needed = 2
        # Of a message in several frames, those that came; None where the next one begins another.
        self._fragments: bytearray | None = None
        self._binary = False  # whether they are of a binary message
        self._take_output()

    @property
    def state(self) -> WireState:
        protocol = self._protocol
        farewells = protocol.close_sent is not None and protocol.close_rcvd is not None
        if self._ended or farewells or self.error is not None:
            return WireState.CLOSED
        return _STATES[protocol.state]

    def receive_data(self, data: bytes) -> list[bytes]:
        messages: list[bytes] = []
        if self.state is WireState.CLOSED:
            return messages
        if self._protocol.state is State.CONNECTING:
            data = self._read_handshake(data)
            self._has_received = bool(data)
            self._read_frames(data, messages)
            self._take_output()
            self._check_early_close()
        else:
            self._has_received = True
            self._read_frames(data, messages)
            self._take_output()
        return messages

    def receive_eof(self) -> None:
        state = self.state
        if state is WireState.CLOSED:
            return
        self._ended = True
        self._protocol.receive_eof()
        self._take_output()
        if state is WireState.HANDSHAKE:
            for event in self._protocol.events_received():
                if isinstance(event, Response):  # whose body ended with the stream
                    self._check_response(event)
            if self.error is None:
                seen = f": {self._received_instead()}" if is_foreign(self._start) else ""
                text = (
                    f"{self._other_side} closed the connection during the WebSocket handshake{seen}"
                )
                self.error = ConnectError(text)
        elif state is WireState.OPEN and (self._has_received or self._protocol.side is Side.CLIENT):
            # A load balancer's probe only opens a WebSocket, which is not an error.
            self.error = RemoteProtocolError("the connection ended without a WebSocket close")

    def send(self, message: bytes) -> int:
        size = len(message)
        if self._keys is None:
            head = text_head(size, 0)
        else:
            key = self._keys.next()
            head = text_head(size, MASKED) + key
            message = apply_mask(message, key)
        self._output += (head, message)
        return len(head) + size

    def close(self, reason: str = "") -> None:
        protocol = self._protocol
        if protocol.state is State.OPEN:
            protocol.send_close(CloseCode.NORMAL_CLOSURE, close_reason(reason))
            self._take_output()
        elif protocol.state is State.CONNECTING:
            self._ended = True

    def data_to_send(self) -> bytes:
        data = b"".join(self._output)
        self._output.clear()
        return data

    # The handshake

    @property
    def _other_side(self) -> str:
        """The name of the other side in errors."""
        if self._secrets is not None:
            return str(self._secrets.url)
        return "the server" if self._protocol.side is Side.CLIENT else "the client"

    def _read_handshake(self, data: bytes) -> bytes:
        """Pass the handshake to websockets; it ends with an empty line.

        Returns the bytes after it: none if it has not ended yet, or has failed.
        """
        protocol = self._protocol
        before = len(self._start)
        if before < _START_SIZE:
            self._start += data[: _START_SIZE - len(self._start)]
            if protocol.side is Side.SERVER and not self._start[:1].isalpha():
                # Not HTTP, so it may never end a line: for example TLS.
                self._ended = True
                self.error = ConnectError(f"not a WebSocket handshake: {self._received_instead()}")
                return b""
            if before < len(_HTTP_1_0) <= len(self._start) and self._start.startswith(_HTTP_1_0):
                # Old proxies refuse in it, and websockets reads only 1.1.
                place = len(_HTTP_1_0) - before
                data = data[: place - 1] + b"1" + data[place:]
        position = 0
        while (
            position < len(data)
            and protocol.state is State.CONNECTING
            and protocol.handshake_exc is None
            and not self._ended
        ):
            stop = data.find(b"\n", position) + 1 or len(data)
            protocol.receive_data(data[position:stop])
            position = stop
            for event in protocol.events_received():
                if isinstance(event, Response):
                    self._check_response(event)
                elif isinstance(event, Request) and isinstance(protocol, ServerProtocol):
                    protocol.send_response(self._answer(protocol, event))
        self._take_fault()
        return data[position:] if protocol.state is State.OPEN else b""

    def _answer(self, protocol: ServerProtocol, request: Request) -> Response:
        site, handshake = self._site, wants_websocket(request)
        if handshake:
            try:
                self.credentials = bearer_credentials(request.headers)
            except ValueError as error:
                return self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        if site is None:
            return protocol.accept(request)
        host, path = request_target(request)
        try:
            origin = request.headers.get("Origin")
            host = host or request.headers.get("Host")
        except MultipleValuesError:
            return self._refuse(HTTPStatus.BAD_REQUEST, "two Host or Origin headers")
        visit = Visit(None if handshake else path, host, origin)
        why = site.forbids(visit)
        if why is not None:
            return self._refuse(HTTPStatus.FORBIDDEN, why)
        if handshake:
            return protocol.accept(request)
        self._ended = True
        return page_response(request.method, path, site)

    def _refuse(self, status: HTTPStatus, why: str) -> Response:
        self._ended = True
        self.error = ConnectError(why)
        return text_response(status, why)

    def _check_response(self, response: Response) -> None:
        fault = self._protocol.handshake_exc
        if fault is not None:
            self.error = refusal_error(response, fault, self._secrets)

    def _check_early_close(self) -> None:
        """See whether a server closed the connection together with its answer to the handshake.

        Nobody has seen it open, so the reason, such as a full broker, is a ConnectError.
        """
        close = self._protocol.close_rcvd
        if close is not None and self.error is None and self._protocol.side is Side.CLIENT:
            reason = self._without_secrets(close.reason) or "no reason given"
            text = (
                f"{self._other_side} closed the connection after the WebSocket handshake: {reason}"
            )
            self.error = ConnectError(text)

    # Frames

    def _read_frames(self, data: bytes, messages: list[bytes]) -> None:
        """Read complete frames, but not too many of the expensive kinds."""
        self.held_back = False
        slow = 0
        if self._input:
            self._input += data
            if len(self._input) < self._needed:
                return
            data = bytes(self._input)
            self._input.clear()
        self._needed = 2
        masked, limit = self._masked, self._limit
        position, end = 0, len(data)
        while (start := position + 2) <= end:
            length = data[position + 1] ^ masked
            if length == 126:
                start += 2
                length = int.from_bytes(data[position + 2 : start])
            elif length == 127:
                start += 8
                length = int.from_bytes(data[position + 2 : start])
            elif length > 127:  # masked when it must not be, or the other way round
                self._read_other_frame(data[position:], messages)
                return
            body = start + KEY if masked else start
            stop = body + length
            kind = data[position]
            if stop > end:
                # No need to wait for the rest of an invalid frame.
                if kind & OPCODE not in OPCODES or (start <= end and length > self._max_frame()):
                    self._read_other_frame(data[position:], messages)
                    return
                # The length is unknown until all of its bytes have arrived.
                self._needed = (stop if start <= end else start) - position
                break
            if kind == TEXT and length <= limit and self._fragments is None:
                message = data[body:stop]
                if masked:
                    message = apply_mask(message, data[start:body])
                if not self._add_text(message, messages):
                    return
            else:
                self._read_other_frame(data[position:stop], messages)
                if self.state is WireState.CLOSED:
                    return
                slow += 1
                if slow >= self._max_slow_frames and stop < end:
                    self.held_back = True
                    position = stop
                    break
            position = stop
        if position < end:
            self._input += data[position:]

    def _max_frame(self) -> int:
        """Return how many bytes the payload of the next frame may have."""
        return self._limit - len(self._fragments or b"")

    def _read_other_frame(self, data: bytes, messages: list[bytes]) -> None:
        """Pass a frame of another kind, or invalid data, to websockets."""
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._take_frame(event, messages)
        self._take_fault()

    def _take_frame(self, frame: Frame, messages: list[bytes]) -> None:
        opcode = frame.opcode
        if opcode in (Opcode.TEXT, Opcode.BINARY) or (
            opcode is Opcode.CONT and self._fragments is not None
        ):
            if self._fragments is None:
                self._fragments = bytearray()
                self._binary = opcode is Opcode.BINARY
            self._fragments += frame.data
            if frame.fin:
                message, self._fragments = bytes(self._fragments), None
                if self._binary:
                    messages.append(
                        message
                    )  # any bytes: the receiver reports what is wrong with them
                else:
                    self._add_text(message, messages)

    def _add_text(self, message: bytes, messages: list[bytes]) -> bool:
        if is_text(message):
            messages.append(message)
            return True
        self._fail(CloseCode.INVALID_DATA, "a text frame is not valid UTF-8")
        return False

    def _fail(self, code: CloseCode, text: str) -> None:
        self.error = RemoteProtocolError(text)
        if self._protocol.state is State.OPEN:
            self._protocol.fail(code, text)

    def _take_output(self) -> None:
        # An empty item asks for the end of our side of the stream: `state` says the same.
        self._output += self._protocol.data_to_send()

    def _take_fault(self) -> None:
        """Convert an error of websockets to one of ours."""
        protocol = self._protocol
        if self.error is not None:
            return
        if protocol.parser_exc is not None:
            exc = protocol.parser_exc
            if isinstance(exc, PayloadTooBig):
                limit = protocol.max_message_size or 0
                size = (exc.size or limit + 1) + (exc.current_size or 0)
                self.error = MessageTooLarge(
                    f"a message of {size} bytes came, the limit is {limit}", size=size, limit=limit
                )
            else:
                self.error = RemoteProtocolError(f"invalid WebSocket data: {exc}")
        elif protocol.handshake_exc is not None:
            self.error = ConnectError(self._handshake_fault(protocol.handshake_exc))
        elif is_abnormal(protocol.close_rcvd):
            received = protocol.close_rcvd
            assert received is not None
            reason = self._without_secrets(received.reason) or "no reason given"
            self.error = RemoteProtocolError(
                f"closed by the other side with code {received.code}: {reason}"
            )

    def _handshake_fault(self, fault: Exception) -> str:
        """Return what is wrong with a handshake; unreadable requests are answered as well."""
        why = self._without_secrets(fault_text(fault, of_client=self._keys is None))
        foreign = self._received_instead() if is_foreign(self._start) else None
        if self._protocol.side is Side.CLIENT:
            server = self._other_side
            if self._start.startswith(b"HTTP/"):
                return f"{server} answered the WebSocket handshake with invalid HTTP: {why}"
            return (
                f"the answer of {server} is not HTTP: {foreign or why} (is this a WebSocket port?)"
            )
        if isinstance(fault, InvalidUpgrade):
            return f"not a WebSocket handshake: {why} (does a proxy in between drop it?)"
        if foreign is not None or not isinstance(fault, InvalidMessage):
            return f"not a WebSocket handshake: {foreign or why}"
        text = f"invalid HTTP request: {why}"
        self._output.append(text_response(HTTPStatus.BAD_REQUEST, text).serialize())
        return text

    def _without_secrets(self, text: str) -> str:
        """Return text from the other side without our secrets, which it may repeat."""
        return text if self._secrets is None else self._secrets.hidden_in(text)

    def _received_instead(self) -> str:
        """Return what arrived instead of a handshake."""
        start = self._start
        actions = (b"publish:", b"request:", b"response:")
        if start[4:].startswith(actions):
            return "received MB over TCP, which is for tcp:// and tls://"
        if start.startswith(actions):  # not shown: it may have a token
            return "received an MB message that is not in a WebSocket frame"
        foreign = foreign_protocol(start)
        if foreign is None:
            foreign = repr(
                self._without_secrets(start.decode("latin-1")).encode("latin-1", "replace")
            )
        return f"received {foreign}"
