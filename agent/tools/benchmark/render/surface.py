"""Two surfaces to draw the same chart on: SVG for the page, pixels by OpenCV for the picture."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Literal, Protocol

import cv2
import numpy as np

Anchor = Literal["start", "middle", "end"]
Point = tuple[float, float]

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
_OVERSAMPLING = 2


class Surface(Protocol):
    """Takes shapes in pixels from the upper left corner; colours are ``#rrggbb``."""

    def rectangle(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """A filled rectangle."""
        ...

    def line(self, points: Sequence[Point], colour: str, *, width: float = 1.0) -> None:
        """A line through ``points``."""
        ...

    def text(
        self, x: float, y: float, words: str, *, size: float, colour: str, anchor: Anchor = "start", bold: bool = False
    ) -> None:
        """``words`` on the base line ``y``."""
        ...


class SvgSurface:
    """Makes an ``<svg>`` element."""

    def __init__(self, width: int, height: int, *, title: str) -> None:
        start = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        self._parts = [f'{start}font-family="{escape(_FONT)}"><title>{escape(title)}</title>']

    def rectangle(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """See Surface."""
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'
        )

    def line(self, points: Sequence[Point], colour: str, *, width: float = 1.0) -> None:
        """See Surface."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}" '
            'stroke-linejoin="round"/>'
        )

    def text(
        self, x: float, y: float, words: str, *, size: float, colour: str, anchor: Anchor = "start", bold: bool = False
    ) -> None:
        """See Surface."""
        weight = ' font-weight="600"' if bold else ""
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill="{colour}" text-anchor="{anchor}"{weight}>'
            f"{escape(words)}</text>"
        )

    def finish(self) -> str:
        """The whole element."""
        return "".join([*self._parts, "</svg>"])


class PixelSurface:
    """Draws at twice the size and scales down, which is what makes the edges smooth."""

    def __init__(self, width: int, height: int) -> None:
        self._image = np.full((height * _OVERSAMPLING, width * _OVERSAMPLING, 3), 255, np.uint8)
        # OpenCV 5 brings a real font; before it there are only fonts made of strokes.
        self._font: Any = cv2.FontFace("sans") if hasattr(cv2, "FontFace") else None

    def rectangle(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """See Surface."""
        corners = np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]]) * _OVERSAMPLING
        cv2.fillPoly(self._image, [np.round(corners).astype(np.int32)], _bgr(colour), cv2.LINE_AA)

    def line(self, points: Sequence[Point], colour: str, *, width: float = 1.0) -> None:
        """See Surface."""
        path = np.round(np.array(points) * _OVERSAMPLING).astype(np.int32)
        thickness = max(1, round(width * _OVERSAMPLING))
        cv2.polylines(
            self._image, [path], isClosed=False, color=_bgr(colour), thickness=thickness, lineType=cv2.LINE_AA
        )

    def text(
        self, x: float, y: float, words: str, *, size: float, colour: str, anchor: Anchor = "start", bold: bool = False
    ) -> None:
        """See Surface."""
        shift = {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor] * self._width_of(words, size, bold=bold)
        at = (round(x * _OVERSAMPLING - shift), round(y * _OVERSAMPLING))
        if self._font is not None:
            weight = 650 if bold else 400
            cv2.putText(self._image, words, at, _bgr(colour), self._font, round(size * _OVERSAMPLING), weight)
            return
        scale, thickness = _stroke_font(size, bold=bold)
        cv2.putText(
            self._image, _plain(words), at, cv2.FONT_HERSHEY_DUPLEX, scale, _bgr(colour), thickness, cv2.LINE_AA
        )

    def finish(self) -> bytes:
        """The picture as PNG."""
        height, width = self._image.shape[:2]
        small = cv2.resize(
            self._image, (width // _OVERSAMPLING, height // _OVERSAMPLING), interpolation=cv2.INTER_AREA
        )
        is_done, data = cv2.imencode(".png", small, [cv2.IMWRITE_PNG_COMPRESSION, 9])
        if not is_done:
            raise RuntimeError("this OpenCV cannot write PNG")
        return data.tobytes()

    def _width_of(self, words: str, size: float, *, bold: bool) -> float:
        if self._font is not None:
            weight = 650 if bold else 400
            # The box covers the ink alone, which leaves out a space at either end: none stands there.
            box = cv2.getTextSize((0, 0), words, (0, 0), self._font, round(size * _OVERSAMPLING), weight)
            return float(box[2])
        scale, thickness = _stroke_font(size, bold=bold)
        return float(cv2.getTextSize(_plain(words), cv2.FONT_HERSHEY_DUPLEX, scale, thickness)[0][0])


def _stroke_font(size: float, *, bold: bool) -> tuple[float, int]:
    """Scale and thickness of the stroke font: its capitals are 22 pixels high at scale 1."""
    return size * _OVERSAMPLING * 0.72 / 22, 3 if bold else 2


def _plain(words: str) -> str:
    """The stroke fonts have ASCII alone."""
    return (
        words.replace("×", "x")
        .replace("–", "-")
        .replace("…", "...")
        .replace("↑", "^")
        .encode("ascii", "replace")
        .decode()
    )


def _bgr(colour: str) -> tuple[int, int, int]:
    return int(colour[5:7], 16), int(colour[3:5], 16), int(colour[1:3], 16)
