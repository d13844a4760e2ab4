"""Settings from a file, flags and ``--set``, checked by pydantic, refused in sentences.

One base class, one loader and one help text for every job.
"""

import difflib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo

from pipeline.errors import SettingsError
from pipeline.storage import read_url, redact

ATTRIBUTE = re.compile(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", re.MULTILINE)
"""A name and its meaning in a docstring, on as many lines as it takes."""


class Settings(BaseModel):
    """A group of settings: immutable, and no key is accepted that has no meaning."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _a_name_with_nothing_below_is_an_empty_group(cls, value: object) -> object:
        return {} if value is None else value


SettingsType = TypeVar("SettingsType", bound=Settings)


def load_settings(
    kind: type[SettingsType],
    *,
    config_url: str | None,
    assignments: Sequence[str],
    flags: Mapping[str, Any],
) -> SettingsType:
    """Settings from a YAML or JSON file, then ``key=value`` assignments, then flags by dotted name.

    The later wins. Flags that are None were not given.
    """
    values = _read_mapping(config_url) if config_url else {}
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if not separator:
            raise SettingsError(f"--set takes dotted.key=value, got {assignment!r}")
        _assign(values, name.strip(), _parse_value(name, text))
    for name, value in flags.items():
        if value is not None:
            _assign(values, name, value)
    for name, field in kind.model_fields.items():  # of a group that is missing, each setting is named
        inner = field.annotation
        if field.is_required() and isinstance(inner, type) and issubclass(inner, BaseModel):
            values.setdefault(name, {})
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_explain(kind, error)) from error


def setting_names(kind: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting's dotted name and its definition, in the order of the file."""
    documented = _documented(kind)
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from setting_names(inner, f"{prefix}{name}.")
            continue
        if field.description is None and name in documented:
            field = copy(field)  # noqa: PLW2901
            field.description = documented[name]
        yield f"{prefix}{name}", field


def _documented(kind: type[BaseModel]) -> dict[str, str]:
    """What docstrings say of fields below "Attributes:", as in the model library."""
    found: dict[str, str] = {}
    for ancestor in reversed(kind.__mro__):
        _, _, listing = inspect.cleandoc(ancestor.__doc__ or "").partition("\nAttributes:\n")
        for name, meaning in ATTRIBUTE.findall(listing):
            found[name] = " ".join(meaning.split())
    return found


def describe_settings(kind: type[BaseModel]) -> str:
    """The settings as a help text: name, default, meaning with unit."""
    lines = ["settings (in the file of --config, or by --set name=value):"]
    for name, field in setting_names(kind):
        lines.append(f"  {name} = {default_text(field)}")
        lines.append(f"      {field.description}")
    return "\n".join(lines)


def default_text(field: FieldInfo) -> str:
    """A setting's default as YAML would write it."""
    if field.is_required():
        return "(required)"
    default = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(default, tuple):
        default = list(default)
    return yaml.safe_dump(default, default_flow_style=True).removesuffix("\n").removesuffix("\n...")


def _read_mapping(url: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(read_url(url))
    except yaml.YAMLError as error:
        raise SettingsError(f"{redact(url)} must be YAML or JSON: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError(f"{redact(url)} must hold settings by name, got a {type(values).__name__}")
    return values


def _parse_value(name: str, text: str) -> Any:  # noqa: ANN401 - any YAML value
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"--set {name}: the value must be YAML, got {text!r}") from error


def _assign(values: dict[str, Any], name: str, value: object) -> None:
    *groups, last = name.split(".")
    for group in groups:
        if values.get(group) is None:
            values[group] = {}
        inner = values[group]
        if not isinstance(inner, dict):
            raise SettingsError(f"{name}: {group!r} already has a value and holds no settings of its own")
        values = inner
    values[last] = value


def _explain(kind: type[BaseModel], error: ValidationError) -> str:
    known = [name for name, _ in setting_names(kind)]
    groups = {name.rsplit(".", depth)[0] for name in known for depth in range(1, name.count(".") + 1)}
    sentences: list[str] = []
    refused: dict[tuple[str, str], list[str]] = {}
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        place = _setting_of(problem["loc"], known)
        if problem["type"] == "extra_forbidden":
            sentences.append(_unknown(name, [*known, *groups]))
        elif problem["type"] == "missing" and place == name:
            sentences.append(f"{name} must be given")
        elif problem["type"] == "missing":
            sentences.append(f"{place} must have more values, got none for {name}")
        else:
            got = "" if isinstance(problem["input"], dict) else f", got {problem['input']!r}"
            refused.setdefault((place, got), []).append(problem["msg"].removeprefix("Value error, "))
    for (place, got), messages in refused.items():  # of a union, each member has its say
        sentences.append(f"{f'{place}: ' if place else ''}{', or: '.join(messages)}{got}")
    return "; ".join(dict.fromkeys(sentences))


def _setting_of(location: Sequence[int | str], known: Sequence[str]) -> str:
    """The setting or group that an error lies in; pydantic adds places in lists and members of unions."""
    parts = [str(part) for part in location]
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((name for name in names if name in known), ".".join(parts))


def _unknown(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"there is no setting {name!r}; the nearest is {near[0]!r}"
