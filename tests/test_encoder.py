"""The encoder artifact, and what we compute with CLIP's towers, against CLIP itself and plain loops."""

import io
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from avset.errors import AvsetError, MissingArtifact
from avset.features.encoder import Encoder
from avset.features.padding import padded_size
from avset.features.weights import export, save_tensors
from bench.captions import whole_context

RESNET = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 6, "head_width": 32, "patch_size": None}
VIT = {"image_size": 64, "layers": 3, "width": 32, "head_width": 16, "patch_size": 16}
TIMM = {"image_size": 64, "timm_model_name": "tf_efficientnet_lite0", "timm_pool": "avg", "timm_proj": "linear"}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 3}
SENTENCES = [
    "guitar",
    "person playing a cello",
    "a very long sentence about seven violins, two flutes, and rain",
]


def config(vision: dict[str, Any] = RESNET, **other: Any) -> dict[str, Any]:
    """A tiny CLIP of RN50's or ViT's form, D = 24."""
    return {"embed_dim": 24, "quick_gelu": True, "vision_cfg": vision, "text_cfg": dict(TEXT), **other}


def random_clip(told: dict[str, Any], seed: int = 0) -> Any:
    """open_clip's model with random values, also where it would start with zeros and ones."""
    torch.manual_seed(seed)
    model = open_clip.CLIP(**told).eval()
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dim() == 1 and tensor.is_floating_point():
            tensor.data += 0.3 * torch.rand_like(tensor)
    return model


def artifact(folder: Path, vision: dict[str, Any] = RESNET, seed: int = 0) -> tuple[Any, Path]:
    """A random model, and the folder of the artifact that `export` made of it."""
    model = random_clip(config(vision), seed)
    (folder / "tiny.json").write_text(json.dumps(config(vision)))
    torch.save(model.state_dict(), folder / "tiny.pt")
    export(str(folder / "tiny.json"), str(folder / "tiny.pt"), folder / "encoder")
    return model, folder / "encoder"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A random model in float64, and its artifact; not to be changed."""
    model, folder = artifact(tmp_path_factory.mktemp("tiny"))
    return model.double(), folder


@pytest.fixture
def pair(tiny: tuple[Any, Path]) -> tuple[Any, Encoder]:
    """open_clip's model, and our encoder of the same weights, in float64."""
    return tiny[0], Encoder.load(tiny[1]).double()


def test_the_artifact_is_plain_complete_and_always_the_same(tmp_path: Path):
    model, folder = artifact(tmp_path)
    export(str(tmp_path / "tiny.json"), str(tmp_path / "tiny.pt"), tmp_path / "again")
    assert sorted(p.name for p in folder.iterdir()) == ["encoder.json", "weights.safetensors"]
    for file in folder.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
    told = json.loads((folder / "encoder.json").read_text())
    assert list(told) == sorted(told)
    assert (told["architecture"], told["activation"], told["embedding"]) == ("tiny", "quick_gelu", 24)
    assert (told["grid"], told["context"], told["token_width"]) == ([2, 2], 77, 32)
    assert told["model"] == config()
    encoder = Encoder.load(folder)
    assert (encoder.dim, encoder.width, encoder.grid, encoder.size, encoder.context) == (
        24,
        32,
        (2, 2),
        64,
        77,
    )
    for name, tensor in encoder.model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_a_half_precision_safetensors_file_is_widened_not_changed(tmp_path: Path):
    model = random_clip(config()).half()
    told = {"model_cfg": config(), "preprocess_cfg": {"mean": [0, 0, 0]}}
    (tmp_path / "tiny.json").write_text(json.dumps(told))
    (tmp_path / "tiny.safetensors").write_bytes(save_tensors(model.state_dict()))
    export(str(tmp_path / "tiny.json"), str(tmp_path / "tiny.safetensors"), tmp_path / "encoder")
    encoder = Encoder.load(tmp_path / "encoder")
    assert encoder.model.text_projection.dtype == torch.float32
    assert torch.equal(encoder.model.text_projection, model.text_projection.float())
    assert encoder.mean.tolist() == [[[0]], [[0]], [[0]]]


def test_loading_draws_no_random_number_and_freezes_everything(tiny: tuple[Any, Path]):
    before = torch.get_rng_state()
    encoder = torch.nn.Sequential(Encoder.load(tiny[1])).train()[0]
    assert torch.equal(before, torch.get_rng_state())
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not any(module.training for module in encoder.modules())


