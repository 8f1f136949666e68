"""Scores of our backend against lm-evaluation-harness's own `hf` model, sample by sample, on its own tasks with data of
ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from weightsmith.evaluation.backends.transformers.transformers_backend import TransformersBackend
from weightsmith.evaluation.harness.harness_model import HarnessModel
from weightsmith.evaluation.harness.suite_tasks import load_tasks
from weightsmith.evaluation.tasks.suite import SuiteEntry, suite_of
from weightsmith.models.open_model import open_model

CHOICES = [
    ("A train needs 3 hours for 240 km. How fast is it?", ["(A)60 km/h", "(B)80 km/h", "(C)90 km/h", "(D)8 m/s"], 1),
    ("A train needs 3 hours for 240 km. How far does it go in one?", ["(A)60 km", "(B)80 km", "(C) 90 km"], 1),
    ("Which is a prime?", ["(A)21", "(B)27", "(C)29", "(D)33", "(E)39"], 2),
    ("What is $\\frac{1}{2}+\\frac{1}{3}$ ?", ["(A)$\\frac{5}{6}$", "(B)$\\frac{2}{5}$", "(C)1"], 0),
]
PAGE = (
    " = Rivers = \n\n A river is a natural stream of fresh water . It flows towards the sea @-@ or another river . \n"
    * 6
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files as people have them: the names that the hub gives datasets, in several spellings."""
    root = tmp_path_factory.mktemp("data")
    questions = [{"query": f"Q: {q}\nA:", "choices": answers, "gold": [gold]} for q, answers, gold in CHOICES]
    easy = [
        {
            "question": q,
            "choices": {"text": answers, "label": list("ABCDE")[: len(answers)]},
            "answerKey": "ABCDE"[gold],
        }
        for q, answers, gold in CHOICES
    ]
    sums = [
        {"question": f"Ann has {n} pens and buys 2.", "answer": f"{n} + 2 is {n + 2}\n#### {n + 2}"} for n in range(9)
    ]
    yes = [{"input": f"True and {word} is", "target": word} for word in ("True", "False", "not True")]
    turns = [
        {"input": f"Turn {side}. Do you return?\nOptions:\n- Yes\n- No", "target": "No"} for side in ("left", "right")
    ]
    files = {
        "agieval/aqua-rat.jsonl": questions,
        "ai2_arc/ARC-Easy/test.jsonl": easy,
        "ai2_arc/ARC-Easy/train.jsonl": easy,
        "ai2_arc/ARC-Easy/validation.jsonl": easy,
        "gsm8k/test.jsonl": sums[:3],
        "gsm8k/train-first.jsonl": sums[3:],
        "bbh/boolean_expressions.jsonl": yes,
        "bbh/navigate.jsonl": turns,
        "wikitext_document_level/wikitext-2-raw-v1.jsonl": [{"page": PAGE}],
    }
    for name, rows in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("".join(json.dumps(r) + "\n" for r in rows))
    return root


