from mb_testing import TransportSuite
from mb_unix import UNIX


class TestUnix(TransportSuite):
    transport = UNIX

    def url(self, tmp_path):
        return f"unix://{tmp_path}/mb.sock"
