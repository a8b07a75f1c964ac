"""Proves an engine against the reference: once per model, engine, precision and versions, then from the cache."""

from __future__ import annotations

from pathlib import Path

from engines.backends.onnxruntime import open_onnxruntime
from engines.base import Engine, EngineOptions
from engines.errors import EngineUnavailable, PrecisionRejected
from engines.graph import serving_graph
from engines.images import image_hashes
from engines.int8_forms import DETAIL
from engines.package import ModelPackage
from engines.parity import Certificate, CertificateStore, Pictures, compare, pictures_of
from engines.rehearsal import REFERENCE, reference_options, rehearse

__all__ = ["REFERENCE", "certify", "compare_with_reference", "verify"]


def certify(
    package: ModelPackage, engine: Engine, options: EngineOptions, *, kept_layers: tuple[str, ...] = ()
) -> Certificate:
    """Give the certificate of an engine on the package's own pictures, made where the cache has none.

    Raises:
        InferenceFailed: the engine or the reference failed on a picture.
    """
    store = CertificateStore(options.cache_dir)
    key = _key(package, engine, options, kept_layers)
    known = store.load(key)
    if known is not None:
        return known
    certificate = compare_with_reference(package, engine, options, pictures_of(package), kept_layers=kept_layers)
    store.save(key, certificate)
    return certificate


def compare_with_reference(
    package: ModelPackage,
    engine: Engine,
    options: EngineOptions,
    pictures: Pictures,
    *,
    kept_layers: tuple[str, ...] = (),
) -> Certificate:
    """Compare an engine, opened with ``options``, with ONNX Runtime's CPU provider in fp32 on ``pictures``.

    Raises:
        RehearsalFailed: the model is too much for the reference.
        EngineUnavailable: the package has no ONNX model, which the reference needs.
    """
    if package.format != "onnx":
        raise EngineUnavailable(
            f"the reference {REFERENCE} needs an ONNX model, the package {package.name}-{package.version} holds "
            f"{package.model_path.name}. Its known answers are checked by: agent model check",
            engine=REFERENCE,
        )
    own = rehearse(package, reference_options(options), REFERENCE).options
    graph = serving_graph(package, cache_dir=own.cache_dir)
    with open_onnxruntime(package, own, engine=REFERENCE, graph=graph) as reference:
        return compare(package, engine, reference, pictures, kept_layers=kept_layers)


def verify(package: ModelPackage, options: EngineOptions, folder: Path | None = None) -> Certificate:
    """Compare the engine that ``options`` names with the reference, by hand: nothing is cached, nothing is refused.

    The pictures are those of ``folder``, else the package's own. ``auto`` and ``fastest`` compare what they choose.

    Raises:
        EngineUnavailable: the engine cannot run here.
        PrecisionRejected: a graph of this precision cannot be made at all, or ``auto`` serves another one.
        ImageRejected, ModelRejected, OptionsRejected, InferenceFailed: as in ``open_engine``.
    """
    from engines.candidate import open_unproven, require_runnable
    from engines.opening import open_engine
    from engines.registry import CHOOSERS, Prober, canonical_name

    name = canonical_name(options.engine)
    pictures = pictures_of(package, folder)
    if name in CHOOSERS:
        with open_engine(package, options) as chosen:
            info = chosen.info
            if info.precision != options.precision:
                raise PrecisionRejected(
                    f"{name} chose {info.name} in {info.precision}, {options.precision} was to be verified: "
                    f"{info.degraded}. Clear the cause, or give --precision {info.precision}",
                    engine=info.name,
                    precision=options.precision,
                )
            return compare_with_reference(package, chosen, options, pictures, kept_layers=info.kept_layers)
    require_runnable(package, name, Prober())
    engine, kept_layers = open_unproven(package, options, name)
    with engine:
        return compare_with_reference(package, engine, options, pictures, kept_layers=kept_layers)


def _key(
    package: ModelPackage, engine: Engine, options: EngineOptions, kept_layers: tuple[str, ...]
) -> dict[str, object]:
    info = engine.info
    return {
        "certificate": 1,
        "model": package.sha256,
        "input": repr(package.input),
        "output": repr(package.output),
        "engine": info.name,
        "precision": info.precision,
        "device": info.device,
        "versions": dict(sorted(info.versions.items())),
        "options": {name: str(value) for name, value in sorted(options.options.items())},
        "placement": dict(sorted(info.placement.items())),
        # A plan that is built anew may choose other tactics, and must be proven anew.
        "plan": info.details.get("plan_sha256"),
        "kept_layers": kept_layers,
        **({DETAIL: info.details[DETAIL]} if DETAIL in info.details else {}),
        "pictures": image_hashes(package.pictures(first="golden")),
    }
