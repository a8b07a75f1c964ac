"""The ONNX Runtime engines ``ort-*``: one class for every execution provider.

options.py    the options of each provider
session.py    a session that runs where it was asked to run
cpu_graph.py  the graph as optimised for this CPU
tensorrt.py   what the TensorRT provider is given
providers.py  opening a session on each provider
engine.py     the engine
"""
