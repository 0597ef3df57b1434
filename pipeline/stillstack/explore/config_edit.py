"""The section ``valid`` of a config file, written anew; every other line stays as it is.

What is written is read back before it takes the file's place: it gives exactly the pixels that
were drawn, or nothing is changed.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from stillstack.config import RunConfig, load_config
from stillstack.config.valid import ValidConfig
from stillstack.errors import InputError, disk_fault
from stillstack.explore.drawing import Drawing
from stillstack.sources import image_of
from stillstack.valid import valid_from_config


@dataclass(frozen=True)
class Saved:
    """What was written: the config, the image of painted pixels if any, and what was there."""

    config: Path
    image: Path | None
    backup: Path


@dataclass(frozen=True, eq=False)
class ConfigFile:
    """A config as it was when the drawing began.

    Parameters
    ----------
    path
        Of the file.
    text
        What it said then.
    config
        What it meant.
    """

    path: Path
    text: str
    config: RunConfig

    @classmethod
    def read(cls, path: str | Path) -> ConfigFile:
        """Read and check a config.

        Parameters
        ----------
        path
            Of the file.

        Raises
        ------
        InputError
            It cannot be read, or something in it is wrong.
        """
        config = load_config(path)
        return cls(Path(path), _text(Path(path)), config)

    def drawing(self, shape: tuple[int, int]) -> Drawing:
        """Drawing to begin with: the config's figures, and the image that it names.

        Parameters
        ----------
        shape
            Rows and columns of a frame.

        Raises
        ------
        InputError
            The image cannot be read, or is of another size.
        """
        spec = self.config.valid.frames
        painted = None
        if spec.image is not None:
            painted = valid_from_config(ValidConfig(image=spec.image), shape, image_of)
        return Drawing(spec, shape, painted)

    def save(self, drawing: Drawing) -> Saved:
        """Write the drawing into the config; the file as it was is kept beside it.

        Painted pixels go into an image file beside the config, white where a pixel counts; no file
        that is there already is overwritten.

        Parameters
        ----------
        drawing
            Of the frames that the config names.

        Raises
        ------
        InputError
            The file was changed meanwhile, or has a form in which a section cannot be replaced:
            the message says what to copy.
        RunFaultError
            The disk does not let it be written.
        """
        if _text(self.path) != self.text:
            raise InputError(
                f"{self.path} was changed by somebody since the drawing began.",
                consequence="Nothing was written.",
                cure="Load the page again: it begins with what the file says now.",
            )
        try:
            image, is_new = self._painted_file(drawing)
            return self._replace(drawing, image, is_new)
        except OSError as error:
            raise disk_fault(error, str(self.path)) from error

    def section(self, drawing: Drawing, image: str | None) -> dict[str, Any]:
        """Section ``valid`` that a drawing makes, as plain values.

        Parameters
        ----------
        drawing
            Of the frames.
        image
            The image file to name.
        """
        before = yaml.safe_load(self.text).get("valid") or {}
        kept = {key: value for key, value in before.items() if key != "frames"}
        return {"frames": section_of(drawing, image), **kept}

    def _painted_file(self, drawing: Drawing) -> tuple[str | None, bool]:
        """Name of the image file for painted pixels, written; and whether it is new."""
        if drawing.painted is None:
            return None, False
        named = ((yaml.safe_load(self.text).get("valid") or {}).get("frames") or {}).get("image")
        if named is not None and _same_pixels(self.config.valid.frames.image, drawing.painted):
            return str(named), False
        number = 1
        while True:
            suffix = "" if number == 1 else f"-{number}"
            path = self.path.with_name(f"{self.path.stem}-valid{suffix}.png")
            if not path.exists():
                _write(path, functools.partial(_write_image, drawing.painted))
                return path.name, True
            if _same_pixels(str(path), drawing.painted):
                return path.name, False
            number += 1

    def _replace(self, drawing: Drawing, image: str | None, is_new: bool) -> Saved:
        text = _with_section(self.text, self.section(drawing, image))
        written = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp.yaml")
        try:
            written.write_bytes(text.encode())
            self._refuse_other(written, drawing, text)
            backup = _backup(self.path)
            written.replace(self.path)
        except BaseException:
            written.unlink(missing_ok=True)
            if is_new and image is not None:
                self.path.with_name(image).unlink(missing_ok=True)
            raise
        return Saved(self.path, self.path.with_name(image) if image else None, backup)

    def _refuse_other(self, written: Path, drawing: Drawing, text: str) -> None:
        """Raise InputError unless a file says what was drawn, and of everything else the same."""
        try:
            config = load_config(written)
            spec = config.valid.frames
            figures = ValidConfig(exclude=spec.exclude, include=spec.include, image=spec.image)
            same = (
                np.array_equal(valid_from_config(figures, drawing.shape, image_of), drawing.area())
                and spec.model_copy(update={"image": drawing.spec.image}) == drawing.spec
                and config.model_copy(update={"valid": self.config.valid}) == self.config
            )
        except InputError:
            same = False
        if not same:
            raise InputError(
                f"The section valid cannot be replaced in {self.path}, whose form is unusual.",
                consequence="Nothing was written.",
                cure=f"Copy this into it: {text[_start_of_section(text) :][:2000]}",
            )


def section_of(drawing: Drawing, image: str | None) -> dict[str, Any]:
    """Section ``valid.frames`` that a drawing makes, as plain values.

    Parameters
    ----------
    drawing
        Figures and rules.
    image
        The file of painted pixels to name.

    Examples
    --------
    >>> from stillstack.config.valid import Figure
    >>> spec = ValidConfig(exclude=(Figure(rectangle=(0, "61%", 2, 5.5)),), above=60000)
    >>> print(section_text(section_of(Drawing(spec, (9, 9)), None)))
    exclude:
    - rectangle: [0, 61%, 2, 5.5]
    above: 60000
    <BLANKLINE>
    """
    section = drawing.spec.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    section.pop("image", None)
    return {**_short(section), **({} if image is None else {"image": image})}


def section_text(section: Any) -> str:
    """YAML of a section, one line for each figure.

    Parameters
    ----------
    section
        Plain values.
    """
    return yaml.safe_dump(
        section, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
    )


def _short(value: Any) -> Any:
    """Plain values in which whole numbers are written as such."""
    if isinstance(value, dict):
        return {key: _short(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_short(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def reopened(file: ConfigFile) -> ConfigFile:
    """Config as it is now, after it was saved.

    Parameters
    ----------
    file
        That was saved.
    """
    return ConfigFile.read(file.path)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The config {path} cannot be read: {error}.") from error


def _with_section(text: str, section: dict[str, Any]) -> str:
    """Text of a config with another section ``valid``."""
    new = section_text({"valid": section})
    if "\r\n" in text:
        new = new.replace("\n", "\r\n")
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    found = next(((key, value) for key, value in pairs if key.value == "valid"), None)
    if found is None:
        return f"{text}{'' if text.endswith(chr(10)) else chr(10)}{new}"
    start = found[0].start_mark.index
    end = max(found[1].end_mark.index, found[0].end_mark.index + 1)
    # what follows as blank lines and comments belongs to the file, not to the section
    body = text[start:end]
    lines = body.splitlines(keepends=True)
    while len(lines) > 1 and (not lines[-1].strip() or lines[-1].lstrip().startswith("#")):
        lines.pop()
    rest = text[start + len("".join(lines)) :]
    return text[:start] + new + (rest if lines[-1].endswith("\n") else rest.lstrip("\r\n"))


def _start_of_section(text: str) -> int:
    return max(0, text.find("valid:"))


def _same_pixels(path: str | None, painted: NDArray[np.bool_]) -> bool:
    if path is None:
        return False
    try:
        return bool(np.array_equal(np.asarray(image_of(path)) != 0, painted))
    except InputError:
        return False


def _write_image(painted: NDArray[np.bool_], path: Path) -> None:
    Image.fromarray(np.where(painted, 255, 0).astype(np.uint8)).save(path, format="png")


def _write(path: Path, write: Any) -> None:
    """Write a file whole, or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _backup(path: Path) -> Path:
    """Copy of a file under a name that is free."""
    number = 1
    while True:
        backup = path.with_name(f"{path.name}.bak{'' if number == 1 else number}")
        try:
            with backup.open("xb") as file:
                file.write(path.read_bytes())
        except FileExistsError:
            number += 1
        else:
            return backup
