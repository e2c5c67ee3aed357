"""The conformance suite for authenticators."""

from .suite import AuthenticatorSuite

__all__ = ["AuthenticatorSuite"]
