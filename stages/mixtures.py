"""mixtures: the frozen evaluation mixtures, shared by every method, run and colleague.

Makes data/<dataset>/<scale>/mixtures/: mixtures.parquet (clips, offsets, gains of validation and test mixtures) and
scores.parquet (what the mixture itself and the oracles score: see avset.evaluation.bounds), record.json.
"""

from avset.compute.making import making
from avset.evaluation import bounds, scores
from avset.storage.artifacts import Record
from avset.storage.store import Store
from avset.storage.tables import read_table, write_table
from avset.training import mixtures
from stages import PARAMS, ParamsFile, begin, command, transform_of


def main(path: ParamsFile = PARAMS) -> None:
    """Draw the mixtures of both splits; score the mixture and the oracles once for all."""
    p = begin("mixtures", path)
    store, transform, folder = Store(p.data / "spectrograms"), transform_of(p), p.data / "mixtures"
    clips = read_table(p.clips_folder / "index.parquet")
    asked = {"validation": p.mixtures.validation, "test": p.mixtures.test}
    drawn = {
        split: mixtures.draw_split(clips, store, transform, p.mixtures, split, count, p.clips.silence)
        for split, count in asked.items()
    }
    rows = [row for made, _ in drawn.values() for row in made]
    with making(folder) as fresh:
        write_table(fresh / "mixtures.parquet", [row.row() for row in rows])
        known = bounds.templates(clips, store, transform)
        own = scores.own_scores(rows, store, transform, known, p.runtime.workers)
        write_table(fresh / "scores.parquet", own)
        inputs = {"spectrograms": store.digest}
        facts = {"drawn": {split: ledger for split, (_, ledger) in drawn.items()}}
        Record("mixtures", recipe=p.mixtures.recipe(), inputs=inputs, facts=facts).write(fresh)
    for split, (made, _) in drawn.items():
        means = [f", mean SDR of the {of} {sdr:.2f} dB" for of, sdr in scores.mean_sdr(own, made).items()]
        print(f"mixtures: {split}: {len(made)} mixtures{''.join(means)}")


if __name__ == "__main__":
    command(main)
