"""The plan of a turn, and each next version of it: what the customer-facing agent answers when it is asked (docs/protocol.md section 11). Pure.

A turn goes in rounds: 1 is the first answer, every later one follows an unhappy customer. All that is known stands in the plan that it is told, so
whichever agent is asked next goes on from there.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["CUSTOMER_S", "STAFF_S", "Planned", "Told", "next_version"]

CUSTOMER_S = 600.0
"""So long a turn waits for what the customer thinks of the answer."""
STAFF_S = 24 * 3600.0
WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""For a box that is away: whoever starts it again needs some seconds."""
SHOWN = 300
BEGINNING = ("open", "understand", "recognise", "match")
TROUBLE = ("failed", "unserved", "reject", "lost", "late")
NOBODY = "Nobody of the staff could take it over."
ADVICE = "A part of the customer service does not answer; please try again later, or have a colleague look at it."


class Planned(msgspec.Struct, frozen=True):
    """A subtask as the planner is told of it."""

    capability: str
    state: str
    result: Any = None


class PresentPlan(msgspec.Struct, frozen=True):
    """The plan as it stands."""

    subtasks: dict[str, Planned] = {}


class Told(msgspec.Struct, frozen=True):
    """What of its input this planner uses."""

    input: dict[str, Any]
    why: list[dict[str, Any]]
    plan: PresentPlan
    feedback: list[dict[str, Any]] = []
    offers: list[dict[str, Any]] = []

    @property
    def begun(self) -> bool:
        """Whether anything but a wait was planned."""
        return any(name.partition("_")[0] != "wait" for name in self.plan.subtasks)

    @property
    def turned_down(self) -> bool:
        """Whether the last answer was turned down: nobody waits any more for a word about it, and none has come."""
        keep = self.plan.subtasks.get(_named("keep", self.round))
        return self.round > 0 and (keep is None or keep.state not in ("approval", "completed"))

    @property
    def round(self) -> int:
        """How many answers there were, or are under way."""
        return sum(name.partition("_")[0] == "respond" for name in self.plan.subtasks)

    def result(self, name: str) -> Any:
        """What a subtask has given; an empty object when it has not, or was too large to be told."""
        subtask = self.plan.subtasks.get(name)
        return {} if subtask is None or subtask.result is None else subtask.result


def next_version(task: str, told: Told) -> dict[str, Any]:
    """What is to be done next, as a difference to the plan; a moment's wait when a box that it needs is away, as after it has died."""
    version = _next(task, told)
    on_offer = {offer["name"] for offer in told.offers}
    away = sorted({subtask["capability"] for subtask in version.get("add", {}).values()} - on_offer)
    waited = sum(name.partition("_")[0] == "wait" for name in told.plan.subtasks)
    if not away:
        return version
    if waited >= len(WAITS_S) or "service.wait" not in on_offer:
        return {"finish": True, "output": {"text": ADVICE, "source": "nothing", "helped": None}, "text": f"{', '.join(away)} stay away"}
    wait = _subtask("service.wait", {"seconds": WAITS_S[waited], "away": away, "time": waited + 1})
    return {"add": {_named("wait", waited + 1): wait}, "remove": version.get("remove", []), "text": f"{', '.join(away)} is away"}


def _next(task: str, told: Told) -> dict[str, Any]:
    if not told.begun:
        return {"add": _begin(told.input), "text": "find out what the customer wants"}
    troubled = [why for why in told.why if why.get("trigger") in TROUBLE]
    if troubled:
        return _give_up(told, troubled[0].get("subtask") or "")
    if any(why.get("trigger") in ("revise", "message") for why in told.why):
        return _unhappy(task, told)
    return _continue(task, told)


def _ref(name: str) -> dict[str, str]:
    return {"$ref": name}


def _named(name: str, round: int) -> str:
    return name if round == 1 else f"{name}_{round}"


def _subtask(capability: str, input: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"capability": capability, "input": input, **more}


# the way through the boxes


def _begin(input: dict[str, Any]) -> dict[str, Any]:
    return {
        "open": _subtask("dialogue.open", {"conversation": input["conversation"], "text": input["text"]}),
        "understand": _subtask("dialogue.understand", {"turn": _ref("open")}),
        "recognise": _subtask("intent.recognise", {"understood": _ref("understand")}),
        "match": _subtask("intent.match", {"understood": _ref("understand"), "guesses": _ref("recognise")}),
    }


def _continue(task: str, told: Told) -> dict[str, Any]:
    """All that was planned has ended: the intent is known, or a second try, or the customer has spoken."""
    if told.round == 0:
        return _route(task, told)
    again = _named("reason", told.round + 1)
    if again in told.plan.subtasks:
        if told.result(again).get("entry") is None:
            return {"add": _with_person(task, told), "text": "there is no other answer, so a person is asked"}
        return {"add": _respond(told.round + 1, told, choice=_ref(again)), "text": "another answer"}
    if told.turned_down:
        return _unhappy(task, told)
    last = told.result(_named("respond", told.round))
    kept = told.result(_named("keep", told.round))
    output = {"text": last.get("text", ""), "source": last.get("source"), "helped": kept.get("helped")}
    return {"finish": True, "output": output, "text": "the customer has nothing more to say to it"}


