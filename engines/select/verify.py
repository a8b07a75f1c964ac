"""The accuracy check for ``agent verify``."""

from __future__ import annotations

from pathlib import Path

from engines.base import EngineOptions
from engines.check.certificate import Certificate
from engines.check.reference import compare_with_reference
from engines.errors import PrecisionRejected
from engines.graph.image_set import image_set_of
from engines.package.load import ModelPackage
from engines.select.candidate import machine_errors, open_unchecked, require_runnable
from engines.select.open import open_engine
from engines.select.registry import CHOOSERS, Prober, canonical_name


def verify(package: ModelPackage, options: EngineOptions, folder: Path | None = None) -> Certificate:
    """Compare the engine that ``options`` names with the reference; nothing is cached, and a failure is only reported.

    The images are those of ``folder``, else the package's own; for int8 without those that it is calibrated on.
    ``auto`` and ``fastest`` compare the engine they select.

    Raises:
        EngineUnavailable: the engine cannot run here.
        PrecisionRejected: a graph of this precision cannot be made, or ``auto`` serves another one.
        ImageRejected, ModelRejected, OptionsRejected, InferenceFailed: as in ``open_engine``.
    """
    name = canonical_name(options.engine)
    images = image_set_of(package, folder, precision=options.precision)
    if name in CHOOSERS:
        with open_engine(package, options) as selected:
            info = selected.info
            if info.precision != options.precision:
                raise PrecisionRejected(
                    f"{name} selected {info.name} in {info.precision}, but you asked to verify {options.precision}: "
                    f"{info.degraded}. Clear the cause, or give --precision {info.precision}",
                    engine=info.name,
                    precision=options.precision,
                )
            return compare_with_reference(package, selected, options, images, kept_layers=info.kept_layers)
    with machine_errors(name, options):
        require_runnable(package, name, Prober())
        engine, kept_layers = open_unchecked(package, options, name)
    with engine:
        return compare_with_reference(package, engine, options, images, kept_layers=kept_layers)
