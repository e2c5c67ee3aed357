"""The broker's own topics: `system.*` (docs/protocol.md, "System topics")."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from mb_core.codec import decode_payload
from mb_core.errors import (
    InvalidRequestError,
    MalformedMessageError,
    RemoteProtocolError,
    ResponseError,
    ServiceUnavailableError,
    TopicNotSupportedError,
    timestamp_now,
)
from mb_core.header import Action, HeaderPrefix
from mb_core.ids import is_id
from mb_core.topic import is_pattern

from .journal import Journal
from .metrics import BrokerMetrics, Metric
from .registry import Registry, Service, Subscription, is_system

__all__ = ["SystemTopics"]

_SUCCESS = {"status": "success"}
_FAILURE = {"status": "failure"}

_MAX_NAME = 36
_MAX_DESCRIPTION = 1024

_HEARTBEAT = "system.heartbeat"
_LOG = "system.log"

# The feeds that a client may subscribe to by system.topic.subscribe.
_FEEDS = frozenset(
    {
        _LOG,
        "system.message",
        "system.service.register",
        "system.topic.subscribe",
        "system.topic.unsubscribe",
    }
)

# Topics that need no payload: they are answered whatever it is, as the reference broker does.
_WITHOUT_PAYLOAD = frozenset(
    {
        _HEARTBEAT,
        "system.service.list",
        "system.topic.list",
        "system.topic.subscriptions",
        "system.log.unsubscribe",
    }
)

_ACTIONS: dict[object, tuple[Action, ...]] = {
    "publish": (Action.PUBLISH,),
    "request": (Action.REQUEST,),
    "both": (Action.PUBLISH, Action.REQUEST),
    "response": (),  # there is nothing to subscribe to: the answer is a failure
}

Answer = dict[str, Any]


class SystemTopics:
    """Answers requests to system topics."""

    def __init__(
        self, registry: Registry, metrics: BrokerMetrics, journal: Journal, max_subscriptions: int
    ) -> None:
        self._registry = registry
        self._metrics = metrics
        self._journal = journal
        self._max_subscriptions = max_subscriptions
        self._handlers: dict[str, Callable[[Service, Answer, float], Answer]] = {
            _HEARTBEAT: self._heartbeat,
            "system.service.register": self._register,
            "system.service.list": self._list_services,
            "system.service.subscriptions": self._list_service_subscriptions,
            "system.topic.subscribe": self._subscribe,
            "system.topic.unsubscribe": self._unsubscribe,
            "system.topic.list": self._list_topics,
            "system.topic.subscriptions": self._list_topic_subscriptions,
            "system.log.subscribe": self._follow_log,
            "system.log.unsubscribe": self._leave_log,
            "system.metrics": self._list_metrics,
        }

    def answer(
        self,
        service: Service,
        prefix: HeaderPrefix,
        payload: bytes | ResponseError,
        now: float,
    ) -> Answer | None:
        """Return the payload of the answer, or None where there is none.

        `payload` is an error if the payload must not be read.  Raises ResponseError: the first
        of several in the order in which the reference broker checks.
        """
        if prefix.action is not Action.REQUEST:
            if prefix.action is Action.RESPONSE and prefix.key == _HEARTBEAT:
                return None  # a sign of life, as any message is
            raise InvalidRequestError(
                f"{prefix.topic} takes requests, not a {prefix.action.value}",
                details={"action": prefix.action.value, "topic": prefix.topic},
            )
        handler = self._handlers.get(prefix.key)
        if handler is None:
            raise TopicNotSupportedError(f"there is no system topic {prefix.topic}")
        required = prefix.key not in _WITHOUT_PAYLOAD
        if isinstance(payload, ResponseError):
            if required:
                raise payload
            payload = b""
        return handler(service, _read(payload, required), now)

    def _heartbeat(self, service: Service, payload: Answer, now: float) -> Answer:
        if payload.get("timeouts") is True:
            service.wants_timeouts = True
        return _SUCCESS

    def _register(self, service: Service, payload: Answer, now: float) -> Answer:
        name, description = payload.get("name"), payload.get("description")
        if not (isinstance(name, str) and name and isinstance(description, str) and description):
            raise InvalidRequestError(
                "name and description are required: texts that are not empty",
                details=_given(payload, "name", "description"),
            )
        for key, text, limit in (
            ("name", name, _MAX_NAME),
            ("description", description, _MAX_DESCRIPTION),
        ):
            if len(text) > limit:
                raise InvalidRequestError(
                    f"the {key} has {len(text)} characters, the limit is {limit}",
                    details={key: text},
                )
        known, service.name, service.description = bool(service.name), name, description
        self._metrics.registration.add(int(now))
        self._journal.write(
            "info",
            "registry",
            f"{name} registered",
            cause="registered again" if known else None,
            second=int(now),
            serviceId=service.id,
        )
        return _SUCCESS

    def _list_services(self, service: Service, payload: Answer, now: float) -> Answer:
        self._metrics.discovery.add(int(now))
        wall = datetime.now(UTC)

        def iso(moment: float) -> str:
            then = wall - timedelta(seconds=now - moment)
            return then.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"

        return {
            "services": [
                {
                    "id": other.id,
                    "name": other.name,
                    "description": other.description,
                    "connectedAt": iso(other.connected_at),
                    "lastHeartbeat": iso(other.last_seen),
                }
                for other in self._registry.services.values()
            ]
        }

    def _list_service_subscriptions(self, service: Service, payload: Answer, now: float) -> Answer:
        given = payload.get("serviceId")
        if given is None:
            given = service.id
        if not isinstance(given, str) or not is_id(given.encode(errors="replace")):
            raise InvalidRequestError(
                f"invalid serviceId {given!r}: expected a UUID in lower case",
                details={"serviceId": given},
            )
        other = self._registry.services.get(given)
        if other is None:
            raise ServiceUnavailableError(
                f"Service {given} not found", details={"serviceId": given}
            )
        ordered = sorted(
            other.subscriptions.values(), key=lambda entry: (entry.pattern, entry.action.value)
        )
        return {
            "subscriptions": [
                {"action": entry.action.value, "topic": entry.pattern, **_priority(entry)}
                for entry in ordered
            ]
        }

    def _subscribe(self, service: Service, payload: Answer, now: float) -> Answer:
        topic = payload.get("topic")
        actions = _read_actions(payload)
        pattern = _read_pattern(payload)
        if is_system(pattern) and (pattern not in _FEEDS or Action.REQUEST in actions):
            raise InvalidRequestError(
                f"{topic} is the broker's own: it can't be subscribed to", details={"topic": topic}
            )
        priority = payload.get("priority", 0)
        if isinstance(priority, bool) or not isinstance(priority, int | float):
            raise InvalidRequestError("a priority is a number", details={"priority": priority})
        added = [each for each in actions if (each, pattern) not in service.subscriptions]
        if len(service.subscriptions) + len(added) > self._max_subscriptions:
            self._journal.write(
                "warn",
                "registry",
                f"{_named(service)} has {len(service.subscriptions)} subscriptions, "
                f"max_subscriptions is {self._max_subscriptions}",
                cause="max_subscriptions",
                second=int(now),
                serviceId=service.id,
            )
            raise ServiceUnavailableError(
                f"a client has at most {self._max_subscriptions} subscriptions (max_subscriptions)",
                details={"topic": topic},
            )
        for each in actions:
            of_requests = priority if each is Action.REQUEST else None
            self._registry.subscribe(service, each, pattern, of_requests)
        return _SUCCESS if actions else _FAILURE

    def _unsubscribe(self, service: Service, payload: Answer, now: float) -> Answer:
        actions = _read_actions(payload)
        pattern = _read_pattern(payload)
        if is_system(pattern) and (pattern not in _FEEDS or pattern == _LOG):
            topic = payload.get("topic")
            raise InvalidRequestError(
                f"{topic} is the broker's own: it can't be unsubscribed", details={"topic": topic}
            )
        # Each of them, whatever the others say.
        known = [self._registry.unsubscribe(service, each, pattern) for each in actions]
        return _SUCCESS if any(known) else _FAILURE

    def _list_topics(self, service: Service, payload: Answer, now: float) -> Answer:
        return {"topics": self._topics()}

    def _list_topic_subscriptions(self, service: Service, payload: Answer, now: float) -> Answer:
        return {"subscriptions": self._topics()}

    def _follow_log(self, service: Service, payload: Answer, now: float) -> Answer:
        levels = payload.get("levels")
        self._journal.follow(
            service, levels if levels is not None else ["error"], payload.get("regex")
        )
        self._registry.subscribe(service, Action.PUBLISH, _LOG, None)
        return _SUCCESS

    def _leave_log(self, service: Service, payload: Answer, now: float) -> Answer:
        self._journal.forget(service)
        self._registry.unsubscribe(service, Action.PUBLISH, _LOG)
        return _SUCCESS

    def _list_metrics(self, service: Service, payload: Answer, now: float) -> Answer:
        show_all, wanted = payload.get("showAll"), payload.get("paramFilter")
        if wanted is not None and not isinstance(wanted, dict):
            raise InvalidRequestError(
                "paramFilter is an object of parameters and their values",
                details={"paramFilter": wanted},
            )
        found = [
            metric
            for metric in self._metrics.snapshot(now)
            if _has_parameters(metric, wanted or {})
        ]
        if show_all is not True:
            return {"metrics": {metric.name: metric.value for metric in found}}
        timestamp = timestamp_now()
        return {
            "metrics": {
                metric.name: {
                    "name": metric.name,
                    "type": metric.type.value,
                    "timestamp": timestamp,
                    "value": metric.value,
                }
                for metric in found
            }
        }

    def _topics(self) -> list[Answer]:
        """Who is subscribed to what, by topic and action, the highest priority first."""
        found: dict[tuple[str, str], list[Subscription]] = {}
        for entry in self._registry.subscriptions():
            found.setdefault((entry.pattern, entry.action.value), []).append(entry)
        return [
            {
                "action": action,
                "topic": topic,
                "subscribers": [
                    {"serviceId": entry.service.id, **_priority(entry)}
                    for entry in sorted(entries, key=lambda entry: -entry.rank)
                ],
            }
            for (topic, action), entries in sorted(found.items(), key=lambda item: item[0])
        ]


def _read(payload: bytes, required: bool) -> Answer:
    """Return a request's payload as an object: without any keys if it is another kind of value.

    A payload that is not `required` may also be empty, null or not JSON at all.
    """
    try:
        value = decode_payload(payload)
    except RemoteProtocolError as error:
        if not required:
            return {}
        text = payload.decode(errors="replace")
        raise MalformedMessageError(
            "the payload is not valid JSON", details={"payload": text}
        ) from error
    if value is None and required:
        raise InvalidRequestError("a payload is required; {} will do")
    return value if isinstance(value, dict) else {}


def _read_actions(payload: Answer) -> tuple[Action, ...]:
    action = payload.get("action")
    actions = _ACTIONS.get(action) if isinstance(action, str) else None
    if actions is None:
        raise InvalidRequestError(
            "action is required: publish, request or both", details=_given(payload, "action")
        )
    return actions


def _read_pattern(payload: Answer) -> str:
    topic = payload.get("topic")
    if not isinstance(topic, str) or not is_pattern(topic):
        raise InvalidRequestError(
            "topic is required: 1 to 5 segments of letters and digits joined by '.', "
            "with + for any segment and a closing # for any number",
            details=_given(payload, "topic"),
        )
    return topic.lower()


def _given(payload: Answer, *keys: str) -> Answer:
    return {key: payload[key] for key in keys if key in payload}


def _has_parameters(metric: Metric, wanted: Answer) -> bool:
    """Whether the metric has all wanted parameters; their names in any case, as topics."""
    return all(
        metric.parameters.get(str(name).lower()) == str(value) for name, value in wanted.items()
    )


def _named(service: Service) -> str:
    return service.name or service.id


def _priority(entry: Subscription) -> Answer:
    return {} if entry.priority is None else {"priority": entry.priority}
