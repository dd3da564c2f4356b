"""params.yaml -> typed, checked parameters of one data set at one scale, and where their artifacts lie.

A key stands in its shared section, in the block of the data set, or in that of the scale: in one of the three.
Every key that the code knows must be there, and nothing else may be: the error names the key.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializeAsAny, Strict, field_validator

from avset.architecture import MARKS, Architecture, known
from avset.console import typed_path
from avset.errors import ParamsError
from avset.presets import MethodSettings, Misfit, Section, Seed, module_of, settings_type
from avset.values import check_plain, checked, choose, known_keys, mapping, read

NAME = r"\w[\w-]*"  # of a data set, a scale, a method, a query: a part of paths, of DVC's keys, and of tables
CONTROLS = ("other", "absent")  # queries that ask for the wrong sound: see avset.evaluation.estimates
KINDS_OF_QUERY = {
    "video", "caption", "sound", "oracle", "mixture", "ideal", "chance", "localization", "wrong", "norm", "duets",
    "answers", *CONTROLS,
}  # fmt: skip
ENTRIES = {"mixture", "template", "fixed", "ideal", "ideal_linear", "localization", "captions", "encoder"}
NO_METHODS = ENTRIES  # other entries of metrics.json, as are the names of the further sets
NO_SETS = ENTRIES | {"train", "validation", "test"}  # further sets are splits, and entries of metrics.json
LONGEST = 1e7  # s of any waiting: clocks of the system take no more than some years
LEAST_OVERLAP = 1e-10  # sum of squared Hann windows at a sample; with less, no inverse transform brings it back


class Download(Section):
    """How to ask a site for videos. Never part of an artifact, a key or a log."""

    workers: int = Field(ge=1, le=1024)  # downloads at once
    pace: float = Field(ge=0, le=LONGEST)  # s between the starts of two downloads, of all workers together
    retries: int = Field(ge=0)  # of a download, each with a fresh extraction
    timeout: float = Field(gt=0, le=LONGEST)  # s without a byte
    give_up_after: int = Field(ge=1)  # refusals or dead connections in a row that end the stage
    cookies: str | None  # path of a cookies.txt
    cookies_from_browser: str | None  # firefox, chrome, ...
    proxy: str | None  # address; null: that of the environment


class Runtime(Section):
    """How to compute, never what: tracked by no stage."""

    executor: Literal["inline", "processes", "ray"]
    workers: int = Field(ge=1, le=4096)
    gpus_per_worker: float = Field(ge=0)  # at most 1, or whole
    device: Literal["auto", "cpu", "cuda"]
    min_free_gb: float = Field(ge=0)
    time_limit: float = Field(gt=0, le=LONGEST)  # s for one clip
    memory_limit: float = Field(ge=0.5, le=10**6)  # GB of a process that reads media
    download: Download

    @field_validator("gpus_per_worker")
    @classmethod
    def _whole(cls, value: float) -> float:
        if value > 1 and value % 1:
            raise ValueError("a worker gets whole GPUs, or a fraction of one")
        return value


class Clips(Section):
    """Which media, and how they are cut into clips."""

    source: Literal["demo", "folder", "audioset", "music", "solos", "vggsound"]
    options: dict[str, Any]  # those of the source: see `check_options`
    length: float | None = Field(gt=0)  # s; media are cut on this grid, null keeps them whole
    min_seconds: float = Field(gt=0)
    silence: float = Field(lt=0)  # dBFS
    min_success: float = Field(ge=0, le=1)


class Frames(Section):
    """The grid of pictures of a clip."""

    size: int = Field(ge=16, le=8192)  # px, shorter side, then centre crop
    count: int = Field(ge=1, le=1024)  # V
    spacing: float = Field(gt=0)  # s


class Spectrograms(Section):
    """The transform of App. A.6."""

    sample_rate: int = Field(ge=1000, le=384_000)  # Hz
    window_length: int = Field(ge=16, le=65_536)  # samples, = FFT size; F = window_length / 2 + 1
    hop_length: int = Field(ge=1)  # samples
    precision: Literal["float16", "float32"]


class EncoderSource(Section):
    """The frozen vision-language model: an open_clip name or JSON file, and a tag or checkpoint file."""

    architecture: str = Field(min_length=1)
    weights: str = Field(min_length=1)


class Tower(Section):
    """The picture tower of the systems that have one of their own: torchvision's ResNet-18, or a small one."""

    architecture: Literal["resnet18", "small"]
    weights: str = Field(min_length=1)  # imagenet | none: drawn here | path of a state dict


