"""PyTorch, torchvision, timm and transformers, by both ONNX exporters, and torch.export programs.

python -m scripts.model_kinds.torch_kinds FOLDER     with torch, torchvision, timm, transformers and onnxscript
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scripts.model_kinds.kind import CLASSES, SIDE, Kind, images, planes, run_all, save, softmax

_RAW01 = ["--preset", "raw01"]


class Tiny(torch.nn.Module):  # type: ignore[misc] # the library has no types here
    """A small classifier whose return value takes the forms that people export."""

    def __init__(self, form: str = "logits", channels: int = 3, *, has_batch: bool = True) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.form, self.has_batch = form, has_batch
        self.first = torch.nn.Conv2d(channels, 8, 3, stride=2)
        self.norm = torch.nn.BatchNorm2d(8)
        self.drop = torch.nn.Dropout(0.2)
        self.last = torch.nn.Linear(8, 1 if form == "binary" else CLASSES)
        with torch.no_grad():
            logits = self.eval().last(self._features(torch.from_numpy(planes(images(SIDE, channels)))))
            factor = 0.5 / logits.sub(logits.mean(0)).std()
            self.last.weight.mul_(factor)
            self.last.bias.sub_(logits.mean(0)).mul_(factor)

    def _features(self, batch: Any) -> Any:
        return self.norm(self.first(batch)).relu().amax((2, 3))

    def forward(self, pixel_values: Any, mask: Any = None) -> Any:
        """Scores, in the wanted form."""
        batch = pixel_values if self.has_batch else pixel_values[None]
        features = self._features(batch)
        logits = self.last(self.drop(features)) * 3
        if mask is not None:
            logits = logits + mask
        returned = {
            "dict": lambda: {"logits": logits, "features": features},
            "tuple": lambda: (logits, features),
            "softmax": lambda: logits.softmax(1),
            "log_softmax": lambda: logits.log_softmax(1),
            "sigmoid": logits.sigmoid,
            "percent": lambda: logits.softmax(1) * 100,
            "views": lambda: torch.stack([logits.softmax(1), logits.softmax(1)]).mean(0),
            "slice": lambda: logits.softmax(1)[:, 1:],
            "argmax": lambda: logits.argmax(1),
            "nc11": lambda: logits[:, :, None, None],
            "n1c": lambda: logits[:, None, :],
            "classes_first": lambda: logits.T,
            "unbatched": lambda: logits[0],
            "map": lambda: logits[:, :, None, None].expand(-1, -1, 2, 2),
        }
        return returned.get(self.form, lambda: logits)()


def _versions(*modules: str) -> str:
    return ", ".join(f"{name} {__import__(name).__version__.split('+')[0]}" for name in ("torch", *modules))


def _onnx(
    folder: Path, name: str, *, make: Callable[[], Any], labels: int = CLASSES, modules: tuple[str, ...] = (),
    dynamo: bool = False, dynamic: bool = True, options: tuple[str, ...] = (), refusal: str | None = None,
    side: int = SIDE, channels: int = 3, after: Callable[[Any], Any] = softmax, extra: tuple[Any, ...] = (),
    train: bool = False, names: tuple[str, ...] = ("logits",), half: bool = False,
) -> None:  # fmt: skip
    model = make().eval()
    pixels = torch.from_numpy(planes(images(side, channels)))
    with torch.no_grad():
        answer = model(pixels, *(one[:1] for one in extra)) if extra else model(pixels)
        raw = _first(answer)
    if train:
        model.train()
    if half:
        model = model.half()
    example = pixels[: 2 if dynamic else 1]
    keywords: dict[str, Any] = {"input_names": ["pixel_values", *(f"extra{place}" for place in range(len(extra)))]}
    if dynamo:
        keywords["dynamic_shapes"] = ({0: torch.export.Dim("b", min=1, max=64)},) if dynamic else None
        keywords.pop("input_names")
        keywords["external_data"] = False
    else:
        keywords["output_names"] = list(names)
        keywords["dynamic_axes"] = {"pixel_values": {0: "batch"}, names[0]: {0: "batch"}} if dynamic else None
        keywords["training"] = torch.onnx.TrainingMode.PRESERVE
    torch.onnx.export(
        model, (example.half() if half else example, *(one[: len(example)] for one in extra)), folder / f"{name}.onnx",
        dynamo=dynamo, **keywords,
    )  # fmt: skip
    tool = f"{_versions(*modules)}, torch.onnx.export{' dynamo' if dynamo else ''}"
    save(
        folder,
        Kind(name=name, tool=tool, file=f"{name}.onnx", options=[*_RAW01, *options], refusal=refusal, labels=labels,
             side=side, channels=channels, tolerance=5e-3 if half else 1e-4),
        None if refusal else after(raw.numpy()),
    )  # fmt: skip


def _first(answer: Any) -> Any:
    if isinstance(answer, dict):
        return next(iter(answer.values()))
    if isinstance(answer, tuple):
        return answer[0]
    return answer.logits if hasattr(answer, "logits") else answer


def _program(
    folder: Path, name: str, *, make: Callable[[], Any], by_keyword: bool = False, dynamic: bool = False,
    batch: int = 1,
    options: tuple[str, ...] = (), refusal: str | None = None, labels: int = CLASSES, modules: tuple[str, ...] = (),
    after: Callable[[Any], Any] = softmax, extra: dict[str, Any] | None = None, train: bool = False, side: int = SIDE,
) -> None:  # fmt: skip
    model = make().train(train)
    pixels = torch.from_numpy(planes(images(side)))
    with torch.no_grad():
        raw = torch.cat(
            [_first(model.eval()(pixels[place : place + 1], **(extra or {}))) for place in range(len(pixels))]
        )
    model.train(train)
    example = pixels[: 2 if dynamic else batch]
    shapes = {"pixel_values": {0: torch.export.Dim("b", min=1, max=64)}} if dynamic else None
    keywords = {"pixel_values": example} if by_keyword else {}
    arguments = () if by_keyword else (example,)
    program = torch.export.export(model, arguments, {**keywords, **(extra or {})}, dynamic_shapes=shapes)
    torch.export.save(program, folder / f"{name}.pt2")
    save(
        folder,
        Kind(name=name, tool=f"{_versions(*modules)}, torch.export", file=f"{name}.pt2", options=[*_RAW01, *options],
             refusal=refusal, labels=labels, side=side),
        None if refusal else after(raw.numpy()),
    )  # fmt: skip


class Spread(torch.nn.Module):  # type: ignore[misc] # the library has no types here
    """A model with random weights whose logits differ between images as those of a trained one do."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        pixels = torch.from_numpy(planes(images()))
        with torch.no_grad():
            model.train()
            for _ in range(10):  # gives the normalisations means and variances
                model(pixels + 0.3 * torch.randn_like(pixels))
            logits = _first(model.eval()(pixels))
        self.register_buffer("middle", logits.mean(0))
        self.register_buffer("factor", 1.5 / logits.sub(logits.mean(0)).std())

    def forward(self, pixel_values: Any) -> Any:
        """The same kind of value as the model returns."""
        answer = self.model(pixel_values)
        if hasattr(answer, "logits"):
            answer.logits = (answer.logits - self.middle) * self.factor
            return answer
        return (answer - self.middle) * self.factor


