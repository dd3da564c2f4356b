"""What a data set is made from and DVC watches: the files of `inputs/<dataset>`."""

from pathlib import Path

from pydantic import BaseModel

INPUTS = Path("inputs")


def unwatched(options: BaseModel, dataset: str) -> dict[str, str]:
    """Option -> path, of the options that name a file or folder whose changes DVC does not notice.

    DVC follows `inputs/<dataset>` if that is a link, and links to files in it, but no link to a folder in it.
    """
    root = (INPUTS / dataset).resolve()
    named = {key: Path(value) for key, value in options.model_dump().items() if isinstance(value, str) and value}
    there = {key: path for key, path in named.items() if path.exists()}
    return {key: str(path) for key, path in there.items() if not _place(path).is_relative_to(root)}


def _place(path: Path) -> Path:
    return path.parent.resolve() / path.name if path.is_file() else path.resolve()
