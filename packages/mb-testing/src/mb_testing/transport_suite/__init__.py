"""The conformance suite for transports."""

from .suite import TransportSuite

__all__ = ["TransportSuite"]
