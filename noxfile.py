"""How this project is checked: `nox` runs what a change has to pass, `nox -s types` a part of it.

Everything is installed by constraints.txt: the versions and hashes that were last resolved and
found to work (`nox -s lock` resolves them again).  A Python that is not on the PATH is skipped, and
nox says so.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

# Without compiled files, each of the many programs that tests start compiles all that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
# Without names, what a change has to pass, in about ten minutes on two cores.
nox.options.sessions = [
    "lint",
    "types",
    "wheels",
    "matrix-3.11",
    "matrix-3.12",
    "matrix-3.14",
    "matrix-3.15",
    "matrix-3.14t",
    "matrix-3.15t",
    "lowest",
    "latest",
    "instructions",
    "tests",
    "coverage",
    "docs",
    "page",
    "browser",
]

PYTHONS = ["3.11", "3.12", "3.13", "3.14", "3.15", "3.14t", "3.15t"]
OLDEST = PYTHONS[0]
# The interpreter that runs all tests and whose coverage is measured.
MEASURED = "3.13"
# Older ones lack what the tests of the page use (timers that the test moves, a global crypto).
OLDEST_NODE = 20
CPUS = os.cpu_count() or 1
# Of all tests, many wait more than they compute.
WORKERS_FOR_ALL = CPUS + 2
# What tells one Python, or one version of a dependency, from another: the scenarios on every front
# end and transport, the examples, the recorded exchanges, the Session, the Wires.
SELECTION = [
    "tests/matrix",
    "tests/test_examples.py",
    "packages/mb-broker/tests/test_conformance.py",
    "packages/mb-broker/tests/test_log_filter.py",
    "packages/mb-broker/tests/test_http.py",
    "packages/mb-broker/tests/test_http_origins.py",
    "packages/mb-core/tests/session",
    "packages/mb-core/tests/client/test_client.py",
    "packages/mb-core/tests/client/test_publishing.py",
    "packages/mb-core/tests/client/test_failed_tries.py",
    "packages/mb-core/tests/client/test_reconnecting.py",
    "packages/mb-tcp/tests/test_wire.py",
    "packages/mb-ws/tests/test_handshake.py",
    "packages/mb-ws/tests/test_wire.py",
    "packages/mb-ws/tests/test_wire_random.py",
    "packages/mb-tools/tests/test_request_reply.py",
]
PACKAGES = [
    *("packages/mb-core[trio]", "packages/mb-tcp", "packages/mb-ws", "packages/mb-sync"),
    *("packages/mb-broker[jwt,server]", "packages/mb-client", "packages/mb-testing"),
    "packages/mb-tools[top]",
]
EDITABLE = [argument for path in PACKAGES for argument in ("-e", path)]
TEST_TOOLS = ["--group", "test"]
# These have no wheels for free-threaded Pythons; tests of what they do are skipped there.
WITHOUT_FREE_THREADING = ["google-re2", "hdrhistogram"]
BY_CONSTRAINTS = ["--constraints", "constraints.txt", "--build-constraints", "constraints.txt"]


def install(session: nox.Session, *tools: str) -> None:
    """Install the workspace's packages and `tools`, by the constraints."""
    arguments = [*BY_CONSTRAINTS, *EDITABLE, *tools]
    if str(session.python).endswith("t"):  # no marker tells a free-threaded Python from the others
        # Not in session.create_tmp(), which sets TMPDIR: paths of sockets would be too long there.
        overrides = Path(session.virtualenv.location) / "overrides.txt"
        lines = [f"{name}; python_version < '3'\n" for name in WITHOUT_FREE_THREADING]
        overrides.write_text("".join(lines))
        arguments += ["--overrides", str(overrides)]
    session.install(*arguments)


def pytest(session: nox.Session, *arguments: str, workers: int = CPUS) -> list[str]:
    """The command that runs tests in parallel; arguments after -- go to pytest."""
    parallel = (f"--numprocesses={workers}", "--dist=worksteal")
    # A test that hangs ends its worker, which prints where; no other test is lost.
    limit = ("--timeout=300", "--timeout-method=thread")
    return ["pytest", *parallel, *limit, *(session.posargs or arguments)]


