"""The demo's three skills, asked in wordings and with words of more than one part that no adapter was trained on.

The demo's own questions are no use to a search: its shipped recipe already answers all of them.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "scripts"))
from make_demo_data import (
    CITIES,
    EXTENSIONS,
    FIRST,
    FOLDERS,
    JOBS,
    LAST,
    MONTHS,
    ORDINALS,
    STEMS,
    WEEKDAYS,
    WORDS,
    pick,
    write_jsonl,
    year_words,
)

_JOBS = "head nurse,school teacher,bus driver,sous chef,jazz singer,tax lawyer,ship surgeon,night porter,bank clerk,stage actor"
_CITIES = "New York,San Jose,Los Angeles,Cape Town,Hong Kong,Buenos Aires,New Delhi,San Juan,Las Vegas,Tel Aviv"


def dates(random: random.Random) -> tuple[str, str]:
    year = random.choice([y for y in range(1850, 2080) if y % 7 == 3])
    month, day = random.randint(1, 12), random.randint(1, 28)
    d, m, y, weekday = ORDINALS[day - 1], MONTHS[month - 1], year_words(year), random.choice(WEEKDAYS)
    words = random.choice(
        [
            f"{weekday}, {m} the {d}, {y}",
            f"{y}, the {d} of {m}",
            f"the {d} day of {m} in the year {y}",
            f"{d} {m} {y}",
            f"in {pick(random, CITIES, True)} on the {d} of {m}, {y}",
            f"on {weekday} the {d} of {m} {y}",
        ]
    )
    return f"Write this date as numbers: {words}", f"{year:04d}-{month:02d}-{day:02d}"


def records(random: random.Random) -> tuple[str, str]:
    city = random.choice(_CITIES.split(",")) if random.random() < 0.5 else pick(random, CITIES, True)
    job = random.choice(_JOBS.split(",")) if random.random() < 0.5 else pick(random, JOBS, True)
    age = random.choice([a for a in range(18, 90) if a % 6 == 2])
    names = [pick(random, FIRST, True) for _ in range(random.choice([1, 1, 2]))]
    name = " ".join([*names, pick(random, LAST, True)])
    sentence = random.choice(
        [
            f"{name} of {city}, {age}, is a {job}.",
            f"The {job} {name} from {city} is {age}.",
            f"{age} years old and a {job}: that is {name} in {city}.",
            f"{city} is home to {name}, a {job} of {age}.",
            f"{name} is a {age}-year-old {job} from {city}.",
            f"{name}, {age}, works as a {job} in {city}.",
        ]
    )
    return f"Extract the record: {sentence}", f"{{name: {name}, age: {age}, job: {job}, city: {city}}}"


def commands(random: random.Random) -> tuple[str, str]:
    ext, d, w = pick(random, EXTENSIONS, True), pick(random, FOLDERS, True), pick(random, WORDS, True)
    n = random.choice([k for k in range(2, 100) if k % 6 == 3])

    def file() -> str:
        tail = random.choice([pick(random, STEMS, True), pick(random, WORDS, True), str(random.randint(2, 99))])
        return pick(random, STEMS, True) + (random.choice("-_") + tail if random.random() < 0.5 else "") + f".{ext}"

    f, g = file(), file()
    request, command = random.choice(
        [
            (f"print the last {n} lines of {f}", f"tail -n {n} {f}"),
            (f"display the first {n} lines of {f}", f"head -n {n} {f}"),
            (f"put a copy of {f} into the folder {d}", f"cp {f} {d}/"),
            (f"move the file {f} to the folder {d}", f"mv {f} {d}/"),
            (f"give {f} the name {g}", f"mv {f} {g}"),
            (f"remove {f}", f"rm {f}"),
            (f"remove the folder {d} with everything in it", f"rm -r {d}"),
            (f"how many lines are in {f}?", f"wc -l {f}"),
            (f"show the lines with {w} in {f}", f"grep {w} {f}"),
            (f"search {f} for {w}, ignoring case", f"grep -i {w} {f}"),
            (f"how many lines of {f} contain {w}?", f"grep -c {w} {f}"),
            (f"create the folder {d}", f"mkdir {d}"),
            (f"sort {f} without duplicate lines", f"sort -u {f}"),
            (f"how large is the folder {d}?", f"du -sh {d}"),
            (f"show what differs between {f} and {g}", f"diff {f} {g}"),
            (f"list all {ext} files in {d}", f"ls {d}/*.{ext}"),
        ]
    )
    return f"Give the shell command: {request}", command


SKILLS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "dates": dates,
    "records": records,
    "commands": commands,
}


def write_questions(folder: Path, count: int) -> list[Path]:
    """`count` different questions of each skill, the same ones each time."""
    written = []
    for name, make in SKILLS.items():
        drawn, questions_by_prompt = random.Random(f"weightsmith-unseen-{name}"), dict[str, str]()
        while len(questions_by_prompt) < count:
            prompt, target = make(drawn)
            questions_by_prompt.setdefault(prompt, target)
        written.append(folder / f"{name}.jsonl")
        write_jsonl(written[-1], [{"prompt": p, "target": t} for p, t in questions_by_prompt.items()])
    return written
