"""Writes the results as one Markdown page that needs no other context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from engines import EnvironmentRecord, ProbeResult
from scripts.gpu_check.children import Outcome
from scripts.gpu_check.plan import Step

_ENVIRONMENT = (
    ("board", "board"),
    ("JetPack", "jetpack"),
    ("L4T", "l4t"),
    ("power mode", "power_mode"),
    ("system", "os"),
    ("kernel", "kernel"),
    ("architecture", "architecture"),
    ("CPU", "cpu"),
    ("cores", "cpu_cores"),
    ("driver", "driver"),
    ("CUDA of the driver", "cuda"),
    ("TensorRT", "tensorrt"),
    ("ONNX Runtime", "onnxruntime"),
    ("NumPy", "numpy"),
    ("Python", "python"),
)
_DISTRIBUTIONS = (("PyCUDA", "pycuda"), ("cuda-bindings", "cuda-bindings"))
_MAX_CELL = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """Where, when and how the checks ran. ``is_part``: not all were requested."""

    environment: EnvironmentRecord
    probes: Sequence[ProbeResult]
    revision: str
    command: str
    began: datetime
    is_part: bool

    @property
    def machine(self) -> str:
        """Names of the GPU and of the board or CPU."""
        record = self.environment
        gpus = ", ".join(gpu.name for gpu in record.gpus) or "no GPU"
        return f"{gpus} in {record.board or record.cpu or record.architecture}"


def page(circumstances: Circumstances, planned: Sequence[Step], outcomes: Sequence[Outcome], *, verdict: str) -> str:
    """Return the whole page, also for an unfinished run."""
    began, ended = circumstances.began, datetime.now(timezone.utc)
    minutes = (ended - began).total_seconds() / 60
    part = "\n\nThese are some of the checks; `scripts/gpu-check` without options runs all." * circumstances.is_part
    made = (
        f"Made by `{circumstances.command}` (edge-inference-agent {circumstances.revision}) on "
        f"{circumstances.machine}, begun {began.isoformat(timespec='seconds')}, {minutes:.1f} minutes.{part}"
    )
    parts = [f"# GPU check\n\n{verdict}", made]
    failed = [one for one in outcomes if one.result.lower().startswith("failed")]
    if outcomes:
        parts += [_results(outcomes), _failures(outcomes, failed), _impossible(outcomes)]
        parts.append(_figures(circumstances, outcomes))
    parts += [_environment(circumstances.environment), _probes(circumstances.probes)]
    if planned:
        parts.append(_deeds(planned))
    if outcomes:
        parts.append(
            "The whole output of each check, with the command that repeats it, is in `logs/` beside this page. The "
            "files that the commands name are in `work/`, which is kept if something failed."
        )
    return "\n\n".join(part for part in parts if part) + "\n"


def _environment(environment: EnvironmentRecord) -> str:
    rows = [(label, getattr(environment, name)) for label, name in _ENVIRONMENT]
    rows += [(label, _version(name)) for label, name in _DISTRIBUTIONS]
    for gpu in environment.gpus:
        kind = "shares the CPU's memory" if gpu.integrated else "memory of its own"
        rows.append(("GPU", f"{gpu.name}, {gpu.compute_capability}, {gpu.memory_bytes / 2**30:.1f} GiB, {kind}"))
    return "## Environment\n\n" + _table(("", ""), [(label, _text(value)) for label, value in rows])


def _probes(probes: Sequence[ProbeResult]) -> str:
    rows = [
        (
            one.name,
            "yes" if one.can_run else "no",
            one.detail if one.can_run else f"{one.reason}. Remedy: {one.remedy}",
        )
        for one in probes
    ]
    return "## Engines\n\n" + _table(("engine", "can run", "details, or reason and remedy"), rows)


def _results(outcomes: Sequence[Outcome]) -> str:
    rows = [
        (str(number), one.step.name, one.result, f"{one.took_s:.1f}", " ".join(one.text.split("\n")[:2]))
        for number, one in enumerate(outcomes, start=1)
        if not one.step.why_not
    ]
    return "## Results\n\n" + _table(("#", "check", "result", "s", "outcome"), rows) if rows else ""


def _impossible(outcomes: Sequence[Outcome]) -> str:
    """The checks that are impossible here, by reason."""
    names: dict[str, list[str]] = {}
    for number, one in enumerate(outcomes, start=1):
        if one.step.why_not:
            names.setdefault(one.step.why_not, []).append(f"{number} {one.step.name}")
    rows = [("; ".join(found), reason) for reason, found in names.items()]
    return "## Not possible here\n\n" + _table(("checks", "why"), rows) if rows else ""


def _failures(outcomes: Sequence[Outcome], failed: Sequence[Outcome]) -> str:
    texts = []
    for one in failed:
        log = f"Whole output: `logs/{one.log.name}`" if one.log else ""
        heading = f"### {outcomes.index(one) + 1}. {one.step.name} ({one.result})"
        texts.append(f"{heading}\n\n{one.step.does}\n\n```text\n{one.text}\n```\n\n{log}")
    return "\n\n".join(["## Failures", *texts]) if failed else ""


def _figures(circumstances: Circumstances, outcomes: Sequence[Outcome]) -> str:
    rows = []
    for number, one in enumerate(outcomes, start=1):
        times = _mapping(one.values.get("times"))
        for batch, figures in times.items():
            rows.append(
                (
                    str(number),
                    one.step.name,
                    batch,
                    *(_milliseconds(figures[name]) for name in ("p50_ms", "p90_ms", "p99_ms")),
                    f"{figures['images_per_s']:.0f}",
                    str(figures["runs"]),
                    *_of_engine(one.values),
                )
            )
    if not rows:
        return ""
    heads = ("#", "engine", "batch", "p50 ms", "p90 ms", "p99 ms", "images/s", "calls")
    more = ("ready s", "built", "top-1", "max diff", "CUDA graphs", "where the nodes run")
    words = (
        f"On {circumstances.machine}, {circumstances.began.date()}; the command of each row is in the log of its "
        "number. A time is wall time of one call from images in host memory to scores in host memory, transfers "
        "included, called back to back, after 0.5 s of warm-up; 1000 calls or as many as 10 s allow (64 and 2 s "
        "with `--quick`), at least 32; percentiles are measured values, p99 only from 100 calls on. `ready s` is "
        "from the package to the first scores; `built` says whether a plan was built in it. `top-1` and `max diff` "
        "compare with `ort-cpu` in fp32."
    )
    return f"## Figures\n\n{words}\n\n{_table((*heads, *more), rows)}"


def _of_engine(values: Mapping[str, object]) -> tuple[str, ...]:
    """The cells that describe the engine, not a batch size."""
    details = _mapping(values.get("details"))
    graphs = details.get("cuda_graphs") or details.get("why_no_cuda_graph")
    placed = ", ".join(f"{count} {name}" for name, count in _mapping(values.get("placement")).items())
    return (
        str(values.get("ready_s")),
        "yes" if values.get("was_built") else "no",
        f"{float(str(values.get('agreement'))):.4f}",
        f"{float(str(values.get('max_abs_difference'))):.1e}",
        _text(graphs),
        _text(placed),
    )


def _deeds(planned: Sequence[Step]) -> str:
    """What each check does; checks that do the same are grouped."""
    numbers: dict[str, list[int]] = {}
    for number, step in enumerate(planned, start=1):
        numbers.setdefault(step.does, []).append(number)
    lines = [f"- {', '.join(map(str, found))}: {does}" for does, found in numbers.items()]
    return "## What each check does\n\n" + "\n".join(lines)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "| " + " | ".join("---" for _ in heads) + " |"]
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    line = " ".join(text.split())
    line = line if len(line) <= _MAX_CELL else f"{line[:_MAX_CELL]} ..."
    return line.replace("|", "\\|")


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return "-" if value in (None, "") else str(value)
