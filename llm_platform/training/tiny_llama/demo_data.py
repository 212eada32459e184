"""The demo data: support tickets of an invented shop, and the team that each of them should go to."""

import random

from llm_platform.training.tiny_llama.phrases import HELD_OUT, MATTERS, TRAIN, Phrases
from llm_platform.training.tiny_llama.words import TEAMS, fill

# Shares of the training rows that are there to be cleaned away: exact copies, and rows with stray white space.
DUPLICATES = 0.02
MESSY = 0.03


def demo_rows(count: int, seed: int, held_out: bool = False) -> list[dict[str, str]]:
    """`count` rows with a `question` (a customer's message) and an `answer` (the team); equal arguments give equal rows.

    Held-out rows use phrasings that no training row uses, and hold neither copies nor messy rows.
    """
    rng = random.Random(f"tickets-{seed}-{held_out}")
    phrases = HELD_OUT if held_out else TRAIN
    rows: list[dict[str, str]] = []
    while len(rows) < count:
        dice = rng.random()
        if not held_out and rows and dice < DUPLICATES:
            rows.append(dict(rng.choice(rows)))
            continue
        team = rng.choice(TEAMS)
        question = _ticket(phrases, team, rng)
        if not held_out and dice > 1 - MESSY:
            question = _mess(question, rng)
        rows.append({"question": question, "answer": f"Team: {team}"})
    return rows


def _ticket(phrases: Phrases, team: str, rng: random.Random) -> str:
    """One message. The context stands before or behind the matter, so that no place gives the answer away."""
    matter = rng.choice(MATTERS[team])
    body = [rng.choice(phrases.frames).replace("{m}", matter).replace("{M}", matter[0].upper() + matter[1:])]
    body.insert(rng.randint(0, 1), rng.choice(phrases.contexts))
    parts = [rng.choice(phrases.openings), *body, rng.choice(phrases.closings)]
    return fill(" ".join(part for part in parts if part), rng)


def _mess(text: str, rng: random.Random) -> str:
    """The same text with stray white space, as pasted text has it."""
    words = text.split(" ")
    at = rng.randrange(len(words))
    words[at] = rng.choice(("", " ", "\t")) + " " + words[at]
    return rng.choice(("", "  ", "\n")) + " ".join(words) + rng.choice(("", "   ", "\n\n"))
