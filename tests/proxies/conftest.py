"""What the tests of all proxies share: certificates, and names that a proxy serves."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

from .processes import HOST


class Certificate(NamedTuple):
    """A server's certificate as files, and the settings of a client that trusts it."""

    chain: Path
    key: Path
    both: Path
    trusting: ssl.SSLContext


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate for `mb.example` and the local address."""
    folder = tmp_path_factory.mktemp("certificate")
    authority = trustme.CA()
    issued = authority.issue_cert("mb.example", HOST)
    made = Certificate(
        folder / "cert.pem",
        folder / "key.pem",
        folder / "both.pem",
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    )
    for part in issued.cert_chain_pems:
        part.write_to_path(made.chain, append=True)
    issued.private_key_pem.write_to_path(made.key)
    made.both.write_bytes(made.key.read_bytes() + made.chain.read_bytes())
    authority.configure_trust(made.trusting)
    return made
