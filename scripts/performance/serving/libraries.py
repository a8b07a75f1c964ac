"""The two libraries that the server is made of, alone: each answers every infer at once, with the same scores.

python -m scripts.performance.serving.libraries HTTP_PORT GRPC_PORT
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import orjson
import uvicorn

from engines import PROTOCOL_SERVICE, protocol_message

_THREADS = 32
_SCORES = np.full((1, 4), 0.25, np.float32)
_OUTPUT: dict[str, Any] = {"name": "scores", "datatype": "FP32", "shape": list(_SCORES.shape)}


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Read a body and answer. See ASGI."""
    while scope["method"] == "POST" and (await receive()).get("more_body"):
        pass
    output = {**_OUTPUT, "parameters": {"binary_data_size": _SCORES.nbytes}}
    head = orjson.dumps({"model_name": "m", "model_version": "1", "outputs": [output]})
    body = head + _SCORES.tobytes()
    headers = [
        (b"content-length", b"%d" % len(body)),
        (b"inference-header-content-length", b"%d" % len(head)),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _Calls(grpc.GenericRpcHandler):
    def service(self, handler_call_details: Any) -> Any:
        """See grpc."""
        if handler_call_details.method != f"{PROTOCOL_SERVICE}/ModelInfer":
            return None
        return grpc.unary_unary_rpc_method_handler(
            _answer,
            request_deserializer=protocol_message("ModelInferRequest").FromString,
            response_serializer=protocol_message("ModelInferResponse").SerializeToString,
        )


def _answer(_: Any, __: Any) -> Any:
    response = protocol_message("ModelInferResponse")(model_name="m", model_version="1")
    response.outputs.add(**_OUTPUT)
    response.raw_output_contents.append(_SCORES.tobytes())
    return response


def main(http_port: int, grpc_port: int) -> None:
    """Serve until the process is ended."""
    server = grpc.server(ThreadPoolExecutor(_THREADS), handlers=[_Calls()], maximum_concurrent_rpcs=_THREADS)
    server.add_insecure_port(f"127.0.0.1:{grpc_port}")
    server.start()
    uvicorn.run(answer, port=http_port, loop="uvloop", http="httptools", lifespan="off", log_level="error")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
