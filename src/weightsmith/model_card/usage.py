"""The code of a model card that loads a model and has it answer; tests run it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weightsmith.errors import WeightsmithError
from weightsmith.files.inputs.read_input import MAX_TOKENIZER_BYTES, read_json

_QUESTION = "What is a large language model?"
_BEGINNING = "A large language model is"
_MODEL_ID = 'model_id = "."  # this folder, or its id on the hub'


def usage_of_folder(folder: Path) -> tuple[tuple[str, str], ...]:
    """(language, code) for a folder that transformers loads; empty where the class of its config.json is none that the
    code can name."""
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    architectures = config.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else None
    if not isinstance(architecture, str) or not architecture.isidentifier():
        return ()
    if not architecture.endswith("ForCausalLM"):
        code = f"from transformers import {architecture}\n\n{_MODEL_ID}\n"
        return (("python", f'{code}model = {architecture}.from_pretrained(model_id, dtype="auto")\n'),)
    return (("python", _transformers(chat=has_chat_template(folder))),)


def usage_of_adapter(base: str) -> tuple[tuple[str, str], ...]:
    """(language, code) for an adapter in peft's format on the model `base`."""
    code = (
        "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"base_id = {_quoted(base)}\n{_MODEL_ID}\n"
        "tokenizer = AutoTokenizer.from_pretrained(base_id)\n"
        'base = AutoModelForCausalLM.from_pretrained(base_id, dtype="auto")\n'
        "model = PeftModel.from_pretrained(base, model_id)\n\n"
    )
    return (("python", code + _answer(chat=False)),)


def usage_of_gguf(file: str, *, chat: bool) -> tuple[tuple[str, str], ...]:
    """(language, code) for a GGUF file."""
    ask = (
        f'messages = [{{"role": "user", "content": {_quoted(_QUESTION)}}}]\n'
        "answer = model.create_chat_completion(messages, max_tokens=100)\n"
        'print(answer["choices"][0]["message"]["content"])\n'
        if chat
        else f'print(model({_quoted(_BEGINNING)}, max_tokens=100)["choices"][0]["text"])\n'
    )
    code = f"from llama_cpp import Llama\n\nmodel = Llama({_quoted(file)}, n_ctx=4096)\n{ask}"
    return (("python", code),)


def has_chat_template(folder: Path) -> bool:
    """Whether a tokenizer has one, in a file of its own or in its configuration."""
    if (folder / "chat_template.jinja").is_file():
        return True
    path = folder / "tokenizer_config.json"
    try:
        config: Mapping[str, Any] = read_json(path, limit=MAX_TOKENIZER_BYTES) if path.is_file() else {}
    except WeightsmithError:
        return False
    return bool(config.get("chat_template"))


def _transformers(*, chat: bool) -> str:
    return (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"{_MODEL_ID}\n"
        "tokenizer = AutoTokenizer.from_pretrained(model_id)\n"
        'model = AutoModelForCausalLM.from_pretrained(model_id, dtype="auto")\n\n' + _answer(chat=chat)
    )


def _answer(*, chat: bool) -> str:
    if chat:
        ask = (
            f'messages = [{{"role": "user", "content": {_quoted(_QUESTION)}}}]\n'
            "inputs = tokenizer.apply_chat_template(\n"
            '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True\n)\n'
        )
    else:
        ask = f'inputs = tokenizer({_quoted(_BEGINNING)}, return_tensors="pt")\n'
    return (
        f"{ask}output = model.generate(**inputs, max_new_tokens=100)\n"
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))\n'
    )


def _quoted(text: str) -> str:
    """As Python's and JSON's literal."""
    return json.dumps(text)
