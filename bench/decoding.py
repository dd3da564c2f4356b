"""Decoding: three pictures and the sound of a clip, against one ffmpeg process that dumps the whole file.

Plain way, as preparation scripts do it: all pictures at 8 a second as JPEGs of the file's size and all sound as wav;
the JPEGs on the grid are then opened, resized and cropped, and the STFT is computed. Both ways have the same one core.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from avset.compute.limited import Limits
from avset.compute.run import Job
from avset.media.frames import frame_times
from avset.params import Frames, Spectrograms
from avset.storage.items import Item
from bench.measure import Case, Growth
from stages.frames import Decode
from stages.spectrograms import Analyse

GRID = Frames(count=3, spacing=3.0, size=224)
SOUND = Spectrograms(sample_rate=11025, window_length=1022, hop_length=256, precision="float16")
SILENCE = -60.0  # dBFS
LIMITS = Limits(900.0, 2.0)
DUMPED = 8  # pictures a second; number n is the one on screen at n / 8 s
FPS, ONCE, RATE = 25, 10, 44100  # of the media: pictures a second, seconds until they repeat, Hz
GREY, LOUD = 3.0, 0.01  # tolerances: mean grey levels (JPEG), and RMS of the difference of STFTs by that of one
WORK = tempfile.TemporaryDirectory(prefix="bench-decoding-")


@cache
def medium(seconds: int, height: int = 480) -> Path:
    """mp4 as sites deliver it: pictures repeat after 10 s, stereo AAC."""
    path = Path(WORK.name) / f"{seconds}-{height}.mp4"
    with av.open(str(film(height))) as given, av.open(str(path), "w", options={"movflags": "faststart"}) as output:
        moving = output.add_stream_from_template(given.streams.video[0])
        sound: Any = output.add_stream("aac", rate=RATE, layout="stereo")
        samples = av.AudioFrame.from_ndarray(np.tile(chords(), seconds // ONCE), "fltp", "stereo")
        samples.sample_rate, samples.pts = RATE, 0
        packets: list[Any] = [*sound.encode(samples), *sound.encode()]
        once: list[Any] = [packet for packet in given.demux(video=0) if packet.size]
        for packet in once:
            for late in range(0, seconds, ONCE):
                fresh, shift = av.Packet(bytes(packet)), round(late / packet.time_base)
                fresh.pts, fresh.dts, fresh.duration = packet.pts + shift, packet.dts + shift, packet.duration
                fresh.time_base, fresh.is_keyframe, fresh.stream = packet.time_base, packet.is_keyframe, moving
                packets.append(fresh)
        output.mux(sorted(packets, key=decoding_time))
    return path


def decoding_time(packet: Any) -> Fraction:
    """Seconds."""
    return Fraction(packet.dts * packet.time_base)


@cache
def film(height: int) -> Path:
    """H.264 of high profile with B pictures, a keyframe in 5 s."""
    path = Path(WORK.name) / f"film-{height}.mp4"
    options = {"preset": "veryfast", "profile": "high", "crf": "24", "bf": "3", "x264-params": "b-pyramid=normal"}
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width = height, round(height * 8 / 9) * 2
        stream.pix_fmt, stream.gop_size = "yuv420p", 5 * FPS
        for number, picture in enumerate(pictures(stream.height, stream.width)):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def pictures(height: int, width: int) -> Iterator[np.ndarray]:
    """A textured ground that the camera pans over, two textured things that cross it, and grain."""
    rng = np.random.default_rng(0)
    far, near, nearer = (texture(rng, height + FPS * ONCE, width + FPS * ONCE) for _ in range(3))
    grain = rng.normal(0, 2, (8, height, width, 1)).astype(np.float32)
    side = height // 3
    for number in range(FPS * ONCE):
        picture = far[number : number + height, number : number + width] + grain[number % 8]
        for thing, left in ((near, 3 * number), (nearer, width - side - 2 * number)):
            left = abs(left) % (width - side)
            picture[side : 2 * side, left : left + side] = thing[number : number + side, :side]
        yield picture.clip(0, 255).astype(np.uint8)


def texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(height, width, 3) float32: noise of little colour that falls with the frequency, as in photographs."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))[..., None] + 1 / width
    white = rng.normal(size=(height, width, 1)) + 0.3 * rng.normal(size=(height, width, 3))
    noise = np.fft.irfft2(np.fft.rfft2(white, axes=(0, 1)) / frequency, (height, width), axes=(0, 1))
    return (128 + 50 * noise / noise.std()).astype(np.float32)


def chords() -> np.ndarray:
    """(2, samples) float32: two notes with overtones on each side, and hiss."""
    rng, time = np.random.default_rng(1), np.arange(ONCE * RATE) / RATE
    notes = [[np.sin(2 * np.pi * k * note * time) / k for k in range(1, 9)] for note in (220, 331, 262, 443)]
    return (0.1 * np.reshape(notes, (2, 16, -1)).sum(1) + rng.normal(0, 0.01, (2, len(time)))).astype(np.float32)


def plain(path: Path, start: float, duration: float, grid: Frames) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (V, size, size, 3) uint8 and the complex STFT (F, T) by way of JPEGs and a wav of the whole file."""
    with tempfile.TemporaryDirectory(dir=WORK.name) as dump:
        command = ["ffmpeg", "-nostdin", "-v", "error", "-i", str(path)]
        command += ["-vf", f"fps={DUMPED}:round=up", "-q:v", "2", "-start_number", "0", f"{dump}/%06d.jpg"]
        subprocess.run([*command, "-ac", "1", "-ar", str(SOUND.sample_rate), f"{dump}/sound.wav"], check=True)
        squares, square = [], Compose([Resize(grid.size, InterpolationMode.BICUBIC), CenterCrop(grid.size)])
        for time in frame_times(start, duration, grid.count, grid.spacing):
            with Image.open(f"{dump}/{round(time * DUMPED):06d}.jpg") as picture:
                squares.append(np.asarray(square(picture)))
        samples, rate = soundfile.read(f"{dump}/sound.wav", dtype="float32")
    piece = torch.from_numpy(samples[round(start * rate) :][: round(duration * rate)])
    window = torch.hann_window(SOUND.window_length)
    spectrum = torch.stft(
        piece, SOUND.window_length, SOUND.hop_length, window=window, pad_mode="constant", return_complex=True
    )
    return np.stack(squares), spectrum.numpy()


