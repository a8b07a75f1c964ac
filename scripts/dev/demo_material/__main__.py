"""Train the demo's classifier, write its package and the clip, and print how right it is."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from . import clip, dataset, evaluation, package, scene

if TYPE_CHECKING:
    from .dataset import ImageSet
    from .network import Weights

ROOT = Path(__file__).resolve().parents[3]
TRAINING_SEED = 20261
TEST_SEED = 90001
GOLDEN_SEED = 41
CALIBRATION_SEED = 42
EVALUATION_SEED = 43
CLIP_SEED = 7
TRAINING_COUNT = 10_000
TEST_COUNT = 1_500
EPOCHS = 10
TEST_BAR = 0.98
CLIP_BAR = 0.99


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/dev/train-demo", description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "agent" / "demo", help="folder to write to")
    parser.add_argument("--only", choices=["clip", "model"], help="make one of the two and keep the other")
    parser.add_argument("--images", type=int, default=TRAINING_COUNT, help="training images to draw")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="passes over the training images")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="processor cores to use")
    options = parser.parse_args()
    for name, least in (("images", 1000), ("epochs", 1), ("threads", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name} is {getattr(options, name)}, the least is {least}")
    return options


def _train(images: int, epochs: int, threads: int) -> Weights:
    from . import network

    started_s = time.monotonic()
    examples = dataset.draw_set(
        images,
        seed=TRAINING_SEED,
        lit=scene.LIT_FOR_TRAINING,
        belt_styles=dataset.TRAINING_BELTS,
        processes=threads,
    )
    print(f"drew {images} training images in {time.monotonic() - started_s:.0f} s", flush=True)
    network.use_cores(threads)

    def on_epoch(epoch: int, loss: float, seconds: float) -> None:
        print(f"epoch {epoch:2d} of {epochs}: loss {loss:.4f}, {seconds:.0f} s", flush=True)

    return network.weights_of(network.train(examples, epochs=epochs, seed=TRAINING_SEED, on_epoch=on_epoch))


def _probabilities(model: Path, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    from .network import MEAN_RGB, SCALE, STD_RGB

    session = evaluation.open_model(model)
    return evaluation.probabilities(session, images, scale=SCALE, mean_rgb=MEAN_RGB, std_rgb=STD_RGB)


def _score_set(model: Path, examples: ImageSet, title: str) -> bool:
    settled = ~examples.in_transition
    result = evaluation.score(
        _probabilities(model, examples.images[settled]), examples.targets[settled].argmax(axis=1)
    )
    print(result.text(title), flush=True)
    return result.accuracy >= TEST_BAR


def _test(model: Path, threads: int) -> bool:
    """Score images never trained on: the training's lamps, then lamps and a belt it never saw."""
    passed = True
    for shift, title, lit, belts in (
        (0, "test, lamps as in training", scene.LIT_FOR_TRAINING, dataset.TRAINING_BELTS),
        (1, "test, held-out lamps and belt", scene.LIT_HELD_OUT, (scene.CLIP_BELT_STYLE,)),
    ):
        examples = dataset.draw_set(TEST_COUNT, seed=TEST_SEED + shift, lit=lit, belt_styles=belts, processes=threads)
        passed = _score_set(model, examples, title) and passed
    return passed


def _write_package(directory: Path, model: Path) -> None:
    candidates = package.golden_candidates(GOLDEN_SEED)
    images = np.stack([dataset.model_sized(image) for _, image in candidates])
    golden_lines = package.write_golden(directory, candidates, _probabilities(model, images))
    package.write_calibration(directory, CALIBRATION_SEED)
    package.write_evaluation(directory, EVALUATION_SEED)
    package.write_manifest(directory, golden_lines)


def _score_clip(model: Path, clip_file: Path, seed: int) -> bool:
    parts = clip.clip_parts(seed)
    truths = [scene.truth_of(clip.clip_scene(frame, parts, seed=seed).parts) for frame in range(clip.FRAMES)]
    decoded = clip.read_clip(clip_file)
    if len(decoded) != len(truths):
        print(f"the clip decodes to {len(decoded)} frames, {len(truths)} were drawn", file=sys.stderr)
        return False
    settled = [place for place, truth in enumerate(truths) if not truth.transition]
    images = np.stack([dataset.model_sized(decoded[place]) for place in settled])
    truth = np.asarray([scene.LABELS.index(truths[place].label) for place in settled], np.int64)
    result = evaluation.score(_probabilities(model, images), truth)
    print(result.text(f"clip, {len(settled)} of {len(truths)} frames off the transitions"), flush=True)
    return result.accuracy >= CLIP_BAR


def main() -> int:
    """Run the stages asked for; return 1 where an accuracy is below its minimum."""
    options = _arguments()
    directory = options.output / f"{package.NAME}-{package.VERSION}"
    model = directory / "model.onnx"
    clip_file = options.output / "conveyor.mp4"
    passed = True
    options.output.mkdir(parents=True, exist_ok=True)
    if options.only != "model":
        if shutil.which("ffmpeg") is None:
            print(
                "the clip is encoded by the program ffmpeg with libx264, and no ffmpeg is on PATH. Install "
                "it (Debian, Ubuntu: apt install ffmpeg) or make the model alone with --only model",
                file=sys.stderr,
            )
            return 69
        clip.write_clip(clip_file, options.output / "conveyor.truth.json", seed=CLIP_SEED)
        print(f"wrote {clip_file.name}: {clip.FRAMES} frames, {clip_file.stat().st_size} bytes", flush=True)
    if options.only != "clip":
        package.write_model(directory, _train(options.images, options.epochs, options.threads))
        print(f"wrote {model.name}: {model.stat().st_size} bytes", flush=True)
        passed = _test(model, options.threads)
        try:
            _write_package(directory, model)
        except package.NotSure as exc:
            print(f"{exc}. {directory} is incomplete until then", file=sys.stderr)
            return 1
    if model.exists() and clip_file.exists():
        passed = _score_clip(model, clip_file, CLIP_SEED) and passed
    if not passed:
        print(f"an accuracy is below its minimum ({TEST_BAR} for the tests, {CLIP_BAR} for the clip)", file=sys.stderr)
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
