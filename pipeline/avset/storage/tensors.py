"""Names of tensors in files. Wrappers put words into them: torch.compile `_orig_mod`, parallel training `module`."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")
WRAPPERS = {"_orig_mod", "module"}


def plain(name: str) -> str:
    """The name of a tensor without the words of wrappers, wherever they stand."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def named_as(own: Iterable[str], tensors: Mapping[str, T]) -> dict[str, T]:
    """Tensors under the names of a model, whichever of the two was wrapped; a name that fits none stays."""
    known = set(own)
    by_plain = {plain(name): name for name in known}
    return {name if name in known else by_plain.get(plain(name), name): one for name, one in tensors.items()}
