"""The files of the page, as the broker serves them."""

from __future__ import annotations

import functools
import hashlib
import pkgutil
from collections.abc import Mapping
from pathlib import PurePath

from mb_core.wire import Page

__all__ = ["CONTENT_SECURITY_POLICY", "FILES", "page_files"]

FILES = (
    *("style.css", "charts.css", "form.css", "tables.css", "messages.css", "signin.css"),
    *("main.js", "protocol.js", "client.js", "model.js", "ring.js", "trace.js", "monitor.js"),
    *("text.js", "dom.js", "status.js", "charts.js", "tables.js", "messages.js", "form.js"),
    *("identity.js", "signin.js"),
)
"""The files that index.html loads, and those they import. Nothing else is served."""

# `'self'` covers a WebSocket to the page's own host and port (Chromium, Firefox, Safari 15.4).
# Trusted types make any assignment of text to innerHTML and similar properties raise.
CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src data:",  # the icon
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)

_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
# Browsers request the page each time, because a newer broker has a newer one, and cache what it
# loads: those names change with the contents.
_ASK = {"Cache-Control": "no-cache"}
_KEEP = {"Cache-Control": "public, max-age=31536000, immutable"}


@functools.cache
def page_files() -> Mapping[str, Page]:
    """Return what is served for the page, by path: the page itself at `/`, its files in a folder.

    The folder is named after a digest of all files, and the page refers to it by relative URLs. So
    a page never gets modules of another version, and works behind any path. The files are read
    once. Raises OSError if a file is missing, for example in a frozen program that was built
    without the package's data.
    """
    index = _read("index.html")
    contents = {name: _read(name) for name in FILES}
    digest = hashlib.sha256(b"\0".join([index, *contents.values()])).hexdigest()
    folder = f"page-{digest[:16]}"
    for name in FILES:
        index = index.replace(f'"{name}"'.encode(), f'"{folder}/{name}"'.encode())
    headers = {"Content-Security-Policy": CONTENT_SECURITY_POLICY, **_ASK}
    files = {"/": Page(index, "text/html; charset=utf-8", headers=headers)}
    for name, content in contents.items():
        content_type = _TYPES[PurePath(name).suffix]
        files[f"/{folder}/{name}"] = Page(content, content_type, headers=_KEEP)
    return files


def _read(name: str) -> bytes:
    data = pkgutil.get_data(__package__, name)
    if data is None:
        raise FileNotFoundError(f"a file of the page is missing from the installed package: {name}")
    return data
