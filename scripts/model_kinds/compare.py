"""Imports each made model as a user would, and compares the agent's scores with those of the model's own tool.

    python -m scripts.model_kinds.compare FOLDER [NAME...] [--md FILE]

FOLDER holds what the makers wrote. Runs in the agent's environment; .pt2 files need PyTorch in it. Results are kept in
FOLDER/results, and the table has all of them. Exit code 1 if a model is wrong, or refused without being expected to.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from agent.__main__ import main as agent
from engines import EngineOptions, ModelPackage, load_package
from engines.backends.load import open_backend
from scripts.model_kinds.kind import Floats, Kind, Pixels, images, kinds, planes, softmax

_MIN_SPREAD = 0.05
"""Equal scores for all images would agree with anything."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What became of one kind; ``difference`` is the largest of a probability, None where it was refused.

    ``spread``: by how much the maker's own scores differ between the images.
    """

    kind: Kind
    said: str
    difference: float | None
    spread: float = 1.0

    @property
    def is_right(self) -> bool:
        """Whether it was served with the maker's scores, or refused as it must be."""
        if self.kind.refusal is not None:
            return self.difference is None and self.kind.refusal in self.said
        return self.difference is not None and self.difference <= self.kind.tolerance and self.spread >= _MIN_SPREAD


def main() -> int:
    """Compare all, print the rows, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--md", type=Path)
    given = parser.parse_args()
    results = given.folder / "results"
    results.mkdir(exist_ok=True)
    for kind, scores in kinds(given.folder):
        if given.names and kind.name not in given.names:
            continue
        row = compared(kind, scores, given.folder)
        difference = "-" if row.difference is None else f"{row.difference:.1e}"
        verdict = "right" if row.is_right else "WRONG"
        print(f"{verdict} {kind.name} {difference} of {row.spread:.2f} {row.said}", flush=True)
        (results / f"{kind.name}.json").write_text(json.dumps(asdict(row)), encoding="utf-8")
    rows = [_read(path) for path in sorted(results.glob("*.json"))]
    if given.md is not None:
        given.md.write_text(table(rows), encoding="utf-8")
    return 0 if all(row.is_right for row in rows) else 1


def _read(path: Path) -> Row:
    values = json.loads(path.read_text(encoding="utf-8"))
    return Row(**{**values, "kind": Kind(**values["kind"])})


def compared(kind: Kind, scores: Floats, folder: Path) -> Row:
    """Import one file and run its package on the maker's images."""
    with tempfile.TemporaryDirectory(prefix="kind-") as work:
        labels = Path(work, "labels.txt")
        labels.write_text("\n".join(f"label {place}" for place in range(kind.labels)), encoding="utf-8")
        said = io.StringIO()
        command = [
            "model",
            "import",
            str(folder / kind.file),
            "--labels",
            str(labels),
            "--name",
            "kind",
            *kind.options,
        ]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            code = agent([*command, "--output", work])
        text = " ".join(said.getvalue().replace(str(folder) + "/", "").split())
        if code != 0:
            return Row(kind=kind, said=text, difference=None)
        package = load_package(Path(work, "kind-1.0.0"))
        engine_name = "torch" if package.format == "pt2" else "ort-cpu"
        options = EngineOptions(cache_dir=Path(work, "cache"), engine=engine_name, sandbox=None, max_batch=4)
        pixels = images(kind.side, kind.channels)
        batch = np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:3], 3))[..., ::-1])
        engine, _ = open_backend(package, options, engine_name)
        with engine:
            step = engine.info.max_batch
            parts = [engine.infer(batch[place : place + step]) for place in range(0, len(batch), step)]
        answers = np.concatenate(parts)
        difference = float(np.abs(answers - scores).max())
        rounding = ""
        if difference > kind.tolerance and package.format == "onnx" and package.output.name is None:
            # Random weights can need large factors, which enlarge the rounding of every runtime.
            rounding = f"; plain ONNX Runtime is {difference:.1e} from the tool"
            difference = float(np.abs(answers - _plain(folder / kind.file, pixels, package)).max())
        batched = "dynamic" if step > 1 and step != package.signature.batch else step
        together = f"{package.output.activation}, batch {batched}"
        warnings = [one for one in text.split("warning: ") if one and "no golden images" not in one]
        spread = float(np.ptp(scores, axis=0).max())
        said_all = " ".join([together + rounding, *warnings])
        return Row(kind=kind, said=said_all, difference=difference, spread=spread)


def _plain(file: Path, pixels: Pixels, package: ModelPackage) -> Floats:
    """The scores of the exported file in plain ONNX Runtime, fed with pixels prepared by NumPy."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0]
    data = planes(pixels, package.input.scale).astype(np.float16 if "float16" in source.type else np.float32)
    raw = np.concatenate([session.run(None, {source.name: image[None]})[0] for image in data])
    raw = raw.reshape(len(pixels), -1).astype(np.float32)
    return softmax(raw) if package.output.activation == "softmax" else raw


def table(rows: list[Row]) -> str:
    """The table in Markdown."""
    lines = ["| model | made by | `import` | worst difference |", "| --- | --- | --- | --- |"]
    for row in rows:
        options = " ".join(row.kind.options[2:])
        said = (
            f"refused: {row.said}"
            if row.difference is None
            else f"taken{f' with `{options}`' if options else ''}: {row.said}"
        )
        difference = "" if row.difference is None else f"{row.difference:.1e}"
        lines.append(f"| {row.kind.name} | {row.kind.tool} | {said.replace('|', '/')} | {difference} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
