"""`mb serve` with certificates: clients over TLS, clients with certificates, and wrong files."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
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
@pytest.mark.parametrize("place", [0, 1], ids=["tls", "wss"])
async def test_a_client_that_does_not_trust_the_certificate_is_told_in_the_log(
    place: int, mb: Any, files: Files
) -> None:
    arguments = files.arguments("--log-format=json")
    with anyio.fail_after(30), mb.started("serve", *arguments) as process:
        with pytest.raises(ConnectError, match="is not trusted"):
            await MessageBrokerClient(urls(process)[place]).connect()
        entry = json.loads(await anyio.to_thread.run_sync(process.stderr.readline))
        assert (entry["level"], entry["module"]) == ("warning", "mb_broker.broker")
        assert entry["message"].endswith(" refused: no TLS: TLSV1_ALERT_UNKNOWN_CA")


@pytest.mark.anyio
@pytest.mark.parametrize("place", [0, 1], ids=["tls", "wss"])
async def test_with_a_client_ca_only_clients_with_its_certificates_come_in(
    place: int, mb: Any, files: Files
) -> None:
    arguments = files.arguments(f"--tls-client-ca={files['ca']}")
    with anyio.fail_after(30), mb.started("serve", *arguments) as process:
        url = urls(process)[place]
        async with MessageBrokerClient(url, ssl_context=files.trusting(files["client"])) as one:
            await one.request("system.heartbeat", {})
        with pytest.raises(ConnectError, match="CERTIFICATE_REQUIRED"):
            await MessageBrokerClient(url, ssl_context=files.trusting()).connect()
        line = await anyio.to_thread.run_sync(line_with, process, " WARNING 127.0.0.1:")
        assert line.endswith(" refused: no TLS: PEER_DID_NOT_RETURN_A_CERTIFICATE\n")
        process.send_signal(signal.SIGTERM)
        assert await anyio.to_thread.run_sync(process.wait) == 0


@pytest.mark.parametrize(
    ("option", "wrong", "told"),
    [
        ("tls_cert", "absent", "No such file or directory"),
        ("tls_key", "absent", "No such file or directory"),
        ("tls_client_ca", "absent", "No such file or directory"),
        ("tls_cert", "empty", "it contains no certificate in PEM"),
        ("tls_cert", "key", "it contains no certificate in PEM"),
        ("tls_key", "cert", "it contains no private key in PEM"),
        ("tls_client_ca", "empty", "it contains no certificate in PEM"),
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
        f"mb serve: tls_key {files['locked']}: it has a password, which is not supported\n",
    )


# The other commands


def test_commands_trust_the_certificates_of_a_file(mb: Any, files: Files) -> None:
    with mb.started("serve", *files.arguments()) as process:
        for url in urls(process):
            done = mb("services", "--url", url)
            assert (done.returncode, done.stdout) == (3, "")
            assert "is not trusted" in done.stderr
            assert "give --cafile FILE" in done.stderr
            assert mb("services", "--url", url, "--cafile", files["ca"]).returncode == 0
            assert mb("pub", "a.b", "--url", url, MB_CAFILE=files["ca"]).returncode == 0


@pytest.mark.parametrize("command", ["sub a.b -n 1", "log -n 1", "trace -n 1", "reply a.b --echo"])
def test_commands_that_stay_take_the_same_files(mb: Any, files: Files, command: str) -> None:
    with mb.started("serve", *files.arguments()) as broker:
        tls, _ = urls(broker)
        options = ["--url", tls, "--cafile", files["ca"]]
        name = f"mb {command.split()[0]}"
        with (
            mb.started(*command.split(), *options),
            anyio.from_thread.start_blocking_portal() as portal,
        ):
            portal.call(_wait_for_service, tls, files.trusting(), name)


async def _wait_for_service(url: str, context: ssl.SSLContext, name: str) -> None:
    with anyio.fail_after(30):
        async with MessageBrokerClient(url, ssl_context=context) as client:
            while True:
                services = (await client.request("system.service.list", {})).payload["services"]
                if name in {service["name"] for service in services}:
                    return


def test_commands_show_a_client_certificate(mb: Any, files: Files) -> None:
    with mb.started("serve", *files.arguments(f"--tls-client-ca={files['ca']}")) as process:
        tls, _ = urls(process)
        trust = ["--url", tls, "--cafile", files["ca"]]
        done = mb("services", *trust)
        assert done.returncode == 3
        assert "asks for a client certificate: give --cert FILE and --key FILE" in done.stderr
        assert mb("services", *trust, "--cert", files["client"]).returncode == 0
        pair = {"MB_CERT": files["client"], "MB_KEY": files["other_key"]}
        assert mb("services", *trust, **pair).returncode == 0
        status, shown = mb.on_terminal("whoami", *trust, **pair)
        assert (status, shown.strip()) == (0, "anonymous: this broker has no access control")


def test_a_client_certificate_says_who_you_are(mb: Any, files: Files, tmp_path: Path) -> None:
    access = tmp_path / "access.toml"
    access.write_text('[[users]]\nname = "billing"\ncertificate = "DNS:client"\nroles = []\n')
    access.chmod(0o600)
    options = files.arguments(f"--tls-client-ca={files['ca']}", f"--access={access}")
    with mb.started("serve", *options) as process:
        for url in urls(process):
            trust = ["--url", url, "--cafile", files["ca"]]
            assert json.loads(mb("whoami", *trust, "--cert", files["client"]).stdout) == {
                "user": "billing"
            }
            own = mb("whoami", *trust, "--cert", files["cert"], "--key", files["key"])
            assert (own.returncode, json.loads(own.stdout)) == (0, {"user": None})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--cafile", "absent"], "--cafile {absent}: No such file or directory"),
        (["--cafile", "empty"], "--cafile {empty}: it contains no certificate in PEM"),
        (["--cafile", "broken_cert"], "--cafile {broken_cert}: OpenSSL can't use it: "),
        (["--cert", "cert"], "--cert {cert}: it contains no private key in PEM (give"),
        (["--cert", "cert", "--key", "other_key"], "--key {other_key}: it does not belong to the"),
        (["--key", "key"], "--key needs --cert"),
    ],
)
def test_a_file_that_cannot_be_used_is_wrong_usage(
    mb: Any, files: Files, options: list[str], told: str
) -> None:
    given = [files[each] if not each.startswith("--") else each for each in options]
    done = mb("services", "--url", "tls://127.0.0.1:1", *given)
    assert (done.returncode, done.stdout) == (2, "")
    names = {name: files[name] for name in ("absent", "empty", "broken_cert", "cert", "other_key")}
    assert done.stderr.startswith(f"mb services: {told.format(**names)}")


def test_a_file_of_the_environment_is_named_as_there(mb: Any, files: Files) -> None:
    for name, more in (("MB_CAFILE", {}), ("MB_CERT", {}), ("MB_KEY", {"MB_CERT": files["cert"]})):
        done = mb("services", "--url", "tls://127.0.0.1:1", **more, **{name: files["absent"]})
        assert done.returncode == 2
        assert done.stderr.startswith(f"mb services: {name} {files['absent']}: No such file")


def test_files_for_a_url_that_is_not_encrypted_are_refused_unless_they_are_the_environments(
    mb: Any, files: Files
) -> None:
    done = mb("services", "--cafile", files["ca"])
    assert done.returncode == 2
    assert done.stderr == (
        "mb services: --cafile is for tls:// and wss://, but tcp:// is not encrypted\n"
    )
    assert mb("services", MB_CAFILE=files["ca"]).returncode == 0


PAGE = Path(__file__).parents[3] / "docs/certificates.md"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_the_recipe_for_certificates_works(mb: Any, tmp_path: Path) -> None:
    create, serve, ping, restrict, whoami, renew, check = re.findall(
        r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL
    )

    def run(script: str) -> None:
        subprocess.run(["sh", "-e", "-c", script], cwd=tmp_path, check=True, capture_output=True)

    def arguments(command: str) -> list[str]:
        words = shlex.split(command.replace("\\\n", " "))
        return [str(tmp_path / word) if word.endswith((".pem", ".key")) else word for word in words]

    run(create)
    program, command, *options = arguments(serve)
    assert (program, command) == ("mb", "serve")
    assert options[4:8] == ["--tls-port", "8444", "--wss-port", "8443"]
    options[4:8] = ["--tls-port", "0", "--wss-port", "off"]
    with mb.started("serve", *options) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        port = url.rpartition(":")[2]
        for host in ("localhost", "127.0.0.1"):
            words = [
                f"tls://{host}:{port}" if word == "tls://localhost:8444" else word
                for word in arguments(ping)[1:]
            ]
            assert f"tls://{host}:{port}" in words
            done = mb(*words)
            assert (done.returncode, done.stderr) == (0, "")
        before = certificate_at(url)
        run(renew)
        process.send_signal(signal.SIGHUP)
        line_with(process, "SIGHUP: reloaded certificates")
        assert certificate_at(url) != before
    run(check)
    (access,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "access.toml").write_text(access)
    prepare, restrict = restrict.split("\n", 1)
    run(prepare)
    words = [
        str(tmp_path / word) if word == "access.toml" else word for word in arguments(restrict)
    ]
    assert words[8:12] == ["--tls-port", "8444", "--wss-port", "8443"]
    words[8:12] = ["--tls-port", "0", "--wss-port", "off"]
    with mb.started(*words[1:]) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip().rpartition(":")[2]
        done = mb(*arguments(whoami.replace("8444", port))[1:])
        assert (done.stdout, done.stderr) == ('{"user":"client"}\n', "")


# Reloading


def line_with(process: subprocess.Popen[str], text: str) -> str:
    """The log's next line that contains `text`; connections have lines of their own."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return line
    raise AssertionError(f"the log ended without {text!r}")