def ours(path: Path, start: float, duration: float, grid: Frames) -> tuple[Item, Item]:
    """What the stages frames and spectrograms make of one clip."""
    job = Job("clip", "", {"media": path, "start": start, "duration": duration, "digest": ""})
    return Decode(grid, LIMITS)([job])[0], Analyse(SOUND, SILENCE, LIMITS)([job])[0]


def apart(path: Path, start: float, duration: float, grid: Frames) -> float:
    """How far the two ways are apart, as a share of what is tolerated: pictures or sound, whichever is more."""
    squares, spectrum = plain(path, start, duration, grid)
    film, sound = ours(path, start, duration, grid)
    grey = np.abs(film.arrays["frames"].astype(float) - squares).mean()
    planes = sound.arrays["stft"].astype(np.float32)
    other = np.abs(planes[:, 0].T + 1j * planes[:, 1].T - spectrum)
    loud = np.sqrt(np.square(other).mean() / np.square(np.abs(spectrum)).mean())
    return float(max(grey / GREY, loud / LOUD))


def cases(device: str) -> Iterator[Case]:
    """A clip that is its file, as most are, and one out of three minutes, as in MUSIC. None without ffmpeg."""
    one_core()
    if shutil.which("ffmpeg") is None:
        return
    for size, seconds, start in (("10 s", 10, 0.0), ("10 s of 180 s", 180, 85.0)):
        clip = (medium(seconds), start, float(ONCE), GRID)
        yield Case(
            "frames + spectrograms", f"{size}, 480p, 3 pictures", "clips", partial(plain, *clip), partial(ours, *clip),
            agree=partial(apart, *clip), tolerance=1.0, goal=3.0,
        )  # fmt: skip


def growth(device: str) -> Iterator[Growth]:
    """With the file's length, the number of pictures and their size."""
    one_core()

    def clip(
        seconds: int = ONCE, height: int = 480, start: float = 0.0, count: int = 3
    ) -> tuple[Callable[[], Any], float]:
        grid = Frames(count=count, spacing=1.0 if count > 3 else 3.0, size=224)
        return partial(ours, medium(seconds, height), start, float(ONCE), grid), 1.0

    yield Growth("frames + spectrograms", "seconds of the file", "clip", {
        "10": clip(), "60": clip(60, start=25.0), "180": clip(180, start=85.0),
    }, "only what the clip needs is decoded: from the keyframe before each picture on")  # fmt: skip
    yield Growth("frames + spectrograms", "pictures", "clip", {
        "1": clip(count=1), "3": clip(), "9": clip(count=9),
    }, "the pictures between are decoded once, whatever their number")  # fmt: skip
    yield Growth("frames + spectrograms", "height", "clip", {
        "240": clip(height=240), "480": clip(), "720": clip(height=720),
    }, "the sound costs the same; the rest grows with the pixels")  # fmt: skip


def text(device: str) -> Iterator[str]:
    """What is missing."""
    if shutil.which("ffmpeg") is None:
        yield "frames + spectrograms: not compared, the plain way needs the ffmpeg command (`apt-get install ffmpeg`)"


def one_core() -> None:
    """This process and those it starts get one core (Linux)."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
