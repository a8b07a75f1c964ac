"""The fixed buffers of one engine: images in, scores out, at addresses that never change."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.backends.tensorrt.cuda import CudaDevice


class IoBuffers:
    """Buffers for ``rows`` images and their scores.

    ``images`` ``(rows, H, W, 3)`` uint8 and ``scores`` ``(rows, classes)`` float32 are pinned host memory. A discrete
    GPU has a
    copy of each in device memory, copied on the stream; an integrated GPU works on the host memory itself. Create, use
    and
    close while the device's context is current.
    """

    def __init__(self, device: CudaDevice, *, rows: int, height: int, width: int, classes: int) -> None:
        """Allocate.

        Raises:
            OutOfMemory: it does not fit.
        """
        self._device = device
        self.images: npt.NDArray[np.uint8] = device.pinned((rows, height, width, 3), np.uint8)
        self.scores: npt.NDArray[np.float32] = device.pinned((rows, classes), np.float32)
        self.is_mapped = device.is_integrated
        self._device_memory: list[Any] = []
        if self.is_mapped:
            self.images_address = _mapped_address(self.images)
            self.scores_address = _mapped_address(self.scores)
        else:
            self._device_memory = [device.allocate(self.images.nbytes), device.allocate(self.scores.nbytes)]
            self.images_address, self.scores_address = map(int, self._device_memory)

    def upload(self, rows: int) -> int:
        """Enqueue the copy of the first ``rows`` images to the device; return how many copies that is per image (0 or
        1).
        """
        if self.is_mapped:
            return 0
        self._device.driver.memcpy_htod_async(self.images_address, self.images[:rows], self._device.stream)
        return 1

    def download(self, rows: int) -> None:
        """Enqueue the copy of the first ``rows`` scores to the host."""
        if not self.is_mapped:
            self._device.driver.memcpy_dtoh_async(self.scores[:rows], self.scores_address, self._device.stream)

    def close(self) -> None:
        """Free the device memory; the pinned memory is freed with its arrays."""
        for memory in self._device_memory:
            with contextlib.suppress(self._device.driver.Error):  # a lost device cannot free anything
                memory.free()
        self._device_memory = []
        del self.images, self.scores


def _mapped_address(array: npt.NDArray[Any]) -> int:
    base: Any = array.base
    return int(base.get_device_pointer())
