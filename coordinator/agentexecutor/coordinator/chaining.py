"""Planning without a model: capabilities chained by their schemas, from what a goal asks for back to what its input has (docs/protocol.md section 11).

A goal names what is wanted: a property of what some capability gives, the title of what it gives, or the capability itself. A capability needs a value
for each of its required parameters: of that name in the goal's input, or else of what another gives. Of all ways the cheapest is taken, and it goes
around what has failed. Work of the present plan that is done or under way is there for nothing. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Raw

from agentexecutor.coordinator.briefing import Briefing, OfferLine
from agentexecutor.coordinator.cheapest import Need, Step, Way, cheapest, reachable
from agentexecutor.coordinator.errors import Unplannable
from agentexecutor.coordinator.sources import Source, Taker, cost_of, of_capability, of_subtask
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.errors import PlanRefused
from agentexecutor.schemas.plans import dependencies
from agentexecutor.schemas.references import compose, encode_input

__all__ = ["FAILURE", "next_plan"]

FAILURE = 1_000_000.0
"""What a failure adds to the cost of its capability: any other way is cheaper, so it is taken only when there is no other."""

_OUT = ("failed", "cancelled")
_DONE = ("completed", "skipped")
_TAKEN = ("lost", "late")
_TROUBLE = (*_TAKEN, "unserved")
_SHOWN = 20
_NAME_ROOM = 58
_QUOTED = re.compile(r"'([\w.-]+)'", re.ASCII)


def next_plan(told: Briefing) -> r.Revision:
    """The answer to a planner's input. Raises Unplannable."""
    offers = {offer.name: offer for offer in sorted(told.offers, key=lambda offer: offer.name)}
    goal = (told.goal or "").strip()
    stock = _Stock(told, offers)
    if goal:
        return _Chain(told, offers, stock, goal).answer()
    if not (again := [*stock.again, *stock.taken]):
        raise _unplannable(
            "The task has no goal to plan for: submit it with one, or let another planner, or another answer than `plan`, repair it.",
            [],
            offers,
        )
    return r.Revision(again=again, finish=True, text=f"{', '.join(again)} again: there is no goal to plan another way to.")


def _unplannable(text: str, missing: list[str], offers: Sequence[str] | dict[str, OfferLine]) -> Unplannable:
    names = list(offers)
    more = ", ..." if len(names) > _SHOWN else ""
    hint = f"On offer are {', '.join(names[:_SHOWN])}{more}." if names else "Nothing is on offer."
    return Unplannable(text, hint=hint, missing=missing, offered=names)


