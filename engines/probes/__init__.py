"""Probes: small scripts that import a library or ask a driver, each in a child process of its own.

child.py               starting probes and reading their answers
cuda_child.py          the CUDA driver and its devices
import_child.py        whether a package can be imported
onnxruntime_child.py   whether an execution provider computes
tensorrt_child.py      whether TensorRT starts
torch_child.py         whether PyTorch computes
"""
