"""Access control: who may do what (docs/access.md)."""

from __future__ import annotations

from .access_file import read_access_file
from .grants import ANYBODY, NOBODY, Grants, Role, covers
from .summary import AccessSummary, UserSummary, summarize_access_file
from .tokens import new_token, token_digest
from .users import Access, Limits, User

__all__ = [
    "ANYBODY",
    "NOBODY",
    "Access",
    "AccessSummary",
    "Grants",
    "Limits",
    "Role",
    "User",
    "UserSummary",
    "covers",
    "new_token",
    "read_access_file",
    "summarize_access_file",
    "token_digest",
]
