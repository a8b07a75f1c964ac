"""Builds and runs the container without a container engine; see scripts/container/check."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from scripts.dockerfile import DockerfileError, Image, is_ignored, read_image

_ROOT = Path(__file__).parents[1]
_FOLDER = _ROOT / "scripts" / "container"
# This machine's certificates: behind an intercepting proxy pip needs them.
_TRUSTED = Path("/etc/ssl/certs/ca-certificates.crt")
_PASSWORD = "only-for-this-check"  # noqa: S105 - of a broker that ends with the check
_COMMIT = "0123456789abcdef0123456789abcdef01234567"  # any commit but this checkout's
_RESULT_S = 120.0
_HANG_S = 60.0
_STOP_S = 20.0
# exec at the end: the agent must be process 1, as in a container.
_MOUNTS = """
root=$1; state=$2; config=$3; secret=$4; shift 4
mount --bind "$root" "$root"
mount --bind "$state" "$root/var/lib/agent"
mount --bind "$config" "$root/etc/agent/agent.yaml"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mkdir -m 700 "$root/run/agent" && chown 990:990 "$root/run/agent"
mkdir "$root/run/secrets" && cp "$secret" "$root/run/secrets/mqtt-password"
chown 990:990 "$root/run/secrets/mqtt-password" && chmod 400 "$root/run/secrets/mqtt-password"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
mount -o remount,bind,ro "$root"
exec chroot "$root" "$@"
"""


class CheckFailed(Exception):
    """A check failed; the text says which."""


def main(arguments: Sequence[str]) -> int:
    """Build, run, look."""
    parser = argparse.ArgumentParser(prog="scripts/container/check")
    parser.add_argument("--base", required=True, type=Path, help="a minimal Debian, from debootstrap")
    base: Path = parser.parse_args(arguments).base
    if os.getuid() != 0 or not (base / "usr/bin/dpkg").exists() or shutil.which("mosquitto") is None:
        print(f"container check: it needs root, mosquitto on PATH and a Debian system below {base}", file=sys.stderr)
        return 69
    try:
        image = read_image((_FOLDER / "Dockerfile").read_text())
        with tempfile.TemporaryDirectory(prefix="container-check-") as work:
            tree = Path(work, "root")
            _build(image, base, tree)
            _run(image, tree, Path(work))
    except (CheckFailed, DockerfileError) as exc:
        print(f"container check: FAILED: {exc}")
        return 1
    print("container check: all held")
    return 0


def _build(image: Image, base: Path, tree: Path) -> None:
    """Run the Dockerfile's steps in a copy of ``base``."""
    subprocess.run(["cp", "-a", str(base), str(tree)], check=True)
    shutil.copy("/etc/resolv.conf", tree / "etc/resolv.conf")
    trust = tree / "tmp/trusted.crt"
    if _TRUSTED.exists():
        shutil.copy(_TRUSTED, trust)
    for step, variables in image.steps:
        began_s = time.monotonic()
        if step.keyword == "COPY":
            _copy(step.text, tree)
        else:
            environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", **variables}
            if "COMMIT" in variables:
                environment["COMMIT"] = _COMMIT
            if trust.exists():
                environment["PIP_CERT"] = "/tmp/trusted.crt"  # noqa: S108 in the tree, which is ours alone
            command = ["unshare", "-m", "sh", "-ec"]
            script = 'mount -t proc proc "$1/proc"; mount --rbind /dev "$1/dev"; exec chroot "$1" /bin/sh -c "$2"'
            done = subprocess.run(
                [*command, script, "sh", str(tree), step.text],
                env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise CheckFailed(f"RUN {step.text[:80]} ended with {done.returncode}:\n{done.stdout[-2000:]}")
        print(f"   {time.monotonic() - began_s:6.1f} s  {step.keyword} {step.text[:90]}", flush=True)
    trust.unlink(missing_ok=True)


def _copy(text: str, tree: Path) -> None:
    *sources, target = text.split()
    ignore = (_ROOT / ".dockerignore").read_text().splitlines()
    for source in sources:
        if is_ignored(source, ignore) or not (_ROOT / source).exists():
            raise CheckFailed(f"COPY {source}: it does not exist, or .dockerignore excludes it")
        place = tree / target.lstrip("/")
        if target.endswith("/"):
            place /= Path(source).name
        place.parent.mkdir(parents=True, exist_ok=True)
        if (_ROOT / source).is_dir():
            shutil.copytree(_ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        else:
            shutil.copy(_ROOT / source, place)


def _run(image: Image, tree: Path, work: Path) -> None:
    user, _, group = image.user.partition(":")
    if not user.isdigit() or user == "0" or not group.isdigit():
        raise CheckFailed(f"USER is {image.user}: write it as numbers, and not 0")
    secret, state, config = work / "secret", work / "state", work / "agent.yaml"
    secret.write_text(_PASSWORD)
    state.mkdir()
    os.chown(state, int(user), int(group))
    with _broker(work) as port:
        config.write_text(
            (_FOLDER / "agent.yaml").read_text().replace("mqtt://broker:1883", f"mqtt://127.0.0.1:{port}")
        )
        person = ["setpriv", "--reuid", user, "--regid", group, "--clear-groups", "--bounding-set=-all"]
        person += ["--no-new-privs", "env", "-i", *(f"{name}={value}" for name, value in image.variables.items())]
        start = ["unshare", "-m", "-p", "-f", "--kill-child", "--propagation", "private", "sh", "-ec", _MOUNTS, "sh"]
        command = [*start, *map(str, (tree, state, config, secret)), *person, *image.entrypoint, *image.command]
        with Path(work, "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as outer:
            try:
                _look(image, outer, person, port, Path(work, "log"))
            finally:
                if outer.poll() is None:
                    outer.kill()


def _look(image: Image, outer: subprocess.Popen[bytes], person: list[str], port: int, log: Path) -> None:
    pid = _agent(outer, log)

    def inside(*command: str) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", "-t", str(pid), "-m", "-p", "-r", "-w", *person, *command]
        return subprocess.run(enter, capture_output=True, text=True, timeout=30, check=False)

    result = inside("/opt/agent/bin/python", "-c", _SUBSCRIBER, str(port), _PASSWORD, str(_RESULT_S))
    _hold(result.returncode == 0, f"a result reaches the broker: {result.stdout.strip()}", log, result.stderr)
    _hold(json.loads(result.stdout)["label"] != "", "the result has a label", log)
    version = inside("agent", "--version").stdout.strip()
    _hold(version.endswith(f"+g{_COMMIT[:9]}"), f"the version names the commit of --build-arg: {version}", log)
    touch = inside("touch", "/etc/agent/new", "/opt/agent/new")
    _hold("Read-only file system" in touch.stderr, "the root is read-only", log, touch.stderr)
    _hold(inside("id", "-u").stdout.strip() == image.user.partition(":")[0], "it runs as the user of USER", log)
    well = inside(*image.health)
    _hold(well.returncode == 0, f"the health check passes: {well.stdout.strip()}", log, well.stderr)
    os.kill(pid, signal.SIGSTOP)
    _hold(_until_unwell(image, inside), "the health check fails while the agent hangs", log)
    os.kill(pid, signal.SIGCONT)
    os.kill(pid, signal.Signals[image.stop_signal])
    try:
        code = outer.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        code = -1
    _hold(code == 0, f"{image.stop_signal} ends it: exit code {code}", log)


def _until_unwell(image: Image, inside: Callable[..., subprocess.CompletedProcess[str]]) -> bool:
    deadline = time.monotonic() + _HANG_S
    while time.monotonic() < deadline:
        if inside(*image.health).returncode:
            return True
        time.sleep(1)
    return False


def _hold(holds: bool, what: str, log: Path, more: str = "") -> None:
    if not holds:
        raise CheckFailed(f"{what}\n{more}\n{log.read_text()[-3000:]}")
    print(f"   ok  {what}", flush=True)


def _agent(outer: subprocess.Popen[bytes], log: Path) -> int:
    """Process id, outside the namespace, of its process 1 once that is the agent."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and outer.poll() is None:
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        if children and b"agent" in Path(f"/proc/{children[0]}/cmdline").read_bytes().split(b"\0")[1][-6:]:
            return int(children[0])
        time.sleep(0.1)
    raise CheckFailed(f"the agent did not start:\n{log.read_text()[-3000:]}")


@contextlib.contextmanager
def _broker(work: Path) -> Iterator[int]:
    """Mosquitto with the configuration of compose.yaml on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    passwords = work / "passwords"
    subprocess.run(["mosquitto_passwd", "-c", "-b", str(passwords), "agent", _PASSWORD], check=True)
    passwords.chmod(0o644)
    work.chmod(0o755)  # mosquitto drops root's rights before it reads the file
    text = (_FOLDER / "mosquitto.conf").read_text()
    text = text.replace("listener 1883", f"listener {port} 127.0.0.1").replace("/tmp/passwords", str(passwords))  # noqa: S108 the name in that file
    (work / "mosquitto.conf").write_text(text)
    with subprocess.Popen(["mosquitto", "-c", str(work / "mosquitto.conf")], stderr=subprocess.DEVNULL) as broker:
        try:
            yield port
        finally:
            broker.terminate()


_SUBSCRIBER = """
import sys, time
import paho.mqtt.client as mqtt
port, password, seconds = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
def on_message(client, seen, message):
    if message.topic.endswith("/result"):
        import json
        value = json.loads(message.payload)
        print(json.dumps({"topic": message.topic, "label": str(value.get("label", value))[:60]}), flush=True)
        client.user_data_set(True)
        client.disconnect()
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, userdata=False)
client.username_pw_set("agent", password)
client.on_message = on_message
client.connect("127.0.0.1", port)
client.subscribe("#")
client.loop_start()
until = time.monotonic() + seconds
while not client.user_data_get() and time.monotonic() < until:
    time.sleep(0.1)
sys.exit(0 if client.user_data_get() else 1)
"""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
