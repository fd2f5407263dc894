"""What the wire asks of an agent, one scenario each. The first line of each docstring is what is expected."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import msgspec
from msgspec import Raw
from msgspec.structs import replace

from agentexecutor.bus.streams import INBOX, stream_name
from agentexecutor.console.conformance.stage import CAPABILITY, LAST, Broken, Heard, Stage
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import H_ID, encode, headers
from agentexecutor.schemas.messages import Award
from agentexecutor.schemas.names import TaskName, new_id

__all__ = ["SCENARIOS", "Scenario"]

MOST_FILLED = 64
"""An agent with a larger capacity is not filled up."""
QUIET_S = 1.5
"""So long nothing must come, where nothing must."""
VALUES: list[Any] = [
    None,
    True,
    0,
    -1.5,
    9007199254740991,
    "",
    'Grüße, 世界 🌍\n\t"\\',
    [],
    [[1], {"a": None}],
    {"": {"b": [1, 2.25, "x"]}},
]
LARGE = 400_000
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
STEPS = ["load", "fit"]


@dataclass(frozen=True)
class Scenario:
    """A name, what is expected, and the play. `restart` ends the server and starts it again."""

    name: str
    expected: str
    play: Callable[[Stage], Awaitable[None]]


SCENARIOS: dict[str, Scenario] = {}


def scenario(play: Callable[[Stage], Awaitable[None]]) -> Callable[[Stage], Awaitable[None]]:
    """Add a scenario; its name is the function's."""
    name = play.__name__.replace("_", "-")
    SCENARIOS[name] = Scenario(name, (play.__doc__ or "").split("\n")[0].rstrip("."), play)
    return play


def wrong(expected: str, seen: object) -> Broken:
    return Broken(expected, f"it is {seen}")


async def _accepted(stage: Stage, offer: m.Offer, do: dict[str, Any]) -> m.Award:
    """An award that it has accepted."""
    award = await stage.award(offer, do)
    await stage.claim("accept", award, within=2.0)
    return award


async def _cancel(stage: Stage, award: m.Award, epoch: int, *, grace_s: float = 3.0) -> None:
    await stage.send(m.Cancel(task=award.task, subtask="main", epoch=epoch, reason="the scenario", grace_s=grace_s))


async def _alive(stage: Stage, offer: m.Offer) -> None:
    """It does something ordinary."""
    award = await stage.award(offer, {"do": "echo", "value": "still here"})
    await stage.claim("done", award)


@scenario
async def offers(stage: Stage) -> None:
    """An offer within 2 s of the start, with a capacity of at least 2, and another every second, all with one boot."""
    await stage.start()
    first = await stage.offer(within=2.0)
    if CAPABILITY not in [capability.name for capability in first.capabilities]:
        raise wrong(f"the capability {CAPABILITY}, from AGENTEXECUTOR_CAPABILITY, in the offer", [c.name for c in first.capabilities])
    if first.capacity < 2 or not first.accepting or first.running:  # noqa: PLR2004  # docs/protocol.md section 12
        raise wrong("a capacity of at least 2, `accepting` true, and nothing running", first)
    for _ in range(3):
        later = await stage.offer("another offer", within=1.5)
        if later.boot != first.boot:
            raise wrong(f"the same boot, {first.boot}, as long as the process lives", later.boot)


@scenario
async def bids(stage: Stage) -> None:
    """A call is answered by a bid, in time, with the call's id, the agent's boot and seconds of work."""
    offer = await stage.ready()
    heard = await _called(stage, m.Bid)
    if heard.message.boot != offer.boot:
        raise wrong(f"the boot of its offers, {offer.boot}, in the bid", heard.message.boot)


@scenario
async def refuses(stage: Stage) -> None:
    """A call for labels or a capability that the agent does not have is answered by a refusal."""
    await stage.ready()
    await _called(stage, m.Refusal, labels={"conformance": "an agent without this label refuses"})
    await _called(stage, m.Refusal, capability="conformance.another")


async def _call(stage: Stage, capability: str = CAPABILITY, **more: Any) -> m.Call:
    task = TaskName("conformance", new_id(12))
    call = m.Call(task=str(task), subtask="main", capability=capability, call=new_id(16), shard=7, reply_by_s=1.0, **more)
    await stage.say("call", task, encode(call))
    return call


