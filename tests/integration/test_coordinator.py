"""A coordinator on a real server, with scripted agents and clients: the life of one task, and all that can be said wrongly about it."""

from __future__ import annotations

import dataclasses
from contextlib import AsyncExitStack
from typing import Any

import anyio
import msgspec
import pytest
from msgspec import Raw
from nats.aio.msg import Msg
from peers import QUICK, Place, agent, client, coordinating

from agentexecutor.bus.log import TaskLog
from agentexecutor.bus.streams import INBOX, OFFERS, stream_name
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import H_ID, H_TYPE, headers
from agentexecutor.schemas.names import TaskName, new_id
from agentexecutor.schemas.subjects import shard_of

pytestmark = pytest.mark.anyio


INPUT = Raw(b'{"x":1}')


async def test_submit_award_accept_done_result(place: Place) -> None:
    async with coordinating(place) as coordinator, agent(place, "a1", "echo") as a1, client(place) as me:
        await me.until_agents(1)
        task = await me.submit("t1", capability="echo", input=INPUT, priority=3)
        award = await a1.award()
        assert (award.task, award.subtask, award.epoch, award.boot) == ("me.t1", "main", 1, a1.boot)
        assert (bytes(award.input), award.priority, award.coordinator) == (b'{"x":1}', 3, "coord")
        await a1.accept(award)
        view = await me.until(task, lambda view: view.subtasks["main"].state == "running")
        assert view.subtasks["main"].agent == "a1"
        await a1.done(award, {"y": 2})
        result = await me.result(task)
        assert (result.state, bytes(result.result)) == ("completed", b'{"y":2}')
        state = await me.state(task)
        assert (state.state, bytes(state.result)) == ("completed", b'{"y":2}')
        log = TaskLog(me.connection)
        (last,) = await log.read(shard_of(task, me.connection.shards), task)
        assert last.state == "completed", "an ended task is one message"
        assert coordinator.counters["records"] == 3  # submitted to awarded; accepted; completed
        assert coordinator.counters["faults"] == 0


async def test_one_record_for_accept_and_done(place: Place) -> None:
    async with coordinating(place) as coordinator, agent(place, "a1", "echo") as a1, client(place) as me:
        await me.until_agents(1)
        task = await me.submit("t1", capability="echo")
        award = await a1.award()
        await a1.accept(award)
        await a1.done(award)
        await me.result(task)
        assert coordinator.counters["records"] == 2, "the accept rides on the record of the done"


async def test_an_ended_task_leaves_a_short_account(place: Place) -> None:
    """Nothing else of it stays in memory, however many there were."""
    async with coordinating(place) as coordinator, agent(place, "a1", "echo") as a1, client(place) as me:
        for number in range(3):
            task = await me.submit(f"t{number}", capability="echo")
            award = await a1.award()
            await a1.accept(award)
            await a1.done(award, 1)
            await me.result(task)
        with anyio.fail_after(60):
            while len(coordinator._tasks._ended) < 3:
                await anyio.sleep(0.02)
        market, desk = coordinator._market, coordinator._desk
        held = (
            list(coordinator._tasks),
            market._keys,
            market.awards._holdings,
            market.awards._orphans,
            desk.timers._current,
            desk.splits,
            desk.stalled,
        )
        assert not any(held), held


async def test_declined_goes_to_another(place: Place) -> None:
    async with coordinating(place), agent(place, "a1", "echo") as a1, client(place) as me:
        task = await me.submit("t1", capability="echo")
        first = await a1.award()
        async with agent(place, "a2", "echo") as a2:
            await a1.decline(first)
            second = await a2.award()
            assert (second.epoch, second.attempt) == (2, 2)
            await a2.done(second, "ok")
            assert (await me.result(task)).state == "completed"
        attempts = (await me.view(task)).subtasks["main"].attempts
        assert [(a.agent, a.state) for a in attempts] == [("a1", "declined"), ("a2", "completed")]


