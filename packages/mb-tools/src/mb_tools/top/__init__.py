"""`mb top`: a live screen of a broker's services, rates, latencies, topics and errors.

It is built on the system topics alone, so it works with any MB broker.  The machinery is pure:
`model` puts together what the broker says, `traffic` and `window` what its audit feed tells,
`tables` and `text` how it reads.  `feed` talks to the broker, `app` draws with Textual, which is
imported when `run` is called.
"""

from .command import run

__all__ = ["run"]
