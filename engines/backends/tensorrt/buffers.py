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
            OutOfMemory: it does not fit.
        """
        self._device = device
        self.is_mapped = device.is_integrated
        self._host: list[HostMemory] = []
        self._twins: list[DeviceMemory] = []
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self._host.append(device.pinned((rows, height, width, 3), np.uint8))
            self._host.append(device.pinned((rows, classes), np.float32))
            self.images: npt.NDArray[np.uint8] = self._host[0].array
            self.scores: npt.NDArray[np.float32] = self._host[1].array
            self.images_address, self.scores_address = map(self._address, self._host)
            undo.pop_all()

    def upload(self, rows: int) -> int:
        """Enqueue the copy of the first ``rows`` images to the device; return how many copies that is per image (0 or
        1).
        """
        if self.is_mapped:
            return 0
        self._device.context.upload(self.images_address, self.images[:rows])
        return 1

    def download(self, rows: int) -> None:
        """Enqueue the copy of the first ``rows`` scores to the host."""
        if not self.is_mapped:
            self._device.context.download(self.scores[:rows], self.scores_address)

    def close(self) -> None:
        """Free both parts. The arrays must not be used any more: their memory is gone."""
        self.images, self.scores = np.empty((0, 0, 0, 3), np.uint8), np.empty((0, 0), np.float32)
        twins, host, self._twins, self._host = self._twins, self._host, [], []
        for twin in twins:
            with contextlib.suppress(CallFailed):  # a lost device frees nothing any more
                self._device.context.free_device(twin)
        for memory in host:
            with contextlib.suppress(CallFailed):
                self._device.context.free_host(memory)

    def _address(self, memory: HostMemory) -> int:
        """Where the GPU finds it: in place, or in a twin on the device."""
        if memory.device_address is not None:
            return memory.device_address
        self._twins.append(self._device.allocate(memory.array.nbytes))
        return self._twins[-1].address
