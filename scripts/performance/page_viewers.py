"""What the page and its viewers cost the agent: CPU, bytes, memory, and the latency of frames.

    python -m scripts.performance.page_viewers [--cameras 8] [--seconds 20]

Runs an agent with cameras at one frame a second: without a page, with a page that nobody looks at, and with one and
twenty viewers, three rounds in turn. A viewer does what a browser does: it reads the stream, and asks for the image of
each camera once a second, with its validator. Latencies are from the `latency` messages, which the agent prints.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import orjson
import psutil

_NO_PAGE = -1
_VIEWERS = (_NO_PAGE, 0, 1, 20)
_NAMES = {_NO_PAGE: "no page", 0: "page, nobody looks"}
_ROUNDS = 3
_WIDTH = 480
_WARM_S = 6.0


@dataclass(frozen=True, slots=True)
class _Sample:
    cpu_percent: float
    kb_per_s: float
    p95_ms: float
    rss_mib: float


def _config(cameras: int, *, has_page: bool) -> dict[str, object]:
    source = {"type": "file", "path": "demo", "loop": True}
    return {
        "version": 1,
        "models": {"inspect": {"package": "demo", "engine": "ort-cpu", "serve": True}},
        "cameras": {
            f"belt-{number}": {"source": source, "rate_hz": 1, "classify": [{"model": "inspect"}]}
            for number in range(1, cameras + 1)
        },
        "mqtt": {"broker": "embedded"},
        "serve": {"http": "127.0.0.1:0", "page": has_page, "max_connections": 256},
    }


class _Viewer:
    """One browser. ``got`` counts the bytes of responses: heads and bodies, as they came."""

    def __init__(self, client: httpx.AsyncClient, cameras: int) -> None:
        self._client = client
        self._names = [f"belt-{number}" for number in range(1, cameras + 1)]
        self.got = 0

    async def stream(self) -> None:
        async with self._client.stream("GET", "/page/api/events") as stream:
            self.got += _head_bytes(stream)
            async for chunk in stream.aiter_raw():
                self.got += len(chunk)

    async def images(self) -> None:
        tags: dict[str, str] = {}
        while True:
            began = time.monotonic()
            for name in self._names:
                headers = {"if-none-match": tags[name]} if name in tags else {}
                answer = await self._client.get(f"/page/api/cameras/{name}/frame.jpg?width={_WIDTH}", headers=headers)
                self.got += _head_bytes(answer) + answer.num_bytes_downloaded
                tags[name] = answer.headers.get("etag", "")
            await asyncio.sleep(max(0.0, 1.0 - (time.monotonic() - began)))


def _head_bytes(answer: httpx.Response) -> int:
    return len("HTTP/1.1 200 OK\r\n\r\n") + sum(len(name) + len(value) + 4 for name, value in answer.headers.raw)


async def _look(
    url: str, process: psutil.Process, printed: Path, viewers: int, cameras: int, seconds: float
) -> _Sample:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=30, limits=limits) as client:
        looking = [_Viewer(client, cameras) for _ in range(viewers)]
        tasks = [asyncio.ensure_future(call) for one in looking for call in (one.stream(), one.images())]
        await asyncio.sleep(2)
        before, got, began = process.cpu_times(), sum(one.got for one in looking), time.monotonic()
        skipped = printed.stat().st_size
        await asyncio.sleep(seconds)
        after, wall_s = process.cpu_times(), time.monotonic() - began
        got = sum(one.got for one in looking) - got
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return _Sample(
        cpu_percent=100 * (after.user + after.system - before.user - before.system) / wall_s,
        kb_per_s=got / wall_s / 1000,
        p95_ms=_p95_ms(printed.read_bytes()[skipped:]),
        rss_mib=process.memory_info().rss / 2**20,
    )


def _p95_ms(lines: bytes) -> float:
    """The median of the 95th percentiles in the `latency` messages among ``lines``."""
    found = []
    for line in lines.splitlines()[1:]:  # the first may be cut
        if b"/latency" in line and line.endswith(b"}"):
            total = orjson.loads(line)["message"]["models"]["inspect"]["total"]
            if total is not None:
                found.append(total["p95"])
    return float(statistics.median(found))


def _url_of(log: Path) -> str:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for line in log.read_text(encoding="utf-8").splitlines():
            record = orjson.loads(line) if line.startswith("{") else {}
            if record.get("event") == "serve.started":
                return f"http://{record['http']}"
        time.sleep(0.1)
    raise TimeoutError(f"the agent did not start: {log.read_text(encoding='utf-8')[-2000:]}")


def _sample(viewers: int, cameras: int, seconds: float) -> _Sample:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "agent.yaml").write_text(json.dumps(_config(cameras, has_page=viewers != _NO_PAGE)))
        command = [sys.executable, "-m", "agent", "run", "--print", "-c", str(folder / "agent.yaml")]
        with (folder / "log").open("wb") as log, (folder / "printed").open("wb") as output:
            agent = subprocess.Popen(command, stderr=log, stdout=output)
        try:
            url = _url_of(folder / "log")
            time.sleep(_WARM_S)
            process = psutil.Process(agent.pid)
            printed = folder / "printed"
            looking = _look(url, process, printed, viewers=max(0, viewers), cameras=cameras, seconds=seconds)
            return asyncio.run(looking)
        finally:
            agent.terminate()
            agent.wait(20)


def main(args: Sequence[str] | None = None) -> None:
    """Measure, and print a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cameras", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args(args)
    samples: dict[int, list[_Sample]] = {viewers: [] for viewers in _VIEWERS}
    for _ in range(_ROUNDS):
        for viewers, ones in samples.items():
            ones.append(_sample(viewers, given.cameras, given.seconds))
    print("| viewers | CPU, % of a core | to all viewers, KB/s | frame p95, ms | memory, MiB |")
    print("| --- | --- | --- | --- | --- |")
    for viewers, ones in samples.items():
        figures = (
            f"{statistics.median(one.cpu_percent for one in ones):.1f}",
            f"{statistics.median(one.kb_per_s for one in ones):,.0f}",
            f"{statistics.median(one.p95_ms for one in ones):.1f}",
            f"{statistics.median(one.rss_mib for one in ones):.0f}",
        )
        print(f"| {_NAMES.get(viewers, viewers)} | {' | '.join(figures)} |")


if __name__ == "__main__":
    main()
