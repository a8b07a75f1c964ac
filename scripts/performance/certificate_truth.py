"""What the certificate of an int8 graph claims beside what is true of it on 1,000 other images.

`python -m scripts.performance.certificate_truth` draws the images; `--package DIR --images DIR` takes a package of
your own and a folder of images that it does not have. Prints a table for docs/performance.md.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from agent.demo import demo_package
from engines import EngineOptions, Images, ModelPackage, PrecisionRejected, load_package, precise_graph
from engines.backends.onnxruntime.engine import open_onnxruntime
from engines.base import Scores
from engines.check.accuracy import certificate_from, scores_of
from engines.check.certificate import Certificate
from engines.graph.agreement import Comparison, compare_scores
from engines.graph.image_set import divided, image_set_of
from engines.graph.serving import ServingGraph, serving_graph
from scripts.dev.demo_material.dataset import TRAINING_BELTS, model_sized, scene_of
from scripts.dev.demo_material.scene import LIT_FOR_TRAINING, LIT_HELD_OUT
from scripts.dev.demo_material.scene_drawing import draw_scene

_SEED = 77
_COUNT = 1000
_FORMS = ("ort-cpu", "tensorrt")


@dataclass(frozen=True, slots=True)
class Row:
    """One int8 graph: what its certificate says, None if it is refused, and what is true; ``text`` is the verdict."""

    package: str
    form: str
    calibrated: int
    claim: Certificate | None
    truth: Comparison | None
    text: str


def drawn_images(count: int = _COUNT) -> Images:
    """Return scenes that are in no folder of the bundled package, at the model's size."""
    lit = (*LIT_FOR_TRAINING, *LIT_HELD_OUT)
    scenes = (scene_of(index, seed=_SEED, lit=lit, belt_styles=TRAINING_BELTS) for index in range(count))
    return np.stack([model_sized(draw_scene(scene)) for scene in scenes])


def packages(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the bundled package, and copies with other images to calibrate on."""
    yield "bundled", demo_package()
    for name in ("without its evaluation images", "calibrated on two flat dark images"):
        copy = folder / name / "conveyor-1.0.0"
        shutil.copytree(demo_package(), copy)
        drop = ["package_sha256:"]
        if name.startswith("without"):
            drop.append("evaluation:")
        else:
            shutil.rmtree(copy / "calibration")
            (copy / "calibration").mkdir()
            for value in (6, 9):
                cv2.imwrite(str(copy / f"calibration/{value}.png"), np.full((240, 320, 3), value, np.uint8))
        manifest = copy / "model.yaml"
        lines = [line for line in manifest.read_text().splitlines() if not line.startswith(tuple(drop))]
        manifest.write_text("\n".join(lines) + "\n")
        yield f"bundled, {name}", copy


def row_of(name: str, package: ModelPackage, form: str, others: Images, cache: Path) -> Row:
    """Quantise for the engine ``form``, run its graph on ort-cpu, and compare."""
    calibrated = len(divided(package).calibrated)
    try:
        precise = precise_graph(package, cache_dir=cache, precision="int8", engine=form)
    except PrecisionRejected as exc:
        return Row(name, form, calibrated, None, None, f"refused: {exc.message}")
    images = image_set_of(package, precision="int8")
    base = serving_graph(package, cache_dir=cache)
    options = EngineOptions(cache_dir=cache, engine="ort-cpu", precision="int8", max_batch=8)
    with open_onnxruntime(package, options, engine="ort-cpu", graph=precise.graph) as engine:
        claim = certificate_from(
            package,
            engine,
            _scores(package, base, images.batch, cache),
            scores_of(engine, images.batch),
            images,
            reference="ort-cpu",
            kept_layers=precise.kept_layers,
        )
        truth = compare_scores(package, _scores(package, base, others, cache), scores_of(engine, others))
    verdict = "proven" if claim.is_proven else claim.why_not or f"not proven: {claim.why_not_proven}"
    kept = f"; {len(claim.kept_layers)} layers in fp32" if claim.kept_layers else ""
    return Row(name, form, calibrated, claim, truth, f"{verdict}{kept}")


def _scores(package: ModelPackage, graph: ServingGraph, batch: Images, cache: Path) -> Scores:
    options = EngineOptions(cache_dir=cache, engine="ort-cpu", max_batch=8)
    with open_onnxruntime(package, options, engine="ort-cpu", graph=graph) as engine:
        return scores_of(engine, batch)


def line_of(row: Row) -> str:
    """One line of the table."""
    if row.claim is None or row.truth is None:
        return f"| {row.package} | {row.form} | {row.calibrated} | – | – | – | – | – | {row.text} |"
    found, truth = row.claim.comparison, row.truth
    return (
        f"| {row.package} | {row.form} | {row.calibrated} | {row.claim.images} | {found.agreement:.3f} | "
        f"{found.at_least:.3f} | {truth.agreement:.3f} | {found.mean_shift:.4f} / {truth.mean_shift:.4f} | "
        f"{row.text} |"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", type=Path)
    parser.add_argument("--images", type=Path)
    given = parser.parse_args(arguments)
    if (given.package is None) != (given.images is None):
        parser.error("--package and --images belong together")
    columns = ("package", "form", "calibrated on", "judged on", "agreement", "at least", "true", "shift", "verdict")
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    with tempfile.TemporaryDirectory() as work:
        if given.package is not None:
            chosen: list[tuple[str, Path]] = [(given.package.name, given.package)]
        else:
            chosen = list(packages(Path(work)))
        drawn = drawn_images() if given.images is None else None
        for name, folder in chosen:
            package = load_package(folder)
            others = image_set_of(package, given.images, precision="int8").batch if drawn is None else drawn
            for form in _FORMS:
                print(line_of(row_of(name, package, form, others, Path(work) / "cache")), flush=True)


if __name__ == "__main__":
    main()
