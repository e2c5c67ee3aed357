"""The page that the broker serves on its WebSocket port: a client like any other."""

from .content import CONTENT_SECURITY_POLICY, FILES, page_files

__all__ = ["CONTENT_SECURITY_POLICY", "FILES", "page_files"]