class _Stock:
    """The present plan: which of its subtasks can be used.

    `again`: they are to run again, somebody wants it. `taken`: they were taken from an agent that was late or lost. `out`: they have failed or were
    rejected. `trouble`: they, or what they wait for, are late, lost or not served; better without them. `broken`: those that are out, whose input has
    changed since, and all that needs one of them.
    """

    def __init__(self, told: Briefing, offers: dict[str, OfferLine]) -> None:
        self.plan = told.plan.subtasks
        self.input, changed = _input_of(told)
        self.takers = {name: Taker(offer, self.input) for name, offer in offers.items()}
        self.needs = {
            name: dependencies(m.SubtaskSpec(capability=planned.capability, input=planned.input, after=planned.after))
            for name, planned in self.plan.items()
        }
        about = [(why.trigger, why.subtask or told.plan.result) for why in told.why]
        self.again = [name for name in self.plan if ("revise", name) in about]
        self.taken = [
            name for name in self.plan if self.plan[name].state not in _DONE and any((trigger, name) in about for trigger in _TAKEN)
        ]
        self.troubled = [name for name in self.plan if any((trigger, name) in about for trigger in _TROUBLE)]
        self.out = [
            name
            for name, planned in self.plan.items()
            if ("reject", name) in about or (planned.state in _OUT and name not in self.again and name not in self.troubled)
        ]
        self.trouble = self._with_dependents([name for name in self.troubled if self.plan[name].state not in _DONE])
        self.broken = self._with_dependents([*self.out, *(name for name in self.plan if self._is_stale(name, changed))])
        usable = [name for name, planned in self.plan.items() if name not in self.broken and planned.state != "skipped"]
        self.sources = [self._source(name, offers) for name in sorted(usable)]

    def _with_dependents(self, first: Sequence[str]) -> list[str]:
        found = dict.fromkeys(first)
        grows = True
        while grows:
            more = [name for name in self.plan if name not in found and any(other in found for other in self.needs[name])]
            found.update(dict.fromkeys(more))
            grows = bool(more)
        return [name for name in self.plan if name in found]

    def _is_stale(self, name: str, changed: list[str]) -> bool:
        """Whether feedback has changed a value that it works with, or has one that it would be given now."""
        planned = self.plan[name]
        taker = self.takers.get(planned.capability)
        had = _decoded_object(planned.input)
        return any(had[key] != _on_wire(self.input[key]) if key in had else taker is not None and key in taker.literal for key in changed)

    def _source(self, name: str, offers: dict[str, OfferLine]) -> Source:
        planned = self.plan[name]
        offer = offers.get(planned.capability)
        if planned.state == "completed" and planned.result is not UNSET and name not in self.again:
            return of_subtask(planned.capability, offer, name, planned.result)
        return of_capability(planned.capability, offer, name)

    def has_tried(self, name: str, capability: str, input: Raw, new: Sequence[str]) -> bool:
        """Whether this subtask was the same work; what refers to a `new` one is not."""
        planned = self.plan[name]
        same = planned.capability == capability and _decoded_object(planned.input) == _decoded_object(input)
        return same and not any(other in new for other in self.needs[name])


