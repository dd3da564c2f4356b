"""Separation and localisation of files: from a file to blocks or scores, and from file to file.

Each step of the ladder adds reading or writing only: `Separator.stream` takes blocks, `separate_file` reads the
blocks from a file, `separate_file_to_file` writes what was found, `separate_files_to_files` does so with many files.
`Separator.localize` takes a frame, `localize_file` takes the frame from a video, `localize_file_to_file` draws the
heat map, and `localize_film_to_film` draws that of the moving picture.
"""

import math
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import torch

from avset.compute.limited import Limits
from avset.errors import AvsetError, ClipError
from avset.inference.combine import remix
from avset.inference.heated import HeatMap
from avset.inference.localize import Attention
from avset.inference.pictures import read_frame
from avset.inference.plans import Plan, check_examples, plan
from avset.inference.queries import Resolved, Wanted
from avset.inference.reading import LIMITS, Blocks, limited_blocks, limited_format
from avset.inference.separate import Block, Separator
from avset.inference.wishes import REMIXED, Number, as_query, listed, results
from avset.media.container import has
from avset.media.films import Drawing, FilmWriter
from avset.media.targets import FILMS, PICTURES, check_files
from avset.media.writers import AudioWriter, bits_of, check_writable, quantised

Clip = Literal["clamp", "rescale"]


@dataclass(frozen=True)
class SeparatedFile:
    """What `separate_file_to_file` has written."""

    seconds: float
    sample_rate: int  # Hz
    channels: int
    energies: tuple[float, ...]  # of the sound of each query, as a share of the mixture's
    clipped: bool  # a sound or the residual was louder than full scale somewhere
    gain: float = 1.0  # of all that was written, less than 1 if it was rescaled
    presence: Sequence[float] | None = None  # as of `Separated`, and then of all that is excluded, in its order
    places: tuple[dict[str, int] | None, ...] | None = None  # of a film: the strongest region of the middle picture


def separate_file(
    separator: Separator,
    file: Path,
    query: Wanted | Sequence[Wanted],
    model_rate: bool = False,
    limits: Limits = LIMITS,
    shares: bool = False,
) -> Generator[Block, None, None]:
    """Blocks of a recording, each with the sounds that the queries name.

    `file` is an audio or video file of any length. AvsetError if its sound cannot be read to its end, or if a query
    cannot be used. Another process reads the file, within `limits`.
    """
    queries = separator.ask(query, file, shares, limits)
    with closing(limited_blocks(file, limits)) as blocks:
        yield from separator.stream(blocks, queries, model_rate)


def separate_file_to_file(
    separator: Separator,
    file: Path,
    query: Wanted | Sequence[Wanted],
    output: Path | Sequence[Path],
    residual: Path | None = None,
    overwrite: bool = False,
    limits: Limits = LIMITS,
    model_rate: bool = False,
    bits: int | None = None,
    clip: Clip = "clamp",
    progress: Callable[[float], None] | None = None,
    keep_absent: bool = False,
    shares: bool = False,
    heat_map: bool = False,
) -> SeparatedFile:
    """Write what each query names to its `output`, and the rest of the mixture to `residual`.

    If the queries have gains, there is one `output`: the remix, in which each sound is louder or softer by its gain.

    The suffix says the format: see `avset.media.writers.AudioWriter`. Channels, sample rate and bits are those of
    `file`; with `model_rate` the sound is mono at the model's rate. In exact formats the outputs and the residual add
    up to the mixture to the last bit.

    bits         16, 24, or 32 for floating point, instead of the file's own
    clip         what is louder than full scale is clamped, or all that is written is rescaled by one gain
    progress     gets the seconds that are done
    keep_absent  also what is found for queries whose presence is below `THRESHOLD`: their sounds are silence otherwise
    shares       as of `Separator.separate`
    heat_map     the pictures of an .mp4 are under the heat map of its query

    AvsetError if `file` cannot be read or a target cannot be written; then every file is as it was. `file`, outputs and
    `residual` are different files; those that are there already are replaced only with `overwrite`.

    >>> done = avset.separate_file_to_file(separator, folder / "band.wav", "violin", folder / "violin.flac")
    >>> done.sample_rate, done.channels, soundfile.info(folder / "violin.flac").subtype
    (44100, 2, 'PCM_24')
    """
    outputs = [output] if isinstance(output, Path) else list(output)
    asked = listed(query)
    if len(outputs) != (count := len(results(asked))):
        one = "one output for each query" if count > 1 else "one output"
        raise AvsetError(f"there are {len(asked)} queries and {len(outputs)} outputs; give {one}")
    if residual and asked[0].gain is not None:
        raise AvsetError(REMIXED)
    check_examples(asked, limits)
    planned = plan(file, outputs, residual, overwrite, bits, model_rate, limits, asked, heat_map)
    return carry_out(separator, planned, query, model_rate, clip, progress, keep_absent, limits, shares)


