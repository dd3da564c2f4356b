"""Values of params.yaml: read as DVC reads them, checked against a type, and named by their key in every error."""

import difflib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.error import MarkedYAMLError

from avset.errors import ParamsError

LARGEST = 3.4028234e38  # of float32, in which the networks compute
WHOLE = 2**63  # beyond all integers of 64 bits
DEEPEST = 20  # keys above each other


def read(path: Path) -> dict[str, Any]:
    """The tree of a YAML file, by DVC's own loader (YAML 1.2): what DVC compares is what the stages see.

    ParamsError if there is no such file, or if it is no YAML: also if a key stands in it twice.
    """
    try:
        tree = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise ParamsError(f"{path} is not here; run from the top folder of the project") from e
    except OSError as e:
        raise ParamsError(f"{path} cannot be read: {e.strerror}") from e
    except RecursionError as e:
        raise ParamsError(f"{path} is not valid YAML: its values lie too deep in each other") from e
    except (YAMLError, ValueError) as e:
        raise ParamsError(f"{path} is not valid YAML: {_fault(e)}") from e
    return mapping(tree, str(path))


def _fault(error: Exception) -> str:
    """What a loader says, with the line, and without its advice to programmers."""
    told = str(error)
    if isinstance(error, MarkedYAMLError) and error.problem:
        told = error.problem + (f", line {error.problem_mark.line + 1}" if error.problem_mark else "")
    return " ".join(told.split())


def check_plain(value: Any, key: str = "") -> None:
    """ParamsError if there is anything but text, booleans, finite numbers and null in a tree."""
    if key.count(".") > DEEPEST:
        raise ParamsError(f"{key}: lies too deep, or in itself")
    if isinstance(value, dict):
        for name, inner in value.items():
            here = f"{key}.{name}" if key else str(name)
            if not isinstance(name, str):
                raise ParamsError(f"{here}: a key must be text; write it in quotes")
            check_plain(inner, here)
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            check_plain(inner, f"{key}.{place}")
    elif isinstance(value, float) and not abs(value) <= LARGEST:
        raise ParamsError(f"{key}: must be a finite number, below {LARGEST:.1e}, not {value}")
    elif isinstance(value, int) and not -WHOLE <= value < WHOLE:
        raise ParamsError(f"{key}: must be an integer of 64 bits; this one has {value.bit_length()}")
    elif not isinstance(value, str | bool | int | float | None):
        raise ParamsError(f"{key}: a {type(value).__name__} is no parameter; write {str(value)!r} in quotes")


ADDRESS = re.compile(  # scheme, machine, path, query, fragment
    r"([a-z][a-z0-9+.-]*://)([^\s'\"<>/?#]*)([^\s'\"<>?#]*)(\?[^\s'\"<>#)]*)?(#[^\s'\"<>)]*)?", re.IGNORECASE
)


def told(text: str, part: str = "") -> str:
    """A text in which no address has a user, a password, a query or a fragment: these may be secrets.

    Of a query stays what has the `part`, the id of a video for example. A token in the path of an address stays.
    """

    def cut(found: re.Match[str]) -> str:
        scheme, machine, path, query, _ = found.groups()
        kept = [pair for pair in (query or "?")[1:].split("&") if part and pair.partition("=")[2] == part]
        return scheme + machine.rpartition("@")[2] + path + ("?" + "&".join(kept) if kept else "")

    return ADDRESS.sub(cut, text)


def told_of(value: Any, part: str = "") -> Any:
    """A tree of values with `told` instead of each text."""
    if isinstance(value, dict):
        return {key: told_of(inner, part) for key, inner in value.items()}
    if isinstance(value, list):
        return [told_of(inner, part) for inner in value]
    return told(value, part) if isinstance(value, str) else value


def choose(name: Any, known: Collection[str], key: str) -> Any:
    """`name` if it is one of `known`, else a ParamsError that lists them and names the nearest."""
    if name not in list(known):
        hint = f"; did you mean {near}?" if (near := nearest(name, known)) else ""
        raise ParamsError(f"{key}: {name!r} is not one of {', '.join(sorted(known))}{hint}")
    return name


def nearest(name: Any, known: Collection[str]) -> str:
    """The one of `known` that a misspelt name is likely to mean; "" if none is."""
    return next(iter(difflib.get_close_matches(str(name), known, 1)), "")


def mapping(value: Any, key: str) -> dict[str, Any]:
    """`value` if it is a mapping, {} if it is null, else a ParamsError."""
    if not isinstance(value, dict | None):
        raise ParamsError(f"{key}: must be a mapping, not {value!r}")
    return value or {}


M = TypeVar("M", bound=BaseModel)


def checked(kind: type[M], values: Any, name: str, places: Mapping[str, str] | None = None) -> M:
    """The checked values of a section with this dotted name; `places`: where each of its keys stands, if elsewhere.

    ParamsError names the key that is wrong. An unknown key comes first, with the nearest known one: it may be why
    another is missing.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as e:
        error = min(e.errors(), key=lambda one: one["type"] != "extra_forbidden")
        path, places = [str(part) for part in error["loc"] if part != "[key]"], places or {}
        key = ".".join([places.get(path[0], name) if path else name, *path])
        if error["type"] == "extra_forbidden":
            raise ParamsError(f"{key}: unknown key; {known_keys(kind, path, name, places)}") from e
        if error["type"] == "missing":
            raise ParamsError(f"{key}: missing from params.yaml") from e
        why = error["msg"].removeprefix("Value error, ")
        seen = told(f", not {error['input']!r}") if path else ""
        raise ParamsError(f"{key}: {why}{seen}") from None  # the cause shows the input


def known_keys(kind: type[BaseModel], path: list[str], name: str, places: Mapping[str, str]) -> str:
    """What an unknown key of a model, or of one in it, may mean."""
    *above, key = path
    for part in above:  # a name in a mapping, a place in a list, or a field
        kind = get_args(kind)[-1] if get_origin(kind) in (dict, list) else kind.model_fields[part].annotation  # type: ignore
    near = nearest(key, kind.model_fields)
    if not near:
        return f"known here: {', '.join(kind.model_fields)}"
    here = places.get(path[0], name)
    there = here if above else places.get(near, here)
    if there == here:
        return f"did you mean {'.'.join([here, *above, near])}?"
    return f"did you mean {name}.{near} ({there})?"
