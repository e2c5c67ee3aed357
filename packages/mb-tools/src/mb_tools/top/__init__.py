"""`mb top`: a live screen of a broker's services, rates, latencies, topics and errors.

It uses the system topics alone, so it works with any MB broker.  `model` puts together what the
broker answers, `traffic` and `time_window` what its audit feed shows; none of them does any I/O.
`poller` talks to the broker, `app`, `pane` and `tables` draw with Textual.
"""