async def _called(stage: Stage, answer: type[m.Bid | m.Refusal], **more: Any) -> Heard:
    call = await _call(stage, **more)
    what = "a bid" if answer is m.Bid else "a refusal"
    if more:
        what += f" of a call with {more}"
    heard = await stage.expect(what, lambda heard: heard.kind == "bid" and heard.task == call.task, within=1.0)
    said = heard.message
    if not isinstance(said, answer):
        raise wrong(what, said)
    if (said.call, said.subtask, heard.shard) != (call.call, "main", str(call.shard)):
        raise wrong(f"the call's id {call.call}, subtask and shard", said)
    return heard


@scenario
async def accepts(stage: Stage) -> None:
    """An award is accepted within 2 s, with a schedule of its steps; then the offer names it."""
    award = await stage.award(await stage.ready(), {"do": "steps", "steps": STEPS, "seconds": 3})
    accept = await stage.claim("accept", award, within=2.0)
    if [step.name for step in accept.schedule] != STEPS:
        raise wrong(f"a schedule of the steps {STEPS}", [step.name for step in accept.schedule])
    await stage.names(award)


@scenario
async def keeps_to_its_capacity(stage: Stage) -> None:
    """Of one award more than its capacity it says that it declines it, or accepts it and names it as queued; it never runs more."""
    offer = await stage.ready()
    if offer.capacity > MOST_FILLED:
        return
    awards = [await _accepted(stage, offer, {"do": "wait"}) for _ in range(offer.capacity)]
    more = await stage.award(offer, {"do": "wait"})
    answer = await stage.expect("`accept` or `decline` of an award above the capacity", stage.of(more, "accept", "decline"), within=2.0)
    full = await stage.names(more if answer.kind == "accept" else awards[-1])
    running = sum(work.state == "running" for work in full.running)
    if running > offer.capacity:
        raise wrong(f"no more than {offer.capacity} subtasks with the state `running`, as many as its capacity", running)


@scenario
async def refuses_without_room(stage: Stage) -> None:
    """It holds twice its capacity at most, running and queued; while it declines awards, it refuses calls too."""
    offer = await stage.ready()
    if offer.capacity > MOST_FILLED:
        return
    for _ in range(2 * offer.capacity + 1):
        award = await stage.award(offer, {"do": "wait"})
        answer = await stage.expect("`accept` or `decline`", stage.of(award, "accept", "decline"), within=2.0)
        if answer.kind == "decline":
            await _called(stage, m.Refusal)
            return
    raise wrong(f"`decline` of award number {2 * offer.capacity + 1}, with a capacity of {offer.capacity}", "`accept`")


@scenario
async def reports(stage: Stage) -> None:
    """Progress says which step has started and which is finished, in order."""
    award = await stage.award(await stage.ready(), {"do": "steps", "steps": STEPS, "seconds": 1})
    await stage.claim("done", award)
    said = [(h.message.step, h.message.state) for h in stage.heard if stage.of(award, "progress")(h) and h.message.step is not None]
    wanted = [(step, state) for step in STEPS for state in ("started", "finished")]
    if [pair for pair in said if pair[1] is not None] != wanted:
        raise wrong(f"progress {wanted}", said)


@scenario
async def completes(stage: Stage) -> None:
    """`done` carries the result, whatever JSON it is; once it is stored, the offer does not name the work."""
    offer = await stage.ready()
    for value in VALUES:
        award = await stage.award(offer, {"do": "echo", "value": value})
        result = await stage.result(award, await stage.claim("done", award))
        if result != value or type(result) is not type(value):
            raise wrong(f"the result {value!r}", repr(result))
        await stage.forgets(award)


@scenario
async def fails(stage: Stage) -> None:
    """`failed` says why, and whether another try may help."""
    offer = await stage.ready()
    for retryable in (True, False):
        award = await stage.award(offer, {"do": "fail", "message": "no such page", "retryable": retryable})
        failed = await stage.claim("failed", award)
        if "no such page" not in failed.error.message or failed.error.retryable is not retryable:
            raise wrong(f"an error with the message 'no such page' and retryable {retryable}", failed.error)
        await stage.forgets(award)


