"""The conformance suite for transports."""

try:
    import pytest as pytest
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("TransportSuite runs in pytest: pip install pytest") from error

from .suite import TransportSuite

__all__ = ["TransportSuite"]
