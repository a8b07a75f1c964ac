"""Makes the batch dimension of a serving graph dynamic if the model allows it.

Many models are exported for one image although nothing in them depends on it; others claim to be dynamic and have the
one image baked into a reshape. So neither claim is trusted: ONNX Runtime runs three images together and one by one,
and the scores must agree, and so must the embeddings of a graph that gives them.
"""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
import onnx

from engines.base import INPUT_NAME, Images, Scores
from engines.errors import EngineUnavailable, ModelRejected
from engines.graph.ort_library import library, library_errors
from engines.graph.preprocessing import PREFIX
from engines.package.load import ModelPackage
from engines.package.signature.onnx import set_shape, shape_of

_Answer = list[npt.NDArray[np.float32]]
"""The outputs of a serving graph: scores, and embeddings if it gives them."""

_NOISE_IMAGES = 3
_RUN_LIMIT_S = 60.0
_RELATIVE, _ABSOLUTE = 1e-3, 1e-4
"""Tolerance between an image alone and in a batch: libraries sum in another order."""


def free_batch(model: onnx.ModelProto, package: ModelPackage) -> onnx.ModelProto | None:
    """Return a copy of ``model`` with a dynamic batch dimension, None if the model does not allow it.

    Without ONNX Runtime the model's own claim is trusted.
    """
    images = noise_images(package, _NOISE_IMAGES)
    free = _with_batch(model, "batch", package)
    try:
        if _is_same_together(free, images):
            return free
        if package.signature.batch not in {None, 1} or not free_reshapes(free):
            return None
        # Changed reshapes may give consistent but wrong scores, so compare with the model as it was exported.
        fixed = _Runner(_with_batch(model, 1, package)).run_alone(images)
        return free if _is_same_together(free, images, expected=fixed) else None
    except EngineUnavailable:
        return free if package.signature.batch is None else None
    except _RunError:
        return None


def free_reshapes(model: onnx.ModelProto) -> bool:
    """Let reshapes to ``1 x …`` follow the batch, in place; return whether there were any.

    For one image the result is the same; whether it is right for several, the caller must test.
    """
    graph = model.graph
    shapes = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            shapes[node.output[0]] = node.attribute[0].t
    count = 0
    for node in graph.node:
        tensor = shapes.get(node.input[1]) if node.op_type == "Reshape" and len(node.input) > 1 else None
        dims = onnx.numpy_helper.to_array(tensor).reshape(-1).tolist() if tensor is not None else []
        if len(dims) > 1 and dims[0] == 1:
            # Only one dimension may be -1 (inferred); if another one is, 0 copies the input's own.
            dims[0] = 0 if -1 in dims else -1
            name = f"{PREFIX}reshape.{count}"
            graph.initializer.append(onnx.numpy_helper.from_array(np.array(dims, np.int64), name))
            node.input[1] = name
            count += 1
    return count > 0


def _is_same_together(model: onnx.ModelProto, images: Images, *, expected: _Answer | None = None) -> bool:
    """Whether ``images`` together get the answer that each gets alone (or the ``expected`` one)."""
    try:
        runner = _Runner(model)
        together = runner.run_all(images)
        alone = runner.run_alone(images)
    except _RunError:
        return False
    wanted = alone if expected is None else expected
    return all(_agree(answer, wanted) for answer in (together, alone))


def _agree(answer: _Answer, wanted: _Answer) -> bool:
    # Scores are at most 1, or logits; embeddings have a scale of their own.
    scales = [1.0, *(max(1.0, float(np.abs(rows).max(initial=0.0))) for rows in wanted[1:])]
    return all(
        given.shape == rows.shape and np.allclose(given, rows, rtol=_RELATIVE, atol=_ABSOLUTE * scale, equal_nan=True)
        for given, rows, scale in zip(answer, wanted, scales, strict=True)
    )


