"""What every contender is given to do: the same payload, through the same JSON codec."""

from __future__ import annotations

import msgspec

__all__ = ["DOCUMENT", "decode", "encode"]

DOCUMENT = {
    "id": 12345,
    "city": "Reykjavik",
    "temperature": 21.5,
    "wind": {"speed": 7.25, "direction": "NNE"},
    "tags": ["a", "b", "c"],
}
"""111 bytes of JSON."""

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder().decode
