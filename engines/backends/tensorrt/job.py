"""The job of one build: plain values, sent to the child process as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import cast

from engines.base import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildJob:
    """``graph`` is the serving graph's file, ``target`` the file that the plan is written to.

    ``profile`` is the smallest, the usual and the largest input shape, None for a graph with a fixed batch.
    """

    graph: str
    graph_sha256: str
    target: str
    timing_cache: str
    precision: Precision
    input_name: str
    profile: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None
    device_id: int
    workspace_bytes: int
    builder_level: int | None
    dla_core: int | None
    gpu_fallback: bool
    tf32: bool
    cuda_library: str

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return asdict(self)


def job_from_dict(values: Mapping[str, object]) -> BuildJob:
    """Return the job from ``as_dict``'s values, in the child."""
    given = dict(values)
    profile = given.pop("profile")
    shapes = tuple(tuple(shape) for shape in profile) if isinstance(profile, list) else None
    job: BuildJob = BuildJob(
        **given,  # type: ignore[arg-type]  # written by as_dict of this very class
        profile=cast("tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None", shapes),
    )
    return job
