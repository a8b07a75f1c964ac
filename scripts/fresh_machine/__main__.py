"""Runs the jobs in the roots and prints the results; see scripts/fresh-machine."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType

from scripts.fresh_machine.chamber import Chamber, ChamberError
from scripts.fresh_machine.host import Carried, carried, mirrors
from scripts.fresh_machine.jobs import CHECKOUT, JOBS, Job
from scripts.fresh_machine.report import Result, document, table
from scripts.fresh_machine.roots import ROOTS, Bases, Root

_SOURCE = Path(__file__).parents[2]
_WORK = Path("/var/tmp/agent-fresh-machine")  # noqa: S108 - it keeps the bases between runs, readable by root only
_FOREIGN = {"arm64": "qemu-aarch64"}
_JOBS = ("demo", "test", "install")
_EMULATED_JOBS = ("demo", "engines")
_UNAVAILABLE = 69


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 0 when all held."""
    options = _options(arguments)
    if options.list:
        print("\n".join(f"{root.name}  {root.title}" for root in ROOTS))
        return 0
    if options.arch is not None and not _can_emulate(options.arch):
        return _UNAVAILABLE
    os.umask(0o022)
    options.work.mkdir(parents=True, exist_ok=True)
    # Proxies may hold a password.
    options.work.chmod(0o700)
    _remove_what_is_left(options.work)
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGHUP, _end)
    began_at = f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"
    commit = _git("rev-parse", "--short", "HEAD")
    if _git("status", "--porcelain", "--untracked-files=no"):
        _note(f"there are uncommitted changes; only {commit} is tried")
    run = _Run(options, carried(os.environ, Path.home()), commit)
    try:
        for root in options.only:
            for job in options.do:
                run.one(root, job)
    except KeyboardInterrupt:
        _note("interrupted")
        return 128 + signal.SIGINT
    finally:
        _write(options, run.results, commit, began_at)
    return 0 if run.results and all(one.is_ok for one in run.results) else 1


class _Run:
    """The results so far, and what the next ones need."""

    def __init__(self, options: argparse.Namespace, host: Carried, commit: str) -> None:
        self.results: list[Result] = []
        self._options = options
        given = {"debian": options.debian_mirror, "ubuntu": options.ubuntu_mirror}
        known = {} if all(given.values()) else mirrors()
        addresses = {**known, **{name: address for name, address in given.items() if address}}
        self._bases = Bases(options.work, addresses, host, arch=options.arch)
        self._commit = commit

    def one(self, root: Root, job: Job) -> None:
        """Run the job in a new root and record its result."""
        suffix = f"-{self._options.arch}" if self._options.arch else ""
        log = self._options.work / "logs" / f"{root.name}{suffix}-{job.name}.log"
        log.parent.mkdir(exist_ok=True)
        log.unlink(missing_ok=True)
        _note(f"{root.name}{suffix}: {job.name}, log: {log}")
        place = self._options.work / f"root-{os.getpid()}-{root.name}-{job.name}"
        python, seconds, found, is_ok = "?", 0.0, "", False
        try:
            chamber = self._bases.unpack(root, place, log)
            python = _python_of(chamber)
            _clone(chamber.place(CHECKOUT), self._commit)
            is_emulated = self._options.arch is not None
            outcome, found, is_ok = job.run(chamber, root, log, is_emulated=is_emulated)
            seconds = outcome.seconds
        except (ChamberError, subprocess.CalledProcessError) as exc:
            found = f"could not be prepared: {str(exc).splitlines()[0]}"
            _note(str(exc))
        finally:
            if self._options.keep and place.exists():
                _note(f"kept: {place}")
            else:
                shutil.rmtree(place, ignore_errors=True)
        title = f"{root.title}{suffix}"
        self.results.append(Result(root.name, title, job.name, is_ok, round(seconds, 1), found, python, str(log)))
        _note(f"{root.name}{suffix}: {job.name} {'ok' if is_ok else 'FAILED'} in {seconds:.0f} s: {found}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/fresh-machine", description=__doc__)
    names = ",".join(root.name for root in ROOTS)
    add = parser.add_argument
    add("--only", metavar="ROOT,..", help=f"some of {names} (default: all; bookworm with --arch)")
    add("--do", metavar="JOB,..", help=f"some of {','.join(job.name for job in JOBS)} (default: {','.join(_JOBS)})")
    add("--arch", choices=sorted(_FOREIGN), help="under qemu-user: the demo and the engine tests")
    add("--json", type=Path, metavar="FILE", help="write the results here too")
    add("--keep", action="store_true", help="keep the roots for inspection; the next run removes them")
    add(
        "--work",
        type=Path,
        default=_WORK,
        metavar="DIR",
        help="bases, roots and logs (default: %(default)s)",
    )
    add("--debian-mirror", metavar="URL", help="default: that of this machine's apt")
    add("--ubuntu-mirror", metavar="URL", help="default: that of apt, else beside Debian's, else debootstrap's")
    add("--list", action="store_true", help="list the roots and exit")
    options = parser.parse_args(arguments)
    only = options.only or ("bookworm" if options.arch else names)
    do = options.do or ",".join(_EMULATED_JOBS if options.arch else _JOBS)
    roots, jobs = {root.name: root for root in ROOTS}, {job.name: job for job in JOBS}
    for option, asked, known in (("--only", only, roots), ("--do", do, jobs)):
        if unknown := [name for name in asked.split(",") if name not in known]:
            parser.error(f"{option} knows {', '.join(known)}, not {', '.join(map(repr, unknown))}")
    options.only = [roots[name] for name in only.split(",")]
    options.do = [jobs[name] for name in do.split(",")]
    options.work = options.work.resolve()
    return options


