"""A frame as its video decoder gives it: brightness and colour apart, the colour in fewer pixels.

Scaling and converting commute but for rounding, and a converted frame has twice as many bytes. So a frame is scaled
plane by plane, and only the small image becomes BGR.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.base import Images


@dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """One frame, read-only; its arrays keep the memory of the decoder.

    ``y`` is ``(H, W)`` uint8, ``u`` and ``v`` are ``(H / n, W / n)`` uint8: n is 2 for 4:2:0, and 1 for 4:4:4.
    ``to_bgr`` is ``(3, 4)`` float32 and gives B, G and R as its products with (Y, U, V, 1), see ``yuv_to_bgr``.

    Raises:
        ValueError: the planes do not cover each other; a bug in the caller.
    """

    y: Images
    u: Images
    v: Images
    to_bgr: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        n = self.step
        if self.u.shape != self.v.shape or self.y.shape != (self.u.shape[0] * n, self.u.shape[1] * n):
            raise ValueError(f"y is {self.y.shape}, but u is {self.u.shape} and v is {self.v.shape}")

    @property
    def step(self) -> int:
        """Pixels of ``y`` on each side that share one of ``u`` and ``v``."""
        return max(self.y.shape[0] // max(self.u.shape[0], 1), 1)

    @property
    def black(self) -> tuple[int, int, int]:
        """Y, U and V of black."""
        return round(float(-self.to_bgr[1] @ (0.0, 128.0, 128.0, 1.0)) / self.contrast), 128, 128

    @property
    def contrast(self) -> float:
        """By how much a step of Y is greater in BGR."""
        return float(self.to_bgr[1, 0])

    def part(self, top: int, bottom: int, left: int, right: int) -> Planes:
        """Views of the pixels from ``top`` and ``left`` to before ``bottom`` and ``right``.

        They are cut where they share no colour, so the part may be larger by ``step - 1`` pixels on each side.
        """
        n = self.step
        rows, columns = slice(top // n, -(-bottom // n)), slice(left // n, -(-right // n))
        y = self.y[rows.start * n : rows.stop * n, columns.start * n : columns.stop * n]
        return Planes(y, self.u[rows, columns], self.v[rows, columns], self.to_bgr)


def yuv_to_bgr(red: float, blue: float, *, is_full_range: bool) -> npt.NDArray[np.float32]:
    """``(3, 4)`` float32: B, G and R from (Y, U, V, 1), where ``red`` and ``blue`` are their shares of the brightness.

    Source: ITU-T H.273, 8.3, equations for MatrixCoefficients and VideoFullRangeFlag, with 8 bits.
    """
    green = 1.0 - red - blue
    luma, chroma, offset = (1.0, 1.0, 0.0) if is_full_range else (255.0 / 219.0, 255.0 / 224.0, 16.0)
    by_u, by_v = 2.0 * (1.0 - blue) * chroma, 2.0 * (1.0 - red) * chroma
    matrix = np.array(
        [[luma, by_u, 0.0], [luma, -by_u * blue / green, -by_v * red / green], [luma, 0.0, by_v]], np.float64
    )
    return np.column_stack((matrix, -matrix @ (offset, 128.0, 128.0))).astype(np.float32)
