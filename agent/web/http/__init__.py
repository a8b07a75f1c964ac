"""The HTTP face: the Open Inference Protocol version 2 with Triton's extensions, and plain REST.

app           the ASGI application: who may call, which route answers, errors
infer         `POST /v2/models/M/infer`: the hot path, without a framework
tensors       what a request and an answer of that path hold
routes        the other calls of the protocol
rest          `GET /v1/models`, `POST /v1/models/M:classify`
forms         the files of a form
openapi       the OpenAPI document and its page
bodies        limits of bodies and of all bodies together
replies       answers and errors
connection    limits of a connection: size and time of a request's head, time of its body
listener      the socket and the thread of the server

Thread: ``serve-http`` runs the event loop of uvicorn; images are decoded, and models loaded, on the threads of
`agent.web.work`.
"""
