"""Models for programs: the Open Inference Protocol version 2 over HTTP, and plain REST.

served_models  the facade on which every face stands: models, requests, statistics, load and unload

Nothing here is imported unless `serve` has an address.
"""
