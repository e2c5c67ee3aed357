"""A message on WebSocket: one text frame, no subprotocol (docs/protocol.md, "WebSocket")."""

from __future__ import annotations

import logging
from email.utils import formatdate
from http import HTTPStatus

from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.exceptions import InvalidURI, PayloadTooBig
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import Protocol, Side, State
from websockets.server import ServerProtocol
from websockets.typing import Origin
from websockets.uri import parse_uri

from mb_core.errors import ConnectError, MBError, MessageTooLarge, RemoteProtocolError
from mb_core.message import is_text
from mb_core.url import URL
from mb_core.wire import Limits, Page, Site, WireState

from .frames import KEY, MASKED, OPCODE, OPCODES, TEXT, MaskingKeys, apply_mask, text_head

__all__ = ["WebSocketWire", "client_wire", "server_wire"]

# websockets logs each frame at DEBUG and each close at INFO: not our users' log.
_log = logging.getLogger("mb_ws.websockets")
_log.setLevel(logging.WARNING)

_STATES = {
    State.CONNECTING: WireState.HANDSHAKE,
    State.OPEN: WireState.OPEN,
    State.CLOSING: WireState.CLOSING,
    State.CLOSED: WireState.CLOSED,
}
# A close frame's reason has at most 123 bytes.
_MAX_REASON = 123
# The statuses that turn away who asks, whenever he asks; and what to add to their names.
_DENIALS: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: " (it asks for credentials, and a broker's URL carries none)",
    HTTPStatus.FORBIDDEN: "",
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED: " (a proxy on the way asks for credentials)",
}


def client_wire(url: URL, limits: Limits) -> WebSocketWire:
    """The client's side; its handshake is ready to be sent.  Raises ConnectError for a bad URL."""
    try:
        uri = parse_uri(str(url))
    except (InvalidURI, UnicodeError) as error:
        raise ConnectError(f"invalid URL {url}: {error}", final=True) from error
    protocol = ClientProtocol(uri, max_size=limits.max_message, logger=_log)
    protocol.send_request(protocol.connect())
    return WebSocketWire(protocol, limits)


def server_wire(limits: Limits, site: Site | None = None) -> WebSocketWire:
    """The broker's side: any path; a GET that is no handshake gets a page of the site."""
    origins = [Origin(o) for o in site.origins] if site is not None and site.origins else None
    # A client that is no browser has no origin.
    allowed = [None, *origins] if origins is not None else None
    protocol = ServerProtocol(origins=allowed, max_size=limits.max_message, logger=_log)
    return WebSocketWire(protocol, limits, site)


