"""A number drawn into a picture as dark and bright cells that survive H.264, JPEG and chroma subsampling."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

ROWS, COLUMNS = 4, 5  # 16 cells of the number, most significant first, then 4 of the check
LIMIT = 1 << 16
_DARKEST, _BRIGHTER = 96, 160  # a scene has values below the first; a bright cell adds the second


def draw(number: int, height: int, width: int) -> NDArray[np.uint8]:
    """Picture of ``number`` (0 <= number < 65536), black and white, uint8 [height, width, 3] RGB, at least 16x20 px.

    Raises: ValueError for a number or a size that it cannot hold.
    """
    picture = np.zeros((height, width, 3), np.uint8)
    _brighten(picture, number, 255)
    return picture


class Scene:
    """Pictures that are as hard to encode as a camera's: structure of every size that moves, and noise of the sensor.

    Args:
        height, width: size (px).
        seed: of structure and noise.
        noise: standard deviation of the noise (of 255).
    """

    _PICTURES = 16  # repeat after so many: drawing noise anew takes longer than encoding it

    def __init__(self, height: int, width: int, seed: int = 0, noise: float = 4.0) -> None:
        rng = np.random.default_rng(seed)
        field = np.zeros((height + self._PICTURES, width, 3), np.float32)
        size = max(height, width) // 2
        while size >= 2:
            grid = rng.standard_normal((-(-field.shape[0] // size) + 3, -(-width // size) + 3, 3), dtype=np.float32)
            scaled = cv2.resize(grid, None, fx=size, fy=size, interpolation=cv2.INTER_CUBIC)
            field += scaled[: field.shape[0], :width]
            size //= 2
        field = (_DARKEST / 2) + (_DARKEST / 4) * field / field.std()
        self._pictures = []
        for shift in range(self._PICTURES):
            seen = field[shift : shift + height] + noise * rng.standard_normal((height, width, 3), dtype=np.float32)
            self._pictures.append(seen.clip(0, _DARKEST - 1).astype(np.uint8))

    def draw(self, number: int) -> NDArray[np.uint8]:
        """The scene with ``number`` in it, uint8 [height, width, 3] RGB. Raises: ValueError, see ``draw``."""
        picture = self._pictures[number % self._PICTURES].copy()
        _brighten(picture, number, _BRIGHTER)
        return picture


def read(picture: NDArray[np.uint8]) -> int:
    """The number in a picture uint8 [H, W, 3] or [H, W].

    Raises: ValueError when the picture holds no such number.
    """
    height, width = picture.shape[:2]
    word = 0
    for row in range(ROWS):
        for column in range(COLUMNS):
            # Only the middle half of a cell counts: its edges are blurred by the codec.
            top, left = (row + 0.25) * height / ROWS, (column + 0.25) * width / COLUMNS
            cell = picture[
                round(top) : round(top + 0.5 * height / ROWS), round(left) : round(left + 0.5 * width / COLUMNS)
            ]
            word = word << 1 | int(cell.mean() > 127.5)
    number, check = word >> 4, word & 15
    if check != _check(number):
        raise ValueError(f"expected a picture with a barcode, found check {check} of {number}")
    return number


def _brighten(picture: NDArray[np.uint8], number: int, by: int) -> None:
    height, width = picture.shape[:2]
    if not 0 <= number < LIMIT or height < 4 * ROWS or width < 4 * COLUMNS:
        raise ValueError(f"expected 0 <= number < {LIMIT} and at least 20x16 px, found {number}, {width}x{height} px")
    word = number << 4 | _check(number)
    for place in range(ROWS * COLUMNS):
        if word >> (ROWS * COLUMNS - 1 - place) & 1:
            row, column = divmod(place, COLUMNS)
            top, bottom = -(-row * height // ROWS), -(-(row + 1) * height // ROWS)
            left, right = -(-column * width // COLUMNS), -(-(column + 1) * width // COLUMNS)
            picture[top:bottom, left:right] += np.uint8(by)


def _check(number: int) -> int:
    # Not 0 for the number 0: a black picture is not a number.
    return 10 ^ (number >> 12 ^ number >> 8 ^ number >> 4 ^ number) & 15
