"""A remote engine: a server of the Open Inference Protocol v2, such as Triton or another agent.

options.py    url, model, protocol, time limit, TLS, token
server.py     what both protocols have in common: the contract, the model's signature, the checks of an answer
http.py       JSON and raw tensors over one kept HTTP connection
messages.py   the protocol's protobuf messages, without generated code
grpc.py       the same calls over gRPC
engine.py     the engine: signature held against the package, one deadline per call
"""

import os

# gRPC's core would write a line of plain text to stderr for each failed handshake; it reads this when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
