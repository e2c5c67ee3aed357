"""Names of services by their ids."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["Names"]

_MAX_NAMES = 10_000


class Names:
    """The names under which services have registered, as far as they are known.

    Those of the last ten thousand services are kept.
    """

    def __init__(self, services: Iterable[Mapping[str, Any]] = ()) -> None:
        self._names: OrderedDict[str, str] = OrderedDict()
        self.learn_list(services)

    def learn(self, service_id: str, name: str) -> None:
        """A service is called so from now on."""
        self._names[service_id] = name
        self._names.move_to_end(service_id)
        if len(self._names) > _MAX_NAMES:
            self._names.popitem(last=False)

    def learn_list(self, services: Iterable[Mapping[str, Any]]) -> None:
        """What system.service.list has answered."""
        for service in services:
            service_id, name = service.get("id"), service.get("name")
            if isinstance(service_id, str) and isinstance(name, str) and name:
                self.learn(service_id, name)

    def get(self, service_id: str) -> str | None:
        """The name, or None where there is none."""
        return self._names.get(service_id)

    def of(self, service_id: str) -> str:
        """The name, or else the beginning of the id."""
        return self._names.get(service_id) or service_id[:8]
