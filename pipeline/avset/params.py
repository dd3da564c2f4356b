"""params.yaml -> typed, checked parameters of one data set at one scale, and where their artifacts lie.

A key stands in its shared section, in the block of the data set, or in that of the scale: in one of the three.
Every key that the code knows must be there, and nothing else may be: the error names the key.
"""

import difflib
import hashlib
import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, SerializeAsAny, Strict, ValidationError, field_validator

from avset.errors import ParamsError
from avset.presets import MethodSettings, Section, module_of, settings_type


class Download(Section):
    """How to ask a site for videos. Never part of an artifact, a key or a log."""

    workers: int = Field(ge=1)  # downloads at once
    pace: float = Field(ge=0)  # s between the starts of two downloads, of all workers together
    retries: int = Field(ge=0)  # of a download, each with a fresh extraction
    timeout: float = Field(gt=0)  # s without a byte
    give_up_after: int = Field(ge=1)  # refusals or dead connections in a row that end the stage
    cookies: str | None  # path of a cookies.txt
    cookies_from_browser: str | None  # firefox, chrome, ...
    proxy: str | None  # address; null: that of the environment


class Runtime(Section):
    """How to compute, never what: tracked by no stage."""

    executor: Literal["inline", "processes", "ray"]
    workers: int = Field(ge=1)
    gpus_per_worker: float = Field(ge=0)
    device: Literal["auto", "cpu", "cuda"]
    min_free_gb: float = Field(ge=0)
    time_limit: float = Field(gt=0)  # s for one clip
    download: Download


class Clips(Section):
    """Which media, and how they are cut into clips."""

    source: Literal["demo", "folder", "audioset", "music", "solos", "vggsound"]
    options: dict[str, Any]
    length: float | None = Field(gt=0)  # s; media are cut on this grid, null keeps them whole
    min_seconds: float = Field(gt=0)
    silence: float = Field(lt=0)  # dBFS
    min_success: float = Field(ge=0, le=1)


class Frames(Section):
    """The grid of pictures of a clip."""

    size: int = Field(ge=16)  # px, shorter side, then centre crop
    count: int = Field(ge=1)  # V
    spacing: float = Field(gt=0)  # s


class Spectrograms(Section):
    """The transform of App. A.6."""

    sample_rate: int = Field(ge=1000)  # Hz
    window_length: int = Field(ge=16)  # samples, = FFT size; F = window_length / 2 + 1
    hop_length: int = Field(ge=1)  # samples
    precision: Literal["float16", "float32"]


class EncoderSource(Section):
    """The frozen vision-language model: an open_clip name or JSON file, and a tag or checkpoint file."""

    architecture: str
    weights: str


class Regions(Section):
    """Region features, App. A.2."""

    positional: bool  # add the positional embedding of the cells (Eq. 9 omits it)
    batch_size: int = Field(ge=1)


class Captions(Section):
    """Latent captions, Eq. 1 and App. A.1."""

    tokens: int = Field(ge=1, le=75)  # K
    optimizer: Literal["adam", "sgd"]
    lr: float = Field(gt=0)
    schedule: Literal["cosine", "constant"]
    steps: int = Field(ge=1)
    init_std: float = Field(ge=0)
    batch_size: int = Field(ge=1)
    low: float = Field(ge=-1, le=1)  # captions below this cosine are flagged
    per: Literal["clip", "video"]  # a caption of each clip, or one for all clips of a video


class Model(Section):
    """Sizes of the spectrogram crop and of the U-Net."""

    log_bins: int = Field(ge=4)  # M
    crop: int = Field(ge=4)  # T, STFT frames
    channels: list[int] = Field(min_length=1)  # of the levels above the bottleneck, whose width is D


class Mixtures(Section):
    """The frozen evaluation mixtures."""

    n_sources: int = Field(ge=2)
    validation: int = Field(ge=1)
    test: int = Field(ge=1)
    same_category: int = Field(ge=0)  # test mixtures of one label each, reported apart
    different_category: bool
    offsets: Literal["centre", "random"]  # where in its clip a crop starts
    gain: Annotated[tuple[float, float], Strict(False)]  # range of the random gain of a source
    seed: int

    @field_validator("gain")
    @classmethod
    def _audible(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] < math.inf:
            raise ValueError("must go from a gain above 0 up to the same or a larger one")
        return value


