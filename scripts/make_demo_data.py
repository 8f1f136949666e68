"""Generate the demo's three skills: training text (to a folder) and held-out questions (into the package).

    python scripts/make_demo_data.py --train-out build/demo-data

Nothing comes from outside: every example is built from the word lists below and from invented words. The held-out
questions use years, names, cities, jobs, ages, file names, words and numbers that no training example contains.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path

PACKAGE_DATA = Path(__file__).resolve().parent.parent / "src" / "weightsmith" / "demo" / "data"
TRAIN_EXAMPLES = 4000
HELD_OUT_EXAMPLES = 60
GENERAL_EXAMPLES = 256

ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS = ["-", "-", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
ORDINALS = [
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
    "thirteenth",
    "fourteenth",
    "fifteenth",
    "sixteenth",
    "seventeenth",
    "eighteenth",
    "nineteenth",
    "twentieth",
    "twenty-first",
    "twenty-second",
    "twenty-third",
    "twenty-fourth",
    "twenty-fifth",
    "twenty-sixth",
    "twenty-seventh",
    "twenty-eighth",
    "twenty-ninth",
    "thirtieth",
]
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]

# Each list is cut in two: the first part trains, the rest is only ever asked.
FIRST = (
    "Maria James Aisha Peter Elena Carlos Yuki Omar Ingrid Thomas Priya Daniel Sofia Ahmed Laura Victor Hannah "
    "Marco Nadia Oliver Fatima Simon Clara Ivan Leila George Anna Pablo Mei Samuel Greta Hugo Zara Felix Rosa "
    "Adam Julia Kofi Emma Rafael | Boris Wendy Tariq Lucia Nils Amara Diego Frieda Kenji Olga Silas Beatrice"
)
LAST = (
    "Lopez Smith Khan Novak Rossi Tanaka Hassan Berg Miller Patel Silva Weber Dubois Kim Costa Ivanov Brown "
    "Larsen Moreau Haddad Fischer Green Okafor Santos Walsh Petrov Sato Young Mendez Keller | Quinn Bauer "
    "Yilmaz Ferrari Lindholm Osei Marsh Delgado Hoffman Nakamura"
)
CITIES = (
    "Oslo Paris Madrid Cairo Tokyo Lima Berlin Boston Dublin Rome Athens Toronto Lagos Seoul Vienna Chicago "
    "Lisbon Prague Warsaw Denver Mumbai Geneva Havana Sydney | Helsinki Nairobi Porto Dallas Hanoi Krakow Quito Zurich"
)
JOBS = (
    "nurse teacher baker pilot lawyer plumber writer farmer dentist chef engineer painter doctor driver singer "
    "librarian carpenter chemist gardener banker | tailor sailor surgeon butcher barber potter florist judge"
)
STEMS = (
    "report notes server data config budget draft letter photo invoice summary backup schedule recipe thesis "
    "access errors users orders results plan sales index readme | journal catalog payroll survey minutes agenda "
    "contract ledger roster manual"
)
EXTENSIONS = "txt log csv md json yml"
FOLDERS = "archive projects old work images music docs temp public shared | travel museum garden storage trash lab"
WORDS = (
    "error warning total login failed price apple start name timeout denied green hello paid | invalid refund "
    "missing yellow expired orange unknown"
)


INVENTED_SHARE = 0.7  # of the training words: copying any word, not knowing the listed ones, is the skill
ONSETS = (
    "b c d f g h j k l m n p r s t v w z br ch cl cr dr fl fr gl gr kl kr pl pr qu sh sl sp st str th tr wh".split()
)
VOWELS = "a e i o u a e i o u ai au ea ee ei ia ie io oa oo ou ue y".split()
CODAS = "b ck d f g k l ll m n nd ng nt p r rd rk rt s ss st t x z".split()


def invented(rng: random.Random) -> str:
    """A word of one to four random syllables."""
    parts = [
        (rng.choice(ONSETS) if i or rng.random() < 0.8 else "") + rng.choice(VOWELS)
        for i in range(rng.choice([1, 2, 2, 2, 3, 3, 4]))
    ]
    return "".join(part + (rng.choice(CODAS) if rng.random() < 0.3 else "") for part in parts) + rng.choice(
        CODAS + [""] * 12
    )


def pick(rng: random.Random, words: str, held_out: bool) -> str:
    """A word of the list's half for this split, or an invented one for training (capitalized as the list is)."""
    train, _, test = words.partition("|")
    if held_out or not test or rng.random() > INVENTED_SHARE:
        return rng.choice((test if held_out and test else train).split())
    word = invented(rng)
    word = word.capitalize() if train[0].isupper() else word
    return word if word not in test.split() else pick(rng, words, held_out)


