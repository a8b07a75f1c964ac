"""How fast a backlog of the outbox leaves at QoS 1, beside the MQTT library alone on the same broker.

    python -m scripts.performance.outbox_drain [--rows 1000000] [--events 100000] [--turns 3] [--profile]

Fills an outbox file with ROWS events, sends the first EVENTS of them through the agent's publisher into a mosquitto
with its default settings on loopback,
and sends as many messages of the same size through paho's own loop. Turns alternate. Prints a table of medians.
`--profile` prints where the CPU time of the agent's two threads goes instead.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import pstats
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from agent.config.broker_address import BrokerAddress
from agent.mqtt.base import Packet
from agent.mqtt.client import MqttClient
from agent.mqtt.settings import MqttSettings
from agent.mqtt.unconfirmed import INFLIGHT
from agent.publish.outbox.base import EVENT
from agent.publish.outbox.file import OutboxFile, Row
from agent.publish.outbox.sqlite import SqliteOutbox
from agent.publish.publisher import Publisher
from agent.runtime.boot import boot_id, boot_ns
from tests.fixtures.mosquitto import MosquittoBroker
from tests.fixtures.publish_samples import IDENTITY

AGENT, LIBRARY = "agent, from its outbox", "paho alone"
TOPICS = 4
_PAYLOAD = b'{"schema":"event/1","text":"' + b"x" * 250 + b'","historical":false}'
_BATCH = 5000
_COPY = """
INSERT INTO waiting (key, topic, payload, qos, retain, expiry_s, correlation, utc_ns, rank, boot, boot_ns)
SELECT key + ?, topic, payload, qos, retain, expiry_s, correlation, utc_ns, rank, boot, boot_ns
FROM waiting WHERE key <= ?"""
_WITHIN_S = 280.0


def fill(path: Path, events: int) -> None:
    """Write ``events`` rows on four topics, as an earlier session left them: the first ones row by row, the others as
    their copies, which takes a tenth of the time."""
    file, count = OutboxFile(path), min(events, _BATCH)
    try:
        file.write([Row(key, _packet(key), EVENT, 0, boot_id(), boot_ns()) for key in range(1, count + 1)])
    finally:
        file.close()
    with contextlib.closing(sqlite3.connect(path)) as database:
        while count < events:
            more = min(count, events - count)
            with database:
                database.execute(_COPY, (count, more))
            count += more


def _packet(key: int) -> Packet:
    return Packet(f"edge/drain/camera/c{key % TOPICS}/inspect/event", _PAYLOAD, 1)


@contextmanager
def _took() -> Iterator[Callable[[], tuple[float, float]]]:
    wall, cpu = time.monotonic(), time.process_time()
    yield lambda: (time.monotonic() - wall, time.process_time() - cpu)


def agent_drains(url: str, path: Path, events: int) -> tuple[float, float]:
    """Wall and CPU seconds from the connection until the broker has confirmed ``events``."""
    outbox = SqliteOutbox(path, max_bytes=4 << 30).open()
    settings = MqttSettings(address=BrokerAddress.parse(url), client_id="agent")
    publisher = Publisher(MqttClient(settings), identity=IDENTITY, outbox=outbox)
    try:
        with _took() as took:
            publisher.start()
            deadline = time.monotonic() + _WITHIN_S
            while (done := outbox.statistics().acknowledged) < events:
                if time.monotonic() > deadline:
                    raise SystemExit(f"{done} of {events} events were confirmed within {_WITHIN_S:g} s")
                time.sleep(0.02)
            wall_s, cpu_s = took()
        return wall_s * events / done, cpu_s * events / done
    finally:
        publisher.stop()
        outbox.close()


def library_sends(url: str, events: int) -> tuple[float, float]:
    """The same through paho's own thread, as fast as its window of 20 allows."""
    address = BrokerAddress.parse(url)
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="library", protocol=paho.MQTTv5)
    client.max_inflight_messages_set(INFLIGHT)
    done, ready, count = threading.Event(), threading.Event(), 0

    def published(*_: object) -> None:
        nonlocal count
        count += 1
        if count == events:
            done.set()

    client.on_publish = published
    client.on_connect = lambda *_: ready.set()
    client.connect(address.host, address.port)
    client.loop_start()
    ready.wait(10.0)
    with _took() as took:
        for key in range(events):
            packet = _packet(key)
            client.publish(packet.topic, packet.payload, qos=1)
        if not done.wait(_WITHIN_S):
            raise SystemExit(f"{count} of {events} messages were confirmed within {_WITHIN_S:g} s")
        found = took()
    client.disconnect()
    client.loop_stop()
    return found


def _turn(folder: Path, rows: int, events: int) -> dict[str, tuple[float, float]]:
    path = folder / "outbox.sqlite"
    path.unlink(missing_ok=True)
    fill(path, rows)
    with MosquittoBroker(folder / "broker") as broker:
        return {
            AGENT: agent_drains(broker.url, path, events),
            LIBRARY: library_sends(broker.url, events),
        }


def _profile(folder: Path, events: int) -> None:
    """cProfile of every thread that starts meanwhile, by own time."""
    profiles: list[cProfile.Profile] = []

    def begin(*_: object) -> None:
        profiles.append(cProfile.Profile(time.thread_time))
        profiles[-1].enable()

    path = folder / "outbox.sqlite"
    fill(path, events)
    with MosquittoBroker(folder / "broker") as broker:
        threading.setprofile(begin)
        agent_drains(broker.url, path, events)
        threading.setprofile(None)
    for profile in profiles:
        profile.create_stats()
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    if not 0 < options.events <= options.rows:
        parser.error(f"--events is {options.events}, but must be between 1 and --rows, {options.rows}")
    with tempfile.TemporaryDirectory() as folder:
        if options.profile:
            _profile(Path(folder), options.events)
            return
        turns = [_turn(Path(folder), options.rows, options.events) for _ in range(options.turns)]
    size = f"{options.events} of {options.rows} events of {len(_PAYLOAD)} bytes"
    print(f"{size} at QoS 1, {options.turns} turns")
    print("| sender | events/s, median | worst | best | CPU µs an event |\n| --- | --: | --: | --: | --: |")
    for name in turns[0]:
        rates = [options.events / turn[name][0] for turn in turns]
        cpu_us = median(turn[name][1] for turn in turns) * 1e6 / options.events
        print(f"| {name} | {median(rates):.0f} | {min(rates):.0f} | {max(rates):.0f} | {cpu_us:.0f} |")
    ratios = [turn[LIBRARY][0] / turn[AGENT][0] for turn in turns]
    print(f"\nThe agent's rate over the library's, of each turn: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")


if __name__ == "__main__":
    main()
