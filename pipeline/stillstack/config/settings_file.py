"""A YAML file of settings, and what is wrong with it in words and lines.

Knows pydantic and YAML, but not which settings there are: :mod:`stillstack.config` says that.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from stillstack.errors import InputError

Location = tuple[int | str, ...]
Model = TypeVar("Model", bound=BaseModel)


@dataclass
class SettingsFile:
    """Settings as they were written, and where: ``name`` is what messages call them."""

    name: str
    settings: dict[str, Any]
    node: yaml.Node | None = None
    overridden: list[Location] = field(default_factory=list)

    def override(self, location: tuple[str, ...], value: Any) -> None:
        """Replace one setting; sections that are not there yet are made."""
        section = self.settings
        for name in location[:-1]:
            inner = section.get(name)
            if inner is None:
                inner = section[name] = {}
            if not isinstance(inner, dict):
                raise InputError(
                    f"The setting {'.'.join(location)} goes into {name}, which holds "
                    f"{_kind_of(inner)}.",
                    cure="Change that in the config file itself.",
                )
            section = inner
        section[location[-1]] = value
        self.overridden.append(location)

    def where(self, location: Location) -> str:
        """Return ' (line 7)' for the nearest part of the location that the file has, or ''."""
        if any(location[: len(setting)] == setting for setting in self.overridden):
            return " (set on the command line)"
        node, line = self.node, None
        for part in location:
            if isinstance(node, yaml.MappingNode):
                pair = next((pair for pair in node.value if pair[0].value == part), None)
                if pair is None:
                    break
                line, node = pair[0].start_mark.line, pair[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
                node = node.value[part]
                line = node.start_mark.line
        return "" if line is None else f" (line {line + 1})"


def read_settings(path: Path) -> SettingsFile:
    """Return the settings of a YAML file: a mapping without repeated keys.

    Raises
    ------
    InputError
        The file cannot be read, is not YAML (with line and column), or says a thing twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(
            f"The config {path} cannot be read: {reason}.", cure="Give the path of a YAML file."
        ) from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        settings = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _syntax_error(path, error) from error
    if not isinstance(settings, dict):
        raise InputError(
            f"The config {path} holds {_kind_of(settings)} where sections are expected.",
            cure="It needs at least 'input:' and 'output:', each with a 'path:'.",
        )
    repeated = list(_repeated_keys(node))
    if repeated:
        raise InputError(
            f"The config {path} says twice: {', '.join(repeated)}.",
            consequence="YAML would keep the last one without a word.",
            cure="Keep one of each.",
        )
    return SettingsFile(f"The config {path}", settings, node)


def parse_override(text: str) -> tuple[tuple[str, ...], Any]:
    """Location and value of a setting typed as ``section.key=value``; the value is YAML.

    Examples
    --------
    >>> parse_override("registration.max_shift_px=48")
    (('registration', 'max_shift_px'), 48)
    """
    key, equals, value = text.partition("=")
    names = tuple(key.strip().split("."))
    if not equals or not all(names):
        raise InputError(
            f"The setting {text!r} cannot be read.",
            cure="Write section.key=value, such as registration.max_shift_px=48.",
        )
    try:
        return names, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(
            f"The value of the setting {text!r} is not YAML.",
            cure="Put it in quotes: section.key='value'.",
        ) from error


def validated(model: type[Model], file: SettingsFile) -> Model:
    """Return the model of a file's settings, or raise one InputError with everything wrong."""
    try:
        return model.model_validate(file.settings)
    except ValidationError as error:
        findings: dict[Location, list[Any]] = {}
        for finding in error.errors(include_url=False):
            location = _written_location(finding["loc"], file.settings)
            findings.setdefault(location, []).append(finding)
        told = [_tell(model, at, group) + file.where(at) for at, group in findings.items()]
        count = "one fault" if len(told) == 1 else f"{len(told)} faults"
        raise InputError(
            f"{file.name} has {count}: {'; '.join(told)}.",
            consequence="Nothing was started.",
            cure="Mend the config and run the same command again.",
        ) from error