@scenario
async def obeys_cancel(stage: Stage) -> None:
    """A cancel stops running work within its grace, but not work of a newer epoch; nothing more is claimed about it, and there is room for other work."""
    offer = await stage.ready()
    award = await _accepted(stage, offer, {"do": "wait"})
    await stage.names(award)
    await _cancel(stage, award, award.epoch - 1, grace_s=0.1)
    await _alive(stage, offer)
    await stage.names(award, why=f", also after a cancel for epoch {award.epoch - 1}, which is older")
    await _cancel(stage, award, award.epoch)
    await stage.forgets(award, within=5.0)
    await _alive(stage, offer)
    await stage.never("claim about what was cancelled", stage.of(award, *LAST, "decline"), QUIET_S)


@scenario
async def remembers_what_was_cancelled(stage: Stage) -> None:
    """An award of an epoch that was cancelled, or of an older one, is dropped, also when the cancel was the first to come."""
    offer = await stage.ready()
    stopped = await _accepted(stage, offer, {"do": "wait"})
    await stage.names(stopped)
    unseen = replace(stopped, task=str(TaskName("conformance", new_id(12))))
    for award in (stopped, unseen):
        await _cancel(stage, award, award.epoch)
    await stage.forgets(stopped, within=5.0)
    echo = Raw(encode({"do": "echo", "value": "cancelled"}))
    late = [replace(award, epoch=epoch, input=echo) for award in (stopped, unseen) for epoch in (award.epoch - 1, award.epoch)]
    for award in late:
        await stage.send(award)
    await _alive(stage, offer)
    claims = [stage.of(award, *LAST, "decline") for award in late]
    await stage.never("claim about an award that came after its cancel", lambda heard: any(fits(heard) for fits in claims), QUIET_S)


@scenario
async def drops_old_epochs(stage: Stage) -> None:
    """An award with an older epoch is dropped, also after the newer one ended; a newer epoch takes the older one's place."""
    offer = await stage.ready()
    first = await _accepted(stage, offer, {"do": "wait"})
    old = replace(first, epoch=first.epoch - 1, input=Raw(encode({"do": "echo", "value": "old"})))
    await stage.send(old)
    stage.epochs += 1
    newer = replace(first, epoch=stage.epochs, input=Raw(encode({"do": "echo", "value": "new"})))
    await stage.send(newer)
    await stage.claim("done", newer)
    await stage.forgets(first, within=5.0)
    await stage.send(old)
    await stage.never(f"claim about epoch {old.epoch}, which is older", stage.of(old, "accept", *LAST), QUIET_S)
    await stage.never(f"`done` or `failed` of epoch {first.epoch}, which was replaced", stage.of(first, "done", "failed"), 0.0)


@scenario
async def drops_other_boots(stage: Stage) -> None:
    """An award for another life of the agent is dropped."""
    offer = await stage.ready()
    other = await stage.award(offer, {"do": "echo", "value": 1}, boot="1000000000000-AAAAAAAA")
    await _alive(stage, offer)
    await stage.never("claim about an award for another boot", stage.of(other, "accept", "decline", *LAST), QUIET_S)


@scenario
async def ignores_the_unknown(stage: Stage) -> None:
    """Unknown fields and types, messages without Ae-Type and nonsense change nothing."""
    offer = await stage.ready()
    task = TaskName("conformance", new_id(12))
    await stage.say("surprise", task, b'{"something": "new"}')
    subject = stage.connection.subjects.to(stage.name, "award", task)
    await stage.connection.publish(subject, b"{}", {})
    for nonsense in (b"", b"{", b"[]", b'{"task": 7}', b"\xff\xfe"):
        await stage.say("award", task, nonsense)
        await stage.say("cancel", task, nonsense)
        await stage.say("call", task, nonsense)
    stage.epochs += 1
    award = m.Award(
        task=str(task),
        subtask="main",
        capability=CAPABILITY,
        epoch=stage.epochs,
        boot=offer.boot,
        input=Raw(b'{"do":"echo","value":1}'),
    )
    await stage.say("award", task, encode(msgspec.json.decode(encode(award)) | {"of_version_2": {"deep": [1]}}))
    await stage.claim("done", award)


