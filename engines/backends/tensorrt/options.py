"""The options of the engine ``tensorrt``: names, kinds, ranges, and which of them change the plan."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields

from engines.backends.tensorrt.cuda.libraries import AUTO, LIBRARIES
from engines.errors import OptionsRejected

_NAMES: Mapping[str, tuple[str, ...]] = {"cuda_library": (AUTO, *LIBRARIES)}
_RANGES: Mapping[str, tuple[int, int]] = {
    "device_id": (0, 63),
    "workspace_mib": (16, 65536),
    "builder_level": (0, 5),
    "opt_batch": (1, 64),
    "dla_core": (0, 7),
    "build_timeout_s": (1, 86400),
    "build_memory_mib": (64, 1048576),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRtOptions:
    """Checked options; None means chosen at run time.

    ``opt_batch``: the batch size that tactics are optimised for. ``dla_core``: run what is possible on that core, the
    rest on the GPU if ``gpu_fallback``. ``tf32``: fp32 layers may round their products. ``cuda_graph``: replay each
    batch size as one launch. ``blocking_sync``: sleep while the GPU works, which frees the core and costs about 20 us
    per call. ``cuda_library``: the Python package that reaches CUDA, ``auto``, ``pycuda`` or ``cuda-bindings``.
    """

    device_id: int = 0
    workspace_mib: int | None = None
    builder_level: int | None = None
    opt_batch: int | None = None
    dla_core: int | None = None
    gpu_fallback: bool = True
    tf32: bool = True
    cuda_graph: bool = True
    blocking_sync: bool = False
    cuda_library: str = AUTO
    build_timeout_s: int = 3600
    build_memory_mib: int | None = None

    def plan_facts(self) -> dict[str, object]:
        """Return the options that change the plan."""
        return {
            "workspace_mib": self.workspace_mib,
            "builder_level": self.builder_level,
            "dla_core": self.dla_core,
            "gpu_fallback": self.gpu_fallback,
            "tf32": self.tf32,
        }


OPTION_NAMES = frozenset(field.name for field in fields(TensorRtOptions))


def checked_options(given: Mapping[str, object]) -> TensorRtOptions:
    """Check the options of the configuration.

    Raises:
        OptionsRejected: one that does not exist, or a value of the wrong kind or out of range.
    """
    for name, value in given.items():
        if name not in OPTION_NAMES:
            near = difflib.get_close_matches(name, OPTION_NAMES, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise OptionsRejected(
                f"engine tensorrt has no option {name!r}: {hint}It has {', '.join(sorted(OPTION_NAMES))}",
                engine="tensorrt",
                option=name,
            )
        wanted = _wanted(name, value)
        if wanted is not None:
            raise OptionsRejected(
                f"option {name} of engine tensorrt is {value!r}; wanted is {wanted}. Correct it under options",
                engine="tensorrt",
                option=name,
            )
    return TensorRtOptions(**dict(given))  # type: ignore[arg-type]  # each value was checked above


def _wanted(name: str, value: object) -> str | None:
    """Return what the option takes; None if ``value`` is valid."""
    if name in _NAMES:
        return None if value in _NAMES[name] else " or ".join(_NAMES[name])
    if name not in _RANGES:
        return None if isinstance(value, bool) else "true or false"
    low, high = _RANGES[name]
    is_right = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    return None if is_right else f"a whole number from {low} to {high}"
