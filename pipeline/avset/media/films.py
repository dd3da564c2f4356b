"""Films with another sound: the pictures are copied as they are coded, packet by packet."""

from collections.abc import Iterator
from contextlib import suppress
from heapq import merge
from pathlib import Path
from typing import Any
from uuid import uuid4

import av
import numpy as np
from jaxtyping import Float32

from avset.compute.limited import Limits
from avset.errors import AvsetError, ClipError
from avset.media.container import open_media, origin, track, whole_packets
from avset.media.writers import AudioWriter
from avset.storage.files import place

COPIED = {"h264", "hevc", "av1", "vp9", "mpeg4", "mpeg2video"}  # codecs of pictures that an MP4 has, and players show
TOLD = 1.0  # s of a film, from one sign of life to the next


def check_film(path: Path, pictures: str) -> None:
    """AvsetError if the pictures of a film, by their codec ("" for none), cannot be copied into `path`."""
    if pictures not in COPIED:
        why = f"pictures of {pictures} are not copied into .mp4" if pictures else "the input has no pictures"
        raise AvsetError(f"cannot write {str(path)!r}: {why}; give a sound, as .m4a or .wav")


class FilmWriter:
    """The pictures of a film with another sound, block by block, as .mp4; otherwise as `AudioWriter`.

    The sound begins at time 0 of the film's timeline, as that of `read_blocks` does.
    """

    bits = 0

    def __init__(self, path: Path, sample_rate: int, overwrite: bool, film: Path, limits: Limits):
        self.path, self.overwrite, self._film, self._limits = path, overwrite, film, limits
        self._target = path.resolve()
        mark = uuid4().hex
        self._heard, self._temporary = (self._target.with_name(f".writing-{mark}{end}") for end in (".m4a", ""))
        self._sound = AudioWriter(self._heard, sample_rate)

    def __enter__(self) -> "FilmWriter":
        return self

    def write(self, waveform: Float32[np.ndarray, "*C n"]) -> None:
        """As of an `AudioWriter`."""
        self._sound.write(waveform)

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            self._sound.__exit__(error)
            if error is None:
                for _seconds in self._limits.each(joined, self._film, self._heard, self._temporary):
                    pass
                if self._target.exists() and not self.overwrite:
                    raise AvsetError(f"cannot write {str(self.path)!r}: another process made it meanwhile")
                place(self._temporary, self._target)
        except (OSError, ClipError) as e:
            raise AvsetError(f"cannot write {str(self.path)!r}: {e}; give a sound, as .m4a or .wav") from e
        finally:
            for path in (self._heard, self._temporary):
                with suppress(OSError):
                    path.unlink()


def joined(film: Path, sound: Path, target: Path) -> Iterator[float]:
    """Write an MP4 with the pictures of `film` and the sound of `sound`; yields the seconds that are done."""
    with open_media(film) as pictures, open_media(sound) as heard, av.open(str(target), "w", format="mp4") as output:
        sources = (pictures, track(pictures, "video")), (heard, track(heard, "audio"))
        copies = [output.add_stream_from_template(stream) for _, stream in sources]
        told = 0.0
        parts = (_packets(*source, number) for number, source in enumerate(sources))
        for seconds, number, packet in merge(*parts, key=lambda item: item[0]):
            packet.stream = copies[number]
            output.mux(packet)
            if seconds > told + TOLD:
                told = seconds
                yield seconds


def _packets(container: Any, stream: Any, number: int) -> Iterator[tuple[float, int, Any]]:
    """The packets of a track, each with its time of decoding (s) on the timeline of its file, and with `number`."""
    late = round(origin(container) / stream.time_base) if stream.type == "video" else 0
    for packet in _timed(packet for packet in whole_packets(container, stream) if packet.size):
        packet.pts = (packet.dts if packet.pts is None else packet.pts) - late
        packet.dts -= late
        yield float(packet.dts * stream.time_base), number, packet


def _timed(packets: Iterator[Any]) -> Iterator[Any]:
    """Packets that all have a time of decoding: Matroska does not tell that of the first ones, before it reorders."""
    held: list[Any] = []
    for packet in packets:
        held.append(packet)
        if packet.dts is not None:
            for before, one in enumerate(reversed(held)):
                one.dts = packet.dts - before * max(1, packet.duration or 1) if one.dts is None else one.dts
            yield from held
            held.clear()
