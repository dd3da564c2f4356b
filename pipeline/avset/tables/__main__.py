"""What the tables' dvc.yaml runs: `python -m avset.tables make NODE`, `python -m avset.tables results`."""

import sys
from pathlib import Path

from avset.console import complain, speak_plainly
from avset.errors import AvsetError


def main(command: str, *words: str) -> None:
    """Run a command in the tables' folder."""
    if command == "make":
        from avset.tables.make import make

        make(*words)
    else:
        from avset.tables.results import write

        print(write(Path()))


if __name__ == "__main__":
    speak_plainly()
    try:
        main(*sys.argv[1:])
    except AvsetError as e:
        complain(e)
        sys.exit(1)
