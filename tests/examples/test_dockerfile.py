"""The Dockerfile: what linters ask for, what the image has to have, and that files are there.

tests/wheels/test_dockerfile.py runs its commands.
"""

from __future__ import annotations

import fnmatch
import tomllib
from pathlib import Path

from .dockerfile import Instruction, stages
from .programs import EXAMPLES

FOLDER = EXAMPLES / "orders"
PACKAGES = EXAMPLES.parent / "packages"
BUILD, FINAL = stages(FOLDER / "Dockerfile")


def named(stage: list[Instruction], name: str) -> list[str]:
    return [instruction.text for instruction in stage if instruction.name == name]


def test_both_stages_have_the_same_small_base() -> None:
    assert named(BUILD, "FROM") == ["python:3.13-slim AS build"]
    assert named(FINAL, "FROM") == ["python:3.13-slim"]


def test_it_runs_as_a_user_without_rights() -> None:
    [user] = named(FINAL, "USER")
    assert all(int(number) >= 1000 for number in user.split(":"))  # Kubernetes wants numbers
    names = [instruction.name for instruction in FINAL]
    assert names.index("USER") > names.index("COPY")


def test_python_is_the_process_that_gets_sigterm() -> None:
    [instruction] = [each for each in FINAL if each.name == "CMD"]
    assert instruction.command == ["/venv/bin/python", "orders.py"]
    assert FINAL[-1] is instruction
    assert not named(FINAL, "ENTRYPOINT")


def test_the_final_stage_only_copies() -> None:
    assert not named(FINAL, "RUN")
    assert named(FINAL, "COPY") == ["--from=build /venv /venv", "orders.py ."]
    assert (FOLDER / "orders.py").exists()


def test_it_installs_the_wheels_that_mb_client_needs_and_no_others() -> None:
    needed: set[str] = set()
    todo = ["mb-client"]
    while todo:
        name = todo.pop()
        needed.add(name)
        project = tomllib.loads((PACKAGES / name / "pyproject.toml").read_text())["project"]
        todo += [each.partition(">")[0] for each in project["dependencies"] if each[:3] == "mb-"]
    [copied] = named(BUILD, "COPY")
    *patterns, folder = copied.split()
    assert folder == "/wheels/"
    assert patterns == [f"wheels/{name.replace('-', '_')}-*.whl" for name in sorted(needed)]


def test_docker_gets_the_files_that_are_copied_and_no_others() -> None:
    first, *kept = (FOLDER / ".dockerignore").read_text().split()
    assert first == "*"
    for name in ["orders.py", "wheels/mb_core-0.1.0-py3-none-any.whl"]:
        assert any(fnmatch.fnmatch(name, pattern.removeprefix("!")) for pattern in kept), name
    assert not any(fnmatch.fnmatch(".venv/secret", pattern.removeprefix("!")) for pattern in kept)


def test_its_head_says_how_to_build_it() -> None:
    head = (FOLDER / "Dockerfile").read_text().partition("FROM")[0]
    assert f"--out-dir {Path('examples') / FOLDER.name}/wheels" in head
