"""The text for pre-training, made by rule: prose about the shop's work, everyday prose, and text with structure.

It is a corpus for language modelling only. It explains what teams do and what urgent means, as a handbook does, but
holds no message with an answer, and none of the demo's phrasings.
"""

import json
import random
from collections.abc import Iterator

from llm_platform.training.tiny_llama.topics import CALM, HURRY, TOPICS, Topic
from llm_platform.training.tiny_llama.words import (
    CITIES,
    COMPANY,
    DAYS,
    FAMILIES,
    MONTHS,
    NAMES,
    PRIORITIES,
    PRODUCTS,
    TEAMS,
    amount,
    date,
    fill,
    order,
)

PEOPLE = ("He", "She", "{name}", "{name} {family}", "The customer", "A woman from {city}", "A man", "We", "They", "I",
          "My brother", "His wife", "Our neighbour", "Her friend", "The manager", "Somebody", "A colleague",
          "My husband", "Our team")  # fmt: skip
TIMES = ("On {day}", "In {month}", "Last week", "Yesterday", "On {date}", "This morning", "After lunch", "At night",
         "Later", "Then", "In the evening", "A few days ago", "At {n} minutes past noon", "Until now", "For {n} days",
         "Early in the day")  # fmt: skip
JOINS = (", and", ", but", " because", ", so", " after", " while", ", and then", " when", ". Then", ". Soon")
AFTER = ("", "", "", "", " again", " already", ", unfortunately", ", as far as we know", " by mistake", " as planned",
         ", which was strange", " without a reason")  # fmt: skip
EVERYDAY = (
    "The {product} stood in the kitchen next to the {colour} {product}.", "It rained in {city} all {day}.",
    "{name} told {name} about a dinner with friends.", "The children played in the garden until it was dark.",
    "My sister lives in {city} with two cats and a dog.", "{name} said hello and thank you to everyone.",
    "How are you? I am fine, thanks, and I hope you are well too.", "Kind regards and best wishes from {city}.",
    "Good morning, good afternoon and good evening are greetings.", "Dear {name}, thank you very much for your letter.",
    "She wrote a long letter and closed it with many greetings.",
    "We walked along the river and talked about the summer.",
    "What would you like to eat? I would like some bread and soup, please.", "Can you tell me why the sky is blue?",
    "I do not know what to do in the garden this year.", "It would be nice to see you on {day}.",
    "Could somebody explain to me how a clock works?", "Which book is the best one? I think that it is the old one.",
    "{name} was always happy with the {product}.", "I am sorry to say that the soup was cold.",
    "To my surprise the train to {city} was on time.", "Did you know that {city} has a small museum?",
    "Is it possible to swim in the lake? Yes, but the water is cold.",
    "I hope that you can help me to cook for {n} people.",
    "You should know that my brother is not happy about the weather.", "Let me explain how to bake bread at home.",
    "I am writing because the garden is so green.", "My question is how to plant a tree.",
    "Please write back to {name}.",
    "It seems that the winter will be long.", "Please look at the bird in that tree.",
    "I noticed that the days are longer.",
    "The trouble with old houses is the cold wind.", "I have just found a letter from {month}.",
    "{name} would be glad about a visit from {name}.", "What must we do to learn a language? We must talk to people.",
    "I look forward to the holidays by the sea.", "Nobody knows what happened to the cat, but I check the garden each day.",
)  # fmt: skip


# How a story may end: whose work it was, and how much it mattered.
TEAM_ENDS = (
    "The {team} team took care of it.", "It was a case for {team}.", "So {team} had work to do.",
    "{name} from {team} knew all about it.", "Such things belong to {team}.", "The right team was {team}.",
)  # fmt: skip
LEVEL_ENDS = (
    "The priority was {level}.", "It had a {level} priority.", "Its priority: {level}.",
    "For {name} it was of {level} priority.",
)  # fmt: skip


def lower(text: str) -> str:
    """The text for the middle of a sentence: only words that are no names lose their capital."""
    keep = text.startswith(("I ", "{"))
    return text if keep else text[0].lower() + text[1:]


def documents(seed: int) -> Iterator[str]:
    """Documents without end; equal seeds give equal documents."""
    rng = random.Random(f"corpus-{seed}")
    kinds = (_story, _handbook, _everyday, _structured, _directory, _noise)
    weights = (84, 6, 4, 3, 2, 1)
    while True:
        yield rng.choices(kinds, weights)[0](rng)


def _clause(team: str, rng: random.Random) -> str:
    """Something that happened in this team's field."""
    topic = TOPICS[team]
    dice = rng.random()
    if dice < 0.5:
        return f"{rng.choice(PEOPLE)} {rng.choice(topic.acts)}"
    if dice < 0.85:
        state = rng.choice(topic.states)
        return state[0].upper() + state[1:]
    return f"{rng.choice(PEOPLE)} {rng.choice(('talked about', 'thought about', 'asked about', 'wrote about'))} " + (
        rng.choice(topic.things)
    )


def _sentence(team: str, rng: random.Random, mood: Topic | None = None) -> str:
    text = _clause(team, rng)
    if rng.random() < 0.4:
        text = f"{rng.choice(TIMES)} {lower(text)}"
    if rng.random() < 0.4:
        text += f"{rng.choice(JOINS)} {lower(_clause(team, rng))}"
    text = text.replace("We was", "We were").replace("we was", "we were").replace("hey was", "hey were")
    after = " " + rng.choice(mood.acts) if mood and rng.random() < 0.3 else rng.choice(AFTER)
    return text + after + rng.choice((".", ".", ".", ".", "!"))


