"""The page that the broker serves on its WebSocket port: one file, a client like any other."""

from .content import content_security_policy, page

__all__ = ["content_security_policy", "page"]
