"""Plan versions: what of the old plan a new one keeps, runs again, replaces or removes. Pure.

Work is the same when its capability, its input, its split and what it needs (behind its references and `after`) are the same, and nobody has asked
for a revision of it since: its digest. What is the same is kept, as it stands; the rest is superseded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import msgspec

from agentexecutor.coordinator.errors import NoRoom, RepeatedWork
from agentexecutor.coordinator.model import SubtaskState, TaskState
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.bodies import readable
from agentexecutor.schemas.codec import digest
from agentexecutor.schemas.errors import PlanRefused
from agentexecutor.schemas.plans import MAX_SUBTASKS, check_plan, dependencies

__all__ = ["begun", "live", "next_version", "really_added", "replaced", "root_of", "work_digests"]

BY_VERSION = ("retry", "another", "split")
"""Answers that have the same work done again: with the feedback that asked for it, it is other work."""


def live(state: TaskState) -> dict[str, SubtaskState]:
    """The subtasks that make up the plan: not planners, shares or children, nor what was superseded."""
    return {
        name: subtask
        for name, subtask in state.subtasks.items()
        if subtask.parent is None and not subtask.planner and subtask.state != "superseded"
    }


def root_of(state: TaskState, subtask: SubtaskState) -> SubtaskState:
    """The subtask of the plan that a share or another child was made for; itself when it is one."""
    while subtask.parent is not None:
        subtask = state.subtasks[subtask.parent]
    return subtask


def replaced(state: TaskState, change: r.Planned) -> list[str]:
    """Whom a change supersedes: those that it names, with all their shares and children."""
    gone: dict[str, None] = {}
    named = [*change.remove, *change.again, *change.add]
    while named:
        subtask = state.subtasks.get(named.pop(0))
        if subtask is not None and subtask.state != "superseded" and subtask.name not in gone:
            gone[subtask.name] = None
            named += subtask.children
    return list(gone)


def work_digests(
    specs: Mapping[str, m.SubtaskSpec], feedback: Iterable[r.FeedbackGiven] = (), anew: Collection[str] = ()
) -> dict[str, str]:
    """A digest of each subtask's work. `anew`: these have never been done, whatever they are like."""
    said: dict[str, list[str]] = {}
    for given in feedback:
        again = given.why is not None and given.why.answer in BY_VERSION
        if given.subtask is not None and (given.verdict == "revise" or again):
            said.setdefault(given.subtask, []).append(given.id)
    made: dict[str, str] = {}
    needs = {name: [other for other in sorted(dependencies(spec)) if other in specs] for name, spec in specs.items()}
    for start in specs:
        stack = [start]
        while stack:
            name = stack[-1]
            missing = [other for other in needs[name] if other not in made]
            if name not in made and missing:
                stack += missing
                continue
            stack.pop()
            if name not in made:
                made[name] = _digest(specs[name], [made[other] for other in needs[name]], said.get(name, []), name if name in anew else "")
    return made


def _digest(spec: m.SubtaskSpec, upstream: list[str], said: list[str], anew: str) -> str:
    input = msgspec.json.encode(readable(spec.input), order="sorted")
    blob = "" if spec.input_blob is None else spec.input_blob.digest
    return digest(msgspec.json.encode([spec.capability, input.decode(), blob, spec.split, upstream, said, anew]))


def next_version(
    state: TaskState, revision: r.Revision, why: list[r.Why], *, planner: str | None = None, room: float = MAX_SUBTASKS
) -> r.Planned:
    """The next version of the plan as a difference to the present one. `room`: so many subtasks may still be made.

    Raises PlanRefused when the revision cannot be used (NoRoom: it is too large), RepeatedWork when it asks for the same once too often.
    """
    if not (revision.add or revision.again or revision.remove or revision.whole or revision.finish):
        raise PlanRefused("The new version changes nothing.", hint="Add, remove, or run something again; or say `finish`.")
    old, specs, removed, failed, anew, before, after = _compare(state, revision)
    add = _added(old, revision, before, after)
    again = [
        name
        for name, subtask in old.items()
        if name in specs and name not in add and before[name] != after[name] and _begun(subtask, name, anew)
    ]
    asked = {why.subtask for why in state.unanswered}
    left = [name for name in failed if name not in add and name not in again and name not in asked]
    removed |= _given_up(specs, left) if planner is not None else set()
    change = r.Planned(
        version=state.plan_version + 1,
        base=state.plan_version,
        cause="replan",
        why=why,
        add=add,
        again=again,
        remove=[name for name in old if name in removed],
        result=revision.result,
        finish=revision.finish or state.goal is None,
        planner=planner,
    )
    if not (change.add or change.again or change.remove or revision.finish):
        raise PlanRefused("The new version changes nothing.", hint="Add, remove, or run something again; or say `finish`.")
    if len(add) + len(again) > room or len(specs) > MAX_SUBTASKS:
        message = f"The new version has {len(add) + len(again)} new subtasks, and there may be {max(0, int(room))} more."
        raise NoRoom(message, hint="Ask for less, or keep more of what there is.", wanted=len(add) + len(again))
    if state.replan.repeats:
        _refuse_repeats(state, change, work_digests(specs, state.feedback))
    return change