class WebSocketWire:
    """A Wire over one of websockets' sans-I/O protocols, and beside it.

    websockets shakes hands and says farewell.  Between the two nearly all frames are a whole
    message each: those are written and read here, and any other is given to websockets, whole.
    """

    def __init__(self, protocol: Protocol, limits: Limits, site: Site | None = None) -> None:
        self.error: MBError | None = None
        self._protocol = protocol
        self._limit = limits.max_message
        self._site = site
        self._ended = False
        self._output: list[bytes] = []
        self._keys = MaskingKeys() if protocol.side is Side.CLIENT else None
        self._masked = MASKED if protocol.side is Side.SERVER else 0  # what comes
        # The beginning of a frame, which can't be whole before it has so many bytes.
        self._input = bytearray()
        self._needed = 2
        # Of a message in several frames, those that came; None where the next one begins another.
        self._fragments: bytearray | None = None
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
        dialling = False
        if self._protocol.state is State.CONNECTING:
            dialling = self._protocol.side is Side.CLIENT
            data = self._shake_hands(data)
        self._read_frames(data, messages)
        self._take_output()
        if dialling and self.error is None and self._protocol.close_rcvd is not None:
            # Nobody has seen it open, to hear what it was told: a broker that is full says so.
            reason = self._protocol.close_rcvd.reason or "no reason given"
            self.error = ConnectError(f"the server ended the connection at once: {reason}")
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
                    self._look_at_response(event)
            if self.error is None:
                text = "the connection was closed during the WebSocket handshake"
                self.error = ConnectError(text)
        elif state is WireState.OPEN:
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
            protocol.send_close(CloseCode.NORMAL_CLOSURE, _cut(reason))
            self._take_output()
        elif protocol.state is State.CONNECTING:
            self._ended = True

    def data_to_send(self) -> bytes:
        data = b"".join(self._output)
        self._output.clear()
        return data

    # The handshake

    def _shake_hands(self, data: bytes) -> bytes:
        """Give websockets the handshake, which ends with a line.

        Gives the bytes behind it; none while it has not ended, or where it came to nothing.
        """
        protocol = self._protocol
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
                    self._look_at_response(event)
                elif isinstance(event, Request) and isinstance(protocol, ServerProtocol):
                    protocol.send_response(self._answer(protocol, event))
        self._look_for_faults()
        return data[position:] if protocol.state is State.OPEN else b""

    def _answer(self, protocol: ServerProtocol, request: Request) -> Response:
        site = self._site
        if site is not None and request.method == "GET" and not _wants_websocket(request):
            page = site.get(request.path.partition("?")[0])
            if page is not None:
                self._ended = True
                return _response(page)
        return protocol.accept(request)

    def _look_at_response(self, response: Response) -> None:
        if self._protocol.handshake_exc is not None:
            self.error = _refusal(response)

    # Frames

    def _read_frames(self, data: bytes, messages: list[bytes]) -> None:
        """Take frames as far as they are whole."""
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
            elif length > 127:  # masked and should not be, or the other way round
                self._pass_on(data[position:], messages)
                return
            body = start + KEY if masked else start
            stop = body + length
            kind = data[position]
            if stop > end:
                # What can't be right need not be waited for.
                if kind & OPCODE not in OPCODES or (start <= end and length > self._room()):
                    self._pass_on(data[position:], messages)
                    return
                # Before all of the length is there, it says nothing.
                self._needed = (stop if start <= end else start) - position
                break
            if kind == TEXT and length <= limit and self._fragments is None:
                message = data[body:stop]
                if masked:
                    message = apply_mask(message, data[start:body])
                if not self._take(message, messages):
                    return
            else:
                self._pass_on(data[position:stop], messages)
                if self.state is WireState.CLOSED:
                    return
            position = stop
        if position < end:
            self._input += data[position:]

    def _room(self) -> int:
        """Bytes that the next frame may have."""
        return self._limit - len(self._fragments or b"")

    def _pass_on(self, data: bytes, messages: list[bytes]) -> None:
        """Give websockets a frame of another kind, or what is none."""
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._take_frame(event, messages)
        self._look_for_faults()

    def _take_frame(self, frame: Frame, messages: list[bytes]) -> None:
        opcode = frame.opcode
        if opcode is Opcode.TEXT or (opcode is Opcode.CONT and self._fragments is not None):
            if self._fragments is None:
                self._fragments = bytearray()
            self._fragments += frame.data
            if frame.fin:
                message, self._fragments = bytes(self._fragments), None
                self._take(message, messages)
        elif opcode is Opcode.BINARY:
            self._fail(CloseCode.UNSUPPORTED_DATA, "messages are text frames, this is a binary one")

    def _take(self, message: bytes, messages: list[bytes]) -> bool:
        if is_text(message):
            messages.append(message)
            return True
        self._fail(CloseCode.INVALID_DATA, "a text frame is no UTF-8")
        return False

    def _fail(self, code: CloseCode, text: str) -> None:
        self.error = RemoteProtocolError(text)
        if self._protocol.state is State.OPEN:
            self._protocol.fail(code, text)

    def _take_output(self) -> None:
        # An empty item asks for the end of our side of the stream: `state` says the same.
        self._output += self._protocol.data_to_send()

    def _look_for_faults(self) -> None:
        """Take over what websockets found wrong, in our words."""
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
            hint = "" if protocol.side is Side.SERVER else " (is this a WebSocket port?)"
            self.error = ConnectError(f"no WebSocket handshake: {protocol.handshake_exc}{hint}")
        elif _is_abnormal(protocol.close_rcvd):
            received = protocol.close_rcvd
            assert received is not None
            reason = received.reason or "no reason given"
            self.error = RemoteProtocolError(
                f"closed by the other side with code {received.code}: {reason}"
            )


def _is_abnormal(close: Close | None) -> bool:
    return close is not None and close.code not in (
        CloseCode.NORMAL_CLOSURE,
        CloseCode.GOING_AWAY,
        CloseCode.NO_STATUS_RCVD,
    )


def _wants_websocket(request: Request) -> bool:
    """Whether this is meant as a handshake; an offer to speak HTTP/2 is none."""
    return any("websocket" in value.lower() for value in request.headers.get_all("Upgrade"))


def _response(page: Page) -> Response:
    headers = Headers(
        {
            "Date": formatdate(usegmt=True),
            "Connection": "close",
            "Content-Type": page.content_type,
            "Content-Length": str(len(page.body)),
            "X-Content-Type-Options": "nosniff",
            **page.headers,
        }
    )
    return Response(page.status, HTTPStatus(page.status).phrase, headers, page.body)


def _refusal(response: Response) -> ConnectError:
    status = response.status_code
    body = (response.body or b"")[:200].decode(errors="backslashreplace").strip()
    text = f"the server refused the WebSocket handshake with HTTP status {status}"
    text += _DENIALS.get(status, "") + (f": {body}" if body else "")
    return ConnectError(text, final=status in _DENIALS)


def _cut(reason: str) -> str:
    return reason.encode()[:_MAX_REASON].decode(errors="ignore")
