"""What viewers of the page cost the agent: CPU, bytes, and the latency of frames.

    python -m scripts.performance.page_viewers [--cameras 8] [--seconds 20]

Runs an agent with cameras at one frame a second, and lets no, one and twenty viewers look at it, three rounds in turn.
A viewer does what a browser does: it reads the stream, and asks for each camera's image once a second, with its
validator.
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

_VIEWERS = (0, 1, 20)
_ROUNDS = 3
_WIDTH = 480


@dataclass(frozen=True, slots=True)
class _Sample:
    cpu_percent: float
    kb_per_s: float
    p95_ms: float | None
    rss_mib: float


def _config(cameras: int) -> dict[str, object]:
    source = {"type": "file", "path": "demo", "loop": True}
    return {
        "version": 1,
        "models": {"inspect": {"package": "demo", "engine": "ort-cpu"}},
        "cameras": {
            f"belt-{number}": {"source": source, "rate_hz": 1, "classify": [{"model": "inspect"}]}
            for number in range(1, cameras + 1)
        },
        "mqtt": {"broker": "embedded"},
        "serve": {"http": "127.0.0.1:0", "page": True, "max_connections": 256},
    }


class _Viewer:
    """One browser. ``got`` counts the bytes of bodies, ``p95_ms`` holds those of the `latency` messages."""

    def __init__(self, client: httpx.AsyncClient, cameras: int) -> None:
        self._client = client
        self._names = [f"belt-{number}" for number in range(1, cameras + 1)]
        self.got = 0
        self.p95_ms: list[float] = []

    async def stream(self) -> None:
        async with self._client.stream("GET", "/page/api/events") as stream:
            async for line in stream.aiter_lines():
                self.got += len(line)
                if line.startswith("data: {") and '"latency":{' in line:
                    total = orjson.loads(line[6:])["messages"]["latency"]["models"]["inspect"]["total"]
                    if total is not None:
                        self.p95_ms.append(total["p95"])

    async def images(self) -> None:
        tags: dict[str, str] = {}
        while True:
            began = time.monotonic()
            for name in self._names:
                headers = {"if-none-match": tags[name]} if name in tags else {}
                answer = await self._client.get(f"/page/api/cameras/{name}/frame.jpg?width={_WIDTH}", headers=headers)
                self.got += len(answer.content)
                tags[name] = answer.headers.get("etag", "")
            await asyncio.sleep(max(0.0, 1.0 - (time.monotonic() - began)))


async def _look(url: str, process: psutil.Process, viewers: int, cameras: int, seconds: float) -> _Sample:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=30, limits=limits) as client:
        # One stream alone tells the latency, also where nobody looks at images.
        listener, looking = _Viewer(client, cameras), [_Viewer(client, cameras) for _ in range(viewers)]
        calls = [listener.stream(), *(call for one in looking for call in (one.stream(), one.images()))]
        tasks = [asyncio.ensure_future(call) for call in calls]
        await asyncio.sleep(2)
        before, got, began = process.cpu_times(), sum(one.got for one in looking), time.monotonic()
        await asyncio.sleep(seconds)
        after, wall_s = process.cpu_times(), time.monotonic() - began
        sample = _Sample(
            cpu_percent=100 * (after.user + after.system - before.user - before.system) / wall_s,
            kb_per_s=(sum(one.got for one in looking) - got) / wall_s / 1000,
            p95_ms=statistics.median(listener.p95_ms[1:]) if len(listener.p95_ms) > 1 else None,
            rss_mib=process.memory_info().rss / 2**20,
        )
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return sample


def _url_of(log: Path) -> str:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for line in log.read_text(encoding="utf-8").splitlines():
            record = orjson.loads(line) if line.startswith("{") else {}
            if record.get("event") == "serve.started":
                return f"http://{record['http']}"
        time.sleep(0.1)
    raise TimeoutError(f"the agent did not start: {log.read_text(encoding='utf-8')[-2000:]}")


def measure(cameras: int, seconds: float) -> dict[int, list[_Sample]]:
    """The samples of each number of viewers."""
    samples: dict[int, list[_Sample]] = {viewers: [] for viewers in _VIEWERS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "agent.yaml").write_text(json.dumps(_config(cameras)))
        command = [sys.executable, "-m", "agent", "run", "-c", str(folder / "agent.yaml")]
        with (folder / "log").open("wb") as log:
            agent = subprocess.Popen(command, stderr=log, stdout=subprocess.DEVNULL)
        try:
            url = _url_of(folder / "log")
            time.sleep(6)
            process = psutil.Process(agent.pid)
            for _ in range(_ROUNDS):
                for viewers in _VIEWERS:
                    samples[viewers].append(asyncio.run(_look(url, process, viewers, cameras, seconds)))
        finally:
            agent.terminate()
            agent.wait(20)
    return samples


def main(args: Sequence[str] | None = None) -> None:
    """Measure, and print a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cameras", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args(args)
    print("| viewers | CPU, % of a core | to all viewers, KB/s | frame p95, ms | memory, MiB |")
    print("| --- | --- | --- | --- | --- |")
    for viewers, ones in measure(given.cameras, given.seconds).items():
        p95 = [one.p95_ms for one in ones if one.p95_ms is not None]
        figures = (
            f"{statistics.median(one.cpu_percent for one in ones):.1f}",
            f"{statistics.median(one.kb_per_s for one in ones):.0f}",
            f"{statistics.median(p95):.1f}" if p95 else "none",
            f"{statistics.median(one.rss_mib for one in ones):.0f}",
        )
        print(f"| {viewers} | {' | '.join(figures)} |")


if __name__ == "__main__":
    main()
