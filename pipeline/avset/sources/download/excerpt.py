"""Cut a span of a video out of its file, or out of its two files, without re-encoding: packets into Matroska."""

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av

from avset.errors import AvsetError, ClipError
from avset.media.container import BACK_OFF, LOCAL, SMALL, open_media, origin, seek, track, whole_packets
from avset.storage.reading import closing_checked

AROUND = 0.3  # s after the span, and of sound before it: for decoders to warm up, and for the resampler's filter
TICKS = 1000  # of Matroska's clock in a second
BITEXACT = {"fflags": "+bitexact", "avoid_negative_ts": "disabled"}  # no random numbers, no dates, our time stamps


def cut(files: Sequence[Callable[[], Any]], start: float, end: float, target: Path) -> float:
    """Write the seconds `start` to `end` of a video as Matroska: the picture track and the sound track that play.

    `files` opens the one file of both, or a file of pictures and a file of sound, which share one clock; their `check`
    raises what FFmpeg was not told. The timeline is that of avset.media.container. Pictures come from the last keyframe
    at or before `start`, sound from `AROUND` earlier. Returns the second of the video at which the timeline of `target`
    starts. The same packets give the same bytes. ClipError corrupt, no_video, no_audio; too_short if the video ends
    before `start`.
    """
    try:
        with _reading(files[0]) as pictures, _reading(files[-1]) as sound:
            clock = min(origin(pictures), origin(sound))
            video, audio = track(pictures, "video"), track(sound, "audio")
            packets = [
                _packets(pictures, video, start + clock, end + clock + AROUND),
                _packets(sound, audio, start + clock - AROUND, end + clock + AROUND),
            ]
            zero, reached = _write([video, audio], packets, target)
    except av.error.MemoryError as error:
        raise AvsetError("a video does not fit into memory; set runtime.download.workers lower") from error
    except av.error.FFmpegError as error:
        raise ClipError("corrupt", f"the video cannot be read: {error.strerror}") from error
    if reached / TICKS - clock <= start:
        raise ClipError("too_short", f"the video ends at {reached / TICKS - clock:.2f} s, not after {start:.2f} s")
    with open_media(target) as container:
        return min(zero / TICKS - clock + origin(container), start)  # a tick may have been rounded up


@contextmanager
def _reading(opener: Callable[[], Any]) -> Iterator[Any]:
    """An open container on one file. It reads nothing else, whatever a playlist in the file asks for."""
    options = {**LOCAL, "protocol_whitelist": "none"}
    with (
        closing_checked(opener()) as file,
        av.open(file, metadata_errors="replace", container_options=options, options=SMALL) as container,
    ):
        yield container


def _packets(container: Any, stream: Any, start: float, end: float) -> Iterator[Any]:
    """Packets of a track, in decoding order, that give what it has from `start` to `end` (s on its clock)."""
    first, last = start / stream.time_base, end / stream.time_base
    lead = None
    for packet in _from_keyframe(container, stream, start):
        if (packet.pts if packet.dts is None else packet.dts) > last:
            return
        lead = packet.pts if lead is None else lead
        if stream.type == "video" and packet.pts < lead:  # a picture before the keyframe needs others before it
            continue
        if stream.type == "video" or packet.pts + (packet.duration or 0) >= first:
            yield packet


def _from_keyframe(container: Any, stream: Any, start: float) -> Iterator[Any]:
    """Packets of a track, the first one a keyframe that is at or before `start` (s on its clock) if there is one.

    It seeks earlier if it landed too late, like avset.media.container.decode_from.
    """
    for lead in BACK_OFF:
        seconds = start - lead - origin(container)
        if lead or seconds > 0:
            try:
                seek(container, stream, seconds)
            except av.error.FFmpegError:
                if seconds > 0:
                    continue
        packets = (p for p in whole_packets(container, stream) if p.size and p.pts is not None)
        first = next((p for p in packets if p.is_keyframe), None)
        if seconds <= 0 or (first is not None and first.pts <= start / stream.time_base):
            return chain([first], packets) if first is not None else packets
    raise AssertionError("the last lead is infinite")


def _write(tracks: list[Any], packets: list[Iterator[Any]], target: Path) -> tuple[int, int]:
    """Mux the packets of the tracks. Returns the ticks of their clock at which the target starts and ends.

    ClipError("corrupt") if Matroska has no place for a codec.
    """
    firsts = [next(track, None) for track in packets]
    zero = min((math.floor(p.pts * p.time_base * TICKS) for p in firsts if p is not None), default=0)
    reached = zero
    with target.open("wb") as file, av.open(file, "w", format="matroska", options=BITEXACT) as output:
        try:
            streams = [output.add_stream_from_template(stream, opaque=True) for stream in tracks]
        except ValueError as error:
            raise ClipError("corrupt", f"Matroska cannot hold it: {error}") from error
        output.start_encoding()
        moved = [
            _moved(chain([first], rest), stream, zero)
            for first, rest, stream in zip(firsts, packets, streams, strict=True)
            if first is not None
        ]
        for packet in heapq.merge(*moved, key=lambda packet: packet.dts):
            reached = max(reached, zero + packet.pts + packet.duration)
            output.mux(packet)
    return zero, reached


def _moved(packets: Iterator[Any], stream: Any, zero: int) -> Iterator[Any]:
    """The packets as ones of another stream, in ticks after `zero`; each has a decoding time, none goes back."""
    last = None
    for packet in packets:
        up, down = packet.time_base.numerator * TICKS, packet.time_base.denominator
        packet.pts = (2 * packet.pts * up + down) // (2 * down) - zero
        if packet.dts is None:
            dts = packet.pts if last is None else last
        else:
            dts = (2 * packet.dts * up + down) // (2 * down) - zero
        last = packet.dts = min(dts if last is None else max(dts, last), packet.pts)
        packet.duration = (packet.duration or 0) * up // down
        packet.stream, packet.time_base = stream, Fraction(1, TICKS)
        yield packet