def _written_location(location: Sequence[int | str], settings: Any) -> Location:
    """Return pydantic's location without the names of types that it puts between."""
    written: list[int | str] = []
    for depth, part in enumerate(location):
        is_key = isinstance(settings, Mapping) and part in settings
        is_item = isinstance(settings, Sequence) and isinstance(part, int) and part < len(settings)
        if is_key or is_item:
            settings = settings[part]
        elif not (depth == len(location) - 1 and isinstance(settings, Mapping)):
            continue
        written.append(part)
    return tuple(written)


def _tell(root: type[BaseModel], location: Location, findings: Sequence[Any]) -> str:
    first = findings[0]
    if first["type"] == "extra_forbidden":
        key = str(location[-1])
        section = _spell(location[:-1]) or "the top level"
        return f"unknown key '{key}' in {section}{_suggest(root, key, location[:-1])}"
    if first["type"] == "missing":
        if isinstance(first["loc"][-1], int):
            return f"{_spell(location)} has too few values"
        return f"'{location[-1]}' is missing in {_spell(location[:-1]) or 'the top level'}"
    example = _example(root, location)
    wishes = " or ".join(dict.fromkeys(_wish(finding, example) for finding in findings))
    value = first["input"]
    if isinstance(value, Mapping | BaseModel):
        return f"{_spell(location)}: {wishes}" if location else wishes
    return f"{_spell(location)} is {value!r}, but {wishes}"


def _example(root: type[BaseModel], location: Location) -> str:
    """Return an example of a setting in quotes; a percentage inside the lists that have no name."""
    field = _model_at(root, location[:-1]).model_fields.get(str(location[-1])) if location else None
    return f"'{field.examples[0]}'" if field and field.examples else "'61%'"


def _wish(finding: Any, example: str) -> str:
    if finding["type"] == "model_type":
        return "should be a section of its own, with keys and values"
    if finding["type"] == "string_pattern_mismatch":
        return f"should look like {example}"
    message = str(finding["msg"]).removeprefix("Value error, ").split(", unable to")[0]
    return re.sub(r"^\w+ should", "should", message).replace("valid tuple", "list: [...]")


def _suggest(root: type[BaseModel], key: str, section: Location) -> str:
    model = _model_at(root, section)
    near = difflib.get_close_matches(key, model.model_fields, n=1)
    if near:
        return f" (did you mean '{near[0]}'?)"
    for home in root.model_fields:
        inner = _model_at(root, (home,))
        near = difflib.get_close_matches(key, inner.model_fields, n=1, cutoff=0.8)
        if near and inner is not model:
            return f" (did you mean '{home}.{near[0]}'?)"
    return f" (known: {', '.join(model.model_fields)})"


def _model_at(root: type[BaseModel], location: Location) -> type[BaseModel]:
    for part in location:
        if isinstance(part, str) and part in root.model_fields:
            root = next(_models_in(root.model_fields[part].annotation), root)
    return root


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def _spell(location: Location) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in location).removeprefix(".")


def _repeated_keys(node: yaml.Node | None) -> Iterator[str]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen and key.value != "<<":
                    yield f"'{key.value}' (line {key.start_mark.line + 1})"
                seen.add(key.value)
            yield from _repeated_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated_keys(item)


def _syntax_error(path: Path, error: yaml.YAMLError) -> InputError:
    mark = getattr(error, "problem_mark", None)
    where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    problem = getattr(error, "problem", None) or str(error)
    return InputError(
        f"The config {path} is not YAML{where}: {problem}.",
        cure="Indent with spaces, put a space after each colon, and close what was opened.",
    )


def _kind_of(value: Any) -> str:
    words = {type(None): "nothing", list: "a list", str: "text", dict: "sections"}
    return words.get(type(value), f"the value {value!r}")
