"""Plugins that are broken hurt nobody who does not use them, and name themselves to who does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .conftest import Install
from .installing import Environment, build

pytestmark = pytest.mark.wheels

PROJECT = """\
[build-system]
requires = ["uv_build>=0.9,<0.14"]
build-backend = "uv_build"

[project]
name = "{name}"
version = "1.0"

[project.entry-points."mb.transports"]
{scheme} = "{module}"
"""

# Each leaves a word that it was imported.
IMPORTED = """\
import pathlib

pathlib.Path(__file__).with_name("imported").touch()
"""
GIVES = """
import mb_core
import mb_tcp.plugin


@mb_core.hookimpl
def mb_register_transports():
    [tcp, _] = mb_tcp.plugin.mb_register_transports()
    {name} = mb_core.WireTransport("{name}", tcp.client, tcp.server, default_port=1)
    return [{given}]
"""

# What each does, and the URL scheme that it promises.
BROKEN = {
    "mb-raises": ('raise RuntimeError("broken on purpose")\n', "raises"),
    "mb-leaves": ('import sys\n\nsys.exit("broken on purpose")\n', "leaves"),
    "mb-twice": (GIVES.format(name="twice", given="twice, twice"), "twice"),
    # Two that want the same.
    "mb-one": (GIVES.format(name="both", given="both"), "both"),
    "mb-other": (GIVES.format(name="both", given="both"), "both"),
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory, environment_of: Install) -> Environment:
    """All of ours, and every broken plugin."""
    folder = tmp_path_factory.mktemp("broken")
    for name, (code, scheme) in BROKEN.items():
        module = name.replace("-", "_")
        package = folder / name / "src" / module
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(IMPORTED + code)
        project = PROJECT.format(name=name, scheme=scheme, module=module)
        (folder / name / "pyproject.toml").write_text(project)
        build(folder / name, folder, "--wheel")
    return environment_of("mb-tools", *BROKEN, beside=sorted(folder.glob("*.whl")))


@pytest.fixture
def none_is_imported(broken: Environment) -> Iterator[None]:
    """What the test does imports none of them."""
    for path in broken.root.rglob("imported"):
        path.unlink()
    yield
    assert not list(broken.root.rglob("imported"))


@pytest.mark.usefixtures("none_is_imported")
def test_who_does_not_use_them_does_not_notice(broken: Environment) -> None:
    broken.run("everything.py")


@pytest.mark.usefixtures("none_is_imported")
def test_the_command_serves_and_asks_as_ever(broken: Environment) -> None:
    with broken.started("mb", "serve", "--tcp-port", "0", "--ws-port", "off") as broker:
        assert broker.stdout is not None
        url = broker.stdout.readline().strip()
        asked = broken.call("mb", "request", "system.service.list", "{}", "--url", url)
    assert (asked.returncode, asked.stderr) == (0, "")


@pytest.mark.parametrize(
    ("scheme", "named"),
    [
        ("raises", ["mb-raises", "RuntimeError: broken on purpose"]),
        ("leaves", ["mb-leaves", "SystemExit: broken on purpose"]),
        ("twice", ["mb-twice", "it returned twice:// twice"]),
        ("both", ["mb-one", "mb-other", "uninstall all but one"]),
    ],
)
def test_who_uses_one_is_told_which_it_is(
    scheme: str, named: list[str], broken: Environment
) -> None:
    said = broken.run("refused.py", "connect", f"{scheme}://localhost")
    assert said.startswith("PluginError: ")
    for part in named:
        assert part in said


def test_all_of_them_are_listed(broken: Environment) -> None:
    listed = broken.call("mb", "plugins", "--json")
    assert "Traceback" not in listed.stderr
    for name in (*BROKEN, "mb-tcp"):
        assert name in listed.stdout
