"""The measuring program of serving, against a real server."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

from scripts.performance.serving.contenders import contender
from scripts.performance.serving.rounds import measure
from tests.fixtures.parts import BrightnessEngine, plain_image
from tests.fixtures.serving import LABELS, serving

_ENGINE_S = 0.004
_PLANTED_S = 0.001
_INFERS = 20


def test_a_sleep_in_the_path_of_a_request_is_no_time_of_the_engine(tmp_path: Path) -> None:
    engine = BrightnessEngine(len(LABELS), on_infer=lambda _: time.sleep(_ENGINE_S))
    given = plain_image(1)[None]
    with serving(tmp_path, engine=engine) as server:
        addresses = {"http": f"{server.host}:{server.port}"}
        with contender(addresses, os.getpid(), "inspect", classes=len(LABELS), given=given) as real:

            def late() -> object:
                time.sleep(_PLANTED_S)
                return real.infers["http"]()

            before_ns = real.compute_ns()
            planted = replace(real, infers={"http": late})
            found, _ = measure({"agent": planted}, lambda: None, rounds=1, count=_INFERS)
            spent_ns = real.compute_ns() - before_ns
    seen = found["agent", "http"]
    assert len(seen.beside_ms) == _INFERS // 2
    assert min(seen.beside_ms) >= _PLANTED_S * 1e3
    assert min(seen.p50_ms) >= (_PLANTED_S + _ENGINE_S) * 1e3
    assert spent_ns >= (_INFERS + _INFERS // 2) * _ENGINE_S * 1e9
