"""YAML of plain values, read within bounds: no tag makes an object, no alias or merge multiplies what there is.

A few lines of aliases to aliases say billions of values, which are made as soon as one prints them. What a text holds is
therefore checked and counted, each alias as what it stands for, before anything is made of it.
"""

from collections.abc import Iterator
from typing import Any

import yaml

#: a text has at most so many characters (the longest study file here has 3,500) and values, names included
MAX_CHARACTERS, MAX_VALUES = 30_000, 5_000
#: values are nested at most so deep, and a whole number has at most so many characters
MAX_DEPTH, MAX_DIGITS = 30, 40
_TAG = "tag:yaml.org,2002:"
#: what values may be; `merge` is `<<`, which takes over the values of another mapping
_PLAIN = {f"{_TAG}{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}


class YamlError(ValueError):
    """A text is no YAML of plain values; the message is one line."""


def read_yaml(text: str) -> Any:
    """Return what a YAML text says: nothing, truth values, numbers and texts, in lists and mappings.

    Raises
    ------
    YamlError
        The text is no YAML, too long, too deep or too large, has a name twice in one mapping, or holds something else.
    """
    if len(text) > MAX_CHARACTERS:
        raise YamlError(f"longer than {MAX_CHARACTERS:,} characters")
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {}, ())
        return loader.construct_document(node)
    except YamlError:
        raise
    except RecursionError:  # of the parser itself
        raise YamlError(f"nested more than {MAX_DEPTH} deep") from None
    except Exception as error:  # PyYAML raises nearly anything for numbers and names that are none
        what = str(error) if isinstance(error, yaml.YAMLError) else f"{type(error).__name__}: {error}"
        raise YamlError(f"not a YAML file: {' '.join(what.split())[:300]}") from None


def _count(node: yaml.Node, counted: dict[int, int], above: tuple[int, ...]) -> int:
    """Return how many values a node stands for, itself included; `counted` holds those of the nodes seen before."""
    line = f"line {node.start_mark.line + 1}"
    if id(node) in above:
        raise YamlError(f"{line}: an alias stands for something that holds it")
    if len(above) > MAX_DEPTH:
        raise YamlError(f"{line}: nested more than {MAX_DEPTH} deep")
    if node.tag not in _PLAIN:
        raise YamlError(f"{line}: of the kind {node.tag.removeprefix(_TAG)[:80]!r}; if it is text, put it in quotes")
    if node.tag == f"{_TAG}int" and len(node.value) > MAX_DIGITS:
        raise YamlError(f"{line}: a number of {len(node.value):,} digits")
    if id(node) not in counted:
        counted[id(node)] = 1 + sum(_count(child, counted, (*above, id(node))) for child in _children(node))
    if counted[id(node)] > MAX_VALUES:
        raise YamlError(f"{line}: more than {MAX_VALUES:,} values, aliases included")
    return counted[id(node)]


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    """Yield the parts of a node; a mapping's names must differ."""
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        seen = set()
        for name, value in node.value:
            if not isinstance(name, yaml.ScalarNode):
                raise YamlError(f"line {name.start_mark.line + 1}: a name that is no word")
            if name.value in seen:
                raise YamlError(f"line {name.start_mark.line + 1}: {name.value[:60]!r} comes twice")
            seen.add(name.value)
            yield from (name, value)
