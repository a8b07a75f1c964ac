"""The boundary to CUDA: one small interface, PyCUDA or cuda-bindings behind it.

contract.py   what the engine needs of a CUDA library, and how a failed call is told
pycuda.py     through PyCUDA, which must be compiled on the board
bindings.py   through cuda-bindings, NVIDIA's wheels: no compiler needed
choice.py     which of the two is used
device.py     one device with its context: errors become those of `engines.errors`
graphs.py     CUDA graphs, always through cuda-bindings: PyCUDA has none
"""

from engines.backends.tensorrt.cuda.device import CudaDevice

__all__ = ["CudaDevice"]