class Train(Section):
    """Length and bookkeeping of a training run; what is learned is a preset."""

    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)  # mixtures
    validate_every: int = Field(ge=1)  # steps
    gain: tuple[float, float]  # range of the random gain of a source
    threads: int = Field(ge=1)  # the number of threads changes sums, so it is part of the result
    workers: int = Field(ge=1)  # processes, each with its share of every batch; so is theirs
    precision: Literal["float32", "bfloat16"]  # of the network's convolutions
    decoded_frames: int | None = Field(ge=1)  # of a clip, drawn at each step; null: all
    decoded_regions: int | None = Field(ge=1)  # of a frame, drawn at each step; null: all
    seed: int


class Evaluate(Section):
    """Queries and examples of the evaluation."""

    prompts: dict[str, str]  # name of the query -> template with {label}
    examples: int = Field(ge=1)  # mixtures kept whole for the page


SECTIONS: dict[str, type[Section]] = {
    "clips": Clips, "frames": Frames, "spectrograms": Spectrograms, "encoder": EncoderSource,
    "regions": Regions, "captions": Captions, "model": Model, "mixtures": Mixtures, "train": Train,
    "evaluate": Evaluate,
}  # fmt: skip
TOP_KEYS = {"dataset", "scale", "methods", "runtime", "datasets", "scales", "presets"}
CLIPS = "clips"  # their folder lies beside those of the scales


class Params(Section):
    """One data set at one scale, complete."""

    dataset: str
    scale: str
    methods: dict[str, str]  # preset -> the file of its method
    runtime: Runtime
    clips: Clips
    frames: Frames
    spectrograms: Spectrograms
    encoder: EncoderSource
    regions: Regions
    captions: Captions
    model: Model
    mixtures: Mixtures
    train: Train
    evaluate: Evaluate
    presets: dict[str, SerializeAsAny[MethodSettings]]

    @property
    def data(self) -> Path:
        """Where the artifacts of this data set at this scale live, but for its clips."""
        return Path("data") / self.dataset / self.scale

    @property
    def clips_folder(self) -> Path:
        """Where the clips of this data set live, whatever the scale."""
        return clips_of(self.data)

    @property
    def reports(self) -> Path:
        """Where the report of this data set at this scale lives."""
        return Path("reports") / self.dataset / self.scale

    def preset(self, method: str) -> MethodSettings:
        """The preset of a method; ParamsError if there is none."""
        return self.presets[choose(method, self.presets, "method")]


def clips_of(data: Path) -> Path:
    """The clips from which the artifacts in `data` are made; media are fetched once for all scales."""
    return data.parent / CLIPS


def folder_of(data: Path, artifact: str) -> Path:
    """The folder of an artifact, from `data`, that of a data set at some scale."""
    return clips_of(data) if artifact == CLIPS else data / artifact


def encoder_of(model: Path) -> Path:
    """The encoder of the same data set and scale as a trained model."""
    return model.parents[1] / "encoder"


def stage_of(path: Path) -> str:
    """The stage that makes a file or folder in data/; "" if no single one does."""
    inside = path.parts[1:] if path.parts[:1] == ("data",) else ()
    artifact = "".join(inside[1:2] if inside[1:2] == (CLIPS,) else inside[2:3])
    return {"models": "train", "scores": "evaluate"}.get(artifact, artifact)


def choose(name: Any, known: Collection[str], key: str) -> Any:
    """`name` if it is one of `known`, else a ParamsError that lists them and names the nearest."""
    if name not in list(known):
        hint = f"; did you mean {near}?" if (near := nearest(name, known)) else ""
        raise ParamsError(f"{key}: {name!r} is not one of {', '.join(sorted(known))}{hint}")
    return name


