"""Models for programs: the Open Inference Protocol version 2 over HTTP and gRPC, and plain REST.

served_models  the facade on which every face stands: models, requests, statistics, load and unload
descriptions   metadata, configuration, statistics and index as the protocol has them
inputs         the section, tokens and certificate of a server, read and checked
tokens         who may call, and how often
call_faults    what is said and logged when a call ends by a fault of the server
work           threads that decode images and load models
http/          the HTTP face
grpc/          the gRPC face
page/          the page for people, on the HTTP face
service        the server of one configuration, which a reload replaces

No library of the faces is imported unless `serve` has an address.
"""
