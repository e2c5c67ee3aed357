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
    return WebSocketWire(protocol)


def server_wire(limits: Limits, site: Site | None = None) -> WebSocketWire:
    """The broker's side: any path; a GET that is no handshake gets a page of the site."""
    origins = [Origin(o) for o in site.origins] if site is not None and site.origins else None
    # A client that is no browser has no origin.
    allowed = [None, *origins] if origins is not None else None
    protocol = ServerProtocol(origins=allowed, max_size=limits.max_message, logger=_log)
    return WebSocketWire(protocol, site)


class WebSocketWire:
    """A Wire over one of websockets' sans-I/O protocols."""

    def __init__(self, protocol: Protocol, site: Site | None = None) -> None:
        self.error: MBError | None = None
        self._protocol = protocol
        self._site = site
        self._ended = False
        # Of a message in several frames, those that came.
        self._fragments = bytearray()

    @property
    def state(self) -> WireState:
        protocol = self._protocol
        farewells = protocol.close_sent is not None and protocol.close_rcvd is not None
        if self._ended or farewells or self.error is not None:
            return WireState.CLOSED
        return _STATES[protocol.state]

    def receive_data(self, data: bytes) -> list[bytes]:
        protocol = self._protocol
        messages: list[bytes] = []
        if self.state is WireState.CLOSED:
            return messages
        dialling = protocol.state is State.CONNECTING and protocol.side is Side.CLIENT
        if isinstance(protocol, ServerProtocol) and protocol.state is State.CONNECTING:
            data = self._answer_request(protocol, data)
        protocol.receive_data(data)
        for event in protocol.events_received():
            if isinstance(event, Frame):
                self._frame(event, messages)
            elif isinstance(event, Response):
                self._look_at_response(event)
            if self.error is not None:
                break
        self._look_for_faults()
        if dialling and self.error is None and protocol.close_rcvd is not None:
            # Nobody has seen it open, to hear what it was told: a broker that is full says so.
            reason = protocol.close_rcvd.reason or "no reason given"
            self.error = ConnectError(f"the server ended the connection at once: {reason}")
        return messages

    def receive_eof(self) -> None:
        state = self.state
        if state is WireState.CLOSED:
            return
        self._ended = True
        self._protocol.receive_eof()
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
        protocol = self._protocol
        protocol.send_text(message)
        size = len(message)
        header = 2 if size < 126 else 4 if size < 65_536 else 10
        return header + size + (4 if protocol.side is Side.CLIENT else 0)  # the mask

    def close(self, reason: str = "") -> None:
        protocol = self._protocol
        if protocol.state is State.OPEN:
            protocol.send_close(CloseCode.NORMAL_CLOSURE, _cut(reason))
        elif protocol.state is State.CONNECTING:
            self._ended = True

    def data_to_send(self) -> bytes:
        # An empty item asks for the end of our side of the stream: `state` says the same.
        return b"".join(self._protocol.data_to_send())

    def _answer_request(self, protocol: ServerProtocol, data: bytes) -> bytes:
        """Read and answer the request, which ends with a line; give the bytes behind it.

        They are frames of a connection that this answer opens: websockets must not see them
        before.
        """
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
                if isinstance(event, Request):
                    protocol.send_response(self._answer(protocol, event))
        return data[position:]

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

    def _frame(self, frame: Frame, messages: list[bytes]) -> None:
        opcode = frame.opcode
        if opcode is Opcode.TEXT:
            if frame.fin:
                self._take(bytes(frame.data), messages)
            else:
                self._fragments += frame.data
        elif opcode is Opcode.CONT:
            self._fragments += frame.data
            if frame.fin:
                self._take(bytes(self._fragments), messages)
                self._fragments.clear()
        elif opcode is Opcode.BINARY:
            self._fail(CloseCode.UNSUPPORTED_DATA, "messages are text frames, this is a binary one")

    def _take(self, message: bytes, messages: list[bytes]) -> None:
        if is_text(message):
            messages.append(message)
        else:
            self._fail(CloseCode.INVALID_DATA, "a text frame is no UTF-8")

    def _fail(self, code: CloseCode, text: str) -> None:
        self.error = RemoteProtocolError(text)
        if self._protocol.state is State.OPEN:
            self._protocol.fail(code, text)

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
