"""Write NOTICE: whose work the pinned packages are, by what they say of themselves where they are installed."""

import re
from importlib.metadata import Distribution, distribution
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAD = """\
avset is under the MIT licence (LICENSE). It contains one work of others, wavesurfer.js (BSD-3-Clause; its licence lies
beside it in pipeline/avset/report/player), and it needs the packages below, each under a licence of its own.
`make lock` writes this list: name, version, licence, as the package says it.

If you use avset, you install these packages yourself. If you pass them on (an image of a container, a folder of wheels,
a disk), you pass on their authors' work: keep the licence files that each package installs, and do what they ask for.

- av: the wheel has FFmpeg inside, which calls itself LGPL-3.0-or-later, and libx264 and libx265, which are
  GPL-2.0-or-later and to which that FFmpeg is linked. We read it so: whoever passes this wheel on, alone or in an image
  of a container, does so under the GPL, version 3: with its text, and with the source of all these libraries or an
  offer of it. Who only runs the wheel owes nothing. avset itself stays under MIT: it calls the wheel and has no part of
  it. For a wheel without the two build av from source with an FFmpeg of your own; decoding does not need them, and only
  the demo encodes, with libx264.
- mutagen (of yt-dlp) is GPL-2.0-or-later; asyncssh, dulwich, grandalf and pygit2 (of DVC) may be taken under another
  licence, or have an exception.
- soundfile: the wheel has libsndfile (LGPL-2.1-or-later) inside, as a library of its own that can be replaced.
- nvidia-*, cuda-*: NVIDIA's own licences say what may be passed on, and to whom.
- Patents on codecs (H.264, H.265, AAC) are no matter of these licences.

"""


def pins() -> dict[str, str]:
    """The packages of requirements.lock and their versions."""
    return dict(re.findall(r"^([\w.-]+)==([^ \n]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))


def licence(package: Distribution) -> str:
    """What a package says of its licence: an expression, a short text, or classifiers."""
    told = package.metadata
    short = (told.get("License") or "").strip()
    classes = [c.rpartition(" :: ")[2] for c in told.get_all("Classifier") or () if c.startswith("License :: ")]
    named = short if "\n" not in short and 0 < len(short) < 80 else ""
    return told.get("License-Expression") or named or ", ".join(classes) or "see its files"


def main() -> None:
    """Write NOTICE."""
    lines = [f"{name} {version}: {licence(distribution(name))}" for name, version in pins().items()]
    (ROOT / "NOTICE").write_text(HEAD + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