TRUTH, DETECTOR = "truth", "torchvision:"  # boxes of the source's own; before the name of a detector


class Objects(Section):
    """Boxes of things in the frames, for the systems that are told where they are."""

    boxes: str = Field(min_length=1)  # truth: the source's own | path of a table | torchvision:<detector>
    weights: str | None  # path of the detector's; null: the published ones
    count: int = Field(ge=1, le=1024)  # O, of a frame at most
    confidence: float = Field(ge=0, le=1)  # of what a detector must see to be kept
    noise: float = Field(ge=0, le=1)  # std of each corner of a given box, as a share of the box's size
    side: int = Field(ge=16, le=1024)  # px of a crop


class Regions(Section):
    """Region features, App. A.2."""

    positional: bool  # add the positional embedding of the cells (Eq. 9 omits it)
    batch_size: int = Field(ge=1)


class Captions(Section):
    """Latent captions, Eq. 1 and App. A.1."""

    tokens: int = Field(ge=1)  # K
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

    log_bins: int = Field(ge=4, le=65_536)  # M
    crop: int = Field(ge=4, le=65_536)  # T, STFT frames
    channels: list[Annotated[int, Field(ge=1, le=65_536)]] = Field(
        min_length=1
    )  # above the bottleneck, whose width is D


class Mixtures(Section):
    """The frozen evaluation mixtures."""

    n_sources: int = Field(ge=2)
    validation: int = Field(ge=1)
    test: int = Field(ge=1)
    different_category: bool
    offsets: Literal["centre", "random"]  # where in its clip a crop starts
    gain: Annotated[tuple[float, float], Strict(False)]  # range of the random gain of a source
    seed: Seed

    @field_validator("gain")
    @classmethod
    def _audible(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] < math.inf:
            raise ValueError("must go from a gain above 0 up to the same or a larger one")
        return value


class FurtherSet(Section):
    """A further set of frozen test mixtures; offsets and gains are drawn as `mixtures` says.

    With a `list`, its mixtures are those of the list that have so many sources, and such labels.
    """

    count: int = Field(ge=1)  # mixtures, at most
    n_sources: int = Field(ge=2)
    category: Literal["different", "same", "any", "duet"]  # labels of its sources; any: clips without one, too; duet:
    # the players of one clip, where its source knows what each plays
    seed: Seed
    list: str | None = None  # path of a published list of mixtures, see avset.training.listed; may be left out


def _set(name: str) -> str:
    """ValueError unless a name can be that of a further set."""
    if name in NO_SETS:
        raise ValueError(f"this is a split, or another entry of metrics.json ({', '.join(sorted(NO_SETS))}); rename it")
    if not re.fullmatch(NAME, name):
        raise ValueError("a set's name has letters, digits, - and _ only")
    return name


class Sets(Section):
    """Further sets of test mixtures, by name: scored apart with the same models, which do not depend on them."""

    further: dict[Annotated[str, AfterValidator(_set)], FurtherSet]

    def recipe(self) -> dict[str, Any]:
        """The plain values; a set without a list has no such key."""
        return self.model_dump(mode="json", exclude_none=True)


class Train(Section):
    """Length, beginning and bookkeeping of a training run; what is learned is a preset."""

    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)  # mixtures
    validate_every: int = Field(ge=1)  # steps
    gain: Annotated[tuple[float, float], Strict(False)]  # range of the random gain of a source
    threads: int = Field(ge=1, le=1024)  # the number of threads changes sums, so it is part of the result
    workers: int = Field(ge=1)  # processes, each with its share of every batch; so is theirs
    precision: Literal["float32", "bfloat16"]  # of the network's convolutions
    decoded_frames: int | None = Field(ge=1)  # of a clip, drawn at each step; null: all
    decoded_regions: int | None = Field(ge=1)  # of a frame, drawn at each step; null: all
    start_from: str | None = Field(min_length=1)  # a model, whose weights it begins with; null: with random ones
    seed: Seed

    def recipe(self) -> dict[str, Any]:
        """The plain values; a training that begins with random weights has no `start_from`."""
        return self.model_dump(mode="json", exclude=set() if self.start_from else {"start_from"})

    @field_validator("gain")
    @classmethod
    def _ascending(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] <= value[1] or value[1] == 0:
            raise ValueError("must go from a gain of 0 or more up to a larger one")
        return value


