"""See scripts/gpu-check."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from agent.demo import demo_package
from engines import ProbeResult, describe
from engines.registry import Prober
from scripts.gpu_check.children import ROOT, Outcome, run_case, run_command
from scripts.gpu_check.report import page
from scripts.make_models import resnet, write_package

EXIT_FAILED = 1
EXIT_NO_GPU = 69
_BUILD_TIMEOUT_S = 3600.0
_MAX_BATCH = 4
_GPU_ENGINES = ("tensorrt", "ort-tensorrt", "ort-cuda")


def main() -> int:
    """Run everything that this machine can, write the report, and say where it is."""
    arguments = _arguments()
    folder: Path = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    prober = Prober()
    probes = [prober.probe(name) for name in (*_GPU_ENGINES, "ort-cpu")]
    able = [probe.name for probe in probes if probe.can_run and probe.name in _GPU_ENGINES]
    outcomes = list(_outcomes(able, folder, is_quick=arguments.quick)) if able else []
    failed = [one for one in outcomes if not one.has_passed and not one.is_optional]
    verdict = _verdict(prober, able, outcomes, failed)
    text = page(
        describe(timeout_s=20.0),
        probes,
        outcomes,
        revision=_revision(),
        verdict=verdict,
        unchecked=_unchecked(probes),
    )
    path = folder / "report.md"
    path.write_text(text, encoding="utf-8")
    print(f"{verdict}\nThe report is {path}")
    if not able:
        return EXIT_NO_GPU
    return EXIT_FAILED if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/gpu-check", description="Proves the engines of an NVIDIA GPU.")
    parser.add_argument("--output", type=Path, default=ROOT / "gpu-check", help="where the report and plans go")
    parser.add_argument("--quick", action="store_true", help="the demo model in fp32 alone, few runs, no suites")
    return parser.parse_args()


def _verdict(prober: Prober, able: list[str], outcomes: list[Outcome], failed: list[Outcome]) -> str:
    if prober.cuda.failure:
        return f"**There is no NVIDIA GPU that could be used here: {prober.cuda.failure}.** Nothing was checked."
    if not able:
        gpu = prober.gpus[0].name if prober.gpus else "a GPU"
        return f"**{gpu} is here, and no engine that could use it.** Nothing was checked; see the engines below."
    passed = sum(one.has_passed for one in outcomes)
    where = f"on {prober.gpus[0].name} with {', '.join(able)}"
    return f"**{passed} of {len(outcomes)} checks passed, {len(failed)} failed**, {where}."


def _outcomes(able: list[str], folder: Path, *, is_quick: bool) -> Iterator[Outcome]:
    """Every check in order, told while it goes on."""
    for outcome in _checks(able, folder, is_quick=is_quick):
        word = "passed" if outcome.has_passed else "FAILED"
        print(f"{outcome.took_s:8.1f} s  {word}  {outcome.name}", flush=True)
        yield outcome


def _checks(able: list[str], folder: Path, *, is_quick: bool) -> Iterator[Outcome]:
    cache = str(folder / "cache")
    demo = str(demo_package())
    runs = 64 if is_quick else 1000
    usual: dict[str, object] = {
        "cache": cache,
        "max_batch": _MAX_BATCH,
        "runs": runs,
        "package": demo,
        "must_agree": True,
    }
    precisions_of_demo = ("fp32",) if is_quick else ("fp32", "fp16", "int8")
    packages: list[tuple[str, str, tuple[str, ...], bool]] = [("demo", demo, precisions_of_demo, True)]
    if not is_quick:
        shaped = write_package(resnet(), "resnet", folder / "packages")
        # Random weights make near ties, which say nothing about an engine: its agreement is shown and not judged.
        packages.append(("resnet-18 shape", str(shaped), ("fp32", "fp16"), False))
    for label, package, precisions, must_agree in packages:
        for precision in precisions:
            for engine in (*able, "ort-cpu"):
                job = {**usual, "check": "measured", "package": package, "engine": engine, "precision": precision}
                yield run_case(
                    f"{label}, {engine}, {precision}",
                    {**job, "must_agree": must_agree},
                    timeout_s=_BUILD_TIMEOUT_S,
                    is_optional=engine == "ort-cpu",
                )
    if "tensorrt" in able:
        names = ("loads_from_cache", "refuses_corrupt", "refuses_foreign", "survives_garbage", "keeps_its_memory")
        for check in names:
            job = {**usual, "check": check, "engine": "tensorrt", "precision": "fp32"}
            # A plan whose hash is right is never garbage: what TensorRT does with it is worth knowing, not a promise.
            yield run_case(
                f"tensorrt {check.replace('_', ' ')}",
                job,
                timeout_s=_BUILD_TIMEOUT_S,
                is_optional=check == "survives_garbage",
            )
    if not is_quick and importlib.util.find_spec("pytest") is not None:
        required = {**os.environ, "REQUIRE_ENGINES": ",".join(able), "REQUIRE_GPU": "1"}
        quiet = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "timeout=1800"]
        yield run_command(
            "conformance suite", [*quiet, "tests/conformance/test_engines.py"], timeout_s=7200, env=required
        )
        yield run_command("tests on the GPU", [*quiet, "tests/gpu"], timeout_s=7200, env=required)


def _unchecked(probes: list[ProbeResult]) -> list[str]:
    texts = [f"{probe.name}: {probe.reason}. To get it, {probe.remedy}" for probe in probes if not probe.can_run]
    if importlib.util.find_spec("pytest") is None:
        texts.append("the conformance suite and the tests on the GPU: pytest is not installed")
    return texts


def _revision() -> str:
    if shutil.which("git") is None:
        return "unknown"
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
