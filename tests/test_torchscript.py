"""Tensors of TorchScript archives, and attacks: nothing in an archive runs, writes a file, or takes the memory."""

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_encoder import config, random_clip, torchscript

from avset.errors import AvsetError
from avset.features import torchscript as archives
from avset.features.encoder import Encoder
from avset.features.weights import export

Entries = dict[str, bytes]


class Small(torch.nn.Module):
    """Parameters, a shared storage, buffers as of OpenAI, a list of modules, and a constant of the code."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)]).half()
        self.whole = torch.nn.Parameter(torch.arange(12.0).view(3, 4))
        self.part = torch.nn.Parameter(self.whole.detach()[1:, ::2])
        self.register_buffer("input_resolution", torch.tensor(224))
        self.register_buffer("none", torch.zeros(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.whole + torch.tensor([1.0, 2.0, 3.0, 4.0])


def saved(model: torch.nn.Module) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(model, torch.ones(1, 3)), file)
    return file.getvalue()


def written(path: Path, entries: Entries, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in entries.items():
            file.writestr(name, data)
    return path


def test_every_tensor_comes_out_as_torch_reads_it(tmp_path: Path):
    archive = saved(Small())
    (tmp_path / "small.pt").write_bytes(archive)
    assert archives.is_torchscript(tmp_path / "small.pt")
    found = archives.read_tensors(tmp_path / "small.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = torch.jit.load(io.BytesIO(archive)).state_dict()
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def test_an_archive_of_half_precision_becomes_an_encoder(tmp_path: Path):
    model = random_clip(config()).half()
    (tmp_path / "tiny.json").write_text(json.dumps(config()))
    (tmp_path / "RN50.pt").write_bytes(torchscript(model))
    export(str(tmp_path / "tiny.json"), str(tmp_path / "RN50.pt"), tmp_path / "encoder")
    for name, tensor in Encoder.load(tmp_path / "encoder").model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name].to(tensor.dtype)), name


class Runs:
    """Writes a file when a careless reader unpickles it."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> Any:
        return (open, (str(self.target), "w"))


def module_pickle(body: bytes) -> bytes:
    """The pickle of a module with one attribute, x: what `body` leaves on the stack."""
    return b"\x80\x02c__torch__.m\nM\n)\x81}X\x01\x00\x00\x00x" + body + b"sb."


def tensor_pickle(key: str = "0", count: int = 4, size: int = 4, stride: int = 1, kind: str = "FloatStorage") -> bytes:
    """A module with one tensor, as its pickle declares it."""

    def text(told: str) -> bytes:
        return b"X" + len(told).to_bytes(4, "little") + told.encode()

    def number(told: int) -> bytes:
        data = told.to_bytes(9, "little", signed=True)
        return b"\x8a\x09" + data

    storage = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(count) + b"tQ"
    view = b"(" + storage + number(0) + b"(" + number(size) + b"t(" + number(stride) + b"t\x89}tR"
    return module_pickle(b"ctorch._utils\n_rebuild_tensor_v2\n" + view)


def with_pickle(data: bytes) -> Callable[[Entries, Path], Entries]:
    return lambda entries, _: {"m/code/x.py": b"", "m/data/0": bytes(16), "m/data.pkl": data}


def reduce(entries: Entries, target: Path) -> Entries:
    return entries | {"m/data.pkl": pickle.dumps(Runs(target), 2), "m/constants.pkl": pickle.dumps(Runs(target), 2)}


ATTACKS: dict[str, tuple[Callable[[Entries, Path], Entries], str]] = {
    "a reduce": (reduce, "asks for"),
    "a call of the system": (with_pickle(module_pickle(b"cos\nsystem\nX\x02\x00\x00\x00id\x85R")), "os.system"),
    "a builtin": (with_pickle(module_pickle(b"c__builtin__\neval\nX\x01\x00\x00\x001\x85R")), "eval"),
    "torch's own loader": (with_pickle(module_pickle(b"ctorch.jit\nload\nX\x01\x00\x00\x00x\x85R")), "torch.jit.load"),
    "an instance of old": (with_pickle(b"\x80\x02(ios\nsystem\n."), "INST"),
    "a name made on the stack": (with_pickle(b"\x80\x04\x8c\x02os\x8c\x06system\x93."), "none of TorchScript"),
    "the state of a function": (
        with_pickle(module_pickle(b"ctorch._utils\n_rebuild_tensor_v2\n}b")), "sets the state"),
    "the state of a class": (with_pickle(module_pickle(b"c__torch__.a\nA\n}b")), "cannot be read"),
    "a path out of the archive": (with_pickle(tensor_pickle(key="../../0")), "no item named"),
    "a path from the root": (with_pickle(tensor_pickle(key="/etc/passwd")), "no item named"),
    "more numbers than bytes": (with_pickle(tensor_pickle(count=2**40)), "declares"),
    "a view larger than its storage": (with_pickle(tensor_pickle(size=2**40, stride=0)), "more than its storage"),
    "a negative stride": (with_pickle(tensor_pickle(stride=-1)), "more than its storage"),
    "a view out of its storage": (with_pickle(tensor_pickle(stride=2**20)), "out of bounds"),
    "a storage that nobody knows": (with_pickle(tensor_pickle(kind="QInt8Storage")), "QInt8Storage"),
    "a memo of 64 GB": (with_pickle(b"\x80\x02Nr\xff\xff\xff\x7f."), "counts"),
    "a text longer than the file": (with_pickle(b"\x80\x02X\xff\xff\xff\x7fabc."), "cannot be read"),
    "a module in itself": (with_pickle(module_pickle(b"2")[:-2] + b"b."), "cannot be read"),
    "a module in itself, by the memo": (
        with_pickle(b"\x80\x02c__torch__.m\nM\n)\x81q\x00}X\x01\x00\x00\x00xh\x00sb."), "more modules"),
    "two pickles": (lambda e, _: {**with_pickle(tensor_pickle())(e, _), "n/data.pkl": b"."}, "2 data.pkl"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ""])
