"""One YAML file plus environment overrides -> one frozen model, or every problem at once.

An override is `MERIDIAN__A__B=value` for `a.b`; numbers index lists, and a name matches a key of the
file whatever its case and with `_` for `-`. Values of text fields are taken as they are, all others
are read as YAML. Unknown keys and unknown overrides are errors: a typo must not become a default.

Secrets are references, `env:NAME` or `file:PATH`; a configuration never holds the secret itself.
"""

import difflib
import enum
import re
import types
import typing
from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema

from regions.errors import ConfigError, ConfigProblem

M = TypeVar("M", bound=BaseModel)

PREFIX: Final = "MERIDIAN__"
MASK: Final = "********"

_REFERENCE: Final = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+")
_SECRET_NAME: Final = re.compile(r"(^|_)(key|secret|token|password|pepper|authorization)$", re.IGNORECASE)
_USERINFO: Final = re.compile(r"(?<=://)[^/@\s]+(?=@)")


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
        if not _REFERENCE.fullmatch(text):
            # The text is not repeated: it may be the secret.
            raise PydanticCustomError("secret_reference", "must say where the secret is, not be the secret")
        return cls(text)


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


# --- Reading -------------------------------------------------------------------------------------


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML in which a repeated key is an error: two readers could disagree about it."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is repeated", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


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
    return validate(tree, model, env, cross_check, source=str(path))


def validate(
    tree: dict[str, Any],
    model: type[M],
    env: Mapping[str, str],
    cross_check: Callable[[M], list[ConfigProblem]] | None = None,
    *,
    source: str,
) -> M:
    """`load` for values that are read already; `source` names them in the error."""
    overridden, problems = _override(tree, model, env)
    try:
        config = model.model_validate(overridden.tree)
    except ValidationError as error:
        problems += problems_of(error, model=model)
    else:
        problems += cross_check(config) if cross_check else []
    if problems:
        raise ConfigError(source, [overridden.explain(problem) for problem in problems])
    return config


def parse_yaml(text: str) -> Any:
    """Safe YAML with repeated keys refused; an empty text is an empty mapping. Raises: YAMLError."""
    tree = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a subclass of SafeLoader
    return {} if tree is None else tree


def _yaml_problem(error: yaml.YAMLError) -> ConfigProblem:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "file"
    return ConfigProblem(where, str(getattr(error, "problem", None) or error))


# --- Overrides -----------------------------------------------------------------------------------


class _Overridden:
    """A tree with its overrides applied; remembers which variable set which path."""

    def __init__(self, tree: dict[str, Any]) -> None:
        self.tree: Any = _copied(tree)
        self.set_by: dict[str, str] = {}

    def put(self, keys: list[str], value: object) -> str | None:
        """Set the value at `keys`; gives what is wrong with the place, if anything."""
        here, path = self.tree, list[str]()
        for depth, key in enumerate(keys):
            last = depth == len(keys) - 1
            if isinstance(here, list):
                if not key.isdigit() or int(key) >= len(here):
                    return f"{'.'.join(path)} is a list of {len(here)}: {key} is not a place in it"
                spelt: Any = int(key)
            elif isinstance(here, dict):
                spelt = _spelt(key, here)
                if not last and here.get(spelt) is None:
                    here[spelt] = {}
            else:
                return f"{'.'.join(path)} holds a plain value"
            path.append(str(spelt))
            if last:
                here[spelt] = value
            else:
                here = here[spelt]
        return None

    def explain(self, problem: ConfigProblem) -> ConfigProblem:
        """The problem, naming the variable that set the place."""
        for path, name in self.set_by.items():
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


def _override(
    tree: dict[str, Any], model: type[BaseModel], env: Mapping[str, str]
) -> tuple[_Overridden, list[ConfigProblem]]:
    overridden, problems = _Overridden(tree), list[ConfigProblem]()
    for name, text in sorted(env.items()):
        if not name.upper().startswith(PREFIX):
            continue
        keys = name[len(PREFIX) :].lower().split("__")
        if not all(keys):
            problems.append(ConfigProblem(name, "names no key", "write MERIDIAN__SECTION__KEY=value"))
            continue
        try:
            value = text if _is_text(_type_at(model, keys)) else parse_yaml(text)
        except yaml.YAMLError as error:
            problems.append(ConfigProblem(name, f"is not valid YAML: {_yaml_problem(error).problem}"))
            continue
        wrong_place = overridden.put(keys, value)
        if wrong_place:
            problems.append(ConfigProblem(name, wrong_place))
        overridden.set_by[".".join(keys)] = name
    return overridden, problems


def _spelt(key: str, mapping: Mapping[Any, Any]) -> str:
    """The mapping's own spelling of a key from a variable's name; the key itself when it has none."""
    fold = key.replace("-", "_")
    return next((k for k in mapping if str(k).lower().replace("-", "_") == fold), key)


def _bare(annotation: Any) -> Any:
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
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        else:
            return annotation


def _type_at(model: type[BaseModel], keys: typing.Iterable[str | int]) -> Any:
    """The declared type at a path; Any where nothing is declared."""
    here: Any = model
    for key in keys:
        here, origin = _bare(here), get_origin(_bare(here))
        if isinstance(here, type) and issubclass(here, BaseModel):
            field = here.model_fields.get(str(key))
            here = field.annotation if field else Any
        elif origin in (dict, Mapping):
            here = get_args(here)[1]
        elif origin in (list, tuple, set, frozenset):
            here = get_args(here)[0]
        else:
            return Any
    return _bare(here)


def _is_text(kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return all(isinstance(value, str) for value in get_args(kind))
    return isinstance(kind, type) and issubclass(kind, str | Path | enum.Enum)


# --- Problems ------------------------------------------------------------------------------------


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
            field = _type_at(model, loc) if model else Any
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
    owner = _type_at(model, parent) if model else Any
    if not (isinstance(owner, type) and issubclass(owner, BaseModel)):
        return ""
    close = difflib.get_close_matches(key, owner.model_fields, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return "there are: " + ", ".join(sorted(owner.model_fields))


# --- Showing -------------------------------------------------------------------------------------


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
        case str() if _SECRET_NAME.search(name) and not _REFERENCE.fullmatch(value):
            return MASK
        case str():
            return _USERINFO.sub(MASK, value)
    return value


def to_yaml(value: object) -> str:
    """The value as YAML in the order given."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


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
        kind = _bare(field.annotation)
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