def carry_out(
    separator: Separator, planned: Plan, query: Wanted | Sequence[Wanted], model_rate: bool = False,
    clip: Clip = "clamp", progress: Callable[[float], None] | None = None, keep_absent: bool = False,
    limits: Limits = LIMITS, shares: bool = False,
) -> SeparatedFile:  # fmt: skip
    """`separate_file_to_file`, as it was planned.

    That a thing is not there is known at the end. So the file is read twice: the model hears it, and its masks lie on
    the disk meanwhile; then they are applied.
    """
    asked = separator.ask(query, planned.file, shares, limits)
    frame = separator.picture(planned.file, limits) if planned.format.pictures else None
    listener = separator.listener(asked, frame)
    inexact = any(bits_of(path, planned.bits) != 32 for path in planned.paths)
    draw = _drawings(separator, planned, asked, limits) if planned.heat_map else {}
    remixed = asked.gains if asked.queries[0].gain is not None else None
    tally, gain, twice = Tally(planned.residual is not None, remixed), 1.0, _Twice(progress)
    above = next(one for one in planned.outputs[0].resolve().parents if one.exists())
    with ExitStack() as files:
        spool = files.enter_context(tempfile.TemporaryFile(dir=above))
        with closing(limited_blocks(planned.file, limits)) as read:
            for heard in separator.hear(twice.hearing(read), asked, listener):
                np.save(spool, heard.cpu().numpy())
        absent = frozenset() if keep_absent else listener.absent()
        masks = asked.combined((torch.from_numpy(saved).to(separator.device) for saved in _spooled(spool)), absent)
        read = files.enter_context(closing(limited_blocks(planned.file, limits)))
        found = separator.apply(separator.as_written(read, model_rate), masks, asked)
        blocks = tally.counted(found, twice.writing)
        if clip == "rescale" and inexact:  # how loud it is, is known at the end
            sounds = files.enter_context(tempfile.TemporaryFile(dir=above))
            for block in blocks:
                np.save(sounds, np.stack([block.mixture, *block.sounds]))
            gain = 1 / max(tally.loudest, 1.0)
            blocks = (Block(saved[0], saved[1:], tally.rate) for saved in _spooled(sounds))
        _write(planned, blocks, gain, files, limits, draw)
    maps = separator.heat_maps(frame, asked)
    places = tuple(None if one is None else _place(one) for one in maps) if maps else None
    return tally.told(gain, inexact, listener.presence(), places)


class _Twice:
    """Progress of a file that is read twice: each time, half of its seconds are done."""

    def __init__(self, progress: Callable[[float], None] | None):
        self._progress, self._heard = progress or (lambda seconds: None), 0.0

    def hearing(self, blocks: Blocks) -> Blocks:
        """The blocks of the first reading, as they pass."""
        for block, rate in blocks:
            yield block, rate
            self._heard += block.shape[-1] / rate
            self._progress(self._heard / 2)

    def writing(self, seconds: float) -> None:
        """So many seconds of the second reading are done."""
        self._progress((self._heard + seconds) / 2)


def _drawings(separator: Separator, planned: Plan, asked: Resolved, limits: Limits) -> dict[Path, Drawing]:
    """What draws the heat map of each query; AvsetError if the model or a query has none."""
    pairs = zip(planned.outputs, separator.looks(asked), strict=True)
    return {path: HeatMap(planned.file, look, limits).draw for path, look in pairs}


def _place(attention: Attention) -> dict[str, int]:
    """Where the attention is strongest, counted from 1."""
    (row, column), (rows, columns) = attention.strongest(), attention.grid
    return {"row": row + 1, "rows": rows, "column": column + 1, "columns": columns}


class Tally:
    """Running sums over the blocks of a recording; with gains (dB), its remix takes the place of the sounds."""

    def __init__(self, residual: bool, gains: Sequence[Number] | None = None):
        self._residual, self._gains = residual, gains
        self.length, self.rate, self.channels, self.loudest = 0, 1, 0, 0.0
        self.whole, self.parts = 0.0, np.zeros(1)

    def counted(self, blocks: Iterator[Block], progress: Callable[[float], None]) -> Iterator[Block]:
        """The blocks, counted as they pass."""
        for block in blocks:
            self.rate, self.channels = block.sample_rate, len(block.mixture)
            self.length += block.mixture.shape[1]
            self.whole += float(np.square(block.mixture, dtype=np.float64).sum())
            self.parts = self.parts + np.square(block.sounds, dtype=np.float64).sum((1, 2))
            if self._gains is not None:
                mixture, sounds = torch.from_numpy(block.mixture), torch.from_numpy(block.sounds)
                block = replace(block, sounds=remix(mixture, sounds, self._gains)[None].numpy())
            rest = [block.mixture - block.sounds.sum(0)] if self._residual else []
            self.loudest = max([self.loudest, *(float(np.abs(part).max()) for part in (*block.sounds, *rest))])
            yield block
            progress(self.length / self.rate)

    def told(
        self,
        gain: float,
        inexact: bool,
        presence: Sequence[float] | None,
        places: tuple[dict[str, int] | None, ...] | None,
    ) -> SeparatedFile:
        """What was written, with a gain, into files of which some are no floating point."""
        energies = tuple(float(part) / max(self.whole, 1e-12) for part in self.parts)
        clipped = inexact and self.loudest * gain > 1
        return SeparatedFile(
            self.length / self.rate, self.rate, self.channels, energies, clipped, gain, presence, places
        )  # fmt: skip


