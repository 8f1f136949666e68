"""Which of llama.cpp's pre-tokenizers a tokenizer has, recognized by what it does.

The converter knows tokenizers by a hash over the tokens of one text, so that it refuses one that was trained anew, or
got a token more, although it cuts text as a known one does.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

_TEXTS = (
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶‍🌫️ ✅ 🦙🦙 3 33 333 3333 33333 333333 3333333 3.3 3..3 "
    "3...3",
    "កាន់តែពិសេសអាច😁 ?我想在apple工作1314151天～ ------======= нещо на Български ''''''```````\"\"\"\"......!!!!!!??????",
    "I've been 'told he's there, 'RE you sure? 'M not sure I'll make it, 'D you like some tea? We'Ve a'lL",
    "def f(x):\n\treturn  x**2 # ¼ ½ ² naïve façade Ǆungla e\u0301tude\r\n\r\n١٢٣ हिन्दी 한국어 日本語のテキスト",
)


def pre_tokenizer_name(tokenizer: Any) -> str | None:
    """llama.cpp's name for how a `transformers` tokenizer cuts text before byte-level BPE; None where no known one does
    the same."""
    from tokenizers import Regex, pre_tokenizers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.pre_tokenizer is None:
        return None
    content = json.loads(backend.to_str())
    if (content.get("normalizer") or {"type": "NFC"})[
        "type"
    ] != "NFC":  # what llama.cpp leaves out, composed text does not need
        return None
    whole_words_first = bool(content["model"].get("ignore_merges"))
    known = json.loads((resources.files("weightsmith.tokenizer") / "pre_tokenizers.json").read_text(encoding="utf-8"))
    cuts_of_tokenizer = [backend.pre_tokenizer.pre_tokenize_str(text) for text in _TEXTS]
    for name, pattern in known["names"].items():
        cuts = [pre_tokenizers.Split(Regex(regex), "isolated") for regex in known["patterns"][pattern]]
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        candidate = pre_tokenizers.Sequence([*cuts, level])
        if (name in known["whole_words_first"]) == whole_words_first and cuts_of_tokenizer == [
            candidate.pre_tokenize_str(text) for text in _TEXTS
        ]:
            return name
    return None
