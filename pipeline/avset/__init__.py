"""AV-SeT as a staged pipeline: language-guided audio-visual source separation (Tan et al., CVPR 2023).

Glossary
    media       a video file; a clip is an excerpt of it, named `<media_id>_<start_ms>`
    frames      RGB pictures of a clip on a fixed time grid; the centre frame is number V // 2
    stft        complex short-time Fourier transform; magnitude and phase are its polar parts
    regions     language-aligned embeddings of the cells of a frame (paper, App. A.2)
    caption     latent caption: the text embedding found by inversion for a clip (Eq. 1), from K tokens
    encoder     the frozen vision-language model (CLIP)
    query       what selects a sound: always a set of region embeddings (V, R, D); a text is V = R = 1
    mixture     the mean of N gained source clips; a row of a table, rendered late
    mask        ratio mask on the log-frequency grid; references / estimates are mir_eval's words

Letters of dimensions, used in every signature
    B batch      N sources      L samples       F linear bins   M log-frequency bins   T STFT frames
    V video frames   R regions of a frame   D embedding   K caption tokens   E token width
(The paper writes T for video frames and N for STFT frames.)
"""

__version__ = "0.1.0"
