"""The report: one Markdown page with environment, every result, the figures, and what could not be checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from engines import EnvironmentRecord, ProbeResult
from scripts.gpu_check.children import Outcome

_ENVIRONMENT = (
    ("board", "board"),
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
    ("Python", "python"),
)


def page(
    environment: EnvironmentRecord,
    probes: Sequence[ProbeResult],
    outcomes: Sequence[Outcome],
    *,
    revision: str,
    verdict: str,
    unchecked: Sequence[str],
) -> str:
    """The whole page."""
    stamp = datetime.now(timezone.utc).isoformat(timespec="seconds")
    parts = [f"# GPU check\n\n{verdict}\n\nMade {stamp} from revision {revision} by `scripts/gpu-check`."]
    parts.append(_environment(environment))
    parts.append(_probes(probes))
    if outcomes:
        parts += [_results(outcomes), _figures(outcomes), _failures(outcomes)]
    if unchecked:
        parts.append("## Not checked\n\n" + "\n".join(f"- {text}" for text in unchecked))
    return "\n\n".join(part for part in parts if part) + "\n"


def _environment(environment: EnvironmentRecord) -> str:
    rows = [(label, getattr(environment, name)) for label, name in _ENVIRONMENT]
    for gpu in environment.gpus:
        kind = "shares the CPU's memory" if gpu.integrated else "memory of its own"
        rows.append(("GPU", f"{gpu.name}, {gpu.compute_capability}, {gpu.memory_bytes / 2**30:.1f} GiB, {kind}"))
    return "## Environment\n\n" + _table(("", ""), [(label, _text(value)) for label, value in rows])


def _probes(probes: Sequence[ProbeResult]) -> str:
    rows = [(probe.name, "yes" if probe.can_run else "no", probe.detail or probe.reason) for probe in probes]
    return "## Engines\n\n" + _table(("engine", "can run", "detail"), rows)


def _results(outcomes: Sequence[Outcome]) -> str:
    rows = [
        (one.name, "passed" if one.has_passed else "FAILED", f"{one.took_s:.1f}", one.text.splitlines()[0][:160])
        for one in outcomes
    ]
    return "## Results\n\n" + _table(("check", "result", "s", "what was found"), rows)


def _figures(outcomes: Sequence[Outcome]) -> str:
    rows = []
    for one in outcomes:
        times = one.values.get("times")
        if not isinstance(times, dict):
            continue
        details = _mapping(one.values.get("details"))
        for batch, figures in times.items():
            rows.append(
                (
                    one.name,
                    batch.removeprefix("batch_"),
                    *(f"{figures[name]:.3f}" for name in ("p50_ms", "p90_ms", "p99_ms")),
                    f"{figures['images_per_s']:.0f}",
                    f"{one.values.get('ready_s')}",
                    f"{float(str(one.values.get('agreement'))):.4f}",
                    f"{float(str(one.values.get('max_abs_difference'))):.1e}",
                    _text(details.get("cuda_graphs")),
                )
            )
    heads = ("engine", "batch", "p50 ms", "p90 ms", "p99 ms", "images/s", "ready s", "top-1", "max diff", "graphs")
    words = (
        "Wall time of one call from pictures in host memory to scores in host memory, transfers included, one call "
        "after the other on an otherwise idle machine. `ready s` includes the build where there was one."
    )
    return f"## Figures\n\n{words}\n\n{_table(heads, rows)}" if rows else ""


def _failures(outcomes: Sequence[Outcome]) -> str:
    failed = [one for one in outcomes if not one.has_passed]
    texts = [f"### {one.name}\n\n```\n{one.text}\n```" for one in failed]
    return "\n\n".join(["## Failures", *texts]) if failed else ""


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "| " + " | ".join("---" for _ in heads) + " |"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return "-" if value in (None, "") else str(value)
