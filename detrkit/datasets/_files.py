"""Files of a data set: nothing outside its folder is read, and names are looked at before they are followed."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Sequence
from pathlib import Path

from detrkit.datasets._report import Fault
from detrkit.errors import DataError

_BOMS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_VALIDATION = ("val", "valid", "validation")
_URL = re.compile(r"[A-Za-z][\w+.-]+://")
_OUT = "path leads out of the data set; refused"


class Root:
    """A folder outside of which nothing is read.

    Args:
        folder: it exists.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.real = folder, folder.resolve()
        self._real_folders: dict[Path, Path] = {}

    def contained(self, path: Path) -> Path:
        """The path, if it leads to a file inside the root when all links are followed.

        Raises:
            Fault: it leads elsewhere, or to something that is no file.
        """
        try:
            real = path.resolve() if path.is_symlink() else self._resolved(path.parent) / path.name
            is_file = real.is_file()
        except (OSError, RuntimeError, ValueError) as error:  # links that go in circles, names that cannot be
            raise Fault("path leads nowhere", value=f"({error})") from None
        if not real.is_relative_to(self.real):
            raise Fault(_OUT, value=str(path), expected=f"a file under {self.folder}")
        if not is_file:
            raise Fault("no such file", value=str(path))
        return path

    def named(self, name: str, folders: Sequence[Path]) -> Path:
        """The file that a name written in the data means: in the first of these folders that has it.

        Slashes and backslashes separate folders. An absolute name is good where it lies below the root.

        Raises:
            Fault: the name leads out of the root or is no file's.
        """
        below = Path(name).is_relative_to(self.real)
        folders, name = ([self.folder], str(Path(name).relative_to(self.real))) if below else (folders, name)
        parts = parts_of(name)
        paths = [folder.joinpath(*parts) for folder in folders]
        return self.contained(next((path for path in paths if os.path.lexists(path)), paths[0]))

    def _resolved(self, folder: Path) -> Path:
        if folder not in self._real_folders:
            self._real_folders[folder] = folder.resolve()
        return self._real_folders[folder]


def parts_of(name: str) -> list[str]:
    """Folders and file of a path written in the data, which must be relative; ``/`` and ``\\`` separate them.

    Raises:
        Fault: it begins at the root of a disk or at somebody's home, goes upwards, or is a URL.
    """
    if _URL.match(name):
        raise Fault("file is named by a URL; nothing is downloaded", value=name, expected="a path in the data set")
    first, *others = name.replace("\\", "/").split("/")
    if ".." in (first, *others) or (others and (first in ("", "~") or first.endswith(":"))):
        raise Fault(_OUT, value=name, expected="a path in the data set")
    return [first, *others]


def names_of(split: str) -> tuple[str, ...]:
    """What a split may be called: the usual names of validation data stand for each other."""
    return (split, *(name for name in _VALIDATION if name != split)) if split in _VALIDATION else (split,)


class Files:
    """The files of a folder by stem; hidden ones are left out.

    Args:
        folder: where to look; not in folders below it.
        suffixes: which files count, in any case; of files with one stem, the earlier suffix comes first.
    """

    def __init__(self, folder: Path, suffixes: Sequence[str]) -> None:
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        paths = [folder / name for name in names if name[0] != "." and Path(name).suffix.lower() in suffixes]
        self.paths = sorted(paths, key=lambda path: suffixes.index(path.suffix.lower()))
        self._exact: dict[str, list[Path]] = {}
        self._folded: dict[str, list[Path]] = {}
        for path in self.paths:
            self._exact.setdefault(path.stem, []).append(path)
            self._folded.setdefault(path.stem.casefold(), []).append(path)

    def stems(self) -> list[str]:
        """All stems, sorted."""
        return sorted(self._exact)

    def find(self, stem: str) -> list[Path]:
        """Files of that stem, or else those whose stem differs from it in case only."""
        return self._exact.get(stem) or self._folded.get(stem.casefold(), [])


def encoding_of(data: bytes) -> tuple[str, int]:
    """The encoding that a byte order mark at the beginning tells, or UTF-8; and the length of that mark."""
    return next(((name, len(mark)) for mark, name in _BOMS.items() if data.startswith(mark)), ("utf-8", 0))


def read_text(path: Path, most: int | None = None) -> str:
    """A text file in UTF-8, or in what its byte order mark says; of at most so many bytes.

    Raises:
        DataError: it is too large, or cannot be read or decoded; names the byte.
    """
    mark = 0
    try:
        size = path.stat().st_size
        if most is not None and size > most:
            raise DataError("file is too large", path=path, value=f"({size} bytes)", expected=f"at most {most} bytes")
        data = path.read_bytes()
        encoding, mark = encoding_of(data)
        return data[mark:].decode(encoding)
    except UnicodeDecodeError as error:
        reason = f"({error.reason} at byte {mark + error.start})"
        raise DataError("not a text file", path=path, value=reason, expected="UTF-8") from None
    except OSError as error:
        raise DataError("file cannot be read", path=path, value=f"({error.strerror})") from None