def certificate_at(url: str) -> bytes:
    """The certificate that a new connection gets, unverified."""
    host, _, port = url.partition("://")[2].strip("/").rpartition(":")
    return ssl.get_server_certificate((host, int(port))).encode()


def test_sighup_reloads_the_certificate_for_new_connections(mb: Any, tmp_path: Path) -> None:
    files = Files(tmp_path)
    with mb.started("serve", *files.arguments()) as process:
        served = urls(process)
        before = {certificate_at(url) for url in served}
        Files(tmp_path)  # a new CA and new certificates in the same files
        process.send_signal(signal.SIGHUP)
        assert "INFO SIGHUP: reloaded certificates and log_level info" in line_with(process, "HUP")
        after = {certificate_at(url) for url in served}
        assert (len(before), len(after), before & after) == (1, 1, set())
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.mark.parametrize("broken", ["broken_cert", "empty", "absent", "client"])
def test_a_broken_certificate_changes_nothing_and_is_an_error_in_the_log(
    broken: str, mb: Any, tmp_path: Path
) -> None:
    files = Files(tmp_path)
    with mb.started("serve", *files.arguments()) as process:
        served = urls(process)
        before = [certificate_at(url) for url in served]
        if broken == "absent":
            Path(files["cert"]).unlink()
        else:
            Path(files["cert"]).write_bytes(Path(files[broken]).read_bytes())
        process.send_signal(signal.SIGHUP)
        line = line_with(process, "HUP")
        told = "ERROR SIGHUP: nothing was reloaded, and the broker continues as before: tls_"
        assert told in line
        assert [certificate_at(url) for url in served] == before


