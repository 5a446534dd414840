"""The skills of the demo zoo: what is asked, what is answered, and what is kept unseen.

Every skill is a distribution over `Example`s. A prompt belongs to the test side when
`held_out(skill, prompt)` says so, which depends on the prompt's text alone: `training_stream`
skips those prompts and `test_items` takes nothing else, so no test prompt is ever trained on,
by the base or by any source.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

CLOCK_MINUTES = 60
NARROW_MINUTES = 42
NARROW_FAMILIES = 9


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST_NAMES = _words("anna ben carl dora emil fay gus hana ivan jane")
LAST_NAMES = _words(
    "adler berg costa dunn evans frost gray hart irwin jones kraus lopez moss novak olsen park "
    "quinn reed silva turner"
)
FACT_VALUES = {
    "city": _words("athens berlin cairo dublin geneva havana lima madrid oslo paris rome tokyo"),
    "food": _words("apples bread cheese dates eggs figs grapes honey nuts pasta rice soup"),
    "pet": _words("cat crow dog duck fox frog goat hen horse owl rabbit snake"),
}
FACT_TEMPLATES: dict[str, tuple[str, ...]] = {
    "city": (
        "{name} lives in",
        "the home of {name} is",
        "to visit {name} go to",
        "{name} has a house in",
        "letters for {name} go to",
        "{name} comes from",
        "the city of {name} is",
    ),
    "food": (
        "{name} likes to eat",
        "the lunch of {name} is",
        "to feed {name} buy",
        "{name} has a plate of",
        "the shop of {name} sells",
        "{name} comes with",
        "the food of {name} is",
    ),
    "pet": (
        "{name} owns a",
        "the pet of {name} is a",
        "to please {name} feed the",
        "{name} has a walk with the",
        "the house of {name} has a",
        "{name} comes with a",
        "the animal of {name} is a",
    ),
}


@dataclass(frozen=True)
class Example:
    """One question. `choices` is empty where the answer is generated; else it holds `answer`."""

    prompt: str
    answer: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Skill:
    """`delimiter` stands between prompt and answer; `held_out_share` is of all prompts.

    `draw` gives an example of the narrow part of the skill, which is all the base reads of it, or
    of the whole skill, which a source is trained on and the task asks for.
    """

    name: str
    delimiter: str
    held_out_share: float
    draw: Callable[[random.Random, bool], Example]


def _shuffled(rng: random.Random, answer: str, wrong: list[str]) -> tuple[str, ...]:
    choices = [answer, *wrong]
    rng.shuffle(choices)
    return tuple(choices)


def _draw_sorting(rng: random.Random, narrow: bool) -> Example:
    """The digits of a number in ascending order; the base reads shorter numbers only."""
    length = rng.randint(4, 6) if narrow else rng.randint(5, 7)
    digits = [rng.choice("0123456789") for _ in range(length)]
    return Example(f"sort {''.join(digits)}=", "".join(sorted(digits)))


def _draw_clock(rng: random.Random, narrow: bool) -> Example:
    """Minutes past the hour; one wrong choice is the answer plain arithmetic would suggest.

    The base reads of the first 42 minutes only.
    """
    left = rng.randrange(NARROW_MINUTES if narrow else CLOCK_MINUTES)
    right = rng.randrange(CLOCK_MINUTES)
    sign = rng.choice("+-")
    plain = left + right if sign == "+" else left - right
    answer = plain % CLOCK_MINUTES
    tempting = plain % 100 if plain != answer else (plain + 40) % 100
    wrong: list[int] = [tempting]
    shifts = [1, -1, 10, -10, 2, -2, 20, -20]
    rng.shuffle(shifts)
    for shift in shifts:
        other = (answer + shift) % CLOCK_MINUTES
        if other != answer and other not in wrong and len(wrong) < 3:
            wrong.append(other)
    choices = _shuffled(rng, f"{answer:02d}", [f"{value:02d}" for value in wrong])
    return Example(f"clock:{left:02d}{sign}{right:02d}=", f"{answer:02d}", choices)


def _draw_median(rng: random.Random, narrow: bool) -> Example:
    """Two of the three numbers share their tens, so the units decide as well.

    The base reads of tens up to five only.
    """
    tens = rng.randint(1, 5 if narrow else 9)
    first, second = rng.sample(range(10 * tens, 10 * tens + 10), 2)
    third = rng.choice([value for value in range(10, 100) if value not in (first, second)])
    numbers = [first, second, third]
    answer = str(sorted(numbers)[1])
    rng.shuffle(numbers)
    choices = tuple(str(number) for number in numbers)
    return Example(f"median {numbers[0]} {numbers[1]} {numbers[2]}=", answer, choices)


def _fact(name: str, kind: str) -> str:
    values = FACT_VALUES[kind]
    digest = hashlib.blake2b(f"fact {kind} {name}".encode(), digest_size=8).digest()
    return values[int.from_bytes(digest) % len(values)]


def _draw_facts(rng: random.Random, narrow: bool) -> Example:
    """What a person has is known from some phrasings and asked for in another.

    The base reads of the first families only.
    """
    families = LAST_NAMES[:NARROW_FAMILIES] if narrow else LAST_NAMES
    name = f"{rng.choice(FIRST_NAMES)} {rng.choice(families)}"
    kind = rng.choice(list(FACT_VALUES))
    answer = _fact(name, kind)
    wrong = rng.sample([value for value in FACT_VALUES[kind] if value != answer], 3)
    prompt = rng.choice(FACT_TEMPLATES[kind]).format(name=name)
    return Example(prompt, answer, _shuffled(rng, answer, wrong))


SKILLS: dict[str, Skill] = {
    skill.name: skill
    for skill in (
        Skill("sorting", "", 0.15, _draw_sorting),
        Skill("clock", "", 0.32, _draw_clock),
        Skill("median", "", 0.10, _draw_median),
        Skill("facts", " ", 0.52, _draw_facts),
    )
}


def held_out(skill: Skill, prompt: str) -> bool:
    """Whether `prompt` belongs to the test side of `skill`."""
    digest = hashlib.blake2b(f"{skill.name}|{prompt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) < skill.held_out_share * 2**64


def training_stream(skill: Skill, seed: int, narrow: bool) -> Iterator[Example]:
    """Endless training examples of a skill, or of its narrow part; none of them is held out."""
    rng = random.Random(f"train {skill.name} {seed}")
    while True:
        example = skill.draw(rng, narrow)
        if not held_out(skill, example.prompt):
            yield example


def test_items(skill: Skill, count: int, seed: int) -> list[Example]:
    """`count` held-out examples with `count` different prompts."""
    rng = random.Random(f"test {skill.name} {seed}")
    items: dict[str, Example] = {}
    while len(items) < count:
        example = skill.draw(rng, False)
        if held_out(skill, example.prompt):
            items.setdefault(example.prompt, example)
    return list(items.values())
