"""Show as which user the broker knows you.

It prints the name of the user that your token belongs to (--token-file or MB_TOKEN). Without a
token, it is the user of your client certificate (--cert), or of a token that a proxy adds. Other
clients are anonymous.
"""

from __future__ import annotations

import click

from mb_client import InvalidRequestError, TopicNotSupportedError

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
    access_control = True
    async with connected(endpoint) as client:
        user = client.user
        if user is None:
            try:
                response = await client.request("system.authenticate", {})
                user = response.payload["user"]
            except InvalidRequestError:
                pass  # the connection does not say who this is, so a token is needed
            except TopicNotSupportedError:
                access_control = False
    if not output.people:
        await output.write(json_line({"user": user}))
    elif user is not None:
        await output.write(f"{user}\n")
    elif access_control:
        await output.write(
            "anonymous: neither a token (--token-file FILE or MB_TOKEN) nor a client certificate "
            "of a user (--cert FILE) was given\n"
        )
    else:
        await output.write("anonymous: this broker has no access control\n")