@scenario
async def bears_what_it_is_told(stage: Stage) -> None:
    """Feedback about what runs, and results and refusals that the agent need not know, end neither the work nor the agent."""
    offer = await stage.ready()
    award = await _accepted(stage, offer, {"do": "steps", "steps": ["only"], "seconds": 1})
    said = m.FeedbackMessage(task=award.task, subtask="main", epoch=award.epoch, id=new_id(16), sender="conformance", text="as it is")
    for feedback in (said, said, replace(said, id=new_id(16), verdict="revise"), replace(said, id=new_id(16), subtask=None)):
        await stage.send(feedback)
    await stage.send(m.Result(task=award.task, subtask="main", call=1, state="completed", result=Raw(b"1")))
    done = await stage.expect("`done`", stage.of(award, "done"), within=5.0)
    await stage.send(m.Refused(task=award.task, id=done.headers[H_ID], error=m.ErrorInfo(code="refused", message="the scenario")))
    await _alive(stage, offer)


@scenario
async def runs_once(stage: Stage) -> None:
    """The same award again is answered with the last claim, under the same Ae-Id; it is not run twice."""
    offer = await stage.ready()
    award = await _accepted(stage, offer, {"do": "steps", "steps": ["only"], "seconds": 2})
    await stage.send(award)
    await _again(stage, award, "accept")
    await stage.claim("done", award)
    await stage.forgets(award)
    await stage.send(award)
    await _again(stage, award, "done")
    started = [h for h in stage.heard if stage.of(award, "progress")(h) and (h.message.step, h.message.state) == ("only", "started")]
    if len(started) != 1:
        raise wrong("the step started once", f"started {len(started)} times")


async def _again(stage: Stage, award: Award, kind: str, within: float = 3.0) -> None:
    def said() -> list[Heard]:
        return [heard for heard in stage.heard if stage.of(award, kind)(heard)]

    await stage.expect(f"`{kind}` a second time", lambda _: len(said()) > 1, within)
    ids = {heard.headers.get(H_ID) for heard in said()}
    if len(ids) != 1:
        raise wrong(f"`{kind}` again with the same Ae-Id", f"said under {len(ids)} ids")


@scenario
async def says_it_until_it_is_stored(stage: Stage) -> None:
    """A claim that the server does not acknowledge is sent again, with the same Ae-Id, until it is; until then the offer names the work."""
    offer = await stage.ready()
    award = await _accepted(stage, offer, {"do": "steps", "steps": ["only"], "seconds": 1})
    async with _nothing_stored(stage):
        await stage.claim("done", award)
        await stage.names(award)
    await _again(stage, award, "done", within=8.0)
    await stage.forgets(award, within=7.0)


@asynccontextmanager
async def _nothing_stored(stage: Stage) -> AsyncIterator[None]:
    """Claims reach no stream; afterwards they do again, however it went: the next scenario needs it."""
    name = stream_name(INBOX, stage.connection.prefix)
    config = (await stage.connection.api(f"STREAM.INFO.{name}", {}))["config"]
    nowhere = {**config, "subjects": [f"{stage.connection.prefix}.nowhere"], "subject_transform": None}
    try:
        await stage.connection.api(f"STREAM.UPDATE.{name}", nowhere)
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await stage.connection.api(f"STREAM.UPDATE.{name}", config)


@scenario
async def survives_a_restart_of_the_server(stage: Stage) -> None:
    """When the server was away for a while, the offers go on with the same boot, and work that ended meanwhile is claimed."""
    offer = await stage.ready()
    award = await _accepted(stage, offer, {"do": "steps", "steps": ["only"], "seconds": 1})
    await stage.restart_server(1.5)
    later = await stage.offer("an offer after the restart", within=10.0)
    if later.boot != offer.boot:
        raise wrong(f"the same boot, {offer.boot}", later.boot)
    await stage.stored("done", award, within=10.0)
    await _alive(stage, offer)


