"""The phrasings of the demo tickets. `TRAIN` and `HELD_OUT` share no phrase; they share what a ticket can be about.

What a message is about (`MATTERS`) decides which team it belongs to; how it is said (opening, frame, context, closing)
decides nothing. A model that learned the task reads the matter in a frame that it has never seen.
"""

from dataclasses import dataclass

MATTERS: dict[str, tuple[str, ...]] = {
    "Billing": (
        "the invoice", "my bill", "the charge on my card", "the payment of {amount}", "the amount on my invoice",
        "the price that I was charged", "my credit card payment", "the receipt", "the invoice for the {product}",
        "a charge of {amount}", "the bill from {month}", "the tax on my bill",
    ),
    "Delivery": (
        "my parcel", "the delivery", "the courier", "the tracking number", "the shipment", "the delivery date",
        "the package", "the driver of the van", "the delivery of the {product}", "the parcel with the {product}",
        "my delivery address in {city}", "the package for {city}",
    ),
    "Returns": (
        "a refund", "the return label", "sending back the {product}", "the exchange of the {product}", "my money back",
        "the return of the {product}", "the refund for the {product}", "returning the {product}", "the return form",
        "exchanging the {product} for a {colour} one", "my return from {day}", "the refund of {amount}",
    ),
    "Technical": (
        "the screen of the {device}", "the app", "the battery of the {device}", "an error message", "the bluetooth connection",
        "the power button of the {device}", "the update of the {device}", "the software of the {device}", "error {n}",
        "the noise that the {device} makes", "the light on the {device}", "the manual of the {device}",
    ),
    "Account": (
        "my password", "my login", "my account", "the email address of my account", "my user name",
        "the code for my login", "my profile", "resetting my password", "deleting my account", "my new password",
        "the name on my account", "the security code",
    ),
    "Sales": (
        "a discount on the {product}", "the stock of the {product}", "a large order of {n} lamps", "an offer for our office",
        "the catalogue", "the price list", "a quote for {n} chairs", "the next sale", "the colours of the {product}",
        "buying {n} of the {product}", "the warranty before I buy", "your cheapest {product}",
    ),
}  # fmt: skip
"""What a message can be about, by the team that it belongs to."""


@dataclass(frozen=True)
class Phrases:
    """How one side of the data says it. `{m}` and `{M}` stand for the matter; `contexts` may be empty text."""

    openings: tuple[str, ...]
    frames: tuple[str, ...]
    contexts: tuple[str, ...]
    closings: tuple[str, ...]

    def templates(self) -> set[str]:
        """Every phrase of this side, to show that two sides are disjoint."""
        return {phrase for group in (self.openings, self.frames, self.contexts, self.closings) for phrase in group if phrase}


TRAIN = Phrases(
    openings=(
        "Hello,", "Hi,", "Hi there,", "Good morning,", "Dear team,", "Dear Fernhill,", "Good afternoon,", "Hey,",
        "Hello, my name is {name}.", "Hi, this is {name} {family}.", "", "",
    ),
    frames=(
        "I have a question about {m}.", "There is a problem with {m}.", "Could you help me with {m}?", "I am writing about {m}.",
        "Please look at {m}.", "I do not understand what is going on with {m}.", "My question is about {m}.",
        "Can you tell me more about {m}?", "Something is wrong with {m}.", "I need help with {m}.",
        "We have been waiting for news about {m} since {day}.", "Nobody answers when I ask about {m}.",
        "{M} is the reason why I write.", "I called on {day} about {m}.", "It is about {m} again.", "Please explain {m} to me.",
        "I would like to talk about {m}.", "Who takes care of {m}?", "{M}: what do I have to do?", "I want to complain about {m}.",
        "My wife asked me to write about {m}.", "For {n} days I have had trouble with {m}.", "How does it work with {m}?",
        "{M} is not as it should be.", "Let us talk about {m}, please.", "The trouble is {m}.",
    ),
    contexts=(
        "I bought a {product} on {date}.", "My order number is {order}.", "I have been a customer for {n} months.",
        "I use the {product} every day.", "I live in {city}.", "My sister told me about your shop.", "", "", "", "",
    ),
    closings=(
        "Thank you!", "Thanks, {name}", "Best regards, {name} {family}", "Kind regards, {name}", "Please answer soon.",
        "Thanks for your help.", "", "",
    ),
)  # fmt: skip

HELD_OUT = Phrases(
    openings=("Good evening,", "Hi everyone,", "Dear Sir or Madam,", "{name} here."),
    frames=(
        "What happened to {m}?", "Since {day} I am trying to find out about {m}.", "Your colleague promised to check {m}.",
        "I hope that somebody can sort out {m}.", "Would you be so kind and see to {m}?", "{M} gives me a headache.",
        "Is there any news on {m}?", "I am not happy about {m} at all.",
    ),
    contexts=("The {product} was a present.", "I live next to your shop.", "", ""),
    closings=("Many thanks in advance.", "Bye, {name}", "With best wishes, {name}", "I look forward to your answer."),
)  # fmt: skip