def _route(task: str, told: Told) -> dict[str, Any]:
    intent = told.result("match")
    route = intent.get("route")
    if route == "person":
        return {"add": _with_person(task, told), "text": "the customer wants a person"}
    if route == "orders":
        found = {"query": _subtask("orders.query", {"intent": _ref("match")})}
        return {"add": found | _respond(1, told, facts=_ref("query")), "text": "the shop knows"}
    if route == "knowledge":
        return {"add": _search(1, []) | _respond(1, told, choice=_ref("reason")), "text": "the knowledge base may know"}
    if intent.get("name") == "foreign":
        return {"add": _respond(1, told), "text": "nobody here reads that"}
    return {"add": _answer(1, {}), "finish": True, "result": "respond", "text": "talk"}


def _search(round: int, tried: list[int]) -> dict[str, Any]:
    find = _named("find", round)
    return {
        find: _subtask("knowledge.match", {"understood": _ref("understand")}),
        _named("reason", round): _subtask("knowledge.reason", {"candidates": _ref(find), "intent": _ref("match"), "tried": tried}),
    }


def _answer(round: int, given: dict[str, Any]) -> dict[str, Any]:
    """What the customer reads, and that it is written down."""
    respond = _named("respond", round)
    return {
        respond: _subtask("response.write", {"understood": _ref("understand"), "intent": _ref("match"), **given}),
        _named("note", round): _subtask("dialogue.note", {"intent": _ref("match"), "answer": _ref(respond)}),
    }


def _respond(round: int, told: Told, **given: Any) -> dict[str, Any]:
    """An answer, and the customer's word about it: the last subtask waits for that as for any approval."""
    respond, note, ask = (_named(name, round) for name in ("respond", "note", "ask"))
    keep = _subtask("feedback.keep", {"answer": _ref(respond), "unhappy": _tried(told)}, after=[note, ask])
    waits = {"timeout_s": CUSTOMER_S, "otherwise": "accept", "text": "for the customer: did it help?"}
    return _answer(round, given) | {
        ask: _subtask("feedback.ask", {"answer": _ref(respond), "intent": _ref("match")}),
        _named("keep", round): keep | {"approval": waits},
    }


# an unhappy customer


def _unhappy(task: str, told: Told) -> dict[str, Any]:
    """Another answer at first, then a person; at once a person when that was offered, or asked for, or nothing else could be said."""
    last = told.result(_named("respond", told.round))
    asked_for = any(isinstance(said.get("data"), dict) and said["data"].get("person") for said in told.feedback)
    waiting = [name for name, subtask in told.plan.subtasks.items() if name.partition("_")[0] == "keep" and subtask.state != "completed"]
    if told.round == 1 and last.get("source") == "knowledge" and not asked_for:
        return {"add": _search(2, _tried(told)), "remove": waiting, "text": "it has not helped, so another answer is looked for"}
    return {"add": _with_person(task, told), "remove": waiting, "text": "a person is asked"}


def _tried(told: Told) -> list[int]:
    """Entries whose answers have not helped."""
    given = [told.result(_named("respond", round)).get("entry") for round in range(1, told.round + 1)]
    return [entry for entry in given if entry is not None]


def _with_person(task: str, told: Told) -> dict[str, Any]:
    """A person of the staff is asked; what they say is the answer, and is learnt."""
    round = told.round + 1
    person, store = _named("person", round), _named("store", round)
    waits = {"timeout_s": STAFF_S, "otherwise": "reject", "text": _request(task, person, told)}
    learn = {"understood": _ref("understand"), "intent": _ref("match"), "word": _ref(person), "wrong": _tried(told)}
    return {
        person: _subtask("service.person", {}, approval=waits),
        store: _subtask("knowledge.store", learn),
        _named("update", round): _subtask("knowledge.update", {"lesson": _ref(store)}),
    } | _respond(round, told, word=_ref(person))


def _request(task: str, person: str, told: Told) -> str:
    """What the person is told."""
    asked = " ".join(str(told.input.get("text", "")).split())[:SHOWN]
    given = [told.result(_named("respond", round)).get("text", "") for round in range(1, told.round + 1)]
    tried = "".join(f" It was answered: {text[:SHOWN]!r}." for text in given)
    return f'A customer asks: {asked!r}.{tried} Answer with: agentexecutor feedback {task} --subtask {person} --verdict revise --text "..."'


# when a box does not do its work


def _give_up(told: Told, troubled: str) -> dict[str, Any]:
    """Say so, and end the turn: what has failed is not needed for that."""
    done = {name for name, subtask in told.plan.subtasks.items() if subtask.state == "completed"}
    name = _named("sorry", 1 + sum(name.partition("_")[0] == "sorry" for name in told.plan.subtasks))
    trouble = NOBODY if troubled.partition("_")[0] == "person" else ADVICE
    plain: dict[str, Any] = {"kind": "question", "text": str(told.input.get("text", ""))[:SHOWN], "orders": [], "follows": None}
    input = {
        "understood": _ref("understand") if "understand" in done else plain,
        "intent": _ref("match") if "match" in done else {"name": "unclear", "route": "talk", "share": 0.0},
        "trouble": trouble,
    }
    if troubled.partition("_")[0] in ("sorry", "respond"):
        return {"finish": True, "output": {"text": ADVICE, "source": "nothing", "helped": None}, "text": "no answer can be written"}
    remove = [other for other in told.plan.subtasks if other not in done]
    return {"add": {name: _subtask("response.write", input)}, "remove": remove, "finish": True, "result": name, "text": trouble}