async def test_no_accept_in_time(place: Place) -> None:
    async with coordinating(place), agent(place, "a1", "echo") as a1, client(place) as me:
        task = await me.submit("t1", capability="echo")
        first = await a1.award()
        cancel = await a1.expect("cancel")
        assert (cancel.subtask, cancel.epoch) == ("main", first.epoch)
        second = await a1.award()
        assert second.epoch == first.epoch + 1, "a lone agent gets it again"
        await a1.done(second)
        assert (await me.result(task)).state == "completed"


async def test_lost_agent(place: Place) -> None:
    async with coordinating(place), agent(place, "a1", "echo") as a1, client(place) as me:
        task = await me.submit("t1", capability="echo")
        await a1.accept(await a1.award())
        a1.offering = False
        async with agent(place, "a2", "echo") as a2:
            second = await a2.award()
            await a2.done(second)
            assert (await me.result(task)).state == "completed"
        attempts = (await me.view(task)).subtasks["main"].attempts
        assert [(a.agent, a.state) for a in attempts] == [("a1", "lost"), ("a2", "completed")]


async def test_an_agent_lives_while_the_stream_takes_no_offers(place: Place) -> None:
    """As when the server that leads the stream has died: for seconds offers are heard, and stored nowhere."""
    offers = 0

    async def heard(_: Msg) -> None:
        nonlocal offers
        offers += 1

    async with coordinating(place) as coordinator, agent(place, "a1", "echo") as a1, client(place) as me, AsyncExitStack() as stack:
        task = await me.submit("t1", capability="echo")
        award = await a1.award()
        await a1.accept(award)
        await stack.enter_async_context(agent(place, "a2", "echo"))
        await me.until_agents(2)
        await me.until(task, lambda view: view.subtasks["main"].state == "running")
        name = stream_name(OFFERS, place.prefix)
        config = (await me.connection.api(f"STREAM.INFO.{name}", {}))["config"]
        await me.connection.api(f"STREAM.UPDATE.{name}", {**config, "subjects": ["nowhere"]})
        await me.connection.subscribe(me.subjects.offer("a1"), heard)
        with anyio.fail_after(60):
            while offers < 10:  # two seconds of them, and one of silence is enough to be lost
                await anyio.sleep(0.02)
        await me.connection.api(f"STREAM.UPDATE.{name}", config)
        await a1.done(award, 1)
        await me.result(task)
        assert [kind for _, kind in await me.story(task)].count("awarded") == 1
        assert coordinator.counters["faults"] == 0


async def test_restarted_agent_is_another(place: Place) -> None:
    async with coordinating(place), agent(place, "a1", "echo") as a1, client(place) as me:
        task = await me.submit("t1", capability="echo")
        first = await a1.award()
        await a1.accept(first)
        await me.until(task, lambda view: view.subtasks["main"].state == "running")
        a1.offering = False
        async with agent(place, "a1", "echo") as again:
            second = await again.award()
            assert (second.epoch, second.boot) == (2, again.boot)
            await again.done(second)
        assert (await me.result(task)).state == "completed"


async def test_retries_with_back_off(place: Place) -> None:
    async with coordinating(place), agent(place, "a1", "echo") as a1, client(place) as me:
        task = await me.submit("t1", capability="echo", retries=1)
        await a1.failed(await a1.award(), "first")
        again = await a1.award()
        assert (again.epoch, again.attempt) == (2, 2)
        await a1.failed(again, "second")
        result = await me.result(task)
        assert result.state == "failed"
        assert result.error is not None
        assert result.error.code == "handler"
        assert "second" in result.error.message
        other = await me.submit("t2", capability="echo", retries=5)
        await a1.failed(await a1.award(), "for good", retryable=False)
        assert (await me.result(other)).state == "failed"


async def test_attempt_times_out(place: Place) -> None:
    async with coordinating(place), agent(place, "a1", "echo") as a1, client(place) as me:
        task = await me.submit("t1", capability="echo", timeout_s=0.3, retries=0)
        award = await a1.award()
        await a1.accept(award)
        assert (await a1.expect("cancel")).epoch == award.epoch
        result = await me.result(task)
        assert result.error is not None
        assert result.error.code == "deadline"


