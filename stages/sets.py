"""sets: further frozen sets of test mixtures, to be scored apart with the same models. No model depends on them.

Makes data/<dataset>/<scale>/sets/: mixtures.parquet and scores.parquet, as of `mixtures`, and record.json, which says
what became of the clips, and why a set stays empty. The mixtures of a set of duets bring their references with them.
Those of a set with a list are the list's, as far as its clips are there; the record has the digest of the list.
"""

from pathlib import Path

from avset.compute.making import making
from avset.evaluation import bounds, scores
from avset.sources.inputs import unwatched
from avset.sources.stems import stems_of
from avset.storage.artifacts import Record
from avset.storage.store import Store
from avset.storage.tables import read_table, write_table
from avset.training import listed, mixtures
from stages import PARAMS, ParamsFile, begin, command, transform_of


def main(path: ParamsFile = PARAMS) -> None:
    """Draw the mixtures of all sets; score the mixture and the oracles once for all."""
    p = begin("sets", path)
    store, transform = Store(p.data / "spectrograms"), transform_of(p)
    clips = read_table(p.clips_folder / "index.parquet")
    duets = any(told.category == "duet" for told in p.sets.further.values())
    stems = stems_of(p.clips, p.spectrograms.sample_rate) if duets else None
    lists = {name: listed.read(Path(told.list)) for name, told in p.sets.further.items() if told.list is not None}
    drawn, found = {}, {}
    for name, told in p.sets.further.items():
        common = clips, store, transform, p.mixtures, name, told, p.clips.silence
        if name in lists:
            made, ledger, why, found[name] = listed.draw_listed(*common, lists[name])
            drawn[name] = made, ledger, why
            if place := unwatched(told, p.dataset).get("list"):
                print(f"sets: DVC does not watch {place} (sets.further.{name}.list); put it in inputs/{p.dataset}")
        else:
            drawn[name] = mixtures.draw_set(*common, stems)
    rows = [row for made, _, _ in drawn.values() for row in made]
    own = scores.own_scores(rows, store, transform, bounds.templates(clips, store, transform), p.runtime.workers)
    with making(p.data / "sets") as fresh:
        write_table(fresh / "mixtures.parquet", [{"sounds": b"", **row.row()} for row in rows], scores.SETS)
        write_table(fresh / "scores.parquet", own, scores.SCORES)
        facts = {"drawn": {name: ledger for name, (_, ledger, _) in drawn.items() if ledger},
                 "empty": {name: why for name, (_, _, why) in drawn.items() if why}}  # fmt: skip
        if found:
            facts["lists"] = found
        if any(row.duet for row in rows):
            facts["codec_sdr"] = mixtures.codec_sdr(rows, store, transform.hop_length)
        recipe = {"sets": p.sets.recipe(), "mixtures": p.mixtures.recipe()}
        Record("sets", recipe=recipe, inputs={"spectrograms": store.digest}, facts=facts).write(fresh)
    for name, (made, _, _) in drawn.items():
        means = [f", mean SDR of the {of} {sdr:.2f} dB" for of, sdr in scores.mean_sdr(own, made).items()]
        print(f"sets: {name}: {len(made)} mixtures{''.join(means)}")
    if "codec_sdr" in facts:
        print(f"sets: the decoded sound of a duet is the sum of what its players play, to {facts['codec_sdr']:.1f} dB")


if __name__ == "__main__":
    command(main)
