"""Pictures: spectrograms, masks and heat maps as arrays, and the figures of the report as small PNG files.

The only door to matplotlib and Pillow. The same input makes the same bytes: no dates, no names of software.
"""

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib import colormaps, get_data_path
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.patches import Rectangle
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont

from avset.evaluation import metrics
from avset.evaluation.examples import Example, Separation, leading
from avset.features import spectrograms
from avset.storage.files import write_atomic

WINDOW, HOP, BINS = 1022, 256, 256  # samples, and log-frequency bins of a picture, whatever the model works on
RANGE = 60.0  # dB between black and the loudest bin of the mixture
LIMIT = 150e3  # bytes of a PNG that goes to git
DOTS = [140, 120, 100, 85, 70, 60, 50, 40]  # per inch, of a figure
Aspect = Literal["equal", "auto"]
GREEN = "#3ddc84"  # colour of the boxes
LOOKS = ("frame", "latent caption", "separated sound")  # the rows of `localization_figure`
LINE, LETTERS, SMALLEST = 30, 19, 9  # px: a line of a caption, its letters, and letters of a line that is too long
SCALE = ("0 absent", "1 present")  # of a heat map, and
RELATIVE = ("weakest here", "strongest here")  # of one that has no scale


def magnitude(waveform: Float[ndarray, " L"]) -> Float[ndarray, "M T"]:
    """Log-frequency magnitude spectrogram of a sound, for a picture; low frequencies first."""
    sound = torch.from_numpy(np.ascontiguousarray(waveform, np.float32))
    return spectrograms.warp(spectrograms.stft(sound, WINDOW, HOP).abs(), BINS).numpy()


def loudness(magnitude: Float[ndarray, "M T"], peak: float) -> Float[ndarray, "M T"]:
    """A magnitude in decibels as 0..1: 1 is `peak`, 0 is `RANGE` dB or more below it."""
    return np.clip(1 + 20 * np.log10(magnitude / max(peak, 1e-9) + 1e-9) / RANGE, 0, 1)


def coloured(values: Float[ndarray, "M T"], colours: str = "magma") -> UInt8[ndarray, "M T 3"]:
    """0..1 as a picture, low frequencies at the bottom; larger values saturate."""
    return _bytes(colormaps[colours](np.clip(values[::-1], 0, 1))[..., :3])


def heat_map(
    frame: UInt8[ndarray, "H W 3"], heat: Float[ndarray, " R"], grid: tuple[int, int]
) -> UInt8[ndarray, "H W 3"]:
    """The frame, grey where the heat is low, under the upsampled heat.

    The scale is the same for all pictures: 0 (or less) is black, and 1 is as bright as it can be; see `legend`.
    """
    heat = np.clip(metrics.upsample(heat, grid, frame.shape[:2]), 0, 1)
    grey = frame.mean(-1, keepdims=True)
    picture = (grey + heat[..., None] * (frame - grey)) / 255
    opacity = (0.2 + 0.45 * heat)[..., None]
    return _bytes((1 - opacity) * picture + opacity * colormaps["inferno"](heat)[..., :3])


