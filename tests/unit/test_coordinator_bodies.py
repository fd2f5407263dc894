"""Records, bodies, errands, answers and inbound messages: the pure work on bytes that a coordinator does."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Any, NamedTuple, TypeVar

import msgspec
import pytest
from msgspec import Raw
from msgspec.structs import replace
from table import Table

from agentexecutor.coordinator import errands, records
from agentexecutor.coordinator.answers import Head, Line, log_lines, log_page, newest, task_line, unserved_splits
from agentexecutor.coordinator.bodies import fitting_feedback, gather, join_lists, list_length, refusal_of
from agentexecutor.coordinator.briefing import OfferLine
from agentexecutor.coordinator.entry import Entry
from agentexecutor.coordinator.evolve import apply, fold
from agentexecutor.coordinator.inbound import Unusable, heard_of, read_claim, read_submit
from agentexecutor.coordinator.inputs import (
    CancelIn,
    ClaimIn,
    Demand,
    FeedbackIn,
    GiveAward,
    Key,
    NeedCompose,
    NeedRevision,
    NeedSplit,
    SubmitIn,
)
from agentexecutor.coordinator.model import new_task
from agentexecutor.coordinator.turns import SplitWanted, Turn
from agentexecutor.schemas import large
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import (
    H_ID,
    H_PRIORITY,
    H_ROLLUP,
    H_STATE,
    H_TTL,
    H_TYPE,
    INLINE_LIMIT,
    decode_record,
    digest,
    encode,
    headers,
)
from agentexecutor.schemas.errors import AgentExecutorError, DecodeFailed, PlanRefused
from agentexecutor.schemas.names import TaskName
from agentexecutor.schemas.plans import MAX_PLAN, MAX_SUBTASKS
from agentexecutor.schemas.subjects import Subjects

T1 = TaskName("me", "t1")
AT = "2026-11-23T10:00:00.000000Z"
T = TypeVar("T")


class Stored(NamedTuple):
    seq: int
    time: str
    payload: bytes | None


class Store:
    """Bodies by digest; runs errands by hand."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}

    def put(self, body: bytes) -> m.BlobRef:
        self.bodies[digest(body)] = body
        return m.BlobRef(digest=digest(body), bytes=len(body), chunks=max(1, -(-len(body) // INLINE_LIMIT)))

    def run(self, errand: Generator[m.BlobRef | bytes | Callable[[], Any], Any, T]) -> T:
        try:
            need = next(errand)
            while True:
                if isinstance(need, m.BlobRef):
                    if need.digest not in self.bodies:
                        need = errand.throw(PlanRefused("gone"))
                        continue
                    need = errand.send(self.bodies[need.digest])
                elif isinstance(need, bytes):
                    need = errand.send(self.put(need))
                else:
                    try:
                        came = need()
                    except AgentExecutorError as error:
                        need = errand.throw(error)
                        continue
                    need = errand.send(came)
        except StopIteration as stop:
            result: T = stop.value
            return result


# records


def test_a_record_is_joined_from_encoded_pieces() -> None:
    changes = [records.encode_change(r.Ready(subtasks=["a"])), records.encode_change(r.Held())]
    payload = records.encode_record("c1", AT, changes, applied=["x"])
    assert decode_record(payload) == r.Record(coordinator="c1", at=AT, changes=[r.Ready(subtasks=["a"]), r.Held()], applied=["x"])


def test_the_last_record_carries_the_history() -> None:
    first = records.encode_record("c1", AT, [records.encode_change(r.Held())])
    history = [records.encode_entry(7, AT, first)]
    last = decode_record(records.encode_record("c1", AT, [], history=history, digest="d"))
    assert last.history == [r.LogEntry(seq=7, time=AT, record=decode_record(first))]
    assert records.decode_history(records.encode_history(history)) == last.history
    with pytest.raises(DecodeFailed):
        records.decode_history(b"[1]")


def test_changes_are_cut_into_pages() -> None:
    small, large = Raw(b"x" * 40), Raw(b"y" * 200)
    assert records.pages([small, small, small], limit=100) == [[small, small], [small]]
    assert records.pages([small, large, small], limit=100) == [[small], [large], [small]]
    assert records.pages([]) == [[]]


def test_headers_of_records() -> None:
    made = records.record_headers("running")
    assert (made[H_TYPE], made[H_STATE]) == ("record", "running")
    assert not made.keys() & {H_ROLLUP, H_TTL, H_PRIORITY}
    last = records.record_headers("completed", priority=-3, keep_s=60)
    assert (last[H_ROLLUP], last[H_TTL], last[H_PRIORITY]) == ("sub", "60s", "-3")
    assert last[H_ID] != made[H_ID]


# bodies


def test_lists_are_joined_as_text() -> None:
    parts: dict[str, Raw | bytes] = {"a": Raw(b"[1, 2]"), "b": b" [] ", "c": Raw(b"null"), "d": b'["x"]'}
    assert msgspec.json.decode(join_lists(parts)) == [1, 2, "x"]
    assert join_lists({}) == b"[]"
    with pytest.raises(PlanRefused, match="'b' is no list"):
        join_lists({"a": b"[1]", "b": b'{"x":1}'})


def test_parts_are_gathered_by_name() -> None:
    assert msgspec.json.decode(gather({"a": Raw(b"[1]"), 'b"': b"null"})) == {"a": [1], 'b"': None}


def test_length_of_a_list() -> None:
    ref = m.BlobRef(digest="d", bytes=1, chunks=1)
    assert list_length(Raw(b'[1,[2],{"x":3}]')) == 3
    body = Raw(b'{"rows":[1,2,3,4]}')
    assert list_length(body, m.Fill(at=[], blob=ref, path=["rows"])) == 4
    assert list_length(body, m.Fill(at=[], blob=ref, path=["rows"], slice=(1, 3))) == 2
    for raw, fill in ((Raw(b"5"), None), (body, m.Fill(at=[], blob=ref, path=["x"])), (body, None)):
        with pytest.raises(PlanRefused):
            list_length(raw, fill)


def test_feedback_that_an_award_has_room_for() -> None:
    def given(size: int) -> m.FeedbackMessage:
        return m.FeedbackMessage(task="me.t1", data=Raw(b"1" * size))

    small, large = given(10), given(200_000)
    assert fitting_feedback([small, large, small]) == [small, large, small]
    assert fitting_feedback([large, large, small]) == [large, small], "the newest counts"


def test_refusal_of() -> None:
    assert refusal_of(PlanRefused("no.", hint="do.")).message == "no. do."
    assert "not the JSON" in refusal_of(ValueError("x")).message


# errands


def test_a_plan_by_reference() -> None:
    store = Store()
    plan = m.PlanSpec(subtasks={"a": m.SubtaskSpec(capability="x")})
    submit = SubmitIn(m.Submit(plan_blob=store.put(encode(plan))), "d", 1.0)
    assert store.run(errands.fetch_plan(submit)).submit.plan == plan
    gone = SubmitIn(m.Submit(plan_blob=m.BlobRef(digest="?", bytes=1, chunks=1)), "d", 1.0)
    assert store.run(errands.fetch_plan(gone)).error == m.ErrorInfo(code="input", message="gone")


def test_a_plan_that_is_too_large_is_not_read() -> None:
    store = Store()
    large = m.BlobRef(digest="?", bytes=MAX_PLAN + 1, chunks=33)
    error = store.run(errands.fetch_plan(SubmitIn(m.Submit(plan_blob=large), "d", 1.0))).error
    assert error is not None
    assert "has 8388609 bytes, more than 8388608" in error.message, "and not: gone"
    many = {f"s{number}": m.SubtaskSpec(capability="x") for number in range(MAX_SUBTASKS + 1)}
    ref = store.put(encode(m.PlanSpec(subtasks=many)))
    error = store.run(errands.fetch_plan(SubmitIn(m.Submit(plan_blob=ref), "d", 1.0))).error
    assert error is not None
    assert "more than 20000" in error.message


def test_a_planners_answer_that_is_too_large_is_not_read() -> None:
    store, state = Store(), new_task(TaskName("me", "t1"), 0)
    for body in (
        m.BlobRef(digest="?", bytes=MAX_PLAN + 1, chunks=33),
        Raw(b'{"add":{' + b",".join(b'"%d":{}' % n for n in range(20_001)) + b"}}"),
    ):
        made = store.run(errands.read_revision(state, NeedRevision("plan-1", 1, body), []))
        assert made.revision is None
        assert "more than" in made.error
    nonsense = store.run(errands.read_revision(state, NeedRevision("plan-1", 1, Raw(b'"hello"')), []))
    assert nonsense.error.startswith("not a Revision: Expected `object`, got `str`")


def test_a_large_result_goes_by_reference() -> None:
    store = Store()
    done = m.Done(subtask="a", epoch=1, boot="b", result=Raw(b'"large"'))
    made = store.run(errands.by_reference(ClaimIn("a1", done, "x"))).claim
    assert isinstance(made, m.Done)
    assert (bytes(made.result), made.result_blob) == (b"null", store.put(b'"large"'))


def test_compose() -> None:
    store = Store()
    need = NeedCompose("a", {"x": Raw(b"[1]"), "y": store.put(b"[2]")}, join=True)
    assert bytes(store.run(errands.compose(need)).result) == b"[1,2]"
    large = NeedCompose(None, {"x": store.put(b"[" + b"1," * 200_000 + b"1]"), "y": Raw(b"2")}, join=False)
    made = store.run(errands.compose(large))
    assert made.result_blob is not None
    assert msgspec.json.decode(store.bodies[made.result_blob.digest])["y"] == 2
    gone = NeedCompose("a", {"x": m.BlobRef(digest="?", bytes=1, chunks=1)}, join=True)
    assert store.run(errands.compose(gone)).error is not None


def test_a_log_is_loaded_with_all_that_it_names() -> None:
    store = Store()
    add = {"main": m.SubtaskSpec(capability="x")}
    submitted = r.Submitted(submit=m.Submit(capability="x"), digest="d", at=1.0)
    planned = r.Planned(add_blob=store.put(encode(add)))
    first = encode(r.Record(coordinator="c1", at=AT, changes=[submitted, planned]))
    second = encode(r.Record(coordinator="c1", at=AT, changes=[r.Ready(subtasks=["main"])]))
    stored = [Stored(3, AT, first), Stored(4, AT, b"no record"), Stored(5, AT, second), Stored(6, AT, None)]
    loaded = store.run(errands.load(T1, 0, stored))
    assert (loaded.state.subtasks["main"].state, loaded.state.head) == ("ready", 6)
    assert [seq for seq, _ in loaded.unreadable] == [4]
    assert len(loaded.history) == 2

    history = store.put(records.encode_history(loaded.history))
    last = encode(r.Record(coordinator="c2", at=AT, changes=[r.Cancelled()], history_blob=history))
    ended = store.run(errands.load(T1, 0, [Stored(9, AT, last)]))
    assert (ended.state.state, ended.state.head, ended.state.coordinators) == ("cancelled", 9, ["c1", "c2"])
    body, next = store.run(errands.page_of_log([Stored(9, AT, last)], 0, more=False))
    assert [entry["seq"] for entry in msgspec.json.decode(body)["records"]] == [3, 5, 9]
    assert next is None


def test_a_long_log_is_folded_where_it_does_not_hold_up_the_loop() -> None:
    store = Store()
    texts: list[r.Change] = [r.FeedbackGiven(id=f"f{n}", sender="me", text="x" * 1000) for n in range(1200)]
    changes: list[r.Change] = [
        r.Submitted(submit=m.Submit(capability="x"), digest="d", at=1.0),
        r.Planned(add={"main": m.SubtaskSpec(capability="x")}),
        *texts,
    ]
    entry = records.encode_entry(3, AT, encode(r.Record(coordinator="c1", at=AT, changes=changes)))
    last = encode(r.Record(coordinator="c2", at=AT, changes=[r.Cancelled()], history_blob=store.put(records.encode_history([entry]))))
    apart: list[str] = []

    def run(errand: errands.Errand[T]) -> T:
        def noted() -> errands.Errand[T]:
            came: Any = None
            while True:
                try:
                    need = errand.send(came)
                except StopIteration as stop:
                    done: T = stop.value
                    return done
                if isinstance(need, partial):
                    apart.append(need.func.__name__)
                came = yield need

        return store.run(noted())

    assert run(errands.load(T1, 0, [Stored(9, AT, last)])).state.state == "cancelled"
    assert apart == ["decode_history", "_fold"]


def test_a_large_proposal_and_long_lists_of_names_are_stored_and_read_again() -> None:
    store = Store()
    names = [f"s{n}-{'x' * 50}" for n in range(2000)]
    why = [r.Why(trigger="message", answer="plan", text="?" * 1000)] * 100
    revision = r.Revision(add={name: m.SubtaskSpec(capability="x") for name in names}, again=["main"], finish=True)
    changes: list[r.Change] = [
        r.Submitted(submit=m.Submit(goal="x"), digest="d", at=1.0),
        r.Planned(version=1, cause="goal", add={"plan-1": m.SubtaskSpec(capability="plan")}, why=why),
        r.Proposed(why=why, revision=revision, planner="plan-1"),
        r.Planned(version=2, base=1, cause="replan", add=revision.add, planner="plan-1", why=why[:1], finish=True),
        r.Planned(version=3, base=2, cause="replan", again=names[:1000], remove=names[1000:], why=why),
        r.Planned(version=3, cause="split", add={}, parent=names[0], shares=dict.fromkeys(names, (0, 1))),
    ]
    turn = Turn(AT, changes=[*changes], encoded=[records.encode_change(change) for change in changes])
    store.run(errands.store_plans(turn))
    assert max(len(encoded) for encoded in turn.encoded) < 2000
    record = records.encode_record("c1", AT, turn.encoded[:-1])
    loaded = store.run(errands.load(T1, 0, [Stored(3, AT, record)]))
    folded = fold(T1, 0, [(3, r.Record(coordinator="c1", at=AT, changes=changes[:-1]))])
    assert loaded.state == folded
    proposed = decode_record(records.encode_record("c1", AT, turn.encoded[2:3])).changes[0]
    assert isinstance(proposed, r.Proposed)
    assert (proposed.revision, proposed.why) == (None, [])
    open_task = records.encode_record("c1", AT, turn.encoded[:3])
    assert store.run(errands.load(T1, 0, [Stored(3, AT, open_task)])).state.proposed == changes[2]
    shares = decode_record(records.encode_record("c1", AT, turn.encoded[-1:])).changes[0]
    assert large.put_back(shares, {name: store.bodies[ref.digest] for name, ref in large.references(shares).items()}) == replace(
        changes[-1], rest_blob=None
    )


def test_a_planners_large_result_goes_by_reference() -> None:
    store = Store()
    goal = r.Planned(version=1, cause="goal", add={"plan-1": m.SubtaskSpec(capability="plan")})
    submitted = r.Submitted(submit=m.Submit(goal="x"), digest="d", at=1.0)
    state = fold(T1, 0, [(1, r.Record(coordinator="c1", at=AT, changes=[submitted, goal]))])
    body = Raw(encode(r.Revision(finish=True, output=Raw(b'"' + b"x" * 300_000 + b'"'))))
    answer = store.run(errands.read_revision(state, NeedRevision("plan-1", 1, body), [OfferLine(name="plan", agents=1, free=1)]))
    assert answer.revision is not None
    assert (answer.revision.output, answer.revision.output_blob) == (msgspec.UNSET, store.put(b'"' + b"x" * 300_000 + b'"'))


def test_large_plans_and_histories_are_stored() -> None:
    store = Store()
    add = {f"s{n}": m.SubtaskSpec(capability="x" * 100) for n in range(1000)}
    planned = r.Planned(add=add)
    turn = Turn(AT, changes=[planned, r.Held()], encoded=[records.encode_change(planned), records.encode_change(r.Held())])
    store.run(errands.store_plans(turn))
    assert len(turn.encoded[0]) < 1000
    assert store.put(encode(add)).digest in bytes(turn.encoded[0]).decode()
    entry, state = Entry(T1, 0), new_task(T1, 0)
    entry.history = [Raw(b'{"x":"' + b"y" * 300_000 + b'"}')]
    state.state, state.digest = "completed", "d"
    record = decode_record(store.run(errands.last_page(entry, state, turn, [], "c1")))
    assert record.history_blob is not None
    assert (record.history, record.digest) == ([], "d")


def test_the_list_to_be_split() -> None:
    store = Store()
    demand = Demand("x", {}, 0, None, None, tailored=False, prefer=None)
    state = new_task(T1, 0)
    add = {"src": m.SubtaskSpec(capability="x"), "all": m.SubtaskSpec(capability="x")}
    apply(state, r.Record(coordinator="c", at=AT, changes=[r.Submitted(submit=m.Submit(), digest="", at=0.0), r.Planned(add=add)]), 1)
    state.subtasks["src"].result = store.put(b'{"rows":[1,2,3]}')

    def length(input: bytes, blob: m.BlobRef | None = None) -> Any:
        return store.run(errands.list_to_split(state, NeedSplit("all", Raw(input), blob, m.Split(over="w"), demand)))

    assert length(b'{"w":[1,2]}') == 2
    assert length(b"{}", store.put(b'{"w":[1,2,3,4]}')) == 4
    assert length(b'{"w":{"$ref":"src/rows"}}') == 3
    assert length(b'{"w":{"$ref":"src/rows","$slice":[0,2]}}') == 2
    for bad in (b'{"w":5}', b'{"x":[]}', b'{"w":{"$ref":"src/none"}}', b"[]"):
        assert length(bad).error.code == "input"


# answers


def test_pages_of_a_log() -> None:
    lines = [Line(seq, Raw(b'{"seq":%d}' % seq)) for seq in (1, 4, 9)]
    assert log_page(lines, 0, more=False) == (b'{"records":[{"seq":1},{"seq":4},{"seq":9}]}', None)
    assert log_page(lines, 1, more=False, limit=10) == (b'{"records":[{"seq":4}]}', 4)
    assert log_page(lines, 9, more=False) == (b'{"records":[]}', None)
    assert log_page(lines, 0, more=True)[1] == 9


def test_an_open_record_is_one_line() -> None:
    record = encode(r.Record(coordinator="c", at=AT, changes=[r.Held()]))
    (line,) = log_lines(5, AT, record)
    assert msgspec.json.decode(line.entry, type=r.LogEntry) == r.LogEntry(seq=5, time=AT, record=decode_record(record))


def test_newest_tasks() -> None:
    heads = [Head(float(n), TaskName("me" if n % 2 else "you", str(n)), "running" if n < 3 else "completed", n) for n in range(6)]
    assert [head.stamp for head in newest(heads, m.Ask(limit=2))] == [5.0, 4.0]
    assert [head.stamp for head in newest(heads, m.Ask(states=["running"], owner="me"))] == [1.0]
    assert task_line(heads[1]).at == "1970-01-01T00:00:01.000000Z"


def test_splits_without_agents_are_unserved_demand() -> None:
    demand = Demand("x", {"zone": "eu"}, 0, None, None, tailored=False, prefer=None)
    need = NeedSplit("all", m.EMPTY, None, m.Split(over="w"), demand)
    (line,) = unserved_splits(10.0, {Key(T1, "all"): SplitWanted(need, 5, 4.0), Key(T1, "more"): SplitWanted(need, 5, 7.0)})
    assert (line.capability, line.labels, line.subtasks, line.oldest_s, line.tasks) == ("x", {"zone": "eu"}, 2, 6.0, ["me.t1"])


# inbound

SUBJECTS = Subjects()
DONE = encode(m.Done(subtask="main", epoch=1, boot="b"))


def claim(kind: str, payload: bytes, made: dict[str, str], peer: str = "a1") -> Any:
    return read_claim(SUBJECTS, SUBJECTS.inbox(3, kind, T1, peer), payload, made)


def test_claims_are_read() -> None:
    assert claim("done", DONE, headers("done", id="x")) == (3, T1, ClaimIn("a1", m.Done(subtask="main", epoch=1, boot="b"), "x"))
    assert claim("cancel", b'{"reason":"r"}', headers("cancel-task", id="x")) == (3, T1, CancelIn("a1", "r", "x"))
    assert claim("feedback", b"{}", headers("feedback-claim", id="x")) == (3, T1, FeedbackIn("a1", m.FeedbackClaim(), "x"))


@pytest.mark.parametrize(
    ("kind", "payload", "made", "why"),
    [
        ("done", DONE, {}, "untyped"),
        ("done", DONE, headers("failed"), "unknown"),
        ("cancel", DONE, headers("done"), "unknown"),
        ("future", b"{}", headers("future"), "unknown"),
        ("offer", encode(m.Offer(boot="b", capabilities=[])), headers("offer"), "unknown"),
        ("done", b"no json", headers("done"), "undecodable"),
        ("done", b"{}", headers("done"), "undecodable"),
        ("done", b'{"subtask":"a","epoch":-1,"boot":"b"}', headers("done"), "undecodable"),
        ("feedback", b'{"text":"\xff"}', headers("feedback-claim"), "undecodable"),
        ("extend", b'{"subtask":"a","epoch":1,"boot":"b","call":1,"child":[1e400]}', headers("extend"), "undecodable"),
        ("done", b"[" * 100_000, headers("done"), "undecodable"),
        ("done", DONE, {H_TYPE: "done"}, "undecodable"),
        ("done", DONE, headers("done", id="x" * 65), "undecodable"),
    ],
)
def test_what_cannot_be_used(kind: str, payload: bytes, made: dict[str, str], why: str) -> None:
    with pytest.raises(Unusable) as unusable:
        claim(kind, payload, made)
    assert unusable.value.fields["why"] == why
    assert unusable.value.fields["peer"] == "a1"


@pytest.mark.parametrize(
    ("kind", "rest"),
    [
        ("done", b'"result":"\xff"'),
        ("done", b'"result":1e400'),
        ("done", b'"result":"\\ud83d"'),
        *[("done", b'"result":' + b"[" * depth + b"]" * depth) for depth in (500, 1100, 100_000)],
        ("done", b'"result":["\xff","\\ud800","\\"]}",{"subtask":"b","epoch":2}]'),
        ("done", b'"result_blob":{"digest":"' + b"0" * 64 + b'","bytes":3,"chunks":7}'),
        ("done", b'"usage":{"tokens":-1}'),
        ("done", b'"took_s":"long"'),
        ("failed", b'"error":7'),
        ("failed", b'"error":{"code":"x","message":"y","details":{"n":1e400}}'),
    ],
)
def test_an_end_that_nobody_can_read_is_a_failure(kind: str, rest: bytes) -> None:
    """Refused, it would be no end: the work would be given to another, and be done again."""
    _, _, read = claim(kind, b'{"subtask":"a","epoch":1,"boot":"b",' + rest + b"}", headers(kind, id="x"))
    assert isinstance(read, ClaimIn)
    assert isinstance(read.claim, m.Failed)
    assert (read.claim.subtask, read.claim.epoch, read.claim.boot) == ("a", 1, "b")
    assert (read.claim.error.code, read.claim.error.retryable) == ("handler", False)
    assert read.claim.error.message.startswith(f"The agent's `{kind}` cannot be read: ")
    encode(read.claim).decode()


def test_the_fields_of_an_end_are_those_of_the_message() -> None:
    inside = b'{"result":[{"subtask":"x","epoch":9,"boot":"x"},1e400,"\\"subtask\\":\\"y\\""],"boot":"b","subtask":"a","epoch":1}'
    _, _, read = claim("done", inside, headers("done", id="x"))
    assert isinstance(read, ClaimIn)
    assert (read.claim.subtask, read.claim.epoch, read.claim.boot) == ("a", 1, "b")


def test_names_that_may_not_be() -> None:
    with pytest.raises(Unusable) as unusable:
        claim("done", DONE, headers("done"), peer="a~1")
    assert unusable.value.fields["task"] is None


def test_submits_are_read() -> None:
    payload = encode(m.Submit(capability="x"))
    subject = f"{SUBJECTS.prefix}.new.5.high.me.t1"
    made = headers("submit", {"traceparent": "00-a-b-01"}, id="x")
    shard, klass, task, input = read_submit(SUBJECTS, subject, payload, made, 12.5)
    assert (shard, klass, task) == (5, "high", T1)
    assert (input.digest, input.stamp, input.id, input.traceparent) == (digest(payload), 12.5, "x", "00-a-b-01")
    with pytest.raises(Unusable):
        read_submit(SUBJECTS, subject, b"[]", made, 0.0)


def test_whose_offer_it_is() -> None:
    heard = heard_of(b'{"boot":"b1","capacity":"no number","running":7}')
    assert heard is not None
    assert (heard.boot, bytes(heard.running)) == ("b1", b"7")
    for nonsense in (b"", b"[]", b'{"boot":1}', b'"\xff"', b'{"x":' * 3000 + b"1" + b"}" * 3000):
        assert heard_of(nonsense) is None


def test_an_award_carries_no_more_feedback_than_there_is_room_for() -> None:
    table = Table()
    table.submit("work")
    for text in ("a", "b", "c"):
        table.put(FeedbackIn("me", m.FeedbackClaim(text=text * (INLINE_LIMIT // 2 - 500)), table.id()))
    epoch = table.award()
    award = Store().run(errands.give_award(table.state, GiveAward("main", epoch), "c1"))
    assert isinstance(award, m.Award)
    assert [given.text[0] for given in award.feedback] == ["b", "c"]
    assert len(encode(award)) < INLINE_LIMIT + 2000
