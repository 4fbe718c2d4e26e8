"""Resizing of pictures, against pictures computed by hand."""

import numpy as np
import pytest

from qdrl.tasks.resize import resize_picture


def test_bilinear_interpolates_between_aligned_corners() -> None:
    small = np.array([[0, 10], [20, 33]], np.uint8)
    # The centre is 63 / 4 = 15.75; the right side is 43 / 2 = 21.5, which rounds up; the lower side 53 / 2 = 26.5.
    assert resize_picture(small, 3, "bilinear").tolist() == [[0, 5, 10], [10, 16, 22], [20, 27, 33]]


def test_bilinear_skips_pixels_between_the_nearest_ones() -> None:
    row = np.array([[0, 90, 200, 30, 60, 7]] * 2, np.uint8)
    # New pixels lie at columns 0, 5 / 3, 10 / 3 and 5: (90 + 2 * 200) / 3 = 163.3 and (2 * 30 + 60) / 3 = 40.
    assert resize_picture(row, 4, "bilinear").tolist() == [[0, 163, 40, 7]] * 4


def test_area_averages_covered_pixels() -> None:
    picture = np.array([[10, 20, 60]] * 3, np.uint8)
    # Each new pixel covers one and a half columns: (2 * 10 + 20) / 3 = 13.3 and (20 + 2 * 60) / 3 = 46.7.
    assert resize_picture(picture, 2, "area").tolist() == [[13, 47]] * 2


@pytest.mark.parametrize("method", ["area", "bilinear"])
@pytest.mark.parametrize("height", [210, 214, 250])
def test_a_uniform_picture_of_a_screen_stays_uniform(height: int, method: str) -> None:
    white = np.full((height, 160), 255, np.uint8)
    assert (resize_picture(white, 84, method) == 255).all()  # pyright: ignore[reportArgumentType]
