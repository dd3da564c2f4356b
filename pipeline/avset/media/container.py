"""A media file: opened with care, probed, sought, decoded from a time on.

The timeline of a file starts with its earliest track, as in a player. Time 0 is the container's start time if that is
positive (an MPEG-TS may start at 1.4 s), else the zero of its clock: codec priming has negative time stamps and is not
shown. Pictures and sound share the timeline. The clock of MPEG starts anew after 26.5 hours; the timeline goes on.
"""

import math
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition

from avset.errors import ClipError
from avset.storage.reading import PatientFile, closing_checked

TAIL = 0.5  # s by which a track may end too early: its last picture stays, its sound is padded with zeros
ROUNDING = 5e-4  # s; Matroska rounds time stamps to milliseconds
BACK_OFF = (0.0, 1.0, 4.0, 16.0, 64.0, 256.0, math.inf)  # s before the time asked for, until a seek lands before it
NEAR = 4.0  # s before the end of a track; from there on all packets are read
CONTAINERS = (  # containers that hold their media themselves: no playlists, pictures, texts
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,nut,mxf,gxf,rm,dv,wtv,aac,ac3,aiff,amr,ape,au,caf,eac3,flac,"
    "mp3,tta,w64,wav,wv"
)
UNTIMED = {("avi", "vorbis")}  # packets of unequal length in a container that counts them
OWN_ENDS = {"mov,mp4,m4a,3gp,3g2,mj2", "avi"}  # containers that say for each track where it ends
CLOCKS = {"mpegts", "mpeg"}  # containers whose clock starts anew after `PERIOD` ticks
PERIOD = 2**33
CLOCK_RATE = 90000  # ticks a second
EARLIEST = 60  # s before the start of a file that one of its time stamps may lie
LOCAL = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}


# Limits: values beyond them come from a damaged header.
MOST_OBLONG = 32  # longer side of a picture by its shorter one
MOST_PIXELS = 2**25  # of a picture, a little more than 8K
MOST_PICTURES = 1000  # a second
SMALL = {"max_pixels": str(MOST_PIXELS)}  # of every decoder, also of those that look for what a track is
SPARSEST = 16  # bytes of a file a second
FAR = 2**63 - 1  # ticks


@dataclass(frozen=True)
class Media:
    """What is in a media file. The picture's size is as shown: turned upright, with square pixels."""

    duration: float  # s that can be used from time 0 on: pictures and sound reach so far, save `TAIL` at most
    declared: float  # s that the file says it lasts; not less than `duration`
    width: int  # pixels
    height: int
    fps: float  # mean rate; 0 if unknown
    sample_rate: int  # Hz
    channels: int


@contextmanager
def open_media(path: Path, source: Any = None) -> Iterator[Any]:
    """An open PyAV container. An error of FFmpeg, here or in the block, becomes ClipError("corrupt").

    It reads `source` if that is given, an open file, and closes it. No other file is opened, whatever a playlist or a
    reference inside the file asks for. FFmpeg takes an error of the disk for the end of the file, so a `PatientFile`
    reads for it.
    ClipError("missing") if the file is not there, "system" if the machine cannot read it now, whatever FFmpeg made of
    that; AvsetError if this user may not read it.
    """
    container = None
    with closing_checked(source or PatientFile(path)) as file:
        try:
            with av.open(file, metadata_errors="replace", container_options=LOCAL, options=SMALL) as container:
                yield container
        except av.error.MemoryError as error:
            raise ClipError("system", f"{path.name!r}: {error.strerror}") from error
        except av.error.FFmpegError as error:
            unknown = container is None and isinstance(error, av.error.ArgumentError)
            told = "it has none of the formats that are read" if unknown else error.strerror
            raise ClipError("corrupt", f"{path.name!r}: {told}") from error


def playing(container: Any, kind: str) -> list[Any]:
    """The "video" or "audio" streams, without cover art."""
    return [s for s in container.streams if s.type == kind and not s.disposition & Disposition.attached_pic]


def has(path: Path, kind: str) -> bool:
    """Whether a file has a "video" or "audio" track that plays. ClipError as of `open_media`."""
    with open_media(path) as container:
        return bool(playing(container, kind))


