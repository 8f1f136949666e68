"""Which naming scheme a checkpoint has, recognized by its tensors' names, its config.json or its GGUF metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from weightsmith.checkpoint.checkpoint import TensorInfo
from weightsmith.errors import CheckpointError
from weightsmith.models.naming.dimensions import Config
from weightsmith.models.naming.scheme import Scheme, known_schemes

_GGUF_LIKE = {"mistral": "llama"}  # model types whose GGUF files are laid out as another's


def schemes_of(config: Config) -> list[Scheme]:
    """The layouts that models of `config`'s type have been published in."""
    model_type = config.get("model_type")
    gguf_type = _GGUF_LIKE.get(str(model_type))
    typed_schemes = [(scheme, scheme.config["set"].get("model_type")) for scheme in known_schemes()]
    return [
        scheme
        for scheme, scheme_type in typed_schemes
        if scheme_type == model_type or (scheme.layout == "gguf" and scheme_type == gguf_type)
    ]


def detect_scheme(
    names: Mapping[str, TensorInfo], *, config: Config | None = None, metadata: Mapping[str, Any] | None = None
) -> Scheme | None:
    """The scheme of a checkpoint: by its tensors' names and config.json, or by a GGUF file's metadata. None: canonical,
    or unknown."""
    for scheme in known_schemes():
        evidence = {"config": config or {}, "metadata": metadata or {}}
        fits = all(evidence[where].get(k) == v for where in evidence for k, v in scheme.detect.get(where, {}).items())
        fits = fits and all(
            (key.lstrip("!") in evidence["config"]) != key.startswith("!") for key in scheme.detect.get("keys", [])
        )
        pattern, tall = scheme.detect.get("tensor"), scheme.detect.get("tall")
        if (
            fits
            and (pattern is None or any(re.fullmatch(pattern, name) for name in names))
            and (
                tall is None
                or any(re.fullmatch(tall, name) and info.shape[0] > info.shape[-1] for name, info in names.items())
            )
        ):
            return scheme
    return None


def scheme_named(name: str, config: Config | None = None) -> Scheme:
    """The layout `phi-msft` or `phi/phi-msft` of safetensors folders; where several families have one of the name, that
    of `config`'s. Raises CheckpointError with the names there are."""
    known = [scheme for scheme in known_schemes() if "metadata" not in scheme.detect]
    named = [scheme for scheme in known if name in (scheme.layout, scheme.name)]
    family = (config or {}).get("model_type")
    for scheme in sorted(named, key=lambda scheme: scheme.config["set"].get("model_type") != family):
        return scheme
    raise CheckpointError(f"unknown layout {name!r}; known: bare, {', '.join(scheme.name for scheme in known)}")
