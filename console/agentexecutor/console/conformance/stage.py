"""The stage for one scenario: a coordinator played by hand, the agent under test, and all that it says, each message checked."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import anyio
import msgspec
from msgspec import Raw
from msgspec.structs import replace
from nats.aio.msg import Msg

from agentexecutor.bus.answering import Answering, Asked
from agentexecutor.bus.blobs import load_body, store_body
from agentexecutor.bus.connection import Connection
from agentexecutor.bus.log import TaskLog
from agentexecutor.bus.streams import INBOX
from agentexecutor.console.conformance.process import AgentProcess
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import H_ID, H_TYPE, TYPE_OF, decode, encode, from_rfc3339, headers
from agentexecutor.schemas.errors import AgentExecutorError, DecodeFailed
from agentexecutor.schemas.names import TaskName, new_id
from agentexecutor.schemas.subjects import shard_of

__all__ = ["CAPABILITY", "Broken", "Heard", "Late", "Stage", "on_stage"]

CAPABILITY = "conformance.work"
OFFERS = "offer"
LAST = ("done", "failed", "release")
CLAIMS: dict[str, tuple[type, ...]] = {
    "accept": (m.Accept,),
    "decline": (m.Decline,),
    "extend": (m.Extend,),
    "feedback": (m.FeedbackClaim,),
    "done": (m.Done,),
    "failed": (m.Failed,),
    "release": (m.Release,),
}
FITS = {**CLAIMS, OFFERS: (m.Offer,), "bid": (m.Bid, m.Refusal), "progress": (m.Progress,)}
BOOT = re.compile(r"\d{13}-[A-Za-z0-9_-]{8}")
ID = re.compile(r"[A-Za-z0-9_-]{16,64}")
MSG_ID = "Nats-Msg-Id"
LOOK_S = 0.1
T = TypeVar("T")


class Broken(AgentExecutorError):
    """The agent does not do what the wire asks for: `expected`, `seen`."""

    def __init__(self, expected: str, seen: str) -> None:
        super().__init__(f"expected {expected}, but {seen}", expected=expected, seen=seen)
        self.expected = expected
        self.seen = seen


class Late(Broken):
    """Something did not come in time though the agent ran; on a slow machine that need not be its fault."""


@dataclass
class Heard:
    """A message of the agent: what it is (`offer`, `bid`, `progress`, or the claim's kind), decoded, and when it came (monotonic seconds)."""

    kind: str
    task: str
    message: Any
    headers: dict[str, str]
    at: float
    shard: str = ""
    """Of a bid: what its subject says."""


@dataclass
class Stage:
    """One agent, one coordinator. `patience`: every time that the wire allows is so many times as long."""

    connection: Connection
    process: AgentProcess
    name: str
    patience: float
    restart_server: Callable[[float], Awaitable[None]]
    """End the server, and start it again after so many seconds."""
    heard: list[Heard] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What was wrong with messages, whatever they were about."""
    epochs: int = 100
    strangers: set[str] = field(default_factory=set)
    """Who offers the capability, and has not the name that the agent was given."""
    _said: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """Each Ae-Id: where it was heard, with what."""
    _news: anyio.Event = field(default_factory=anyio.Event)

    # the agent's process

    async def play(self, scenario: Callable[[Stage], Awaitable[None]]) -> None:
        """Have a scenario played. Raises Broken: the scenario's, and at once when the process ends though nothing has told it to."""
        await self.process.until_it_leaves(partial(scenario, self))
        if self.process.left:
            raise Broken("that the process runs until SIGTERM", self.process.end)

    async def start(self) -> None:
        """Start the agent. Raises UsageError when there is no way to."""
        named = {"NATS_URL": self.connection.url, "NAME": self.name, "CAPABILITY": CAPABILITY}
        await self.process.start({f"AGENTEXECUTOR_{name}": value for name, value in named.items()})

    async def ended(self, within: float) -> int:
        """Its exit code. Raises Broken when it does not end."""
        code = await self.process.ended(within * self.patience)
        if code is None:
            raise Late(f"that the process ends within {within:g} s", "it still runs")
        return code

    # what it says

    async def hear(self, kind: str, message: Msg) -> None:
        """Check a message, and keep it."""
        made = dict(message.headers or {})
        tokens = message.subject.removeprefix(f"{self.connection.subjects.prefix}.").split(".")
        kind = tokens[2] if kind == "claim" else kind
        task = ".".join(tokens[-2:]) if kind != OFFERS else ""
        try:
            body = decode(made.get(H_TYPE), message.data)
        except DecodeFailed as error:
            self.problems.append(f"{message.subject}: {error}")
            return
        self.problems += [f"{message.subject}: {problem}" for problem in self._problems(kind, body, made)]
        if H_ID in made and self._said.setdefault(made[H_ID], (message.subject, message.data)) != (message.subject, message.data):
            self.problems.append(
                f"{message.subject}: the header Ae-Id is {made[H_ID]!r} again: a message that says something new needs a new one"
            )
        if body is not None:
            self.heard.append(Heard(kind, task, body, made, time.monotonic(), tokens[2] if kind == "bid" else ""))
            self._news.set()
            self._news = anyio.Event()

    async def hear_offer(self, message: Msg) -> None:
        """An offer of anybody: the agent is known by its name alone."""
        peer = message.subject.rpartition(".")[2]
        if peer == self.name:
            await self.hear(OFFERS, message)
            return
        with suppress(DecodeFailed):
            body = decode((message.headers or {}).get(H_TYPE), message.data)
            if isinstance(body, m.Offer) and CAPABILITY in [capability.name for capability in body.capabilities]:
                self.strangers.add(peer)

    def _problems(self, kind: str, body: Any, made: dict[str, str]) -> list[str]:
        if not isinstance(body, FITS.get(kind, ())):
            return [f"the header Ae-Type is {made.get(H_TYPE)!r}, which does not belong there"]
        found = []
        if MSG_ID in made:
            found.append(f"the header {MSG_ID} is set: the server drops another message with the same one")
        if kind in CLAIMS and not ID.fullmatch(made.get(H_ID, "")):
            found.append(f"the header Ae-Id is {made.get(H_ID)!r}: 16 to 64 characters of [A-Za-z0-9_-] are needed")
        boot = getattr(body, "boot", None)
        if boot is not None and not BOOT.fullmatch(boot):
            found.append(f"the boot is {boot!r}: 13 digits, a dash, and 8 characters are needed")
        if isinstance(body, m.Progress):
            try:
                from_rfc3339(body.at)
            except DecodeFailed as error:
                found.append(str(error))
        return found

    async def expect(self, what: str, fits: Callable[[Heard], bool], within: float) -> Heard:
        """The first message, heard already or to come, that fits. Raises Broken."""
        with anyio.move_on_after(within * self.patience):
            while True:
                for heard in self.heard:
                    if fits(heard):
                        return heard
                await self._news.wait()
        raise self._late(what, within)

    async def never(self, what: str, fits: Callable[[Heard], bool], during: float) -> None:
        """For so many seconds nothing comes that fits. Raises Broken."""
        with anyio.move_on_after(during):
            while not any(fits(heard) for heard in self.heard):
                await self._news.wait()
        if any(fits(heard) for heard in self.heard):
            raise Broken(f"no {what}", "there was one")

    def _late(self, what: str, within: float) -> Broken:
        """Patience would not help with a process that has ended."""
        expected, end = f"{what} within {within:g} s", self.process.end
        return Broken(expected, f"{self._seen()}, and {end}") if end else Late(expected, self._seen())

    def _seen(self) -> str:
        kinds = [heard.kind for heard in self.heard if heard.kind not in (OFFERS, "progress")]
        offers = sum(heard.kind == OFFERS for heard in self.heard)
        said = f"{offers} offers" + (f", then {', '.join(kinds)}" if kinds else "")
        if self.strangers and not self.heard:
            return f"it offers as {', '.join(sorted(self.strangers))}, and not as {self.name}, which is its AGENTEXECUTOR_NAME"
        return f"it said: {said}" if self.heard else "it said nothing"

    async def offer(self, what: str = "an offer", fits: Callable[[m.Offer], bool] = lambda _: True, within: float = 2.0) -> m.Offer:
        """An offer that comes from now on, and fits."""
        now = time.monotonic()
        heard = await self.expect(what, lambda heard: heard.kind == OFFERS and heard.at > now and fits(heard.message), within)
        offer: m.Offer = heard.message
        return offer

    async def ready(self) -> m.Offer:
        """It is started and offers what it shall. Raises Broken when that takes longer than anybody would wait."""
        await self.start()
        return await self.offer(f"an offer of {CAPABILITY}", lambda offer: CAPABILITY in [c.name for c in offer.capabilities], within=10.0)

    def of(self, award: m.Award, *kinds: str) -> Callable[[Heard], bool]:
        """Whether a message is about this award, and of one of these kinds."""
        return lambda heard: (
            heard.kind in kinds and (heard.task, heard.message.subtask, heard.message.epoch) == (award.task, award.subtask, award.epoch)
        )

    async def claim(self, kind: str, award: m.Award, within: float = 5.0) -> Any:
        """A claim about an award; its boot is the agent's."""
        heard = await self.expect(f"`{kind}` of epoch {award.epoch}", self.of(award, kind), within)
        if heard.message.boot != award.boot:
            raise Broken(f"the boot of its offers, {award.boot}, in `{kind}`", f"it is {heard.message.boot}")
        return heard.message

    async def stored(self, kind: str, award: m.Award, within: float) -> None:
        """A claim about an award is in the stream, also when nobody has heard it on its way. Raises Broken."""
        task = TaskName.parse(award.task)
        subject = self.connection.subjects.inbox(shard_of(task, self.connection.shards), kind, task, self.name)
        with anyio.move_on_after(within * self.patience):
            while await TaskLog(self.connection).last_of(INBOX, subject) is None:  # noqa: ASYNC110  # a stream tells nobody
                await anyio.sleep(LOOK_S)
            return
        raise self._late(f"`{kind}` of epoch {award.epoch} stored", within)

    async def names(self, award: m.Award, within: float = 2.0, why: str = "") -> m.Offer:
        """An offer that names the award as running."""
        return await self.offer(f"an offer whose `running` names epoch {award.epoch}{why}", partial(_names, award), within)

    async def forgets(self, award: m.Award, within: float = 2.0) -> m.Offer:
        """An offer that does not name it."""
        return await self.offer(f"an offer whose `running` does not name epoch {award.epoch}", lambda o: not _names(award, o), within)

    # what the coordinator says

    async def award(self, offer: m.Offer, do: dict[str, Any], trace: dict[str, str] | None = None, **more: Any) -> m.Award:
        """Award a new task's subtask."""
        self.epochs += 1
        task = TaskName("conformance", new_id(12))
        award = m.Award(
            task=str(task),
            subtask="main",
            capability=CAPABILITY,
            epoch=self.epochs,
            boot=offer.boot,
            input=Raw(encode(do)),
            key=f"{task}/main",
            coordinator=self.connection.name,
        )
        award = replace(award, **more)
        await self.send(award, trace)
        return award

    async def send(self, message: Any, trace: dict[str, str] | None = None) -> None:
        """Send what says itself what it is about."""
        await self.say(TYPE_OF[type(message)], TaskName.parse(message.task), encode(message), trace)

    async def say(self, kind: str, task: TaskName, payload: bytes, trace: dict[str, str] | None = None) -> None:
        """Send anything."""
        await self.connection.publish(self.connection.subjects.to(self.name, kind, task), payload, headers(kind, trace))
        await self.connection.nats.flush()

    async def store(self, award_task: TaskName, body: bytes) -> m.BlobRef:
        """A large body for the agent to read."""
        return await store_body(self.connection, award_task, body)

    async def forge(self, award_task: TaskName, body: bytes, ref: m.BlobRef) -> m.BlobRef:
        """A body stored under the digest of another."""
        await self.connection.store(self.connection.subjects.blob(award_task, ref.digest, 0), body, headers("chunk"))
        return m.BlobRef(digest=ref.digest, bytes=len(body), chunks=1)

    async def result(self, award: m.Award, done: m.Done) -> Any:
        """What a `done` carries, inline or by reference."""
        if done.result_blob is None:
            return msgspec.json.decode(done.result)
        return msgspec.json.decode(await load_body(self.connection, TaskName.parse(award.task), done.result_blob))


def _names(award: m.Award, offer: m.Offer) -> bool:
    return any((running.task, running.subtask, running.epoch) == (award.task, award.subtask, award.epoch) for running in offer.running)


@asynccontextmanager
async def on_stage(
    connection: Connection, command: Sequence[str], patience: float, restart_server: Callable[[float], Awaitable[None]]
) -> AsyncIterator[Stage]:
    """A stage for one scenario; the agent is started by the scenario, and ends with it."""
    subjects = connection.subjects
    async with anyio.create_task_group() as group:
        stage = Stage(connection, AgentProcess(command, group), f"agent-{new_id(6)}", patience, restart_server)
        answering = Answering(connection, lambda: stage.problems.append("a question that cannot be read"))

        async def asked(question: Asked) -> None:
            await answering.answer_chunk(question, of=1)

        claims, bids, progress = subjects.all_by(stage.name)
        listening = {claims: "claim", bids: "bid", progress: "progress"}
        async with answering.hearing(asked, "blob"):
            subscriptions = [await connection.subscribe(subject, partial(stage.hear, kind)) for subject, kind in listening.items()]
            subscriptions.append(await connection.subscribe(subjects.all_offers(), stage.hear_offer))
            await connection.nats.flush()
            try:
                yield stage
            finally:
                await stage.process.kill()
                for subscription in subscriptions:
                    with suppress(Exception):
                        await subscription.unsubscribe()
        group.cancel_scope.cancel()