def test_the_digest_tells_weights_and_activations_apart(tmp_path: Path):
    digests = set()
    for i, told in enumerate((config(), config(quick_gelu=False), config())):
        (tmp_path / "tiny.json").write_text(json.dumps(told))
        torch.save(random_clip(told, seed=i // 2).state_dict(), tmp_path / "tiny.pt")
        export(str(tmp_path / "tiny.json"), str(tmp_path / "tiny.pt"), tmp_path / "encoder")
        digests.add(Encoder.load(tmp_path / "encoder").digest)
    assert len(digests) == 3


def test_an_artifact_that_is_not_there_or_not_whole_is_refused(tmp_path: Path):
    with pytest.raises(MissingArtifact, match="dvc repro"):
        Encoder.load(tmp_path / "nowhere")
    _, folder = artifact(tmp_path)
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(AvsetError, match="not the file"):
        Encoder.load(folder)


@pytest.mark.slow
def test_importing_encoders_does_not_import_open_clip():
    code = "import sys, avset.features.encoder; sys.exit('open_clip' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("vision", [RESNET, {**RESNET, "image_size": 96, "width": 8}, VIT])
def test_the_global_embedding_is_clips_own(tmp_path: Path, vision: dict[str, Any], seed: int):
    model, folder = artifact(tmp_path, vision, seed)
    encoder, size = Encoder.load(folder).double(), vision["image_size"]
    images = torch.randn(3, 3, size, size, dtype=torch.float64)
    embedding, regions = encoder.forward_image(images, True)
    torch.testing.assert_close(embedding, model.double().encode_image(images).detach(), rtol=0, atol=1e-12)
    assert regions.shape == (3, encoder.grid[0] * encoder.grid[1], 24)


def test_regions_of_a_resnet_by_loop(pair: tuple[Any, Encoder]):
    model, encoder = pair
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    visual, pool = model.visual, model.visual.attnpool
    features = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(images)))))
    for positional in (True, False):
        regions = encoder.forward_image(images, positional)[1]
        for v in range(2):
            for r in range(4):
                cell = features[v, :, r // 2, r % 2]
                if positional:
                    cell = cell + pool.positional_embedding[r + 1]
                value = pool.v_proj.weight @ cell + pool.v_proj.bias
                wanted = pool.c_proj.weight @ value + pool.c_proj.bias
                torch.testing.assert_close(regions[v, r], wanted.detach(), rtol=0, atol=1e-12)


def test_with_uniform_attention_the_embedding_is_the_mean_of_the_regions(pair: tuple[Any, Encoder]):
    encoder = pair[1]
    pool = encoder.model.visual.attnpool
    pool.q_proj.weight.zero_()
    pool.q_proj.bias.zero_()
    pool.positional_embedding[0] = pool.positional_embedding[1:].mean(0)
    embedding, regions = encoder.forward_image(torch.randn(2, 3, 64, 64, dtype=torch.float64), True)
    torch.testing.assert_close(embedding, regions.mean(1), rtol=0, atol=1e-12)


def test_regions_of_a_vit_are_the_value_path_of_its_last_block(tmp_path: Path):
    model, folder = artifact(tmp_path, VIT)
    visual = model.double().visual
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    regions = Encoder.load(folder).double().forward_image(images, True)[1]
    x = torch.cat([visual.class_embedding.expand(2, 1, -1), visual.conv1(images).flatten(2).mT], 1)
    x = visual.ln_pre(x + visual.positional_embedding)
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        x = block(x)
    value = last.ln_1(x) @ last.attn.in_proj_weight[64:].T + last.attn.in_proj_bias[64:]
    x = x + last.attn.out_proj(value)
    x = x + last.mlp(last.ln_2(x))
    wanted = visual.ln_post(x)[:, 1:] @ visual.proj
    torch.testing.assert_close(regions, wanted.detach(), rtol=0, atol=1e-12)


def test_regions_of_a_timm_tower_are_its_head_on_each_cell(tmp_path: Path):
    """With an average pool and a linear head their mean is the embedding."""
    model, folder = artifact(tmp_path, TIMM)
    encoder, visual = Encoder.load(folder).double(), model.double().visual
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    assert encoder.grid == (2, 2)
    with torch.no_grad():
        embedding, regions = encoder.forward_image(images, True)
        features = visual.trunk.forward_features(images)
        torch.testing.assert_close(embedding, model.encode_image(images), rtol=1e-12, atol=0)
    for r in range(4):
        wanted = features[:, :, r // 2, r % 2] @ visual.head.proj.weight.T
        torch.testing.assert_close(regions[:, r], wanted.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(regions.mean(1), embedding, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "why"),
    [({"timm_model_name": "no_such"}, r"timm cannot make the tower no_such \(Unknown model"),
     ({"timm_model_name": "hf-hub:a/b"}, "it says vision_cfg.timm_model_name = 'hf-hub:a/b'"),
     ({"timm_model_pretrained": True}, "it says vision_cfg.timm_model_pretrained = True"),
     ({"timm_drop": 1}, "it says vision_cfg.timm_drop = 1"), ({"timm_pool": "map"}, "vision_cfg.timm_pool = 'map'"),
     ({"timm_model_name": "test_vit"}, "a VisionTransformer of timm has no feature map of rows and columns"),
     ({"timm_model_name": "test_resnet", "timm_pool": "", "timm_proj": None}, "this ResNet does not pool")],
)  # fmt: skip
def test_a_timm_tower_that_gives_no_regions_is_refused(tmp_path: Path, change: dict[str, Any], why: str):
    told = config(TIMM | change)
    (tmp_path / "tiny.json").write_text(json.dumps(told))
    fits = str(change.get("timm_model_name", "")).startswith("test_")
    torch.save(open_clip.CLIP(**told).state_dict() if fits else {}, tmp_path / "tiny.pt")
    with pytest.raises(AvsetError, match=why):
        export(str(tmp_path / "tiny.json"), str(tmp_path / "tiny.pt"), tmp_path / "encoder")


@pytest.mark.parametrize(
    ("shape", "resize_mode"),
    [((90, 130), "shortest"), ((101, 64), "shortest"), ((64, 64), "shortest"), ((50, 90), "squash")],
)
def test_preprocessing_is_open_clips_to_one_grey_level(
    pair: tuple[Any, Encoder], shape: tuple[int, int], resize_mode: str
):
    encoder, (height, width) = pair[1], shape
    encoder.preprocessing["resize_mode"] = resize_mode
    rows, columns = np.mgrid[:height, :width]
    smooth = np.stack([rows * 2, columns * 2, rows + columns], -1) % 256
    frames = np.stack([smooth, np.random.default_rng(0).integers(0, 256, smooth.shape)]).astype(np.uint8)
    cfg = open_clip.transform.PreprocessCfg(size=64, resize_mode=resize_mode)
    reference = open_clip.transform.image_transform_v2(cfg, is_train=False)
    wanted = torch.stack([reference(Image.fromarray(frame)) for frame in frames])
    levels = (encoder.preprocess(frames) - wanted).abs() * encoder.std * 255
    assert levels.max() < (1.01 if shape != (64, 64) else 1e-4)
    assert levels.mean() < 0.1
    frames.flags.writeable = False
    assert torch.equal(encoder.preprocess(frames), encoder.preprocess(torch.from_numpy(frames.copy())))


def test_texts_are_encoded_as_clip_does_on_its_whole_context(pair: tuple[Any, Encoder]):
    model, encoder = pair
    wanted = model.encode_text(open_clip.tokenize(SENTENCES)).detach()
    torch.testing.assert_close(encoder.encode_text(SENTENCES), wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(encoder.encode_text(SENTENCES[:1]), wanted[:1], rtol=0, atol=1e-12)


def test_a_text_longer_than_the_context_is_refused(pair: tuple[Any, Encoder]):
    assert pair[1].encode_text(["dog " * 75]).shape == (1, 24)
    with pytest.raises(AvsetError, match="78 tokens, the encoder takes 77"):
        pair[1].encode_text(["cat", "dog " * 76])
    with pytest.raises(AvsetError, match="exceed the context of 77"):
        pair[1].encode_tokens(torch.zeros(1, 76, 32, dtype=torch.float64))


@pytest.mark.parametrize("count", [1, 3, 16, 75])
def test_tokens_are_encoded_as_clip_does_on_its_whole_context(pair: tuple[Any, Encoder], count: int):
    model, encoder = pair
    tokens = torch.randn(2, count, 32, dtype=torch.float64, requires_grad=True)
    ours, theirs = encoder.encode_tokens(tokens), whole_context(model, tokens, 49406, 49407)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    pull = torch.randn(2, 24, dtype=torch.float64)
    gradients = [torch.autograd.grad((x * pull).sum(), tokens)[0] for x in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)
    assert gradients[0].norm() > 1e-3


def test_words_as_tokens_are_the_text(pair: tuple[Any, Encoder]):
    encoder = pair[1]
    words = encoder.model.token_embedding.weight[encoder.tokenizer.encode(SENTENCES[1])]
    torch.testing.assert_close(encoder.encode_tokens(words[None]), encoder.encode_text(SENTENCES[1:2]))
    assert encoder.nearest_words(words[None] * 3) == [SENTENCES[1].split()]


def test_the_cached_prefix_follows_the_precision(tiny: tuple[Any, Path]):
    encoder, tokens = Encoder.load(tiny[1]), torch.randn(1, 2, 32)
    single = encoder.encode_tokens(tokens)
    double = encoder.double().encode_tokens(tokens.double())
    assert torch.equal(double, Encoder.load(tiny[1]).double().encode_tokens(tokens.double()))
    torch.testing.assert_close(double.float(), single, atol=1e-5, rtol=1e-4)


def test_tokens_cost_the_positions_that_matter(pair: tuple[Any, Encoder]):
    model, encoder = pair
    tokens = torch.randn(4, 3, 32, dtype=torch.float64)
    encoder.encode_tokens(tokens)  # fills the prefix
    counts = []
    for run in (encoder.encode_tokens, lambda x: whole_context(model, x, 49406, 49407)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run(tokens)
        counts.append(counter.get_total_flops())
    assert counts[0] * 77 / 4 < counts[1]  # K + 1 rows of 77, and fewer in the last layer


def test_words_that_were_never_trained_are_nobodys_neighbour(pair: tuple[Any, Encoder]):
    encoder = pair[1]
    table = encoder.model.token_embedding.weight
    kept = [encoder.tokenizer.encode(word)[0] for word in ("guitar", "flute")]
    rows = table[kept].clone()
    table[: encoder.sot] = 0
    table[kept] = rows
    near = rows.flip(0)[None] + 0.01 * torch.randn(1, 2, 32, dtype=torch.float64)
    assert encoder.nearest_words(near) == [["flute", "guitar"]]
    anywhere = encoder.nearest_words(torch.randn(5, 4, 32))
    assert {word for words in anywhere for word in words} == {"guitar", "flute"}


def activations(model: Any) -> set[str]:
    """The kinds of activation in the text tower."""
    return {type(block.mlp.gelu).__name__ for block in model.transformer.resblocks}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """RN50 and RN50-quickgelu are tiny here, and the download of any tag is the file returned."""
    bare = config()
    del bare["quick_gelu"]
    names = {"RN50": bare, "RN50-quickgelu": config()}
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: json.loads(json.dumps(names[name])))
    file = tmp_path / "download.pt"
    torch.save(random_clip(config()).state_dict(), file)
    monkeypatch.setattr(open_clip, "download_pretrained", lambda cfg: str(file))
    return file


def test_openai_weights_by_tag_want_quickgelu(hub: Path, tmp_path: Path):
    with pytest.raises(AvsetError, match="take RN50-quickgelu"):
        export("RN50", "openai", tmp_path / "encoder")
    assert not (tmp_path / "encoder").exists()
    export("RN50-quickgelu", "openai", tmp_path / "encoder")
    encoder = Encoder.load(tmp_path / "encoder")
    assert activations(encoder.model) == {"QuickGELU"}
    assert encoder.preprocessing["interpolation"] == "bicubic"


def torchscript(model: Any) -> bytes:
    """The model as OpenAI publish theirs, though traced on the text side only."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace_module(model, {"encode_text": open_clip.tokenize("a")}), file)
    return file.getvalue()


def test_openai_weights_by_path_want_quickgelu(hub: Path, tmp_path: Path):
    model = random_clip(config())
    archive, marked, saved = tmp_path / "RN50.pt", tmp_path / "state.pt", str(hub)
    archive.write_bytes(torchscript(model))
    torch.save({**model.state_dict(), "input_resolution": torch.tensor(64)}, marked)
    (tmp_path / "gelu.json").write_text(json.dumps(config(quick_gelu=False)))
    for file in (archive, marked):
        with pytest.raises(AvsetError, match="take RN50-quickgelu"):
            export("RN50", str(file), tmp_path / "encoder")
        with pytest.raises(AvsetError, match='say "quick_gelu": true'):
            export(str(tmp_path / "gelu.json"), str(file), tmp_path / "encoder")
        export("RN50-quickgelu", str(file), tmp_path / "encoder")
        encoder = Encoder.load(tmp_path / "encoder")
        assert activations(encoder.model) == {"QuickGELU"}
        assert torch.equal(encoder.model.text_projection, model.text_projection)
    with pytest.raises(AvsetError, match="says which activation"):
        export("RN50", saved, tmp_path / "encoder")
    export(str(tmp_path / "gelu.json"), saved, tmp_path / "encoder")
    assert activations(Encoder.load(tmp_path / "encoder").model) == {"GELU"}


def test_no_network_is_one_sentence(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def offline(cfg: dict[str, Any]) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(open_clip, "download_pretrained", offline)
    with pytest.raises(AvsetError, match=r"no route to host.*check the network") as caught:
        export("RN50-quickgelu", "openai", tmp_path / "encoder")
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("broken", [Exception("[Errno 111]\nConnection refused"), None])
def test_a_model_of_the_hub_without_a_net_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Exception | None
):
    """Whether the hub's client is told to stay offline, or what it raises is no OSError."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    if broken:
        monkeypatch.setattr("open_clip.factory.download_pretrained_from_hf", Mock(side_effect=broken))
    with pytest.raises(AvsetError, match=r"^hf-hub:timm/none could not be fetched \(.*\); check the network") as caught:
        export("hf-hub:timm/none", "weights.pt", tmp_path / "encoder")
    assert len(str(caught.value).splitlines()) == 1 and not (tmp_path / "encoder").exists()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_weights_of_a_compiled_or_parallel_model_are_those_of_the_model(hub: Path, tmp_path: Path, prefix: str):
    state = random_clip(config()).state_dict()
    named = {prefix + name.replace("transformer.", "transformer._orig_mod."): one for name, one in state.items()}
    torch.save({"state_dict": named}, tmp_path / "wrapped.pt")
    (tmp_path / "gelu.json").write_text(json.dumps(config(quick_gelu=False)))
    for file, folder in ((hub, "plain"), (tmp_path / "wrapped.pt", "wrapped")):
        export(str(tmp_path / "gelu.json"), str(file), tmp_path / folder)
    one, other = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("plain", "wrapped"))
    assert one == other


def test_wrong_names_and_files_are_named(hub: Path, tmp_path: Path):
    with pytest.raises(AvsetError, match=r"its tags: openai, yfcc15m"):
        export("RN50-quickgelu", "opanai", tmp_path / "encoder")
    (tmp_path / "broken.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(AvsetError, match="cannot be read as a checkpoint"):
        export("RN50-quickgelu", str(tmp_path / "broken.pt"), tmp_path / "encoder")
    (tmp_path / "wide.json").write_text(json.dumps(config({**RESNET, "width": 8})))
    with pytest.raises(AvsetError, match="do not fit the architecture"):
        export(str(tmp_path / "wide.json"), str(hub), tmp_path / "encoder")
    with pytest.raises(AvsetError, match="cannot be read"):
        export(str(tmp_path / "none.json"), str(hub), tmp_path / "encoder")


def test_models_that_are_more_than_a_plain_clip_are_refused(tmp_path: Path):
    with pytest.raises(AvsetError, match="RN50-quickgelu"):
        export("RN50-quickgelo", "openai", tmp_path)
    for name, saw in (("coca_ViT-B-32", "multimodal_cfg"), ("ViT-B-16-SigLIP", "text_cfg.no_causal_mask")):
        with pytest.raises(AvsetError, match=saw):
            export(name, "any", tmp_path)
    (tmp_path / "half.json").write_text(json.dumps({"embed_dim": 24}))
    with pytest.raises(AvsetError, match="lacks text_cfg, vision_cfg"):
        export(str(tmp_path / "half.json"), "any", tmp_path)


def test_whole_batches():
    assert [padded_size(n) for n in (1, 16, 17, 64)] == [16, 16, 32, 64]


@pytest.mark.slow
def test_rn50_has_the_sizes_of_the_paper(tmp_path: Path):
    model = open_clip.CLIP(**open_clip.get_model_config("RN50-quickgelu")).eval()
    torch.save(model.state_dict(), tmp_path / "rn50.pt")
    export("RN50-quickgelu", str(tmp_path / "rn50.pt"), tmp_path / "encoder")
    encoder = Encoder.load(tmp_path / "encoder")
    sizes = (encoder.dim, encoder.width, encoder.grid, encoder.size, encoder.context)
    assert sizes == (1024, 512, (7, 7), 224, 77)
    images = encoder.preprocess(np.random.default_rng(0).integers(0, 256, (1, 240, 320, 3), dtype=np.uint8))
    embedding, regions = encoder.forward_image(images, True)
    assert regions.shape == (1, 49, 1024)
    torch.testing.assert_close(F.normalize(embedding), F.normalize(model.encode_image(images)).detach())
    text = model.encode_text(open_clip.tokenize(SENTENCES)).detach()
    ours = F.normalize(encoder.encode_text(SENTENCES))
    torch.testing.assert_close(ours, F.normalize(text), atol=1e-5, rtol=1e-4)
