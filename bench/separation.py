"""Separating long recordings by text, with a model of the demo's size and random weights.

The plain way goes from window to window: the text through CLIP's whole context, STFT, the logarithmic axis and back by
sampling grids, the U-Net as written, fade; then STFT and inverse of the whole. Windows and fades are ours, so that the
results are the same.
"""

import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as fn

from bench import measure
from bench.captions import DEMO, demo
from bench.decoder import made_plain
from bench.measure import MB, Case, Growth

TEXT = "person playing a violin"
SIZES: dict[str, Any] = {"dim": 128, "channels": [12, 24, 48, 64], "n_regions": 16}
RATE, WINDOW, HOP, BINS, CROP = 11025, 1022, 256, 64, 64
FILE_RATE = 44100  # of the recordings, stereo
SECONDS = 20
THREADS = 2  # of the command line, as promised
COMMAND = "separating by text, the command"


def made(device: str) -> Any:
    """A separator of the demo's size, with its encoder."""
    from avset import params
    from avset.features.spectrograms import Transform
    from avset.inference.separate import Separator
    from avset.models.checkpoint import SeparationModel, Settings
    from avset.models.contract import Sizes

    torch.manual_seed(0)
    encoder = demo(device)
    preset = params.load(Path(__file__).parents[1] / "params.yaml").presets["avset"]
    sizes = Sizes(Transform(RATE, WINDOW, HOP, BINS, CROP), **SIZES)
    model = SeparationModel(Settings(preset, sizes, True, encoder.digest)).to(device)
    model.method.eval().requires_grad_(False)
    return Separator(model, encoder)


def chord(seconds: float, rate: int, start: float = 0.0) -> np.ndarray:
    """Three tones that come and go, and noise: float32 (L,)."""
    t = start + np.arange(round(seconds * rate)) / rate
    tones = sum(np.sin(2 * np.pi * f * t) * np.sin(f / 200 * t) for f in (220.0, 554.4, 1318.5))
    noise = np.random.default_rng(int(start)).standard_normal(len(t))
    return (0.2 * tones + 0.02 * noise).astype(np.float32)


def sampled(x: Tensor, rows: Tensor) -> Tensor:
    """(F, T) at other rows, given as positions in [-1, 1] from the centre of the first to that of the last.

    Frames are channels: a grid over both axes lets a little of a loud frame into the digital silence beside it.
    """
    grid = torch.stack([torch.zeros_like(rows), rows], -1)[None, :, None]
    return fn.grid_sample(x.T[None, :, :, None], grid, align_corners=True)[0, :, :, 0].T


