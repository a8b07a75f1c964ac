"""The fixed buffers of one engine: images in, scores out, at addresses that never change."""

from __future__ import annotations

import contextlib

import numpy as np
import numpy.typing as npt

from engines.backends.tensorrt.cuda import CudaDevice
from engines.backends.tensorrt.cuda.contract import CallFailed, DeviceMemory, HostMemory


class IoBuffers:
    """Buffers for ``rows`` images and their scores.

    ``images`` ``(rows, H, W, 3)`` uint8 and ``scores`` ``(rows, classes)`` float32 are pinned host memory. A discrete
    GPU has a copy of each in device memory, copied on the stream; an integrated GPU works on the host memory itself.
    Create, use and close while the device's context is current.
    """

    def __init__(self, device: CudaDevice, *, rows: int, height: int, width: int, classes: int) -> None:
        """Allocate.

        Raises:
            OutOfMemory: the buffers do not fit.
        """
        self._device = device
        self.is_mapped = device.is_integrated
        self._host: list[HostMemory] = []
        self._copies: list[DeviceMemory] = []
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self._host.append(device.pinned((rows, height, width, 3), np.uint8))
            self._host.append(device.pinned((rows, classes), np.float32))
            self.images: npt.NDArray[np.uint8] = self._host[0].array
            self.scores: npt.NDArray[np.float32] = self._host[1].array
            self.images_address, self.scores_address = map(self._address, self._host)
            undo.pop_all()

    def upload(self, rows: int) -> int:
        """Enqueue the copy of the first ``rows`` images to the device; return the copies per image, 0 or 1."""
        if self.is_mapped:
            return 0
        self._device.context.upload(self.images_address, self.images[:rows])
        return 1

    def download(self, rows: int) -> None:
        """Enqueue the copy of the first ``rows`` scores to the host."""
        if not self.is_mapped:
            self._device.context.download(self.scores[:rows], self.scores_address)

    def close(self) -> None:
        """Free host and device memory. The arrays must not be used afterwards."""
        self.images, self.scores = np.empty((0, 0, 0, 3), np.uint8), np.empty((0, 0), np.float32)
        copies, host, self._copies, self._host = self._copies, self._host, [], []
        for copy in copies:
            with contextlib.suppress(CallFailed):  # a lost device frees nothing
                self._device.context.free_device(copy)
        for memory in host:
            with contextlib.suppress(CallFailed):
                self._device.context.free_host(memory)

    def _address(self, memory: HostMemory) -> int:
        """Return the address for the GPU: of the mapped host memory, or of a copy allocated on the device."""
        if memory.device_address is not None:
            return memory.device_address
        self._copies.append(self._device.allocate(memory.array.nbytes))
        return self._copies[-1].address
