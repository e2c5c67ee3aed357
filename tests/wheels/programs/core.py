"""mb-core alone: messages, and the protocol without a transport."""

from __future__ import annotations

from mb_core import MessageHeader, Session, create_message, frontends, parse_message

text = create_message(MessageHeader("publish", "weather.changed"), {"city": "Oslo"})
message = parse_message(text)
assert (message.topic, message.payload) == ("weather.changed", {"city": "Oslo"})

session = Session()
session.link_up()
session.receive([b"publish:system.initialize:1.0.0\n{}"])
session.restored(0.0)
request = session.request("weather.current", {"city": "Oslo"}, now=0.0, timeout=1000)
[answered] = session.receive([b"response:weather.current:1.0.0:%b\n3" % request.request_id])
assert answered.message.payload == 3

assert [frontend.name for frontend in frontends()] == ["asyncio", "trio"]
