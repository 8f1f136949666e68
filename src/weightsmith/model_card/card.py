"""A model card for the hub: `README.md` with a head that the hub reads
(https://huggingface.co/docs/hub/model-cards), and for people what was merged, from what, how, and what it is worth."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from weightsmith.files.digests import digest
from weightsmith.files.inputs.read_input import read_text
from weightsmith.files.inputs.yaml_file import dump_yaml
from weightsmith.files.markdown import fenced, markdown_table, markdown_text
from weightsmith.files.write_whole import write_whole
from weightsmith.model_card.describe_inputs import CARD
from weightsmith.model_card.license import license_of
from weightsmith.model_card.provenance import InputPart, Provenance, listed
from weightsmith.units import show_size

_SAFE = re.compile(r"[A-Za-z][A-Za-z0-9 ./_-]*")  # text in any YAML
_NOT_TEXT = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
_END = re.compile(r"<!-- weightsmith:([0-9a-f]{16}) -->\n\Z")


@dataclass(frozen=True)
class CardResults:
    """What an evaluation found. `model_index`: the `results` of the head's model-index; `sentences`: what differs from
    whom, in words; `tables`: Markdown."""

    model_index: Sequence[Mapping[str, Any]] = ()
    sentences: tuple[str, ...] = ()
    tables: str = ""


@dataclass(frozen=True)
class GgufFile:
    """A file of an export. `how`: what made it, and what was measured of it."""

    name: str
    bytes: int
    sha256: str
    how: str


@dataclass(frozen=True)
class Card:
    """`title`: the model's name; `relation`: how it comes from its inputs, as the hub calls it; `usage`: code that
    loads it, by language; `files`: of an export; `method_title` and `paper`: of the merge; `base_models`: ids for the
    head, instead of those of the inputs."""

    title: str
    relation: Literal["merge", "quantized", "adapter"]
    provenance: Provenance
    method_title: str | None = None
    paper: str | None = None
    usage: tuple[tuple[str, str], ...] = ()
    files: tuple[GgufFile, ...] = ()
    results: CardResults | None = None
    base_models: tuple[str, ...] | None = None

    def to_text(self) -> str:
        """The card, in Markdown behind its head."""
        body = "\n\n".join(
            part
            for part in (
                f"# {markdown_text(self.title)}",
                self._about(),
                *self._usage(),
                *self._results(),
                *self._files(),
                *self._inputs(),
                *self._recipe(),
                *self._license(),
            )
            if part
        )
        return signed(f"---\n{_head_yaml(self.head())}---\n\n{body}\n\n")

    def head(self) -> dict[str, Any]:
        """The front matter."""
        provenance = self.provenance
        parts = list(dict.fromkeys(part for model in provenance.inputs for part in model.parts))
        bases = parts[:1] if self.relation == "adapter" else parts
        ids = list(dict.fromkeys(part.hub_id for part in bases if part.hub_id))
        ids = ids if self.base_models is None else list(self.base_models)
        languages = list(dict.fromkeys(language for part in parts for language in part.languages))
        tags = ["merge"] if provenance.method else []
        tags += ["weightsmith", *([provenance.method] if provenance.method else [])]
        tags += {"quantized": ["gguf"], "adapter": ["lora"], "merge": []}[self.relation]
        libraries = {"quantized": "llama-cpp-python", "adapter": "peft", "merge": "transformers"}
        is_text = all(name.endswith("ForCausalLM") for name in provenance.architectures)
        head: dict[str, Any] = {
            "base_model": ids,
            "base_model_relation": self.relation,
            "library_name": libraries[self.relation] if provenance.architectures else None,
            "pipeline_tag": "text-generation" if provenance.architectures and is_text else None,
            "tags": tags,
            **license_of(provenance.inputs).keys,
            "language": languages,
        }
        if self.results and self.results.model_index:
            head["model-index"] = [{"name": self.title, "results": list(self.results.model_index)}]
        return {key: value for key, value in head.items() if value}

    def _about(self) -> str:
        names = [f"{_link(model.parts)}" for model in self.provenance.inputs]
        made = f"made with weightsmith {self.provenance.weightsmith}"
        if self.provenance.method:
            method = markdown_text(self.method_title or self.provenance.method)
            by = f"[{method}]({self.paper})" if self.paper else method
            what = f"A merge of {listed(names)}, by {by}, {made}."
        else:
            what = f"{listed(names)}, {made}."
        if self.relation == "quantized":
            what += " These are GGUF files, for llama.cpp and what is built on it."
        elif self.relation == "adapter":
            what += " This is a LoRA adapter on the first of them, in peft's format."
        return what

    def _usage(self) -> list[str]:
        return ["## Use", *(f"```{language}\n{code}```" for language, code in self.usage)] if self.usage else []

    def _results(self) -> list[str]:
        if not self.results:
            return []
        sentences = "\n".join(f"- {markdown_text(sentence)}" for sentence in self.results.sentences)
        return ["## Results", sentences, self.results.tables]

    def _files(self) -> list[str]:
        if not self.files:
            return []
        rows = [["file", "how it was made", "size", "SHA-256"]]
        rows += [[file.name, file.how, show_size(file.bytes), file.sha256] for file in self.files]
        return ["## Files", markdown_table(rows, left=2)]

    def _inputs(self) -> list[str]:
        rows = [["model", "file", "size", "revision or hash"]]
        for part in dict.fromkeys(part for model in self.provenance.inputs for part in model.parts):
            for number, file in enumerate(part.files):
                known_by = f"commit {part.revision}" if part.revision else f"XXH3 {file.xxh3}"
                rows.append([part.title if number == 0 else "", file.name, show_size(file.bytes), known_by])
        converted = [
            f"- {markdown_text(model.title)}: {markdown_text(model.conversion)}"
            for model in self.provenance.inputs
            if model.conversion
        ]
        text = ["## Made from", markdown_table(rows, left=2)]
        if any(file.xxh3 for model in self.provenance.inputs for part in model.parts for file in part.files):
            text.append("XXH3 is what `xxhsum -H2` prints of a file.")
        return [*text, *(["What was converted:", "\n".join(converted)] if converted else [])]

    def _recipe(self) -> list[str]:
        recipe, seed = self.provenance.recipe, self.provenance.seed
        if not recipe:
            return []
        seeded = "" if seed is None else f"\n\nRandom numbers were drawn with `--seed {seed}`."
        return ["## Recipe", f"{fenced(recipe, 'yaml')}{seeded}"]

    def _license(self) -> list[str]:
        warning = license_of(self.provenance.inputs).warning
        return ["## License", markdown_text(warning[0].upper() + warning[1:] + ".")] if warning else []


def _head_yaml(head: Mapping[str, Any]) -> str:
    """As readers of YAML 1.1 and of 1.2 both understand it: to the former, the language `no` is a truth value."""
    return dump_yaml(CommentedMap({key: _quoted(value) for key, value in head.items()}))


def _quoted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return CommentedMap({key: _quoted(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return [_quoted(item) for item in value]
    is_safe = not isinstance(value, str) or (_SAFE.fullmatch(value) and value.lower() not in _NOT_TEXT)
    return value if is_safe else DoubleQuotedScalarString(value)


def write_card(folder: Path, card: Card) -> bool:
    """Write `README.md`; False, and nothing is written, where there is one that somebody wrote or edited. Raises
    OSError."""
    if not may_replace_card(folder):
        return False
    write_whole(folder / CARD, card.to_text())
    return True


def signed(text: str) -> str:
    """A card with a last line by which it is known as ours, in place of another one."""
    text = _END.sub("", text)
    return f"{text}<!-- weightsmith:{digest(text)[:16]} -->\n"


def may_replace_card(folder: Path) -> bool:
    """Whether there is no card, or one that is as weightsmith wrote it: its last line is a digest of the others."""
    path = folder / CARD
    if not path.exists() and not path.is_symlink():
        return True
    text = read_text(path)
    end = _END.search(text)
    return bool(end) and digest(text[: end.start()])[:16] == end[1]


def _link(parts: tuple[InputPart, ...]) -> str:
    return " + ".join(
        f"[{markdown_text(part.title)}](https://huggingface.co/{part.hub_id})"
        if part.hub_id
        else f"`{_plain(part.title)}`"
        for part in parts
    )


def _plain(name: str) -> str:
    """What a code span shows as it is."""
    return "".join(letter if letter.isprintable() and letter != "`" else " " for letter in name)