async def test_deadline_counts_from_the_submit(place: Place) -> None:
    async with client(place) as me:
        task = await me.submit("t1", capability="nobody.does", deadline_s=0.3)
        await anyio.sleep(0.3)
        async with coordinating(place):
            result = await me.result(task)
            assert result.state == "failed"
            assert result.error is not None
            assert result.error.code == "deadline"


async def test_stale_epoch_is_cancelled(place: Place) -> None:
    async with coordinating(place), agent(place, "a1", "echo") as a1, client(place) as me:
        task = await me.submit("t1", capability="echo")
        first = await a1.award()
        await a1.decline(first)
        second = await a1.award()
        await a1.done(first, "old")
        assert (await a1.expect("cancel")).epoch == first.epoch
        await a1.done(second, "new")
        assert bytes((await me.result(task)).result) == b'"new"'
        await a1.done(second, "newer")
        assert (await a1.expect("cancel")).epoch == second.epoch, "ended: late claims are told to stop"


async def test_offer_with_a_stale_epoch_is_cancelled(place: Place) -> None:
    async with coordinating(place), agent(place, "a1", "echo", capacity=4) as a1, client(place) as me:
        task = await me.submit("t1", capability="echo")
        await a1.done(await a1.award())
        await me.result(task)
        a1.running["me.t1", "main"] = m.Running(task="me.t1", subtask="main", epoch=1)
        a1.running["me.t9", "main"] = m.Running(task="me.t9", subtask="main", epoch=4)
        cancels = {(cancel.task, cancel.epoch) for cancel in [await a1.expect("cancel"), await a1.expect("cancel")]}
        assert cancels == {("me.t1", 1), ("me.t9", 4)}


async def test_claims_that_cannot_be_are_refused(place: Place) -> None:
    async with (
        coordinating(place) as coordinator,
        agent(place, "a1", "echo") as a1,
        agent(place, "a2", "other") as a2,
        client(place) as me,
    ):
        task = await me.submit("t1", capability="echo")
        award = await a1.award()
        await a1.accept(award)

        ahead = await a1.done(msgspec.structs.replace(award, epoch=7), "ahead")
        assert (await a1.expect("refused", lambda refused: refused.id == ahead)).error.code == "refused"

        stranger = await a2.done(award, "not mine")
        assert (await a2.expect("refused", lambda refused: refused.id == stranger)).error.code == "refused"

        boot, a1.boot = a1.boot, "0000000000000-earlier0"
        earlier = await a1.done(award, "an earlier life")
        a1.boot = boot
        await a1.expect("refused", lambda refused: refused.id == earlier)

        unknown = await a1.done(msgspec.structs.replace(award, task="me.t404"), "unknown")
        refused = await a1.expect("refused", lambda refused: refused.id == unknown)
        assert refused.task == "me.t404"

        a1.running[award.task, award.subtask] = m.Running(task=award.task, subtask=award.subtask, epoch=award.epoch)
        await a1.done(award, "mine")
        assert bytes((await me.result(task)).result) == b'"mine"'
        assert coordinator.counters["claims refused"] >= 2


async def test_a_claim_waits_for_its_task(place: Place) -> None:
    """Unknown while its submit is in the queue is no reason to refuse: it comes again."""
    settings = dataclasses.replace(QUICK, open_tasks=0)
    async with agent(place, "a1", "echo") as a1, client(place) as me:
        task = await me.submit("t1", capability="echo")
        async with coordinating(place, settings=settings):
            award = m.Award(task=str(task), subtask="main", capability="echo", epoch=1, boot=a1.boot)
            await a1.done(award, "early")
            assert (await me.state(task)).state == "waiting"
        async with coordinating(place, settings=dataclasses.replace(QUICK, accept_timeout_s=10.0)):
            assert bytes((await me.result(task)).result) == b'"early"'
        assert a1.count("refused") == 0