def _mood(mood: Topic, rng: random.Random) -> str:
    hint = rng.choice(mood.states)
    if rng.random() < 0.3:
        return f"{rng.choice(('They said that', 'We knew that', 'It was clear:', 'I think that'))} {hint}."
    if rng.random() < 0.3:
        hint += f"{rng.choice((' and', ', and', ' because'))} {rng.choice(mood.states)}"
    return hint[0].upper() + hint[1:] + rng.choice((".", ".", "!"))


def _story(rng: random.Random) -> str:
    """A few sentences that stay with one subject and one mood; often it is said at the end whose work it was."""
    team = rng.choice(TEAMS)
    level, mood = rng.choice((("high", HURRY), ("high", HURRY), ("normal", CALM), ("normal", None)))
    parts = [_sentence(team, rng, mood) for _ in range(rng.choice((1, 1, 2, 3)))]
    for _ in range(rng.choice((0, 1, 1)) if mood else 0):
        parts.insert(rng.randint(0, len(parts)), _mood(mood or CALM, rng))
    for _ in range(rng.choice((0, 0, 0, 1, 1))):
        parts.insert(rng.randint(0, len(parts)), rng.choice(EVERYDAY))
    ends = [rng.choice(TEAM_ENDS).replace("{team}", team), rng.choice(LEVEL_ENDS).replace("{level}", level)]
    rng.shuffle(ends)
    parts += ends if rng.random() < 0.8 else ends[:1]
    return fill(" ".join(parts), rng)


def _handbook(rng: random.Random) -> str:
    """What a team does, and what the priorities mean, in a heading and a few lines."""
    team = rng.choice(TEAMS)
    topic = TOPICS[team]
    things = rng.sample(topic.things, 4)
    lines = [f"# {rng.choice((f'The {team} team', f'{team} at {COMPANY}', f'About {team}'))}", ""]
    lines.append(f"{team} looks after {things[0]}, {things[1]} and {things[2]}. Its people know {things[3]}.")
    lines += [f"- {rng.choice(topic.states)}" for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.6:
        level, mood = rng.choice((("high", HURRY), ("normal", CALM)))
        lines += ["", f"A {level} priority means: {rng.choice(mood.states)}, or {rng.choice(mood.states)}."]
    lines += ["", _sentence(team, rng)]
    return fill("\n".join(lines), rng)


def _everyday(rng: random.Random) -> str:
    return fill(" ".join(rng.sample(EVERYDAY, rng.randint(3, 7))), rng)


def _directory(rng: random.Random) -> str:
    """Lists and tables about the teams' rooms, and about building works: the answers' words and marks, other matter."""
    dice = rng.random()
    if dice < 0.4:
        rows = [f"| {team} | {rng.randint(1, 9)} | {rng.choice(NAMES)} |" for team in rng.sample(TEAMS, 3)]
        return "\n".join(["| Team | Floor | Lead |", "| --- | --- | --- |", *rows])
    if dice < 0.7:
        return f"Desk: {rng.choice(TEAMS)}\nFloor: {rng.randint(1, 9)}\nLead: {rng.choice(NAMES)} {rng.choice(FAMILIES)}"
    works = rng.sample(("paint the hall", "water the plants", "clean the windows", "buy milk", "order paper"), 3)
    return "\n".join(f"* {work} | Priority: {rng.choice(PRIORITIES)}" for work in works)


def _structured(rng: random.Random) -> str:
    """JSON, tables, lists and a little code."""
    dice = rng.random()
    if dice < 0.35:
        item: dict[str, object] = {
            "order": order(rng), "product": rng.choice(PRODUCTS), "count": rng.randint(1, 99), "city": rng.choice(CITIES),
            "price": amount(rng), "date": f"20{rng.randint(10, 30)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}",
            "name": rng.choice(NAMES), "open": rng.choice((True, False, None)), "tags": rng.sample(MONTHS, 2),
        }  # fmt: skip
        keys = rng.sample(sorted(item), rng.randint(3, 6))
        return json.dumps({key: item[key] for key in keys}, indent=rng.choice((None, None, 2)))
    if dice < 0.55:
        rows = [f"| {rng.choice(PRODUCTS)} | {amount(rng)} | {rng.randint(0, 500)} |" for _ in range(rng.randint(2, 5))]
        return "\n".join(["| Product | Price | Count |", "|---|---|---|", *rows])
    if dice < 0.75:
        rows = [f"{number}. {rng.choice(DAYS)}: **{rng.choice(PRODUCTS)}**, `{order(rng)}`" for number in range(1, 5)]
        return f"## Notes of {date(rng)}\n\n" + "\n".join(rows)
    one, two = rng.randint(0, 99), rng.randint(0, 99)
    return rng.choice((
        f"{one} + {two} = {one + two}", f"def add(a, b):\n    return a + b\n\nprint(add({one}, {two}))  # {one + two}",
        f"https://www.example.com/{rng.choice(PRODUCTS).replace(' ', '-')}?id={one}&page={two}",
        f"{rng.choice(NAMES).lower()}.{rng.choice(FAMILIES).lower()}@example.com; tel. +{rng.randint(10**9, 10**10)}",
    ))  # fmt: skip


def _noise(rng: random.Random) -> str:
    """Printable characters in any order, so that no character's embedding stays untrained."""
    return " ".join("".join(chr(rng.randint(33, 126)) for _ in range(rng.randint(1, 8))) for _ in range(rng.randint(4, 16)))
