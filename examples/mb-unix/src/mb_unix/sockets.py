import socket
from pathlib import Path

from mb_core import ConnectError, SocketAddress


class UnixSockets:
    """Stream sockets whose names are files."""

    def address(self, url):
        return SocketAddress(socket.AF_UNIX, path_of(url))

    def listen(self, url):
        path = path_of(url)
        if is_dead(path):
            Path(path).unlink()
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.bind(path)
            sock.listen(1024)
        except BaseException:
            sock.close()
            raise
        return sock

    def release(self, url):
        Path(path_of(url)).unlink(missing_ok=True)


def path_of(url):
    if url.host or not url.path:
        raise ConnectError(f"{url} names no file: expected unix:///run/mb.sock", final=True)
    return url.path


def is_dead(path):
    """Whether this is the socket of a broker that was killed before it could remove it."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return Path(path).is_socket()
        except OSError:
            return False  # there is nothing, or a broker that is busy
    return False