class _Chain:
    """The search for the cheapest way, and the answer that it makes."""

    def __init__(self, told: Briefing, offers: dict[str, OfferLine], stock: _Stock, goal: str) -> None:
        self.offers = offers
        self.stock = stock
        self.sources = [*stock.sources, *(of_capability(name, offer) for name, offer in offers.items())]
        self.blamed = [name for text in told.errors for name in _QUOTED.findall(text)]
        """What the errors speak of: capabilities and subtasks that could not be used."""
        self.words = _words(goal, self.sources)
        self.wanted = [[place for place, source in enumerate(self.sources) if source.answers(word)] for word in self.words]
        self.steps = [self._step(source) for source in self.sources]

    def answer(self) -> r.Revision:
        """The next version of the plan. Raises Unplannable."""
        way = self._solve(frozenset())
        stock, names = self.stock, self._names(way)
        used = [names[place] for place in way.uses if not self._is_new(place)]
        kept = self._with_what_they_need(used)
        add = {
            names[place]: m.SubtaskSpec(capability=self.sources[place].capability, input=self._input(place, way, names))
            for place in way.uses
            if self._is_new(place)
        }
        givers = list(dict.fromkeys(names[place] for place in way.wanted))
        result = givers[0] if len(givers) == 1 else None
        stays = [*add, *kept, *self._may_stay(result)]
        remove = [name for name in stock.plan if name not in stays]
        anew = [*stock.again, *(name for name in kept if stock.plan[name].state in _OUT)]
        again = [name for name in dict.fromkeys(anew) if name not in add and name not in remove]
        text = self._text(add, used, again)
        return r.Revision(add=add, again=again, remove=remove, result=result, finish=True, text=text)

    # the search

    def _step(self, source: Source) -> Step:
        name = source.capability
        if source.subtask is not None:
            return Step(source.subtask, FAILURE if source.subtask in self.stock.trouble else 0.0)
        plan = self.stock.plan
        failures = [other for other in (*self.stock.out, *self.stock.troubled) if plan[other].capability == name]
        taker = self.stock.takers[name]
        needs = [[place for place, giver in enumerate(self.sources) if taker.suits(what, giver.given(what))] for what in taker.missing]
        return Step(name, cost_of(self.offers[name]) + (len(failures) + self.blamed.count(name)) * FAILURE, needs)

    def _solve(self, left_out: frozenset[tuple[str, str]]) -> Way:
        """The cheapest way that is not only what has failed, over again. `left_out`: who does not take from whom. Raises Unplannable."""
        steps = [self._without(step, source, left_out) for step, source in zip(self.steps, self.sources, strict=True)]
        way = cheapest(steps, self.wanted)
        if way is None:
            raise self._unreachable()
        failed, place = self._repeated(way)
        if failed is None:
            return way
        others: list[Way] = []
        for giver in dict.fromkeys(way.uses[place]):
            try:
                others.append(self._solve(left_out | {(self.sources[place].capability, self.sources[giver].capability)}))
            except Unplannable:
                continue
        if not others:
            raise self._only_way(failed)
        return min(others, key=lambda way: way.cost)

    def _without(self, step: Step, source: Source, left_out: frozenset[tuple[str, str]]) -> Step:
        if not left_out:
            return step
        takes = source.capability
        needs = [[giver for giver in need if (takes, self.sources[giver].capability) not in left_out] for need in step.needs]
        return Step(step.name, step.cost, needs)

    def _repeated(self, way: Way) -> tuple[str | None, int]:
        """A subtask that has failed, with the step that would be the very same again."""
        names = self._names(way)
        new = [place for place in way.uses if self._is_new(place)]
        for place in new:
            input = self._input(place, way, names)
            for failed in self.stock.out:
                if self.stock.has_tried(failed, self.sources[place].capability, input, [names[other] for other in new]):
                    return failed, place
        return None, -1

    # the answer

    def _is_new(self, place: int) -> bool:
        return self.sources[place].subtask is None

    def _input(self, place: int, way: Way, names: dict[int, str]) -> Raw:
        taker = self.stock.takers[self.sources[place].capability]
        givers = zip(taker.missing, way.uses[place], strict=True)
        return encode_input({**taker.literal, **{what: self.sources[giver].reference(names[giver], what) for what, giver in givers}})

    def _names(self, way: Way) -> dict[int, str]:
        """The subtasks' names. A new one takes the name of what it replaces, so that this is superseded."""
        stock = self.stock
        names = {place: subtask for place in way.uses if (subtask := self.sources[place].subtask) is not None}
        free = [name for name in stock.plan if (name in stock.broken or name in stock.trouble) and name not in names.values()]

        def replace(fits: Callable[[Source, str], bool]) -> None:
            for place in way.uses:
                name = next((name for name in free if place not in names and fits(self.sources[place], name)), None)
                if name is not None:
                    names[place] = name
                    free.remove(name)

        replace(lambda source, name: stock.plan[name].capability == source.capability)
        replace(lambda source, name: (name in stock.out or name in stock.troubled) and self._stands_for(source, name))
        taken = [*stock.plan, *self.blamed]
        for place in way.uses:
            if place not in names:
                names[place] = _fresh(self.sources[place].capability, taken)
                taken.append(names[place])
        return names

    def _stands_for(self, source: Source, name: str) -> bool:
        """Whether it gives something that the subtask was to give."""
        capability = self.stock.plan[name].capability
        was = of_capability(capability, self.offers.get(capability))
        parts = any(source.given(part) is not None for part in was.parts)
        return parts or any(source.answers(word) and was.answers(word) for word in self.words) or capability not in self.offers

    def _with_what_they_need(self, names: Sequence[str]) -> list[str]:
        found: dict[str, None] = {}
        rest = [*names]
        while rest:
            name = rest.pop()
            if name not in found and name in self.stock.plan:
                found[name] = None
                rest += self.stock.needs[name]
        return list(found)

    def _may_stay(self, result: str | None) -> list[str]:
        """What is done may be of use later. Without one result all that nothing else needs would be the task's result, so it may not then."""
        if result is None:
            return []
        return [name for name, planned in self.stock.plan.items() if planned.state in _DONE and name not in self.stock.broken]

    def _text(self, add: dict[str, m.SubtaskSpec], used: list[str], again: list[str]) -> str:
        estimate = sum(cost_of(self.offers[spec.capability]) for spec in add.values())
        parts = [
            f"{', '.join(add)}; the estimates add up to {estimate:g}" if add else "nothing new is needed",
            f"{', '.join(used)} as planned before" if used else "",
            f"{', '.join(again)} again" if again else "",
        ]
        return f"For {', '.join(self.words)}: {'; '.join(part for part in parts if part)}."

    # why not

    def _unreachable(self) -> Unplannable:
        """What is missing, followed back from the goal to where nothing gives it."""
        can_be_done = reachable(self.steps)
        missing: dict[str, str] = {}
        asked: list[int] = []
        rest: list[tuple[str, str, Need]] = [(word, "", need) for word, need in zip(self.words, self.wanted, strict=True)]
        while rest:
            what, taker, need = rest.pop(0)
            if not need:
                missing.setdefault(what, self._nothing_gives(what, taker))
            elif not any(place in can_be_done for place in need):
                for place in need:
                    if place not in asked:
                        asked.append(place)
                        name = self.sources[place].capability
                        rest += [
                            (what, name, need) for what, need in zip(self.stock.takers[name].missing, self.steps[place].needs, strict=True)
                        ]
        if missing:
            return _unplannable(" ".join(missing.values()), list(missing), self.offers)
        circle = ", ".join(self.sources[place].capability for place in asked)
        return _unplannable(f"Each of {circle} needs what another of them gives.", self.words, self.offers)

    def _nothing_gives(self, what: str, taker: str) -> str:
        if not taker:
            return f"Nothing gives {what!r}."
        misfits = [source.subtask or source.capability for source in self.sources if source.given(what) is not None]
        if what in self.stock.input:
            misfits.insert(0, "the input")
        why = f" ({' and '.join(misfits)}: another type)" if misfits else ""
        return f"Nothing gives {what!r}, which {taker} needs{why}."

    def _only_way(self, failed: str) -> Unplannable:
        planned = self.stock.plan[failed]
        why = f": {planned.error.message.rstrip('.')}" if planned.error is not None else ""
        text = f"The only way is {planned.capability} with the input that {failed!r} has had{why}."
        return _unplannable(text, [planned.capability], self.offers)


