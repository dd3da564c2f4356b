"""AV-SeT as a staged pipeline: language-guided audio-visual source separation (Tan et al., CVPR 2023).

    separator = avset.load("data/demo/demo/models/avset")
    found = separator.separate("band.mp4", "person playing a violin")
    avset.separate_file_to_file(separator, Path("band.mp4"), "person playing a violin", Path("violin.wav"))

`import avset` costs nothing: a name of `__all__` imports its module when it is first used.

Glossary
    media       a video file; a clip is an excerpt of it, named `<media_id>_<start_ms>`
    frames      RGB pictures of a clip on a fixed time grid; the centre frame is number V // 2
    stft        complex short-time Fourier transform; magnitude and phase are its polar parts
    regions     language-aligned embeddings of the cells of a frame (paper, App. A.2)
    caption     latent caption: the text embedding found by inversion for a clip (Eq. 1), from K tokens
    encoder     the frozen vision-language model (CLIP)
    query       what selects a sound: always a set of region embeddings (V, R, D); a text is V = R = 1
    mixture     the mean of N clips, each times its gain; a row of a table until its samples are needed
    mask        ratio mask on the method's frequency grid; references / estimates are mir_eval's words
    method      how masks are made; a preset in params.yaml names its kind and its settings
    artifact    what a stage makes: a folder with a record.json that says what made it, and of what
    store       an artifact with a row and arrays for every clip, in shards; an item is what one clip adds to a store
    version     of a stage's code in stages/recipes.json: decides what is reused; a tidying keeps it

Letters of dimensions, used in every signature
    B batch      N sources      L samples       F linear bins   M log-frequency bins   T STFT frames
    V video frames   R regions of a frame   D embedding   K caption tokens   E token width
(The paper writes T for video frames and N for STFT frames.)
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = [
    "AvsetError",
    "Encoder",
    "Query",
    "Separated",
    "Separator",
    "Store",
    "load",
    "localize_file",
    "localize_file_to_file",
    "localize_film_to_film",
    "separate_file",
    "separate_file_to_file",
]

if TYPE_CHECKING:
    from avset.errors import AvsetError
    from avset.features.encoder import Encoder
    from avset.inference.files import (
        localize_file,
        localize_file_to_file,
        localize_film_to_film,
        separate_file,
        separate_file_to_file,
    )
    from avset.inference.separate import Separated, Separator, load
    from avset.inference.wishes import Query
    from avset.storage.store import Store
else:  # a type checker must not see this: it would take every misspelt name for one that exists
    _HOMES = {
        "AvsetError": "errors",
        "Encoder": "features.encoder",
        "Query": "inference.wishes",
        "Separated": "inference.separate",
        "Separator": "inference.separate",
        "Store": "storage.store",
        "load": "inference.separate",
        "localize_file": "inference.files",
        "localize_file_to_file": "inference.files",
        "localize_film_to_film": "inference.files",
        "separate_file": "inference.files",
        "separate_file_to_file": "inference.files",
    }

    def __getattr__(name):
        from importlib import import_module

        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

    def __dir__():
        return sorted({*globals(), *__all__})
