"""The answer to a camera's authentication challenge."""

from __future__ import annotations

import hashlib
import re

import pytest

from agent.cameras.sources.rtsp.digest import Login
from agent.runtime.secrets import Secret

_LOGIN = Login("Mufasa", Secret("Circle Of Life"))


def _answer(*challenges: str) -> str | None:
    return _LOGIN.answer(challenges, method="DESCRIBE", uri="rtsp://camera/1")


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def test_basic_is_answered_with_user_and_password() -> None:
    assert _answer('Basic realm="camera"') == "Basic TXVmYXNhOkNpcmNsZSBPZiBMaWZl"


def test_digest_without_qop_hashes_password_nonce_and_request() -> None:
    answer = _answer('Digest realm="cam, era", nonce="a1", stale=FALSE')
    assert answer is not None
    expected = _md5(f"{_md5('Mufasa:cam, era:Circle Of Life')}:a1:{_md5('DESCRIBE:rtsp://camera/1')}")
    assert f'response="{expected}"' in answer
    assert "qop" not in answer
    assert "Circle" not in answer


def test_digest_with_qop_sends_nonce_count_and_client_nonce() -> None:
    answer = _answer('Digest realm="r", nonce="n", qop="auth,auth-int", opaque="o", algorithm=MD5')
    assert answer is not None
    found = re.search(r'cnonce="(\w+)"', answer)
    assert found is not None
    secret, request = _md5("Mufasa:r:Circle Of Life"), _md5("DESCRIBE:rtsp://camera/1")
    expected = _md5(f"{secret}:n:00000001:{found[1]}:auth:{request}")
    assert f'response="{expected}"' in answer
    assert 'opaque="o"' in answer


def test_digest_is_preferred_because_it_hides_the_password() -> None:
    answer = _answer('Basic realm="r"', 'Digest realm="r", nonce="n"')
    assert answer is not None
    assert answer.startswith("Digest ")


@pytest.mark.parametrize(
    "challenge", ['Digest realm="r", nonce="n", algorithm=SHA-256', "Bearer", "", 'Digest realm="r"']
)
def test_an_unsupported_challenge_is_not_answered(challenge: str) -> None:
    assert _answer(challenge) is None


def test_a_user_name_that_would_break_the_header_is_not_sent() -> None:
    login = Login("a\r\nX: y", Secret("p"))
    assert login.answer(['Digest realm="r", nonce="n"'], method="DESCRIBE", uri="u") is None
