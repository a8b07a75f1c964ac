"""The accuracy check of an engine: once per model, engine, precision and versions, then from the cache.

The reference is ONNX Runtime's CPU provider in fp32; for a torch.export program it is PyTorch on the CPU.
"""

from __future__ import annotations

from dataclasses import replace

from engines.backends.onnxruntime.engine import open_onnxruntime
from engines.backends.torch import open_torch
from engines.base import Engine, EngineOptions
from engines.check.accuracy import certificate_from, compare, scores_of
from engines.check.certificate import Certificate, certificate_record
from engines.graph.image_set import ImageSet, image_set_of
from engines.graph.int8_forms import DETAIL
from engines.graph.serving import serving_graph
from engines.package.images import image_hashes
from engines.package.load import ModelPackage
from engines.sandbox.load import REFERENCE, load_in_sandbox, reference_options
from engines.store.files import cache_errors

_PROGRAMS = "torch"


def certificate_for(
    package: ModelPackage, engine: Engine, options: EngineOptions, *, kept_layers: tuple[str, ...] = ()
) -> Certificate:
    """Return the certificate of an engine on the package's own images, from the cache if it is there.

    Raises:
        InferenceFailed: the engine or the reference failed on an image.
        EngineUnavailable: the cache directory cannot be written.
    """
    precision = engine.info.requested_precision
    record = certificate_record(options.cache_dir, _key(package, engine, options, kept_layers))
    known = record.load()
    if known is not None:
        return known
    images = image_set_of(package, precision=precision)
    certificate = compare_with_reference(package, engine, options, images, kept_layers=kept_layers)
    with cache_errors(options.cache_dir):
        record.save(certificate)
    return certificate


def compare_with_reference(
    package: ModelPackage,
    engine: Engine,
    options: EngineOptions,
    images: ImageSet,
    *,
    kept_layers: tuple[str, ...] = (),
) -> Certificate:
    """Compare an engine, opened with ``options``, with the reference in fp32 on ``images``.

    Raises:
        SandboxFailed: the reference crashed on the model, or exceeded its limits.
        EngineUnavailable: the reference is not installed.
    """
    if package.format != "onnx":
        return _compare_with_torch(package, engine, options, images)
    own = load_in_sandbox(package, reference_options(options), REFERENCE).options
    graph = serving_graph(package, cache_dir=own.cache_dir)
    with open_onnxruntime(package, own, engine=REFERENCE, graph=graph) as reference:
        return compare(package, engine, reference, images, kept_layers=kept_layers)


def _compare_with_torch(
    package: ModelPackage, engine: Engine, options: EngineOptions, images: ImageSet
) -> Certificate:
    """A program has no ONNX form: its reference is PyTorch on the CPU, not compiled."""
    own = replace(reference_options(options), engine=_PROGRAMS, options={"device": "cpu"})
    load_in_sandbox(package, own, _PROGRAMS)
    with open_torch(package, own) as reference:
        name = _PROGRAMS if _is_reference(engine, options) else f"{_PROGRAMS} cpu"
        expected, actual = scores_of(reference, images.batch), scores_of(engine, images.batch)
        return certificate_from(package, engine, expected, actual, images, reference=name)


def _is_reference(engine: Engine, options: EngineOptions) -> bool:
    return f"{_PROGRAMS} cpu" in engine.info.placement and not options.options.get("compile", False)


def _key(
    package: ModelPackage, engine: Engine, options: EngineOptions, kept_layers: tuple[str, ...]
) -> dict[str, object]:
    info = engine.info
    return {
        "certificate": 2,
        "package": package.digest,
        "input": repr(package.input),
        "output": repr(package.output),
        "engine": info.name,
        "precision": info.precision,
        "requested_precision": info.requested_precision,
        "device": info.device,
        "versions": dict(sorted(info.versions.items())),
        "options": {name: str(value) for name, value in sorted(options.options.items())},
        "placement": dict(sorted(info.placement.items())),
        # Another build of the plan may choose other tactics, so it needs its own certificate.
        "plan": info.details.get("plan_sha256"),
        "kept_layers": kept_layers,
        **({DETAIL: info.details[DETAIL]} if DETAIL in info.details else {}),
        "images": image_hashes(package.images),
    }
