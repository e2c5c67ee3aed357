"""Show as which user the broker knows you.

It prints the name of the user that your token belongs to (--token-file or MB_TOKEN). Without a
token, clients are anonymous.
"""

from __future__ import annotations

import click

from ..connect import Endpoint, connected, endpoint_options
from ..output import Output
from ..payloads import json_line
from ..runner import asynchronous
from ..shared_options import json_option


@click.command(help=__doc__)
@endpoint_options
@json_option
@asynchronous()
async def command(endpoint: Endpoint, as_json: bool) -> None:
    output = Output(as_json)
    async with connected(endpoint) as client:
        user = client.user
    if not output.people:
        await output.write(json_line({"user": user}))
    elif user is not None:
        await output.write(f"{user}\n")
    elif endpoint.token is None:
        await output.write("anonymous: no token was given (--token-file FILE or MB_TOKEN)\n")
    else:
        await output.write("anonymous: this broker has no access control\n")
