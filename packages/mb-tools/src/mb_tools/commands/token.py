"""Create a token for a user.

It prints the user's stanza for the access file (mb serve --access) on standard output, and the
token on standard error. The token is shown only now: the access file has its hash.

\b
    mb token oslo-station >> access.toml
"""

from __future__ import annotations

import json

import click

from mb_broker.access import new_token, token_digest

from ..errors import Failure, Status, note

_STANZA = """\
[[users]]
name = {name}
token_sha256 = "{digest}"
roles = []  # add the roles of this user
"""


@click.command(help=__doc__)
@click.argument("name", metavar="USER")
def command(name: str) -> None:
    if not name or not name.isprintable():
        raise Failure(f"invalid name {name!r}: expected printable characters", Status.USAGE)
    token = new_token()
    # A JSON string without escapes for non-ASCII characters is a TOML string.
    text = json.dumps(name, ensure_ascii=False)
    click.echo(_STANZA.format(name=text, digest=token_digest(token)), nl=False)
    note(f"the token of {name}, which is not shown again: {token}")
