"""`mb serve --check`: what would apply, for operators to read before they start a broker."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mb_broker.access import AccessSummary, summarize_access_file
from mb_core import MBError, installed_plugins
from mb_core.transport import WireTransport, port_of

from ..errors import Failure, Status
from ..text import one_line
from ..tls_files import certificate_in
from .addresses import Address, addresses
from .broker import prepared, server_context
from .options import ServeOptions

__all__ = ["check"]

# Seconds before a certificate expires in which there is a warning.
_SOON = 14 * 86_400


def check(options: ServeOptions, warnings: Iterable[str] = ()) -> str:
    """Return a description of a broker with these options, with these and other warnings.

    It opens no port and resolves no name. Raises Failure if the broker would not start.
    """
    try:
        listening = addresses(options)
        _check_distinct(listening)
        prepared(options)
        access = None
        if options.access is not None:
            find = installed_plugins().authenticator
            access = summarize_access_file(options.access, find)
    except MBError as error:
        raise Failure(str(error), Status.USAGE) from error
    found = list(warnings)
    sections = [
        _listening(listening, access, found),
        *_certificates(options, found),
        *_access(options, access, found),
    ]
    end = "Valid, without warnings"
    if found:
        sections.append(["Warnings", *(f"  - {text}" for text in found)])
        end = f"Valid, with {len(found)} warning{'s'[: len(found) > 1]}"
    sections.append([end])
    return "\n\n".join("\n".join(map(one_line, lines)) for lines in sections)


def _check_distinct(listening: Sequence[Address]) -> None:
    """Raise Failure if two URLs have the same port."""
    seen: dict[tuple[str, int], Address] = {}
    for each in listening:
        if isinstance(each.transport, WireTransport) and each.transport.sockets is None:
            port = port_of(each.parsed, each.transport)
            other = seen.setdefault((each.parsed.host, port), each)
            if port and other is not each:
                text = f"{other.parsed} and {each.parsed} are the same port: change one of them"
                raise Failure(text, Status.USAGE)


# Sections, each a list of lines


def _listening(
    listening: Sequence[Address], access: AccessSummary | None, warnings: list[str]
) -> list[str]:
    rows = [(str(each.parsed), _who(each, access)) for each in listening]
    for each in listening:
        if each.local or each.certified:
            continue
        if access is None:
            warnings.append(f"everyone who can reach {each.parsed} may do everything (--open)")
        elif not each.needs_certificate:
            warnings.append(
                f"{each.parsed} is not encrypted, so tokens can be read in transit: use tls_port "
                "or wss_port unless you trust the network"
            )
    return ["Listens on", *_table(rows)]


def _who(address: Address, access: AccessSummary | None) -> str:
    """Return who can connect to an address."""
    if access is None:
        who = "everyone"
    else:
        users = ["users"] if access.users or access.authenticators else []
        who = " and ".join(users + (["anonymous clients"] if access.anonymous is not None else []))
    if address.certified:
        who += " with a client certificate"
    if address.local:
        who += " on this machine"
    elif not address.certified and access is None:
        who += " who can reach it"
    return who


def _certificates(options: ServeOptions, warnings: list[str]) -> Iterator[list[str]]:
    # Without the clients' CAs: this client has no certificate.
    context = server_context(options, client_ca=False)
    if context is None or options.tls_cert is None:
        return
    title = f"Certificate {options.tls_cert}"
    where = f"tls_cert {options.tls_cert}"
    try:
        certificate = certificate_in(context, options.tls_cert)
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", None) or error
        warnings.append(f"{where}: clients will refuse it: {reason}")
        yield [title, *_table([("invalid", str(reason))])]
    else:
        names = [value for _, value in certificate.get("subjectAltName", ())]
        if not names:
            warnings.append(f"{where}: clients will refuse it: it has no names (subjectAltName)")
        rows = [("names", ", ".join(names) or "none"), ("valid", _validity(certificate))]
        warnings += _about_time(where, certificate)
        yield [title, *_table(rows)]
    if options.tls_client_ca is not None:
        full = server_context(options)
        assert full is not None
        where = f"tls_client_ca {options.tls_client_ca}"
        authorities = full.get_ca_certs()
        for authority in authorities:
            warnings += _about_time(f"{where}: {_subject(authority)}", authority)
        rows = [(_subject(each), _validity(each)) for each in authorities]
        yield [f"Clients need a certificate from {options.tls_client_ca}", *_table(rows)]


def _access(
    options: ServeOptions, access: AccessSummary | None, warnings: list[str]
) -> Iterator[list[str]]:
    if access is None:
        yield ["No access file", "  Clients that can connect may do everything."]
        return
    lines = [f"Access file {options.access}"]
    rows = [
        (user.name, ", ".join(user.known_by), _roles(user.roles), _limits(user.limits))
        for user in access.users
    ]
    if rows:
        lines += ["  Users", *_table(rows, indent=4)]
    if access.authenticators:
        others = [(name, _limits(limits)) for name, limits in access.authenticators.items()]
        lines += ["  Users of other authenticators", *_table(others, indent=4)]
    lines += ["  Anonymous clients"]
    if access.anonymous is None:
        lines.append("    rejected")
    else:
        lines.append(f"    {_roles(access.anonymous)}")
    if access.roles:
        lines += ["  Roles", *_table(_allowed(access), indent=4)]
    for user in access.users:
        if not user.roles and not access.anonymous:
            warnings.append(f"the user {user.name!r} has no roles, so it may do nothing")
        with_token = "token" in user.known_by or access.authenticators
        if not with_token and options.tls_client_ca is None:
            warnings.append(
                f"the user {user.name!r} can't authenticate: it is known by its certificate, and "
                "without tls_client_ca the broker asks for none"
            )
    yield lines


def _limits(limits: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in limits.items())


def _roles(names: Sequence[str]) -> str:
    return f"role{'s'[: len(names) != 1]} {', '.join(names)}" if names else "no roles"


def _allowed(access: AccessSummary) -> Iterator[tuple[str, str, str]]:
    for name, role in access.roles.items():
        allowed = [(key, ", ".join(values)) for key, values in role.items() if values]
        shown = name
        for key, values in allowed or [("nothing", "")]:
            yield shown, key, values
            shown = ""


# Texts


def _table(rows: Iterable[Sequence[str]], indent: int = 2) -> list[str]:
    """Return lines in which the cells of each column begin at the same place."""
    cells = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [(" " * indent + "  ".join(map(str.ljust, row, widths))).rstrip() for row in cells]


def _subject(certificate: dict[str, Any]) -> str:
    parts = {key: value for part in certificate["subject"] for key, value in part}
    return f"CN={parts['commonName']}" if "commonName" in parts else ", ".join(parts.values())


def _validity(certificate: dict[str, Any]) -> str:
    end = ssl.cert_time_to_seconds(certificate["notAfter"])
    day = time.strftime("%Y-%m-%d", time.gmtime(end))
    days = int((end - time.time()) // 86_400)
    return f"until {day}" + (f", for {days} day{'s'[: days != 1]}" if days >= 0 else ": expired")


def _about_time(what: str, certificate: dict[str, Any]) -> Iterator[str]:
    """Yield a warning if a certificate is not valid now, or not for long."""
    now = time.time()
    left = ssl.cert_time_to_seconds(certificate["notAfter"]) - now
    if left < 0:
        yield f"{what}: it has expired: renew it"
    elif left < _SOON:
        days = int(left // 86_400) + 1
        yield f"{what}: it expires in less than {days} day{'s'[: days > 1]}: renew it"
    if ssl.cert_time_to_seconds(certificate["notBefore"]) > now:
        yield f"{what}: it is not valid yet: {certificate['notBefore']}"
