"""Wires with a bug each, which the suite has to find; run by test_transport_suite.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from mb_core import Limits, RemoteProtocolError, WireState, WireTransport
from mb_tcp import LengthPrefixWire
from mb_testing import TransportSuite


def over(wire: Callable[[Limits], Any]) -> WireTransport:
    client, server = (lambda url, limits: wire(limits)), (lambda limits, site: wire(limits))
    return WireTransport("tcp", client, server, default_port=8081)


class HelloWire(LengthPrefixWire):
    """Without a bug: both sides say hello first, and goodbye last."""

    hello = b"MB1\n"
    goodbye = b"\xff\xff\xff\xff"

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.state = WireState.HANDSHAKE
        self._output.append(self.hello)
        self._greeting = b""
        self._waits = False

    def receive_data(self, data: bytes) -> list[bytes]:
        if self.state is WireState.HANDSHAKE:
            self._greeting += data
            size = len(self.hello)
            if not self.hello.startswith(self._greeting[:size]):
                self.error = RemoteProtocolError("this is not MB")
                self.state = WireState.CLOSED
            if self.state is WireState.CLOSED or len(self._greeting) < size:
                return []
            self.state = WireState.OPEN
            data = self._greeting[size:]
        return super().receive_data(data)

    def receive_eof(self) -> None:
        if self.state is WireState.HANDSHAKE:
            self.error = RemoteProtocolError("the connection ended within the handshake")
        super().receive_eof()


class TestHello(TransportSuite):
    """The one that has to pass."""

    transport = over(HelloWire)


# Framing


class NeedsItsPrefixInOnePiece(LengthPrefixWire):
    def receive_data(self, data: bytes) -> list[bytes]:
        return [] if not self._input and len(data) < 4 else super().receive_data(data)


class TestNeedsItsPrefixInOnePiece(TransportSuite):
    transport = over(NeedsItsPrefixInOnePiece)


class LosesASecondPiece(LengthPrefixWire):
    """Right for two pieces of a message, wrong for three."""

    def receive_data(self, data: bytes) -> list[bytes]:
        if len(self._input) > 4 and len(self._input) + len(data) < self._needed:
            return []
        return super().receive_data(data)


class TestLosesASecondPiece(TransportSuite):
    transport = over(LosesASecondPiece)


class LosesEmptyMessages(LengthPrefixWire):
    def receive_data(self, data: bytes) -> list[bytes]:
        return [message for message in super().receive_data(data) if message]


class TestLosesEmptyMessages(TransportSuite):
    transport = over(LosesEmptyMessages)


class HasLengthsOfTwoBytes(LengthPrefixWire):
    def send(self, message: bytes) -> int:
        size = len(message) & 0xFFFF
        self._output += (size.to_bytes(4), message)
        return 4 + len(message)


class TestHasLengthsOfTwoBytes(TransportSuite):
    transport = over(HasLengthsOfTwoBytes)


class GivesMessagesLate(LengthPrefixWire):
    kept: bytes | None = None

    def receive_data(self, data: bytes) -> list[bytes]:
        messages = super().receive_data(data)
        if self.kept is not None:
            messages.insert(0, self.kept)
        self.kept = messages.pop() if messages else None
        return messages


class TestGivesMessagesLate(TransportSuite):
    transport = over(GivesMessagesLate)


class MiscountsItsFrames(LengthPrefixWire):
    def send(self, message: bytes) -> int:
        super().send(message)
        return len(message)


class TestMiscountsItsFrames(TransportSuite):
    transport = over(MiscountsItsFrames)


class GivesOutputBitByBit(LengthPrefixWire):
    def data_to_send(self) -> bytes:
        return b"" if not self._output else self._output.pop(0) + self._output.pop(0)


class TestGivesOutputBitByBit(TransportSuite):
    transport = over(GivesOutputBitByBit)


class RepeatsItsOutput(LengthPrefixWire):
    def data_to_send(self) -> bytes:
        return b"".join(self._output)


class TestRepeatsItsOutput(TransportSuite):
    transport = over(RepeatsItsOutput)
    time_limit = 2.0


class SharesItsInput(LengthPrefixWire):
    shared: ClassVar[bytearray] = bytearray()

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.shared.clear()
        self._input = self.shared


class TestSharesItsInput(TransportSuite):
    transport = over(SharesItsInput)


class CopiesAllWithEachPiece(LengthPrefixWire):
    def receive_data(self, data: bytes) -> list[bytes]:
        self._input = bytearray(bytes(self._input))
        return super().receive_data(data)


class TestCopiesAllWithEachPiece(TransportSuite):
    transport = over(CopiesAllWithEachPiece)


class CopiesTheRestWithEachMessage(LengthPrefixWire):
    def receive_data(self, data: bytes) -> list[bytes]:
        messages: list[bytes] = []
        data = bytes(self._input) + data
        self._input.clear()
        while len(data) >= 4 and len(data) >= 4 + int.from_bytes(data[:4]):
            messages += super().receive_data(data[: 4 + int.from_bytes(data[:4])])
            data = data[4 + int.from_bytes(data[:4]) :]
        return messages + super().receive_data(data)


class TestCopiesTheRestWithEachMessage(TransportSuite):
    transport = over(CopiesTheRestWithEachMessage)


class GivesViewsOfItsInput(LengthPrefixWire):
    def receive_data(self, data: bytes) -> list[Any]:
        return [memoryview(message) for message in super().receive_data(data)]


class TestGivesViewsOfItsInput(TransportSuite):
    transport = over(GivesViewsOfItsInput)


# The handshake


class NeverOpens(HelloWire):
    hello = b"MB1\n"

    def receive_data(self, data: bytes) -> list[bytes]:
        return []


class TestNeverOpens(TransportSuite):
    transport = over(NeverOpens)


class NeedsItsHelloInOnePiece(HelloWire):
    def receive_data(self, data: bytes) -> list[bytes]:
        if self.state is WireState.HANDSHAKE and len(data) < 4:
            return []
        return super().receive_data(data)


class TestNeedsItsHelloInOnePiece(TransportSuite):
    transport = over(NeedsItsHelloInOnePiece)


class LosesWhatFollowsTheHello(HelloWire):
    def receive_data(self, data: bytes) -> list[bytes]:
        if self.state is WireState.HANDSHAKE:
            return super().receive_data(data[: 4 - len(self._greeting)])
        return super().receive_data(data)


class TestLosesWhatFollowsTheHello(TransportSuite):
    transport = over(LosesWhatFollowsTheHello)


class MindsNoEndWithinTheHello(HelloWire):
    def receive_eof(self) -> None:
        self.state = WireState.CLOSED


class TestMindsNoEndWithinTheHello(TransportSuite):
    transport = over(MindsNoEndWithinTheHello)


class AnswersEverything(LengthPrefixWire):
    """Whatever comes, a message goes back: two of them never rest."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.send(b"hello")

    def receive_data(self, data: bytes) -> list[bytes]:
        self.send(b"thanks")
        super().receive_data(data)
        return []


