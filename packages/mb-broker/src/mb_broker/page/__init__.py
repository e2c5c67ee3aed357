"""The page that the broker serves on its WebSocket port: one file, a client like any other."""

from .content import CONTENT_SECURITY_POLICY, page

__all__ = ["CONTENT_SECURITY_POLICY", "page"]