def _can_emulate(arch: str) -> bool:
    """Whether the kernel starts programs of ``arch``; registers qemu with it if need be."""
    registry, name = Path("/proc/sys/fs/binfmt_misc"), _FOREIGN[arch]
    if not (registry / "register").exists():
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(registry)], capture_output=True, check=False)
    if not (registry / name).exists():
        subprocess.run(["update-binfmts", "--enable", name], capture_output=True, check=False)
    if (registry / name).exists():
        return True
    _note(
        f"--arch {arch}: this kernel does not start programs of {arch}: {registry / name} is missing. "
        "Install qemu-user-static and binfmt-support, and read the output of update-binfmts"
    )
    return False


def _python_of(chamber: Chamber) -> str:
    """The version of the root's python3, from the target of its link, without running it."""
    return chamber.place("/usr/bin/python3").readlink().name.removeprefix("python")


def _clone(target: Path, commit: str) -> None:
    """Clone the last commit, as a user would: without ignored and uncommitted files."""
    target.parent.mkdir(parents=True, exist_ok=True)
    safe = ["-c", f"safe.directory={_SOURCE}", "-c", f"safe.directory={_SOURCE / '.git'}"]
    command = ["git", *safe, "clone", "--quiet", "--no-hardlinks", str(_SOURCE), str(target)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    subprocess.run(["git", "-C", str(target), "checkout", "--quiet", commit], check=True, capture_output=True)


def _remove_what_is_left(work: Path) -> None:
    """Remove roots of runs that were killed or kept them; not those of a run in progress."""
    for place in [*work.glob("root-*"), *work.glob("making-*")]:
        owner = place.name.split("-")[1]
        if not Path(f"/proc/{owner}").exists() or owner == str(os.getpid()):
            shutil.rmtree(place, ignore_errors=True)


def _write(options: argparse.Namespace, results: Sequence[Result], commit: str, began_at: str) -> None:
    print("\n".join(table(results)), flush=True)
    if options.json is not None:
        text = json.dumps(document(results, commit=commit, arch=options.arch, began_at=began_at), indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")


def _git(*arguments: str) -> str:
    command = ["git", "-c", f"safe.directory={_SOURCE}", "-C", str(_SOURCE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _end(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
