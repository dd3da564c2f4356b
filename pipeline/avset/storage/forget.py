"""Let remembered failures be tried again."""

from collections.abc import Collection
from pathlib import Path

from avset.errors import RETRIED, AvsetError
from avset.storage.artifacts import Record
from avset.storage.cache import ItemCache
from avset.storage.tables import read_table


def forget(folder: Path, reason: str = "", clips: Collection[str] = ()) -> list[str]:
    """Forget the failures in the store of a stage: all, those of a `reason`, or those of some `clips`.

    Returns the clips that the next run of the stage tries again. Those that it would try anyway are none of them.
    AvsetError if a clip of `clips` has no such failure.
    """
    record, rows = Record.read(folder), read_table(folder / "index.parquet")
    failed = {row["clip_id"]: row for row in rows if row["reason"] and row["reason"] not in RETRIED}
    chosen = {clip: row for clip, row in failed.items() if reason in ("", row["reason"]) and clip in (clips or failed)}
    if strange := sorted(set(clips) - chosen.keys()):
        raise AvsetError(f"{folder} remembers no such failure of {', '.join(strange[:3])}; see its index.parquet")
    cache, kept = ItemCache(), dict[str, str]()
    if record.artifact == "clips":  # under the name of the medium: the key of what was probed is not in the store
        kept = {row["media_id"]: row["kept"] for row in read_table(folder / "media.parquet")}
    for clip, row in chosen.items():
        if record.artifact != "clips":
            cache.forget(record.key_of(row.get("of") or clip, row["input"]))
        elif row["media_id"] in kept:
            cache.forget(kept[row["media_id"]])
    return sorted(chosen)
