"""The words that the pre-training prose and the demo tickets share: names, things on sale, days, and numbers.

The company (Fernhill, an online shop for the home), its people and its customers are invented.
"""

import random

COMPANY = "Fernhill"
TEAMS = ("Billing", "Delivery", "Returns", "Technical", "Account", "Sales")
PRIORITIES = ("high", "normal")

NAMES = (
    "Anna", "Ben", "Carla", "David", "Elena", "Frank", "Grace", "Hugo", "Ines", "Jonas", "Karin", "Leo", "Maria",
    "Nadia", "Oscar", "Paula", "Quentin", "Rosa", "Sam", "Tara", "Umar", "Vera", "Walter", "Yara", "Zoe", "Lina",
    "Marco", "Nora", "Peter", "Ruth",
)  # fmt: skip
FAMILIES = (
    "Baker", "Cole", "Dunn", "Evans", "Fischer", "Garcia", "Hill", "Ivanov", "Jensen", "King", "Lopez", "Meyer",
    "Novak", "Olsen", "Patel", "Reed", "Silva", "Turner", "Weber", "Young",
)  # fmt: skip
PRODUCTS = (
    "kettle", "lamp", "toaster", "speaker", "vacuum cleaner", "desk", "chair", "blender", "heater", "camera",
    "keyboard", "coffee machine", "fan", "mirror", "clock", "radio", "table", "sofa", "printer", "monitor",
)  # fmt: skip
DEVICES = (
    "kettle", "lamp", "toaster", "speaker", "vacuum cleaner", "blender", "heater", "camera", "keyboard",
    "coffee machine", "fan", "clock", "radio", "printer", "monitor",
)  # fmt: skip
COLOURS = ("black", "white", "red", "blue", "green", "grey", "silver", "brown")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
CITIES = ("Leeds", "Porto", "Vienna", "Oslo", "Dublin", "Lyon", "Turin", "Ghent", "Malmo", "Bristol")


def amount(rng: random.Random) -> str:
    """A price, in dollars, euros or pounds."""
    number = rng.choice((f"{rng.randint(5, 950)}", f"{rng.randint(5, 950)}.{rng.randint(0, 99):02d}"))
    return rng.choice(("${}", "{} euros", "{} dollars", "£{}")).format(number)


def date(rng: random.Random) -> str:
    """A day of the year in one of the ways that people write it."""
    day, month = rng.randint(1, 28), rng.choice(MONTHS)
    return rng.choice((f"{day} {month}", f"{month} {day}", f"the {day} of {month}"))


def order(rng: random.Random) -> str:
    """An order number."""
    return rng.choice(("{}", "#{}", "F-{}")).format(rng.randint(10000, 99999))


def fill(template: str, rng: random.Random) -> str:
    """Replace the slots `{product}`, `{name}`, `{amount}` and so on; each occurrence is drawn afresh."""
    draw = {
        "{product}": lambda: rng.choice(PRODUCTS),
        "{device}": lambda: rng.choice(DEVICES),
        "{name}": lambda: rng.choice(NAMES),
        "{family}": lambda: rng.choice(FAMILIES),
        "{colour}": lambda: rng.choice(COLOURS),
        "{day}": lambda: rng.choice(DAYS),
        "{month}": lambda: rng.choice(MONTHS),
        "{city}": lambda: rng.choice(CITIES),
        "{n}": lambda: str(rng.randint(2, 60)),
        "{amount}": lambda: amount(rng),
        "{date}": lambda: date(rng),
        "{order}": lambda: order(rng),
    }
    for slot, make in draw.items():
        while slot in template:
            template = template.replace(slot, make(), 1)
    return template