def both(folder: Path, data: Path, task: str, ours: HarnessModel | None = None, **options: Any) -> tuple[dict, dict]:
    """Our results and lm-eval's."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    tasks = load_tasks(
        suite_of([SuiteEntry(task=name) for name in [task]]), data=data, fewshot=options.pop("fewshot", None)
    )
    length = options.pop("max_length", 512)
    ours = ours or HarnessModel(TransformersBackend(open_model(str(folder))), max_length=length)
    lm_eval_results = HFLM(pretrained=str(folder), dtype="float32", batch_size=3, device="cpu", max_length=length)
    results = []
    for model in (ours, lm_eval_results):
        for one in tasks.tasks.values():
            one.set_fewshot_seed(1234)
        asked = {"tasks": tasks.tasks, "groups": tasks.groups, "group_map": {}}
        results.append(evaluate(model, asked, bootstrap_iters=0, **options))  # type: ignore[arg-type]
    return results[0], results[1]


def differing(ours: dict, lm_eval_results: dict) -> list[str]:
    """What is not the same: metrics of samples, and log-likelihoods by more than 1e-3."""
    results = []
    for task, samples in lm_eval_results["samples"].items():
        for our_sample, lm_eval_sample in zip(ours["samples"][task], samples, strict=True):
            assert (our_sample["doc_id"], our_sample["filter"]) == (lm_eval_sample["doc_id"], lm_eval_sample["filter"])
            for metric in lm_eval_sample["metrics"]:
                if our_sample[metric] != pytest.approx(lm_eval_sample[metric], rel=1e-4, abs=1e-6):
                    results.append(
                        f"{task} {lm_eval_sample['doc_id']} {metric}: {our_sample[metric]} {lm_eval_sample[metric]}"
                    )
            for a, b in zip(np.ravel(our_sample["resps"]), np.ravel(lm_eval_sample["resps"]), strict=True):
                same = a == b if isinstance(b, str) else float(a) == pytest.approx(float(b), abs=1e-3, rel=1e-5)
                if not same:
                    results.append(f"{task} {lm_eval_sample['doc_id']}: {a} {b}")
    return results


CASES = {
    "answers of many tokens": ("agieval_aqua_rat", {}),
    "examples drawn for each question": ("arc_easy", {"fewshot": 2}),
    "a single token": ("leaderboard_bbh_navigate", {}),
    "generation, examples from another split": ("gsm8k", {}),
    "generation, fixed examples": ("bbh_fewshot_boolean_expressions", {}),
    "rolling log-likelihood": ("wikitext", {}),
    "rolling, more than the window": ("wikitext", {"max_length": 48}),
    "context longer than the window": ("arc_easy", {"fewshot": 3, "max_length": 60}),
    "chat template": ("agieval_aqua_rat", {"apply_chat_template": True}),
    "chat template, examples as turns": (
        "arc_easy",
        {"fewshot": 2, "apply_chat_template": True, "fewshot_as_multiturn": True},
    ),
    "chat template, generation": ("gsm8k", {"apply_chat_template": True, "system_instruction": "Be short."}),
}


@pytest.mark.parametrize("case", CASES)
def test_scores_are_those_of_lm_eval(case: str, chat_models: Path, data: Path) -> None:
    task, options = CASES[case]
    ours, lm_eval_results = both(chat_models / "a", data, task, **options)
    assert differing(ours, lm_eval_results) == []


@pytest.mark.parametrize("family", ["phi", "gpt2"])
def test_other_architectures(family: str, chat_models: Path, data: Path, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel, PhiConfig, PhiForCausalLM

    from weightsmith.tokenizer.tokenizer_files import write_tokenizer_files

    torch.manual_seed(0)
    ends: dict[str, Any] = {"vocab_size": 49152, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.2}
    model: Any = (
        GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=512, **ends))
        if family == "gpt2"
        else PhiForCausalLM(
            PhiConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, **ends)
        )
    )
    model.save_pretrained(tmp_path)
    write_tokenizer_files(open_model(str(chat_models / "a")), tmp_path)
    for task in ("agieval_aqua_rat", "bbh_fewshot_boolean_expressions"):
        ours, lm_eval_results = both(tmp_path, data, task)
        assert differing(ours, lm_eval_results) == []


class _Shifted(TransformersBackend):
    """Predicts every token one place too early."""

    def score(self, requests, *, on_scores=None):
        from weightsmith.evaluation.request import Request

        return super().score([Request(r.tokens[:-1], max(1, r.scored - 1)) for r in requests])


def test_a_backend_that_shifts_a_token_is_caught(chat_models: Path, data: Path) -> None:
    planted = HarnessModel(_Shifted(open_model(str(chat_models / "a"))), max_length=512)
    ours, lm_eval_results = both(chat_models / "a", data, "agieval_aqua_rat", planted)
    assert len(differing(ours, lm_eval_results)) > 4


def test_tokens_that_merge_across_the_boundary_are_cut_as_lm_eval_cuts_them(whole_vocabulary: Path) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    folder = str(whole_vocabulary / "a")
    pairs = [
        ("The word is unders", "tanding of things"),
        ("un", "der the sea"),
        ("The word is unders", "t"),
        ("a  ", "b"),
        ("", "alone"),
    ]
    requests = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
    ours = HarnessModel(TransformersBackend(open_model(folder)))
    alone = ours.tok_encode(pairs[0][0]), ours.tok_encode("".join(pairs[0]))
    assert alone[1][: len(alone[0])] != alone[0]  # the last token of the context is another one with the continuation
    lm_eval_results = HFLM(pretrained=folder, dtype="float32", batch_size=2, device="cpu")
    expected = lm_eval_results.loglikelihood(requests, disable_tqdm=True)
    for (our_sample, greedy), (lm_eval_sample, its_greedy) in zip(ours.loglikelihood(requests), expected, strict=True):
        assert our_sample == pytest.approx(lm_eval_sample, abs=1e-3) and greedy == its_greedy


def test_lm_eval_knows_the_backend_by_name(chat_models: Path) -> None:
    from lm_eval.evaluator import simple_evaluate

    from weightsmith.evaluation.harness.suite_tasks import _manager

    results: Any = simple_evaluate(
        model="weightsmith",
        model_args=f"pretrained={chat_models / 'a'}",
        tasks=["quick_facts"],
        limit=3,
        bootstrap_iters=0,
        task_manager=_manager(()),
    )
    assert len(results["samples"]["quick_facts"]) == 3