def test_an_attack_is_refused_in_one_sentence(tmp_path: Path, attack: str, suffix: str):
    (tmp_path / "tiny.json").write_text(json.dumps(config()))
    change, why = ATTACKS[attack]
    file = written(tmp_path / f"m{suffix}", change({"m/code/x.py": b""}, tmp_path / "owned"))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(AvsetError, match="cannot be read as a checkpoint") as refused:
        export(str(tmp_path / "tiny.json"), str(file), tmp_path / "encoder")
    assert why in str(refused.value)
    assert sorted(tmp_path.iterdir()) == before, "a file was written"


def test_a_file_that_is_not_what_it_seems_is_refused(tmp_path: Path):
    """A bomb of compressed zeros, and a plain pickle that calls."""
    (tmp_path / "tiny.json").write_text(json.dumps(config()))
    bomb = {"m/code/x.py": b"", "m/data.pkl": bytes(2**26)}
    files = [written(tmp_path / "bomb.pt", bomb, zipfile.ZIP_DEFLATED), tmp_path / "plain.pt"]
    files[1].write_bytes(pickle.dumps({"x": Runs(tmp_path / "owned")}, 2))
    for file, why in zip(files, ("is compressed", "Weights only"), strict=True):
        with pytest.raises(AvsetError, match=why):
            export(str(tmp_path / "tiny.json"), str(file), tmp_path / "encoder")
    assert not (tmp_path / "owned").exists()


def test_the_code_of_an_archive_is_not_run(tmp_path: Path):
    """A module whose __setstate__ torch.jit.load runs: its state is read as nothing but values, and refused."""

    class Stateful(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = torch.zeros(2)

        @torch.jit.export
        def __getstate__(self):
            return (self.value, True)

        @torch.jit.export
        def __setstate__(self, state: tuple[torch.Tensor, bool]):
            assert False, "the code of the archive was run"  # noqa: B011
            self.value = state[0]
            self.training = state[1]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Stateful()).save(str(tmp_path / "m.pt"))
        with pytest.raises(torch.jit.Error, match="was run"):
            torch.jit.load(tmp_path / "m.pt")
    (tmp_path / "tiny.json").write_text(json.dumps(config()))
    with pytest.raises(AvsetError, match="a state of its own"):
        export(str(tmp_path / "tiny.json"), str(tmp_path / "m.pt"), tmp_path / "encoder")


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("vision_cfg.timm_model_name", "hf_hub:someone/theirs", "timm_model_name"),
        ("text_cfg.hf_model_name", "someone/theirs", "hf_model_name"),
        ("custom_text", True, "custom_text"),
        ("vision_cfg.layers", [1, 2, 1, 10**9], "layers"),
        ("vision_cfg.width", "wide", "width"),
        ("embed_dim", -1, "embed_dim"),
        ("text_cfg", None, "text_cfg"),
    ],
)
def test_the_architecture_in_an_encoder_is_checked_before_open_clip_sees_it(
    tmp_path: Path, key: str, value: Any, why: str, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "tiny.json").write_text(json.dumps(config()))
    torch.save(random_clip(config()).state_dict(), tmp_path / "tiny.pt")
    export(str(tmp_path / "tiny.json"), str(tmp_path / "tiny.pt"), tmp_path / "encoder")
    monkeypatch.setattr("open_clip.CLIP", lambda **_: pytest.fail("open_clip was called"))
    file = tmp_path / "encoder" / "encoder.json"
    told = json.loads(file.read_text())
    *above, last = key.split(".")
    (told["model"][above[0]] if above else told["model"])[last] = value
    file.write_text(json.dumps(told))
    with pytest.raises(AvsetError, match=f"not a plain CLIP, .*{why}"):
        Encoder.load(tmp_path / "encoder")
