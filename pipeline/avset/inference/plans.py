"""What will be separated into which files, as far as it can be known before a model is loaded. No torch in here."""

import glob
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from avset.compute.limited import Limits
from avset.errors import AvsetError
from avset.inference.pictures import picture_size
from avset.inference.reading import LIMITS, check_audible, limited_format
from avset.inference.wishes import Query, check_spans, in_square
from avset.media.films import check_film
from avset.media.recordings import Format
from avset.media.targets import FILMS, WRITABLE, check_files, check_readable
from avset.media.writers import check_writable

FIELDS = {  # of a template
    "folder": "the folder of the input, below the folder that was named",
    "name": "the name of the input, without its suffix",
    "query": "the query: its sound, what is not wanted, its spans, its gain, whether sounds share",
    "number": "the number of the query, from 1",
}
LONGEST = 80  # letters of a query in a file's name
READABLE = set(  # what is taken from a folder; a file that is named may have any suffix
    ".aac .ac3 .aif .aiff .amr .ape .au .avi .caf .eac3 .flac .flv .m4a .m4v .mkv .mov .mp3 .mp4 .mpeg .mpg "  # noqa: SIM905
    ".mts .mxf .oga .ogg .ogv .opus .tta .ts .w64 .wav .webm .wma .wmv .wv".split()
)


@dataclass(frozen=True)
class Plan:
    """A file, and the files that will be made of it."""

    file: Path
    outputs: tuple[Path, ...]  # one for each query, or one remix
    residual: Path | None
    format: Format
    bits: int  # of exact formats
    overwrite: bool = False
    heat_map: bool = False  # over the pictures of films

    @property
    def paths(self) -> list[Path]:
        """All that will be written, the residual last."""
        return [*self.outputs, *([self.residual] if self.residual else [])]


@dataclass(frozen=True)
class Input:
    """A file that is named by itself, or that lies in a folder that is named."""

    path: Path
    folder: str = ""  # where it lies below the folder


def plan(
    file: Path, outputs: Sequence[Path], residual: Path | None = None, overwrite: bool = False,
    bits: int | None = None, model_rate: bool = False, limits: Limits = LIMITS, queries: Sequence[Query] = (),
    heat_map: bool = False,
) -> Plan:  # fmt: skip
    """Look at the input, the outputs, and whether queries fit the input. AvsetError if not; nothing is written."""
    several = len(outputs) > 1
    names = {f"output{f' {number}' if several else ''}": path for number, path in enumerate(outputs, 1)}
    check_files(file, {**names, "residual": residual}, WRITABLE, overwrite)
    found = limited_format(file, limits)
    _check_fit(queries, file, found.seconds, limits)
    made = Plan(file, tuple(outputs), residual, found, bits or found.bits, overwrite, heat_map)
    if heat_map and not all(path.suffix.lower() in FILMS for path in outputs):
        raise AvsetError(f"a heat map is drawn over films alone; give an output that ends in {', '.join(FILMS)}")
    if heat_map and any(query.gain is not None for query in queries):
        raise AvsetError("a remix is of several sounds and has no heat map; leave out the gains, or the heat map")
    for path in made.paths:
        check_writable(path, 1 if model_rate else found.channels, bits)
        if path.suffix.lower() in FILMS:
            check_film(path, found.pictures, heat_map and path in outputs)
    return made


def _check_fit(queries: Sequence[Query], file: Path, seconds: float, limits: Limits) -> None:
    """AvsetError if a span or a box lies outside of a file, or if there is no picture for a box."""
    check_spans(queries, seconds)
    wanted = [one for query in queries for one in (query, *query.unwanted)]
    if any(one.video or one.box for one in wanted):
        size = picture_size(file, limits)
        for one in wanted:
            if one.box:
                in_square(one.box, *size)
            if one.time is not None and one.time > seconds:
                raise AvsetError(f"there is no picture at {one.time:g} s: {str(file)!r} has {seconds:.2f} s")


def check_examples(queries: Sequence[Query], limits: Limits = LIMITS) -> None:
    """AvsetError if a file that a query gives as an example cannot be heard."""
    for query in queries:
        for one in (query, *query.unwanted):
            if isinstance(one.like, (str, Path)):
                check_readable(Path(one.like))
                check_audible(Path(one.like), limits)


