"""Write the questions of the suite `quick`: python scripts/make_quick_suite.py

They are made from word lists of our own with a fixed seed, so that they are nobody's training data by the letter, need
no download, and can be scored in minutes. The files are part of the package; whoever changes this script raises the
version in quick/_template.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

TARGET = Path(__file__).parent.parent / "src" / "weightsmith" / "evaluate" / "suites" / "quick"
COUNT = 60

CAPITALS = (
    "France:Paris Italy:Rome Spain:Madrid Germany:Berlin Poland:Warsaw Greece:Athens Portugal:Lisbon Norway:Oslo "
    "Sweden:Stockholm "
    "Finland:Helsinki Denmark:Copenhagen Austria:Vienna Hungary:Budapest Ireland:Dublin Russia:Moscow Japan:Tokyo "
    "China:Beijing "
    "India:Delhi Egypt:Cairo Kenya:Nairobi Peru:Lima Chile:Santiago Cuba:Havana Canada:Ottawa Turkey:Ankara "
    "Iran:Tehran Iraq:Baghdad "
    "Thailand:Bangkok Vietnam:Hanoi Belgium:Brussels"
)
OPPOSITES = (
    "hot:cold big:small fast:slow early:late full:empty wet:dry light:dark rich:poor strong:weak open:closed "
    "happy:sad young:old "
    "high:low near:far loud:quiet hard:soft clean:dirty thick:thin true:false left:right first:last begin:end "
    "buy:sell win:lose "
    "arrive:depart accept:refuse wide:narrow sharp:blunt deep:shallow smooth:rough"
)
NAMES = "Anna Ben Clara David Elena Felix Greta Hugo Irene Jonas Karin Leo Maria Nils Olga Paul".split()
JOBS = "baker teacher doctor painter farmer sailor lawyer singer carpenter nurse".split()
CITIES = "Bergen Porto Lyon Ghent Turin Graz Malmo Cork Leeds Basel".split()
ANIMALS = "dog cat horse cow sheep goat duck fox rabbit bear".split()
FRUIT = "apples pears plums cherries lemons oranges grapes peaches".split()
NOUNS = ("teacher farmer pilot sailor doctor painter child girl boy king singer lawyer".split(), "s")
PLURAL = {"child": "children"}
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
WORDS = "river table window garden candle bridge mountain letter bottle jacket forest pencil market island engine kitchen".split()


def pick(random_: random.Random, right: str, others: list[str], count: int = 4) -> tuple[list[str], int]:
    """Answers in a drawn order, and the place of the right one."""
    wrong = random_.sample(sorted({other for other in others if other != right}), count - 1)
    answers = random_.sample([right, *wrong], count)
    return answers, answers.index(right)


def row(query: str, answers: tuple[list[str], int]) -> dict:
    return {"query": query, "choices": answers[0], "gold": answers[1]}


def facts(r: random.Random) -> list[dict]:
    capitals, opposites = (dict(pair.split(":") for pair in words.split()) for words in (CAPITALS, OPPOSITES))
    rows = [row(f"The capital of {k} is", pick(r, v, list(capitals.values()))) for k, v in capitals.items()]
    return rows + [row(f"The opposite of {k} is", pick(r, v, list(opposites.values()))) for k, v in opposites.items()]


def arithmetic(r: random.Random) -> list[dict]:
    rows = []
    for number in range(COUNT):
        a, b = r.randint(2, 9 if number % 3 == 0 else 49), r.randint(2, 9 if number % 3 == 0 else 49)
        sign, result = (("+", a + b), ("-", a - b), ("*", a * b))[number % 3 if number % 3 != 2 else r.randint(0, 1)]
        near = [str(result + d) for d in (-10, -2, -1, 1, 2, 10)]
        rows.append(row(f"Question: What is {a} {sign} {b}?\nAnswer:", pick(r, str(result), near)))
    return rows


def grammar(r: random.Random) -> list[dict]:
    rows = []
    for number in range(COUNT):
        noun, other = r.sample(NOUNS[0], 2)
        many, others = (PLURAL.get(word, word + "s") for word in (noun, other))
        verb, form = r.choice(
            [("sings", "sing"), ("waits", "wait"), ("laughs", "laugh"), ("sleeps", "sleep"), ("works", "work")]
        )
        name = r.choice(NAMES)
        right, wrong = (
            (f"The {many} near the {other} {form}.", f"The {many} near the {other} {verb}."),
            (f"The {noun} near the {others} {verb}.", f"The {noun} near the {others} {form}."),
            (f"{name} has seen these {many}.", f"{name} has seen these {noun}."),
            (f"{name} has seen this {noun}.", f"{name} has seen this {many}."),
            (f"The {many} have hurt themselves.", f"The {many} have hurt itself."),
            (f"Nobody has ever met the {noun}.", f"Everybody has ever met the {noun}."),
        )[number % 6]
        rows.append(row("", (sorted([right, wrong]), sorted([right, wrong]).index(right))))
    return rows


def reading(r: random.Random) -> list[dict]:
    rows = []
    for number in range(COUNT):
        people, jobs, cities, animals = r.sample(NAMES, 4), r.sample(JOBS, 4), r.sample(CITIES, 4), r.sample(ANIMALS, 4)
        told = [
            f"{p} is a {j} from {c} and has a {a}." for p, j, c, a in zip(people, jobs, cities, animals, strict=True)
        ]
        who = r.randrange(4)
        question, right, others = (
            (f"What is {people[who]}'s job?", jobs[who], jobs),
            (f"Where is {people[who]} from?", cities[who], cities),
            (f"Who has a {animals[who]}?", people[who], people),
            (f"Who is the {jobs[who]}?", people[who], people),
        )[number % 4]
        rows.append(row(f"{' '.join(told)}\nQuestion: {question}\nAnswer:", pick(r, right, list(others))))
    return rows


def reasoning(r: random.Random) -> list[dict]:
    rows = []
    for number in range(COUNT):
        if number % 3 == 0:
            a, b, c = r.sample(NAMES, 3)
            trait = r.choice(["taller", "older", "faster", "richer"])
            end = r.choice([("most", a), ("least", c)])
            kind = {"most": trait[:-2] + "est", "least": f"least {trait[:-2]}"}[end[0]]
            query = f"{a} is {trait} than {b}. {b} is {trait} than {c}. Question: Which of the three is the {kind}?\nAnswer:"
            rows.append(row(query, pick(r, end[1], [a, b, c], 3)))
        elif number % 3 == 1:
            days = r.choice([DAYS, MONTHS])
            start, step = r.randrange(len(days)), r.randint(1, 4)
            unit = "days" if days is DAYS else "months"
            query = f"Question: Which comes {step} {unit if step > 1 else unit[:-1]} after {days[start]}?\nAnswer:"
            rows.append(row(query, pick(r, days[(start + step) % len(days)], days)))
        else:
            name, fruit, have, more = r.choice(NAMES), r.choice(FRUIT), r.randint(5, 30), r.randint(2, 20)
            eaten = r.randint(1, min(4, have))
            result = have + more - eaten
            query = f"{name} has {have} {fruit}, buys {more} more and eats {eaten}. Question: How many {fruit} are left?\nAnswer:"
            rows.append(row(query, pick(r, str(result), [str(result + d) for d in (-3, -2, -1, 1, 2, 3)])))
    return rows


def following(r: random.Random) -> list[dict]:
    """Answers that are written, not chosen."""
    rows = []
    for number in range(COUNT):
        a, b, c = r.sample(WORDS, 3)
        examples = [r.sample(WORDS, 3) for _ in range(3)]
        rule = (
            lambda x, y, z: (f"{x} {y} {z}", f"{z} {y} {x}"),
            lambda x, y, z: (f"{x}, {y}, {z}", min(x, y, z)),
            lambda x, y, z: (f"{x} {y} {z}", f"{y}"),
            lambda x, y, z: (f"{x} {y}", f"{x.upper()} {y.upper()}"),
        )[number % 4]
        shown = "".join("Input: {}\nOutput: {}\n\n".format(*rule(*example)) for example in examples)
        given, wanted = rule(a, b, c)
        rows.append({"query": f"{shown}Input: {given}\nOutput:", "target": wanted})
    return rows


def main() -> None:
    for number, make in enumerate((facts, arithmetic, grammar, reading, reasoning, following)):
        drawn = make(random.Random(number)) + make(random.Random(100 + number))
        different = {
            r["query"] + str(sorted(r.get("choices", []))): r for r in reversed(drawn)
        }  # the first of equal ones
        rows = list(reversed(different.values()))[:COUNT]
        assert len(rows) == COUNT, make.__name__
        text = "".join(json.dumps(found, ensure_ascii=False) + "\n" for found in rows)
        (TARGET / f"{make.__name__}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
