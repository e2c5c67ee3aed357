"""A pool of processes that answer one topic, for work that keeps a processor busy.

    python examples/worker_pool.py [WORKERS]

The broker sends each request to one of the workers.  They share the highest priority; the reserve,
which has a lower one, is asked only while no other worker is connected.  Ctrl-C and SIGTERM stop
the pool: each worker answers the requests that it has before it ends.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from hashlib import pbkdf2_hmac
from multiprocessing.context import SpawnProcess

from mb_client import Message
from mb_sync import MessageBrokerClient

URL = os.environ.get("MB_URL", "tcp://localhost:8081")


@dataclass
class Job:
    password: str
    rounds: int = 600_000


def derive(message: Message) -> dict[str, object]:
    """Derive a key from a password, which takes a while."""
    job = message.decode(Job)
    key = pbkdf2_hmac("sha256", job.password.encode(), b"an example", job.rounds)
    return {"key": key.hex(), "worker": os.getpid()}


def work(name: str, priority: int) -> None:
    """Answer requests until SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which sends SIGTERM
    # The blocking client calls handlers in a thread, so heartbeats are answered meanwhile.
    with suppress(KeyboardInterrupt), MessageBrokerClient(URL, retry_connect=True) as client:
        client.register_service(name, "Derives keys from passwords")
        client.subscribe("key.derive", priority, action="request", handler=derive)
        client.run()


def main(count: int) -> int:
    context = multiprocessing.get_context("spawn")  # a client does not survive a fork
    jobs = [(f"Worker {number}", 1) for number in range(1, count + 1)] + [("Reserve", 0)]
    workers: list[SpawnProcess] = []
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # raises KeyboardInterrupt, too
    try:
        for job in jobs:
            workers.append(context.Process(target=work, args=job))
            workers[-1].start()
        multiprocessing.connection.wait([worker.sentinel for worker in workers])
        print("a worker has ended: stopping the pool", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        for worker in workers:
            worker.terminate()  # SIGTERM
        for worker in workers:
            worker.join()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else os.cpu_count() or 1))
