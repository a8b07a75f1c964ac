"""PaddlePaddle models through paddle2onnx.

python -m scripts.model_kinds.paddle_kinds FOLDER     in an environment with paddlepaddle and paddle2onnx
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import paddle
import paddle2onnx

from scripts.model_kinds.kind import CLASSES, SIDE, Kind, images, planes, run_all, save, softmax


class Spread(paddle.nn.Layer):  # type: ignore[misc] # the library has no types
    """A model with random weights whose logits differ between images as those of a trained one do."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        pixels = paddle.to_tensor(planes(images()))
        with paddle.no_grad():
            model.train()
            for _ in range(10):  # gives the normalisations means and variances
                model(pixels + 0.3 * paddle.randn(pixels.shape))
            model.eval()
            logits = model(pixels)
        self.middle = paddle.to_tensor(logits.mean(0).numpy())
        self.factor = float(1.5 / (logits - self.middle).std())

    def forward(self, pixels: Any) -> Any:
        """Logits."""
        return (self.model(pixels) - self.middle) * self.factor


def _vision(name: str) -> Any:
    paddle.seed(1)
    return Spread(getattr(paddle.vision.models, name)(pretrained=False, num_classes=CLASSES))


def _paddle(folder: Path, name: str, *, arch: str) -> None:
    model = _vision(arch)
    model.eval()
    logits = model(paddle.to_tensor(planes(images()))).numpy()
    spec = [paddle.static.InputSpec([None, 3, SIDE, SIDE], "float32", "x")]
    with tempfile.TemporaryDirectory() as work:
        paddle.jit.save(model, f"{work}/model", input_spec=spec)
        graph = next(path for path in (Path(work) / "model.json", Path(work) / "model.pdmodel") if path.is_file())
        paddle2onnx.export(
            str(graph), f"{work}/model.pdiparams", save_file=str(folder / f"{name}.onnx"), opset_version=13
        )
    tool = f"paddlepaddle {paddle.__version__}, paddle2onnx {paddle2onnx.__version__}"
    save(folder, Kind(name=name, tool=tool, file=f"{name}.onnx", options=["--preset", "raw01"]), softmax(logits))


def makers() -> dict[str, Callable[[Path, str], None]]:
    """Every kind by name."""
    # Not MobileNet and ShuffleNet: their random weights give logits that differ by less than fp32 rounds.
    archs = ("resnet18", "squeezenet1_1")
    return {f"paddle-{arch}": partial(_paddle, arch=arch) for arch in archs}


if __name__ == "__main__":
    run_all(makers(), Path(sys.argv[1]), sys.argv[2:])
