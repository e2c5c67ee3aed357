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
