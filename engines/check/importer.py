"""Writes a model package from a model file, its labels and the name of its preprocessing."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from engines.check.export import ModelPlace, model_place, timm_architecture
from engines.check.import_request import ImportRequest, contradictions, crop_warning, input_section
from engines.check.import_source import ImportSource, copy_model
from engines.check.package_check import PackageCheck, check_package, measure_raw_scores
from engines.check.training_facts import TrainingFacts, facts_from_folder, facts_from_metadata, joined
from engines.errors import EngineUnavailable, GoldenMismatch, ModelRejected
from engines.package.activation import NORMALISING, RawScores, guess_activation
from engines.package.images import IMAGE_SUFFIXES, read_image
from engines.package.load import ModelPackage, load_package
from engines.package.manifest import MANIFEST_NAME, NAME_PATTERN, VERSION_PATTERN
from engines.package.model_file import file_sha256
from engines.package.specs import Activation, Task
from engines.sandbox.package_check import check_model_in_sandbox


def import_model(request: ImportRequest, cache_dir: Path | None = None) -> PackageCheck:
    """Write the package directory ``<name>-<version>`` into ``request.out``, and return its package check.

    Nothing is written unless all checks pass, golden images included. A model that is not known in ``cache_dir`` is
    first read in a child process.

    Raises:
        ModelRejected: the model, its labels or the request do not fit, or the package already exists.
        GoldenMismatch: a golden image is not classified as expected.
        ImageRejected: a golden or calibration image cannot be read.
        SandboxFailed: the model crashed the child process that reads it first, or exceeded its limits.
        EngineUnavailable: ONNX Runtime is not installed.
    """
    name = request.name or _name_from(request.model)
    _check_name(name, request.version)
    max_bytes = request.max_file_mib << 20
    target = request.out / f"{name}-{request.version}"
    if os.path.lexists(target) and not request.force:
        raise _exists_already(target)
    with model_place(request) as place, _staging(request.out, target.name) as stage:
        path = place.file
        if path.suffix.lower() == ".onnx":
            check_model_in_sandbox(path, cache_dir, max_bytes=max_bytes)
        source = copy_model(path, request, stage)
        facts = _facts(request, place, source)
        manifest = _manifest(request, facts, source, name, stage)
        shown_as = {source.file: str(path), MANIFEST_NAME: str(target / MANIFEST_NAME)}
        shown_as |= dict.fromkeys(("labels.txt", "labels.json"), str(request.labels or facts.sources["labels"]))
        manifest["output"] = _output(request, facts, _activation(request, facts, source) or "none")
        if _activation(request, facts, source) is None:
            _write(stage, manifest)
            measured = _measured_activation(load_package(stage, shown_as=shown_as, max_bytes=max_bytes))
            manifest["output"] = _output(request, facts, measured)
        _write(stage, manifest)
        package = load_package(stage, shown_as=shown_as, max_bytes=max_bytes)
        _require_task(package)
        manifest["package_sha256"] = package.digest
        _write(stage, manifest)
        check = check_package(load_package(stage, shown_as=shown_as, max_bytes=max_bytes))
        _require_golden(request, check)
        _put_in_place(stage, target, is_forced=request.force)
    cropped = crop_warning(input_section(request, facts, source.takes))
    warnings = (*check.warnings, *contradictions(request, facts), *([cropped] if cropped else []))
    return replace(
        check, package=load_package(target, max_bytes=max_bytes), warnings=warnings, taken=_taken(request, facts)
    )


def _name_from(model: Path) -> str:
    stem = model.resolve().parent.name if model.stem.lower() == "model" else timm_architecture(model) or model.stem
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")[:64] or "model"


def _check_name(name: str, version: str) -> None:
    for what, value, pattern in (("name", name, NAME_PATTERN), ("version", version, VERSION_PATTERN)):
        if not re.match(pattern.replace("$", r"\Z"), value):
            raise ModelRejected(f"{what} {value!r} does not match {pattern}. Give another --{what}", value=value)


def _require_task(package: ModelPackage) -> None:
    """Refuse one score without a task: a result would name the one label whatever its score."""
    if package.signature.classes != 1 or package.output.task is not Task.SINGLE_LABEL:
        return
    label = package.labels[0]
    raise ModelRejected(
        f"{package.title} gives one score for the one label {label!r}, but the task is not stated, and nothing can be "
        f"chosen of one label. Give --task multi_label if {label!r} is there or not, or --task binary --positive "
        f"{label!r} and a labels file with both labels",
        classes=1,
    )


def _require_golden(request: ImportRequest, check: PackageCheck) -> None:
    for (image, _), found in zip(request.golden, check.golden.results, strict=True):
        if not found.is_right:
            raise GoldenMismatch(
                f"{image}: expected {found.expected!r}, got {found.got!r} with {found.confidence:.3f}. "
                f"Is {f'preset {request.preset}' if request.preset else 'the preprocessing'} what the model was "
                "trained with? Nothing was written",
                image=str(image),
                expected=found.expected,
                got=found.got,
                confidence=found.confidence,
            )


def _facts(request: ImportRequest, place: ModelPlace, source: ImportSource) -> TrainingFacts:
    has_labels = request.labels is not None
    metadata = facts_from_metadata(source.metadata, name=source.path.name, has_labels=has_labels)
    if place.folder is None:
        return metadata
    return joined(metadata, facts_from_folder(place.folder, has_labels=has_labels))


def _taken(request: ImportRequest, facts: TrainingFacts) -> dict[str, str]:
    """What was taken from the model's files, each with its place: what no option and no preset states."""
    stated = {name for name in facts.sources if getattr(request, name, None) is not None}
    if request.task is not None:
        stated.add("multi_label")
    if request.preset is not None:
        stated |= {"color", "resize", "resize_to", "interpolation", "scale", "mean", "std"}
    names = {"multi_label": "task"}
    return {names.get(name, name): place for name, place in facts.sources.items() if name not in stated}


