"""See scripts/gpu-check."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path

from agent import __version__
from engines import describe
from engines.select.registry import Prober
from scripts.gpu_check.children import ROOT, Outcome, run_step
from scripts.gpu_check.plan import GPU_ENGINES, Step, resnet_package, steps
from scripts.gpu_check.report import Circumstances, page
from scripts.performance.make_models import resnet, write_package

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NO_GPU = 69
EXIT_STOPPED = 130
_CASE_EXIT_CODES = "Exit code: 0 all passed, 1 something failed, 2 wrong usage, 69 no usable GPU."


def main() -> int:
    """Run all checks that this machine can, update the report after each, and print its path."""
    arguments = _arguments()
    folder = Path(arguments.started_in, arguments.output).resolve()
    work = folder / "work"
    try:
        _clear(folder)
    except OSError as exc:
        print(
            f"gpu-check: the folder {folder} cannot be written: {exc.strerror or exc}. "
            "Name another one: scripts/gpu-check --output FOLDER",
            file=sys.stderr,
        )
        return EXIT_USAGE
    prober = Prober()
    probes = [prober.probe(name) for name in (*GPU_ENGINES, "ort-cpu")]
    able = [probe.name for probe in probes if probe.can_run and probe.name in GPU_ENGINES]
    planned = [
        step
        for step in (steps(probes, work, is_quick=arguments.quick) if able else [])
        if arguments.only is None or arguments.only in step.name
    ]
    if able and not planned:
        print(f"gpu-check: no check has {arguments.only!r} in its name. The report of a run without --only lists them")
        return EXIT_USAGE
    circumstances = Circumstances(
        environment=describe(timeout_s=60.0),
        probes=probes,
        revision=f"{__version__}, {_revision()}",
        command=_command(arguments),
        began=datetime.now(timezone.utc),
        is_part=arguments.quick or arguments.only is not None,
    )
    report = folder / "report.md"
    outcomes: list[Outcome] = []

    def write(verdict: str) -> None:
        report.write_text(page(circumstances, planned, outcomes, verdict=verdict), encoding="utf-8")

    code, verdict = EXIT_NO_GPU, _nothing_checked(prober)
    if able:
        where = f"on {prober.gpus[0].name if prober.gpus else 'a GPU'} with {', '.join(able)}"
        code, verdict = _run_all(planned, outcomes, work, where=where, write=write)
    write(verdict)
    if code in (0, EXIT_NO_GPU):
        shutil.rmtree(work, ignore_errors=True)
    print(f"{verdict}\nThe report is {report}")
    return code


def _run_all(
    planned: list[Step], outcomes: list[Outcome], work: Path, *, where: str, write: Callable[[str], None]
) -> tuple[int, str]:
    """Run every step and write the report after each; the exit code and the verdict."""
    variables = _variables(work)
    if any(step.job and step.job["package"] == str(resnet_package(work)) for step in planned):
        write_package(resnet(), "resnet", resnet_package(work).parent)
    try:
        for number, step in enumerate(planned, start=1):
            write(f"**Not finished: {len(outcomes)} of {len(planned)} checks were done so far**, {where}.")
            outcome = run_step(step, work.parent / "logs" / _log_name(number, step), variables=variables)
            outcomes.append(outcome)
            print(f"{number:3d} of {len(planned)} {outcome.took_s:7.1f} s  {outcome.result}  {step.name}", flush=True)
    except KeyboardInterrupt:
        return EXIT_STOPPED, f"**Stopped by hand after {len(outcomes)} of {len(planned)} checks**, {where}."
    return EXIT_FAILED if any(one.counts_as_failed for one in outcomes) else 0, _verdict(outcomes, where)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/gpu-check", description="Tests the engines of an NVIDIA GPU.", epilog=_CASE_EXIT_CODES
    )
    parser.add_argument(
        "--output", type=Path, default=ROOT / "gpu-check", help="where the report and the logs go (default: gpu-check)"
    )
    parser.add_argument("--started-in", type=Path, default=Path(), help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="only the demo model in fp32, few runs, no test suites")
    parser.add_argument("--only", metavar="TEXT", help="only the checks with this text in their name")
    return parser.parse_args()


def _command(arguments: argparse.Namespace) -> str:
    """The command for the report: only options that change what is checked."""
    parts = ["--quick"] * arguments.quick + (["--only", arguments.only] if arguments.only is not None else [])
    return shlex.join(["scripts/gpu-check", *parts])


def _clear(folder: Path) -> None:
    """Make the folder, without files of an earlier run, so that everything is built again."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("work", "logs"):
        if (folder / name).exists():
            shutil.rmtree(folder / name)
        (folder / name).mkdir()
    (folder / "work" / "tmp").mkdir()
    (folder / "report.md").write_text("# GPU check\n\nIt has just started.\n", encoding="utf-8")


def _variables(work: Path) -> Mapping[str, str]:
    """The environment of every step: nothing is written outside the output folder."""
    return {**os.environ, "TMPDIR": str(work / "tmp"), "PYTHONDONTWRITEBYTECODE": "1", "ORT_DISABLE_TELEMETRY": "1"}


def _log_name(number: int, step: Step) -> str:
    words = "".join(letter if letter.isalnum() or letter == "-" else " " for letter in step.name).split()
    return f"{number:02}-{'-'.join(words)}.log"


def _nothing_checked(prober: Prober) -> str:
    if prober.cuda.failure:
        return f"**There is no usable NVIDIA GPU here: {prober.cuda.failure}.** Nothing was checked."
    gpu = prober.gpus[0].name if prober.gpus else "a GPU"
    return f"**{gpu} is here, but no engine that can use it.** Nothing was checked; see the engines below."


def _verdict(outcomes: list[Outcome], where: str) -> str:
    counted = [one for one in outcomes if not one.step.is_shown_only and not one.step.why_not]
    failed = sum(one.counts_as_failed for one in counted)
    impossible = sum(bool(one.step.why_not) for one in outcomes)
    shown = len(outcomes) - len(counted) - impossible
    rest = f"{impossible} not possible here, {shown} only shown"
    return f"**{len(counted) - failed} of {len(counted)} checks passed, {failed} failed**, {rest}, {where}."


def _revision() -> str:
    """Revision of the source tree, from git."""
    if shutil.which("git") is None:
        return "revision unknown (git is not installed)"
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return f"revision {done.stdout.strip()}" if done.returncode == 0 else "revision unknown (no git checkout)"


if __name__ == "__main__":
    sys.exit(main())
