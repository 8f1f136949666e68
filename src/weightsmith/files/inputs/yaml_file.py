"""YAML read with line numbers, and pydantic's errors turned into one sentence with file and line."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML, events
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import ReusedAnchorWarning, YAMLError

from weightsmith.errors import RecipeError
from weightsmith.files.inputs.read_input import read_text
from weightsmith.files.suggestions import nearest

_MAX_BYTES = 4 << 20  # of a recipe or pipeline
_MAX_NODES, _MAX_DEPTH = 200_000, 50
_LONG_NUMBER = re.compile(r"[-+]?[0-9_]{20,}(\.[0-9_]*)?")

Schema = TypeVar("Schema", bound=BaseModel)


class StrictModel(BaseModel):
    """A mapping of a YAML file: unknown keys are refused, and nothing changes after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class KeyProblem(ValueError):
    """A check of a whole mapping objects to one of its keys."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


@dataclass(frozen=True)
class YamlFile:
    """A parsed file: `text` as it was, `tree` as plain values, and the line of any key; or a tree that never was a
    file, which has no lines."""

    path: Path
    tree: dict[str, Any]
    _text: str | None
    _marked: Any
    included: Mapping[str, YamlFile] = field(default_factory=dict)  # top-level key -> the file that it comes from
    definitions: frozenset[str] = frozenset()  # top-level keys that define anchors; unknown ones are for that alone
    repeated: Mapping[str, int] = field(default_factory=dict)  # of those, the line where one comes again
    documents: tuple[YamlFile, ...] = ()  # of a file with several, all of them; this one is the last

    @classmethod
    def of_tree(cls, path: Path, tree: Mapping[str, Any]) -> YamlFile:
        """Plain values, as YAML has them; `path` names them in messages."""
        return cls(path, _plain(tree), None, None)

    @cached_property
    def text(self) -> str:
        """As it was in the file; of a tree, the YAML that says the same."""
        return dump_yaml(self.tree) if self._text is None else self._text

    def line(self, keys: Sequence[str | int]) -> int | None:
        """1-based line of the deepest of `keys` that exists; None where there are no lines."""
        if keys and (source := self.included.get(str(keys[0]))):
            return source.line(keys)
        if self._marked is None:
            return None
        node, line_number = self._marked, 1
        for key in keys:
            try:
                position = node.lc.item(key) if isinstance(node, CommentedSeq) else node.lc.key(key)
                line_number, node = position[0] + 1, node[key]
            except (KeyError, IndexError, TypeError, AttributeError):
                break
        return line_number

    def place(self, keys: Sequence[str | int]) -> str:
        """`recipe.yml:4`, or the path alone where there are no lines."""
        if keys and (source := self.included.get(str(keys[0]))):
            return source.place(keys)
        line = self.line(keys)
        return f"{self.path}" if line is None else f"{self.path}:{line}"

    def error(self, keys: Sequence[str | int], message: str) -> RecipeError:
        """What is wrong with a key."""
        return RecipeError(f"{self.place(keys)}: {message}", path=self.path, line=self.line(keys))

    def part(self, key: str) -> YamlFile:
        """The mapping under a top-level key as a file of its own; lines stay those of the whole file.

        Raises RecipeError where there is no mapping."""
        if not isinstance(self.tree.get(key), dict):
            raise self.error([key], f"{key}: expected a mapping")
        if self._marked is None:
            return YamlFile(self.path, self.tree[key], None, None)
        return YamlFile(self.path, self.tree[key], dump_yaml(self._marked[key]), self._marked[key])

    def validate(self, schema: type[Schema]) -> Schema:
        """The tree as `schema`. Raises RecipeError for the first thing that does not fit."""
        for key, line in self.repeated.items():
            if key in schema.model_fields:
                raise RecipeError(f"{self.path}:{line}: the key {key!r} comes twice", path=self.path, line=line)
        only_anchors = self.definitions - schema.model_fields.keys()
        try:
            return schema.model_validate({key: value for key, value in self.tree.items() if key not in only_anchors})
        except ValidationError as error:
            first = error.errors()[0]
            keys = first["loc"]
            where = ".".join(str(k) for k in keys)
            if first["type"] == "missing":
                raise self.error(keys[:-1], f"the key {where!r} is missing") from error
            if first["type"] == "extra_forbidden":
                raise self.error(
                    keys, f"unknown key {where!r}{nearest(str(keys[-1]), _schema_at(schema, keys).model_fields)}"
                ) from error
            message = first["msg"].removeprefix("Value error, ")
            cause = first.get("ctx", {}).get("error")
            if isinstance(cause, KeyProblem):
                raise self.error([*keys, cause.key], message) from error
            raise self.error(keys, f"{where}: {message}" if where else message) from error


def _schema_at(schema: type[BaseModel], keys: Sequence[str | int]) -> type[BaseModel]:
    """The schema of the mapping that holds the last of `keys`."""
    for key in keys[:-1]:
        annotations = [schema.model_fields[str(key)].annotation] if str(key) in schema.model_fields else []
        while annotations:  # `list[Slice] | None` and the like
            annotation = annotations.pop()
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                schema = annotation
            annotations.extend(get_args(annotation))
    return schema


def read_yaml(path: Path, *, several: bool = False) -> YamlFile:
    """`several`: the file may hold more than one document. Raises RecipeError for a file that cannot be read, is not
    YAML, or is not a mapping."""
    return parse_yaml(path, read_text(path, limit=_MAX_BYTES, error=RecipeError), several=several)


def parse_yaml(path: Path, text: str, *, several: bool = False) -> YamlFile:
    """What `path` holds, or held; of several documents the last one, whose `documents` are all of them. Raises
    RecipeError for what is not YAML, or is not a mapping, and for more than one document unless there may be
    `several`."""
    read, definitions = _documents(path, text)
    documents = [document for document in read if document is not None]
    whole = text if len(documents) == 1 else None
    files = [_of_document(path, document, whole, definitions) for document in documents or [None]]
    if len(files) == 1:
        return files[0]
    if not several:
        line = documents[1].lc.line + 1 if isinstance(documents[1], CommentedMap) else 1
        raise RecipeError(f"{path}:{line}: a second document begins here; expected one", path=path, line=line)
    return replace(files[-1], _text=text, documents=tuple(files))


def _documents(path: Path, text: str) -> tuple[list[Any], dict[str, _TopKey]]:
    """(the documents, the top-level keys that define anchors)."""
    try:
        definitions = _scan(text)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ReusedAnchorWarning)  # YAML allows it: the later one counts
            reader = YAML(typ="rt")
            reader.allow_duplicate_keys = True  # those that define anchors; others have been refused
            return list(reader.load_all(text)), definitions
    except MemoryError:
        raise
    except Exception as error:  # the parser raises whatever the text makes of it
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or next(iter(str(error).splitlines()), type(error).__name__)
        if isinstance(error, TypeError) and "unhashable" in problem:
            problem = "a key that is a list or a mapping"
        line = mark.line + 1 if mark else 1
        what = problem if isinstance(error, _Bounds) else f"not valid YAML: {problem}"
        raise RecipeError(f"{path}:{line}: {what}", path=path, line=line) from error


def _of_document(path: Path, marked: Any, text: str | None, definitions: Mapping[str, _TopKey]) -> YamlFile:
    if not isinstance(marked, CommentedMap):
        raise RecipeError(
            f"{path}:1: not a recipe: expected keys such as `models:`, found {type(marked).__name__}", path=path, line=1
        )
    text = dump_yaml(marked) if text is None else text
    repeated = {name: key.repeated_at.line + 1 for name, key in definitions.items() if key.repeated_at}
    return YamlFile(path, _plain(marked), text, marked, definitions=frozenset(definitions), repeated=repeated)


class _Bounds(YAMLError):
    """What a recipe never has; `problem_mark` is where."""

    def __init__(self, problem: str, mark: Any) -> None:
        super().__init__(problem)
        self.problem, self.problem_mark = problem, mark


@dataclass
class _OpenNode:
    """A list or mapping that the scan is within. `keys`: those of a mapping so far; `key`: the one whose value is
    next."""

    anchor: str | None
    nodes_before: int
    is_mapping: bool
    keys: set[str] = field(default_factory=set)
    key: str | None = None


@dataclass
class _TopKey:
    """A key at the top. `repeated_at`: where it comes again in one document."""

    repeated_at: Any = None
    defines_anchor: bool = False


_NODES = events.AliasEvent | events.CollectionStartEvent | events.ScalarEvent


def _scan(text: str) -> dict[str, _TopKey]:
    """The top-level keys that define an anchor. Raises YAMLError for text that would grow when it is read: aliases of
    aliases, deep nesting, tags that make other types, numbers of hundreds of digits; and for a key that comes twice,
    unless it stands at the top to define anchors."""
    nodes = 0  # with aliases written out
    open_nodes: list[_OpenNode] = []
    sizes: dict[str, int] = {}
    top_keys: dict[str, _TopKey] = {}
    for event in YAML(typ="rt").parse(text):
        if isinstance(event, _NODES):
            parent = open_nodes[-1] if open_nodes else None
            is_key = parent is not None and parent.is_mapping and parent.key is None
            if parent and is_key:
                parent.key = str(getattr(event, "value", ""))
                repeated = parent.key in parent.keys and parent.key != "<<"
                parent.keys.add(parent.key)
                if parent is open_nodes[0]:
                    top_key = top_keys.setdefault(parent.key, _TopKey())
                    top_key.repeated_at = event.start_mark if repeated else top_key.repeated_at
                elif repeated:
                    raise _Bounds(f"the key {parent.key!r} comes twice", event.start_mark)
            if event.anchor and not isinstance(event, events.AliasEvent) and open_nodes and open_nodes[0].key:
                top_keys[open_nodes[0].key].defines_anchor = True
            if parent and not is_key and not isinstance(event, events.CollectionStartEvent):
                parent.key = None
        if isinstance(event, events.AliasEvent):
            if event.anchor not in sizes:
                raise _Bounds(f"the alias *{event.anchor} is within its own anchor, or has none", event.start_mark)
            nodes += sizes[event.anchor]
        elif isinstance(event, events.CollectionStartEvent | events.ScalarEvent):
            if event.tag and str(event.tag) != "!":
                raise _Bounds(f"the tag {str(event.tag)[:40]} makes a type that recipes do not have", event.start_mark)
            nodes += 1
            if isinstance(event, events.ScalarEvent):
                if event.style is None and _LONG_NUMBER.fullmatch(event.value):
                    raise _Bounds(f"a number of {len(event.value)} digits", event.start_mark)
                if event.anchor:
                    sizes[event.anchor] = 1
            else:
                open_nodes.append(_OpenNode(event.anchor, nodes - 1, isinstance(event, events.MappingStartEvent)))
                if len(open_nodes) > _MAX_DEPTH:
                    raise _Bounds(f"nested deeper than {_MAX_DEPTH} levels", event.start_mark)
        elif isinstance(event, events.CollectionEndEvent):
            ended = open_nodes.pop()
            if ended.anchor:
                sizes[ended.anchor] = nodes - ended.nodes_before
            if open_nodes:
                open_nodes[-1].key = None
        if nodes > _MAX_NODES:
            raise _Bounds(f"more than {_MAX_NODES:,} values, aliases written out", event.start_mark)
    for name, key in top_keys.items():
        if key.repeated_at and not key.defines_anchor:
            raise _Bounds(f"the key {name!r} comes twice", key.repeated_at)
    return {name: key for name, key in top_keys.items() if key.defines_anchor}


def dump_yaml(tree: Any) -> str:
    """A tree as YAML in block style; long lines, such as paths, are not folded."""
    text, writer = io.StringIO(), YAML(typ="rt")
    writer.width, writer.default_flow_style = 4096, False
    writer.dump(tree if isinstance(tree, CommentedMap) else _plain(tree), text)  # without anchors
    return text.getvalue()


def _plain(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {str(k): _plain(v) for k, v in node.items()}
    if isinstance(node, list | tuple):
        return [_plain(v) for v in node]
    for plain_type in (bool, int, float, str):
        if isinstance(node, plain_type):
            return plain_type(node)
    return node
