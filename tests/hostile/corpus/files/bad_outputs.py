"""Outputs that are inputs, are in use, lie nowhere, or are somebody else's; journals, links and questions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.hostile.builders import recipe, write_model
from tests.hostile.fork import EITHER, REFUSED, TAKEN, Case

_JOURNALS: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"hello\n",
    "a list": b"[]\n",
    "a number": b"1\n",
    "another run": b'{"run": {"recipe": "x"}}\n',
    "a run that is a list": b'{"run": []}\n',
    "a tensor without a digest": b'{"run": {}}\n{"tensor": "x"}\n',
    "not UTF-8": b"\xff\xff\n",
    "deep": b"[" * 100_000 + b"\n",
}


def _models(folder: Path) -> None:
    for seed, name in enumerate(("good", "other")):
        write_model(folder / name, seed)
    (folder / "r.yml").write_text(recipe("good", "other"))


def _with(more: Callable[[Path], object]) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        _models(folder)
        more(folder)

    return build


def _folder(path: Path, **files: str) -> None:
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name.replace("__", ".")).write_text(content)


def cases() -> Iterator[Case]:
    for out in ("good", "good/merged", ".", "r.yml", "good/config.json", "r.yml/out"):
        for force in ((), ("--force",)):
            command = ("merge", "r.yml", out, "-q", *force)
            yield Case(f"merge into {out} {force}", _models, command, "", REFUSED, ())
            if not out.startswith("r.yml"):
                yield Case(f"unify into {out} {force}", _models, ("unify", "good", out, "-q", *force), "", REFUSED, ())
    yield Case(
        "a folder of somebody", _with(lambda f: _folder(f / "out", a__txt="mine")), _merge("out"), "out", outputs=()
    )
    forced = ("merge", "r.yml", "out", "-q", "--force")
    yield Case("that, by force", _with(lambda f: _folder(f / "out", a__txt="mine")), forced, "out", outputs=())
    yield Case("an empty folder", _with(lambda f: (f / "out").mkdir()), _merge("out"), "", TAKEN)
    for name, link in {"nothing": "nothing", "a model": "good", "a file": "r.yml", "itself": "out"}.items():
        yield Case(
            f"a link to {name}",
            _with(lambda f, link=link: (f / "out").symlink_to(link)),
            _merge("out"),
            "out",
            outputs=(),
        )
        partial = _with(lambda f, link=link: (f / ".out.partial").symlink_to(link))
        yield Case(f"the unfinished one a link to {name}", partial, _merge("out"), ".out.partial", outputs=())
    yield Case(
        "the unfinished one somebody's",
        _with(lambda f: _folder(f / ".out.partial", thesis="mine")),
        _merge("out"),
        ".partial",
        outputs=(),
    )
    yield Case(
        "the unfinished one a file",
        _with(lambda f: (f / ".out.partial").write_text("x")),
        _merge("out"),
        ".partial",
        outputs=(),
    )
    for name, journal in _JOURNALS.items():
        journaled = _with(
            lambda f, journal=journal: (
                _folder(f / ".out.partial"),
                (f / ".out.partial/journal.jsonl").write_bytes(journal),
            )
        )
        yield Case(
            f"journal: {name}",
            journaled,
            ("merge", "r.yml", "out", "-q", "--threads", "1"),
            "out",
            EITHER,
        )
    for depth in (1, 50):
        out = "/".join("abc" for _ in range(depth)) + "/out"
        yield Case(f"{depth} folders that are not there", _models, _merge(out), "", TAKEN)
    yield Case("a name of 300", _models, _merge("x" * 300), "xxx")
    yield Case("no name", _models, _merge(""), "", EITHER, ())
    yield from _links()
    yield from _evaluations()


def _merge(out: str) -> tuple[str, ...]:
    return ("merge", "r.yml", out, "-q")


def _links() -> Iterator[Case]:
    for name in (
        "vocab.json",
        "tokenizer.json",
        "config.json",
        "model.safetensors",
        "chat_template.jinja",
        "merges.txt",
    ):
        for target in ("/etc/passwd", "../secret", "../../secret", "/dev/zero", "/proc/self/environ"):

            def link(folder: Path, name: str = name, target: str = target) -> None:
                (folder / "secret").write_text("SECRET")
                (folder / "good" / name).unlink(missing_ok=True)
                (folder / "good" / name).symlink_to(target)

            yield Case(f"{name} leads to {target}", _with(link), _merge("out"), name)
    for name in ("1_Pooling", "additional_chat_templates"):

        def folder_link(folder: Path, name: str = name) -> None:
            _folder(folder / "private", config__json="{}")
            (folder / "good" / name).symlink_to(folder / "private")

        yield Case(f"{name} leads out", _with(folder_link), _merge("out"), name)

    def within(folder: Path) -> None:
        (folder / "good/tokenizer.json").rename(folder / "good/real.json")
        (folder / "good/tokenizer.json").symlink_to("real.json")

    yield Case("a link within the folder", _with(within), _merge("out"), "", TAKEN)


def _evaluations() -> Iterator[Case]:
    def asked(content: bytes) -> Callable[[Path], None]:
        return _with(lambda folder: (folder / "q.jsonl").write_bytes(content))

    good = json.dumps({"prompt": "a", "target": "b"}).encode()
    command = ("evaluate", "good", "--questions", "q.jsonl", "-o", "scores", "-q")
    for name, content in {
        "empty": b"",
        "no JSON": b"hello\n",
        "a list": b"[]\n",
        "a number as prompt": b'{"prompt": 1, "target": "b"}\n',
        "no target": b'{"prompt": "a"}\n',
        "not UTF-8": b"\xff\n",
        "deep": b"[" * 100_000,
        "half a pair": b'{"prompt": "\\ud800", "target": "b"}',
        "a line of 20 MB": good[:-2] + b"x" * (20 << 20) + b'"}',
    }.items():
        yield Case(f"questions: {name}", asked(content), command, "q.jsonl", REFUSED, ("scores",))
    for out in ("good", "q.jsonl", "good/scores", "r.yml/scores"):
        into = (*command[:-2], out, "-q")
        yield Case(f"evaluate into {out}", asked(good), into, "", REFUSED, ())
