"""Top-1 and top-5 on labelled images: one folder per label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines import IMAGE_SUFFIXES, ImageRejected, Images, ModelPackage, Resizer, Scores, answer_for, read_image


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Share of the images whose label is what the engine decides, or among its five highest scores.

    A multi-label model is right about an image if it detects the image's label, whatever else it detects.
    """

    images: int
    top1_ratio: float
    top5_ratio: float


def labelled_images(package: ModelPackage, folder: Path) -> list[tuple[Path, str]]:
    """Each image below ``folder`` with its label: the name of its folder.

    Raises:
        ImageRejected: no image, or a folder that is not named after a label of the model.
    """
    labels = set(package.labels)
    found: list[tuple[Path, str]] = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        label = path.parent.name
        if label not in labels:
            known = ", ".join(package.labels[:5])
            raise ImageRejected(
                f"{path} is in a folder named {label!r}, which is not one of the {len(package.labels)} labels of "
                f"{package.name} ({known} ...). Name each folder after a label",
                path=str(path),
            )
        found.append((path, label))
    if not found:
        raise ImageRejected(f"{folder} has no labelled images. Put them into one folder per label", folder=str(folder))
    return found


def accuracy_of(infer: Callable[[Images], Scores], max_batch: int, package: ModelPackage, folder: Path) -> Accuracy:
    """Classify every labelled image and count correct results.

    Raises:
        ImageRejected: see ``labelled_images``; or one cannot be read.
        InferenceFailed: the engine failed.
    """
    images = labelled_images(package, folder)
    resizer = Resizer(package.input)
    right = within_five = 0
    for start in range(0, len(images), max_batch):
        part = images[start : start + max_batch]
        batch = np.empty((len(part), package.input.height, package.input.width, 3), np.uint8)
        for row, (path, _) in zip(batch, part, strict=True):
            resizer.fill(read_image(path), row)
        for scores, (_, wanted) in zip(infer(batch), part, strict=True):
            is_right = answer_for(package, scores, wanted)[0] == wanted
            # By name: two classes may share a label, like ImageNet's two cranes.
            best = [package.labels[one] for one in np.argsort(scores)[::-1][:5]]
            right += is_right
            within_five += is_right or wanted in best
    return Accuracy(images=len(images), top1_ratio=right / len(images), top5_ratio=within_five / len(images))
