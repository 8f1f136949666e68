"""Sizes in bytes and times, as people write them: 5GB, 500MB (decimal units, as mergekit and Hugging Face count)."""

import re

from weightsmith.errors import WeightsmithError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "K": 10**3, "M": 10**6, "G": 10**9}


def parse_shard_size(text: str) -> int:
    """Bytes of a shard. As mergekit has it, K, M and B are thousands, millions and billions: `5B`, its default, is
    5 GB (its help says parameters; its `TensorWriter` counts bytes). Raises WeightsmithError."""
    number, unit = text.strip()[:-1].rstrip(), text.strip()[-1:].upper()
    return parse_size(f"{number}G" if unit == "B" and number[-1:].isdigit() else text, "--out-shard-size")


def parse_size(text: str, option: str) -> int:
    """Bytes; `5GB`, `500 MB`, `2G` or a plain number. Raises WeightsmithError."""
    match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,18})?)\s*([a-zA-Z]*)", text.strip())
    if not match or match[2].upper() not in _UNITS or not (size := int(float(match[1]) * _UNITS[match[2].upper()])):
        raise WeightsmithError(f"{option} {text!r}: not a size; write it as 5GB or 500MB")
    return size


def parse_time(text: str, option: str) -> float:
    """Seconds; `20m`, `2h`, `1h30m`, `90s` or `90`. Raises WeightsmithError."""
    lowered = text.strip().lower()
    parts = re.findall(r"(\d{1,12}(?:\.\d{1,12})?)\s*(s|min|m|h|)", lowered)
    seconds = sum(float(count) * {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}[unit] for count, unit in parts)
    if not re.fullmatch(r"(\d{1,12}(\.\d{1,12})?\s*(s|min|m|h)\s*)+|\d{1,12}(\.\d{1,12})?", lowered) or not seconds:
        raise WeightsmithError(f"{option} {text!r}: not a time; write it as 20m or 2h")
    return seconds


def show_size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def show_amount(done: int, total: int, unit: str) -> str:
    """`1.20 GB of 5.00 GB`, or `12 of 60 trials`; the total is 0 where it is not known."""
    if unit == "bytes":
        return f"{show_size(done)} of {show_size(total)}"
    return f"{done}{f' of {total}' if total else ''} {unit}"


def show_time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
