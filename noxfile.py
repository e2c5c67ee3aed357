"""How this project is checked: `nox` runs what a change has to pass, `nox -s types` a part of it.

Everything is installed by constraints.txt: the versions and hashes that were last resolved and
found to work (`nox -s lock` resolves anew).  A Python that is not on the PATH is skipped, and
nox says so.
"""

from __future__ import annotations

import os

import nox

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
# Without names, what a change has to pass: in a quarter of an hour on two cores.
nox.options.sessions = [
    "lint",
    "types",
    "tests-3.11(backend='asyncio')",
    "tests-3.12(backend='asyncio')",
    "tests-3.13(backend='asyncio')",
    "tests-3.13(backend='trio')",
    "coverage",
    "browser",
]

PYTHONS = ["3.11", "3.12", "3.13"]
# The interpreter that is measured; its coverage speaks for all.
NEWEST = PYTHONS[-1]
BACKENDS = ["asyncio", "trio"]
# Many tests wait more than they compute.
WORKERS = 1 + (os.cpu_count() or 1)
# What tells an older Python from the newest: the examples, the recorded exchanges, the Session, the
# client over each transport.
SELECTION = [
    "tests",
    "packages/mb-broker/tests/test_conformance.py",
    "packages/mb-core/tests/session",
    "packages/mb-core/tests/client/test_client.py",
    "packages/mb-core/tests/client/test_connection.py",
]
PACKAGES = ["mb-core", "mb-tcp", "mb-ws", "mb-broker[server]", "mb-client", "mb-tools[top]"]


def install(session: nox.Session, *tools: str) -> None:
    """Install the workspace's packages and `tools`, by the constraints."""
    packages = [argument for name in PACKAGES for argument in ("-e", f"packages/{name}")]
    session.install(
        *("--constraints", "constraints.txt", "--build-constraints", "constraints.txt"),
        *packages,
        *tools,
    )


@nox.session
def lint(session: nox.Session) -> None:
    """Style, likely mistakes, and that imports point down only."""
    install(session, "ruff", "import-linter")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("lint-imports", "--no-logo")


@nox.session
def types(session: nox.Session) -> None:
    """Strict types, for the oldest Python that is supported."""
    install(session, "mypy", "nox", "pytest", "trio")
    session.run("mypy")


@nox.session(python=PYTHONS)
@nox.parametrize("backend", BACKENDS)
def tests(session: nox.Session, backend: str) -> None:
    """The tests, async ones on one event loop; arguments after -- go to pytest.

    All of them on the newest Python, on the older ones a selection.
    """
    install(session, "coverage", "hypothesis", "pytest", "pytest-xdist", "trio", "trustme")
    pytest = ["pytest", f"--numprocesses={WORKERS}", "--dist=worksteal"]
    pytest += ["--backend", backend, *session.posargs]
    if backend != BACKENDS[0]:
        pytest.append("--async-only")  # what needs no event loop was tested with the first
    if session.python != NEWEST and not session.posargs:
        pytest += [*SELECTION, "--ignore=tests/reliability"]  # networks are alike to every Python
    if session.python == NEWEST:
        session.run("coverage", "run", "-m", *pytest)
    else:
        session.run(*pytest)


@nox.session(python=NEWEST)
def coverage(session: nox.Session) -> None:
    """What the tests of the newest Python did not reach."""
    install(session, "coverage")
    session.run("coverage", "combine")
    session.run("coverage", "report", "--fail-under=95")


@nox.session(python=NEWEST)
def browser(session: nox.Session) -> None:
    """The broker's page in headless Chromium (Debian: apt-get install chromium)."""
    install(session, "playwright", "pytest", "trio")
    session.run("pytest", "packages/mb-broker/tests/test_page.py", *session.posargs)


@nox.session(default=False, python=NEWEST)
def soak(session: nox.Session) -> None:
    """A thousand connections, and a million requests: what is left of them is nothing."""
    install(session, "pytest", "trio", "trustme")
    folders = ["packages/mb-broker/tests/soak", "tests/reliability/soak"]
    session.run("pytest", "-m", "soak", *folders, *session.posargs)


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Resolve all dependencies anew and write constraints.txt."""
    session.run("uv", "lock", "--upgrade", external=True)
    session.run(
        *("uv", "export", "--all-packages", "--all-groups", "--all-extras"),
        *("--no-emit-workspace", "--no-annotate", "--no-header", "--quiet"),
        *("--output-file", "constraints.txt"),
        external=True,
    )


@nox.session(default=False, python=NEWEST)
def bench(session: nox.Session) -> None:
    """Side by side with nats-py; needs nats-server (Debian: apt-get install nats-server)."""
    install(session, "nats-py")
    session.run("python", "-m", "benchmarks", *session.posargs)