def _spooled(spool: BinaryIO) -> Iterator[np.ndarray]:
    """The arrays in a file to which each was saved."""
    end = spool.tell()
    spool.seek(0)
    while spool.tell() < end:
        yield np.load(spool)


def _write(
    planned: Plan, blocks: Iterator[Block], gain: float, files: ExitStack, limits: Limits, draw: Mapping[Path, Drawing]
) -> None:
    """Write the sounds, and the rest of the mixture without the sounds as they are written."""
    writers: list[AudioWriter | FilmWriter] = []
    for block in blocks:
        if not writers:
            size = planned.format.seconds * block.sample_rate * len(block.mixture) * planned.bits / 8
            expected = size if size < math.inf else 0
            for path in planned.paths:
                if path.suffix.lower() in FILMS:
                    own = planned.file, limits, draw.get(path)
                    writers.append(files.enter_context(FilmWriter(path, block.sample_rate, planned.overwrite, *own)))
                else:
                    sound = AudioWriter(path, block.sample_rate, planned.overwrite, planned.bits, expected)
                    writers.append(files.enter_context(sound))
        pairs = zip(block.sounds, writers, strict=False)
        sounds = [quantised(part * np.float32(gain), writer.bits) for part, writer in pairs]
        rest = block.mixture * np.float32(gain) - sum(sounds)
        for writer, part in zip(writers, [*sounds, rest], strict=False):
            writer.write(part)


def localize_file(
    separator: Separator, file: Path, query: Wanted, time: float | None = None, limits: Limits = LIMITS
) -> Attention:
    """The attention of a text, or of an example sound, over a frame of a video; errors as of `read_frame`."""
    return separator.localize(read_frame(file, time, limits=limits), query)


def localize_file_to_file(
    separator: Separator,
    file: Path,
    query: Wanted,
    output: Path,
    time: float | None = None,
    overwrite: bool = False,
    limits: Limits = LIMITS,
) -> Attention:
    """Draw the attention of a text, or of an example sound, over a frame of a video as a heat map, `output` (.png).

    Errors as of `read_frame`; AvsetError also if `output` cannot be written, is `file` itself, or is there already and
    `overwrite` is not set.
    """
    query = as_query(query)
    check_files(file, {"output": output}, PICTURES, overwrite)
    from avset.report.plots import attention_map, save_png  # matplotlib: a separation does not wait for it

    frame = read_frame(file, time, limits=limits)
    attention = separator.localize(frame, query)
    save_png(output, attention_map(frame, attention.scores, attention.heat, attention.grid))
    return attention


def localize_film_to_film(
    separator: Separator, file: Path, query: Wanted, output: Path, overwrite: bool = False, limits: Limits = LIMITS
) -> tuple[float, Attention]:
    """Draw the attention of a query over the moving picture of a film as a heat map with its scale, `output` (.mp4).

    Pictures keep their times, and are not larger than `heated.LONGEST` px; the sound is the film's own. What is outside
    of the centre square is dark: the model does not see it. Returns the time (s) of the picture where it is found
    most strongly, of those that the model saw, and its attention there.

    AvsetError if `file` has no pictures or cannot be read, and as of `localize_file_to_file`.
    """
    check_files(file, {"output": output}, FILMS, overwrite)
    look = separator.look(query, limits)
    try:
        seen, sounds = (limits(has, file, kind) for kind in ("video", "audio"))
    except ClipError as e:
        raise AvsetError(f"cannot read {str(file)!r} ({e}); give a film") from e
    if not seen:
        raise AvsetError(f"{str(file)!r} has no pictures; give a film")
    drawing = HeatMap(file, look, limits)
    heard = limited_format(file, limits) if sounds else None
    if heard:
        check_writable(output, heard.channels)
    rate = heard.sample_rate if heard else 0
    with FilmWriter(output, rate, overwrite, file, limits, drawing.draw) as writer, ExitStack() as files:
        for block, _ in files.enter_context(closing(limited_blocks(file, limits))) if heard else ():
            writer.write(block)
    assert drawing.strongest
    return drawing.strongest
