"""Base class of files, streams and V4L2 cameras: each reads from one VideoCapture."""

from __future__ import annotations

from abc import ABC, abstractmethod

from agent.cameras.sources.decoder import Decoder, UnsupportedImage
from agent.cameras.sources.lifecycle import SourceBase
from agent.runtime.clock import Clock
from agent.runtime.records import Image


class DecodedSource(SourceBase, ABC):
    """A source over one decoder, which exists while the source is open."""

    def __init__(self, description: str, *, clock: Clock, advice: str) -> None:
        """``advice`` is the remedy for frames that cannot be used."""
        super().__init__(description, clock=clock)
        self._advice = advice
        self._decoder: Decoder | None = None

    @property
    def fps(self) -> float | None:
        """See Source."""
        return None if self._decoder is None else self._decoder.fps

    def open(self) -> None:
        """See Source."""
        self._lifecycle.check_open()
        if self._decoder is None:
            self._decoder = self._open_decoder()

    def close(self) -> None:
        """See Source."""
        if self._decoder is not None:
            self._decoder.release()
            self._decoder = None

    @abstractmethod
    def _open_decoder(self) -> Decoder:
        """Open a decoder, and reset the source's own state for a first frame.

        Raises:
            SourceUnavailable: see Source.open.
        """

    def _retrieve(self, decoder: Decoder) -> Image:
        """The grabbed frame, as a new array.

        Raises:
            SourceLost: it cannot be decoded, or its format is not supported.
        """
        lost = self._lifecycle.lost
        try:
            image = decoder.retrieve()
        except UnsupportedImage as exc:
            message = (
                f"{self.description} gives frames of {exc}, but the agent reads 8 bits per channel. {self._advice}"
            )
            raise lost("format", message) from exc
        if image is None:
            raise lost("damaged", f"{self.description} gave a frame that cannot be decoded. {self._advice}")
        return image
