"""Wheels, and environments that hold them and what they declare, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "DISTRIBUTIONS",
    "PROGRAMS",
    "ROOT",
    "Environment",
    "UvError",
    "build",
    "clone",
    "install",
    "uv",
]

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"
DISTRIBUTIONS = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))

# Seconds.  For a machine that is busy, or fetches what it has not got yet.
_PATIENCE = 240

_NOT_OURS = ("PYTHON", "COV_", "COVERAGE_", "VIRTUAL_ENV", "UV_CONSTRAINT")


class UvError(Exception):
    """uv has failed; what it said."""


def uv(*arguments: str | Path, cwd: Path = ROOT, **environ: str) -> str:
    """What uv prints; it has to succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "uv", *map(str, arguments)],
        cwd=cwd,
        env=_environ() | {"UV_PYTHON_DOWNLOADS": "never"} | environ,
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )
    if done.returncode:
        raise UvError(f"uv {' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}")
    return done.stdout


def build(source: Path, out: Path, *arguments: str, **environ: str) -> None:
    """Build the distribution in `source`, or with `--all-packages` those of its workspace."""
    constraints = ("--build-constraints", ROOT / "constraints.txt")
    uv("build", "--quiet", *arguments, *constraints, "--out-dir", out, cwd=source, **environ)


@dataclass(frozen=True)
class Environment:
    """A Python without anything but what was installed into it."""

    root: Path

    @property
    def python(self) -> Path:
        return self.root / "bin" / "python"

    def installed(self) -> set[str]:
        """The names of the distributions in it."""
        listed = uv("pip", "list", "--quiet", "--format", "freeze", "--python", self.python)
        return {line.partition("==")[0] for line in listed.splitlines()}

    def run(self, program: str, *arguments: str) -> str:
        """What a program of the folder programs/ prints; it has to end well, without warnings."""
        done = self.call("python", "-I", "-W", "error", PROGRAMS / program, *arguments)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout

    def call(self, command: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment until it exits."""
        return subprocess.run(
            [self.root / "bin" / command, *arguments],
            env=_environ(),
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )

    @contextmanager
    def started(self, command: str, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
        """Run a command of the environment while the block lasts."""
        with subprocess.Popen(
            [self.root / "bin" / command, *arguments],
            env=_environ(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()


def install(root: Path, wheels: Sequence[Path], *requirements: str) -> Environment:
    """A new environment with `requirements`, and what they declare.

    What `wheels` has comes from there and from nowhere else, whatever a registry holds under
    these names; the rest is what the constraints say.
    """
    environment = Environment(root / "environment")
    uv("venv", "--quiet", "--python", sys.executable, environment.root)
    ours = root / "wheels.txt"
    ours.write_text("".join(f"{_name(wheel)} @ {wheel.as_uri()}\n" for wheel in wheels))
    constraints = ("--constraints", ours, "--constraints", ROOT / "constraints.txt")
    uv("pip", "install", "--quiet", "--python", environment.python, *constraints, *requirements)
    return environment


def clone(folder: Path) -> Path:
    """Copy what git tracks, with the changes that are not committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def _name(wheel: Path) -> str:
    return wheel.name.partition("-")[0].replace("_", "-")


def _environ() -> dict[str, str]:
    """The environment of the test, without the settings of its own Python."""
    return {key: value for key, value in os.environ.items() if not key.startswith(_NOT_OURS)}
