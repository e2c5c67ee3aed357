"""What a subclass of the suite sets for its authenticator."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mb_core.authenticators import Authenticator, Credentials

__all__ = ["Settings"]


class Settings:
    """What a subclass of the suite sets for its authenticator."""

    authenticator: ClassVar[Authenticator]
    """The authenticator to test."""
    time_limit: ClassVar[float] = 20.0
    """Time limit for each test, in seconds."""

    def access_file(self, tmp_path: Path) -> str:
        """Return the text of an access file that turns the authenticator on.

        Args:
            tmp_path: The folder in which the file will be. Write other files that it needs there.
        """
        raise NotImplementedError

    def users(self, tmp_path: Path) -> Mapping[str, Credentials]:
        """Return the credentials of users of this file, by the name that each should have."""
        raise NotImplementedError

    def wrong_credentials(self, tmp_path: Path) -> Sequence[Credentials]:
        """Return credentials that the authenticator must not accept. Tokens must not be empty."""
        raise NotImplementedError

    def secrets(self, tmp_path: Path) -> Sequence[str]:
        """Return secrets besides the tokens, such as passwords in the table."""
        return ()

    def table(self, tmp_path: Path, access_file: str) -> dict[str, Any]:
        """Return what `create` gets: the table in the access file without the limits."""
        tables = tomllib.loads(access_file).get("authenticators", {})
        given: dict[str, Any] = tables[self.authenticator.name]
        return {key: value for key, value in given.items() if not key.startswith("max_")}
