"""Encodes a frame as JPEG."""

from __future__ import annotations

import cv2

from agent.runtime.errors import AgentError
from agent.runtime.records import Image


def jpeg_from_image(image: Image, *, max_width: int, quality: int) -> tuple[bytes, int, int]:
    """The JPEG of ``(H, W, 3)`` uint8 BGR, with its width and height; scaled down to ``max_width``.

    Raises:
        AgentError: OpenCV cannot encode it.
    """
    height, width = image.shape[:2]
    if width > max_width:
        height, width = max(1, round(height * max_width / width)), max_width
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]  # the library knows no dtype
    is_done, content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not is_done:
        raise AgentError(f"a frame of {width} x {height} pixels cannot be encoded as JPEG")
    return content.tobytes(), width, height
