"""Published lists of mixtures: each form names the right pieces, and every row is drawn or has a reason."""

import os
from pathlib import Path

import numpy as np
import pytest
from test_mixtures import TRANSFORM, index_row, sizes, store  # noqa: F401

from avset.errors import AvsetError
from avset.params import FurtherSet
from avset.storage.store import Store
from avset.training import listed
from avset.training.listed import Named
from avset.training.mixtures import references

LISTS = Path(os.environ.get("AVSET_LISTS", "nowhere"))
MUSIC = "idx,caption,src_wav,noise_wav\n0,accordion,Y1mCi6eWXVbg_0.wav,YX4UWEifacwI_6.wav\n1,accordion,a.wav,b.wav\n"
VGGSOUND = """file_id,mix_wav,s0_wav,s0_text,s1_wav,s1_text
-JUBdOr8Hes_000030+++37Vxf0Wz-3o_000001,m.wav,a.wav,playing accordion,b.wav,sea lion barking
"""
IQUERY = "/flute/kbTy_5o6AB4.wav, /cello/-Gdh8N_KpLY.wav\n/acoustic_guitar/S2IWw6z-cfc.wav, /violin/K1LRscO7TSw.wav"
GENERAL = "\ufeffclip_0,start_0,clip_1,gain_1,label_1\nx,1.5,y,0.5,harp\nx,-1,y,,\nx\n"


@pytest.mark.parametrize(
    ("text", "form", "rows"),
    [
        (MUSIC, "audiosep_music",
         [[Named("Y1mCi6eWXVbg_0.wav", "1mCi6eWXVbg", "accordion", (0.0, 10.0)),
           Named("YX4UWEifacwI_6.wav", "X4UWEifacwI", "", (60.0, 70.0))], []]),
        (VGGSOUND, "audiosep_vggsound",
         [[Named("-JUBdOr8Hes_000030", "-JUBdOr8Hes", "playing accordion", (30.0, 40.0)),
           Named("37Vxf0Wz-3o_000001", "37Vxf0Wz-3o", "sea lion barking", (1.0, 11.0))]]),
        (IQUERY, "iquery",
         [[Named("/flute/kbTy_5o6AB4.wav", "kbTy_5o6AB4", "flute"),
           Named("/cello/-Gdh8N_KpLY.wav", "-Gdh8N_KpLY", "cello")],
          [Named("/acoustic_guitar/S2IWw6z-cfc.wav", "S2IWw6z-cfc", "acoustic guitar"),
           Named("/violin/K1LRscO7TSw.wav", "K1LRscO7TSw", "violin")]]),
        (GENERAL, "general", [[Named("x", "x", "", (1.5, 1.5)), Named("y", "y", "harp", None, 0.5)], [], []]),
    ],
)  # fmt: skip
def test_each_form_is_known_by_its_first_line(tmp_path: Path, text: str, form: str, rows: list):
    (tmp_path / "list.csv").write_text(text, encoding="utf-8")
    found = listed.read(tmp_path / "list.csv")
    assert (found.form, found.rows) == (form, rows) and len(found.sha256) == 64


@pytest.mark.parametrize(
    ("data", "said"),
    [(None, "cannot read the list"), (b"\xff\xfe", "UTF-8"), (b"", "no list of mixtures that is known"),
     (b"a,b\nx,y\n", "first line must be"), (b"clip_0,clip_1,clop\nx,y,z\n", "first line must be"),
     (b"/flute/a.wav,/flute/a.mp4,122\n", "no row of .* is a mixture of the form iquery")],
)  # fmt: skip
def test_what_is_no_list_is_refused(tmp_path: Path, data: bytes | None, said: str):
    if data is not None:
        (tmp_path / "list.csv").write_bytes(data)
    with pytest.raises(AvsetError, match=said):
        listed.read(tmp_path / "list.csv")


def row(clip: str, *labels: str, start: float = 0.0, **changes: object) -> dict:
    times = {"start_s": 0.0, "origin_start_s": start, "duration_s": 2.0, "origin": "https://x/y", "reason": ""}
    return index_row(clip, *labels, status="ok", **times) | changes


def draw(store: Store, rows: list[dict], text: str, tmp_path: Path, **told: object) -> tuple:  # noqa: F811
    (tmp_path / "list.csv").write_text(text)
    asked = FurtherSet(**{"count": 9, "n_sources": 2, "category": "any", "seed": 0, "list": "list.csv"} | told)
    found = listed.read(tmp_path / "list.csv")
    return listed.draw_listed(rows, store, TRANSFORM, sizes(), "mine", asked, -60.0, found)


