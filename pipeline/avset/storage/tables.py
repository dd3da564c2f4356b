"""Parquet tables: rows are written, rows or columns are read."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from avset.params import digest
from avset.storage.checksums import blamed, checked, sha256_of
from avset.storage.files import make_folder, writing
from avset.storage.mapped import mapped

ROWS_AT_ONCE = 65536  # that are Python objects
T = TypeVar("T")
LARGE = 2**22  # bytes of a Parquet file whose rows are not held in memory
FEW = ["status", "reason", "made", "shard", "split"]  # columns of an index with few different values


def write_table(path: Path, rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> None:
    """Rows as Parquet; give the schema where there may be no row to take it from."""
    with writing(path):
        make_folder(path.parent)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file; MissingArtifact names the command that makes it, AvsetError a damaged file."""
    return list(whole_table(path).to_pylist())


def whole_table(path: Path, **how: Any) -> pa.Table:
    """A Parquet file as columns; errors as of `read_table`."""
    try:
        return pq.read_table(checked(path), **how)
    except (OSError, pa.ArrowException) as e:
        raise blamed(path, e) from e


def read_columns(path: Path, *names: str) -> Iterator[list[list[Any]]]:
    """Some columns of a Parquet file, some rows at a time: an index may have millions of them."""
    try:
        with pq.ParquetFile(checked(path)) as file:
            for piece in file.iter_batches(columns=list(names)):
                yield [piece[name].to_pylist() for name in names]
    except (OSError, KeyError, pa.ArrowException) as e:
        raise blamed(path, e) from e


def has_column(path: Path, name: str) -> bool:
    """Whether a Parquet file has a column of that name."""
    return name in pq.read_schema(checked(path)).names


def sorted_index(path: Path) -> pa.Table:
    """An index, sorted by clip. The rows of a large one are mapped into memory, from a file of the cache.

    Errors as of `read_table`.
    """

    def read() -> pa.Table:
        table = whole_table(path, read_dictionary=FEW)
        names = table["clip_id"]
        ascending = pc.all(pc.less(names[:-1], names[1:])).as_py() if len(names) > 1 else True
        return (table if ascending else table.sort_by("clip_id")).replace_schema_metadata(None).combine_chunks()

    return _mapped_if_large(path, ["index", FEW], read)


def _mapped_if_large(path: Path, what: list[Any], read: Callable[[], pa.Table]) -> pa.Table:
    """The table that `read` makes of a Parquet file; `what` names how. That of a large file is mapped into memory."""

    def write(file: BinaryIO) -> None:
        made = read()
        with pa.ipc.new_stream(file, made.schema) as stream:
            stream.write_table(made)

    if checked(path).stat().st_size < LARGE:
        return read()
    place = mapped(digest([what, pa.__version__, sha256_of(path)]), write)
    return read() if place is None else pa.ipc.open_stream(pa.memory_map(str(place))).read_all()


def media_digests(index: Path) -> pa.Table:
    """The usable clips of the index of `clips`, and the digest of what each is cut from, as stores tell their input."""

    def read() -> pa.Table:
        names: list[pa.Array] = []
        found: list[pa.Array] = []
        for columns in read_columns(index, "clip_id", "status", "sha256", "start_s", "duration_s"):
            usable = [(clip, piece) for clip, status, *piece in zip(*columns, strict=True) if status == "ok"]
            names.append(pa.array([clip for clip, _ in usable], pa.string()))
            found.append(pa.array([digest(piece) for _, piece in usable], pa.string()))
        columns = [pa.chunked_array(pieces, pa.string()) for pieces in (names, found)]
        return pa.table(columns, ["clip_id", "digest"]).combine_chunks()

    return _mapped_if_large(index, ["media digests"], read)


