"""Boxes of a picture are those of its centre crop."""

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from avset.features.boxes import crop_boxes


@pytest.mark.parametrize(("width", "height"), [(128, 128), (200, 100), (101, 255)])
def test_crop_boxes_agrees_with_the_pixels(width: int, height: int) -> None:
    picture = np.zeros((height, width, 3), np.uint8)
    x0, x1, y0, y1 = int(0.4 * width), int(0.6 * width), int(0.3 * height), int(0.55 * height)
    picture[y0:y1, x0:x1] = 255
    box = crop_boxes(np.array([[x0 / width, y0 / height, x1 / width, y1 / height]]), width, height)[0]
    square = np.asarray(Compose([Resize(200, InterpolationMode.NEAREST), CenterCrop(200)])(Image.fromarray(picture)))
    rows, columns = np.nonzero(square[..., 0])
    seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 200
    np.testing.assert_allclose(box, seen, atol=0.011)


def test_boxes_beyond_the_crop_are_clipped() -> None:
    boxes = np.array([[0.0, 0.0, 1.0, 1.0], [0.0, 0.2, 0.2, 0.4]])  # the crop of 200 x 100 is [0.25, 0.75] wide
    np.testing.assert_allclose(crop_boxes(boxes, 200, 100), np.array([[0, 0, 1, 1], [0, 0.2, 0, 0.4]]))