@torch.no_grad()
def plain(net: Any, encoder: Any, mixture: Tensor, text: str) -> Tensor:
    """(L,) -> (L,), window by window."""
    length, size, half, device = len(mixture), CROP * HOP - 1, CROP // 2, mixture.device
    step = half * HOP
    padded = fn.pad(mixture, (step, 2 * size))
    masks = torch.zeros(WINDOW // 2 + 1, len(padded) // HOP + CROP, device=device)
    hann, fade = torch.hann_window(WINDOW, device=device), torch.hann_window(CROP, device=device)
    up = (21 ** torch.linspace(0, 1, BINS, device=device) - 11) / 10
    down = 2 * torch.log(10 * torch.linspace(-1, 1, WINDOW // 2 + 1, device=device) + 11) / math.log(21) - 1
    for at in range(0, step + length, step):
        query = encoder.model.encode_text(encoder.tokenizer([text]).to(device))
        spectrum = torch.stft(
            padded[at : at + size], WINDOW, HOP, window=hann, pad_mode="constant", return_complex=True
        )
        mask = net.masks(sampled(spectrum.abs(), up)[None], query[:, None, None, None])[0, 0].clamp(0, 1)
        masks[:, at // HOP : at // HOP + CROP] += sampled(mask, down) * fade
    spectrum = torch.stft(mixture, WINDOW, HOP, window=hann, pad_mode="constant", return_complex=True)
    return torch.istft(masks[:, half : half + spectrum.shape[1]] * spectrum, WINDOW, HOP, window=hann, length=length)


def ours(separator: Any, mixture: Tensor, text: str) -> Tensor:
    """The same."""
    found = separator.separate(mixture, text, sample_rate=RATE)
    return torch.from_numpy(found.sounds[0]).to(mixture.device)


def cases(device: str) -> Iterator[Case]:
    """A short recording, in memory and at the model's rate."""
    separator = made(device)
    net = made_plain(separator.model.method.net)
    mixture = torch.from_numpy(chord(SECONDS, RATE)).to(device)
    both = partial(plain, net, separator.encoder, mixture, TEXT), partial(ours, separator, mixture, TEXT)
    yield Case(
        "separating by text", f"{SECONDS} s", "s of sound", *both, SECONDS, SECONDS,
        agree=lambda: float((both[0]() - both[1]()).abs().max()), tolerance=1e-4,
    )  # fmt: skip


def through(separator: Any, seconds: int) -> None:
    """A stereo recording made on the way, separated, written: as the command does."""
    from avset.media.writers import AudioWriter

    second = np.stack([chord(1, FILE_RATE)] * 2)
    blocks = ((second, FILE_RATE) for _ in range(seconds))
    with tempfile.TemporaryDirectory() as folder, AudioWriter(Path(folder) / "out.wav", FILE_RATE) as sound:
        for block in separator.stream(blocks, separator.text_query(TEXT)):
            sound.write(block.sounds[0])


def growth(device: str) -> Iterator[Growth]:
    """From a minute on."""
    separator = made(device)

    def minutes(count: int) -> tuple[Callable[[], Any], float]:
        return partial(through, separator, 60 * count), 60.0 * count

    sizes = {f"{count}": minutes(count) for count in (1, 4, 16)}
    yield Growth("separating by text", "minutes of stereo at 44.1 kHz", "s of sound", sizes)


def write(path: Path, minutes: int) -> None:
    """A stereo file: .wav, or AAC in an .m4a; one second made anew each minute, so that making it is no matter."""
    if path.suffix == ".wav":
        from avset.media.writers import AudioWriter

        with AudioWriter(path, FILE_RATE) as sound:
            for minute in range(minutes):
                sound.write(np.tile(np.stack([chord(1, FILE_RATE, minute)] * 2), 60))
        return
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=FILE_RATE, layout="stereo")
        for second in range(60 * minutes):
            frame = av.AudioFrame.from_ndarray(np.stack([chord(1, FILE_RATE, second // 60)] * 2), "fltp", "stereo")
            frame.sample_rate, frame.pts = FILE_RATE, second * FILE_RATE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def command(folder: Path, file: Path) -> tuple[float, float, int]:
    """`avset separate` in a process of its own: seconds, processor's seconds, peak bytes."""
    arguments = ["-q", TEXT, "-o", folder / "out.wav", "--residual", folder / "rest.wav", "--model", folder / "model"]
    line = [sys.executable, "-m", "avset", "separate", file, *arguments, "--encoder", folder / "encoder"]
    told = [str(part) for part in line]
    threads = dict.fromkeys(measure.THREADS, str(THREADS))
    start = time.perf_counter()
    process = subprocess.Popen(told, env=os.environ | threads, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(told)}: exit code {process.returncode}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def text(device: str) -> Iterator[str]:
    """The command line on files, start-up and residual included; the promise is 10 x for 10 minutes on two cores."""
    from avset.features.weights import export

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export(str(DEMO / "encoder.json"), str(DEMO / "encoder.safetensors"), folder / "encoder")
        made("cpu").model.save(folder / "model", {})
        for minutes, suffix in ((1, ".wav"), (10, ".wav"), (10, ".m4a"), (30, ".wav")):
            file = folder / f"in{suffix}"
            write(file, minutes)
            seconds, worked, peak = command(folder, file)
            yield (
                f"{COMMAND}: {minutes} min {suffix} (44.1 kHz stereo), {THREADS} threads, start-up included: "
                f"{seconds:.1f} s ({worked:.1f} s of the processor), {60 * minutes / seconds:.0f} x real time, "
                f"peak {peak / MB:.0f} MB"
            )
