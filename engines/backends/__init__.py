"""The backends: each computes scores behind the contract of ``engines.base.Engine``.

batches.py    what every backend checks about its input and output
onnxruntime/  tensorrt/  torch.py    the backends
triton/       a server of another machine, behind the same contract
load.py       the backend of an engine's name; the only file that imports all of them
"""
