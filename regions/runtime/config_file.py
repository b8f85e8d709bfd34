"""One YAML file plus environment overrides -> one frozen model, or every problem at once.

Unknown keys and unknown overrides (see `config_overrides`) are errors: a typo must not become a default.

Secrets are references, `env:NAME` or `file:PATH`; a configuration never holds the secret itself.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import BaseModel, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema

from regions.errors import ConfigError, ConfigProblem
from regions.runtime.config_overrides import override, type_at
from regions.runtime.strict_yaml import parse_yaml

M = TypeVar("M", bound=BaseModel)


_REFERENCE: Final = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+")


class SecretRef(str):
    """Where a secret is: `env:NAME` or `file:PATH` (relative to the configuration's folder)."""

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            cls._parse,
            core_schema.str_schema(),
            serialization=core_schema.to_string_ser_schema(),
        )

    @classmethod
    def _parse(cls, text: str) -> "SecretRef":
        if not is_reference(text):
            # The text is not repeated: it may be the secret.
            raise PydanticCustomError("secret_reference", "must say where the secret is, not be the secret")
        return cls(text)


def is_reference(text: str) -> bool:
    """Whether the text says where a secret is."""
    return _REFERENCE.fullmatch(text) is not None


def resolve_secret(ref: SecretRef, base_dir: Path, env: Mapping[str, str]) -> str:
    """The secret itself, without a trailing newline.

    Raises: ConfigError: the variable is not set, the file cannot be read, or either is empty.
    """
    kind, _, name = ref.partition(":")
    if kind == "env":
        secret, problem = env.get(name, ""), f"the environment variable {name} is not set, or empty"
        hint = f"export {name}=…"
    else:
        path = base_dir / Path(name).expanduser()
        secret, problem, hint = _read_secret(path)
    secret = secret.rstrip("\r\n")
    if not secret:
        raise ConfigError("secrets", [ConfigProblem(str(ref), problem, hint)])
    return secret


def _read_secret(path: Path) -> tuple[str, str, str]:
    try:
        return path.read_text(), f"the file {path} is empty", "write the secret into it"
    except (OSError, UnicodeDecodeError) as error:
        return "", f"cannot read {path}: {_reason(error)}", "create it, readable by this user only"


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else "not UTF-8 text"


def load(
    path: Path,
    model: type[M],
    env: Mapping[str, str],
    cross_check: Callable[[M], list[ConfigProblem]] | None = None,
) -> M:
    """The validated configuration: the file's values, overridden by `env`'s `MERIDIAN__…` names.

    `cross_check` sees a model whose single fields are all right, and lists what is wrong between them.
    Raises: ConfigError: with every problem found.
    """
    return validate(read(path), model, env, cross_check, source=str(path))


def read(path: Path) -> dict[str, Any]:
    """The values of a YAML file, not yet validated. Raises: ConfigError: unreadable, or no mapping."""
    try:
        tree = parse_yaml(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        hint = "`meridian config example` prints one to start from"
        raise ConfigError(
            str(path), [ConfigProblem("file", f"cannot be read: {_reason(error)}", hint)]
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(str(path), [_yaml_problem(error)]) from None
    if not isinstance(tree, dict):
        raise ConfigError(str(path), [ConfigProblem("file", "must be a mapping of keys to values")])
    return tree


def validate(
    tree: dict[str, Any],
    model: type[M],
    env: Mapping[str, str],
    cross_check: Callable[[M], list[ConfigProblem]] | None = None,
    *,
    source: str,
) -> M:
    """`load` for values that are read already; `source` names them in the error."""
    overridden, problems = override(tree, model, env)
    try:
        config = model.model_validate(overridden.tree)
    except ValidationError as error:
        problems += problems_of(error, model=model)
    else:
        problems += cross_check(config) if cross_check else []
    if problems:
        raise ConfigError(source, [overridden.explain(problem) for problem in problems])
    return config


def _yaml_problem(error: yaml.YAMLError) -> ConfigProblem:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "file"
    return ConfigProblem(where, str(getattr(error, "problem", None) or error))


def problems_of(
    error: ValidationError, prefix: str = "", model: type[BaseModel] | None = None
) -> list[ConfigProblem]:
    """Every problem of a validation error with its dotted path; values are never repeated.

    `model`, the model that refused, adds a guess at what an unknown key should have been.
    """
    return [
        _problem_of(detail, prefix, model) for detail in error.errors(include_url=False, include_input=False)
    ]


def _problem_of(detail: ErrorDetails, prefix: str, model: type[BaseModel] | None) -> ConfigProblem:
    loc = detail["loc"]
    path = ".".join(filter(None, [prefix, *map(str, loc)])) or "file"
    match detail["type"]:
        case "missing":
            field = type_at(model, loc) if model else Any
            return ConfigProblem(path, "is required", _expected(field))
        case "extra_forbidden":
            return ConfigProblem(path, "is not a known key", _nearest(str(loc[-1]), model, loc[:-1]))
        case "secret_reference":
            return ConfigProblem(path, detail["msg"], "write env:NAME or file:PATH")
    message = detail["msg"].removeprefix("Value error, ")
    return ConfigProblem(path, message[:1].lower() + message[1:])


def _expected(kind: Any) -> str:
    if isinstance(kind, type) and issubclass(kind, SecretRef):
        return "write env:NAME or file:PATH"
    return f"a value of type {kind.__name__}" if isinstance(kind, type) and kind is not object else ""


def _nearest(key: str, model: type[BaseModel] | None, parent: tuple[str | int, ...]) -> str:
    owner = type_at(model, parent) if model else Any
    if not (isinstance(owner, type) and issubclass(owner, BaseModel)):
        return ""
    close = difflib.get_close_matches(key, owner.model_fields, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return "there are: " + ", ".join(sorted(owner.model_fields))
