"""Images in folders by class, or in a zip of such folders: one row an image, its pixels as a tensor of uint8.

    image   the pixels, (height, width) grey or (height, width, 3) colours    label   the folder    file   the name

Size and colours must be those declared, or the image is set aside: `fit = "resize"` scales and converts instead. An
image that cannot be decoded is set aside with the reason. Decoding needs Pillow.
"""

import io
from math import prod
from typing import Any

import numpy as np

from pipelines import tensor
from pipelines.errors import InputError, SpecError
from pipelines.intake import Rejection
from pipelines.schema import Field
from pipelines.sources.inputs import InputFile, Part
from pipelines.sources.members import contents, cut_members, rows_of
from pipelines.sources.source import Source
from pipelines.stage import Rows

__all__ = ["cut", "read"]

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_PIXELS = 1 << 26  # of an image, before it is decoded: a small file may claim any size
_MODES = {2: "L", 3: "RGB"}
_GREY, _COLOURS = ("1", "L"), ("1", "L", "P", "RGB")  # of a file, that lose nothing as grey and as colours


def cut(source: Source, file: InputFile, number: int) -> list[Part]:
    """Parts of a folder or zip: some images each.

    Raises: InputError if there is no image, or the zip is damaged; SpecError if the declared form is none of an image.
    """
    for field in source.columns.values():
        if field.type == "tensor" and not _is_form(field):
            raise SpecError(
                f"{field.title}: an image is uint8, float32 or float64 of shape [height, width] or [height, width, 3]"
            )
    _pillow()
    return cut_members(source, file, number, _SUFFIXES)


def read(source: Source, part: Part) -> Rows:
    """The images of a part."""
    field = next((field for field in source.columns.values() if field.type == "tensor"), None)
    shape, dtype = ((field.shape or ()), field.dtype or "uint8") if field else ((), "uint8")
    pixels = np.zeros((len(part.members), *shape), np.uint8)
    why: dict[int, Rejection] = {}
    for row, (_, content) in enumerate(contents(part, source.max_field_bytes)):
        if field is None:
            continue
        found = (
            content
            if isinstance(content, Rejection)
            else _decoded(content, shape, resize=source.fit == "resize")
        )
        if isinstance(found, Rejection):
            why[row] = found
        else:
            pixels[row] = found
    columns = {} if field is None else {"image": tensor.column(pixels.astype(dtype, copy=False))}
    return rows_of(source, part, columns, why)


def _is_form(field: Field) -> bool:
    shape = field.shape or ()
    return field.dtype in {"uint8", "float32", "float64"} and (
        len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)
    )


def _decoded(content: bytes, shape: tuple[int, ...], *, resize: bool) -> np.ndarray | Rejection:
    """The pixels of one image.

    Shapes: as declared, uint8.
    """
    pillow = _pillow()
    mode = _MODES[len(shape)]
    try:
        with pillow.open(io.BytesIO(content)) as image:
            image.verify()  # checksums, and that it is whole; an image that was verified has to be opened again
        with pillow.open(io.BytesIO(content)) as image:
            if prod(image.size) > _PIXELS:
                return Rejection(
                    "image",
                    None,
                    f"{image.size[0]:,} x {image.size[1]:,} pixels, at most {_PIXELS:,} are read",
                )
            if not resize and (
                image.size != shape[1::-1] or image.mode not in (_GREY if mode == "L" else _COLOURS)
            ):
                return Rejection(
                    "image",
                    None,
                    f"{image.size[1]} x {image.size[0]} pixels, {image.mode}; {' x '.join(map(str, shape[:2]))}, {mode} expected; "
                    'fit = "resize" converts',
                )
            converted = image.convert(mode)
            if converted.size != shape[1::-1]:
                converted = converted.resize(shape[1::-1], pillow.Resampling.BILINEAR)
            return np.asarray(converted, np.uint8)
    except Exception as error:  # noqa: BLE001 - a decoder ends on damaged bytes in any way: all are the file's fault
        return Rejection(
            "image",
            None,
            f"no image that can be decoded: {str(error).partition(' <')[0] or type(error).__name__}",
        )


def _pillow() -> Any:
    try:
        from PIL import Image  # noqa: PLC0415 - an extra: only who reads images needs it
    except ImportError as error:
        raise InputError(
            'images need Pillow, which is not installed: pip install "dlflow[images]"'
        ) from error
    return Image
