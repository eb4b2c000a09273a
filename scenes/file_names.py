"""The names that a capture's lists give to images, and the files that they mean on this machine."""

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from scenes.images import IMAGE_SUFFIXES, list_images

DEEPEST = 8  # folders of a moved name that are tried


def natural_key(name: str) -> tuple:
    """Sorts names as people count: a2 before a10."""
    parts = re.split("([0-9]+)", name)
    return [(len(part.lstrip("0")), part.lstrip("0")) if i % 2 else part for i, part in enumerate(parts)], name


def with_slashes(name: str) -> str:
    """A name written on Windows, as it is written here."""
    return name.replace("\\", "/")


@dataclass
class FileFinder:
    """Finds files by the names in a list that lies in `folder`. Folders are looked through once."""

    folder: Path
    listings: dict[Path, dict[str, list[Path]]] = field(default_factory=dict)  # files by stem

    def find_all(self, names: list[str]) -> tuple[list[Path | None], list[bool]]:
        """The file of each name, and which lie elsewhere than theirs says. None of these is another name's."""
        files, moved = [self.find(name) for name in names], [False] * len(names)
        taken = {file: name for file, name in zip(files, names, strict=True) if file is not None}
        for i, name in enumerate(names):
            found = self.find_moved(name) if files[i] is None else None
            if found is not None and taken.setdefault(found, name) == name:
                files[i], moved[i] = found, True
        return files, moved

    def find(self, name: str) -> Path | None:
        """The file of that name; its suffix, if it is an image's, may be in capitals or left out."""
        return self._at(self.folder / name) or self._at(self.folder / with_slashes(name))

    def find_moved(self, name: str, home: str = "images") -> Path | None:
        """The file of a name that was right where and when the list was made: with folders before it left out, one
        by one, or in the folder `home`; with another image's suffix."""
        path = PurePosixPath(with_slashes(name))
        first, end = max(0, len(path.parts) - DEEPEST), len(path.parts) - 1
        tails = [Path(*path.parts[i:]) for i in range(first, end)]
        places = [self.folder / tail for tail in [*tails, Path(home, path.name), Path(path.name)]]
        return next(filter(None, (self._at(place, any_suffix=True) for place in places)), None)

    def _at(self, path: Path, any_suffix: bool = False) -> Path | None:
        if is_file(path):
            return path
        suffix = path.suffix.lower()
        stem = path.stem if suffix in IMAGE_SUFFIXES else path.name  # not always: "r_0.5" has none
        suffixes = (suffix,) if suffix in IMAGE_SUFFIXES and not any_suffix else IMAGE_SUFFIXES
        named = self._listing(path.parent).get(stem, [])
        there = [p for p in named if p.suffix.lower() in suffixes and is_file(p)]
        return min(there, key=lambda p: suffixes.index(p.suffix.lower()), default=None)

    def _listing(self, folder: Path) -> dict[str, list[Path]]:
        if folder not in self.listings:
            by_stem = self.listings[folder] = {}
            for path in list_images(folder):
                by_stem.setdefault(path.stem, []).append(path)
        return self.listings[folder]


def moved_notes(where: Path, moved: list[tuple[str, Path]]) -> list[str]:
    """What to say of names in a list, `where`, whose files were found elsewhere."""
    if not moved:
        return []
    name, file = moved[0]
    return [f"{where}: {len(moved)} images are not where it says; for {name} it is {file}, and so on"]


def is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long for any file, or that no file can have
        return False
