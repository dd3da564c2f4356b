"""Boxes of things in a picture."""

import numpy as np
from jaxtyping import Float


def crop_boxes(boxes: Float[np.ndarray, "n 4"], width: int, height: int) -> Float[np.ndarray, "n 4"]:
    """Boxes (x0, y0, x1, y1) as fractions of the centre square, from fractions of a width x height picture.

    Boxes are clipped to the square: a box outside of the square keeps no area.
    """
    side = np.array([width, height] * 2) / min(width, height)
    return np.clip(boxes * side - (side - 1) / 2, 0.0, 1.0)
