"""Images in folders named after their classes, on disk or in a zip file: `cat/1.png`, or `train/cat/1.png`."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.data.columns import Problems, Row, has_columns
from pipeline.data.images import LARGEST_FILE
from pipeline.data.settings import DataConfig

COLUMNS = ("image", "label")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
"""Files with other suffixes (lists, licences, thumbnails' databases) are no rows."""
SPLIT_FOLDERS = {"train", "training", "validation", "valid", "val", "dev", "test", "testing"}


def is_image_folder(folder: Path) -> bool:
    """Whether there is an image somewhere below a folder."""
    return any(True for _ in _images_below(folder))


def read_image_folder(path: Path, wanted: Sequence[str], config: DataConfig, problems: Problems) -> Iterator[Row]:
    """The images below a folder, sorted by path: `image` is the path, `label` the name of the folder around it."""
    yield from _rows(path, _images_below(path), lambda name: str(path.absolute() / name), wanted, problems)


def read_image_zip(path: Path, wanted: Sequence[str], config: DataConfig, problems: Problems) -> Iterator[Row]:
    """The images of a zip file in the same way; nothing is unpacked: `image` is the bytes."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [PurePosixPath(info.filename) for info in archive.infolist() if not info.is_dir()]
            images = [name for name in names if _is_image(name)]

            def content(name: PurePosixPath) -> bytes:
                info = archive.getinfo(str(name))
                if info.file_size > LARGEST_FILE:
                    raise ValueError("it is larger than 256 MiB")
                return archive.read(info)

            yield from _rows(path, images, content, wanted, problems)
    except zipfile.BadZipFile as error:
        problems.add(str(path), f"not a whole zip file ({error})")


def _rows(
    path: Path,
    names: Iterable[PurePosixPath],
    content: Callable[[PurePosixPath], Any],
    wanted: Sequence[str],
    problems: Problems,
) -> Iterator[Row]:
    found = sorted(set(names), key=lambda name: name.parts)
    if not has_columns(str(path), wanted, COLUMNS, problems):
        return
    splits = sorted({name.parts[0] for name in found if len(name.parts) > 2} & SPLIT_FOLDERS)
    if len(splits) > 1:
        problems.add(
            str(path),
            f"holds several splits ({', '.join(splits)}); name the folder of one, such as {path / splits[-1]} "
            "(of a zip file, make one for each)",
        )
        return
    if "label" in wanted and found and all(len(name.parts) < 2 for name in found):
        problems.add(
            str(path),
            "its images lie in no folders that could name their classes; move them into one folder for each class, or "
            "put a csv or jsonl file beside them that lists path and label",
        )
        return
    for name in found:
        place = str(path / name)
        if len(name.parts) < 2 and "label" in wanted:
            problems.bad_row(place, "lies in no folder that could name its class; move it into one")
            continue
        cells: list[Any] = []
        for column in wanted:
            try:
                cells.append(name.parent.name if column == "label" else content(name))
            except Exception as error:  # a damaged, locked or oddly packed member raises one of many
                problems.bad_row(place, f"cannot be read from the zip file ({error})")
        if len(cells) == len(wanted):
            yield place, cells


def _images_below(folder: Path) -> Iterator[PurePosixPath]:
    for inside, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        relative = PurePosixPath(Path(inside).relative_to(folder).as_posix())
        yield from (relative / name for name in names if _is_image(relative / name))


def _is_image(name: PurePosixPath) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) and part != "." for part in name.parts)
    return name.suffix.lower() in SUFFIXES and not hidden
