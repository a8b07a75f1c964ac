"""What a fresh machine is told of this one, and what counts as a success on it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from scripts.fresh_machine import jobs
from scripts.fresh_machine.__main__ import _python_of, _remove_what_is_left
from scripts.fresh_machine.chamber import Chamber, ChamberError
from scripts.fresh_machine.host import Carried, carried, lines, mirrors_in
from scripts.fresh_machine.jobs import JOBS, Job
from scripts.fresh_machine.report import Result, document, table
from scripts.fresh_machine.roots import ROOTS
from tests.fixtures.deadlines import wait_until

_ROOT = Path(__file__).parents[2]
_DEMO = "3.3 s on ort-cpu fp32: 46 frames, 46 classified, 0 dropped, 14.0 fps\nlabels seen: ok 46\n"
_STEPS = "".join(f"{10:5d} s  {name:<28} ok\n" for name in ("environment", "check", "pytest", "wheel"))
_SOAK = "  310 s  soak                         ok, beside the others\n"
_SUM = "2679 passed, 0 failed, 303 skipped\n"
_WALKED = (
    "== line 21  (0 s)\nlabels seen: ok 1\n== line 35  (20 s)\n== the end  (90 s)\nthe first hour: walked in 90 s\n"
)
_INSTALLED = """Done. systemctl status agent
fresh-machine: what was installed
agent, version 0.1.0
imported from /opt/agent/lib/python3.10/site-packages/agent/__init__.py
"""


@pytest.mark.parametrize(
    ("look", "log"),
    [
        (jobs.look_at_demo, _DEMO),
        (jobs.look_at_test, _STEPS + _SOAK + _SUM),
        (jobs.look_at_engines, "217 passed, 5 skipped in 80.89s (0:01:20)\n"),
        (jobs.look_at_install, _INSTALLED),
        (jobs.look_at_first_hour, _WALKED),
    ],
)
def test_what_worked_is_seen(look: jobs.Look, log: str) -> None:
    assert look(log)[1]


@pytest.mark.parametrize(
    ("look", "log", "says"),
    [
        (jobs.look_at_demo, "", "no frame was classified"),
        (jobs.look_at_demo, _DEMO.replace("46 classified", "0 classified"), "0 of 46 frames"),
        (jobs.look_at_demo, _DEMO.replace("labels seen: ok 46", "labels seen: none"), "46 of 46"),
        (jobs.look_at_test, "Making .venvs\n", "no closing line"),
        (jobs.look_at_test, _STEPS + _SOAK + _SUM.replace(" 0 failed", " 1 failed"), "1 failed"),
        (jobs.look_at_test, _STEPS + _SUM, "not done or failed: soak"),
        (jobs.look_at_test, _STEPS.replace("wheel ", "other ") + _SOAK + _SUM, "not done or failed: wheel"),
        (jobs.look_at_test, _STEPS + _SOAK + _SUM.replace("2679", "0"), "0 passed"),
        (jobs.look_at_engines, "collected 217 items\n", "no closing line"),
        (jobs.look_at_engines, "1 failed, 217 passed in 80.89s\n", "1 failed"),
        (jobs.look_at_engines, "217 passed, 1 error in 80.89s\n", "1 error"),
        # "Done" and an exit code of 0, without an agent: seen with a setuptools that knows no [project] table.
        (jobs.look_at_install, "Done. systemctl status agent\n", 'says "Done"'),
        (jobs.look_at_first_hour, "", "no closing line"),
        (jobs.look_at_first_hour, _WALKED.replace("walked", "FAILED"), "FAILED in 90 s"),
        (jobs.look_at_first_hour, _WALKED.replace("== line", "line"), "0 blocks"),
        (jobs.look_at_install, "gave up\n", "no agent was installed"),
        (jobs.look_at_install, _INSTALLED.replace("0.1.0", "0.0.0"), "agent 0.0.0"),
        (jobs.look_at_install, _INSTALLED.replace("/opt/agent", "/somewhere"), "imported from elsewhere"),
    ],
)
def test_what_did_not_work_is_not_taken_for_success(look: jobs.Look, log: str, says: str) -> None:
    found, is_good = look(log)
    assert not is_good
    assert says in found


_PINNED = "onnxruntime 1.23.2 instead of 1.31.1, whose inference ended with 139"


def test_the_row_names_a_replaced_onnxruntime() -> None:
    assert _PINNED in jobs.look_at_demo(f"fresh-machine: {_PINNED}\n{_DEMO}")[0]


def _fit(python: Path | str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-c", f'set -eu\n{jobs.FIT}\nfit "$1"', "bash", str(python)]
    return subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize(
    ("inferences", "is_replaced", "code"), [(["0"], False, 0), (["139", "0"], True, 0), (["139", "1"], True, 1)]
)
def test_onnxruntime_is_replaced_if_its_inference_fails_and_the_new_one_must_infer(
    inferences: list[str], is_replaced: bool, code: int, tmp_path: Path
) -> None:
    (tmp_path / "codes").write_text("".join(f"{one}\n" for one in inferences))
    python = tmp_path / "python"
    python.write_text(
        f"""#!/bin/sh
        case $* in
          -) cat >/dev/null; code=$(head -n 1 {tmp_path}/codes); sed -i 1d {tmp_path}/codes; exit $code ;;
          '-m pip show onnxruntime') echo Version: 1.31.1 ;;
          '-m pip install '*) echo "$*" >>{tmp_path}/installed ;;
          *) exit 99 ;;
        esac
        """.lstrip()
    )
    python.chmod(0o755)
    result = _fit(python)
    assert result.returncode == code, result.stderr
    assert (f"fresh-machine: {_PINNED}\n" in result.stdout) == is_replaced
    installed = tmp_path / "installed"
    assert (installed.read_text() if installed.exists() else "") == (
        "-m pip install --quiet onnxruntime==1.23.2\n" if is_replaced else ""
    )
    assert (tmp_path / "codes").read_text() == ""


def test_the_locked_onnxruntime_infers_on_a_real_processor() -> None:
    pytest.importorskip("onnxruntime", reason="this environment has no ONNX Runtime")
    result = _fit(sys.executable)
    assert result.returncode == 0, result.stderr
    assert re.search(r"^fresh-machine: ONNX Runtime \S+ infers: shape \(1, 5\)$", result.stdout, re.MULTILINE)


def test_the_last_demo_counts() -> None:
    found, is_good = jobs.look_at_demo(_DEMO + _DEMO.replace("46 classified", "0 classified"))
    assert (found.startswith("0 of 46"), is_good) == (True, False)


def test_pips_configuration_is_carried_with_the_places_that_the_root_sees(tmp_path: Path) -> None:
    authority, wheels, index = tmp_path / "ca.crt", tmp_path / "wheels", tmp_path / "index/simple"
    authority.touch()
    wheels.mkdir()
    index.mkdir(parents=True)
    file = tmp_path / "pip.conf"
    file.write_text(
        f"[global]\ncert = {authority}\nextra-index-url = file://{index} https://index.example/a/b\n"
        f"find-links =\n  {wheels}\n  /not/there\n",
        encoding="utf-8",
    )
    environment = {
        "PIP_CONFIG_FILE": str(file),
        "PIP_CERT": str(authority),
        "https_proxy": "http://proxy.example:3128",
        "PIP_TARGET": "/somewhere",
        "SECRET_TOKEN": "hunter2",
    }
    found = carried(environment, tmp_path / "home")
    assert found.environment == {
        "PIP_CONFIG_FILE": "/run/host/pip.conf",
        "PIP_CERT": f"/run/host{authority}",
        "https_proxy": "http://proxy.example:3128",
    }
    assert f"cert = /run/host{authority}\n" in found.pip_configuration
    assert f"file:///run/host{index} https://index.example/a/b" in found.pip_configuration
    assert f"\t/run/host{wheels}\n\t/not/there\n" in found.pip_configuration
    assert found.mounts[Path(f"/run/host{authority}")] == authority
    assert f"variable\tPIP_CERT\t/run/host{authority}" in lines(found)
    assert f"mount\t/run/host{authority}\t{authority}" in lines(found)
    # The pages of a local index name files beside it.
    assert found.mounts[Path(f"/run/host{index.parent}")] == index.parent


@pytest.fixture
def archive() -> Iterator[str]:
    """Address of a host that has both archives."""

    class _Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200 if self.path == "/ubuntu/dists/jammy/Release" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_mirrors_are_those_of_this_machine(archive: str) -> None:
    assert mirrors_in(["http://a.example/debian/", "http://b.example/debian/", "http://c.example/ubuntu/"]) == {
        "debian": "http://a.example/debian",
        "ubuntu": "http://c.example/ubuntu",
    }
    assert mirrors_in([f"{archive}/debian/"])["ubuntu"] == f"{archive}/ubuntu"
    assert mirrors_in([f"{archive}/elsewhere/debian/"]) == {"debian": f"{archive}/elsewhere/debian"}
    assert mirrors_in(["http://a.example/debian-security/"]) == {}


def test_the_table_and_the_document_tell_of_every_failure() -> None:
    good = Result("forky", "Debian 14", "demo", is_ok=True, seconds=61.2, found="a|b", python="3.14", log="/l")
    bad = Result("jammy", "Ubuntu", "install", is_ok=False, seconds=9.0, found="no agent", python="3.10", log="/m")
    assert table([good, bad])[2:] == [
        "| Debian 14 | 3.14 | demo | ok | 61 s | a/b |",
        "| Ubuntu | 3.10 | install | FAILED | 9 s | no agent |",
    ]
    told = json.loads(json.dumps(document([good, bad], commit="abc", arch=None, began_at="now")))
    assert (told["is_ok"], told["results"][1]["found"]) == (False, "no agent")
    assert document([], commit="abc", arch=None, began_at="now")["is_ok"] is False, "nothing was tried"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--only", "bookworm,plan9"], "'plan9'"), (["--do", "dance"], "'dance'"), (["--arch", "m68k"], "m68k")],
)
def test_a_root_or_job_that_nobody_knows_is_refused(arguments: list[str], says: str) -> None:
    command = [sys.executable, "-m", "scripts.fresh_machine", *arguments]
    result = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert says in result.stderr


def test_roots_of_runs_that_were_killed_are_removed(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        for owner in (other.pid, 2**22 + 1):
            (tmp_path / f"root-{owner}-bookworm-demo/etc").mkdir(parents=True)
        (tmp_path / "base-bookworm.tar").touch()
        _remove_what_is_left(tmp_path)
        left = sorted(place.name for place in tmp_path.iterdir())
        assert left == ["base-bookworm.tar", f"root-{other.pid}-bookworm-demo"]
        other.kill()


def _why_no_chamber() -> str | None:
    if os.geteuid() != 0:
        return "a root of its own needs root"
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private", "true"]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"there are no namespaces here: {tried.stderr.strip()}"


needs_chamber = pytest.mark.skipif(_why_no_chamber() is not None, reason=str(_why_no_chamber()))


@pytest.fixture
def chamber(tmp_path: Path) -> Chamber:
    """A root whose programs are this machine's, mounted."""
    root = tmp_path / "root"
    for name in ("proc", "sys", "dev", "etc", "run", "tmp"):
        (root / name).mkdir(parents=True)
    mounts = {}
    for name in ("bin", "sbin", "lib", "lib64", "usr"):
        place = Path("/") / name
        if place.is_symlink():
            (root / name).symlink_to(place.readlink())
        elif place.is_dir():
            mounts[place] = place
    return Chamber(root, Carried({"PIP_CERT": "/run/host/ca"}, "[global]\n", mounts))


