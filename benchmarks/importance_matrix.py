"""What an importance matrix is worth: the demo's merged model in small types, with and without one, by perplexity.

make bench-importance DATA=folder      # folder/wikitext2/{valid,test}.txt: the matrix comes from the first, perplexity
from the second
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from measured import processor
from ruamel.yaml import YAML

import weightsmith
from weightsmith.demo.run_demo import pipeline_text
from weightsmith.files.markdown import markdown_table
from weightsmith.gguf.conversion.export_source import ExportJob
from weightsmith.machine import describe_machine

PLAIN = ["f16", "q2_k", "q3_k_m", "iq3_s", "iq4_xs", "iq4_nl", "q4_k_m"]  # iq3_xxs and smaller ones need a matrix
WITH = [*PLAIN[1:], "iq3_xxs", "iq2_s"]
CALIBRATION, TEST = 200_000, 60_000  # characters


def main() -> None:
    data = Path(sys.argv[1]) / "wikitext2"
    with tempfile.TemporaryDirectory(prefix="importance-") as scratch:
        folder = Path(scratch)
        recipe, valid, test = folder / "merge.yml", folder / "valid.txt", folder / "wikitext.txt"
        with recipe.open("w") as file:
            YAML().dump(YAML(typ="safe").load(pipeline_text())["merge"], file)
        valid.write_text((data / "valid.txt").read_text(encoding="utf-8")[:CALIBRATION], encoding="utf-8")
        test.write_text((data / "test.txt").read_text(encoding="utf-8")[:TEST], encoding="utf-8")
        order = ExportJob(recipe=str(recipe))
        plain = weightsmith.export(order, folder / "plain", types=PLAIN, check="none", log=note)
        better = weightsmith.export(order, folder / "with", types=WITH, calibrate=valid, check="none", log=note)
        bits = {file.type: file.bits_per_weight for file in (*better.files, *plain.files)}
        models = {f"plain {file.type}": str(file.path) for file in plain.files}
        models |= {f"with {file.type}": str(file.path) for file in better.files}
        scores = {model.label: model.scores[0] for model in weightsmith.evaluate(models, texts=[test], log=note).models}
    rows = [["type", "bits per weight", "perplexity without", "with an importance matrix"]]
    for kind in dict.fromkeys([*PLAIN, *WITH]):
        one, two = scores.get(f"plain {kind}"), scores.get(f"with {kind}")
        rows.append(
            [
                kind,
                f"{bits[kind]:.2f}" if bits[kind] else "",
                f"{one.value:.2f}" if one else "needs one",
                f"{two.value:.2f}" if two else "",
            ]
        )
    print(f"{processor()}; {describe_machine()}\n")
    print(
        f"The demo's merged model, {scores['plain f16'].count} tokens of WikiText-2's test set; the matrix from its "
        "validation set\n"
    )
    print(markdown_table(rows))


def note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