@pytest.mark.anyio
async def test_sighup_reloads_the_cas_of_clients(mb: Any, tmp_path: Path) -> None:
    files = Files(tmp_path)
    arguments = files.arguments(f"--tls-client-ca={files['ca']}")
    with anyio.fail_after(30), mb.started("serve", *arguments) as process:
        tls, _ = urls(process)
        old = files.trusting(files["client"])
        async with MessageBrokerClient(tls, ssl_context=old) as connected:
            Files(tmp_path)
            process.send_signal(signal.SIGHUP)
            await anyio.to_thread.run_sync(line_with, process, "SIGHUP: reloaded certificates")
            async with MessageBrokerClient(
                tls, ssl_context=files.trusting(files["client"])
            ) as client:
                await client.request("system.heartbeat", {})
            with pytest.raises(ConnectError):
                await MessageBrokerClient(tls, ssl_context=old).connect()
            await connected.request("system.heartbeat", {})  # as before: it has not reconnected


def test_sighup_reloads_the_log_level_and_names_what_needs_a_restart(
    mb: Any, tmp_path: Path
) -> None:
    file = tmp_path / "mb.toml"
    file.write_text("log_level = 'info'\n")
    with mb.started("serve", "--tcp-port=0", "--ws-port=0", f"--config={file}") as process:
        _, ws = urls(process)
        file.write_text("log_level = 'debug'\nmax_payload = 5\nmax_header = 200\n")
        process.send_signal(signal.SIGHUP)
        assert "INFO SIGHUP: reloaded log_level debug" in line_with(process, "HUP")
        assert "WARNING SIGHUP: restart the broker to apply max_payload, max_header" in line_with(
            process, "HUP"
        )
        host, _, port = ws.removeprefix("ws://").rpartition(":")
        socket.create_connection((host, int(port))).close()
        assert "left without a handshake" in line_with(process, " DEBUG ")
        file.write_text("log_level = 'loud'\n")
        process.send_signal(signal.SIGHUP)
        line_with(process, "ERROR SIGHUP: nothing was reloaded")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
