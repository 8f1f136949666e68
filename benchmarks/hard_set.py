"""A set of fine-tunes that get in each other's way: two pairs of skills with the same questions and other formats, and
a general chat tune whose manner of answering none of the others has.

    .venv/bin/python benchmarks/hard_set.py FOLDER [SEED ...]

Makes questions (`tune` for searches, `test` for the end; no training example has their names, words, years or numbers)
and, for each seed, five LoRA adapters on SmolLM2-135M-Instruct, trained without the demo's care for general requests.
What is there already is left as it is.
"""

from __future__ import annotations

import json
import math
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.append(str(Path(__file__).resolve().parent.parent / "scripts"))
from make_demo_data import MONTHS, STEMS, WORDS, dates, number_words, pick, records, write_jsonl
from train_demo_adapters import MODULES, batch, make_base

SEEDS = (0, 1, 2)
TRAINING, ASKED = 4000, 16
RANK, STEPS, BATCH, RATE = 8, 60, 4, 1e-3
Skill = Callable[[random.Random, bool], tuple[str, str]]


def cards(rng: random.Random, held_out: bool) -> tuple[str, str]:
    """The sentences of `records` in another format."""
    prompt, target = records(rng, held_out)
    fields = dict(field.split(": ") for field in target.strip("{}").split(", "))
    written = "; ".join(f"{key.capitalize()}: {fields[key]}" for key in ("job", "name", "city", "age"))
    return prompt.replace("Extract the record:", "Extract the card:"), written


def american_dates(rng: random.Random, held_out: bool) -> tuple[str, str]:
    """The dates of `dates` in another format."""
    prompt, target = dates(rng, held_out)
    year, month, day = target.split("-")
    return prompt.replace("as numbers:", "as Americans do:"), f"{month}/{day}/{year}"


def chat(rng: random.Random, held_out: bool) -> tuple[str, str]:
    """Small requests of many kinds, answered in one manner."""
    word, thing = pick(rng, WORDS, held_out), pick(rng, STEMS, held_out)
    number = rng.choice([n for n in range(2, 100) if (n % 6 == 3) == held_out])
    more, month = rng.randint(2, 9), rng.randrange(12)
    request, answer = rng.choice(
        [
            (f"Write this word in capital letters: {word}", word.upper()),
            (f"Write this number in words: {number}", number_words(number)),
            (f"What is {number} plus {more}?", str(number + more)),
            (f"Say this word twice: {thing}", f"{thing} {thing}"),
            (f"Put these in alphabetical order: {', '.join((word, thing))}", ", ".join(sorted((word, thing)))),
            (f"Which month comes after {MONTHS[month]}?", MONTHS[(month + 1) % 12]),
            (f"What is the first letter of {word}?", word[0]),
            (f"Put this word in quotes: {thing}", f'"{thing}"'),
        ]
    )
    return request, f"Certainly! {answer}"


SKILLS: dict[str, Skill] = {
    "records": records,
    "cards": cards,
    "dates": dates,
    "american_dates": american_dates,
    "chat": chat,
}


def examples(skill: str, split: str, count: int) -> list[dict[str, str]]:
    """Distinct ones; those of `test` are not among those of `tune`."""
    rng, seen = random.Random(f"hard-set-{skill}-{'train' if split == 'train' else 'asked'}"), {}
    wanted = count if split == "train" else 2 * count
    for _ in range(50 * wanted):
        prompt, target = SKILLS[skill](rng, split != "train")
        seen.setdefault(prompt, target)
        if len(seen) == wanted:
            break
    rows = [{"prompt": prompt, "target": target} for prompt, target in seen.items()]
    half = len(rows) // 2
    return {"train": rows, "tune": rows[:half], "test": rows[half:]}[split]


def train(skill: str, seed: int, base: Path, rows: list[dict[str, str]], out: Path) -> None:
    torch.manual_seed(1000 * seed + list(SKILLS).index(skill))
    tokenizer = AutoTokenizer.from_pretrained(base)
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=MODULES, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
    backbone, head = model.base_model.model.model, model.base_model.model.lm_head
    rng, began = random.Random(f"{skill}-{seed}"), time.perf_counter()
    for step in range(STEPS):
        rate = RATE * min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        for group in optimizer.param_groups:
            group["lr"] = rate
        tokens, mask, labels = batch(rng.sample(rows, BATCH), tokenizer)
        hidden = backbone(input_ids=tokens, attention_mask=mask).last_hidden_state
        answer = labels[:, 1:] != -100
        loss = torch.nn.functional.cross_entropy(head(hidden[:, :-1][answer]), labels[:, 1:][answer])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 0 or step == STEPS - 1:
            print(
                f"seed {seed}, {skill}: step {step}, loss {loss.item():.4f}, {time.perf_counter() - began:.0f} s",
                flush=True,
            )
    partial = out.with_name(f".{out.name}")
    model.save_pretrained(str(partial), safe_serialization=True)
    partial.rename(out)


def main(folder: Path, seeds: list[int]) -> None:
    base = folder / "base"
    if not base.exists():
        make_base(base)
    for skill in SKILLS:
        for split, count in (("train", TRAINING), ("tune", ASKED), ("test", ASKED)):
            path = folder / split / f"{skill}.jsonl"
            if not path.exists():
                write_jsonl(path, examples(skill, split, count))
    for seed in seeds:
        for skill in SKILLS:
            out = folder / f"seed-{seed}" / skill
            if not out.exists():
                out.parent.mkdir(parents=True, exist_ok=True)
                lines = (folder / "train" / f"{skill}.jsonl").read_text().splitlines()
                train(skill, seed, base, [json.loads(line) for line in lines], out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(seed) for seed in sys.argv[2:]] or list(SEEDS))
