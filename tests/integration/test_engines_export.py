"""`agent model import` exports a Hugging Face folder or a checkpoint of timm, and the scores stay the model's own."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.__main__ import main
from engines import EngineOptions, load_package, open_engine
from engines.base import Images

_MISSING = [name for name in ("torch", "timm", "transformers") if importlib.util.find_spec(name) is None]
if _MISSING and "REQUIRE_EXPORT" not in os.environ:
    pytest.skip(f"{', '.join(_MISSING)} not installed here", allow_module_level=True)

_SIDE = 32
_LABELS = ("ash", "birch", "cedar")
_MEAN, _STD = [0.5, 0.4, 0.3], [0.25, 0.2, 0.3]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))


def _images(side: int) -> Images:
    """Three colours with grain."""
    random = np.random.default_rng(1)
    colours = np.array([[[[220, 40, 40]]], [[[40, 200, 60]]], [[[60, 40, 210]]]])
    return np.asarray(colours + random.integers(-40, 40, (3, side, side, 3)), np.uint8)


def _spread(model: Any, head: Any, mean: Sequence[float], std: Sequence[float], side: int) -> Any:
    """The model with a last layer whose logits differ between the images by about 1; those of a new one hardly do."""
    import torch

    with torch.no_grad():
        head.bias.zero_()
        head.weight.copy_(torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(3)))
        logits = _logits(model.eval(), _images(side), mean, std)
        head.weight.div_(logits.std(0).max())
        head.bias.copy_(-_logits(model, _images(side), mean, std).mean(0))
    return model


def _logits(model: Any, images: Images, mean: Sequence[float], std: Sequence[float]) -> Any:
    """What the framework itself says of the images, which are BGR."""
    import torch

    planes = torch.from_numpy(images[..., ::-1].copy()).permute(0, 3, 1, 2).float() / 255
    shape = (1, 3, 1, 1)
    with torch.no_grad():
        answer = model((planes - torch.tensor(mean).reshape(shape)) / torch.tensor(std).reshape(shape))
    return getattr(answer, "logits", answer)


def _probabilities(model: Any, images: Images, mean: Sequence[float], std: Sequence[float]) -> Any:
    return _logits(model, images, mean, std).softmax(1).numpy()


def _hub_folder(folder: Path) -> Any:
    """A tiny ViT with its weights and the two files that a hub has beside them."""
    from safetensors.torch import save_file
    from transformers import ViTConfig, ViTForImageClassification

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = ViTConfig(image_size=_SIDE, patch_size=8, id2label=dict(enumerate(_LABELS)), **small)
    model = ViTForImageClassification(config)
    model = _spread(model, model.classifier, _MEAN, _STD, _SIDE)
    config.architectures = ["ViTForImageClassification"]
    config.save_pretrained(folder)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    preprocessor = {"image_mean": _MEAN, "image_std": _STD, "size": {"height": _SIDE, "width": _SIDE}, "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor), encoding="utf-8")
    return model


def _scores(folder: Path, cache: Path, images: Images) -> Any:
    with open_engine(load_package(folder), EngineOptions(cache_dir=cache, engine="ort-cpu", max_batch=3)) as engine:
        return engine.infer(images)


def test_a_hub_folder_without_an_onnx_file_is_exported_and_needs_no_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = _hub_folder(tmp_path / "vit")
    before = sorted(path.name for path in (tmp_path / "vit").iterdir())
    assert main(["model", "import", str(tmp_path / "vit"), "--output", str(tmp_path), "--json"]) == 0
    taken = json.loads(capsys.readouterr().out)["taken"]
    assert (taken["labels"], taken["mean"]) == ("config.json", "preprocessor_config.json")
    package = load_package(tmp_path / "vit-1.0.0")
    assert (package.labels, package.signature.batch) == (_LABELS, None)
    assert (package.input.interpolation, package.input.mean) == ("cubic_antialias", tuple(_MEAN))
    assert sorted(path.name for path in (tmp_path / "vit").iterdir()) == before
    wanted = _probabilities(model, _images(_SIDE), _MEAN, _STD)
    assert np.ptp(wanted, axis=0).max() > 0.2
    np.testing.assert_allclose(_scores(package.directory, tmp_path / "cache", _images(_SIDE)), wanted, atol=1e-4)


@pytest.mark.parametrize("form", ["state_dict", "data parallel", "safetensors"])
def test_a_checkpoint_of_timm_is_exported_with_its_own_preprocessing(tmp_path: Path, form: str) -> None:
    import timm
    import torch
    from safetensors.torch import save_file

    model = timm.create_model("test_resnet", pretrained=False, num_classes=3)
    cfg = model.pretrained_cfg
    model = _spread(model, model.get_classifier(), cfg["mean"], cfg["std"], cfg["input_size"][1])
    weights, checkpoint = model.state_dict(), tmp_path / "model.pth"
    if form == "safetensors":
        checkpoint = tmp_path / "model.safetensors"
        save_file(weights, checkpoint)
    else:
        prefixed = {f"module.{name}": value for name, value in weights.items()}
        torch.save({"state_dict": prefixed, "epoch": 3} if form == "data parallel" else weights, checkpoint)
    (tmp_path / "labels.txt").write_text("\n".join(_LABELS), encoding="utf-8")
    options = ["--checkpoint", str(checkpoint), "--labels", str(tmp_path / "labels.txt"), "--output", str(tmp_path)]
    assert main(["model", "import", "timm:test_resnet", *options]) == 0
    package = load_package(tmp_path / "test_resnet-1.0.0")
    assert (package.input.mean, package.input.std) == (cfg["mean"], cfg["std"])
    assert (
        package.input.interpolation
        == {"bilinear": "linear_antialias", "bicubic": "cubic_antialias"}[cfg["interpolation"]]
    )
    side = package.input.width
    assert side == cfg["input_size"][1]
    wanted = _probabilities(model, _images(side), cfg["mean"], cfg["std"])
    assert np.ptp(wanted, axis=0).max() > 0.2
    np.testing.assert_allclose(_scores(package.directory, tmp_path / "cache", _images(side)), wanted, atol=1e-4)


class _Harmful:
    """Runs something when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize(
    ("name", "fault", "words"),
    [
        ("test_resnet", "other weights", "cannot be exported to ONNX by PyTorch"),
        ("test_resnet", "objects", "only tensors are read"),
        ("test_resnet", "a list", "a checkpoint holds tensors by name"),
        ("test_resnte", "", "has no architecture 'test_resnte', but test_resnet"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, fault: str, words: str
) -> None:
    import torch

    saved: dict[str, Any] = {
        "other weights": {"conv.weight": torch.zeros(1)},
        "objects": {"state_dict": _Harmful(tmp_path / "trace")},
        "a list": [torch.zeros(1)],
        "": {"conv.weight": torch.zeros(1)},
    }
    torch.save(saved[fault], tmp_path / "model.pth")
    (tmp_path / "labels.txt").write_text("\n".join(_LABELS), encoding="utf-8")
    options = ["--labels", str(tmp_path / "labels.txt"), "--output", str(tmp_path)]
    assert main(["model", "import", f"timm:{name}", "--checkpoint", str(tmp_path / "model.pth"), *options]) == 78
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "trace").exists()
    assert not list(tmp_path.glob("test_res*"))


def test_code_in_a_hub_folder_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "vit"
    _hub_folder(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "mine", "auto_map": {"AutoModelForImageClassification": "mine.Mine"}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')", encoding="utf-8")
    assert main(["model", "import", str(folder), "--output", str(tmp_path)]) == 78
    assert "cannot be exported to ONNX by PyTorch" in capsys.readouterr().err
    assert not (tmp_path / "trace").exists()