class TestAnswersEverything(TransportSuite):
    transport = over(AnswersEverything)


# Limits


class IgnoresTheLimit(LengthPrefixWire):
    def __init__(self, limits: Limits) -> None:
        super().__init__(Limits(max_message=2**32))


class TestIgnoresTheLimit(TransportSuite):
    transport = over(IgnoresTheLimit)
    time_limit = 2.0


class RefusesTheLimit(LengthPrefixWire):
    def __init__(self, limits: Limits) -> None:
        super().__init__(Limits(max_message=limits.max_message - 1))


class TestRefusesTheLimit(TransportSuite):
    transport = over(RefusesTheLimit)


class MakesRoomForWhatIsAnnounced(LengthPrefixWire):
    def receive_data(self, data: bytes) -> list[bytes]:
        if not self._input and len(data) >= 4:
            bytearray(min(int.from_bytes(data[:4]), 10_000_000))
        return super().receive_data(data)


class TestMakesRoomForWhatIsAnnounced(TransportSuite):
    transport = over(MakesRoomForWhatIsAnnounced)


class RefusesTooLate(LengthPrefixWire):
    """Only when all of a message has come."""

    def receive_data(self, data: bytes) -> list[bytes]:
        limit, self._limit = self._limit, 2**32
        messages = super().receive_data(data)
        self._limit = limit
        for number, message in enumerate(messages):
            if len(message) > limit:
                self._fail(len(message), b"")
                return messages[:number]
        return messages