def _vision(arch: str) -> Any:
    import torchvision

    torch.manual_seed(0)
    return Spread(getattr(torchvision.models, arch)(weights=None, num_classes=CLASSES))


def _timm(arch: str) -> Any:
    import timm

    torch.manual_seed(0)
    return Spread(timm.create_model(arch, num_classes=CLASSES, pretrained=False))


def _hugging_face(kind: str) -> Any:
    import transformers

    torch.manual_seed(0)
    every: dict[str, dict[str, Any]] = {
        "ViT": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "patch_size": 16,
        },
        "ConvNext": {"hidden_sizes": [8, 16, 32, 32], "depths": [1, 1, 1, 1]},
        "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
        "Swin": {"embed_dim": 12, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
        "MobileNetV2": {"depth_multiplier": 0.35},
        "Dinov2": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 16},
    }
    small = every[kind]
    config = getattr(transformers, f"{kind}Config")(image_size=SIDE, num_labels=CLASSES, return_dict=True, **small)
    return Spread(getattr(transformers, f"{kind}ForImageClassification")(config))


_VISION = (
    *("resnet18", "mobilenet_v2", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5"),
    *("regnet_y_400mf", "efficientnet_b0"),
)
_TIMM = (
    *("mobilenetv3_small_050", "resnet10t", "ghostnet_050", "repvgg_a0", "lcnet_035", "mobilevit_xxs"),
    *("efficientvit_b0", "edgenext_xx_small"),
)
_HUGGING_FACE = ("ViT", "ConvNext", "ResNet", "Swin", "MobileNetV2", "Dinov2")
_BY_NAME = ("--output-name", "logits")
Makers = dict[str, Callable[..., None]]


def makers() -> Makers:
    """Every kind by name."""
    return {**_architectures(), **_forms(), **_inputs(), **_programs()}


def _architectures() -> Makers:
    found: Makers = {}
    for arch in _VISION:
        found[f"torchvision-{arch}"] = partial(_onnx, make=partial(_vision, arch), modules=("torchvision",))
    for arch in _TIMM:
        found[f"timm-{arch}"] = partial(_onnx, make=partial(_timm, arch), modules=("timm",))
    for kind in _HUGGING_FACE:
        make, modules = partial(_hugging_face, kind), ("transformers",)
        found[f"transformers-{kind.lower()}"] = partial(_onnx, make=make, modules=modules)
        found[f"transformers-{kind.lower()}-pt2"] = partial(_program, make=make, modules=modules, by_keyword=True)
    found["torchvision-mobilenet_v2-dynamo"] = partial(
        _onnx, make=partial(_vision, "mobilenet_v2"), modules=("torchvision",), dynamo=True
    )
    found["timm-resnet10t-dynamo"] = partial(_onnx, make=partial(_timm, "resnet10t"), modules=("timm",), dynamo=True)
    return found


def _forms() -> Makers:
    """The small model with each form of output."""
    names = ("logits", "features")
    same = np.asarray
    binary = ("--task", "binary", "--positive", "label 0")
    forms: dict[str, dict[str, Any]] = {
        "logits": {},
        "softmax": {"after": same},
        "log_softmax": {"after": np.exp},
        "views": {"after": same},
        "nc11": {"after": lambda raw: softmax(raw[:, :, 0, 0])},
        "n1c": {"after": lambda raw: softmax(raw[:, 0])},
        "slice": {"after": same, "labels": CLASSES - 1},
        "percent": {"refusal": "percent"},
        "argmax": {"refusal": "ArgMax"},
        "map": {"refusal": "batch x classes"},
        "sigmoid": {"after": same, "options": ("--task", "multi_label")},
        "binary": {"after": lambda raw: 1 / (1 + np.exp(-raw)), "options": binary, "labels": 2},
        "classes_first": {"after": lambda raw: softmax(raw.T), "options": ("--class-axis", "0"), "dynamic": False},
        "dict": {"names": names, "options": _BY_NAME},
        "tuple": {"names": names, "options": _BY_NAME},
    }
    found: Makers = {
        f"torch-{form.replace('_', '-')}": partial(_onnx, make=partial(Tiny, form), **more)
        for form, more in forms.items()
    }
    found["torch-several-outputs-unnamed"] = partial(
        _onnx, make=partial(Tiny, "tuple"), names=names, refusal="--output-name NAME"
    )
    return found


def _inputs() -> Makers:
    """The small model with other inputs, batches and exporters."""
    mask = torch.arange(CLASSES).float()[None].expand(4, -1) / 5
    value = ",".join(f"{one:g}" for one in mask[0].tolist())
    second = partial(_onnx, make=Tiny, extra=(mask,), dynamic=False)
    return {
        "torch-fixed-batch": partial(_onnx, make=Tiny, dynamic=False),
        "torch-gray": partial(_onnx, make=partial(Tiny, channels=1), channels=1),
        "torch-dynamo": partial(_onnx, make=Tiny, dynamo=True),
        "torch-half": partial(_onnx, make=Tiny, half=True),
        "torch-training-mode": partial(_onnx, make=Tiny, train=True, refusal="training mode"),
        "torch-second-input": partial(second, options=("--constant", f"extra0={value}")),
        "torch-second-input-unnamed": partial(second, refusal="--constant NAME=VALUE"),
    }


def _programs() -> Makers:
    named = partial(_program, make=partial(Tiny, "dict"), options=_BY_NAME)
    plain = partial(_program, make=Tiny)
    mask = {"mask": torch.ones(1, CLASSES)}
    return {
        "pt2-plain": plain,
        "pt2-dynamic": partial(plain, dynamic=True),
        "pt2-keyword": partial(plain, by_keyword=True),
        "pt2-fixed-batch-2": partial(plain, batch=2),
        "pt2-training-mode": partial(plain, train=True, refusal="training mode"),
        "pt2-mask": partial(plain, extra=mask, options=("--constant", "mask=1")),
        "pt2-softmax": partial(_program, make=partial(Tiny, "softmax"), after=np.asarray),
        "pt2-dict": named,
        "pt2-dict-keyword-dynamic": partial(named, by_keyword=True, dynamic=True),
        "pt2-unnamed": partial(_program, make=partial(Tiny, "dict"), refusal="--output-name NAME"),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_all(makers(), Path(sys.argv[1]), sys.argv[2:])
