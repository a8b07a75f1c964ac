"""What runs in a root, and what its output must show: an exit code alone proves nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scripts.fresh_machine.chamber import Chamber, Outcome
from scripts.fresh_machine.roots import Root
from scripts.fresh_machine.stand_ins import install_stand_ins

CHECKOUT = "/home/user/checkout"
_APT_LIMIT_S = 1800.0
_EMULATED_TIMES = 6.0
"""Time limits are this many times as long under emulation."""

# The newest ONNX Runtime that was seen to work under qemu-user. Newer ones may crash there, hang, or not load.
EMULATED_ONNXRUNTIME = "1.23.2"
_PROBE_LIMIT_S = 600

# `fit PYTHON`: one inference of the demo's model decides whether that environment's ONNX Runtime works under the
# emulator. The exit code of the demo would not: some of its crashes end in a child process or a time-out.
FIT = f"""
infers() {{
  timeout --kill-after=10 {_PROBE_LIMIT_S} "$1" - <<'PYTHON'
import numpy, onnxruntime
session = onnxruntime.InferenceSession("agent/demo/conveyor-1.0.0/model.onnx", providers=["CPUExecutionProvider"])
image = {{one.name: numpy.zeros([size if isinstance(size, int) else 1 for size in one.shape], numpy.float32)
         for one in session.get_inputs()}}
answer = session.run(None, image)[0]
assert numpy.isfinite(answer).all(), answer
print("fresh-machine: ONNX Runtime", onnxruntime.__version__, "infers: shape", answer.shape)
PYTHON
}}
fit() {{
  local status=0 locked
  infers "$1" || status=$?
  [ $status != 0 ] || return 0
  locked=$("$1" -m pip show onnxruntime | sed -n 's/^Version: //p')
  # With its dependencies: 1.23 needs sympy for int8, which the locked release does not.
  "$1" -m pip install --quiet onnxruntime=={EMULATED_ONNXRUNTIME}
  echo "fresh-machine: onnxruntime {EMULATED_ONNXRUNTIME} instead of $locked, whose inference ended with $status"
  infers "$1"
}}
root=$PWD
source scripts/lib/system.sh
source scripts/lib/environment.sh
"""

_DEMO = "./scripts/demo --for 20s"
# The environment by the function that scripts/demo calls, so that scripts/demo finds it complete and leaves it alone.
_EMULATED_DEMO = f"""{FIT}
have_environment "$root/.venv" "$root/scripts/demo.lock"
fit .venv/bin/python
{_DEMO}
"""

_TEST = "./scripts/test"
_FIRST_HOUR = "apt-get update -qq\nscripts/dev/first-hour --as-root"

_ENGINES = """
need_system "${test_needs[@]}"
folder=$(test_environment_folder)
have_environment "$folder" "$root/tests/requirements.lock"
"""
_PYTEST_ENGINES = '"$folder/bin/python" -m pytest -n 0 -q -o timeout=900 tests/conformance/test_engines.py'
_NATIVE_ENGINES = f"""
root=$PWD
source scripts/lib/system.sh
source scripts/lib/environment.sh
{_ENGINES}
{_PYTEST_ENGINES}
"""
_EMULATED_ENGINES = f"""{FIT}
{_ENGINES}
fit "$folder/bin/python"
{_PYTEST_ENGINES}
"""

_INSTALL = """
scripts/install-jetson
# In the checkout Python would import the agent from there.
cd /
echo "fresh-machine: what was installed"
/opt/agent/bin/agent --version
/opt/agent/bin/python -c 'import agent, engines; print("imported from", agent.__file__)'
/opt/agent/bin/agent config check /etc/agent/agent.yaml
ls /etc/systemd/system/agent.service
"""


Look = Callable[[str], tuple[str, bool]]
"""Reads a log: a text for the table, and whether the job succeeded."""


@dataclass(frozen=True, slots=True)
class Job:
    """A script, the function that reads its log, and its time limit."""

    name: str
    script: str
    looks: Look
    limit_s: float
    emulated_script: str | None = None

    def run(self, chamber: Chamber, root: Root, log: Path, *, is_emulated: bool) -> tuple[Outcome, str, bool]:
        """Run it. Gives how it ended, the text for the table, and whether it succeeded.

        Raises:
            ChamberError: the root could not be prepared for it.
        """
        if self.name == "install":
            _prepare_board(chamber, root, log)
        script = self.emulated_script if is_emulated and self.emulated_script else self.script
        before = log.stat().st_size if log.exists() else 0
        outcome = chamber.run(
            ["bash", "-c", f"set -eu\ncd {CHECKOUT}\n{script}"],
            log=log,
            limit_s=self.limit_s * (_EMULATED_TIMES if is_emulated else 1.0),
        )
        found, is_good = self.looks(log.read_bytes()[before:].decode("utf-8", "replace"))
        if outcome.code is None:
            found = f"not finished after {outcome.seconds:.0f} s; {found}"
        elif outcome.code != 0:
            found = f"exit code {outcome.code}; {found}"
        return outcome, found, is_good and outcome.code == 0


def look_at_demo(log: str) -> tuple[str, bool]:
    """Whether frames were classified, from the last lines of the demo."""
    counts = re.findall(r"(\d+) frames, (\d+) classified, (\d+) dropped, ([\d.]+) fps", log)
    if not counts:
        return "no frame was classified", False
    frames, classified, dropped, fps = counts[-1]
    version = _pinned(log)
    found = f"{classified} of {frames} frames classified, {dropped} dropped, {fps} fps{version}"
    return found, int(classified) > 0 and re.search(r"labels seen: \w+ \d+", log) is not None


def look_at_test(log: str) -> tuple[str, bool]:
    """Whether scripts/test passed tests, failed none and ran all its steps."""
    sums = re.findall(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", log, re.MULTILINE)
    if not sums:
        return "no closing line", False
    passed, failed, skipped = sums[-1]
    steps = re.findall(r"^ *\d+ s  (\S.*?)  +(ok\b.*|FAILED.*)$", log, re.MULTILINE)
    done = {name for name, verdict in steps if verdict.startswith("ok")}
    missing = [name for name in ("environment", "check", "pytest", "soak", "wheel") if name not in done]
    found = f"{passed} passed, {failed} failed, {skipped} skipped"
    if missing:
        found += f"; not done or failed: {', '.join(missing)}"
    return found, int(passed) > 0 and int(failed) == 0 and not missing


def look_at_first_hour(log: str) -> tuple[str, bool]:
    """Whether every block of the tutorial was run, and how long that took."""
    closing = re.findall(r"^the first hour: (walked|FAILED) in (\d+) s$", log, re.MULTILINE)
    if not closing:
        return "no closing line", False
    blocks = len(re.findall(r"^== line \d+", log, re.MULTILINE))
    verdict, seconds = closing[-1]
    return f"{blocks} blocks of the tutorial, {verdict} in {seconds} s", verdict == "walked" and blocks > 0


def look_at_engines(log: str) -> tuple[str, bool]:
    """Whether pytest passed tests and failed none."""
    sums = re.findall(r"^(?:=+ )?(\d+ (?:passed|failed).*) in [\d.]+s", log, re.MULTILINE)
    if not sums:
        return "no closing line of pytest", False
    is_good = re.search(r"\d+ passed", sums[-1]) is not None and re.search(r"failed|error", sums[-1]) is None
    return f"{sums[-1]}{_pinned(log)}", is_good


def look_at_install(log: str) -> tuple[str, bool]:
    """Whether the installed agent runs, comes from /opt/agent and has a version."""
    _, mark, after = log.partition("fresh-machine: what was installed\n")
    version = re.search(r"^agent, version (\S+)$", after, re.MULTILINE)
    if not mark or version is None:
        return "no agent was installed" if "Done." not in log else 'no agent was installed, and it says "Done"', False
    is_own = "imported from /opt/agent/" in after
    return f"agent {version[1]}" + ("" if is_own else ", imported from elsewhere"), is_own and version[1] != "0.0.0"


def _pinned(log: str) -> str:
    """Which ONNX Runtime replaced the locked one, and why."""
    found = re.search(r"fresh-machine: (onnxruntime .*)", log)
    return f" ({found[1]})" if found else ""


def _prepare_board(chamber: Chamber, root: Root, log: Path) -> None:
    packages = " ".join(root.machine_packages)
    install = f"apt-get update -qq && apt-get install -y -qq --no-install-recommends {packages}"
    chamber.check(["sh", "-ec", install], log=log, limit_s=_APT_LIMIT_S)
    if root.l4t is not None and root.tensorrt is not None:
        install_stand_ins(chamber, l4t=root.l4t, tensorrt=root.tensorrt, log=log)


JOBS = (
    Job("demo", _DEMO, look_at_demo, 1200.0, _EMULATED_DEMO),
    Job("test", _TEST, look_at_test, 7200.0),
    Job("engines", _NATIVE_ENGINES, look_at_engines, 1800.0, _EMULATED_ENGINES),
    Job("install", _INSTALL, look_at_install, 2400.0),
    Job("first-hour", _FIRST_HOUR, look_at_first_hour, 2400.0),
)
