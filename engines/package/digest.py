"""The digest of a package: one hash over everything in it that changes an answer, or the proof of one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from engines.errors import ImageRejected, ModelRejected
from engines.package.images import image_hashes
from engines.package.specs import InputSpec, OutputSpec

_FORM = 1
_LATER = frozenset({"constants", "name", "class_axis", "features"})


def package_digest(
    *,
    model: str,
    spec: InputSpec,
    output: OutputSpec,
    labels: Sequence[str],
    golden: Sequence[tuple[Path, str, float]],
    folders: Mapping[str, Sequence[Path]],
    root: Path,
) -> str:
    """Return the digest, lower-case hex.

    ``model`` is the sha256 of the model file, ``labels`` are in the order of the scores, ``golden`` has image, label
    and confidence, ``folders`` the images of each folder, which are named by their paths below ``root``. The
    package's own name, version and licence are left out: they change no answer.

    Raises:
        ModelRejected: an image cannot be read.
    """
    try:
        facts = {
            "form": _FORM,
            "model": model,
            "input": _stated(spec),
            "output": _stated(output),
            "labels": list(labels),
            "golden": [
                [digest, label, confidence]
                for digest, (_, label, confidence) in zip(
                    image_hashes(path for path, _, _ in golden), golden, strict=True
                )
            ],
            **{
                name: {
                    path.relative_to(root).as_posix(): digest
                    for path, digest in zip(images, image_hashes(images), strict=True)
                }
                for name, images in folders.items()
            },
        }
    except ImageRejected as exc:
        raise ModelRejected(exc.message, **exc.fields) from exc
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _stated(section: InputSpec | OutputSpec) -> dict[str, object]:
    """The values of a section; keys that came later count only where they are stated, so older digests stay true.

    ``stated`` does not count: where a threshold stands changes no answer.
    """
    values = {key: value for key, value in asdict(section).items() if key != "stated"}
    return {key: value for key, value in values.items() if key not in _LATER or value not in (None, ())}


def check_digest(found: str, stated: str | None, *, name: str) -> None:
    """Refuse a package whose content is not the one that its manifest states.

    Raises:
        ModelRejected: with both digests.
    """
    if stated is not None and found != stated:
        raise ModelRejected(
            f"{name} states package_sha256 {stated}, but the package's content has {found}. The labels, an image, or "
            "the input or output section was changed since: copy the package again, or, if the change is intended, "
            f"set package_sha256: {found}",
            found=found,
            stated=stated,
        )
