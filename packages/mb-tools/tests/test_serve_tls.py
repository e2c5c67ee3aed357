"""`mb serve` with certificates: clients over TLS, clients with certificates, and wrong files."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trustme

from mb_client import ConnectError, MessageBrokerClient


class Files:
    """A CA, the broker's certificate, a client's, and what is wrong about each, in files."""

    def __init__(self, folder: Path) -> None:
        ca, self.folder = trustme.CA(), folder
        server, client = ca.issue_cert("localhost", "127.0.0.1"), ca.issue_cert("client")
        ca.cert_pem.write_to_path(self["ca"])
        server.private_key_pem.write_to_path(self["key"])
        Path(self["cert"]).write_bytes(b"".join(pem.bytes() for pem in server.cert_chain_pems))
        client.private_key_and_cert_chain_pem.write_to_path(self["client"])
        client.private_key_pem.write_to_path(self["other_key"])
        Path(self["empty"]).touch()
        for name in ("cert", "key"):
            text = Path(self[name]).read_text()
            Path(self[f"broken_{name}"]).write_text(text.replace("M", "!"))

    def __getitem__(self, name: str) -> str:
        return str(self.folder / f"{name}.pem")

    def arguments(self, *more: str) -> list[str]:
        ports = ["--tcp-port=off", "--ws-port=off", "--tls-port=0", "--wss-port=0"]
        return [*ports, f"--tls-cert={self['cert']}", f"--tls-key={self['key']}", *more]

    def trusting(self, client: str | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self["ca"])
        if client is not None:
            context.load_cert_chain(client)
        return context


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


def urls(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(2)]


@pytest.mark.anyio
async def test_it_serves_tls_and_wss_and_nothing_else(mb: Any, files: Files) -> None:
    with anyio.fail_after(30), mb.started("serve", *files.arguments()) as process:
        tls, wss = urls(process)
        assert tls.startswith("tls://127.0.0.1:")
        assert wss.startswith("wss://127.0.0.1:")
        trusting = files.trusting()
        async with (
            MessageBrokerClient(tls, ssl_context=trusting) as service,
            MessageBrokerClient(wss, ssl_context=trusting) as client,
        ):
            await service.subscribe("echo", action="request", handler=lambda m: m.payload)
            assert (await client.request("echo", 1)).payload == 1


@pytest.mark.anyio
async def test_a_client_that_does_not_trust_the_certificate_is_told_in_the_log(
    mb: Any, files: Files
) -> None:
    arguments = files.arguments("--log-format=json")
    with anyio.fail_after(30), mb.started("serve", *arguments) as process:
        for url in urls(process):
            with pytest.raises(ConnectError, match="is not trusted"):
                await MessageBrokerClient(url).connect()
            entry = json.loads(await anyio.to_thread.run_sync(process.stderr.readline))
            assert (entry["level"], entry["module"]) == ("warning", "mb_broker.broker")
            assert entry["message"].endswith(" refused: no TLS: TLSV1_ALERT_UNKNOWN_CA")


@pytest.mark.anyio
async def test_with_a_client_ca_only_clients_with_its_certificates_come_in(
    mb: Any, files: Files
) -> None:
    arguments = files.arguments(f"--tls-client-ca={files['ca']}")
    with anyio.fail_after(30), mb.started("serve", *arguments) as process:
        for url in urls(process):
            async with MessageBrokerClient(url, ssl_context=files.trusting(files["client"])) as one:
                await one.request("system.heartbeat", {})
            with pytest.raises(ConnectError, match="CERTIFICATE_REQUIRED"):
                await MessageBrokerClient(url, ssl_context=files.trusting()).connect()
            line = await anyio.to_thread.run_sync(process.stderr.readline)
            assert " WARNING 127.0.0.1:" in line
            assert line.endswith(" refused: no TLS: PEER_DID_NOT_RETURN_A_CERTIFICATE\n")
        process.send_signal(signal.SIGTERM)
        assert await anyio.to_thread.run_sync(process.wait) == 0


@pytest.mark.parametrize(
    ("option", "wrong", "told"),
    [
        ("tls_cert", "absent", "No such file or directory"),
        ("tls_key", "absent", "No such file or directory"),
        ("tls_client_ca", "absent", "No such file or directory"),
        ("tls_cert", "empty", "there is no certificate in it, in PEM"),
        ("tls_cert", "key", "there is no certificate in it, in PEM"),
        ("tls_key", "cert", "there is no private key in it, in PEM"),
        ("tls_client_ca", "empty", "there is no certificate in it, in PEM"),
        ("tls_key", "other_key", "it does not belong to the certificate in tls_cert "),
        ("tls_cert", "broken_cert", "OpenSSL can't use it with tls_key "),
        ("tls_client_ca", "broken_cert", "OpenSSL can't use it: "),
    ],
)
def test_a_wrong_file_is_one_line_that_names_option_and_file(
    option: str, wrong: str, told: str, mb: Any, files: Files
) -> None:
    chosen = f"--{option.replace('_', '-')}={files[wrong]}"
    status, out, err = mb("serve", *files.arguments(chosen))
    assert (status, out) == (2, "")
    assert err.startswith(f"mb serve: {option} {files[wrong]}: {told}")
    assert err.count("\n") == 1


def test_a_key_with_a_password_is_told_and_not_asked_for(mb: Any, files: Files) -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    key = load_pem_private_key(Path(files["key"]).read_bytes(), None)
    secret = BestAvailableEncryption(b"secret")
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret)
    Path(files["locked"]).write_bytes(locked)
    status, _, err = mb("serve", *files.arguments(f"--tls-key={files['locked']}"))
    assert (status, err) == (
        2,
        f"mb serve: tls_key {files['locked']}: it has a password, and must have none\n",
    )
