"""A configuration as people read it: the one in force with its secrets masked, or a commented example."""

import enum
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel

from regions.runtime.config_file import SecretRef, is_reference
from regions.runtime.config_overrides import bare
from regions.runtime.strict_yaml import to_yaml

MASK: Final = "********"

_SECRET_NAME: Final = re.compile(r"(^|_)(key|secret|token|password|pepper|authorization)$", re.IGNORECASE)
_USERINFO: Final = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def masked(model: BaseModel) -> dict[str, Any]:
    """The configuration as plain values; references are shown, anything that may be a secret is not."""
    shown: dict[str, Any] = _mask("", model.model_dump(mode="json"))
    return shown


def _mask(name: str, value: Any) -> Any:
    match value:
        case dict():
            return {key: _mask(str(key), inner) for key, inner in value.items()}
        case list():
            return [_mask(name, inner) for inner in value]
        case str() if _SECRET_NAME.search(name) and not is_reference(value):
            return MASK
        case str():
            return _USERINFO.sub(MASK, value)
    return value


def example(model: type[BaseModel]) -> str:
    """A commented YAML file of the model: each key with its description and default.

    Required keys stand as they are, with the field's first example; the others are commented out.
    """
    return "\n".join(_example_lines(model, 0)) + "\n"


def _example_lines(model: type[BaseModel], depth: int) -> Iterator[str]:
    if depth == 0:
        yield from _comment((model.__doc__ or model.__name__).strip().splitlines()[0], 0)
    for name, field in model.model_fields.items():
        if depth == 0:
            yield ""
        indent = "  " * depth
        yield from _comment(field.description or "", depth)
        kind = bare(field.annotation)
        if isinstance(kind, type) and issubclass(kind, BaseModel) and not field.examples:
            yield f"{indent}{name}:" if _has_required(kind) else f"{indent}# {name}:"
            lines = _example_lines(kind, depth + 1)
            yield from lines if _has_required(kind) else (_commented_out(line, depth) for line in lines)
            continue
        if field.examples:
            value = field.examples[0]
        else:
            value = _sample(kind) if field.is_required() else field.get_default(call_default_factory=True)
        shown = to_yaml({name: _plain(value)}).rstrip().splitlines()
        mark = "" if field.is_required() else "# "
        yield from (f"{indent}{mark}{line}" for line in shown)


def _comment(text: str, depth: int) -> Iterator[str]:
    if text:
        yield f"{'  ' * depth}## {text}"


def _commented_out(line: str, depth: int) -> str:
    """The line as part of a commented-out section, with its own mark dropped."""
    indent = "  " * depth
    body = line.removeprefix(indent)
    if body.lstrip().startswith("## "):
        return line
    spaces = body[: len(body) - len(body.lstrip())]
    return f"{indent}# {spaces}{body.lstrip().removeprefix('# ')}"


def _has_required(model: type[BaseModel]) -> bool:
    return any(field.is_required() for field in model.model_fields.values())


def _sample(kind: Any) -> object:
    """Some value of a type, for a required field that gives no example."""
    if get_origin(kind) is Literal:
        return get_args(kind)[0]
    if isinstance(kind, type) and issubclass(kind, SecretRef):
        return "env:SECRET"
    for known, value in ((bool, True), (int, 1), (float, 1.0), (str, "example")):
        if isinstance(kind, type) and issubclass(kind, known):
            return value
    return {} if get_origin(kind) is dict else []


def _plain(value: Any) -> Any:
    match value:
        case BaseModel():
            return value.model_dump(mode="json")
        case enum.Enum():
            return value.value
        case Path():
            return str(value)
        case list() | tuple():
            return [_plain(inner) for inner in value]
        case dict():
            return {key: _plain(inner) for key, inner in value.items()}
        case str():
            return str(value)
    return value