@nox.session
def lint(session: nox.Session) -> None:
    """Style, likely mistakes, imports that only point down, and plain English."""
    install(session, "ruff", "import-linter")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("lint-imports", "--no-logo")
    session.run("python", "scripts/prose.py")


@nox.session
def types(session: nox.Session) -> None:
    """Strict types: MB's own, for the oldest Python, and those that user code sees, by pyright."""
    install(session, "fastapi", "mypy", "nox", "pyright", "pytest", "trustme")
    session.run("mypy")
    if shutil.which("node") is None:
        session.warn("no node here (Debian: apt-get install nodejs): pyright was not run")
    else:
        session.run("pyright")


@nox.session(default=False)
def platforms(session: nox.Session) -> None:
    """The types as they are on macOS and Windows (docs/platforms.md)."""
    install(session, "mypy", "nox", "pytest", "trustme")
    sources = sorted(map(str, Path("packages").glob("*/src")))
    session.run("mypy", "--platform=darwin", *sources)
    # mb_tools looks for what Windows lacks when it runs, which mypy does not see.
    libraries = [source for source in sources if source != "packages/mb-tools/src"]
    session.run("mypy", "--platform=win32", *libraries)


@nox.session(python=PYTHONS)
def matrix(session: nox.Session) -> None:
    """Every front end over every transport, and more that depends on the Python."""
    install(session, *TEST_TOOLS)
    session.run(*pytest(session, *SELECTION))


@nox.session(python=OLDEST)
def lowest(session: nox.Session) -> None:
    """The same with the oldest versions that the packages say they work with."""
    session.install("--resolution", "lowest-direct", *EDITABLE, *TEST_TOOLS)
    session.run(*pytest(session, *SELECTION))


@nox.session(python=MEASURED)
def latest(session: nox.Session) -> None:
    """The same with the newest versions that there are, where the constraints are older."""
    session.install("--upgrade", *EDITABLE, *TEST_TOOLS)
    environment = f"--python={session.virtualenv.location}"
    freeze = ("uv", "pip", "freeze", "--exclude-editable", environment)
    installed = str(session.run(*freeze, silent=True, external=True)).split()
    pinned = Path("constraints.txt").read_text("utf-8").split()
    newer = sorted({word for word in installed if "==" in word}.difference(pinned))
    if not newer:
        session.skip("constraints.txt has the newest versions: these are tested by `nox -s tests`")
    session.log(f"newer than in constraints.txt: {', '.join(newer)}")
    session.run(*pytest(session, *SELECTION))


@nox.session(python=MEASURED)
def wheels(session: nox.Session) -> None:
    """What is released, built and installed: each alone, and beside those of others."""
    install(session, *TEST_TOOLS, "uv")
    # pip, which most of these wait for, waits for the index.
    session.run(*pytest(session, "-m", "wheels", "tests/wheels", workers=WORKERS_FOR_ALL))


@nox.session(python=MEASURED)
def instructions(session: nox.Session) -> None:
    """The hot paths take no more instructions than they did (benchmarks/instructions.json)."""
    # The plots of the benchmarks are tested here: where matplotlib is loaded, all tests that
    # collect garbage take longer.
    install(session, "matplotlib", *TEST_TOOLS)
    tests = ("tests/test_instructions.py", "tests/test_benchmarks.py")
    # In one process: each worker would count all instructions again, which takes 20 s.
    session.run(*pytest(session, "-m", "not wheels", *tests, workers=0))


@nox.session(python=MEASURED)
def tests(session: nox.Session) -> None:
    """All tests on the newest Python, async ones on both event loops, measured."""
    install(session, *TEST_TOOLS)
    session.run("coverage", "run", "-m", *pytest(session, workers=WORKERS_FOR_ALL))


@nox.session(python=MEASURED)
def coverage(session: nox.Session) -> None:
    """What the tests of the newest Python did not reach."""
    install(session, "coverage")
    session.run("coverage", "combine")
    session.run("coverage", "report", "--fail-under=95")


