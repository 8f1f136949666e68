"""A recipe file as one tree: what it includes, and its documents, each a stage whose result others use by its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from weightsmith.files.find_path import is_file, path_beside
from weightsmith.files.inputs.yaml_file import YamlFile, dump_yaml, read_yaml

_MOST_FILES, _MOST_STAGES = 50, 200
_MODEL_KEYS = ("model", "path", "base_model", "tokenizer_source", "source")


def with_includes(file: YamlFile) -> YamlFile:
    """`file` with the keys of the files that it includes; its own count first, `parameters` key by key. Raises
    RecipeError."""
    return _with_includes(file, (), [])


def _with_includes(file: YamlFile, within: tuple[Path, ...], read: list[Path]) -> YamlFile:
    """`within`: the files that include this one; `read`: all that were read for the recipe so far."""
    names = file.tree.get("include")
    if names is None:
        return file
    if isinstance(names, str):
        names = [names]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise file.error(["include"], "include: expected a file, or a list of files")
    within = (*within, file.path.absolute())
    tree: dict[str, Any] = {}
    sources: dict[str, YamlFile] = {}
    definitions = file.definitions
    for name in names:
        path = path_beside(name, file.path.parent)
        if not is_file(path):
            raise file.error(["include"], f"{name}: no such file")
        if path.absolute() in within:
            raise file.error(
                ["include"], f"{name} includes itself, through {' and '.join(map(str, within[1:]) or [name])}"
            )
        read.append(path)
        if len(read) > _MOST_FILES:
            raise file.error(["include"], f"{name}: more than {_MOST_FILES} files are included")
        included = _with_includes(read_yaml(path), within, read)
        definitions |= included.definitions
        for key, value in included.tree.items():
            tree[key] = _joined(key, tree.get(key), value)
            sources[key] = included.included.get(key, included)
    for key, value in file.tree.items():
        if key != "include":
            tree[key] = _joined(key, tree.get(key), value)
            sources.pop(key, None)
    return replace(file, tree=tree, _text=dump_yaml(tree), included=sources, definitions=definitions)


def stages_of(file: YamlFile) -> tuple[YamlFile, dict[str, YamlFile]]:
    """(the document whose result is the output, the others by name). The output is the one without a name, else the one
    that no other uses. Raises RecipeError for a name that comes twice, a circle, and where it is not clear which
    document is the output."""
    if not file.documents:
        return with_includes(file), {}
    if len(file.documents) > _MOST_STAGES:
        raise file.error([], f"{len(file.documents)} documents; a recipe has at most {_MOST_STAGES} stages")
    documents = [with_includes(document) for document in file.documents]
    named: dict[str, YamlFile] = {}
    unnamed = []
    for document in documents:
        name = document.tree.get("name")
        if name is None:
            unnamed.append(document)
        elif str(name) in named:
            raise document.error(["name"], f"two stages have the name {name!r}")
        else:
            named[str(name)] = document
    if len(unnamed) > 1:
        raise unnamed[1].error([], "two stages have no name; one may have none, the one whose result is the output")
    uses = {name: set(_uses(document.tree, named)) for name, document in named.items()}
    _check_no_circle(named, uses)
    if unnamed:
        output = unnamed[0]
    else:
        last = sorted(named.keys() - set().union(*uses.values()))
        if len(last) != 1:
            raise named[last[1]].error(
                ["name"], f"no stage uses {' or '.join(last)}; leave out the name of the one whose result is the output"
            )
        output = named.pop(last[0])
    return replace(output, _text=file.text), named


def _joined(key: str, outer: Any, inner: Any) -> Any:
    return {**outer, **inner} if key == "parameters" and isinstance(outer, dict) and isinstance(inner, dict) else inner


def _uses(tree: Any, names: Mapping[str, Any]) -> Iterator[str]:
    """The stages that a document names where it names a model."""
    if isinstance(tree, list):
        for value in tree:
            yield from _uses(value, names)
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            if not isinstance(value, str):
                yield from _uses(value, names)
            elif key in _MODEL_KEYS and (name := stage_in(value, names)):
                yield name


def stage_in(reference: str, names: Mapping[str, Any]) -> str | None:
    """The stage that a model reference begins with: `first` of `first` and of `first+adapter`."""
    name = reference if reference in names else reference.partition("+")[0]
    return name if name in names else None


def _check_no_circle(named: Mapping[str, YamlFile], uses: Mapping[str, set[str]]) -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            circle = " -> ".join((*path[path.index(name) :], name))
            raise named[name].error(["name"], f"these stages use each other in a circle: {circle}")
        if name not in done:
            for other in sorted(uses[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in named:
        visit(name, ())
