"""training.csv, from the logs of training."""

from pathlib import Path

from avset.report.curves import training_rows


def write(models: Path, method: str, name: str, values: dict[int, float]) -> None:
    path = models / method / "curves" / "plots" / "metrics" / f"{name}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"step\t{path.stem}", *(f"{step}\t{value}" for step, value in values.items())]
    path.write_text("\n".join(lines))


def test_rows_of_methods_that_learn(tmp_path: Path):
    write(tmp_path, "one", "train/loss", {3: 0.5, 6: 0.25})
    write(tmp_path, "one", "validation/nsdr", {6: 1.5})
    write(tmp_path, "two", "validation/nsdr", {10: -2.0, 9: -3.0})
    (tmp_path / "still").mkdir()
    assert list(training_rows(tmp_path, ["two", "still", "one"])) == [
        ("two", 9, "", "-3.0"), ("two", 10, "", "-2.0"), ("one", 3, "0.5", ""), ("one", 6, "0.25", "1.5"),
    ]  # fmt: skip


def test_the_log_of_a_training_is_read(scored: Path):
    rows = list(training_rows(scored / "data" / "demo" / "demo" / "models", ["avset"]))
    assert [step for _, step, _, _ in rows] == [3, 6]
    assert all(float(loss) > 0 and nsdr for _, _, loss, nsdr in rows)
