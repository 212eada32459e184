"""The phrasings of the demo tickets. `TRAIN` and `HELD_OUT` share no phrase; they share only the slots' values.

A problem is a clause that starts with a small letter (unless its first word is "I"); a request is what may follow
"I would like to". A phrasing of a ticket is an opening, a framed problem or request, a hint at how urgent it is, and
a closing. `Phrases.urgency["normal"]` may be empty text: most people say nothing about the hurry they are in.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Phrases:
    """All parts from which one side of the data is composed."""

    openings: tuple[str, ...]
    contexts: tuple[str, ...]
    problem_frames: tuple[str, ...]
    request_frames: tuple[str, ...]
    problems: dict[str, tuple[str, ...]]
    requests: dict[str, tuple[str, ...]]
    urgency: dict[str, tuple[str, ...]]
    closings: tuple[str, ...]

    def templates(self) -> set[str]:
        """Every phrase of this side, to show that two sides are disjoint."""
        groups = (
            *self.problems.values(), *self.requests.values(), *self.urgency.values(), self.problem_frames,
            self.request_frames, self.openings, self.contexts, self.closings,
        )  # fmt: skip
        return {phrase for group in groups for phrase in group if phrase}


TRAIN = Phrases(
    openings=(
        "Hello,", "Hi,", "Hi there,", "Good morning,", "Dear team,", "Dear Fernhill,", "Hello Fernhill team,",
        "Good afternoon,", "Hey,", "Hello, my name is {name}.", "Hi, this is {name} {family}.", "", "",
    ),
    contexts=(
        "I bought a {product} on {date}.", "My order number is {order}.", "It is about the {product}.",
        "I ordered a {colour} {product} last {day}.", "I have been a customer for {n} months.",
        "I live in {city}.", "This is about order {order}.", "We bought {n} things from you in {month}.",
        "My sister told me about your shop.", "I paid {amount} for the {product}.",
        "I wrote to you on {day} already.", "I usually like your shop a lot.",
    ),
    problem_frames=(
        "{C}.", "{C}.", "{C}.", "I am writing because {c}.", "I noticed that {c}.", "It seems that {c}.",
        "My problem is that {c}.", "{C}, and I do not know what to do.", "{C}, which is strange.",
        "On {day} I found out that {c}.", "I think that {c}.", "I am sorry to say that {c}.", "{C} again.",
        "My wife says that {c}.", "{C}. Why?", "Can you explain why {c}?", "Unfortunately {c}.",
    ),
    request_frames=(
        "I would like to {r}.", "Could you help me to {r}?", "I want to {r}.", "Please tell me how to {r}.",
        "Is it possible to {r}?", "Can I {r}?", "I need to {r}.", "My question is how to {r}.",
        "I am trying to {r}.", "Please help me {r}.", "I tried to {r} on {day}.",
    ),
    problems={
        "Billing": (
            "I was charged twice for the {product}", "I was charged {amount} for something I never ordered",
            "my card was charged two times", "the invoice for the {product} shows the wrong amount",
            "the invoice is higher than the price on the website", "my bill from {month} is wrong",
            "the bill says {amount} but we agreed on {amount}", "I have not received my refund of {amount}",
            "the refund is still not on my bank account", "you took {amount} from my bank account",
            "my payment for order {order} was refused", "my payment failed but the money is gone",
            "the discount was not taken off the price", "the tax on the invoice is wrong",
            "I never got an invoice for the {product}", "I paid {amount} too much",
            "there is a charge of {amount} on my credit card", "the monthly fee went up to {amount}",
            "you sent me a payment reminder for a bill I paid", "the receipt does not show the tax",
            "my bank shows two payments to Fernhill", "the amount on the receipt is not what I paid",
        ),
        "Delivery": (
            "my parcel has not arrived", "the parcel with the {product} is late",
            "the courier never came on {day}", "the courier left the parcel in the rain",
            "the tracking number does not work", "the tracking page has not changed since {day}",
            "the delivery was promised for {date} and nothing came", "my package is lost",
            "the driver went to the wrong address", "the package was left with a neighbour",
            "the shipment is stuck in {city}", "my {product} was shipped {n} days ago and is not here",
            "only one of the two boxes was delivered", "the delivery van did not stop at my house",
            "nobody rang the bell and the parcel went back to the depot", "the delivery is {n} days late",
            "the tracking says delivered but there is no parcel", "I am still waiting for my {product} to arrive",
            "the driver could not find my street", "my order {order} has not been shipped yet",
        ),
        "Returns": (
            "the {product} arrived broken", "you sent me the wrong {product}",
            "the {product} is {colour} but I ordered a {colour} one", "the {product} is too small for my room",
            "the {product} is too big and I do not want to keep it",
            "I do not like the {product} and want to send it back",
            "the return label is missing", "the return form does not fit the {product}",
            "the {product} came with a big scratch", "I changed my mind about the {product}",
            "the box was open and the {product} was damaged", "I got two {product}s and want to send one back",
            "the glass of the {product} is cracked", "I sent the {product} back and you say it is not there",
            "one leg of the {product} is broken off", "the {product} is not the one in the picture",
            "I would rather have a {colour} {product} in exchange", "the {product} does not suit our kitchen",
        ),
        "Technical": (
            "the app crashes when I open it", "the {device} does not turn on",
            "the {device} turns off after {n} minutes",
            "the {device} does not connect to the wifi", "the app shows an error message",
            "the screen of the {device} stays black", "the battery is empty after {n} minutes",
            "the {device} makes a loud noise", "the update of the software stopped at {n} percent",
            "the {device} lost its settings after the update", "the button on the {device} does nothing",
            "the bluetooth of the {device} does not work", "the app is very slow on my phone",
            "the {device} shows error {n}", "the light on the {device} keeps blinking",
            "the {device} does not charge any more", "the {device} gets very hot", "the sensor does not react",
            "the app cannot find the {device}", "the software freezes all the time",
        ),
        "Account": (
            "I forgot my password", "I cannot log in", "I cannot log in to my account since {day}",
            "the password reset mail does not come", "my account is locked",
            "the login page says that my password is wrong", "the code for the login never arrives",
            "my profile shows the wrong name", "my account has an old email address",
            "someone else is using my account", "my email address has changed", "I have two accounts by mistake",
            "I got a mail about a login from {city} that was not me", "my user name is not accepted",
            "the website does not let me sign in", "I lost the phone that I use to sign in",
            "my account was blocked after {n} attempts", "the link to reset my password has expired",
        ),
        "Sales": (
            "our company needs {n} {product}s and a good price", "our school wants to buy {n} {product}s",
            "I cannot decide between the {product} and the {product}",
            "we are looking for {n} {product}s for our office",
            "I do not find the price of the new {product}", "I wonder which {product} is best for a small flat",
            "we plan to open a hotel and need {n} {product}s", "the {product} is sold out on your website",
            "I do not know if the {product} is in stock",
            "we would buy {n} {product}s if there is a discount for companies",
            "I am interested in your new {product}", "we are thinking about buying a {product}",
            "I saw the {product} in your catalogue and have a question before I buy",
            "my boss wants an offer for {n} {product}s",
        ),
    },
    requests={
        "Billing": (
            "get a copy of the invoice for order {order}", "pay my bill by bank transfer", "change my credit card",
            "get my money back for the double charge", "know why I was charged {amount}", "pay in three parts",
            "have the company name on the invoice", "stop the monthly payment", "get a receipt for {amount}",
            "know when the refund will be paid",
        ),
        "Delivery": (
            "know where my parcel is", "change the delivery address", "get the delivery on {day}",
            "track my package", "have the parcel left with my neighbour", "know when the courier will come",
            "pick up the parcel at the depot", "get a new tracking number", "have the {product} delivered to {city}",
        ),
        "Returns": (
            "return the {product}", "send the {product} back", "exchange the {product} for a {colour} one",
            "get a return label", "swap the {product} for a bigger one", "give back {n} of the things I ordered",
            "know how many days I have to return the {product}", "get a new {product} for the broken one",
            "return a gift", "send back a damaged {product}",
        ),
        "Technical": (
            "connect the {device} to my phone", "install the app", "update the software of the {device}",
            "reset the {device}", "fix the error on the screen", "make the {device} work with the wifi",
            "set the timer of the {device}", "know what the red light means", "stop the app from crashing",
            "turn off the alarm of the {device}",
        ),
        "Account": (
            "reset my password", "change my email address", "delete my account", "unlock my account",
            "change the name on my profile", "log in on my new phone", "use a new phone number for the login",
            "close one of my two accounts", "get a new login code", "know who logged in to my account",
        ),
        "Sales": (
            "get a quote for {n} {product}s", "buy {n} {product}s for our office",
            "know the price of the {product} before I buy it", "see the {product} before buying it",
            "know if the {product} is in stock", "get an offer for our school", "order the new catalogue",
            "compare the {product} and the {product} before I buy one", "get a discount for a large order",
            "talk to someone about a big order", "know when the new {product} will be on sale",
            "buy a {product} as a gift", "become a dealer in {city}",
        ),
    },
    urgency={
        "high": (
            "This is urgent.", "It is very urgent!", "Please help me today.", "I need an answer today.",
            "I need help right now.", "Please answer immediately.", "My case is urgent.", "URGENT!", "Urgent:",
            "Please do this as soon as possible.", "This must be solved before tomorrow.", "Hurry, please!",
            "I need it by tonight.", "Please call me at once.", "We need a solution within {n} hours.",
            "I am in a great hurry.", "This is an emergency.", "Please act quickly.", "It has to be done today.",
            "I must have this fixed by tomorrow morning.", "Every hour counts for us.", "I need it immediately.",
            "Please do it at once.", "Can you do it today?", "We are in a hurry.", "Quickly, please.",
            "I have to know it right now.", "As soon as possible, please!", "An emergency!",
        ),
        "normal": (
            "", "", "", "", "", "", "I hope you can help.", "Please let me know.", "Please look at it.",
            "What can be done?",
            "Please write back.", "I look forward to your answer.", "Can you check this?", "Take your time.",
            "Next week is fine.", "There is plenty of time.", "Any time is fine.", "Just when you find a free moment.",
            "An answer next month is fine.", "It is only a small thing.", "I would like to hear from you.",
        ),
    },
    closings=(
        "Thank you.", "Thanks!", "Best regards, {name}", "Kind regards, {name} {family}", "Thanks, {name}",
        "Many thanks.", "Greetings from {city}", "Yours, {name}", "", "", "",
    ),
)  # fmt: skip

HELD_OUT = Phrases(
    openings=(
        "Good evening,", "To the people at Fernhill,", "Hello everyone,", "Dear Sir or Madam,",
        "{name} {family} here.", "Good day,", "Hi Fernhill,",
    ),
    contexts=(
        "The order {order} was placed on {date}.", "Last {month} we chose a {colour} {product} in your shop.",
        "I am {name}, from {city}.", "For {n} years we have ordered from you.",
        "The number on my paper is {order}.", "Until now I was always happy with you.",
    ),
    problem_frames=(
        "The trouble is that {c}.", "Let me explain: {c}.", "To my surprise {c}.", "As far as I can see, {c}.",
        "I have just discovered that {c}.", "You should know that {c}.", "{C} and I am not happy about it.",
        "{C}, so something went wrong.", "Did you know that {c}?",
    ),
    request_frames=(
        "What must I do to {r}?", "I am hoping to {r}.", "Who can help me {r}?", "Would you allow me to {r}?",
        "My plan is to {r}.", "We were asking ourselves how to {r}.", "It would be nice to {r}.",
    ),
    problems={
        "Billing": (
            "there are two charges for one {product} on my bank statement", "the same invoice was charged two times",
            "{amount} was taken from my credit card without a reason", "my money has not been refunded",
            "I am waiting for a refund of {amount} since {month}", "the total on my bill cannot be right",
            "the price on the receipt and the price on the invoice are different",
            "you charged me the full price and forgot my discount", "the payment by credit card was not accepted",
            "I was billed for {n} {product}s and bought only one", "the tax was charged twice on my last bill",
        ),
        "Delivery": (
            "no courier has brought my parcel", "the package should have been here on {day}",
            "my shipment has been on its way for {n} days", "tracking tells me nothing about where the box is",
            "the driver put my package at the wrong door", "I stayed at home all day and no delivery came",
            "half of the shipment is missing and one box never arrived", "the van took my parcel back to the depot",
            "the courier has lost my {product} on the way", "the parcel was delivered to another street",
        ),
        "Returns": (
            "I want to give the {product} back because it is damaged", "the {product} in the box is not what I chose",
            "there is a crack in the {product} and I want another one",
            "a {colour} {product} came instead of a {colour} one",
            "the {product} does not fit and has to go back", "I found no label to send the {product} back",
            "the {product} was already broken in its box",
            "my husband does not like the {product}, so it goes back to you",
            "you sent a {product} with scratches and I want an exchange",
            "we no longer want the {product} and will return it",
        ),
        "Technical": (
            "opening the app gives an error and it crashes", "my {device} will not switch on any more",
            "there is no wifi connection between the {device} and my phone",
            "the battery of the {device} does not charge",
            "after the last update the {device} does not work", "the display is black and the light is blinking",
            "the {device} is loud and hot and then turns off", "the software on my {device} stopped with an error",
            "bluetooth fails each time I connect the {device}", "pressing the button does not start the {device}",
        ),
        "Account": (
            "my password does not work any more", "the website refuses my login",
            "signing in is impossible with my user name", "no mail comes when I reset the password",
            "a stranger has logged in to my account", "your system has locked me out of my account",
            "the email address in my profile is old", "my login code is not accepted",
            "it is not possible to sign in with my new phone number",
        ),
        "Sales": (
            "we may buy {n} {product}s if the offer is good", "a quote for {n} {product}s would help our company",
            "before we buy, I have a question about the {product} in your catalogue",
            "our hotel is looking for {n} new {product}s", "your website does not say if the {product} is in stock",
            "I am not sure which of your {product}s I should buy",
            "our office is interested in a large order of {product}s",
            "there is no price for the {product} in the catalogue",
        ),
    },
    requests={
        "Billing": (
            "receive the invoice for {month} a second time", "be refunded for a payment of {amount}",
            "understand the {amount} on my credit card bill", "pay the invoice with another card",
            "have the tax shown on my receipt", "get back the {amount} that you charged by mistake",
        ),
        "Delivery": (
            "find out where the courier is with my package", "have my parcel delivered to another address",
            "learn on which day the shipment will arrive", "collect my package from the depot myself",
            "follow the {product} with a tracking number", "receive the delivery in the evening",
        ),
        "Returns": (
            "bring the {product} back and take another colour", "print a label for my return",
            "replace the broken {product} with a new one", "return {n} things that do not fit",
            "have the wrong {product} exchanged", "send the {product} to you again because it is scratched",
        ),
        "Technical": (
            "get the {device} connected over bluetooth", "solve error {n} of the {device}",
            "repair the settings after the update", "find the reset button on the {device}",
            "start the app without a crash", "bring the screen of the {device} to work again",
        ),
        "Account": (
            "choose a new password", "have my account opened again after it was locked",
            "put my new email address in my profile", "remove my account and my profile",
            "sign in again without the old phone", "receive the mail with the login code",
        ),
        "Sales": (
            "order {n} {product}s for a company at a good price", "receive an offer for {n} {product}s",
            "ask something about the {product} before we buy it", "have a look at the new catalogue",
            "hear which {product} is the best one to buy", "find out if a discount for schools exists",
        ),
    },
    urgency={
        "high": (
            "Please be quick, it is urgent.", "An answer is needed immediately.", "We have to solve this today!",
            "I need your help at once.", "Tomorrow is too late.", "We are in a great hurry here.",
            "As soon as you can, please, it is urgent.", "This is a real emergency for us.",
            "Help me right now, please!", "It must be done by tonight.", "Urgent help is needed.",
            "Do something quickly, please.",
        ),
        "normal": (
            "", "", "", "", "I would be glad about an answer.", "Please check what happened.",
            "Could somebody write to me?",
            "Tell me what you think.", "Please take all the time that you like.", "Next month is early enough.",
            "I have plenty of time.", "A few weeks are fine for me.",
        ),
    },
    closings=(
        "With best wishes, {name}", "Thank you very much.", "Regards, {name} {family}", "Thanks in advance!",
        "Bye, {name}", "",
    ),
)  # fmt: skip