@needs_chamber
def test_a_chamber_has_processes_mounts_and_devices_of_its_own(chamber: Chamber, tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = """
        echo pid $$ $(ls /proc | grep -c '^[0-9]') host $(ls -d /.host 2>&1)
        echo x >/dev/null && head -c 1 /dev/zero >/dev/null && echo devices; : >/tmp/own; touch /usr/x 2>&1
        echo $PIP_CERT $(cat "$PIP_CONFIG_FILE") $UNDECLARED $HOME
        unshare --map-root-user --mount true && echo user namespaces
    """
    variables = {"PIP_CONFIG_FILE": "/run/host/pip.conf"}
    outcome = chamber.run(["sh", "-c", script], log=log, limit_s=60, variables=variables)
    told = log.read_text(encoding="utf-8")
    assert outcome.code == 0, told
    assert "No such file or directory" in told, "the host's root is out of reach"
    assert "devices\n" in told
    assert "Read-only file system" in told
    assert "/run/host/ca [global] /root\n" in told
    assert (chamber.root / "tmp/own").exists()
    assert not any((chamber.root / "dev").iterdir()), "the mounts were seen inside alone"
    if (
        subprocess.run(["unshare", "--map-root-user", "--mount", "true"], capture_output=True, check=False).returncode
        == 0
    ):
        assert "user namespaces\n" in told


@needs_chamber
def test_whatever_runs_in_a_chamber_ends_with_its_time(chamber: Chamber, tmp_path: Path) -> None:
    log = tmp_path / "log"
    mark = f"77{os.getpid()}"
    script = f"setsid sh -c 'trap \"\" TERM; sleep {mark}' & sleep {mark}"
    outcome = chamber.run(["sh", "-c", script], log=log, limit_s=2)
    assert outcome.code is None
    assert "ended after 2 s" in log.read_text(encoding="utf-8")
    wait_until(lambda: not _is_running(mark), within_s=10)


def _is_running(mark: str) -> bool:
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if words[:2] == [b"sleep", mark.encode()]:
            return True
    return False


@needs_chamber
def test_what_has_to_work_and_does_not_is_told_with_its_last_words(chamber: Chamber, tmp_path: Path) -> None:
    with pytest.raises(ChamberError, match=r"(?s)ended with 3 .*no such mirror"):
        chamber.check(["sh", "-c", "echo no such mirror; exit 3"], log=tmp_path / "log", limit_s=60)


@needs_chamber
def test_a_job_is_judged_by_its_own_output_and_not_by_its_exit_code(chamber: Chamber, tmp_path: Path) -> None:
    chamber.place(jobs.CHECKOUT).mkdir(parents=True)
    log = tmp_path / "log"
    log.write_text(_DEMO, encoding="utf-8")
    silent = Job("demo", "true", jobs.look_at_demo, 60.0)
    outcome, found, is_ok = silent.run(chamber, ROOTS[0], log, is_emulated=False)
    assert (outcome.code, found, is_ok) == (0, "no frame was classified", False)
    failing = Job("demo", f"printf %s '{_DEMO}'; exit 5", jobs.look_at_demo, 60.0)
    outcome, found, is_ok = failing.run(chamber, ROOTS[0], log, is_emulated=False)
    assert (outcome.code, is_ok) == (5, False)
    assert found.startswith("exit code 5; 46 of 46 frames")


def test_every_job_and_root_is_offered() -> None:
    assert [job.name for job in JOBS] == ["demo", "test", "engines", "install", "first-hour"]
    result = subprocess.run(
        [str(_ROOT / "scripts/fresh-machine"), "--list"], capture_output=True, text=True, check=True
    )
    assert [line.split()[0] for line in result.stdout.splitlines()] == [root.name for root in ROOTS]


def test_the_version_of_a_roots_python_is_read_from_its_link(tmp_path: Path) -> None:
    chamber = Chamber(tmp_path, Carried())
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/python3").symlink_to("python3.14")
    assert _python_of(chamber) == "3.14"
