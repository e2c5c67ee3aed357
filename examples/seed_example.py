"""The example of MB's specification, as it came; only its imports were added.

It needs a broker, and a service that answers its request to test.service: without one it ends with
NO_ROUTE_FOUND.  Run each of these in a terminal of its own, then the example in a third:

    mb serve
    mb reply test.service --value '{"answer": "from the service"}'

It prints the answer, then each message that is published to test.messages, until Ctrl-C:

    mb pub test.messages '{"hello": "example"}'
"""

import asyncio
import json
from typing import Any, Dict
from mb_client import MessageBrokerClient, MessageHeader
from datetime import datetime

async def main():
    # Create client instance
    client = MessageBrokerClient()

    # Connect to broker
    await client.connect("localhost", 8080)

    # Register service
    await client.register_service("TestService", "Python test service")

    # Subscribe to topic
    await client.subscribe("test.messages")

    # Handle incoming messages
    def handle_message(header: MessageHeader, payload: Dict[str, Any]):
        print(f"Received message on topic: {header.topic}")
        print(f"Payload: {json.dumps(payload, indent=2)}")

    client.on_message(handle_message)

    # Send request
    async def handle_response(response: Dict[str, Any]):
        print(f"Got response: {json.dumps(response, indent=2)}")

    await client.request(
        "test.service",
        {"data": "test"},
        handle_response
    )

    # Publish message
    await client.publish("test.events", {
        "event": "test",
        "timestamp": datetime.now().isoformat()
    })

    # Run event loop
    try:
        await client.run()
    except KeyboardInterrupt:
        await client.close()

if __name__ == "__main__":
    asyncio.run(main())