def _query(name: str) -> str:
    """ValueError unless a name can be that of a text query."""
    if name.lower() in KINDS_OF_QUERY:
        raise ValueError(f"this is the name of another query or row ({', '.join(sorted(KINDS_OF_QUERY))}); rename it")
    if not re.fullmatch(NAME, name):
        raise ValueError("a query's name has letters, digits, - and _ only")
    return name


def _template(text: str) -> str:
    """ValueError unless a text is a template in which {label} stands, and no other placeholder."""
    try:
        parts = list(Formatter().parse(text))
    except ValueError as e:
        raise ValueError(f"a brace stands alone ({e}); write {{{{ or }}}} for one that is meant") from e
    places = {(name, form, turn) for _, name, form, turn in parts if name is not None}
    if places != {("label", "", None)}:
        raise ValueError("must contain the placeholder {label}, and no other")
    return text


QueryName = Annotated[str, AfterValidator(_query)]


class Evaluate(Section):
    """Queries and examples of the evaluation."""

    prompts: dict[QueryName, Annotated[str, AfterValidator(_template)]] = Field(
        min_length=1
    )  # name of the query -> template with {label}
    phrases: dict[QueryName, dict[str, Annotated[str, Field(min_length=1)]]]  # the same -> label -> its phrase
    controls: bool  # ask for the wrong sound, too: by the text of the other source, and of an absent class
    examples: int = Field(ge=1)  # mixtures kept whole for the page


SECTIONS: dict[str, type[Section]] = {
    "clips": Clips, "frames": Frames, "spectrograms": Spectrograms, "encoder": EncoderSource,
    "tower": Tower, "objects": Objects,
    "regions": Regions, "captions": Captions, "model": Model, "mixtures": Mixtures, "sets": Sets, "train": Train,
    "evaluate": Evaluate,
}  # fmt: skip
TOP_KEYS = {"dataset", "scale", "methods", "runtime", "datasets", "scales", "presets"}
ON_DEMAND = "systems/dvc.yaml"  # has the stages of what only some methods need
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
    tower: Tower
    objects: Objects
    regions: Regions
    captions: Captions
    model: Model
    mixtures: Mixtures
    sets: Sets
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
        """The preset of a method; ParamsError if there is none, or if it does not fit the other parameters."""
        chosen = self.presets[choose(method, self.presets, "method")]
        for key, why in chosen.misfits(method, self):
            raise ParamsError(f"{key}: {why}")
        return chosen


def clips_of(data: Path) -> Path:
    """The clips from which the artifacts in `data` are made; media are fetched once for all scales."""
    return data.parent / CLIPS


def folder_of(data: Path, artifact: str) -> Path:
    """The folder of an artifact, from `data`, that of a data set at some scale."""
    return clips_of(data) if artifact == CLIPS else data / artifact


def encoder_of(model: Path) -> Path:
    """The encoder that a shared model has inside; else that of the same data set and scale as a trained model."""
    if (inside := model / "encoder").is_dir():
        return inside
    return (model if len(model.parents) > 1 else model.absolute()).parents[1] / "encoder"


def stage_of(path: Path) -> str:
    """The stage that makes a file or folder in data/, as `dvc repro` takes it; "" if no single one does."""
    inside = path.parts[1:] if path.parts[:1] == ("data",) else ()
    artifact = "".join(inside[1:2] if inside[1:2] == (CLIPS,) else inside[2:3])
    return target({"models": "train", "scores": "evaluate"}.get(artifact, artifact))


