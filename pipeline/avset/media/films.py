"""Films with another sound: the pictures are copied as they are coded, packet by packet, or drawn anew."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from fractions import Fraction
from heapq import merge
from pathlib import Path
from typing import Any
from uuid import uuid4

import av
import numpy as np
from av.codec.context import Flags
from jaxtyping import Float32, UInt8

from avset.compute.limited import Limits
from avset.errors import AvsetError, ClipError
from avset.media.container import open_media, origin, track, whole_packets
from avset.media.frames import CHROMA
from avset.media.writers import AudioWriter
from avset.storage.files import place

COPIED = {"h264", "hevc", "av1", "vp9", "mpeg4", "mpeg2video"}  # codecs of pictures that an MP4 has, and players show
TOLD = 1.0  # s of a film, from one sign of life to the next
TICKS = 90_000  # a second: time stamps of pictures that are drawn
X264 = {"preset": "veryfast", "crf": "20", "x264-params": "cpu-independent=1"}
GOP = 50  # pictures from one keyframe to the next
Drawing = Callable[[Path], None]  # writes a film without sound, as `write_pictures` does


def check_film(path: Path, pictures: str, drawn: bool = False) -> None:
    """AvsetError if the pictures of a film, by their codec ("" for none), cannot be copied into `path`.

    Pictures that are `drawn` anew may have any codec.
    """
    if not pictures or not (drawn or pictures in COPIED):
        why = f"pictures of {pictures} are not copied into .mp4" if pictures else "the input has no pictures"
        raise AvsetError(f"cannot write {str(path)!r}: {why}; give a sound, as .m4a or .wav")


class FilmWriter:
    """The pictures of a film with another sound, block by block, as .mp4; otherwise as `AudioWriter`.

    The sound begins at time 0 of the film's timeline, as that of `read_blocks` does. `draw` draws other pictures when
    the sound is there. Without a block the film is silent.
    """

    bits = 0

    def __init__(
        self, path: Path, sample_rate: int, overwrite: bool, film: Path, limits: Limits, draw: Drawing | None = None
    ):
        self.path, self.overwrite, self._film, self._limits, self._draw = path, overwrite, film, limits, draw
        self._target = path.resolve()
        mark, ends = uuid4().hex, (".m4a", ".mp4", "")
        self._heard, self._drawn, self._temporary = (self._target.with_name(f".writing-{mark}{end}") for end in ends)
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
                self._target.parent.mkdir(parents=True, exist_ok=True)
                film, heard = self._film, self._heard if self._heard.exists() else None
                if self._draw:
                    self._draw(self._drawn)
                    film = self._drawn
                for _seconds in self._limits.each(joined, film, heard, self._temporary):
                    pass
                if self._target.exists() and not self.overwrite:
                    raise AvsetError(f"cannot write {str(self.path)!r}: another process made it meanwhile")
                place(self._temporary, self._target)
        except (OSError, ClipError) as e:
            raise AvsetError(f"cannot write {str(self.path)!r}: {e}; see the pictures of the input") from e
        finally:
            for path in (self._heard, self._drawn, self._temporary):
                with suppress(OSError):
                    path.unlink()


def write_pictures(target: Path, pictures: Iterable[tuple[float, UInt8[np.ndarray, "H W 3"]]]) -> None:
    """Encode pictures of one even size, each with its time (s), as an MP4 (H.264) without sound.

    Times are ascending and begin at 0; of pictures at the same time the first one is there. One thread, no date: the
    same pictures make the same bytes.
    """
    with av.open(str(target), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=25, options=X264)
        stream.pix_fmt, stream.gop_size, last = "yuv420p", GOP, -1
        stream.codec_context.time_base = Fraction(1, TICKS)
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= Flags.bitexact
        for seconds, pixels in pictures:
            if last < 0:
                stream.height, stream.width = pixels.shape[:2]
            if (ticks := round(seconds * TICKS)) > last:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
                frame = frame.reformat(format="yuv420p", interpolation=CHROMA)
                frame.pts, frame.time_base, last = ticks, Fraction(1, TICKS), ticks
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def joined(film: Path, sound: Path | None, target: Path) -> Iterator[float]:
    """Write an MP4 with the pictures of `film` and the sound of `sound`; yields the seconds that are done."""
    with ExitStack() as files, av.open(str(target), "w", format="mp4") as output:
        opened = [(files.enter_context(open_media(film)), "video")]
        opened += [(files.enter_context(open_media(sound)), "audio")] if sound else []
        sources = [(container, track(container, kind)) for container, kind in opened]
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