def track(container: Any, kind: str) -> Any:
    """The "video" or "audio" stream that plays: the first one marked as default, else the first; never cover art.

    ClipError no_video or no_audio if there is none; corrupt if the format of the stream is unknown.
    """
    streams = playing(container, kind)
    if not streams:
        raise ClipError(f"no_{kind}")
    stream = max(streams, key=lambda s: bool(s.disposition & Disposition.default))
    if stream.codec_context is None or not stream.time_base:
        raise ClipError("corrupt", f"the {kind} track has an unknown format")
    if (container.format.name, stream.codec_context.name) in UNTIMED:
        raise ClipError("corrupt", f"{stream.codec_context.name} in {container.format.name} has no time stamps")
    stream.codec_context.thread_count = 1  # clips are spread over processes
    stream.codec_context.options = SMALL
    return stream


def time_of(frame: Any, container: Any) -> float:
    """Seconds of a decoded frame on the file's timeline."""
    return float(frame.time) - origin(container)


def origin(container: Any) -> float:
    """Seconds on the container's clock at which the file's timeline starts."""
    start = (container.start_time or 0) / av.time_base
    if container.format.name not in CLOCKS:
        return max(start, 0.0)
    starts = [s.start_time for s in container.streams if s.start_time is not None]
    return start + min((_wrapped(ticks - min(starts), PERIOD // 2) for ticks in starts), default=0) / CLOCK_RATE


def _wrapped(ticks: int, before: int) -> int:
    """Ticks after some time, at least -`before`, whenever the clock started anew."""
    return (ticks + before) % PERIOD - before


def declared_length(container: Any) -> float:
    """Seconds that a container says it lasts; inf if it says nothing."""
    length = (container.duration or 0) / av.time_base
    if container.format.name == "avi":  # its length is that of the pictures; FFmpeg shortens that of a cut file
        length = max([length, *(_counted(stream) for stream in playing(container, "video"))])
        sound = max((_counted(stream) for stream in playing(container, "audio")), default=0.0)
        length = sound if sound > length + TAIL else length
    elif container.format.name in CLOCKS and length * CLOCK_RATE > PERIOD / 2:  # the clock started anew
        length = max(declared_end(container, s) for s in container.streams if s.start_time is not None)
    return length if length > 0 else math.inf


def declared_end(container: Any, stream: Any) -> float:
    """Seconds on the file's timeline at which a track says it ends; inf if it says nothing (Matroska)."""
    if stream.duration is None:
        return math.inf
    end = (stream.start_time or 0) + stream.duration
    if container.format.name in CLOCKS:
        end = _on_clock(end, round(origin(container) * CLOCK_RATE))
    told = float(end * stream.time_base) - origin(container)
    return max(told, _counted(stream)) if container.format.name == "avi" else told


def _counted(stream: Any) -> float:
    """Seconds of a track of an AVI by the number of its pictures or samples."""
    return float(stream.frames * stream.time_base)


def shown_end(container: Any, end: float, enough: float) -> float:
    """Seconds up to which the last picture stays on screen, if the pictures' track ends at `end`.

    As long as the sound goes on, unless the container says of the pictures' track where it ends. The sound is looked
    for up to `enough`.
    """
    sound = [] if container.format.name in OWN_ENDS else playing(container, "audio")
    return max([end, *(track_end(container, stream, enough) for stream in sound)])


def seek(container: Any, stream: Any, seconds: float, any_frame: bool = False) -> None:
    """Seek to a keyframe of a track at or before some time, or to any frame, as well as the file allows."""
    guide, clock = stream, seconds + origin(container) if seconds > 0 else min(origin(container), 0.0)
    if container.format.name.startswith("matroska") and seconds > _indexed(container, stream):
        container.seek(0, stream=stream)  # this reads the index, often that of the pictures alone
        guide = max((stream, *container.streams.video), key=lambda s: _indexed(container, s))
    ticks = max(-FAR, min(math.floor(clock / guide.time_base), FAR))
    if seconds <= 0 and len(guide.index_entries):  # AAC: a packet before time 0 makes the next one whole
        ticks = min(ticks, guide.index_entries[0].timestamp)
    try:
        container.seek(ticks, stream=guide, any_frame=any_frame)
    except av.error.FFmpegError:
        if seconds > 0:
            raise
        container.seek(ticks, stream=guide, backward=False)  # the first picture is not marked as a keyframe


def _indexed(container: Any, stream: Any) -> float:
    """Seconds of the last entry in the index of a track; -inf if it has none."""
    entries = stream.index_entries
    return float(entries[-1].timestamp * stream.time_base) - origin(container) if len(entries) else -math.inf


def whole_packets(container: Any, stream: Any) -> Iterator[Any]:
    """The packets of a track from the position of the file on, without those cut off. The last packet is empty."""
    first = round(origin(container) * CLOCK_RATE) if container.format.name in CLOCKS else None
    with suppress(IndexError):  # PyAV raises it after the last packet if tracks turned up meanwhile
        for packet in container.demux(stream):
            if first is not None:
                packet.pts, packet.dts = _on_clock(packet.pts, first), _on_clock(packet.dts, first)
            if not packet.is_corrupt:
                yield packet


def _on_clock(stamp: int | None, first: int) -> int | None:
    """A time stamp in ticks on a clock that goes on from `first`."""
    return None if stamp is None else first + _wrapped(stamp - first, EARLIEST * CLOCK_RATE)


def decode_from(container: Any, stream: Any, seconds: float) -> Iterator[Any]:
    """Decoded frames of one track in order; the first is at or before `seconds`, if there is such a frame.

    A seek may land too late (reordered pictures, a track without index, missing data): then an earlier one follows, at
    last to the beginning. A file without seeking is read on from its position.
    """
    lag = _lag(container, stream)
    for lead in BACK_OFF:
        target = max(seconds - lead, 0.0)
        try:
            seek(container, stream, target)
        except av.error.FFmpegError:
            if target > 0:
                continue
        packets = whole_packets(container, stream)
        if target > 0 and stream.type == "video":  # before a keyframe some decoders show grey
            packets = dropwhile(lambda p: not p.is_keyframe, packets)
        frames = _decoded(packets, stream, lag, target > 0)
        first = next(frames, None)
        if target == 0 or (first is not None and time_of(first, container) <= seconds + ROUNDING):
            if first is not None:
                yield first
            yield from frames
            return


def _decoded(packets: Iterator[Any], stream: Any, lag: int | None, sought: bool) -> Iterator[Any]:
    """The frames in some packets; after a seek the first packets may be damaged.

    With a `lag`, frames get a tick each, in the decoder's order: FFmpeg would guess their times. A frame without a time
    stamp follows the one before it.
    """
    following, last = 0, None
    for packet in packets:
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            if not sought:
                raise
            continue
        first = following if packet.dts is None or lag is None else packet.dts - lag
        following = first + 1
        for at, frame in enumerate(frames, first):  # the last packet empties the decoder: several frames
            if lag is not None:
                frame.pts = at
            elif frame.pts is None and last is None and sought:  # nobody knows what it follows
                continue
            elif frame.pts is None:
                frame.pts, frame.time_base = _end(last, stream), stream.time_base
            sought, last = False, frame
            yield frame


def _end(frame: Any, stream: Any) -> int:
    """Ticks at which a frame of a track ends; without a frame, those at which the track starts."""
    if frame is None:
        return stream.start_time or 0
    if stream.type == "audio":
        return frame.pts + round(frame.samples / (frame.sample_rate * stream.time_base))
    return frame.pts + (frame.duration or round(1 / ((stream.average_rate or 1) * stream.time_base)))


def _lag(container: Any, stream: Any) -> int | None:
    """How many pictures enter the decoder before one leaves it; None if the container has a clock (is not AVI)."""
    if container.format.name != "avi" or stream.type != "video":
        return None
    seek(container, stream, 0.0)
    for count, packet in enumerate(whole_packets(container, stream)):
        if packet.decode():
            return count
    return 0


def probe(path: Path, sound: bool = True) -> Media:
    """What is in the file: the first picture is decoded, and the ends of the tracks are looked for.

    Without `sound` the file needs no sound track, and the sample rate is 0 Hz. ClipError missing, corrupt, no_video,
    no_audio; truncated if there is not one picture.
    """
    with open_media(path) as container:
        tracks, (sample_rate, channels) = [track(container, "video")], (0, 0)
        if sound:
            tracks.append(track(container, "audio"))
            context = tracks[1].codec_context
            sample_rate, channels = context.sample_rate, context.layout.nb_channels
        rate = float(tracks[0].average_rate or tracks[0].guessed_rate or 0)
        first = next(decode_from(container, tracks[0], 0.0), None)
        if first is None:
            raise ClipError("truncated", "no picture can be decoded")
        width, height = shown_size(first, tracks[0])
        duration, declared = _extent(container, tracks)
    return Media(duration, declared, width, height, rate if rate <= MOST_PICTURES else 0.0, sample_rate, channels)


def _extent(container: Any, tracks: Sequence[Any]) -> tuple[float, float]:
    """Seconds up to which all tracks are there, and seconds that the file declares.

    If the file declares nothing, that is the end of its last track. Pictures may end early if their track says so, or
    if the sound goes on: the last picture stays, as in a player.
    """
    bound = container.size / SPARSEST
    declared = declared_length(container)
    declared = declared if declared < math.inf else 0.0
    ends = [track_end(container, stream, declared or bound) for stream in tracks]
    if container.format.name.startswith("matroska"):  # declares its last time, or last less first
        declared = min(declared, max(*ends, declared - origin(container)))
    declared = declared or max(ends)
    wanted = [min(declared, declared_end(container, tracks[0])), *(declared for _ in tracks[1:])]
    if ends[0] + TAIL < wanted[0]:
        ends[0] = shown_end(container, ends[0], declared)
    duration = min((end for end, until in zip(ends, wanted, strict=True) if end + TAIL < until), default=declared)
    if duration > bound:
        raise ClipError("corrupt", f"{duration:.0f} s in {container.size} bytes")
    return duration, declared


def track_end(container: Any, stream: Any, bound: float) -> float:
    """Seconds on the file's timeline at which the last packet of a track ends, or more than `bound`; 0 without packets.

    The search begins at the end; then it halves the time in which a seek still reaches a packet. So little of a long
    file is read.
    """
    low, high = 0.0, max(bound - NEAR, 0.0)
    end = _reach(container, stream, high, bound)
    while end < 0 and high > low:
        if high - low <= NEAR:
            high, end = low, _reach(container, stream, low, bound)
        else:
            middle = (low + high) / 2
            reached = _reach(container, stream, middle, 0.0, any_frame=True) > -math.inf
            low, high = (middle, high) if reached else (low, middle)
    return max(end, 0.0)


def _reach(container: Any, stream: Any, seconds: float, enough: float, any_frame: bool = False) -> float:
    """Seconds at which the packets after a seek end; -inf without packets. It stops one packet beyond `enough`."""
    end = -math.inf
    with suppress(av.error.FFmpegError):
        seek(container, stream, seconds, any_frame)
        for packet in whole_packets(container, stream):
            stamp = packet.dts if packet.pts is None else packet.pts
            if stamp is not None and packet.size:
                end = max(end, float((stamp + (packet.duration or 0)) * stream.time_base) - origin(container))
                if end > enough:
                    break
    return end


def orientation(frame: Any) -> tuple[bool, bool, bool]:
    """How a decoded frame is shown: rows and columns exchanged, then left and right, then top and bottom exchanged.

    Its display matrix maps columns and rows to the screen; angles between are taken for the next of the eight.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    across, down, _, row_across, row_down = struct.unpack_from("5i", bytes(matrix))
    if abs(across) >= abs(down):
        return False, across < 0, row_down < 0
    return True, row_across < 0, down < 0


def shown_size(frame: Any, stream: Any) -> tuple[int, int]:
    """(width, height) of a decoded frame as it is shown: upright, with square pixels. ClipError("corrupt")."""
    width, height = round(frame.width * float(stream.sample_aspect_ratio or 1)), frame.height
    if max(width, height) > MOST_OBLONG * min(width, height):
        raise ClipError("corrupt", f"a picture of {width} x {height} pixels")
    return (height, width) if orientation(frame)[0] else (width, height)
