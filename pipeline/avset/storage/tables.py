"""Parquet tables: rows are written, rows or columns are read."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from avset.storage.checksums import blamed, checked
from avset.storage.files import make_folder, writing

ROWS_AT_ONCE = 65536  # that are Python objects


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


class Rows(Mapping[str, dict[str, Any]]):
    """The rows of an index by clip, sorted. They are kept as columns: as a dict, a row takes ten times the memory."""

    def __init__(self, table: pa.Table):
        self.table = table.combine_chunks()
        chunks = self.table["clip_id"].chunks
        self.names = chunks[0] if chunks else pa.array([], pa.string())

    def __getitem__(self, clip: str) -> dict[str, Any]:
        return dict(self.table.slice(self._position(clip), 1).to_pylist()[0])

    def value(self, clip: str, name: str) -> Any:
        """One column of one clip."""
        return self.table[name][self._position(clip)].as_py()

    def _position(self, clip: str) -> int:
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
