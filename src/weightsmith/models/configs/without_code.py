"""A configuration without what would have transformers fetch or import code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# `attn_implementation: owner/name` has transformers load a kernel from the hub; `auto_map` names code of the model's.
_CODE = re.compile(r"auto_map|custom_pipelines|_?\w*_implementation\w*|use_kernels|kernel_config")


def without_code(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same in all parts of it.

    >>> without_code({"attn_implementation": "owner/kernel", "text_config": {"auto_map": {}, "hidden_size": 8}})
    {'text_config': {'hidden_size': 8}}
    """
    return {
        key: without_code(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if not _CODE.fullmatch(key)
    }