def legend(width: int, height: int = 18, words: tuple[str, str] = SCALE) -> UInt8[ndarray, "{height} {width} 3"]:
    """The scale of a heat map from 0 to 1, with a word at each of its ends."""
    colours = np.repeat(colormaps["inferno"](np.linspace(0, 1, width))[None, :, :3], height, 0)
    image = Image.fromarray(_bytes(colours))
    draw = ImageDraw.Draw(image)
    draw.text((4, height // 2), words[0], "white", anchor="lm")
    draw.text((width - 4, height // 2), words[1], "black", anchor="rm")
    return np.asarray(image)


def with_legend(picture: UInt8[ndarray, "H W 3"], words: tuple[str, str] = SCALE) -> UInt8[ndarray, "H+18 W 3"]:
    """A heat map with its scale below."""
    return np.concatenate([picture, legend(picture.shape[1], words=words)])


def attention_map(
    frame: UInt8[ndarray, "H W 3"], scores: Float[ndarray, " R"], heat: Float[ndarray, " R"] | None,
    grid: tuple[int, int],
) -> UInt8[ndarray, "H+18 W 3"]:  # fmt: skip
    """A heat map with its legend; without a heat, the scores from the weakest to the strongest of this picture."""
    if heat is None:
        low, high = scores.min(), scores.max()
        return with_legend(heat_map(frame, (scores - low) / ((high - low) or 1.0), grid), RELATIVE)
    return with_legend(heat_map(frame, heat, grid))


def _bytes(picture: Float[ndarray, "H W 3"]) -> UInt8[ndarray, "H W 3"]:
    return (picture * 255).round().astype(np.uint8)


def jpeg(picture: UInt8[ndarray, "H W 3"], size: tuple[int, int] | None = None, quality: int = 78) -> bytes:
    """The picture as JPEG, resized to (width, height) pixels if `size` says so."""
    image, out = Image.fromarray(picture), io.BytesIO()
    image = image.resize(size, Image.Resampling.BICUBIC) if size else image
    image.save(out, "JPEG", quality=quality, optimize=True)
    return out.getvalue()


def resized(picture: UInt8[ndarray, "H W 3"], side: int) -> UInt8[ndarray, "{side} {side} 3"]:
    """The picture as a square of `side` px."""
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC))


def caption(lines: Sequence[str], width: int) -> UInt8[ndarray, "H {width} 3"]:
    """Lines of text, white on black, `LINE` px each. A line that is too long has smaller letters, or ends in "…"."""
    image = Image.new("RGB", (width, LINE * len(lines)))
    draw = ImageDraw.Draw(image)
    for n, line in enumerate(lines):
        fitting = (size for size in range(LETTERS, SMALLEST, -1) if _font(size).getlength(line) <= width - LINE)
        font = _font(next(fitting, SMALLEST))
        while len(line) > 1 and font.getlength(line) > width - LINE:
            line = f"{line[:-2]}…"
        draw.text((LINE // 2, LINE * n + LINE // 2), line, "white", font, "lm")
    return np.asarray(image)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def save_png(path: Path, picture: UInt8[ndarray, "H W 3"]) -> None:
    """Write the picture as a PNG file; AvsetError if `path` cannot be written."""
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG")
    write_atomic(path.resolve(), out.getvalue())


def figure_png(figure: Figure, colours: int = 256, limit: float = LIMIT) -> bytes:
    """The figure as PNG of so many colours and at most `limit` bytes, at the best resolution that fits.

    Without a limit (inf) it has all its colours.
    """
    todo = DOTS
    while todo:
        dots, *todo = todo
        figure.set_dpi(dots)
        canvas, out = FigureCanvasAgg(figure), io.BytesIO()
        canvas.draw()
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
        if limit < np.inf:
            picture.quantize(colours, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
        else:
            picture.save(out, "PNG")
        if (size := out.tell()) <= limit:
            break
        likely = [n for n in todo if size * (n / dots) ** 2 <= limit]  # a pixel of a smaller picture has no fewer bytes
        todo = likely or todo[-1:]
    return out.getvalue()


def example_figure(shown: Example) -> bytes:
    """The mixture; and for each source the frame with the attention of the separated sound, the separated sound
    and the reference (PNG)."""
    kind = leading(shown)
    made, n = shown.separations[kind], len(shown.labels)
    figure = Figure(figsize=(11, 2.55 * n), layout="constrained")
    cells = figure.add_gridspec(n, 4, width_ratios=(1.35, 1, 1.2, 1.2))
    mixture = magnitude(shown.mixture)
    top = float(mixture.max())
    _picture(figure, cells[:, 0], coloured(loudness(mixture, top)), "mixture", "auto")
    for i, label in enumerate(shown.labels):
        axes = _heat(figure, cells[i, 1], shown, i, made.attention)
        axes.set_title(f"“{made.queries[i] or label}”", fontsize=9, parse_math=False)
        separated = coloured(loudness(magnitude(made.estimates[i]), top))
        _picture(figure, cells[i, 2], separated, f"separated{_gain(made, i)}", "auto")
        reference = coloured(loudness(magnitude(shown.references[i]), top))
        _picture(figure, cells[i, 3], reference, "reference", "auto")
    return figure_png(figure)


def localization_figure(
    shown: Sequence[Example], columns: int = 6, looks: Sequence[str] = LOOKS, limit: float = LIMIT
) -> bytes:
    """Attention of the latent caption and of the separated sound, with the true boxes, for the first sources of
    distinct clips (PNG; the paper's Fig. 5 and 6)."""
    places = {clip: (e, i) for e in reversed(shown) for i, clip in reversed(list(enumerate(e.clip_ids)))}
    chosen = [places[clip] for clip in dict.fromkeys(c for e in shown for c in e.clip_ids)][:columns]
    figure = Figure(figsize=(1.75 * len(chosen) + 0.4, 1.8 * len(looks) + 0.2), layout="constrained")
    cells = figure.add_gridspec(len(looks), len(chosen))
    for column, (e, i) in enumerate(chosen):
        maps = dict(zip(LOOKS, (None, e.attention.get("caption"), e.separations[leading(e)].attention), strict=True))
        for row, look in enumerate(looks):
            axes = _heat(figure, cells[row, column], e, i, maps[look])
            if row == 0:
                axes.set_title(e.labels[i], fontsize=9, parse_math=False)
            if column == 0:
                axes.set_ylabel(look, fontsize=9)
    return figure_png(figure, limit=limit)


def moments_figure(
    rows: Sequence[tuple[str, Sequence[UInt8[ndarray, "H W 3"]], Sequence[UInt8[ndarray, "H W 3"]]]],
    times: Sequence[float],
) -> bytes:
    """Frames of videos at some `times` (s), and under each the attention of the separated sound (PNG; Fig. 6).

    rows  of a video: its title, its frames, the same frames under heat maps
    """
    figure = Figure(figsize=(1.75 * len(times) + 0.4, 3.5 * len(rows) + 0.2), layout="constrained")
    cells = figure.add_gridspec(2 * len(rows), len(times))
    for n, (title, *both) in enumerate(rows):
        for under, pictures in enumerate(both):
            for column, picture in enumerate(pictures):
                told = f"{times[column]:.1f} s" if n == under == 0 else ""
                axes = _picture(figure, cells[2 * n + under, column], picture, told)
                if column == 0:
                    axes.set_ylabel("separated sound" if under else title, fontsize=9, parse_math=False)
    return figure_png(figure, limit=np.inf)


def queries_figure(shown: Example, kinds: Sequence[str] = ("word", "text"), limit: float = LIMIT) -> bytes:
    """The same mixture under different words: the mask and the separated sound of each, and the reference
    (PNG; the paper's Fig. 7)."""
    asked = {k for k, made in shown.separations.items() if all(map(made.asked, range(len(shown.labels))))}
    kinds = [k for k in kinds if k in asked] or [leading(shown)]
    n, width = len(shown.labels), 2 + 2 * len(kinds)
    figure = Figure(figsize=(2 * width, 2.2 * n), layout="constrained")
    cells = figure.add_gridspec(n, width)
    mixture = magnitude(shown.mixture)
    top = float(mixture.max())
    _picture(figure, cells[:, 0], coloured(loudness(mixture, top)), "mixture", "auto")
    for i, label in enumerate(shown.labels):
        for k, kind in enumerate(kinds):
            made = shown.separations[kind]
            mask = coloured(made.masks[i], "gray")
            _picture(figure, cells[i, 1 + 2 * k], mask, f"“{made.queries[i] or kind}”", "auto")
            separated = coloured(loudness(magnitude(made.estimates[i]), top))
            _picture(figure, cells[i, 2 + 2 * k], separated, f"separated{_gain(made, i)}", "auto")
        reference = coloured(loudness(magnitude(shown.references[i]), top))
        _picture(figure, cells[i, width - 1], reference, f"{label}, reference", "auto")
    return figure_png(figure, 64, limit)  # two scales of colour and no photographs


def _gain(made: Separation, source: int) -> str:
    return f"  {made.nsdr[source]:+.1f} dB" if made.nsdr is not None and made.asked(source) else ""


def _picture(figure: Figure, cell: SubplotSpec, picture: ndarray, title: str, aspect: Aspect = "equal") -> Axes:
    axes = figure.add_subplot(cell)
    axes.imshow(picture, aspect=aspect, interpolation="antialiased")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=9, parse_math=False)
    return axes


def _heat(figure: Figure, cell: SubplotSpec, shown: Example, source: int, scores: ndarray | None) -> Axes:
    frame = shown.frames[source]
    picture = frame if scores is None else heat_map(frame, scores[source], shown.grid)
    axes = _picture(figure, cell, picture, "")
    height, width = frame.shape[:2]
    for x0, y0, x1, y1 in shown.boxes[source]:
        corner, size = (x0 * width - 0.5, y0 * height - 0.5), ((x1 - x0) * width, (y1 - y0) * height)
        axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=GREEN, linewidth=1.3))
    return axes