def really_added(state: TaskState, revision: r.Revision) -> dict[str, m.SubtaskSpec]:
    """What of a revision's subtasks is no work that the plan has already. Raises PlanRefused when the revision cannot be used."""
    if not revision.add:
        return {}
    compared = _compare(state, revision)
    return _added(compared.old, revision, compared.before, compared.after)


class _Compared(NamedTuple):
    """The present plan and the one that a revision makes of it; `anew`: what is not kept though it is the same. Digests by name."""

    old: dict[str, SubtaskState]
    specs: dict[str, m.SubtaskSpec]
    removed: set[str]
    failed: list[str]
    anew: set[str]
    before: dict[str, str]
    after: dict[str, str]


def _compare(state: TaskState, revision: r.Revision) -> _Compared:
    old = live(state)
    _check_names(state, old, revision)
    removed = {*revision.remove, *(name for name in old if revision.whole and name not in revision.add and name not in revision.again)}
    specs = {name: subtask.spec for name, subtask in old.items() if name not in removed} | revision.add
    result = revision.result if revision.result is not None else state.result_of
    check_plan(m.PlanSpec(subtasks=specs, result=None if result in removed else result))
    failed = [name for name, subtask in old.items() if subtask.state == "failed" and name in specs]
    anew = {*revision.again, *(name for name in failed if name in revision.add)}
    before = work_digests({name: subtask.spec for name, subtask in old.items()}, state.feedback)
    return _Compared(old, specs, removed, failed, anew, before, work_digests(specs, state.feedback, anew))


def _added(
    old: Mapping[str, SubtaskState], revision: r.Revision, before: Mapping[str, str], after: Mapping[str, str]
) -> dict[str, m.SubtaskSpec]:
    return {name: spec for name, spec in revision.add.items() if name not in old or before[name] != after[name]}


def _begun(subtask: SubtaskState, name: str, anew: Collection[str]) -> bool:
    """What has not begun needs not be superseded because something before it is."""
    return name in anew or subtask.state != "blocked"


def _check_names(state: TaskState, old: Mapping[str, SubtaskState], revision: r.Revision) -> None:
    for name in [*revision.again, *revision.remove]:
        if name not in old:
            raise PlanRefused(f"The plan has no subtask {name!r}.", hint=f"It has {', '.join(list(old)[:20])}.", path=[name])
    for name in revision.add:
        there = state.subtasks.get(name)
        if there is not None and name not in old and there.state != "superseded":
            raise PlanRefused(f"{name!r} is the name of a planner, a share or a child.", hint="Choose another name.", path=[name])
    both = sorted({*revision.add, *revision.again} & {*revision.remove})
    if both:
        raise PlanRefused(f"{both[0]!r} is both removed and wanted.", path=both[:1])


def _given_up(specs: Mapping[str, m.SubtaskSpec], failed: Collection[str]) -> set[str]:
    """What has failed and nobody needs leaves the plan of a planner, who knew of it. Raises PlanRefused when somebody needs it.

    A version that answers something else leaves it alone: what is to become of it is still asked.
    """
    for name, spec in specs.items() if failed else ():
        missing = [other for other in dependencies(spec) if other in failed]
        if missing and name not in failed:
            raise PlanRefused(
                f"{name!r} needs {missing[0]!r}, which has failed.", hint="Replace it, or what needs it.", path=[name, missing[0]]
            )
    return set(failed)


def begun(state: TaskState, why: Collection[r.Why] = ()) -> dict[str, str]:
    """The digest of all work of the present plan that an agent has been awarded, by name; without the feedback that `why` is about, which came later."""
    plan = live(state)
    names = [name for name, subtask in plan.items() if subtask.attempt or any(state.subtasks[child].attempt for child in subtask.children)]
    if not names:
        return {}
    later = {one.feedback for one in why}
    digests = work_digests(
        {name: subtask.spec for name, subtask in plan.items()}, [given for given in state.feedback if given.id not in later]
    )
    return {name: digests[name] for name in names}


def _refuse_repeats(state: TaskState, change: r.Planned, after: Mapping[str, str]) -> None:
    """A planner may not ask for what was begun too often under any name; without a planner each subtask counts by itself."""
    times = {work: Counter(names) for work, names in state.works.items()}
    for name, work in begun(state, change.why).items():
        times.setdefault(work, Counter())[name] += 1
    for name in [*change.add, *change.again]:
        names = times.get(after[name], Counter())
        number = 1 + (names.total() if change.planner is not None else names[name])
        if number >= max(2, state.replan.repeats):
            spec = change.add.get(name) or state.subtasks[name].spec
            raise RepeatedWork(
                f"{name!r} would be {spec.capability!r} with the same input for time {number}.",
                hint="Ask for something else, or for an end.",
                path=[name],
            )
