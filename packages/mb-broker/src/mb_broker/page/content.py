"""The page as bytes, and the policy by which a browser runs what stands in it and nothing else."""

from __future__ import annotations

import base64
import functools
import hashlib
import pkgutil
import re

__all__ = ["content_security_policy", "page"]


@functools.cache
def page() -> bytes:
    """Return the page: HTML in UTF-8 with its style and script, read once.

    Send `content_security_policy` with it.  Raises OSError where the file is missing: a frozen
    program that was built without the package's data, for example.
    """
    data = pkgutil.get_data(__package__, "index.html")
    if data is None:
        raise FileNotFoundError("the package was installed without its page, index.html")
    return data


@functools.cache
def content_security_policy() -> str:
    """Return the page's policy as a header's value; raises what `page` raises."""
    return _policy(page())


def _policy(html: bytes) -> str:
    """The policy for `html`, whose inline script and style it knows by their hashes.

    `'self'` covers a WebSocket to the page's own host and port (Chromium, Firefox, Safari 15.4).
    Trusted types make an assignment of text to innerHTML and the like raise, whatever is in it.
    """
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hashes(html, b'script')}",
            f"style-src {_hashes(html, b'style')}",
            "img-src data:",  # the icon
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    )


def _hashes(html: bytes, tag: bytes) -> str:
    """The source expressions of every inline element `tag`."""
    contents = re.findall(rb"<%b[^>]*>(.*?)</%b>" % (tag, tag), html, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(text).digest()).decode() for text in contents]
    return " ".join(f"'sha256-{digest}'" for digest in digests)
