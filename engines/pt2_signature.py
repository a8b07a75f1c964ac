"""What a torch.export archive (.pt2) says of itself, read without torch."""

from __future__ import annotations

from pathlib import Path

from engines.errors import ModelRejected
from engines.specs import InputSpec, ModelSignature


def pt2_signature(path: Path, spec: InputSpec, *, name: str) -> ModelSignature:
    """Placeholder until the archive reader stands."""
    raise ModelRejected(f"{name}: torch.export archives are not read yet", path=str(path), width=spec.width)