@nox.session(python=MEASURED)
def docs(session: nox.Session) -> None:
    """The documentation site, into build/docs/html; `-- links` checks its links to other sites."""
    install(session, "--group", "docs")
    builder = "linkcheck" if "links" in session.posargs else "html"
    options = ("--fail-on-warning", "--keep-going", "--fresh-env", "--quiet", "--jobs=auto")
    session.run("sphinx-build", *options, f"--builder={builder}", "docs", f"build/docs/{builder}")
    if builder == "html":
        session.log("open build/docs/html/index.html")


@nox.session(python=False)
def page(session: nox.Session) -> None:
    """The broker's page without a browser: style, types, and tests of all that draws nothing."""
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if missing:
        session.skip(f"no {' and no '.join(missing)} here (Debian: apt-get install nodejs npm)")
    version = str(session.run("node", "--version", silent=True, external=True)).strip()
    if int(version.lstrip("v").partition(".")[0]) < OLDEST_NODE:
        session.skip(f"node {version} is too old for its tests: {OLDEST_NODE} or newer is needed")
    session.chdir("packages/mb-broker")
    # package.json has exact versions of tools that depend on nothing else.
    quiet = ("--no-audit", "--no-fund", "--loglevel=error")
    session.run("npm", "install", "--no-package-lock", "--ignore-scripts", *quiet, external=True)
    tools = "node_modules/.bin"
    session.run(f"{tools}/biome", "ci", "--error-on-warnings", external=True)
    session.run(f"{tools}/tsc", external=True)
    tests = sorted(str(path) for path in Path("tests/page").glob("*.test.js"))
    session.run("node", "--test", "--test-reporter=spec", *tests, external=True)


@nox.session(python=MEASURED)
def browser(session: nox.Session) -> None:
    """The broker's page in headless Chromium (Debian: apt-get install chromium)."""
    install(session, "playwright", *TEST_TOOLS)
    folder = "packages/mb-broker/tests"
    files = (f"{folder}/test_page{part}.py" for part in ("", "_connection", "_access"))
    session.run(*pytest(session, *files, workers=WORKERS_FOR_ALL))


@nox.session(default=False, python=PYTHONS)
def full(session: nox.Session) -> None:
    """All tests on every Python and both event loops; before a release."""
    install(session, *TEST_TOOLS, "uv")
    marked = ("-m", "not soak and not instructions")
    session.run(*pytest(session, *marked, workers=WORKERS_FOR_ALL))


@nox.session(default=False, python=MEASURED)
def soak(session: nox.Session) -> None:
    """A thousand connections, and a million requests: what is left of them is nothing."""
    install(session, *TEST_TOOLS)
    folders = ["packages/mb-broker/tests/soak", "tests/reliability/soak"]
    session.run("pytest", "-m", "soak", *folders, *session.posargs)


@nox.session(default=False, python=False)
def version(session: nox.Session) -> None:
    """Write a version into all packages: nox -s version -- 0.2.0 (docs/releasing.md)."""
    session.run("python", "scripts/version.py", *session.posargs)


@nox.session(default=False, python=False)
def prefix(session: nox.Session) -> None:
    """Put a prefix before the names of all distributions: nox -s prefix -- acme-."""
    session.run("python", "scripts/prefix.py", *session.posargs)


@nox.session(default=False, python=False)
def urls(session: nox.Session) -> None:
    """Write where the project lives into all packages: nox -s urls -- https://git.example/acme/mb."""
    session.run("python", "scripts/urls.py", *session.posargs)


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Resolve all dependencies again and write constraints.txt."""
    session.run("uv", "lock", "--upgrade", external=True)
    session.run(
        *("uv", "export", "--all-packages", "--all-groups", "--all-extras"),
        *("--no-emit-workspace", "--no-annotate", "--no-header", "--quiet"),
        *("--output-file", "constraints.txt"),
        external=True,
    )


@nox.session(default=False, python=MEASURED)
def bench(session: nox.Session) -> None:
    """MB and its peers, side by side (Debian: nats-server, redis-server, mosquitto)."""
    install(session, "--requirements", "benchmarks/pyproject.toml")
    session.run("python", "-m", "benchmarks", *session.posargs)
