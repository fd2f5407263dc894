"""Who sends what on which subject: one row a family of subjects (docs/protocol.md sections 2 and 10). Data only.

How a subject is spelt stands in `agentexecutor.schemas.subjects`; a row calls its builder with placeholders, so it cannot say anything
else. `agentexecutor.schemas.asyncapi` makes the AsyncAPI document of this table; tests hold it against the builders, the streams of the
bus, the tables of docs/protocol.md, and what is heard on a real server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.subjects import NOBODY, Subjects

__all__ = ["AGENT", "CLIENT", "COORDINATOR", "FAMILIES", "SERVER", "VARIANTS", "Channel", "Family", "Kind", "channels"]

AGENT, CLIENT, COORDINATOR, SERVER = "agent", "client", "coordinator", "server"

PEER = "{peer}"
TASK = TaskName("{owner}", "{id}")
SHARD = cast("int", "{shard}")  # placeholders where builders want numbers
CHUNK = cast("int", "{n}")

VARIANTS = {"answered-chunk": "chunk", "watched-record": "record"}
"""Messages that go with other headers on one subject than on another → their Ae-Type. All others are called by their Ae-Type."""


class Kind(NamedTuple):
    """A word of a family's ``<kind>`` token ("" where there is none): what goes there, who sends it, who gets it."""

    name: str
    messages: tuple[str, ...]
    by: tuple[str, ...]
    to: tuple[str, ...]
    about: str
    reply: str = ""
    """The channel of the answer, for questions."""


class Family(NamedTuple):
    """Subjects of one shape. `subject` builds one of them, from a kind."""

    name: str
    subject: Callable[[Subjects, str], str]
    peer: str
    """What the token ``<peer>`` is: the sender, or the receiver. "" where there is none."""
    kinds: tuple[Kind, ...]
    durable: bool = False
    """Sent as a request, whose reply is the server's acknowledgement that it is stored."""
    stream: str | None = None
    """The stream that keeps it."""


class Channel(NamedTuple):
    """One subject of the table: a family with one of its kinds."""

    name: str
    address: str
    family: Family
    kind: Kind


def _claim(kind: str, about: str, *by: str, message: str = "") -> Kind:
    return Kind(kind, (message or kind,), by or (AGENT,), (COORDINATOR,), about)


def _ask(kind: str, about: str) -> Kind:
    return Kind(kind, ("ask",), (CLIENT, AGENT), (COORDINATOR,), about, reply="to.answer")


def _to(kind: str, about: str, *to: str, messages: tuple[str, ...] = ()) -> Kind:
    return Kind(kind, messages or (kind,), (COORDINATOR,), to or (AGENT,), about)


CLAIMS = (
    _claim("accept", "The agent will run what it was awarded."),
    _claim("decline", "The agent will not run what it was awarded."),
    _claim("done", "The subtask's result."),
    _claim("failed", "The attempt failed."),
    _claim("release", "The agent stops; somebody else shall run it."),
    _claim("extend", "A running subtask adds a child to its task."),
    _claim("cancel", "The owner ends its task.", CLIENT, message="cancel-task"),
    _claim("feedback", "Owner, holder or critic says something about a task or subtask.", AGENT, CLIENT, message="feedback-claim"),
)

QUESTIONS = (
    _ask("task", "The state, view or log of a task."),
    _ask("blob", "A chunk of a large body."),
)
NOBODYS_QUESTIONS = (
    _ask("tasks", "The tasks that there are."),
    _ask("agents", "The agents that there are."),
    _ask("unserved", "What no agent takes; every coordinator answers for its own part."),
    _ask("forecast", "What would become of a submit now."),
)

TO_PEERS = (
    _to("call", "Call for proposals to one agent; answered by a bid or a refusal."),
    _to("award", "A subtask to run."),
    _to("cancel", "Stop this epoch of a subtask and all lower ones."),
    _to("feedback", "Feedback about what the agent holds."),
    _to("result", "How a task ended, or a child that a subtask added.", CLIENT, AGENT),
    _to("refused", "A submit or claim that cannot be used.", CLIENT, AGENT),
    _to("answer", "The answer to a question.", CLIENT, AGENT, messages=("answer", "answered-chunk")),
)


def _one(messages: tuple[str, ...], by: tuple[str, ...], to: tuple[str, ...], about: str) -> tuple[Kind, ...]:
    return (Kind("", messages, by, to, about),)


