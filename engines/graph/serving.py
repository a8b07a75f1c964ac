"""The serving graph: the package's model with its preprocessing and its missing activation inside.

Input ``images`` uint8 ``(N, H, W, 3)`` BGR at the model's size; output ``scores`` float32 ``(N, classes)``. The
graph of a package that gives features has the embeddings as a second output, float32 ``(N, length)``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from engines.base import FEATURES_NAME, INPUT_NAME, OUTPUT_NAME, Precision
from engines.package.load import ModelPackage
from engines.store.files import cache_errors, content_address, content_hash, read_with_checksum, write_with_checksum
from engines.store.records import JsonRecord

TRANSFORMATION = 4
"""Raised when the same package gives another graph, so that cached graphs are built again."""

_ANY = 0
"""Stands for a dynamic batch dimension in a record."""
_ADVICE = "Make it writable or take another"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingGraph:
    """A serving graph on disk.

    ``max_batch`` is None if the batch dimension is dynamic, else the graph takes exactly that many images.
    ``features`` is the length of the embeddings, 0 if it gives none.
    """

    path: Path
    sha256: str
    precision: Precision
    max_batch: int | None
    input_name: str = INPUT_NAME
    output_name: str = OUTPUT_NAME
    features: int = 0

    @property
    def output_names(self) -> tuple[str, ...]:
        """The outputs: scores, and embeddings if it gives them."""
        return (self.output_name, FEATURES_NAME) if self.features else (self.output_name,)


def serving_graph(package: ModelPackage, *, cache_dir: Path) -> ServingGraph:
    """Return the fp32 serving graph of ``package`` from the cache, built first if it is missing or damaged.

    ``precision.py`` converts it to the other precisions.

    Raises:
        ModelRejected: the model cannot be served.
        EngineUnavailable: the cache directory cannot be used.
    """
    path = cache_dir / "graphs" / f"{package.name}-{package.version}-{graph_address(package)[:32]}.onnx"
    with cache_errors(cache_dir, _ADVICE):
        found = read_with_checksum(path)
    if found is None:
        # Imported here: a start with a graph in the cache does not load the onnx library.
        from engines.graph.serving_model import build_serving_model

        found = build_serving_model(package).SerializeToString(deterministic=True)
        with cache_errors(cache_dir, _ADVICE):
            write_with_checksum(path, found)
    sha256 = content_hash(found)
    max_batch = _max_batch(path, found, sha256, cache_dir)
    features = package.signature.features if package.gives_features else 0
    return ServingGraph(path=path, sha256=sha256, precision="fp32", max_batch=max_batch, features=features)


def _max_batch(path: Path, content: bytes, sha256: str, cache_dir: Path) -> int | None:
    """The batch size that the graph at ``path`` is fixed to, None if it is dynamic; read once, then remembered."""
    record: JsonRecord[int] = JsonRecord(
        path.with_suffix(".json"), encode=int, decode=int, facts={"graph": sha256}, is_durable=False
    )
    known = record.load()
    if known is None:
        from engines.graph.serving_model import max_batch_of, parsed

        known = max_batch_of(parsed(content)) or _ANY
        with cache_errors(cache_dir, _ADVICE):
            record.save(known)
    return None if known == _ANY else known


def graph_address(package: ModelPackage) -> str:
    """Return the content address of a serving graph: the hash of everything that it is made from."""
    facts: dict[str, object] = {
        "transformation": TRANSFORMATION,
        "model": package.sha256,
        "name": [package.name, package.version],
        "input": asdict(package.input),
        "activation": package.output.activation,
        # Without embeddings the graph is the same whether or not the package has them.
        "signature": {key: value for key, value in asdict(package.signature).items() if key != "features"},
    }
    if package.gives_features:
        facts["features"] = [package.output.features, package.signature.features]
    return content_address(facts, chars=64)
