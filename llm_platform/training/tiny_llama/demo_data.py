"""The demo data: support tickets of an invented shop, and where each of them should go."""

import random

from llm_platform.training.tiny_llama.phrases import HELD_OUT, TRAIN, Phrases
from llm_platform.training.tiny_llama.words import FAMILIES, NAMES, PRIORITIES, TEAMS, fill

# Shares of the training rows that are there to be cleaned away: exact copies, and rows with stray white space.
DUPLICATES = 0.02
MESSY = 0.03


def demo_rows(count: int, seed: int, held_out: bool = False) -> list[dict[str, str]]:
    """`count` rows with a `question` (a customer's message) and an `answer` (team and priority); equal arguments give
    equal rows. Held-out rows use phrasings that no training row uses, and hold neither copies nor messy rows."""
    rng = random.Random(f"tickets-{seed}-{held_out}")
    phrases = HELD_OUT if held_out else TRAIN
    rows: list[dict[str, str]] = []
    while len(rows) < count:
        dice = rng.random()
        if not held_out and rows and dice < DUPLICATES:
            rows.append(dict(rng.choice(rows)))
            continue
        team, priority = rng.choice(TEAMS), rng.choice(PRIORITIES)
        question = _ticket(phrases, team, priority, rng)
        if not held_out and dice > 1 - MESSY:
            question = _mess(question, rng)
        rows.append({"question": question, "answer": f"Team: {team} | Priority: {priority}"})
    return rows


def _ticket(phrases: Phrases, team: str, priority: str, rng: random.Random) -> str:
    """One message. The hint at the hurry and the extra context move about, so that no place gives the label away."""
    body = [_matter(phrases, team, rng)]
    if rng.random() < 0.5:
        body.insert(rng.randint(0, 1), rng.choice(phrases.contexts))
    body.insert(rng.randint(0, len(body)), rng.choice(phrases.urgency[priority]))
    parts = [rng.choice(phrases.openings), *body, rng.choice(phrases.closings)]
    text = " ".join(part for part in parts if part)
    # A customer has one name, however often the message says it.
    text = text.replace("{name}", rng.choice(NAMES)).replace("{family}", rng.choice(FAMILIES))
    return fill(text, rng)


def _matter(phrases: Phrases, team: str, rng: random.Random) -> str:
    """What the customer wants, as a whole sentence."""
    if rng.random() < 0.6:
        clause = rng.choice(phrases.problems[team])
        frame = rng.choice(phrases.problem_frames)
        return frame.replace("{c}", clause).replace("{C}", clause[0].upper() + clause[1:])
    return rng.choice(phrases.request_frames).replace("{r}", rng.choice(phrases.requests[team]))


def _mess(text: str, rng: random.Random) -> str:
    """The same text with stray white space, as pasted text has it."""
    words = text.split(" ")
    at = rng.randrange(len(words))
    words[at] = rng.choice(("", " ", "\t")) + " " + words[at]
    return rng.choice(("", "  ", "\n")) + " ".join(words) + rng.choice(("", "   ", "\n\n"))
