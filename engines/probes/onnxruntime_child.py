"""Runs a small session on one execution provider and prints as JSON which provider really ran it."""

from __future__ import annotations

import json
import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, helper


def _model() -> bytes:
    shape = [1, 3, 8, 8]
    weights = helper.make_tensor("w", TensorProto.FLOAT, [4, 3, 3, 3], [0.01] * 108)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 6, 6])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def main() -> None:
    """Probe the provider named by the first argument, for instance CUDAExecutionProvider."""
    wanted = sys.argv[1]
    if wanted == "TensorrtExecutionProvider":
        import tensorrt  # noqa: F401 loads the libraries that the provider is linked against
    if hasattr(onnxruntime, "preload_dlls") and wanted in ("TensorrtExecutionProvider", "CUDAExecutionProvider"):
        onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 2
    if wanted != "CPUExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = onnxruntime.InferenceSession(_model(), options, providers=[wanted], enable_fallback=0)
    session.disable_fallback()
    scores = session.run(None, {"x": np.ones((1, 3, 8, 8), np.float32)})[0]
    answer = {
        "provider": session.get_providers()[0],
        "right": bool(np.allclose(scores, 0.27, atol=1e-2)),
        "version": onnxruntime.__version__,
    }
    print(json.dumps(answer))  # noqa: T201 the answer


if __name__ == "__main__":
    main()
