"""params.yaml -> typed, checked parameters of one profile.

A key lives in the shared block of its section or in every profile, never in both. Every key that the code
knows must be there, and nothing else may be: the error names the key.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, SerializeAsAny, ValidationError

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
    different_category: bool
    seed: int


class Train(Section):
    """Length and bookkeeping of a training run; what is learned is a preset."""

    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)  # mixtures
    validate_every: int = Field(ge=1)  # steps
    gain: tuple[float, float]  # range of the random gain of a source
    threads: int = Field(ge=1)  # the number of threads changes sums, so it is part of the result
    workers: int = Field(ge=1)  # processes, each with its share of every batch; so is theirs
    precision: Literal["float32", "bfloat16"] = "float32"  # of the network's convolutions
    decoded_frames: int | None = Field(default=None, ge=1)  # of a clip, drawn at each step; null: all
    decoded_regions: int | None = Field(default=None, ge=1)  # of a frame, drawn at each step; null: all
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


class Params(Section):
    """One profile, complete."""

    dataset: str
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
        """Where the artifacts of this data set live."""
        return Path("data") / self.dataset

    @property
    def reports(self) -> Path:
        """Where the report of this data set lives."""
        return Path("reports") / self.dataset

    def preset(self, method: str) -> MethodSettings:
        """The preset of a method; ParamsError if there is none."""
        return self.presets[choose(method, self.presets, "method")]


def choose(name: Any, known: Any, key: str) -> Any:
    """`name` if it is one of `known`, else a ParamsError that lists them."""
    if name not in known:
        raise ParamsError(f"{key}: {name!r} is not one of {', '.join(sorted(known))}")
    return name


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml; ParamsError names the key that is wrong, and what it may be."""
    try:
        tree = yaml.safe_load(path.read_text())
    except FileNotFoundError as e:
        raise ParamsError(f"{path} is not here; run from the top folder of the project") from e
    except yaml.YAMLError as e:
        raise ParamsError(f"{path} is not valid YAML: {' '.join(str(e).split())}") from e
    if not isinstance(tree, dict):
        raise ParamsError(f"{path} must be a mapping of sections")
    return resolve(tree)


def resolve(tree: dict[str, Any]) -> Params:
    """A parsed params.yaml -> the parameters of the profile that its `dataset` names."""
    top = {"dataset", "methods", "runtime", "profiles", "presets"}
    for key in tree:
        choose(key, top | set(SECTIONS), "params.yaml, top level")
    missing = sorted(top - set(tree))
    if missing:
        raise ParamsError(f"{missing[0]}: missing from params.yaml")
    dataset = choose(tree["dataset"], tree["profiles"], "dataset")
    profile = tree["profiles"][dataset]
    for key in profile:
        choose(key, SECTIONS, f"profiles.{dataset}")
    sections = {name: _section(tree, profile, dataset, name) for name in SECTIONS}
    batch, workers = sections["train"].batch_size, sections["train"].workers
    if batch % workers:
        raise ParamsError(f"train.workers: {workers} do not divide the {batch} mixtures of train.batch_size evenly")
    presets = {name: _preset(name, values) for name, values in tree["presets"].items()}
    _check_methods(tree["methods"], presets)
    runtime = _check(Runtime, tree["runtime"], lambda key: f"runtime.{key}")
    return Params(dataset=dataset, methods=tree["methods"], runtime=runtime, presets=presets, **sections)


def _preset(name: str, values: Any) -> MethodSettings:
    if not isinstance(values, dict) or "kind" not in values:
        raise ParamsError(f"presets.{name}.kind: missing from params.yaml")
    kind = settings_type(values["kind"], f"presets.{name}.kind")
    return _check(kind, values, lambda key: f"presets.{name}.{key}")


def _check_methods(methods: Any, presets: dict[str, MethodSettings]) -> None:
    """ParamsError unless `methods` maps names of presets to the files of their methods, which DVC watches."""
    if not isinstance(methods, dict):
        raise ParamsError(f"methods: must be a mapping, preset: file of its method, not {methods!r}")
    for name, path in methods.items():
        module = module_of(presets[choose(name, presets, "methods")].kind).split(".")
        if list(Path(str(path)).with_suffix("").parts[-len(module) :]) != module:
            raise ParamsError(f"methods.{name}: {path!r} is not the file of {'.'.join(module)}, its preset's kind")


def _section(tree: dict, profile: dict, dataset: str, name: str) -> Any:
    shared, own = tree.get(name) or {}, profile.get(name) or {}
    for key in own:
        if key in shared:
            raise ParamsError(f"{name}.{key}: stands in the shared block and in profiles.{dataset}.{name}; keep one")
    where = lambda key: f"{name}.{key}" if key.split(".")[0] in shared else f"profiles.{dataset}.{name}.{key}"  # noqa: E731
    return _check(SECTIONS[name], {**shared, **own}, where)


def _check(kind: type[Section], values: Any, where: Any) -> Any:
    try:
        return kind.model_validate(values)
    except ValidationError as e:
        first = e.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = ", ".join(kind.model_fields)
            raise ParamsError(f"{where(key)}: unknown key; known here: {known}") from e
        if first["type"] == "missing":
            raise ParamsError(f"{where(key)}: missing from params.yaml") from e
        raise ParamsError(f"{where(key)}: {first['msg']}, not {first['input']!r}") from e


def digest(value: Any) -> str:
    """sha256 of a value's canonical JSON: one identity for recipes, keys and stores."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