def _input_of(told: Briefing) -> tuple[dict[str, Any], list[str]]:
    """The goal's input, with what feedback says of it (an object as its data); and the names of what that has changed."""
    try:
        input = _decoded_object(compose(told.input, _not_there)[0])
    except PlanRefused as error:
        raise _unplannable(f"The goal's input cannot be used: {error.message}", [], []) from error
    said: dict[str, Any] = {}
    for given in told.feedback:
        said.update(_decoded_object(given.data))
    return {**input, **said}, [name for name, value in said.items() if name not in input or input[name] != value]


def _not_there(name: str) -> Raw:
    raise PlanRefused(f"it refers to {name!r}.")


def _decoded_object(raw: Raw) -> dict[str, Any]:
    value = msgspec.json.decode(raw)
    return value if isinstance(value, dict) else {}


def _on_wire(value: Any) -> Any:
    return msgspec.json.decode(encode_input(value))


def _words(goal: str, sources: Sequence[Source]) -> list[str]:
    """What the goal names: its text as a whole, or else its parts between commas and `and`."""
    text = goal.casefold()
    if any(source.answers(text) for source in sources):
        return [text]
    words = [word.strip() for word in re.split(r",|\band\b", text)]
    return list(dict.fromkeys(word for word in words if word)) or [text]


def _fresh(capability: str, taken: Sequence[str]) -> str:
    base = capability.rpartition(".")[2][:_NAME_ROOM]
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name
