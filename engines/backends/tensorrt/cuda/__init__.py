"""The boundary to CUDA: one small interface, with PyCUDA or cuda-bindings behind it.

contract.py     what the engine needs of a CUDA library, and the exception for a failed call
pycuda.py       the contract on PyCUDA, which must be compiled on the board
bindings.py     the contract on cuda-bindings, NVIDIA's own wheels
libraries.py    selects one of the two
device.py       one device with its context and stream; translates failed calls into ``engines.errors``
graphs.py       CUDA graphs, always through cuda-bindings, because PyCUDA has none
probe_child.py  probe: which library works here
"""

from engines.backends.tensorrt.cuda.device import CudaDevice

__all__ = ["CudaDevice"]