def fix_batch(model: onnx.ModelProto, package: ModelPackage) -> onnx.ModelProto:
    """Return a copy of ``model`` for exactly the batch size that it was exported for (1 if it does not say).

    Raises:
        ModelRejected: ONNX Runtime is installed and cannot run it.
    """
    batch = package.signature.batch or 1
    fixed = _with_batch(model, batch, package)
    try:
        _Runner(fixed).run(noise_images(package, batch))
    except EngineUnavailable:
        return fixed
    except _RunError as exc:
        raise ModelRejected(
            f"{package.title} cannot be run for {batch} image(s) of {package.input.width}x"
            f"{package.input.height}: {exc}. Export the model again",
            batch=batch,
        ) from exc
    return fixed


def noise_images(package: ModelPackage, count: int) -> Images:
    """Return ``count`` different images at the model's size, the same in every call: noise of several grain sizes."""
    rng = np.random.default_rng(20)
    height, width = package.input.height, package.input.width
    images = np.empty((count, height, width, 3), np.uint8)
    for place in range(count):
        cell = 1 << (place % 4)
        coarse = rng.integers(0, 256, (-(-height // cell), -(-width // cell), 3), np.uint8)
        images[place] = coarse.repeat(cell, 0).repeat(cell, 1)[:height, :width]
    return images


def run_serving_model(model: onnx.ModelProto, images: Images) -> Scores:
    """Return the scores of ``images``, run one by one on ONNX Runtime's CPU provider; not for the frame path.

    Raises:
        EngineUnavailable: ONNX Runtime is not installed.
        ModelRejected: it rejects the model or fails.
    """
    batch = (shape_of(model.graph.input[0]) or (1,))[0] or 1
    try:
        runner = _Runner(model)
        return np.concatenate([runner.run(np.stack([image] * batch))[:1] for image in images])
    except _RunError as exc:
        raise ModelRejected(f"ONNX Runtime cannot run the model: {exc}") from exc


class _RunError(Exception):
    """ONNX Runtime failed; the text is one line."""


class _Runner:
    """A session on ONNX Runtime's CPU provider with cheap optimisations only, for a few runs."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._ort = ort = library()
        self._errors = library_errors()
        self._outputs = [value.name for value in model.graph.output]
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.log_severity_level = 4
        try:
            self._session = ort.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except self._errors as exc:
            raise _RunError(_first_line(exc)) from exc

    def run(self, images: Images) -> Scores:
        """The scores of ``images``."""
        return self.run_all(images)[0]

    def run_all(self, images: Images) -> _Answer:
        """All outputs for ``images``."""
        options = self._ort.RunOptions()
        options.log_severity_level = 4
        # A graph can hold an endless loop, which only `terminate` ends.
        watch = threading.Timer(_RUN_LIMIT_S, setattr, (options, "terminate", True))
        watch.name = "model-run-limit"
        watch.start()
        try:
            answer: _Answer = self._session.run(self._outputs, {INPUT_NAME: images}, options)
        except self._errors as exc:
            raise _RunError(_first_line(exc)) from exc
        finally:
            watch.cancel()
            watch.join()
        for name, rows in zip(self._outputs, answer, strict=True):
            if rows.shape[0] != images.shape[0]:
                raise _RunError(f"{images.shape[0]} images gave {rows.shape[0]} rows of {name}")
        return answer

    def run_alone(self, images: Images) -> _Answer:
        """All outputs, with each image on its own."""
        answers = [self.run_all(images[place : place + 1]) for place in range(len(images))]
        return [np.concatenate(rows) for rows in zip(*answers, strict=True)]


def _with_batch(model: onnx.ModelProto, batch: int | str, package: ModelPackage) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    signature = package.signature
    set_shape(changed.graph.input[0], (batch, signature.height, signature.width, 3))
    for output, length in zip(changed.graph.output, (signature.classes, signature.features), strict=False):
        set_shape(output, (batch, length))
    return changed


def _first_line(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:300]