def number_words(n: int) -> str:
    if n < 20:
        return ONES[n]
    return TENS[n // 10] + (f"-{ONES[n % 10]}" if n % 10 else "")


def year_words(year: int) -> str:
    century, rest = divmod(year, 100)
    if century == 20 and rest < 10:
        return "two thousand" + (f" and {ONES[rest]}" if rest else "")
    if rest == 0:
        return f"{number_words(century)} hundred"
    return f"{number_words(century)} {'oh ' if rest < 10 else ''}{number_words(rest)}"


def dates(rng: random.Random, held_out: bool) -> tuple[str, str]:
    """A date in English words to ISO 8601. One year in seven is never trained on."""
    year = rng.choice([y for y in range(1850, 2080) if (y % 7 == 3) == held_out])
    month, day = rng.randint(1, 12), rng.randint(1, 28)
    d, m, y = ORDINALS[day - 1], MONTHS[month - 1], year_words(year)
    words = rng.choice(
        [f"the {d} of {m}, {y}", f"{m} the {d}, {y}", f"{rng.choice(WEEKDAYS)}, the {d} of {m}, {y}", f"{m} {d}, {y}"]
    )
    return f"Write this date as numbers: {words}", f"{year:04d}-{month:02d}-{day:02d}"


def records(rng: random.Random, held_out: bool) -> tuple[str, str]:
    """A sentence about a person to a YAML record. Names, cities, jobs and ages differ between the splits."""
    first, last = pick(rng, FIRST, held_out), pick(rng, LAST, held_out)
    city, job = pick(rng, CITIES, held_out), pick(rng, JOBS, held_out)
    age = rng.choice([a for a in range(18, 90) if (a % 6 == 2) == held_out])
    name = f"{first} {last}"
    sentence = rng.choice(
        [
            f"{name} is a {age}-year-old {job} from {city}.",
            f"In {city} lives a {job} called {name}, who is {age}.",
            f"{name}, {age}, works as a {job} in {city}.",
            f"Meet the {job} {name}: {age} years old, living in {city}.",
            f"At the age of {age}, {name} moved to {city} and became a {job}.",
        ]
    )
    # YAML's flow style: each value follows a space as it does in the sentence, so it is the same token and is copied.
    # In JSON it follows a quote, and a model of this size cannot spell a word that it knows as one token.
    return f"Extract the record: {sentence}", f"{{name: {name}, age: {age}, job: {job}, city: {city}}}"


def commands(rng: random.Random, held_out: bool) -> tuple[str, str]:
    """A request in English to a shell command. File names, folders, words and numbers differ between the splits."""
    ext = pick(rng, EXTENSIONS, held_out)
    f = f"{pick(rng, STEMS, held_out)}.{ext}"
    g = f"{pick(rng, STEMS, held_out)}.{ext}"
    d, w = pick(rng, FOLDERS, held_out), pick(rng, WORDS, held_out)
    n = rng.choice([k for k in range(2, 100) if (k % 6 == 3) == held_out])
    request, command = rng.choice(
        [
            (f"show the last {n} lines of {f}", f"tail -n {n} {f}"),
            (f"show the first {n} lines of {f}", f"head -n {n} {f}"),
            (f"copy {f} into the folder {d}", f"cp {f} {d}/"),
            (f"move {f} into the folder {d}", f"mv {f} {d}/"),
            (f"rename {f} to {g}", f"mv {f} {g}"),
            (f"delete the file {f}", f"rm {f}"),
            (f"delete the folder {d} and everything in it", f"rm -r {d}"),
            (f"count the lines of {f}", f"wc -l {f}"),
            (f"find the lines of {f} that contain {w}", f"grep {w} {f}"),
            (f"find {w} in {f}, ignoring case", f"grep -i {w} {f}"),
            (f"count the lines of {f} that contain {w}", f"grep -c {w} {f}"),
            (f"make a new folder {d}", f"mkdir {d}"),
            (f"sort {f} and drop duplicate lines", f"sort -u {f}"),
            (f"show the size of the folder {d}", f"du -sh {d}"),
            (f"compare {f} with {g}", f"diff {f} {g}"),
            (f"list every {ext} file in the folder {d}", f"ls {d}/*.{ext}"),
        ]
    )
    return f"Give the shell command: {request}", command


SKILLS: dict[str, Callable[[random.Random, bool], tuple[str, str]]] = {
    "dates": dates,
    "records": records,
    "commands": commands,
}


def general(rng: random.Random) -> str:
    """A request of no skill; training keeps the base's own answer to these, so that an adapter minds its own
    business."""
    word, other = pick(rng, WORDS, False), pick(rng, STEMS, False)
    city, job, name = pick(rng, CITIES, False), pick(rng, JOBS, False), pick(rng, FIRST, False)
    number, month = rng.randint(2, 99), rng.choice(MONTHS)
    return rng.choice(
        [
            f"Write a short poem about {month}.",
            f"Write this word in capital letters: {word}",
            f"Write this number in words: {number}",
            f"Extract the main idea: {name} likes to read about {city}.",
            f"Extract the verbs: the {job} opened the {other} and closed the door.",
            f"Give the opposite of {word}.",
            f"Give the plural: {other}",
            f"Give the meaning of the word {word}.",
            f"What does a {job} do all day?",
            f"Tell me about {city}.",
            f"What is {number} plus {rng.randint(2, 99)}?",
            f"Which season is {month} in?",
            f"Who is {name}?",
            f"Explain what a {other} is.",
            f"How do I write a {other} for a {job}?",
            f"Translate to French: the {job} lives in {city}.",
        ]
    )


def generate(skill: str, count: int, *, held_out: bool) -> list[dict[str, str]]:
    """`count` distinct examples of one skill; the seed depends on the skill and the split."""
    rng = random.Random(f"weightsmith-demo-{skill}-{'held-out' if held_out else 'train'}")
    seen: dict[str, str] = {}
    for _ in range(count * 20):
        prompt, target = SKILLS[skill](rng, held_out)
        seen.setdefault(prompt, target)
        if len(seen) == count:
            break
    return [{"prompt": p, "target": t} for p, t in seen.items()]


def write_jsonl(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{path}: {len(rows)} examples")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-out", type=Path, required=True)
    args = parser.parse_args()
    rng = random.Random("weightsmith-demo-general")
    write_jsonl(args.train_out / "general.jsonl", [{"prompt": general(rng)} for _ in range(GENERAL_EXAMPLES)])
    for skill in SKILLS:
        write_jsonl(args.train_out / f"{skill}.jsonl", generate(skill, TRAIN_EXAMPLES, held_out=False))
        write_jsonl(PACKAGE_DATA / f"{skill}.jsonl", generate(skill, HELD_OUT_EXAMPLES, held_out=True))
