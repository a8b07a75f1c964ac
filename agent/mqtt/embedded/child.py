"""Runs amqtt as the embedded broker: ``python -m agent.mqtt.embedded.child PORT``; ends on SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys


async def _serve(port: int) -> None:
    from amqtt.broker import Broker

    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await broker.start()
    await ended.wait()
    await broker.shutdown()


if __name__ == "__main__":
    # amqtt logs a warning for every MQTT 5 client before it falls back to 3.1.1.
    logging.basicConfig(level=logging.ERROR)
    asyncio.run(_serve(int(sys.argv[1])))