def target(stage: str) -> str:
    """A stage as `dvc repro` takes it."""
    return f"{ON_DEMAND}:{stage}" if stage in ("tower", "objects") else stage


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml; ParamsError names the key that is wrong, and what it may be."""
    return resolve(read(path), path.parent)


def _at_home(value: Any) -> Any:
    """A parsed file, with the home folder in place of the `~` of every path."""
    if isinstance(value, dict):
        return {key: _at_home(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_at_home(inner) for inner in value]
    return str(typed_path(value)) if isinstance(value, str) and value.split("/")[0] == "~" else value


def resolve(tree: dict[str, Any], root: Path = Path()) -> Params:
    """A parsed params.yaml -> the parameters of the data set and of the scale that it names.

    ParamsError if a value is wrong by itself or beside the others; `root` is the folder of the files that it names.
    """
    check_plain(tree)
    tree = _at_home(tree)
    for key in tree:
        choose(key, TOP_KEYS | set(SECTIONS), "params.yaml, top level")
    if missing := sorted(TOP_KEYS - set(tree)):
        raise ParamsError(f"{missing[0]}: missing from params.yaml")
    blocks = {"": tree}
    for axis in ("dataset", "scale"):
        there = mapping(tree[f"{axis}s"], f"{axis}s")
        name = choose(tree[axis], there, axis)
        _check_name(name, axis)
        for one, block in there.items():
            _check_keys(mapping(block, f"{axis}s.{one}"), f"{axis}s.{one}")
        blocks[f"{axis}s.{name}."] = mapping(there[name], f"{axis}s.{name}")
    if tree["scale"] == CLIPS:
        raise ParamsError(f"scale: {CLIPS!r} is the folder of the clips of all scales; give the scale another name")
    places: dict[str, str] = {}  # the full name of each parameter
    sections = {name: _section(blocks, name, places) for name in SECTIONS}
    presets = {name: _preset(name, values) for name, values in mapping(tree["presets"], "presets").items()}
    _check_methods(tree["methods"], presets, root)
    runtime = checked(Runtime, tree["runtime"], "runtime")
    top = {name: tree[name] for name in ("dataset", "scale", "methods")}
    p = Params(**top, runtime=runtime, presets=presets, **sections)
    for key, why in _misfits(p, known(p.encoder.architecture, p.data / "encoder", root)):
        raise ParamsError(f"{places.get(key, key)}: {why}")
    return p


def check_options(p: Params) -> None:
    """ParamsError if the options of the source are wrong; not part of `load`, since a source takes time to import."""
    options = checked(import_module(f"avset.sources.{p.clips.source}").Options, p.clips.options, "clips.options")
    if p.clips.source == "folder" and not options.table and p.mixtures.different_category:
        why = "a folder without clips.options.table has no labels; set it to false"
        raise ParamsError(f"datasets.{p.dataset}.mixtures.different_category: {why}")


def _misfits(p: Params, encoder: Architecture | None) -> Iterator[Misfit]:
    """Parameters that are wrong beside others, or for the encoder as far as that is known."""
    longest, train, runtime = p.clips.length, p.train, p.runtime
    if longest is not None and longest < p.clips.min_seconds:
        yield "clips.length", f"all clips of {longest:g} s would be shorter than clips.min_seconds; lower that"
    window, hop = p.spectrograms.window_length, p.spectrograms.hop_length
    if hop >= window or (2 * hop > window and math.sin(math.pi * hop / window) ** 4 < LEAST_OVERLAP):
        why = f"must be below window_length = {window}, best a quarter of it, not {hop}; else samples are lost"
        yield "spectrograms.hop_length", why
    if train.validate_every > train.steps:
        yield "train.validate_every", f"must be at most train.steps = {train.steps}, not {train.validate_every}"
    if train.batch_size % train.workers:
        why = f"{train.workers} do not divide the {train.batch_size} mixtures of train.batch_size evenly"
        yield "train.workers", why
    if (train.decoded_frames or 0) > p.frames.count:
        yield "train.decoded_frames", f"a clip has {p.frames.count} (frames.count), not {train.decoded_frames}"
    if runtime.executor == "ray" and runtime.device == "cuda" and not runtime.gpus_per_worker:
        yield (
            "runtime.gpus_per_worker",
            "Ray hides the GPUs from workers with 0, but runtime.device is cuda; set it to 1",
        )
    if encoder:
        words = encoder.context - MARKS
        if p.captions.tokens > words:
            yield "captions.tokens", f"the encoder reads at most {words} (its context, {encoder.context}, less {MARKS})"
        told = {f"prompts.{name}": prompt for name, prompt in p.evaluate.prompts.items()}
        for name, phrases in p.evaluate.phrases.items():
            told |= {f"phrases.{name}.{label}": phrase for label, phrase in phrases.items()}
        for name, prompt in told.items():
            if (count := len(prompt.split())) > words:
                yield f"evaluate.{name}", f"has {count} words; the encoder reads at most {words} tokens"
        if (train.decoded_regions or 0) > encoder.regions:
            why = f"the encoder sees {encoder.regions} regions in a frame, not {train.decoded_regions}"
            yield "train.decoded_regions", why
    for name, further in p.sets.further.items():
        if further.list is not None and further.category == "duet":
            yield f"sets.further.{name}.category", "a list names no players of one clip; set different, same or any"
    for name in p.evaluate.prompts.keys() & p.evaluate.phrases.keys():
        yield f"evaluate.phrases.{name}", "stands among evaluate.prompts, too; rename one"
    for name in p.methods:
        if name in p.sets.further:
            yield f"sets.further.{name}", "a method has this name, too; rename the set"
        yield from p.presets[name].misfits(name, p)


def _preset(name: str, values: Any) -> MethodSettings:
    if not isinstance(values, dict) or "kind" not in values:
        raise ParamsError(f"presets.{name}.kind: missing from params.yaml")
    return checked(settings_type(values["kind"], f"presets.{name}.kind"), values, f"presets.{name}")


def _check_name(name: str, key: str) -> None:
    """ParamsError unless the name of a data set, scale or method can be part of paths, and of DVC's keys."""
    if not re.fullmatch(NAME, name):
        raise ParamsError(f"{key}: {name!r} must have letters, digits, - and _ only, since folders are called so")