def test_every_row_is_drawn_or_has_a_reason(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture):  # noqa: F811
    rows = [
        row("a_0", "flute"), row("b_0", "tuba", origin="inputs/films/band.mp4"),
        row("d_0", "flute", "harp"), row("c_0", split="train"),
        row("gone_0", status="failed", reason="removed", duration_s=None),
        row("e_0", media_id="band2", origin="inputs/x/film.mp4"), row("f_0", origin="inputs/y/film.mp4"),
    ]  # fmt: skip
    pairs = ["a,band.mp4", "b_0,d", "a,c", "a,gone", "a,nobody", "a,film", "a,a_0", "a,b,d", "d,b", "a,"]
    text = "clip_0,clip_1,clip_2\n" + "\n".join(pairs)
    made, ledger, why, facts = draw(store, rows, text, tmp_path)
    assert [(m.mixture_id, m.clips, m.labels) for m in made] == [
        ("mine-0000", ["a_0", "b_0"], ["flute", "tuba"]), ("mine-0001", ["b_0", "d_0"], ["tuba", ""]),
        ("mine-0008", ["d_0", "b_0"], ["", "tuba"]),
    ]  # fmt: skip
    assert facts["left_out"] == {"ambiguous": 1, "invalid": 1, "n_sources": 1, "one recording": 1, "removed": 1,
                                 "train": 1, "unknown": 1}  # fmt: skip
    assert facts["missing"] == {"ambiguous": 1, "removed": 1, "train": 1, "unknown": 1}
    assert facts["rows"] == len(pairs) == len(made) + sum(facts["left_out"].values()) and why == ""
    assert (ledger["asked"], ledger["drawn"], ledger["videos"]) == (9, 3, 3)
    assert "3 of the 10 rows" in capsys.readouterr().out
    assert len(draw(store, rows, text, tmp_path, category="different")[0]) == 1
    assert [m.mixture_id for m in draw(store, rows, text, tmp_path, count=2)[0]] == ["mine-0000", "mine-0001"]
    nobody = draw(store, rows[3:], text, tmp_path)
    assert nobody[0] == [] and "no row of" in nobody[2]


def test_a_span_decides_the_clip_and_the_crop(store: Store, tmp_path: Path):  # noqa: F811
    """Two clips of one recording, of 30000 and 25000 samples at 11025 Hz, one behind the other."""
    rows = [row("a_0", "x", media_id="v", duration_s=2.5), row("b_0", "x", start=2.5, media_id="v"), row("d_0", "y")]
    text = "clip_0,start_0,clip_1,gain_1,start_1\nv,0.5,d,0.5,\nv,3.0,d,,0.25\nb_0,0.1,d,,\nv,7,d,,\nv,,d,,\n"
    made, _, _, facts = draw(store, rows, text, tmp_path)
    hops = [round(seconds * 11025 / 256) for seconds in (0.5, 0.5, 0.1)]
    assert [m.clips[0] for m in made] == ["a_0", "b_0", "b_0", "a_0"]
    assert [m.offsets[0] for m in made[:3]] == hops and made[1].offsets[1] == round(0.25 * 11025 / 256)
    assert made[0].gains == [1.0, 0.5] and facts["left_out"] == {"elsewhere": 1}
    late = draw(store, rows, "clip_0,start_0,clip_1\nv,2.4,d\n", tmp_path)[0][0]
    assert late.offsets[0] == store.dataset("a_0", "stft").shape[0] - TRANSFORM.crop, "the last whole crop"
    assert np.abs(references(late, store, TRANSFORM.length, 256)).max() > 0


@pytest.mark.skipif(not LISTS.is_dir(), reason="AVSET_LISTS names no directory with the published lists")
@pytest.mark.parametrize(
    ("name", "form", "rows", "names"),
    [("audiosep_music_eval", "audiosep_music", 5004, 556), ("audiosep_vggsound_eval", "audiosep_vggsound", 1000, 1100),
     ("iquery_testsepmusic", "iquery", 250, 25), ("iquery_testsepmusic21", "iquery", 587, 197)],
)  # fmt: skip
def test_the_published_lists_are_read_whole(name: str, form: str, rows: int, names: int):
    found = listed.read(LISTS / f"{name}.csv")
    assert (found.form, len(found.rows)) == (form, rows) and all(len(sources) == 2 for sources in found.rows)
    assert len({one.text for sources in found.rows for one in sources}) >= names