_STORED_CLAIMS = tuple(kind._replace(by=(SERVER,), about=f"As AE_INBOX keeps it: {kind.about}") for kind in CLAIMS)

FAMILIES = (
    Family(
        "submit",
        lambda s, _: s.submit(TASK, "{class}"),
        peer="",
        kinds=_one(("submit",), (CLIENT,), (COORDINATOR,), "A task, by its owner."),
        durable=True,
        stream="AE_SUBMITS",
    ),
    Family("from", lambda s, kind: s.claim(PEER, kind, TASK), peer="sender", kinds=CLAIMS, durable=True, stream="AE_INBOX"),
    Family("ask", lambda s, kind: s.ask(PEER, kind, TASK), peer="sender", kinds=QUESTIONS),
    Family("ask-all", lambda s, kind: s.ask(PEER, kind, NOBODY), peer="sender", kinds=NOBODYS_QUESTIONS),
    Family(
        "offer",
        lambda s, _: s.offer(PEER),
        peer="sender",
        kinds=_one(("offer",), (AGENT,), (COORDINATOR, AGENT), "Standing bids and heartbeat, every second and on change."),
        stream="AE_OFFERS",
    ),
    Family(
        "progress",
        lambda s, _: s.progress(PEER, TASK),
        peer="sender",
        kinds=_one(("progress",), (AGENT,), (COORDINATOR, CLIENT), "Steps and progress; losing one loses nothing."),
        stream="AE_PROGRESS",
    ),
    Family(
        "bid",
        lambda s, _: s.bid(PEER, SHARD, TASK),
        peer="sender",
        kinds=_one(("bid", "refusal"), (AGENT,), (COORDINATOR,), "The answer to a call, on the shard that it names."),
    ),
    Family(
        "blob",
        lambda s, _: s.blob(TASK, "{digest}", CHUNK),
        peer="",
        kinds=_one(("chunk",), (CLIENT, AGENT, COORDINATOR), (COORDINATOR,), "A chunk of a body of more than 262,144 bytes."),
        durable=True,
        stream="AE_BLOBS",
    ),
    Family("to", lambda s, kind: s.to(PEER, kind, TASK), peer="receiver", kinds=TO_PEERS),
    Family(
        "call",
        lambda s, _: s.call("{capability}"),
        peer="",
        kinds=_one(("call",), (COORDINATOR,), (AGENT,), "A call for proposals to every agent with the capability."),
    ),
    Family(
        "watch",
        lambda s, _: s.watch(TASK),
        peer="",
        kinds=_one(("watched-record",), (SERVER,), (CLIENT, AGENT), "The server's copy of every record that was stored."),
    ),
    Family(
        "task",
        lambda s, _: s.log(SHARD, TASK),
        peer="",
        kinds=_one(("record",), (COORDINATOR,), (COORDINATOR,), "The task's log; each append is fenced by the sequence of the last."),
        durable=True,
        stream="AE_LOG",
    ),
    Family(
        "lease",
        lambda s, _: s.lease(SHARD),
        peer="",
        kinds=_one(("lease",), (COORDINATOR,), (COORDINATOR,), "Who holds a shard; renewed by fenced appends."),
        durable=True,
        stream="AE_LEASE",
    ),
    Family(
        "member",
        lambda s, _: s.member(PEER),
        peer="sender",
        kinds=_one(("member",), (COORDINATOR,), (COORDINATOR,), "A process that could coordinate, every half second."),
        stream="AE_LEASE",
    ),
    Family(
        "new",
        lambda s, _: s.new(SHARD, "{class}", TASK),
        peer="",
        kinds=_one(("submit",), (SERVER,), (COORDINATOR,), "Where AE_SUBMITS keeps submits."),
        stream="AE_SUBMITS",
    ),
    Family("in", lambda s, kind: s.inbox(SHARD, kind, TASK, PEER), peer="sender", kinds=_STORED_CLAIMS, stream="AE_INBOX"),
)
"""All subjects. Roles are those that a process plays; the server's own doing is the transforms of two streams and the copy of the log."""


def channels(prefix: str) -> Iterator[Channel]:
    """The whole table, a subject an entry, under a prefix."""
    subjects = Subjects(prefix)
    for family in FAMILIES:
        for kind in family.kinds:
            yield Channel(f"{family.name}.{kind.name}".rstrip("."), family.subject(subjects, kind.name), family, kind)
