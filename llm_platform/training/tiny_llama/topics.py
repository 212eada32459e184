"""What the pre-training prose is about: for each team of the shop, and for hurry and calm, the words that go together.

`things` are noun phrases, `acts` are what somebody did (past tense), `states` are what was the case. The prose tells
stories and explains; it holds no customer's message with its answer.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """The words of one subject."""

    things: tuple[str, ...]
    acts: tuple[str, ...]
    states: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(" ".join(part.split()) for part in text.split(";") if part.strip())


TOPICS: dict[str, Topic] = {
    "Billing": Topic(
        _words("""invoices; the bill; the refund; charges; the credit card; the bank account; payments; the
            receipt; the tax; the discount; the monthly fee; the price; the money; the bank statement; the
            total; bank transfers; payment reminders; a double charge; the amount on the invoice; refunds; a
            charge of {amount}"""),
        _words("""paid the bill; was charged twice; was billed two times; paid {amount} by credit card; got a
            refund; waited for the refund; asked the bank about the charge; looked at the bank statement;
            checked the invoice; refunded the money; sent the invoice again; took the discount off the
            price; paid by bank transfer; found a charge of {amount}; was charged the full price; got the
            money back; paid too much; charged the credit card by mistake; added the tax to the invoice;
            lost the receipt; paid in three parts; printed a receipt for {amount}; sent a payment reminder;
            billed the company; charged the same card again; took {amount} from the account at the bank; was
            refunded {amount}; stopped the monthly payment"""),
        _words("""the invoice was wrong; the total of the bill was too high; the refund came from the bank; the
            payment failed; the payment was refused; the card was charged two times; the tax was on the
            receipt; the amount was {amount}; the fee went up; the money was gone; the discount was
            forgotten; the price on the bill was different; two payments were on the bank statement; the
            charge was a mistake; the credit card was not accepted; the refund of {amount} was paid; the
            bill was paid"""),
    ),
    "Delivery": Topic(
        _words("""parcels; the package; the courier; the driver; the delivery; the tracking number; the shipment;
            the depot; the van; the delivery address; the street; the neighbour; the door; the tracking
            page; the boxes; couriers; late parcels; lost packages; the bell; the way to {city}; the
            delivery van"""),
        _words("""waited for the parcel; brought the package to the door; drove the van to {city}; tracked the
            shipment; lost the package; left the parcel with a neighbour; rang the bell; went to the wrong
            address; looked at the tracking page; shipped the boxes; collected the parcel from the depot;
            delivered the package; picked up the package; stayed at home all day for the delivery; asked
            where the courier was; delivered the box to another street; took the parcel back to the depot;
            followed the shipment on its way; changed the delivery address; found the package in the rain;
            put the parcel at the wrong door; drove from house to house; carried the boxes from the van;
            shipped the parcel to {city}; learned where the package was; waited for the driver"""),
        _words("""the parcel arrived; the courier never came; the package was late; the shipment was stuck in
            {city}; the tracking number was wrong; the box was on its way; the delivery came in the evening;
            the driver could not find the street; the parcel was lost; half of the shipment was missing; the
            van was full of parcels; the package was at the depot; the delivery was promised for {day}; no
            courier came; the tracking did not change; the parcel was delivered to a neighbour; the box
            never arrived"""),
    ),
    "Returns": Topic(
        _words("""returns; the return label; an exchange; the broken {product}; scratches; the return form; the
            wrong {product}; damaged goods; the wrong colour; the wrong size; a crack in the glass; a gift;
            things that do not fit; another colour; the exchange of the {product}; a bigger {product}; a
            smaller one; the damaged {product}; cracked and broken things; one more {product}"""),
        _words("""returned the {product}; sent the {product} back; gave the {product} back; exchanged the
            {product}; swapped the {product} for a {colour} one; printed the return label; wanted another
            {product}; changed her mind about the {product}; took another colour; chose a {colour}
            {product}; did not like the {product} and sent it back; did not want the {product} any more;
            filled in the return form; replaced the broken {product} with a new one; kept the {colour} one;
            returned the gift; found a scratch; brought the {product} back; put the wrong {product} in the
            box; returned the things that did not fit; asked for an exchange; sent back the damaged
            {product}; exchanged the wrong {product}"""),
        _words("""the {product} was broken; the {product} was damaged in the box; the {product} was too small; the
            {product} was too big; the {product} did not fit; the colour was wrong; the {product} came with
            scratches; the glass was cracked; the {product} was scratched; the {product} had to go back; one
            leg was broken off; a {colour} {product} came instead of a {colour} one; the return label was
            missing; the {product} did not suit the room; the wrong {product} was in the box; the {product}
            went back to the shop; the {product} was not the one that they chose"""),
    ),
    "Technical": Topic(
        _words("""the app; the software; the update; the wifi; bluetooth; the battery; the screen; error {n}; the
            error message; the settings; the button; the light; the sensor; the display; crashes of the app;
            the connection; the reset button; the timer; the alarm; a loud noise; software updates; the red
            light"""),
        _words("""opened the app; installed the software; updated the {product}; connected the {product} to the
            wifi; pressed the button; fixed the error; charged the battery; repaired the {product}; switched
            on the {product}; turned off the {product}; started the app; reset the {product}; solved the
            error; set the timer; connected the phone over bluetooth; looked at the black screen; changed
            the settings; stopped the crash; turned the {product} on and off; found an error in the
            software; installed the last update; made the {product} work again; read the error message on
            the display; paired the {product} with the phone"""),
        _words("""the app crashed; the {product} did not turn on; the screen was black; the battery was empty; the
            update stopped at {n} percent; the light was blinking; the {product} was loud and hot; the
            software froze; the wifi connection failed; bluetooth did not work; the display showed an error;
            the {product} would not switch on; the button did nothing; the app was slow; the settings were
            lost; the {product} made a noise; the sensor did not react; the {product} turned off; the app
            gave an error"""),
    ),
    "Account": Topic(
        _words("""the password; the login; the account; the user name; the email address; the profile; login
            codes; the login page; the phone number; the new password; locked accounts; the reset mail; the
            sign in page; the old email address; the name in the profile; two accounts; the code for the
            login; passwords"""),
        _words("""forgot the password; logged in; reset the password; changed the email address; chose a new
            password; signed in with the phone; locked the account; unlocked the account; deleted the
            profile; typed the user name; waited for the login code; closed the account; removed the old
            account; put a new phone number in the profile; could not sign in; got a mail with a login code;
            was locked out; opened the login page; opened the account again; changed the name on the
            profile; made a second account; logged in as a stranger; used the wrong password; tried to log
            in {n} times; lost the login code"""),
        _words("""the password was wrong; the account was locked; the login was refused; the code was not
            accepted; the email address was old; the login code never arrived; a stranger logged in; signing
            in was impossible; the user name was not accepted; the account was blocked after {n} attempts;
            the reset mail did not come; the link in the mail was expired; the system locked the account;
            the profile showed an old name; it was not possible to sign in; someone else used the account;
            the password did not work any more"""),
    ),
    "Sales": Topic(
        _words("""offers; a quote for {n} {product}s; the catalogue; large orders; a good price for companies;
            schools; new {product}s; hotels; an offer for {n} {product}s; a large order; dealers; things in
            stock; the new {product} in the catalogue; questions before a purchase; an order of {n}
            {product}s; quotes; the best {product} for an office; customers who want to buy; discounts for
            large orders"""),
        _words("""asked for a quote; bought {n} {product}s for the office; wanted to buy a {product}; sold {n}
            {product}s; made an offer for {n} {product}s; compared two {product}s before buying one; ordered
            the new catalogue; looked at the catalogue; planned to buy {n} {product}s; was interested in a
            new {product}; asked if the {product} was in stock; got a good offer; decided to buy the
            {product}; opened a hotel; needed {n} {product}s for a school; was looking for a {product} for a
            company; became a dealer; had a question before buying; was not sure which {product} to buy;
            talked about a large order; may buy {n} new {product}s; chose the best {product} to buy; asked
            about the price before the purchase"""),
        _words("""the {product} was in stock; the {product} was sold out; the offer was good; the company needed
            {n} {product}s; the quote was ready; the new {product} was on sale; the school wanted {n}
            {product}s; the catalogue was new; the office was looking for {n} {product}s; there was no price
            in the catalogue; the large order was a success; the hotel was interested in an offer; there was
            a discount for schools; buying was a good idea"""),
    ),
}

# No word of hurry is also a word of calm ("no hurry" would be), so that a single word tells them apart.
HURRY = Topic(
    things=(),
    acts=_words(""" at once; immediately; in a great hurry; as quickly as possible; right now; urgently; quickly;
            because it was urgent; before it was too late; by tonight; within {n} hours; as soon as
            possible; today"""),
    states=_words("""it was urgent; there was a great hurry; an answer was needed at once; help was needed right now;
            it had to be done immediately; tomorrow was too late; it was an emergency; it had to be solved
            today; everyone was in a hurry; it had to be fixed by tonight; every hour counted; it was very
            urgent and they were quick; it was needed as soon as possible; they acted quickly; it must be
            done today; it was a real emergency; it had to be ready before tomorrow; it was needed within
            {n} hours; somebody called for help at once; they needed a solution immediately; they asked for
            help today; they needed it right now; it was urgent today"""),
)
CALM = Topic(
    things=(),
    acts=_words(""" next week; one fine day; calmly; in peace; some time later; next month; on a quiet day; slowly;
            in a free moment; step by step; as always; with plenty of time"""),
    states=_words("""there was plenty of time; next week was early enough; next month was fine; any time was fine;
            they took their time; it was a small thing; it was a quiet day; a free moment was enough; a few
            weeks were fine; they were calm; it was a slow week; they had all the time in the world; it was
            a day like any other; they did it step by step; nothing was said about time; it was a calm
            month; they had time for a coffee"""),
)
