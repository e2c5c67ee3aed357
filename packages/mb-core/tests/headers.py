"""Headers that the tests of reading and writing share."""

from __future__ import annotations

from hypothesis import strategies as st

ID = "5d0c3b0e-7f5c-4b4e-9a53-2f0d7c9e4a11"
PARENT = "00000000-0000-4000-8000-000000000001"
number = st.integers(0, 10**6)
good = [b"publish", b"PUBLISH", b"request", b"a", b"A.b", b"1.0.0", b" 1.0.0", ID.encode(), b"5"]
field = st.sampled_from([*good, PARENT.encode(), b"", b"x", b"\xff", b"1.0", ID.upper().encode()])