class TestRefusesTooLate(TransportSuite):
    transport = over(RefusesTooLate)


# Endings


class LosesTheTail(LengthPrefixWire):
    def receive_eof(self) -> None:
        self._input.clear()
        super().receive_eof()


class TestLosesTheTail(TransportSuite):
    transport = over(LosesTheTail)


class StaysOpenAtTheEnd(LengthPrefixWire):
    def receive_eof(self) -> None:
        if self._input:
            super().receive_eof()


class TestStaysOpenAtTheEnd(TransportSuite):
    transport = over(StaysOpenAtTheEnd)
    time_limit = 2.0


class BlamesAnOrderlyEnd(LengthPrefixWire):
    def receive_eof(self) -> None:
        if self.state is WireState.OPEN:
            self.error = RemoteProtocolError("it ended")
        self.state = WireState.CLOSED


class TestBlamesAnOrderlyEnd(TransportSuite):
    transport = over(BlamesAnOrderlyEnd)


class HangsAtClose(LengthPrefixWire):
    def close(self, reason: str = "") -> None:
        self.state = WireState.CLOSING

    def receive_eof(self) -> None:
        if self.state is not WireState.CLOSING:
            super().receive_eof()


class TestHangsAtClose(TransportSuite):
    transport = over(HangsAtClose)
    time_limit = 3.0


class ForgetsItsOutputAtClose(LengthPrefixWire):
    def close(self, reason: str = "") -> None:
        self._output.clear()
        super().close(reason)


class TestForgetsItsOutputAtClose(TransportSuite):
    transport = over(ForgetsItsOutputAtClose)


class CanNotSayWhy(LengthPrefixWire):
    def close(self, reason: str = "") -> None:
        if len(reason) > 123:
            raise ValueError("the reason is too long")
        super().close(reason)


class TestCanNotSayWhy(TransportSuite):
    transport = over(CanNotSayWhy)


class IsOpenAgainAfterItsEnd(LengthPrefixWire):
    def receive_data(self, data: bytes) -> list[bytes]:
        if self.state is WireState.CLOSED:
            self.state = WireState.OPEN
            return []
        return super().receive_data(data)


class TestIsOpenAgainAfterItsEnd(TransportSuite):
    transport = over(IsOpenAgainAfterItsEnd)


class ChangesItsMind(LengthPrefixWire):
    def receive_eof(self) -> None:
        self.state = WireState.CLOSED
        self.error = RemoteProtocolError("it ended")


class TestChangesItsMind(TransportSuite):
    transport = over(ChangesItsMind)


class CanNotCloseWithinTheHello(HelloWire):
    def close(self, reason: str = "") -> None:
        if self.state is WireState.HANDSHAKE:
            self.error = RemoteProtocolError("not yet")
        super().close(reason)


class TestCanNotCloseWithinTheHello(TransportSuite):
    transport = over(CanNotCloseWithinTheHello)


# Untrusted clients


class RaisesForOtherProtocols(LengthPrefixWire):
    def receive_data(self, data: bytes) -> list[bytes]:
        messages = super().receive_data(data)
        if self.error is not None:
            raise KeyError(data[:4])
        return messages


class TestRaisesForOtherProtocols(TransportSuite):
    transport = over(RaisesForOtherProtocols)


class RaisesForBitsThatAreWrong(HelloWire):
    """Robust against other protocols; not against itself with a byte changed."""

    def receive_data(self, data: bytes) -> list[bytes]:
        messages = super().receive_data(data)
        if any(b"\x6f" not in message and len(message) == 3 for message in messages):
            raise IndexError("three letters, and no o")
        return messages


class TestRaisesForBitsThatAreWrong(TransportSuite):
    transport = over(RaisesForBitsThatAreWrong)


class LoopsForever(LengthPrefixWire):
    def receive_data(self, data: bytes) -> list[bytes]:
        messages = super().receive_data(data)
        while b"" in messages:
            pass
        return messages


class TestLoopsForever(TransportSuite):
    transport = over(LoopsForever)
    time_limit = 0.5
