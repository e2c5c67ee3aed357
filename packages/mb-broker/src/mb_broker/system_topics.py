"""The broker's own topics: `system.*` (docs/protocol.md, "System topics")."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mb_core.codec import decode_payload, is_text
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
from mb_core.topic import AUTHENTICATE, is_pattern

from .identities import Identities
from .listings import BrokerLists, read_page_request
from .log_feed import LogFeed
from .metrics import BrokerMetrics, Metric
from .options import RouterOptions
from .refusals import denied_error
from .registry import Registry, Service, is_system

__all__ = ["COSTLY_TOPICS", "SystemTopics"]

_SUCCESS = {"status": "success"}
_FAILURE = {"status": "failure"}

_MAX_NAME = 36
_MAX_DESCRIPTION = 1024

COSTLY_TOPICS = frozenset(
    {
        "system.service.list",
        "system.service.subscriptions",
        "system.topic.list",
        "system.topic.subscriptions",
        "system.metrics",
    }
)
"""Topics whose answers grow with the number of services and subscriptions."""

# Those whose answers can take hundreds of milliseconds, and how many bytes to encode at a time.
_TOPIC_LISTS = frozenset({"system.topic.list", "system.topic.subscriptions"})
_STEP_BYTES = 100_000

_HEARTBEAT = "system.heartbeat"
_LOG = "system.log"

# The feeds that a client may subscribe to with system.topic.subscribe.
_FEEDS = frozenset(
    {
        _LOG,
        "system.message",
        "system.service.register",
        "system.topic.subscribe",
        "system.topic.unsubscribe",
    }
)

# Topics that ignore their payload, as in the reference broker.
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
    "response": (),  # there is nothing to subscribe to, so the answer is a failure
}

Answer = dict[str, Any]


class SystemTopics:
    """Answers requests to system topics."""

    def __init__(
        self,
        registry: Registry,
        metrics: BrokerMetrics,
        log: LogFeed,
        options: RouterOptions,
        identities: Identities,
    ) -> None:
        self._registry = registry
        self._identities = identities
        self._lists = BrokerLists(registry, with_users=identities.restricted)
        self._options = options
        self._max_answer = options.max_answer
        self._metrics = metrics
        self._log = log
        self._handlers: dict[str, Callable[[Service, Answer, float], Answer | bytes]] = {
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
        if identities.restricted:
            self._handlers[AUTHENTICATE] = self._authenticate

    def prepare(self, topic: str) -> bool:
        """Prepare part of the answer to a costly topic; return whether it is ready."""
        if topic in _TOPIC_LISTS:
            return self._lists.topics.update(_STEP_BYTES)
        return True

    def answer(
        self,
        service: Service,
        prefix: HeaderPrefix,
        payload: bytes | ResponseError,
        now: float,
    ) -> Answer | bytes | None:
        """Return the payload of the answer (encoded, for lists), or None for no answer.

        `payload` is an error if the payload is invalid. Raises ResponseError: of several, the first
        in the order in which the reference broker checks.
        """
        if prefix.action is not Action.REQUEST:
            if prefix.action is Action.RESPONSE and prefix.key == _HEARTBEAT:
                return None  # as any message, it shows that the client is alive
            raise InvalidRequestError(
                f"{prefix.topic} accepts requests, not a {prefix.action.value}",
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
        secret = prefix.key == AUTHENTICATE
        return handler(service, _read(payload, required, secret=secret), now)

    def _authenticate(self, service: Service, payload: Answer, now: float) -> Answer:
        token = payload.get("token")
        if token is None and service.user is not None:
            user = service.user  # its connection says who it is
        elif isinstance(token, str):
            user = self._identities.authenticate(service, token, now)
        else:
            raise InvalidRequestError("a token is required: a string")  # its value is not shown
        self._lists.service_changed(service)
        return {"status": "success", "user": user.name}

    def _heartbeat(self, service: Service, payload: Answer, now: float) -> Answer:
        if payload.get("timeouts") is True:
            service.wants_timeouts = True
        return _SUCCESS

    def _register(self, service: Service, payload: Answer, now: float) -> Answer:
        name, description = payload.get("name"), payload.get("description")
        if not (isinstance(name, str) and name and isinstance(description, str) and description):
            raise InvalidRequestError(
                "name and description are required: strings that are not empty",
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
            if not is_text(text.encode(errors="surrogatepass")):
                raise InvalidRequestError(
                    f"the {key} contains a lone surrogate, which can't be shown"
                )
        known, service.name, service.description = bool(service.name), name, description
        self._metrics.registration.add(int(now))
        cause = "registered again" if known else None
        self._write_log("info", f"{name} registered", cause, service, now)
        self._lists.service_changed(service)
        return _SUCCESS

    def _list_services(self, service: Service, payload: Answer, now: float) -> bytes:
        self._metrics.discovery.add(int(now))
        page = read_page_request(payload)
        return self._lists.services(now).answer("services", page, self._max_answer)

    def _list_service_subscriptions(self, service: Service, payload: Answer, now: float) -> bytes:
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
        page = read_page_request(payload)
        return self._lists.subscriptions(other).answer("subscriptions", page, self._max_answer)

    def _subscribe(self, service: Service, payload: Answer, now: float) -> Answer:
        topic = payload.get("topic")
        actions = _read_actions(payload)
        pattern = _read_pattern(payload)
        if is_system(pattern) and (pattern not in _FEEDS or Action.REQUEST in actions):
            raise InvalidRequestError(
                f"{topic} belongs to the broker and can't be subscribed to",
                details={"topic": topic},
            )
        priority = payload.get("priority", 0)
        if isinstance(priority, bool) or not isinstance(priority, int | float):
            raise InvalidRequestError(
                "the priority must be a number", details={"priority": priority}
            )
        self._check_grants(service, actions, pattern, priority, str(topic))
        added = [each for each in actions if (each, pattern) not in service.subscriptions]
        self._check_room(service, len(added), payload, now)
        for each in actions:
            of_requests = priority if each is Action.REQUEST else None
            self._registry.subscribe(service, each, pattern, of_requests)
            text = f"{_named(service)} subscribed to {each.value} {pattern}"
            self._write_log("info", text, "subscribed to", service, now)
        return _SUCCESS if actions else _FAILURE

    def end_forbidden(self, service: Service, now: float) -> list[ResponseError]:
        """End the subscriptions that a client may not have any more; return why, for each."""
        errors: list[ResponseError] = []
        self._lists.service_changed(service)  # it may have another user
        for each in list(service.subscriptions.values()):
            try:
                self._check_grants(service, (each.action,), each.pattern, each.rank, each.pattern)
            except ResponseError as error:
                errors.append(error)
                self._registry.unsubscribe(service, each.action, each.pattern)
                if each.pattern == _LOG:
                    self._log.unfollow(service)
                text = f"{_named(service)} lost its subscription to {each.action.value} "
                self._write_log("warn", text + each.pattern, "lost", service, now)
        return errors

    def _check_grants(
        self, service: Service, actions: Iterable[Action], pattern: str, priority: float, topic: str
    ) -> None:
        """Raise ForbiddenError if a client may not subscribe to this."""
        for each in actions:
            verb = "respond" if each is Action.REQUEST else "subscribe"
            if not service.grants.may_subscribe(each, pattern):
                raise denied_error(service, verb, topic)
            highest = service.user.limits.max_priority if service.user is not None else None
            if each is Action.REQUEST and highest is not None and priority > highest:
                why = f" with a priority above {highest:g} (max_priority)"
                raise denied_error(service, verb, topic, why)

    def _check_room(self, service: Service, added: int, payload: Answer, now: float) -> None:
        """Raise ServiceUnavailableError if a client may not have this many more subscriptions."""
        registry = self._registry
        has = len(service.subscriptions)
        if has + added > self._options.max_subscriptions:
            cause, limit = "max_subscriptions", self._options.max_subscriptions
            state = f"{_named(service)} has {has} subscriptions"
            text = f"a client has at most {limit} subscriptions ({cause})"
        elif registry.total + added > self._options.max_subscriptions_total:
            cause, limit = "max_subscriptions_total", self._options.max_subscriptions_total
            share = limit // len(registry.services)
            if has + added <= share:
                return  # clients with many must not keep those with few from subscribing
            state = f"all clients have {registry.total} subscriptions, {_named(service)} has {has}"
            text = (
                f"all clients together have {limit} subscriptions ({cause}), and this one would "
                f"have more than an equal share of them ({share})"
            )
        else:
            return
        self._write_log("warn", f"{state}, {cause} is {limit}", cause, service, now)
        raise ServiceUnavailableError(text, details={"topic": payload.get("topic")})

    def _unsubscribe(self, service: Service, payload: Answer, now: float) -> Answer:
        actions = _read_actions(payload)
        pattern = _read_pattern(payload)
        if is_system(pattern) and (pattern not in _FEEDS or pattern == _LOG):
            topic = payload.get("topic")
            raise InvalidRequestError(
                f"{topic} belongs to the broker and can't be unsubscribed", details={"topic": topic}
            )
        answer = _FAILURE
        for each in actions:
            if self._registry.unsubscribe(service, each, pattern):
                text = f"{_named(service)} unsubscribed {each.value} {pattern}"
                self._write_log("info", text, "unsubscribed", service, now)
                answer = _SUCCESS
        return answer

    def _list_topics(self, service: Service, payload: Answer, now: float) -> bytes:
        return self._lists.topics.answer("topics", read_page_request(payload), self._max_answer)

    def _list_topic_subscriptions(self, service: Service, payload: Answer, now: float) -> bytes:
        return self._lists.topics.answer(
            "subscriptions", read_page_request(payload), self._max_answer
        )

    def _follow_log(self, service: Service, payload: Answer, now: float) -> Answer:
        levels = payload.get("levels")
        self._log.follow(service, levels if levels is not None else ["error"], payload.get("regex"))
        self._registry.subscribe(service, Action.PUBLISH, _LOG, None)
        return _SUCCESS

    def _leave_log(self, service: Service, payload: Answer, now: float) -> Answer:
        self._log.unfollow(service)
        self._registry.unsubscribe(service, Action.PUBLISH, _LOG)
        return _SUCCESS

    def _list_metrics(self, service: Service, payload: Answer, now: float) -> Answer:
        show_all, wanted = payload.get("showAll"), payload.get("paramFilter")
        if wanted is not None and not isinstance(wanted, dict):
            raise InvalidRequestError(
                "paramFilter must be an object with parameters and their values",
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

    def _write_log(
        self, level: str, text: str, cause: str | None, service: Service, now: float
    ) -> None:
        second = int(now)
        self._log.write(level, "registry", text, cause=cause, second=second, serviceId=service.id)


def _read(payload: bytes, required: bool, *, secret: bool = False) -> Answer:
    """Return a request's payload as an object; an empty one if it is another kind of value.

    A payload that is not `required` may also be empty, null or not JSON at all. One that is
    `secret` is not quoted in errors.
    """
    try:
        value = decode_payload(payload)
    except RemoteProtocolError as error:
        if not required:
            return {}
        details = None if secret else {"payload": payload.decode(errors="replace")}
        raise MalformedMessageError("the payload is not valid JSON", details=details) from error
    if value is None and required:
        raise InvalidRequestError("a payload is required; it may be {}")
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
            "with + for exactly one segment and a final # for any number",
            details=_given(payload, "topic"),
        )
    return topic.lower()


def _given(payload: Answer, *keys: str) -> Answer:
    return {key: payload[key] for key in keys if key in payload}


def _has_parameters(metric: Metric, wanted: Answer) -> bool:
    """Return whether the metric has all wanted parameters; names ignore case, like topics."""
    return all(
        metric.parameters.get(str(name).lower()) == str(value) for name, value in wanted.items()
    )


def _named(service: Service) -> str:
    return service.name or service.id