@scenario
async def large_bodies(stage: Stage) -> None:
    """A large input is read by reference, its digest checked, large parts are filled in; a large result goes by reference."""
    offer = await stage.ready()
    task = TaskName("conformance", new_id(12))
    text = "é" * LARGE
    whole = await stage.store(task, encode({"do": "echo", "value": text}))
    part = await stage.store(task, encode({"rows": [[number, text[: LARGE // 10]] for number in range(10)]}))
    award = await stage.award(offer, {}, task=str(task), subtask="whole", input=m.EMPTY, input_blob=whole)
    if await stage.result(award, await stage.claim("done", award, within=10.0)) != text:
        raise Broken(f"the text of {LARGE} characters back", "it was another")
    await _forged(stage, offer, task, part)
    fill = m.Fill(at=["value", "rows"], blob=part, path=["rows"], slice=(2, 4))
    award = await stage.award(offer, {"do": "echo", "value": {"rows": None}}, task=str(task), subtask="part", fill=[fill])
    heard = await stage.expect("`done` or `failed`", stage.of(award, "done", "failed"), within=10.0)
    if isinstance(heard.message, m.Failed):
        if heard.message.error.code == "input" and heard.message.error.retryable:
            return  # who cannot fill in says so
        raise wrong("a failure to fill in told as a retryable `input`", heard.message.error)
    rows = (await stage.result(award, heard.message))["rows"]
    if [row[0] for row in rows] != [2, 3]:
        raise wrong("rows 2 and 3 filled in", [row[0] for row in rows])


async def _forged(stage: Stage, offer: m.Offer, task: TaskName, ref: m.BlobRef) -> None:
    """What is stored under a digest is another body."""
    other = TaskName(task.owner, new_id(12))
    forged = await stage.forge(other, encode({"do": "echo", "value": "forged"}), ref)
    award = await stage.award(offer, {}, task=str(other), input=m.EMPTY, input_blob=forged)
    said = (await stage.expect("`done` or `failed` of an input with another digest", stage.of(award, *LAST), within=10.0)).message
    if not isinstance(said, m.Failed) or said.error.code != "input" or not said.error.retryable:
        raise wrong("an input that has not its digest told as `failed`, a retryable `input`", said)


@scenario
async def carries_the_trace_on(stage: Stage) -> None:
    """Claims and progress carry the traceparent's trace and the tracestate, as the award brought them."""
    offer = await stage.ready()
    trace = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "tracestate": "conformance=1"}
    award = await stage.award(offer, {"do": "steps", "steps": ["only"], "seconds": 1}, trace)
    await stage.claim("done", award)
    for heard in [heard for heard in stage.heard if stage.of(award, "accept", "progress", "done")(heard)]:
        parts = heard.headers.get("traceparent", "").split("-")
        if parts[1:2] != [TRACE] or parts[-1] != "01":
            raise wrong(f"a traceparent of trace {TRACE}, sampled, on `{heard.kind}`", repr(heard.headers.get("traceparent")))
        state = heard.headers.get("tracestate", "")
        if trace["tracestate"] not in [member.strip() for member in state.split(",")]:  # an agent may have put its own before it
            raise wrong(f"a tracestate with {trace['tracestate']} on `{heard.kind}`", repr(state))


@scenario
async def leaves_in_good_order(stage: Stage) -> None:
    """On SIGTERM the offers say `accepting` false, nothing more is taken, what runs is finished or released, and the process ends: with 0, or by SIGTERM."""
    offer = await stage.ready()
    award = await _accepted(stage, offer, {"do": "steps", "steps": ["only"], "seconds": 1.5})
    stage.process.terminate()
    await stage.offer("an offer with `accepting` false", lambda offer: not offer.accepting, within=2.0)
    late = await stage.award(offer, {"do": "echo", "value": "late"})
    call = await _call(stage)
    await stage.expect("`done` or `release`", stage.of(award, "done", "release"), within=10.0)
    code = await stage.ended(within=10.0)
    if code not in (0, -signal.SIGTERM):
        raise wrong("the exit code 0, or an end by SIGTERM", code)
    await stage.never("`accept` or `done` of an award after SIGTERM", stage.of(late, "accept", "done"), 0.0)
    await stage.never("bid after SIGTERM", lambda heard: isinstance(heard.message, m.Bid) and heard.message.call == call.call, 0.0)


@scenario
async def gives_way_to_its_successor(stage: Stage) -> None:
    """When a process with a larger boot has its name, it stops with an error."""
    offer = await stage.ready()
    newer = replace(offer, boot="9999999999999-conforms")
    stage.process.may_end = True
    await stage.connection.publish(stage.connection.subjects.offer(stage.name), encode(newer), headers("offer"))
    code = await stage.ended(within=5.0)
    if code == 0:
        raise wrong("an exit code that is not 0", code)
