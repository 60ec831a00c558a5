"""One image: checked once when it is read, kept as a path or as its bytes, decoded when a batch is made."""

from __future__ import annotations

import hashlib
import io
import math
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import DataError

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
"""What is decoded. Pillow knows more, and some of them (EPS) start other programs."""
LARGEST_FILE = 2**28
"""Bytes; a file that is larger is not read."""


def image(value: Any) -> dict[str, Any]:
    """`{path, bytes, sha256}` of an image that Pillow can decode: a file keeps its path, anything else its bytes.

    A cell is a path, the bytes of an image file, or both as `{bytes, path}` (the Image feature of datasets).
    """
    path, content = _reference(value)
    if content is None:
        content = _content(path)
    try:
        _check(content)
    except Exception as error:  # decoders raise anything on broken bytes
        named = f"is {Path(path).name!r}, which" if path else "is an image that"
        raise ValueError(
            f"{named} cannot be decoded ({_reason(error, content)}); repair it or drop the row "
            "(data.on_bad_row: skip leaves such rows out)"
        ) from None
    digest = hashlib.sha256(content).hexdigest()
    return {"path": path, "bytes": None if path else content, "sha256": digest}


def identity(cell: Any) -> Any:
    """What makes two cells the same: of an image the sha256 of its file, wherever that is, else the cell itself."""
    return cell["sha256"] if isinstance(cell, dict) else cell


def open_image(image: Mapping[str, Any], mode: str) -> Any:
    """The image of a checked cell, upright as its camera was held, converted to `mode` (`RGB`, or `L` for grey).

    Transparency is dropped, as transformers' pipelines do. DataError when the file has changed since it was checked.
    """
    try:
        content = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
        return _converted(_decoded(content), mode)
    except Exception as error:  # see above
        raise DataError(
            f"{image['path']}: the image could be decoded when the run began and cannot be now ({error}); "
            "leave the files of a run alone until it has ended"
        ) from error


def located(rows: Iterable[tuple[str, Any]], positions: Collection[int], folder: Path) -> Iterator[tuple[str, Any]]:
    """Rows of a data file in `folder` with the paths of images counted from there, else from the working directory."""
    for place, cells in rows:
        yield place, [_located(cell, folder) if index in positions else cell for index, cell in enumerate(cells)]


def _located(cell: Any, folder: Path) -> Any:
    named = cell.get("path") if isinstance(cell, dict) and cell.get("bytes") is None else cell
    if not isinstance(named, str) or not named:
        return cell
    near = folder / Path(named).expanduser()
    return str(near.absolute()) if _is_file(near) else named


def _reference(value: Any) -> tuple[str | None, bytes | None]:
    """A path, or bytes."""
    if isinstance(value, dict) and {"bytes", "path"} >= value.keys():
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise ValueError("is missing (null), expected the path or the bytes of an image; fill it in or drop the row")
    if isinstance(value, bytes):
        return None, value
    if not isinstance(value, str) or not value:
        shown = "empty" if value == "" else f"of type {type(value).__name__}"
        raise ValueError(f"is {shown}, expected the path or the bytes of an image file")
    if "://" in value:
        raise ValueError(f"is the address {value[:100]!r}; download the image first and give its path")
    path = Path(value).expanduser()
    if not _is_file(path):
        raise ValueError(
            f"is {value[:100]!r}, and there is no such file (paths count from the data file's folder, then from the "
            "working directory)"
        )
    return str(path.absolute()), None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _content(path: str | None) -> bytes:
    assert path is not None
    try:
        if Path(path).stat().st_size > LARGEST_FILE:
            raise ValueError(f"is {path!r}, which is larger than {LARGEST_FILE // 2**20} MiB")
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"is {path!r}, which cannot be read ({error.strerror or error})") from None


def _check(content: bytes) -> None:
    """Raise whatever Pillow raises. Too many pixels are an error here, where Pillow by itself only warns at first."""
    from PIL import Image  # only runs on images need Pillow

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        _converted(_decoded(content), "RGB")


def _decoded(content: bytes) -> Any:
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        image.load()
        return ImageOps.exif_transpose(image)


def _converted(image: Any, mode: str) -> Any:
    if image.mode.startswith("I"):  # more than 8 bits of grey: Pillow would cut them off at 255, that is, to white
        image = image.convert("I").point(lambda grey: grey / 256).convert("L")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns when this step is left out
    return image.convert(mode)


def _reason(error: Exception, content: bytes) -> str:
    if not content:
        return "it is empty"
    if "cannot identify image file" in str(error):
        return f"it is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file"
    return str(error).split("\n")[0] or type(error).__name__
