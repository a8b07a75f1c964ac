"""Answers a camera's authentication challenge: Basic, or Digest with MD5.

Source: RFC 2617, 2 and 3.2; cameras also use its older form without ``qop`` (RFC 2069).
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from agent.runtime.secrets import Secret

_PARAMETER = re.compile(r'(\w+)\s*=\s*(?:"([^"]*)"|([^\s,]+))')


@dataclass(frozen=True, slots=True)
class Login:
    """A user and its password."""

    user: str
    password: Secret

    def answer(self, challenges: Sequence[str], *, method: str, uri: str) -> str | None:
        """The value of ``Authorization``; None if no challenge is supported.

        ``challenges`` are the values of ``WWW-Authenticate``. Digest is preferred: it does not reveal the password.
        """
        for challenge in challenges:
            if challenge.lower().startswith("digest "):
                found = {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(challenge)}
                is_known = found.get("algorithm", "MD5").upper() == "MD5" and "nonce" in found
                if is_known and self.user.isprintable():
                    return self._digest(found, method, uri)
        if any(challenge.lower().startswith("basic") for challenge in challenges):
            pair = f"{self.user}:{self.password.reveal()}".encode()
            return f"Basic {base64.b64encode(pair).decode()}"
        return None

    def _digest(self, challenge: dict[str, str], method: str, uri: str) -> str:
        realm, nonce = challenge.get("realm", ""), challenge["nonce"]
        secret = _md5(f"{self.user}:{realm}:{self.password.reveal()}")
        request = _md5(f"{method}:{uri}")
        if "auth" in re.split(r"[\s,]+", challenge.get("qop", "")):
            chosen = secrets.token_hex(8)
            response = _md5(f"{secret}:{nonce}:00000001:{chosen}:auth:{request}")
            quality = f', qop=auth, nc=00000001, cnonce="{chosen}"'
        else:
            response, quality = _md5(f"{secret}:{nonce}:{request}"), ""
        opaque = f', opaque="{challenge["opaque"]}"' if "opaque" in challenge else ""
        user = self.user.replace("\\", "\\\\").replace('"', '\\"')
        return (
            f'Digest username="{user}", realm="{realm}", nonce="{nonce}", uri="{uri}", response="{response}"'
            f"{quality}{opaque}"
        )


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