def _manifest(
    request: ImportRequest, facts: TrainingFacts, source: ImportSource, name: str, stage: Path
) -> dict[str, object]:
    labels = _write_labels(request, facts, stage)
    manifest: dict[str, object] = {
        "name": name,
        "version": request.version,
        "file": source.file,
        "sha256": file_sha256(stage / source.file, max_bytes=request.max_file_mib << 20),
        "input": input_section(request, facts, source.takes),
        "output": {},
        "labels": {"file": labels, "offset": request.offset},
    }
    if request.golden:
        manifest["golden"] = _copy_golden(request.golden, stage / "golden")
    for what, folder in (("calibration", request.calibration), ("evaluation", request.evaluation)):
        if folder is not None:
            _copy_folder(folder, stage / what, what=what)
            manifest[what] = what
    if request.license:
        manifest["license"] = request.license
    return manifest


def _write_labels(request: ImportRequest, facts: TrainingFacts, stage: Path) -> str:
    """The name of the labels' file in the package."""
    if request.labels is not None:
        name = f"labels{request.labels.suffix.lower() if request.labels.suffix.lower() == '.json' else '.txt'}"
        _copy(request.labels, stage / name, what="labels")
        return name
    if facts.labels is None:
        raise ModelRejected(f"nothing in {request.model} names the labels. Give --labels", path=str(request.model))
    (stage / "labels.json").write_text(json.dumps(facts.labels, ensure_ascii=False, indent=0), encoding="utf-8")
    return "labels.json"


def _output(request: ImportRequest, facts: TrainingFacts, activation: Activation) -> dict[str, object]:
    task = request.task
    if task is None and facts.multi_label is not None:
        task = "multi_label" if facts.multi_label else "single_label"
    stated = {
        "activation": activation,
        "task": task,
        "positive": request.positive,
        "name": request.output_name,
        "class_axis": request.class_axis,
        "features": request.features,
    }
    return {key: value for key, value in stated.items() if value is not None}


def _activation(request: ImportRequest, facts: TrainingFacts, source: ImportSource) -> Activation | None:
    """The missing activation as stated, or as the model's last operator tells; None if it has to be run."""
    if request.activation or facts.activation:
        return request.activation or facts.activation
    if source.last == "LogSoftmax":
        return "softmax"
    return "none" if source.last in NORMALISING else None