def nearest(name: Any, known: Collection[str]) -> str:
    """The one of `known` that a misspelt name is likely to mean; "" if none is."""
    return next(iter(difflib.get_close_matches(str(name), known, 1)), "")


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml; ParamsError names the key that is wrong, and what it may be."""
    try:
        tree = yaml.safe_load(path.read_text())
    except FileNotFoundError as e:
        raise ParamsError(f"{path} is not here; run from the top folder of the project") from e
    except yaml.YAMLError as e:
        raise ParamsError(f"{path} is not valid YAML: {' '.join(str(e).split())}") from e
    return resolve(mapping(tree, str(path)))


def resolve(tree: dict[str, Any]) -> Params:
    """A parsed params.yaml -> the parameters of the data set and of the scale that it names."""
    for key in tree:
        choose(key, TOP_KEYS | set(SECTIONS), "params.yaml, top level")
    if missing := sorted(TOP_KEYS - set(tree)):
        raise ParamsError(f"{missing[0]}: missing from params.yaml")
    blocks = {"": tree}
    for axis in ("dataset", "scale"):
        known = mapping(tree[f"{axis}s"], f"{axis}s")
        name = choose(tree[axis], known, axis)
        block = blocks[f"{axis}s.{name}."] = mapping(known[name], f"{axis}s.{name}")
        for key in block:
            choose(key, SECTIONS, f"{axis}s.{name}")
    if tree["scale"] == CLIPS:
        raise ParamsError(f"scale: {CLIPS!r} is the folder of the clips of all scales; give the scale another name")
    sections = {name: _section(blocks, name) for name in SECTIONS}
    batch, workers = sections["train"].batch_size, sections["train"].workers
    if batch % workers:
        raise ParamsError(f"train.workers: {workers} do not divide the {batch} mixtures of train.batch_size evenly")
    presets = {name: _preset(name, values) for name, values in mapping(tree["presets"], "presets").items()}
    _check_methods(tree["methods"], presets)
    runtime = checked(Runtime, tree["runtime"], "runtime")
    top = {name: tree[name] for name in ("dataset", "scale", "methods")}
    return Params(**top, runtime=runtime, presets=presets, **sections)


def _preset(name: str, values: Any) -> MethodSettings:
    if not isinstance(values, dict) or "kind" not in values:
        raise ParamsError(f"presets.{name}.kind: missing from params.yaml")
    return checked(settings_type(values["kind"], f"presets.{name}.kind"), values, f"presets.{name}")


def _check_methods(methods: Any, presets: dict[str, MethodSettings]) -> None:
    """ParamsError unless `methods` maps names of presets to the files of their methods, which DVC watches."""
    if not isinstance(methods, dict):
        raise ParamsError(f"methods: must be a mapping, preset: file of its method, not {methods!r}")
    for name, path in methods.items():
        module = module_of(presets[choose(name, presets, "methods")].kind).split(".")
        if list(Path(str(path)).with_suffix("").parts[-len(module) :]) != module:
            raise ParamsError(f"methods.{name}: {path!r} is not the file of {'.'.join(module)}, its preset's kind")


def mapping(value: Any, key: str) -> dict[str, Any]:
    """`value` if it is a mapping, {} if it is null, else a ParamsError."""
    if not isinstance(value, dict | None):
        raise ParamsError(f"{key}: must be a mapping, not {value!r}")
    return value or {}


def _section(blocks: dict[str, dict[str, Any]], name: str) -> Any:
    """A section, its keys gathered from the blocks: the shared one, that of the data set, that of the scale."""
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for prefix, block in blocks.items():
        for key, value in mapping(block.get(name), prefix + name).items():
            if key in places:
                raise ParamsError(f"{name}.{key}: stands in {places[key]} and in {prefix}{name}; keep one")
            values[key], places[key] = value, prefix + name
    return checked(SECTIONS[name], values, name, places)


M = TypeVar("M", bound=BaseModel)


def checked(kind: type[M], values: Any, name: str, places: Mapping[str, str] | None = None) -> M:
    """The checked values of a section with this dotted name; `places`: where each of its keys stands, if elsewhere.

    ParamsError names the key that is wrong. An unknown key comes first, with the nearest known one: it may be why
    another is missing.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as e:
        error = min(e.errors(), key=lambda one: one["type"] != "extra_forbidden")
        path, places = [str(part) for part in error["loc"]], places or {}
        key = ".".join([places.get(path[0], name) if path else name, *path])
        if error["type"] == "extra_forbidden":
            raise ParamsError(f"{key}: unknown key; {_known(kind, path, name, places)}") from e
        if error["type"] == "missing":
            raise ParamsError(f"{key}: missing from params.yaml") from e
        raise ParamsError(f"{key}: {error['msg']}" + (f", not {error['input']!r}" if path else "")) from e


def _known(kind: type[BaseModel], path: list[str], name: str, places: Mapping[str, str]) -> str:
    """What an unknown key of a model, or of one in it, may mean."""
    *above, key = path
    for part in above:
        kind = kind.model_fields[part].annotation  # type: ignore[assignment]
    near = nearest(key, kind.model_fields)
    if not near:
        return f"known here: {', '.join(kind.model_fields)}"
    here = places.get(path[0], name)
    there = here if above else places.get(near, here)
    if there == here:
        return f"did you mean {'.'.join([here, *above, near])}?"
    return f"did you mean {name}.{near} ({there})?"


def digest(value: Any) -> str:
    """sha256 of a value's canonical JSON: one identity for recipes, keys and stores."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
