"""Payloads: convert values to text on one line, and back. JSON, unless services agree on another
codec.

The rules are those of the protocol (docs/protocol.md, "Payload").
"""

from .error_payload import ERROR_PREFIX, encode_error, error_in, may_be_error
from .payload import JSON, Codec, check_kind, decode_payload, encode_payload, is_text

__all__ = [
    "ERROR_PREFIX",
    "JSON",
    "Codec",
    "check_kind",
    "decode_payload",
    "encode_error",
    "encode_payload",
    "error_in",
    "is_text",
    "may_be_error",
]