async def test_feedback_that_overtakes_its_submit_counts(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is decided in the same turn as the submit, before it: no reason to refuse it."""
    async with coordinating(place) as coordinator, agent(place, "a1", "echo") as a1, client(place) as me:
        await me.until_agents(1)
        read, both_are_here = coordinator._log.read, anyio.Event()

        async def slow(shard: int, task: TaskName) -> Any:
            await both_are_here.wait()
            return await read(shard, task)

        monkeypatch.setattr(coordinator._log, "read", slow)
        task = TaskName("me", "t1")
        await me.claim("feedback", task, m.FeedbackClaim(text="early"))
        await me.submit("t1", capability="echo")
        with anyio.fail_after(60):
            while (entry := coordinator._tasks.get(task)) is None or len(entry.inputs) < 2:
                await anyio.sleep(0.01)
        both_are_here.set()
        award = await a1.award()
        said = [given.text for given in award.feedback] or [(await a1.expect("feedback")).text]
        assert said == ["early"]
        await a1.done(award, 1)
        await me.result(task)
        assert me.count("refused") == 0


async def test_undecodable_stops_nothing(place: Place) -> None:
    async with coordinating(place) as coordinator, agent(place, "a1", "echo") as a1, client(place) as me:
        task = await me.submit("t1", capability="echo")
        award = await a1.award()
        subject = a1.subjects.claim("a1", "done", task)
        store = a1.connection.store
        no_json, id = await store(subject, b"no json {", headers("done")), new_id()
        await store(subject, b'{"subtask":"main"}', headers("done", id=id))
        await store(subject, b'{"subtask":1,"epoch":"x","boot":[]}', headers("done"))
        await store(subject, b'{"subtask":"main","epoch":1,"boot":"x","result":"\xff"}', headers("done"))
        await store(subject, b"{}", headers("from-the-future"))
        await store(subject, b"{}", {H_ID: new_id()})
        await store(subject, b"{}", {H_TYPE: "done"})
        await store(a1.subjects.claim("a1", "cancel", task), b'{"subtask":"main","epoch":1,"boot":"x"}', headers("done"))
        await store(a1.subjects.claim("a.1".replace(".", "~"), "done", task), b"{}", headers("done"))
        await store(me.subjects.submit(TaskName("me", "t2"), "normal"), b"[]", headers("submit"))
        assert no_json > 0
        assert (await a1.expect("refused", lambda refused: refused.id == id)).error.code == "input"
        assert (await me.expect("refused", lambda refused: refused.task == "me.t2")).error.code == "input"
        await a1.done(award, "fine")
        assert (await me.result(task)).state == "completed"
        counted = {name: count for name, count in coordinator.counters.items() if name.startswith("messages")}
        assert counted == {"messages undecodable": 6, "messages unknown": 2, "messages untyped": 1}
        assert len(coordinator.unusable) == 9
        info = await me.connection.api(f"STREAM.INFO.{stream_name(INBOX, me.connection.prefix)}", {})
        assert info["state"]["messages"] == 0, "all are acknowledged"


async def test_headers_and_subjects_that_the_client_cannot_read_stop_nothing(place: Place) -> None:
    """nats-py alone ends the connection over them, and they come again after every reconnect."""
    async with coordinating(place) as coordinator, agent(place, "a1", "echo") as a1, client(place) as me:
        await me.until_agents(1)
        stream = await anyio.connect_tcp("127.0.0.1", int(place.url.rsplit(":", 1)[1]))
        async with stream:
            await stream.send(b'CONNECT {"verbose":false,"headers":true}\r\n')
            subject = f"{place.prefix}.from.w.done.me".encode()
            for head in (b"NATS/1", b"NATS/1.0\r\n", b"NATS/1.0\r\n\xff\r\n\r\n", b"\xff" * 20):
                await stream.send(b"HPUB %s.x %d %d\r\n%s{}\r\n" % (subject, len(head), len(head) + 2, head))
            await stream.send(b"PUB %s.\xff\xfe 2\r\n{}\r\nPING\r\n" % subject)
            while b"PONG" not in await stream.receive():
                pass
        info = f"STREAM.INFO.{stream_name(INBOX, me.connection.prefix)}"
        task = await me.submit("t1", capability="echo")
        await a1.done(await a1.award(), 1)
        assert (await me.result(task)).state == "completed"
        with anyio.fail_after(60):
            while (await me.connection.api(info, {}))["state"]["messages"]:
                await anyio.sleep(0.05)  # acknowledged one after another, which nobody tells
        assert len(coordinator.unusable) == 5


async def test_offers_and_bids_that_cannot_be_read_are_told_once(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    async with coordinating(place) as coordinator, agent(place, "a1", "echo") as a1, client(place) as me:
        await me.until_agents(1)
        offer, bid = me.subjects.offer("odd"), me.subjects.bid("odd", 3, TaskName("me", "t1"))
        await me.connection.publish(me.subjects.lease(3), b"[]", headers("lease"))
        await me.connection.publish(me.subjects.member("odd"), b"[]", headers("member"))
        with anyio.fail_after(60):
            while coordinator.counters["messages undecodable"] < 20 or not {offer, bid} <= {
                subject for subject, *_ in coordinator.unusable
            }:
                await me.connection.publish(offer, b'{"boot":"1","capacity":1.5}', headers("offer"))
                await me.connection.publish(bid, b'{"call":1}', headers("bid"))  # heard while the shard is held
                await anyio.sleep(0.02)
        task = await me.submit("t1", capability="echo")
        await a1.done(await a1.award(), 1)
        assert (await me.result(task)).state == "completed"
        assert [text for subject, text, _ in coordinator.unusable if subject == offer] == ["no valid offer"]
        told = [
            subject for subject in (offer, bid) for line in caplog.messages if line.startswith(f"What comes on {subject} cannot be used")
        ]
        assert told == [offer, bid]


async def test_a_done_that_names_no_body_is_a_failure(place: Place) -> None:
    async with coordinating(place), agent(place, "a1", "echo") as a1, client(place) as me:
        task = await me.submit("t1", capability="echo")
        award = await a1.award()
        absurd = m.BlobRef(digest="0" * 64, bytes=1, chunks=300_000)
        done = m.Done(subtask="main", epoch=award.epoch, boot=award.boot, result_blob=absurd)
        await a1.claim("done", task, done)
        result = await me.result(task)
        assert result.error is not None
        assert (result.state, "300000 chunks" in result.error.message) == ("failed", True)


async def test_cancel(place: Place) -> None:
    async with coordinating(place), agent(place, "a1", "echo") as a1, client(place) as me:
        task = await me.submit("t1", capability="echo")
        award = await a1.award()
        await a1.accept(award)
        await me.claim("cancel", task, m.CancelTask(reason="enough"))
        cancel = await a1.expect("cancel")
        assert (cancel.epoch, cancel.grace_s) == (award.epoch, 5.0)
        result = await me.result(task)
        assert result.state == "cancelled"
        assert result.error is not None
        assert result.error.message == "enough"


async def test_cancel_before_the_submit_is_a_tombstone(place: Place) -> None:
    async with coordinating(place), agent(place, "a1", "echo") as a1, client(place) as me:
        task = TaskName("me", "t1")
        await me.claim("cancel", task, m.CancelTask(reason="never mind"))
        assert (await me.result(task)).state == "cancelled"
        await me.submit("t1", capability="echo")
        assert (await me.result(task)).state == "cancelled"
        assert (await me.state(task)).state == "cancelled"
        assert a1.count("award") == 0


async def test_submitted_twice(place: Place) -> None:
    async with coordinating(place), agent(place, "a1", "echo") as a1, client(place) as me:
        task = await me.submit("t1", capability="echo", input=INPUT)
        await a1.done(await a1.award(), 5)
        await me.result(task)
        await me.submit("t1", capability="echo", input=INPUT)
        assert bytes((await me.result(task)).result) == b"5", "the same again: its result again"
        id = new_id()
        await me.submit("t1", capability="echo", input=Raw(b'{"x":2}'), id=id)
        refused = await me.expect("refused")
        assert (refused.id, refused.error.code) == (id, "refused")
        assert a1.count("award") == 0


async def test_bad_submits_are_refused(place: Place) -> None:
    async with coordinating(place), client(place) as me:
        step = m.SubtaskSpec(capability="echo", after=["b"])
        bad = {
            "none": m.Submit(),
            "both": m.Submit(capability="echo", goal="win"),
            "empty": m.Submit(plan=m.PlanSpec(subtasks={})),
            "cycle": m.Submit(plan=m.PlanSpec(subtasks={"a": step, "b": m.SubtaskSpec(capability="echo", after=["a"])})),
            "unknown": m.Submit(plan=m.PlanSpec(subtasks={"a": step})),
            "capability": m.Submit(capability="not a name"),
            "policy": m.Submit(capability="echo", award="by-beauty"),
        }
        for name, submit in bad.items():
            task = await me.submit(name, submit)
            refused = await me.expect("refused")
            assert (refused.task, refused.error.code) == (str(task), "input")
            if name == "cycle":
                assert refused.error.details["path"] == ["a", "b", "a"]
        assert (await me.state(TaskName("me", "cycle"))).state == "unknown"


async def test_feedback_reaches_the_agent(place: Place) -> None:
    async with coordinating(place), agent(place, "a1", "echo") as a1, client(place) as me, client(place, "eve") as eve:
        task = await me.submit("t1", capability="echo")
        award = await a1.award()
        await a1.accept(award)
        said = m.FeedbackClaim(subtask="main", verdict="revise", text="bigrams", data=Raw(b"[1]"))
        id = await me.claim("feedback", task, said)
        given = await a1.expect("feedback")
        assert (given.id, given.sender, given.verdict, given.text, bytes(given.data)) == (id, "me", "revise", "bigrams", b"[1]")
        assert given.epoch == award.epoch
        stranger = await eve.claim("feedback", task, said)
        assert (await eve.expect("refused")).id == stranger
        await a1.failed(award)
        again = await a1.award()
        assert [kept.id for kept in again.feedback] == [id], "the next attempt gets it with the award"
        await a1.done(again)
        await me.result(task)


async def test_release_uses_no_try(place: Place) -> None:
    async with coordinating(place), agent(place, "a1", "echo") as a1, client(place) as me:
        task = await me.submit("t1", capability="echo", retries=0)
        first = await a1.award()
        await a1.accept(first)
        await a1.claim("release", task, m.Release(subtask="main", epoch=first.epoch, boot=a1.boot, reason="bye"))
        a1.running.clear()
        await a1.done(await a1.award())
        assert (await me.result(task)).state == "completed"


async def test_a_late_claim_after_all_was_forgotten(place: Place) -> None:
    """Another coordinator, which remembers nothing, reads from the log that the task has ended."""
    async with agent(place, "a1", "echo") as a1, client(place) as me:
        async with coordinating(place, "first"):
            task = await me.submit("t1", capability="echo")
            award = await a1.award()
            await a1.done(award)
            await me.result(task)
        async with coordinating(place, "second"):
            await a1.done(award, "again")
            cancel = await a1.expect("cancel")
            assert (cancel.task, cancel.epoch) == (str(task), award.epoch)


async def test_call_and_broadcast_auctions(place: Place) -> None:
    async with (
        coordinating(place),
        agent(place, "a1", "echo") as a1,
        agent(place, "a2", "echo") as a2,
        client(place) as me,
    ):
        await me.until_agents(2)
        task = await me.submit("t1", capability="echo", auction="call", tailored=True, input=INPUT)
        for bidder, seconds in ((a1, 5.0), (a2, 1.0)):
            call = await bidder.expect("call")
            assert bytes(call.input) == bytes(INPUT)
            bid = m.Bid(subtask="main", call=call.call, boot=bidder.boot, estimate_s=seconds)
            await bidder.bid(task, call.shard, bid)
        await a2.done(await a2.award())
        await me.result(task)
        bids = (await me.view(task)).subtasks["main"].bids
        assert [(bid.agent, bid.source, bid.won) for bid in bids] == [("a2", "call", True), ("a1", "call", False)]

        await a1.listen("echo")
        task = await me.submit("t2", capability="echo", auction="broadcast")
        call = await a1.expect("call")
        await a1.bid(task, call.shard, m.Bid(subtask="main", call=call.call, boot=a1.boot, estimate_s=1.0))
        await a1.done(await a1.award())
        assert (await me.result(task)).state == "completed"
