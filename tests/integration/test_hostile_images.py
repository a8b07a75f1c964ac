"""Thousands of damaged pictures: each is read or counted as unreadable, and nothing else happens.

MUTATED_IMAGES says how many; 400 where it is not set.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.drills import note

_PICTURES = int(os.environ.get("MUTATED_IMAGES", "400"))
_SEED = 20

# A process of its own: a crash of a decoder must be seen and not end the tests.
_READER = """
import random, sys
from pathlib import Path
import cv2, numpy as np, psutil
from agent.runtime.clock import SystemClock
from agent.config.sections.sources import ImagesSource
from agent.runtime.errors import SourceLost, SourceUnavailable
from agent.runtime import logs
from agent.cameras.sources.images.all_images import ImageFolder
from tests.integration.test_hostile_images import mutated

logs.configure(level="error")
folder, count, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
chance = random.Random(seed)
photo = cv2.GaussianBlur(np.random.default_rng(seed).integers(0, 255, (240, 320, 3), np.uint8), (0, 0), 4)
originals = {suffix: cv2.imencode(suffix, photo)[1].tobytes() for suffix in (".jpg", ".png", ".bmp", ".webp")}
read = unreadable = 0
middle = None
for start in range(0, count, 50):
    for index in range(start, min(start + 50, count)):
        suffix = chance.choice(list(originals))
        (folder / f"{index:06d}{suffix}").write_bytes(mutated(originals[suffix], chance))
    source = ImageFolder(ImagesSource(type="images", path=str(folder)), base_dir=folder, clock=SystemClock())
    try:
        source.open()
        while (capture := source.read()) is not None:
            assert capture.image.dtype == np.uint8 and capture.image.ndim == 3
    except (SourceLost, SourceUnavailable):
        pass
    source.close()
    statistics = source.statistics()
    read, unreadable = read + statistics.delivered, unreadable + statistics.skipped
    for file in folder.iterdir():
        file.unlink()
    if middle is None and start >= count // 2:
        middle = psutil.Process().memory_info().rss
print(read, unreadable, psutil.Process().memory_info().rss - (middle or 0))
"""


def mutated(original: bytes, chance: random.Random) -> bytes:
    """The same file cut, with bits turned, bytes gone or doubled, or with a size that it does not have."""
    data = bytearray(original)
    kind = chance.randrange(6)
    if kind == 0:
        return bytes(data[: chance.randrange(len(data))])
    if kind == 1:
        for _ in range(chance.choice((1, 4, 64))):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif kind == 2:
        at = chance.randrange(len(data))
        del data[at : at + chance.randrange(1, 200)]
    elif kind == 3:
        at = chance.randrange(len(data))
        data[at:at] = data[at : at + chance.randrange(1, 200)]
    elif kind == 4:
        # Sizes stand in the first bytes of each of these formats: a picture that claims to be enormous.
        for _ in range(4):
            data[chance.randrange(4, min(200, len(data)))] = 0xFF
    else:
        return bytes(chance.randrange(256) for _ in range(chance.randrange(500)))
    return bytes(data)


@pytest.mark.timeout(1800)
def test_damaged_pictures_are_read_or_counted_and_memory_stays_flat(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _READER, str(tmp_path), str(_PICTURES), str(_SEED)]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    result = subprocess.run(command, capture_output=True, text=True, timeout=1700, check=False, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    read, unreadable, grown = (int(word) for word in result.stdout.split())
    assert read + unreadable == _PICTURES
    assert unreadable > _PICTURES // 10
    assert grown < 20 * 2**20
    note(pictures=_PICTURES, unreadable=unreadable, grown_bytes=grown)
