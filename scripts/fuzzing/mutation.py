"""Damaged copies of good input, as a Hypothesis strategy: what fails is made smaller by the library."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hypothesis import strategies as st

_MAX_CHANGES = 6
_MAX_RUN = 64
_WORDS = (
    *(b"\x00", b"\xff", b"\x80", b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"),
    *(
        b"-1",
        b"0",
        b"1e999",
        b"NaN",
        b"null",
        b"99999999999999999999",
        b"9" * 5000,
        b"[" * 2000,
        b"[",
        b"{",
        b"'",
        b'"',
        b"\n",
    ),
    *(b"\xff\xd8", b"\xff\xda", b"\xff\xd9", b"\xff\xc2"),
    *(b"\x1b]52;c;ZXZpbA==\x07", b"\x1b[2J", b"\xc2\x9b2J", b"\xe2\x80\xae", b"\xed\xa0\x80"),
    *(b"../", b"/etc/passwd", b"!!python/object:os.system ", b"&a *a", b"location", b"offset", b"length"),
    *(b"+", b"#", b"%2f", b"%", b"$share/"),
)


@st.composite
def damaged(draw: st.DrawFn, originals: Sequence[bytes]) -> bytes:
    """One of ``originals`` with up to six changes: bytes turned, removed, repeated, replaced, or another one's.

    Hypothesis draws how many changes, and one number that all of them follow from: a draw for each would take ten
    times as long as the readers.
    """
    data = bytearray(draw(st.sampled_from(originals)))
    changes = draw(st.integers(0, _MAX_CHANGES))
    chance = random.Random(draw(st.integers(0, 2**63)))
    for _ in range(changes):
        _change(data, originals, chance)
    return bytes(data)


def _change(data: bytearray, originals: Sequence[bytes], chance: random.Random) -> None:
    at = chance.randint(0, len(data))
    end = min(len(data), at + chance.randint(0, _MAX_RUN))
    kind = chance.randrange(7)
    if kind == 0 and at < len(data):
        data[at] ^= 1 << chance.randrange(8)
    elif kind == 1:
        del data[at:end]
    elif kind == 2:
        data[at:at] = data[at:end] * chance.randint(1, 40)
    elif kind == 3:
        data[at:at] = chance.choice(_WORDS)
    elif kind == 4:
        data[at:end] = chance.choice(_WORDS)
    elif kind == 5:
        other = chance.choice(originals)
        start = chance.randint(0, len(other))
        data[at:end] = other[start : start + _MAX_RUN]
    else:
        data[at:end] = chance.randbytes(chance.randint(0, 8))
