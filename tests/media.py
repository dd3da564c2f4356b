"""Small media files for tests: pictures that carry their own number, and a tone with a known onset."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

GRID = 4  # the picture's centre square has 4 x 4 cells: one row of colours, then twelve bits of the number
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255))  # the top row, from left to right
TICKS = 1000  # time stamps are written in milliseconds unless the container has its own clock


def numbered_picture(number: int, width: int, height: int) -> np.ndarray:
    """(height, width, 3) uint8: grey, with `number` (0..4095) in the largest centred square."""
    cells = np.zeros((GRID, GRID, 3), np.uint8)
    cells[0] = COLOURS
    cells[1:] = 255 * ((number >> np.arange(12)) & 1).reshape(3, GRID, 1)
    side = min(width, height)
    index = np.arange(side) * GRID // side
    picture = np.full((height, width, 3), 128, np.uint8)
    top, left = (height - side) // 2, (width - side) // 2
    picture[top : top + side, left : left + side] = cells[index][:, index]
    return picture


def read_number(picture: np.ndarray) -> int:
    """The number in an upright (S, S, 3) centre crop of a numbered picture; fails if it is not upright."""
    side = picture.shape[0]
    at = ((np.arange(GRID) + 0.5) * side / GRID).astype(int)
    cells = picture[at][:, at].astype(int)
    assert np.abs(cells[0] - np.array(COLOURS)).max() < 110, f"not upright or not decoded: {cells[0].tolist()}"
    return int(((cells[1:].mean(2) > 127).reshape(-1) << np.arange(12)).sum())


def tone_samples(duration: float, sample_rate: int, tone: float, amplitude: float, onset: float) -> np.ndarray:
    """(L,) float32: silence up to `onset` s, then a sine of `tone` Hz that starts at phase 0."""
    seconds = np.arange(round(duration * sample_rate)) / sample_rate - onset
    return (amplitude * np.sin(2 * np.pi * tone * seconds) * (seconds >= 0)).astype(np.float32)


def make_video(
    path: Path,
    duration: float = 2.0,  # s, of the picture track and of the sound track
    fps: int = 10,
    size: tuple[int, int] = (128, 128),  # width, height as shown
    sample_rate: int = 22050,
    tone: float = 440.0,  # Hz
    *,
    amplitude: float = 0.5,
    onset: float = 0.0,  # s after the start of the sound track
    layout: str = "mono",  # the tone is on every channel, divided by 1, 2, 3, ...
    video: bool = True,
    audio: bool = True,
    vcodec: str = "libx264",
    acodec: str = "aac",
    audio_delay: float = 0.0,  # s: the sound track starts that much later than the pictures
    audio_duration: float | None = None,
    audio_gap: float = 0.0,  # s: the second half of the samples comes that much later
    times: list[float] | None = None,  # s: a variable frame rate
    gop: int = 12,
    rotation: int = 0,  # degrees counter-clockwise by which a player turns the picture
    pixel_aspect: int = 1,  # width of a pixel: the stored picture is that much narrower than `size`
    container: str | None = None,
    options: dict[str, str] | None = None,  # of the container: faststart is on for mp4 and mov
    codec_options: dict[str, str] | None = None,  # of the picture encoder
) -> Path:
    """Picture i shows the number i from times[i] on, or from i / fps on. Returns `path`."""
    default = {"movflags": "faststart"} if path.suffix in (".mp4", ".mov", ".m4a") else {}
    with av.open(path, "w", format=container, options=default | (options or {})) as output:
        if video:
            pictures: Any = output.add_stream(vcodec, rate=fps, options=codec_options or {})
            pictures.width, pictures.height = size if rotation % 180 == 0 else size[::-1]
            pictures.width //= pixel_aspect
            pictures.codec_context.sample_aspect_ratio = Fraction(pixel_aspect)
            pictures.pix_fmt = "yuvj420p" if vcodec == "mjpeg" else "yuv420p"
            pictures.gop_size, pictures.thread_count = gop, 1
            if times is not None:
                pictures.codec_context.time_base = Fraction(1, TICKS)
            if rotation:
                pictures.set_display_rotation(rotation)
        if audio:
            sound: Any = output.add_stream(acodec, rate=sample_rate, layout=layout)
        if video:
            stamps = times if times is not None else [i / fps for i in range(round(duration * fps))]
            for number, stamp in enumerate(stamps):
                turned = np.rot90(numbered_picture(number, *size), -rotation // 90)
                stored = np.ascontiguousarray(turned[:, ::pixel_aspect])
                frame = av.VideoFrame.from_ndarray(stored, "rgb24")
                frame.time_base = Fraction(1, TICKS) if times is not None else Fraction(1, fps)
                frame.pts = round(stamp / frame.time_base)
                output.mux(pictures.encode(frame))
            output.mux(pictures.encode())
        if audio:
            length = duration if audio_duration is None else audio_duration
            mono = tone_samples(length, sample_rate, tone, amplitude, onset)
            channels = sound.codec_context.layout.nb_channels
            block = np.stack([mono / (c + 1) for c in range(channels)])
            for at in range(0, block.shape[1], 1024):
                piece = np.ascontiguousarray(block[:, at : at + 1024])
                samples = av.AudioFrame.from_ndarray(piece, format="fltp", layout=layout)
                samples.sample_rate, samples.time_base = sample_rate, Fraction(1, sample_rate)
                late = audio_delay + audio_gap * (at >= block.shape[1] // 2)
                samples.pts = at + round(late * sample_rate)
                output.mux(sound.encode(samples))
            output.mux(sound.encode())
    return path
