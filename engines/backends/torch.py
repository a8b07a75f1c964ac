"""The PyTorch engine, for development: a torch.export program with its preprocessing and activation.

Preprocessing has the steps and constants of ``engines.graph.preprocessing``, in the same order.
"""

from __future__ import annotations

import contextlib
import math
import pickle
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from engines.backends.batches import check_batch, check_scores
from engines.base import EngineInfo, EngineOptions, Images, Scores
from engines.errors import EngineLost, EngineUnavailable, InferenceFailed, ModelRejected, OptionsRejected
from engines.host import MAX_THREADS, available_cores, cpu_model
from engines.package.load import ModelPackage
from engines.package.signature.base import TensorFacts
from engines.package.signature.pt2 import read_program

OPTION_NAMES = ("device", "compile", "threads")
_DEVICES = ("auto", "cpu", "cuda")
# What a program raises when it runs; torch.compile also starts a compiler and writes files. CUDA's errors and those of
# the compiler are RuntimeErrors.
_RUN_ERRORS = (
    *(RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
    *(OSError, ImportError, MemoryError),
)
# The archive is a zip of JSON and weights; each layer of PyTorch's reader raises its own errors.
_LOAD_ERRORS = (
    *(RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError, NameError, ArithmeticError),
    *(
        OSError,
        EOFError,
        ImportError,
        SyntaxError,
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        pickle.UnpicklingError,
    ),
)
_TRIAL_IMAGES = 3
_RELATIVE, _ABSOLUTE = 1e-3, 1e-4
"""Tolerance between an image alone and in a batch, as in ``engines.graph.batch_dimension``."""


class TorchEngine:
    """A program on one device. ``interrupt`` has no effect: PyTorch cannot interrupt a call."""

    def __init__(
        self, serve: Callable[[Any], Any], *, torch: Any, device: str, info: EngineInfo, package: ModelPackage
    ) -> None:
        """Take ownership of ``serve``, which maps a uint8 tensor on ``device`` to probabilities on it."""
        self._serve: Callable[[Any], Any] | None = serve
        self._torch = torch
        self._device = device
        self._info = info
        self._size = package.input
        self._fixed_batch = package.signature.batch

    @property
    def info(self) -> EngineInfo:
        """What runs."""
        return self._info

    def infer(self, batch: Images) -> Scores:
        """Classify a batch; see ``engines.base.Engine``."""
        serve = self._serve
        if serve is None:
            raise InferenceFailed("torch was used after it was closed. Open it again", engine="torch")
        check_batch(batch, height=self._size.height, width=self._size.width, max_batch=self._info.max_batch)
        count = len(batch)
        try:
            fed = batch if self._fixed_batch in (None, count) else self._padded(batch)
            with self._torch.inference_mode():
                # from_numpy shares memory, and the batch stays the caller's: hand over a copy.
                answer = serve(self._torch.from_numpy(np.array(fed)).to(self._device))
                scores: Scores = answer[:count].to("cpu").numpy().astype(np.float32, copy=True)
        except _RUN_ERRORS as exc:
            lost = "CUDA error" in str(exc)
            kind = EngineLost if lost else InferenceFailed
            raise kind(
                f"torch failed on a batch of {count}: {_one_line(exc)}. "
                + ("The device is gone: restart" if lost else "Three in a row reload the engine"),
                engine="torch",
                images=count,
            ) from exc
        check_scores(scores, engine="torch")
        return scores

    def interrupt(self) -> None:
        """Do nothing: PyTorch cannot interrupt a call."""

    def close(self) -> None:
        """Release the program and its weights."""
        if self._serve is None:
            return
        self._serve = None
        if self._device != "cpu":
            with contextlib.suppress(RuntimeError):  # a lost device frees nothing
                self._torch.cuda.empty_cache()

    def __enter__(self) -> TorchEngine:
        """Use the engine for a while."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _padded(self, batch: Images) -> Images:
        padded = np.zeros((self._fixed_batch or 1, *batch.shape[1:]), np.uint8)
        padded[: len(batch)] = batch
        return padded


def open_torch(package: ModelPackage, options: EngineOptions) -> TorchEngine:
    """Load the package's program and run it once for each of the smallest and the largest batch.

    Raises:
        EngineUnavailable: PyTorch is absent, or the wanted device is.
        OptionsRejected: an option that this engine does not have.
        ModelRejected: the program cannot be loaded.
        InferenceFailed: the first run failed.
    """
    started = time.perf_counter_ns()
    torch = _library()
    try:
        settings = _settings(options, torch)
        device = str(settings["device"])
        torch.set_num_threads(settings["threads"])
        serve = _serving(package, torch, device)
        is_free = options.max_batch == 1 or _is_same_together(package, serve, torch, device)
        if settings["compile"]:
            serve = torch.compile(serve)
        name = torch.cuda.get_device_name() if device == "cuda" else f"CPU {cpu_model() or ''}".strip()
    except RuntimeError as exc:
        raise EngineUnavailable(
            f"PyTorch {torch.__version__} cannot open a model here: {_one_line(exc)}. Choose another engine",
            engine="torch",
        ) from exc
    info = EngineInfo(
        name="torch",
        requested=options.engine,
        precision="fp32",
        requested_precision=options.precision,
        device=name,
        max_batch=package.signature.batch or (options.max_batch if is_free else 1),
        classes=package.signature.classes,
        placement={f"torch {device}": 1},
        versions={"torch": str(torch.__version__), "numpy": str(np.__version__)},
        gains_by_batches=device == "cuda",
    )
    engine = TorchEngine(serve, torch=torch, device=device, info=info, package=package)
    for size in sorted({1, info.max_batch}):
        engine.infer(np.full((size, package.input.height, package.input.width, 3), 127, np.uint8))
    load_ms = (time.perf_counter_ns() - started) / 1e6
    engine._info = replace(info, load_ms=load_ms)  # noqa: SLF001 made here a moment ago
    return engine


def _is_same_together(package: ModelPackage, serve: Callable[[Any], Any], torch: Any, device: str) -> bool:
    """Whether images in one batch get the scores that each gets alone, if the batch is dynamic.

    Some programs only claim it; then they run one image at a time.
    """
    if package.signature.batch is not None:
        return False
    from engines.graph.batch_dimension import noise_images  # loads the onnx library

    images = torch.from_numpy(noise_images(package, _TRIAL_IMAGES)).to(device)
    try:
        with torch.inference_mode():
            together = serve(images)
            alone = torch.cat([serve(images[place : place + 1]) for place in range(_TRIAL_IMAGES)])
    except _RUN_ERRORS:
        return False
    return together.shape == alone.shape and bool(
        torch.allclose(together, alone, rtol=_RELATIVE, atol=_ABSOLUTE, equal_nan=True)
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__


def _library() -> Any:
    try:
        import torch
    except (ImportError, OSError, RuntimeError, AttributeError) as exc:
        raise EngineUnavailable(
            f"PyTorch cannot be imported: {exc}. Install it: pip install torch",
            engine="torch",
        ) from exc
    return torch


def _settings(options: EngineOptions, torch: Any) -> dict[str, Any]:
    for name in options.options:
        if name not in OPTION_NAMES:
            raise OptionsRejected(
                f"engine torch has no option {name}: it has {', '.join(OPTION_NAMES)}. Correct it under options",
                engine="torch",
                option=name,
            )
    device = options.options.get("device", "auto")
    is_compiled = options.options.get("compile", False)
    threads = options.options.get("threads", max(1, available_cores() // max(1, options.workers)))
    if device not in _DEVICES or not isinstance(is_compiled, bool) or not _is_thread_count(threads):
        raise OptionsRejected(
            f"options of engine torch are device {device!r}, compile {is_compiled!r}, threads {threads!r}: wanted are "
            f"one of {', '.join(_DEVICES)}, true or false, and a number from 1 to {MAX_THREADS}",
            engine="torch",
        )
    has_cuda = bool(torch.cuda.is_available())
    if device == "cuda" and not has_cuda:
        raise EngineUnavailable(
            f"torch was asked to run on CUDA and PyTorch {torch.__version__} finds no CUDA device. "
            "Set device: cpu, or install a build of PyTorch for this GPU",
            engine="torch",
        )
    if device == "auto":
        device = "cuda" if has_cuda else "cpu"
    return {"device": device, "compile": is_compiled, "threads": threads}


def _is_thread_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_THREADS


def _serving(package: ModelPackage, torch: Any, device: str) -> Callable[[Any], Any]:
    """Return a function from uint8 ``(N, H, W, 3)`` BGR on ``device`` to float32 ``(N, classes)`` probabilities."""
    try:
        _know_containers(package, torch)
        program = torch.export.load(str(package.model_path))
        model = program.module().to(device)
        call = _Call(package, program, torch, device)
    except _LOAD_ERRORS as exc:
        raise ModelRejected(
            f"{package.title} cannot be loaded by PyTorch {torch.__version__}: "
            f"{_one_line(exc)}. Export it again with this version",
            file=package.title,
        ) from exc
    prepare, finish = _preparation(package, torch, device), _activation(package, torch)

    def serve(images: Any) -> Any:
        return finish(call.scores(model, prepare(images)))

    return serve


def _know_containers(package: ModelPackage, torch: Any) -> None:
    """Give PyTorch a stand-in for each type that the program returns and that is unknown in this process.

    PyTorch reads only types that their own library has registered. Here nothing but the tensors in them counts, so
    that library need not be installed, and no module is imported because a file names it.
    """
    tree = torch.utils._pytree  # noqa: SLF001 torch.export itself documents its trees by this module
    for name, fields in read_program(package.model_path, name=package.title).containers.items():
        if name not in tree.SERIALIZED_TYPE_TO_PYTHON_TYPE:
            _register_stand_in(name, fields, tree)


def _register_stand_in(name: str, fields: tuple[str, ...] | None, tree: Any) -> None:
    """``fields`` are those of a named tuple, which PyTorch makes of its values itself."""
    if fields is not None:
        stand_in: Any = NamedTuple("StandIn", [(field, Any) for field in fields])  # type: ignore[misc] # known only here
        tree._register_namedtuple(stand_in, serialized_type_name=name)  # noqa: SLF001 see above
        return

    class StandIn:
        """Only its name is ever used: an unpacked answer is a list."""

    tree.register_pytree_node(
        StandIn,
        lambda _: ([], None),
        lambda values, _: [*values],
        serialized_type_name=name,
        to_dumpable_context=lambda context: context,
        from_dumpable_context=lambda context: context,
    )


class _Call:
    """Calls a program as it was exported: image and constants in their places, the scores among its outputs."""

    def __init__(self, package: ModelPackage, program: Any, torch: Any, device: str) -> None:
        """Find the places of the image and of the scores; the package's signature was read from the same archive."""
        read = read_program(package.model_path, name=package.title)
        names = [one.name for one in read.outputs]
        self._tree = torch.utils._pytree  # noqa: SLF001 torch.export itself documents its trees by this module
        self._place = names.index(package.signature.output_name)
        self._spec = program.call_spec.in_spec
        self._classes = package.signature.classes
        self._class_axis = package.signature.class_axis
        given = dict(package.input.constants)
        self._leaves: list[Any] = []
        for each in program.graph_signature.input_specs:
            if each.kind.name != "USER_INPUT":
                continue
            name = str(getattr(each.arg, "name", ""))
            if name == package.signature.input_name:
                self._image = len(self._leaves)
                self._leaves.append(None)
            elif name in given:
                self._leaves.append(_constant(given[name], name, read.inputs, torch).to(device))
            else:
                self._leaves.append(each.arg.value)

    def scores(self, model: Any, image: Any) -> Any:
        """Return float32 ``(N, classes)``."""
        leaves = [*self._leaves]
        leaves[self._image] = image
        arguments, keywords = self._tree.tree_unflatten(leaves, self._spec)
        output = self._tree.tree_leaves(model(*arguments, **keywords))[self._place].float()
        if self._class_axis is not None:
            output = output.movedim(self._class_axis, -1)
        return output.reshape(-1, self._classes)


def _constant(values: tuple[float, ...], name: str, inputs: Sequence[TensorFacts], torch: Any) -> Any:
    """A tensor of the input's type and shape; a single value fills it."""
    facts = next(one for one in inputs if one.name == name)
    shape = tuple(dim or 1 for dim in facts.shape or ())
    flat = torch.tensor(values, dtype=getattr(torch, facts.dtype))
    return (flat.expand(math.prod(shape)) if len(values) == 1 else flat).reshape(shape)


def _preparation(package: ModelPackage, torch: Any, device: str) -> Callable[[Any], Any]:
    spec, signature = package.input, package.signature

    def plane(values: Any) -> Any:
        return torch.tensor(np.asarray(values, np.float32).reshape(-1, 1, 1), device=device)

    std = np.asarray(spec.std, np.float64)
    factor, shift = plane(spec.scale / std), plane(-np.asarray(spec.mean, np.float64) / std)
    from engines.graph.preprocessing import GRAY_BGR  # loads the onnx library

    gray = plane(GRAY_BGR)
    dtype = {"float32": torch.float32, "float16": torch.float16, "uint8": torch.uint8}[signature.dtype]

    def prepare(images: Any) -> Any:
        planes = images.permute(0, 3, 1, 2)
        if spec.color == "rgb":
            planes = planes.flip(1)
        elif spec.color == "gray":
            planes = ((planes.float() * gray).sum(1, keepdim=True) + 0.5).floor()
        if signature.dtype != "uint8":
            planes = planes.float() * factor + shift
        if signature.layout == "NHWC":
            planes = planes.permute(0, 2, 3, 1)
        if spec.batch_axis:
            planes = planes.movedim(0, spec.batch_axis)
        if not signature.has_batch_axis:
            planes = planes[0]
        return planes.to(dtype).contiguous()

    return prepare


def _activation(package: ModelPackage, torch: Any) -> Callable[[Any], Any]:
    known: Mapping[str, Callable[[Any], Any]] = {
        "softmax": lambda output: torch.softmax(output, 1),
        "sigmoid": torch.sigmoid,
        "none": lambda output: output,
    }
    return known[package.output.activation]
