"""YAML from outside, decoded strictly: plain values only, no repeated keys; and YAML for people to read."""

from collections.abc import Hashable
from typing import Any

import yaml


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


def parse_yaml(text: str) -> Any:
    """Safe YAML with repeated keys refused; an empty text is an empty mapping. Raises: YAMLError."""
    tree = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a subclass of SafeLoader
    return {} if tree is None else tree


def to_yaml(value: object) -> str:
    """The value as YAML in the order given."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)
