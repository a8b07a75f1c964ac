"""The gRPC face: the service `GRPCInferenceService` of the Open Inference Protocol version 2.

calls      the calls of the service, on the facade of `agent.web.served_models`
tensors    from a request's messages to an infer call, and from scores to messages
listener   the port, the threads and the TLS of the server

Threads: ``serve-grpc_N`` run one call each, and a thread of gRPC's own takes them in.
"""

import os

# As in engines.backends.triton, for a server without that engine: a client could fill the log with failed handshakes.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
