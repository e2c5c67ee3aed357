"""A Router without I/O, and what its services send and receive."""

from __future__ import annotations

import uuid

from mb_broker import Router

ID = "123e4567-e89b-42d3-a456-426614174000"
OTHER_ID = "123e4567-e89b-42d3-a456-426614174001"
GREETING = b"publish:system.initialize:1.0.0\n{}"


def request_id_of(message: bytes) -> str:
    """The id in the header of a message that has one; it is a UUID."""
    request_id = message.partition(b"\n")[0].decode().split(":")[3]
    assert str(uuid.UUID(request_id)) == request_id
    return request_id


def is_idle(router: Router) -> bool:
    """Nothing is left of messages that were handled."""
    return (
        router.outstanding == 0
        and not router.take_output()
        and not router.take_dropped()
        and all(
            not service.asked and not service.answering and not service.outbox
            for service in router.registry.services.values()
        )
    )