def _measured_activation(package: ModelPackage) -> Activation:
    """Find the missing activation by running the model; if it cannot be run, by its last operator."""
    raw: RawScores | None
    last = ""
    try:
        raw, last = measure_raw_scores(package)
    except EngineUnavailable:
        raw = None
    is_single_label = package.output.task is Task.SINGLE_LABEL
    classes = package.signature.classes
    return guess_activation(raw, last, classes=classes, name=package.title, is_single_label=is_single_label)


def _copy(source: Path, target: Path, *, what: str) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as exc:
        raise ModelRejected(f"{what} {source} cannot be copied: {exc.strerror or exc}", path=str(source)) from exc


def _copy_image(source: Path, target: Path, *, what: str) -> None:
    """Copy an image; it is read first, so that an error names the user's file and not the copy."""
    read_image(source)
    _copy(source, target, what=what)


def _copy_golden(golden: Sequence[tuple[Path, str]], folder: Path) -> list[dict[str, object]]:
    folder.mkdir()
    items: list[dict[str, object]] = []
    for place, (image, label) in enumerate(golden, 1):
        name = f"{place:02d}_{re.sub(r'[^A-Za-z0-9._-]+', '_', image.name)}"
        _copy_image(image, folder / name, what="golden image")
        items.append({"image": f"golden/{name}", "label": label})
    return items


def _copy_folder(source: Path, folder: Path, *, what: str) -> None:
    if not source.is_dir():
        raise ModelRejected(
            f"{what} {source} is not a directory. Give --{what} a directory of images", path=str(source)
        )
    images = [path for path in sorted(source.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    if not images:
        raise ModelRejected(f"{what} {source} holds no images. Give it 100 or more", path=str(source))
    for image in images:
        # Under its own name, so that a certificate that lists the farthest images names the user's.
        copy = folder / image.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        _copy_image(image, copy, what=f"{what} image")


def _write(stage: Path, manifest: dict[str, object]) -> None:
    (stage / MANIFEST_NAME).write_text(manifest_text(manifest), encoding="utf-8")


def manifest_text(manifest: dict[str, object]) -> str:
    """Write YAML that the strict reader accepts: strings are quoted as in JSON."""
    lines: list[str] = []
    for key, value in manifest.items():
        if isinstance(value, dict):
            lines.append(f"{key}:")
            lines += [f"  {inner}: {json.dumps(item, ensure_ascii=False)}" for inner, item in value.items()]
        elif isinstance(value, list):
            lines.append(f"{key}:")
            lines += [f"  - {json.dumps(item, ensure_ascii=False)}" for item in value]
        else:
            lines.append(f"{key}: {json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


@contextmanager
def _staging(out: Path, name: str) -> Iterator[Path]:
    """A directory beside the target, deleted afterwards unless it was put in place; a new ``out`` too."""
    is_new = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        # In the target's own file system, so that putting it in place is one rename.
        holder = Path(tempfile.mkdtemp(dir=out, prefix=".import-"))
    except OSError as exc:
        raise ModelRejected(f"{out} cannot be written: {exc.strerror or exc}", path=str(out)) from exc
    try:
        stage = holder / name
        stage.mkdir()
        yield stage
    finally:
        shutil.rmtree(holder, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # not empty: the package is in place
                out.rmdir()


def _put_in_place(stage: Path, target: Path, *, is_forced: bool) -> None:
    """Move the finished directory to its place; an old one is deleted with the staging directory if ``is_forced``.

    Another import of the same name may have ended meanwhile.
    """
    if is_forced:
        with suppress(FileNotFoundError):
            target.rename(stage.with_name("replaced"))
    try:
        stage.rename(target)
    except OSError as exc:
        if os.path.lexists(target):
            raise _exists_already(target) from exc
        raise


def _exists_already(target: Path) -> ModelRejected:
    text = f"{target} already exists. Give another --version or --name, or --force to replace it"
    return ModelRejected(text, path=str(target))