def inputs_of(named: Sequence[Path]) -> list[Input]:
    """The files that are named, those in the folders that are named, and those that patterns name; each once.

    AvsetError if a folder or a pattern has none.
    """
    found: dict[Path, Input] = {}
    for path in named:
        several = list(_expanded(path))
        if not several:
            what = "folder" if path.is_dir() else "pattern"
            raise AvsetError(f"the {what} {str(path)!r} has no audio or video file; give another one")
        for one in several:
            found.setdefault(one.path.absolute(), one)
    return list(found.values())


def _expanded(path: Path) -> Iterator[Input]:
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.suffix.lower() in READABLE and file.name[0] != "." and file.is_file():
                yield Input(file, file.parent.relative_to(path).as_posix())
    elif glob.has_magic(str(path)) and not path.exists():
        for name in sorted(glob.glob(str(path), recursive=True)):  # noqa: PTH207 - of a whole path, with its **
            if Path(name).is_file():
                yield Input(Path(name))
    else:
        yield Input(path)


def targets_of(inputs: Sequence[Input], names: Sequence[str], template: str) -> list[list[Path]]:
    """For each input the outputs of these names. A template without fields that names a folder gets a name by itself.

    AvsetError if two outputs would be one file.
    """
    if template.endswith("/") or Path(template).is_dir():
        template = str(Path(template) / "{folder}" / "{name}-{query}.wav")
    targets = [[Path(_filled(template, one, name, number)) for number, name in enumerate(names, 1)] for one in inputs]
    seen: dict[Path, Path] = {}
    for one, several in zip(inputs, targets, strict=True):
        for path in several:
            if (other := seen.setdefault(_same_key(path), one.path)) is not one.path or several.count(path) > 1:
                which = f"{str(other)!r} and {str(one.path)!r}" if other is not one.path else "several queries"
                fields = ", ".join(f"{{{field}}}" for field in FIELDS)
                raise AvsetError(f"{which} would be written to {str(path)!r}; give a template with {fields}")
    return targets


def _same_key(path: Path) -> Path:
    return Path(str(path.absolute()).casefold())


def _filled(template: str, one: Input, query: str, number: int) -> str:
    """A template with the values of its fields; other braces stay as they are."""
    values = {"folder": one.folder or ".", "name": one.path.stem, "query": file_name(query), "number": str(number)}
    return re.sub(r"\{(folder|name|query|number)\}", lambda found: values[found[1]], template)


def file_name(query: str) -> str:
    """A query as a part of a file's name: letters and digits of any script, the rest are hyphens.

    A long one is cut, and ends in a part of its digest.
    """
    name = re.sub(r"[\W_]+", "-", query).strip("-") or "query"
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 9]}-{hashlib.sha256(query.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Plans:
    """What is to be done with some inputs."""

    todo: list[Plan]
    done: list[Path]  # inputs of which all is there already
    refused: dict[Path, str]  # inputs that cannot be used, and why


def plan_all(
    inputs: Sequence[Input], targets: Sequence[Sequence[Path]], residuals: Sequence[Path | None] = (),
    overwrite: bool = False, resume: bool = False, bits: int | None = None, model_rate: bool = False,
    limits: Limits = LIMITS, queries: Sequence[Query] = (), heat_map: bool = False,
) -> Plans:  # fmt: skip
    """A plan for each input; with `resume`, none for those of which all outputs are there.

    AvsetError if an output is an input, if the only input cannot be used, or if none can.
    """
    check_examples(queries, limits)
    found = Plans([], [], {})
    own = {one.path.resolve(): one.path for one in inputs}
    for one, outputs, residual in zip(inputs, targets, residuals or [None] * len(inputs), strict=True):
        wanted = [*outputs, *([residual] if residual else [])]
        for path in wanted:
            if own.get(path.resolve(), one.path) is not one.path:
                raise AvsetError(f"cannot write {str(path)!r}: that is an input, too; give another name")
        if resume and all(path.is_file() for path in wanted):
            found.done.append(one.path)
            continue
        try:
            how = overwrite or resume, bits, model_rate, limits, queries, heat_map
            found.todo.append(plan(one.path, outputs, residual, *how))
        except AvsetError as e:
            if len(found.refused) == len(inputs) - 1:
                raise
            found.refused[one.path] = str(e)
    return found
