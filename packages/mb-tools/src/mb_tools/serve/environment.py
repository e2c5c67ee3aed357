"""Environment variables of `mb serve`: MB_TCP_PORT sets the option --tcp-port."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches

__all__ = [
    "PREFIX",
    "ignored_variables",
    "is_service_link",
    "misspelled_variables",
    "variable_of",
]

PREFIX = "MB"
"""The prefix of all variables."""

# Variables of other commands, and of the option --config.
_OTHERS = {"MB_CONFIG", "MB_URL", "MB_TOKEN", "MB_CAFILE", "MB_CERT", "MB_KEY"}

# Variables that Kubernetes sets for Services with names such as mb or mb-metrics.
_LINK_NAME = re.compile(
    r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?$"
)
_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://\S+")


def variable_of(option: str | None) -> str:
    """Return the name of the variable that sets an option."""
    return f"{PREFIX}_{(option or '').upper()}"


def is_service_link(name: str, value: str) -> bool:
    """Return whether a variable was set by Kubernetes, not by the user."""
    return _LINK_NAME.search(name) is not None or (
        name.endswith("_PORT") and _LINK_VALUE.fullmatch(value) is not None
    )


def misspelled_variables(options: Iterable[str], environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a warning for each variable whose name is close to an option's."""
    variables = list(map(variable_of, options))
    for name in sorted(environ.keys() - {*variables, *_OTHERS}):
        near = get_close_matches(name, variables, 1, 0.8) if name.startswith(f"{PREFIX}_") else []
        if near and not is_service_link(name, environ[name]):
            yield f"{name} in the environment is not an option; did you mean {near[0]}?"


def ignored_variables(options: Iterable[str], environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a note for each variable of an option that Kubernetes has set."""
    for name in map(variable_of, options):
        if is_service_link(name, environ.get(name, "")):
            yield (
                f"{name}={environ[name]} in the environment is ignored: "
                "Kubernetes sets it for a Service"
            )
