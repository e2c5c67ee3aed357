from mb_core import MessageTooLarge, RemoteProtocolError, WireState


class UnixWire:
    """A message is its length in 4 bytes, big-endian, and then its bytes."""

    def __init__(self, limits):
        self.state = WireState.OPEN  # there is no handshake
        self.error = None
        self._limit = limits.max_message
        self._input = bytearray()
        self._output = []

    def receive_data(self, data):
        messages, start = [], 0
        if self.state is WireState.OPEN:
            self._input += data
        while len(self._input) >= start + 4:
            size = int.from_bytes(self._input[start : start + 4])
            end = start + 4 + size
            if size > self._limit:
                text = f"a message of {size} bytes was announced, the limit is {self._limit}"
                self.error = MessageTooLarge(text, size=size, limit=self._limit)
                self.close()
            elif end > len(self._input):
                break
            else:
                messages.append(bytes(self._input[start + 4 : end]))
                start = end
        del self._input[:start]
        return messages

    def receive_eof(self):
        if self._input:
            self.error = RemoteProtocolError("the connection ended within a message")
        self.close()

    def send(self, message):
        self._output += (len(message).to_bytes(4), message)
        return 4 + len(message)

    def close(self, reason=""):
        self._input.clear()
        self.state = WireState.CLOSED  # its farewell is the end of the stream

    def data_to_send(self):
        data = b"".join(self._output)
        self._output.clear()
        return data
