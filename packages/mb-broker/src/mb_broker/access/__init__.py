"""Access control: who may do what (docs/access.md)."""

from __future__ import annotations

from .access_file import read_access_file
from .grants import ANYBODY, Grants, Role, covers
from .summary import AccessSummary, UserSummary, summarize_access_file
from .tokens import new_token, token_digest
from .users import Access, User

__all__ = [
    "ANYBODY",
    "Access",
    "AccessSummary",
    "Grants",
    "Role",
    "User",
    "UserSummary",
    "covers",
    "new_token",
    "read_access_file",
    "summarize_access_file",
    "token_digest",
]
