"""Configurations: a YAML file and `a.b=c` overrides into one checked pydantic model.

A value is first what YAML makes of it (`frames=100` a number, `seed=null` nothing); what no model knows is
refused with the keys it does know.
"""

from __future__ import annotations

import copy
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from .documents import read_small, said
from .errors import HandloomError

M = TypeVar("M", bound=BaseModel)
D = TypeVar("D")


def load_config(model: type[M], path: Path | None, overrides: Sequence[str] = ()) -> M:
    """The configuration of a YAML file, or the defaults, with overrides `a.b=c` put over it.

    Raises:
        HandloomError: the file is missing or no YAML mapping, a key is unknown, a value does not fit.
    """
    values = {} if path is None else read_yaml(path)
    return checked(model, with_overrides(values, overrides), where=str(path) if path else "")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping of a YAML file.

    Raises:
        HandloomError: it is missing, cannot be parsed, or is no mapping.
    """
    try:
        values = _plain(read_small(path).decode("utf-8-sig"))
    except FileNotFoundError as error:
        raise HandloomError("There is no configuration", where=str(path)) from error
    except (OSError, ValueError) as error:
        raise HandloomError("The configuration cannot be read", where=str(path), why=said(error)) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise HandloomError(
            "The configuration is not a mapping",
            where=str(path),
            why="it should read 'key: value' line by line",
        )
    return values


def _plain(text: str) -> Any:
    """What YAML makes of a text.

    Raises:
        ValueError: it is none, is nested deeper than anybody writes, or says more than it holds: an alias repeats what
            stands elsewhere, and a few lines of them would be more than any memory.
    """
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ValueError("it holds an alias (*name): write the values out")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def write_yaml(values: Mapping[str, Any], path: Path) -> None:
    """Write plain values so that `read_yaml` gives them back."""
    text = yaml.dump(dict(values), Dumper=_WithoutAliases, sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")


class _WithoutAliases(yaml.SafeDumper):
    """Writes a value that stands in two places twice, since `read_yaml` takes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        """Of nothing."""
        return True


def with_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`values` with each override `a.b=c` put in its place.

    Raises:
        HandloomError: an override has no '=' or leads through a value that holds no keys.
    """
    out: dict[str, Any] = copy.deepcopy(dict(values))
    for override in overrides:
        key, sign, text = override.partition("=")
        names = key.strip().split(".")
        if not sign or not all(names):
            raise HandloomError(f"'{override}' is not an override", why="the form is key=value or a.b=value")
        try:
            value = _plain(text)
        except ValueError as error:
            raise HandloomError(f"The value of '{key}' cannot be read", where=override, why=str(error)) from error
        place = out
        for name in names[:-1]:
            inner = place.get(name)
            if inner is None:
                inner = place[name] = {}
            if not isinstance(inner, dict):
                raise HandloomError(f"'{key}' leads nowhere", where=override, why=f"'{name}' is {reprlib.repr(inner)}")
            place = inner
        place[names[-1]] = value
    return out


def checked(model: type[M], values: Mapping[str, Any], *, where: str = "") -> M:
    """A model of checked values.

    Raises:
        HandloomError: an unknown key, with those that are known, or a value of the wrong kind, by name.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise _mistake(model, error, where) from error


def checked_dataclass(kind: type[D], values: Mapping[str, Any], *, where: str = "") -> D:
    """A dataclass of checked values, as a configuration would hold it.

    Raises:
        HandloomError: as `checked`.
    """
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        raise _mistake(kind, error, where) from error


def _mistake(model: Any, error: ValidationError, where: str) -> HandloomError:
    """The first of pydantic's findings in words."""
    first = error.errors()[0]
    reason = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return HandloomError("The configuration contradicts itself", where=where, why=reason)
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = ", ".join(known_keys(model, first["loc"][:-1]))
        return HandloomError(f"Unknown key '{key}'", where=where, why=f"known: {known}")
    return HandloomError(
        f"'{key}' is not valid", where=where, why=f"{reason}; it is {reprlib.repr(first.get('input'))}"
    )


def known_keys(model: Any, place: Sequence[int | str] = ()) -> tuple[str, ...]:
    """The keys a model, or the model or dataclass at a place inside it, takes."""
    for name in place:
        annotations = _annotations(model)
        if name in annotations:
            options = (annotations[str(name)], *get_args(annotations[str(name)]))
            model = next((option for option in options if _annotations(option)), model)
    return tuple(_annotations(model))


def _annotations(model: Any) -> dict[str, Any]:
    if isinstance(model, type) and issubclass(model, BaseModel):
        return {name: info.annotation for name, info in model.model_fields.items()}
    if isinstance(model, type) and is_dataclass(model):
        return {field.name: field.type for field in fields(model)}
    return {}
