"""Values that a key of a JSON or YAML file may have, and should not."""

from __future__ import annotations

import json
from typing import Any

WRONG: dict[str, Any] = {
    "null": None,
    "true": True,
    "zero": 0,
    "minus one": -1,
    "half": 0.5,
    "huge": 10**18,
    "huger": 10**39,
    "text": "x",
    "empty text": "",
    "number as text": "2",
    "control characters": "\x1b[31m\0\r\n",
    "long text": "x" * 100_000,
    "list": [2],
    "empty list": [],
    "list in list": [[1]],
    "object": {"a": 1},
    "empty object": {},
    "deep": None,  # see `written`
    "infinite": float("inf"),
    "not a number": float("nan"),
    "half a pair": "\ud800",
    "path up": "../../etc/passwd",
}


def written(content: dict[str, Any], key: str, name: str) -> str:
    """`content` as JSON with the value WRONG[name] under `key`."""
    if name == "deep":
        marked = json.dumps(content | {key: "DEEP"})
        return marked.replace('"DEEP"', "[" * 20_000 + "]" * 20_000)
    return json.dumps(content | {key: WRONG[name]})


RAW: dict[str, bytes] = {
    "empty": b"",
    "space": b"   \n",
    "no JSON": b"not json",
    "cut": b'{"a": ',
    "null": b"null",
    "number": b"12",
    "text": b'"x"',
    "list": b"[]",
    "list of objects": b'[{"a": 1}]',
    "deep list": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000,
    "many digits": b'{"a": ' + b"9" * 100_000 + b"}",
    "many digits behind the point": b'{"a": 0.' + b"9" * 100_000 + b"}",
    "huge exponent": b'{"a": 1e999999999}',
    "not UTF-8": b'{"a": "\xff\xfe"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "zeros": b"\0" * 1000,
    "half a pair": b'{"a": "\\ud800"}',
    "two values": b"{} {}",
    "comment": b'{"a": 1} // x',
}
