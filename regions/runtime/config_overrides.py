"""Environment overrides of a configuration: `MERIDIAN__A__B=value` sets `a.b`.

Numbers index lists; a name matches a key of the file whatever its case and with `_` for `-`, because
shells allow nothing else. Values of text fields are taken as they are, all others are read as YAML.
"""

import enum
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NewType, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from regions.errors import ConfigProblem
from regions.runtime import OVERRIDE_PREFIX as PREFIX
from regions.runtime.strict_yaml import parse_yaml


class Overridden:
    """A tree with its overrides applied; remembers which variable set which path."""

    def __init__(self, tree: dict[str, Any]) -> None:
        self.tree: Any = _copied(tree)
        self._set_by: dict[str, str] = {}

    def put(self, keys: list[str], value: object, name: str) -> str | None:
        """Set the value at `keys` for the variable `name`; gives what is wrong with the place."""
        here, path = self.tree, list[str]()
        for depth, key in enumerate(keys):
            if isinstance(here, list):
                if not key.isdigit() or int(key) >= len(here):
                    return f"{'.'.join(path)} is a list of {len(here)}: {key} is not a place in it"
                spelt: Any = int(key)
            elif isinstance(here, dict):
                spelt = _spelt(key, here)
            else:
                return f"{'.'.join(path)} holds a plain value"
            path.append(str(spelt))
            if depth == len(keys) - 1:
                here[spelt] = value
            elif isinstance(here, dict) and here.get(spelt) is None:
                here[spelt] = {}
            here = here[spelt]
        self._set_by[".".join(path)] = name
        return None

    def explain(self, problem: ConfigProblem) -> ConfigProblem:
        """The problem, naming the variable that set the place."""
        for path, name in self._set_by.items():
            if problem.path == path or problem.path.startswith(path + "."):
                hint = "; ".join(filter(None, [problem.hint, f"set by {name}"]))
                return ConfigProblem(problem.path, problem.problem, hint)
        return problem


def _copied(value: Any) -> Any:
    match value:
        case dict():
            return {key: _copied(inner) for key, inner in value.items()}
        case list():
            return [_copied(inner) for inner in value]
    return value


def override(
    tree: dict[str, Any], model: type[BaseModel], env: Mapping[str, str]
) -> tuple[Overridden, list[ConfigProblem]]:
    overridden, problems = Overridden(tree), list[ConfigProblem]()
    for name, text in sorted(env.items()):
        if not name.upper().startswith(PREFIX):
            continue
        keys = name[len(PREFIX) :].lower().split("__")
        if not all(keys):
            problems.append(ConfigProblem(name, "names no key", "write MERIDIAN__SECTION__KEY=value"))
            continue
        try:
            value = text if _is_text(type_at(model, keys)) else parse_yaml(text)
        except yaml.YAMLError as error:
            problems.append(ConfigProblem(name, f"is not valid YAML: {error}"))
            continue
        wrong_place = overridden.put(keys, value, name)
        if wrong_place:
            problems.append(ConfigProblem(name, wrong_place))
    return overridden, problems


def _spelt(key: str, mapping: Mapping[Any, Any]) -> str:
    """The mapping's own spelling of a key from a variable's name; the key itself when it has none."""
    fold = key.replace("-", "_")
    return next((k for k in mapping if str(k).lower().replace("-", "_") == fold), key)


def bare(annotation: Any) -> Any:
    """The type without Annotated, Optional and aliases."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, types.UnionType):
            inner = [arg for arg in get_args(annotation) if arg is not type(None)]
            if len(inner) != 1:
                return Any
            annotation = inner[0]
        elif isinstance(annotation, NewType):
            annotation = annotation.__supertype__
        else:
            return annotation


def type_at(model: type[BaseModel], keys: Iterable[str | int]) -> Any:
    """The declared type at a path; Any where nothing is declared."""
    here: Any = model
    for key in keys:
        here, origin = bare(here), get_origin(bare(here))
        if isinstance(here, type) and issubclass(here, BaseModel):
            field = here.model_fields.get(str(key))
            here = field.annotation if field else Any
        elif origin in (dict, Mapping):
            here = get_args(here)[1]
        elif origin in (list, tuple, set, frozenset):
            here = get_args(here)[0]
        else:
            return Any
    return bare(here)


def _is_text(kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return all(isinstance(value, str) for value in get_args(kind))
    return isinstance(kind, type) and issubclass(kind, str | Path | enum.Enum)
