"""`mb top`: a live screen of a broker's services, rates, latencies, topics and errors.

It uses only system topics, so it works with any MB broker. `model` combines the broker's answers;
`traffic` and `time_window` summarize its audit feed; none of them does any I/O. `poller` talks to
the broker; `app`, `pane` and `tables` draw with Textual.
"""