def astray(index: Path, source: pa.Table) -> list[str]:
    """The usable clips of a store's index that were not made of what `source` (clip_id, digest) has of them.

    Where clips share an item, its maker (`of`) counts.
    """
    of = "of" if has_column(index, "of") else "clip_id"
    rows = whole_table(index, columns=list(dict.fromkeys(("clip_id", of, "input", "status"))))
    found = source["digest"].take(pc.index_in(rows[of], value_set=source["clip_id"].combine_chunks()))
    same = pc.fill_null(pc.equal(found, rows["input"]), False)
    return list(rows["clip_id"].filter(pc.and_(pc.equal(rows["status"], "ok"), pc.invert(same))).to_pylist())


def as_dict(path: Path, column: str) -> str:
    """The text of a dict from the clips of an index to a column, in the order of its rows."""
    pieces = (zip(*columns, strict=True) for columns in read_columns(path, "clip_id", column))
    return "{" + ", ".join(f"{clip!r}: {value!r}" for piece in pieces for clip, value in piece) + "}"


class Rows(Mapping[str, dict[str, Any]]):
    """The rows of an index by clip, sorted. They are kept as columns: as a dict, a row takes ten times the memory."""

    def __init__(self, table: pa.Table):
        self.table = table if all(column.num_chunks == 1 for column in table.columns) else table.combine_chunks()
        chunks = self.table["clip_id"].chunks
        self.names = chunks[0] if chunks else pa.array([], pa.string())

    def __getitem__(self, clip: str) -> dict[str, Any]:
        return dict(self.table.slice(self.position(clip), 1).to_pylist()[0])

    def value(self, clip: str, name: str) -> Any:
        """One column of one clip."""
        return self.at(self.position(clip), name)

    def at(self, position: int, name: str) -> Any:
        """One column of one row."""
        return self.table[name][position].as_py()

    def column(self, name: str) -> Mapping[str, Any]:
        """One column by clip."""
        return Lazy(self, lambda clip: self.value(clip, name))

    def where(self, name: str, value: str) -> list[str]:
        """The clips that have this value in a column."""
        return list(self.table["clip_id"].filter(pc.equal(self.table[name], value)).to_pylist())

    def has(self, name: str) -> bool:
        """Whether there is a column of that name."""
        return name in self.table.column_names

    def many(self, name: str, clips: Sequence[str]) -> list[Any]:
        """One column of some clips, all of which there are."""
        return list(self.table[name].take(pa.array(self.positions(clips))).to_pylist())

    def positions(self, clips: Sequence[str]) -> np.ndarray:
        """The rows of some clips, all of which there are."""
        return np.asarray(pc.index_in(pa.array(clips, pa.string()), value_set=self.names), np.int64)

    def numbers(self, name: str, places: np.ndarray) -> np.ndarray:
        """A column at some rows as numbers, equal where the values are; counted as they come first."""
        column = pc.dictionary_encode(self.table[name].take(pa.array(places)).combine_chunks())
        return np.asarray(column.indices, np.int64)

    def position(self, clip: str) -> int:
        """The row of a clip; KeyError if there is none."""
        i = bisect_left(range(len(self.names)), clip, key=lambda i: self.names[i].as_py())
        if i == len(self.names) or self.names[i].as_py() != clip:
            raise KeyError(clip)
        return i

    def __iter__(self) -> Iterator[str]:
        return iter(self.names.to_pylist())

    def __len__(self) -> int:
        return len(self.names)

    def columns(self, *names: str) -> Iterator[tuple[Any, ...]]:
        """Some columns, row by row."""
        for piece in self.table.select(names).to_batches(ROWS_AT_ONCE):
            yield from zip(*(column.to_pylist() for column in piece.columns), strict=True)


class Lazy(Mapping[str, T]):
    """What `make` makes of each of some names, whenever one asks for it: nothing is kept."""

    def __init__(self, names: Mapping[str, Any], make: Callable[[str], T]):
        self.names, self.make = names, make

    def __getitem__(self, name: str) -> T:
        return self.make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)