def _check_keys(block: dict[str, Any], key: str) -> None:
    """ParamsError if a block of a data set or of a scale has an unknown key, whether the block is in use or not."""
    for section, values in block.items():
        kind, here = SECTIONS[choose(section, SECTIONS, key)], f"{key}.{section}"
        for name in mapping(values, here):
            if name not in kind.model_fields:
                raise ParamsError(f"{here}.{name}: unknown key; {known_keys(kind, [name], here, {})}")


def _check_methods(methods: Any, presets: dict[str, MethodSettings], root: Path) -> None:
    """ParamsError unless `methods` maps names of presets to the files of their methods, which DVC watches."""
    if not isinstance(methods, dict) or not methods:
        raise ParamsError(f"methods: must be a mapping, preset: file of its method, not {methods!r}")
    for name, path in methods.items():
        module = module_of(presets[choose(name, presets, "methods")].kind).split(".")
        _check_name(name, "methods")
        if name in NO_METHODS:
            raise ParamsError(f"methods: {name!r} is another entry of metrics.json; give the preset another name")
        if list(Path(str(path)).with_suffix("").parts[-len(module) :]) != module:
            raise ParamsError(f"methods.{name}: {path!r} is not the file of {'.'.join(module)}, its preset's kind")
        if not (root / str(path)).is_file():
            raise ParamsError(f"methods.{name}: {path!r} is not there; give the path from the top folder")


def _section(blocks: dict[str, dict[str, Any]], name: str, full: dict[str, str]) -> Any:
    """A section, its keys gathered from the blocks: the shared one, that of the data set, that of the scale.

    `full` gets the full name of each of its parameters.
    """
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for prefix, block in blocks.items():
        for key, value in mapping(block.get(name), prefix + name).items():
            if key in places:
                raise ParamsError(f"{name}.{key}: stands in {places[key]} and in {prefix}{name}; keep one")
            values[key], places[key] = value, prefix + name
            full[f"{name}.{key}"] = f"{prefix}{name}.{key}"
    return checked(SECTIONS[name], values, name, places)


def digest(value: Any) -> str:
    """sha256 of a value's canonical JSON: one identity for recipes, keys and stores."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
