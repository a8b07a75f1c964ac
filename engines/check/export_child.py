"""The child process that exports a model of transformers or timm to ONNX.

See ``engines.sandbox.serve`` for the protocol. Weights are read without unpickling objects, code in a folder is not
run, and nothing is fetched.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.errors import EngineError, EngineUnavailable, ModelRejected
from engines.sandbox.serve import serve_parent, stated

_LIBRARY_ERRORS = (
    *(RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
    *(OSError, EOFError, pickle.UnpicklingError),
)
_BATCH = 2


def main() -> None:
    """Export the job's model into its target folder; never returns."""
    # Set before the libraries are imported, which read them then.
    os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"})
    parent = serve_parent()
    result: dict[str, object] = {}
    try:
        _export(parent.job)
    except EngineError as exc:
        result = {"error": stated(exc)}
    parent.say({"result": result})
    os._exit(0)


def _export(job: Mapping[str, Any]) -> None:
    torch = _library("torch", "torch")
    target = Path(str(job["target"]))
    title = str(job.get("name") or job.get("folder"))
    try:
        model, shape = _of_timm(torch, job, target) if job["kind"] == "timm" else _of_transformers(torch, job)
        model.eval()
        example = torch.zeros((_BATCH, *shape))
        if importlib.util.find_spec("onnxscript") is not None:
            shapes = ({0: torch.export.Dim("batch", min=1, max=256)},)
            torch.onnx.export(
                model, (example,), target / "model.onnx", dynamo=True, dynamic_shapes=shapes, external_data=False
            )
        else:
            axes = {"image": {0: "batch"}, "logits": {0: "batch"}}
            torch.onnx.export(
                model,
                (example,),
                target / "model.onnx",
                dynamo=False,
                input_names=["image"],
                output_names=["logits"],
                dynamic_axes=axes,
            )
    except _LIBRARY_ERRORS as exc:
        reason = " ".join(str(exc).split())[:500] or type(exc).__name__
        raise ModelRejected(
            f"{title} cannot be exported to ONNX by PyTorch {torch.__version__}: {reason}. Check that weights and "
            "architecture belong together, or export it yourself and import the ONNX file",
        ) from exc


def _of_timm(torch: Any, job: Mapping[str, Any], target: Path) -> tuple[Any, tuple[int, ...]]:
    """The model with the checkpoint's weights, and its input; its preprocessing goes to ``config.json``."""
    timm = _library("timm", "torch timm")
    name = str(job["name"])
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise ModelRejected(
            f"timm {timm.__version__} has no architecture {name!r}, but {', '.join(near) or 'others'}. Correct the "
            "name"
        )
    weights = _weights(torch, Path(str(job["checkpoint"])))
    plain = timm.create_model(name, pretrained=False)
    heads = plain.pretrained_cfg.get("classifier") or ""
    head = weights.get(f"{heads if isinstance(heads, str) else heads[0]}.weight")
    model = plain if head is None else timm.create_model(name, pretrained=False, num_classes=int(head.shape[0]))
    model.load_state_dict(weights, strict=True)
    known = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
    config = {"pretrained_cfg": {key: model.pretrained_cfg[key] for key in known if key in model.pretrained_cfg}}
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return model, tuple(model.pretrained_cfg["input_size"])


def _weights(torch: Any, path: Path) -> dict[str, Any]:
    """The tensors of a checkpoint, by name; training scripts put them under a key, and DataParallel adds a prefix."""
    if path.suffix == ".safetensors":
        found = importlib.import_module("safetensors.torch").load_file(str(path))
    else:
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as exc:
            raise ModelRejected(
                f"{path} is no checkpoint of tensors, but only tensors are read: other pickled objects can run code. "
                "Save it with torch.save(model.state_dict(), FILE)"
            ) from exc
    for key in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
            break
    if not isinstance(found, dict) or not found:
        raise ModelRejected(f"{path} holds {type(found).__name__}, but a checkpoint holds tensors by name")
    return {str(key).removeprefix("module."): value for key, value in found.items()}


def _of_transformers(torch: Any, job: Mapping[str, Any]) -> tuple[Any, tuple[int, ...]]:
    """The folder's classifier, giving its logits alone, and its input."""
    transformers = _library("transformers", "torch transformers")
    classifier = transformers.AutoModelForImageClassification.from_pretrained(
        str(job["folder"]), local_files_only=True, trust_remote_code=False
    )

    class Logits(torch.nn.Module):  # type: ignore[misc] # the library has no types here
        def __init__(self) -> None:
            super().__init__()
            self.classifier = classifier

        def forward(self, image: Any) -> Any:
            return self.classifier(pixel_values=image).logits

    width, height = (int(side) for side in job["size"])
    return Logits(), (int(getattr(classifier.config, "num_channels", 3)), height, width)


def _library(name: str, install: str) -> Any:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError, AttributeError) as exc:
        raise EngineUnavailable(
            f"this import exports the model first, but {name} cannot be imported: {exc}. Install it: pip install "
            f"{install}, or import an ONNX file",
            library=name,
        ) from exc


if __name__ == "__main__":
    main()
