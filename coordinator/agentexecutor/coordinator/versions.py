"""Plan versions: what of the old plan a new one keeps, runs again, replaces or removes. Pure.

Work is the same when its capability, its input, its split and what it needs (behind its references and `after`) are the same, and nobody has asked
for a revision of it since: its digest. What is the same is kept, as it stands; the rest is superseded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

import msgspec

from agentexecutor.coordinator.errors import NoRoom, RepeatedWork
from agentexecutor.coordinator.model import SubtaskState, TaskState
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import records as r
from agentexecutor.schemas.codec import digest
from agentexecutor.schemas.errors import PlanRefused
from agentexecutor.schemas.plans import MAX_SUBTASKS, check_plan, dependencies

__all__ = ["live", "next_version", "replaced", "work_digests"]


def live(state: TaskState) -> dict[str, SubtaskState]:
    """The subtasks that make up the plan: not planners, shares or children, nor what was superseded."""
    return {
        name: subtask
        for name, subtask in state.subtasks.items()
        if subtask.parent is None and not subtask.planner and subtask.state != "superseded"
    }


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
        if given.subtask is not None and given.verdict == "revise":
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
    input = msgspec.json.encode(msgspec.json.decode(spec.input), order="sorted")
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
    old = live(state)
    _check_names(state, old, revision)
    removed = {*revision.remove, *(name for name in old if revision.whole and name not in revision.add and name not in revision.again)}
    specs = {name: subtask.spec for name, subtask in old.items() if name not in removed} | revision.add
    result = revision.result if revision.result is not None else state.result_of
    if result in removed:
        result = None
    check_plan(m.PlanSpec(subtasks=specs, result=result))
    failed = [name for name, subtask in old.items() if subtask.state == "failed" and name in specs]
    anew = {*revision.again, *(name for name in failed if name in revision.add)}
    before = work_digests({name: subtask.spec for name, subtask in old.items()}, state.feedback)
    after = work_digests(specs, state.feedback, anew)
    add = {name: spec for name, spec in revision.add.items() if name not in old or before[name] != after[name]}
    again = [
        name
        for name, subtask in old.items()
        if name in specs and name not in add and before[name] != after[name] and _begun(subtask, name, anew)
    ]
    removed |= _given_up(specs, [name for name in failed if name not in add and name not in again])
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
    if planner is not None and state.replan.repeats:
        _refuse_repeats(state, change, before, work_digests(specs, state.feedback))
    return change


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
    """What has failed and nobody needs leaves the plan. Raises PlanRefused when somebody needs it."""
    for name, spec in specs.items() if failed else ():
        missing = [other for other in dependencies(spec) if other in failed]
        if missing and name not in failed:
            raise PlanRefused(
                f"{name!r} needs {missing[0]!r}, which has failed.", hint="Replace it, or what needs it.", path=[name, missing[0]]
            )
    return set(failed)


def _refuse_repeats(state: TaskState, change: r.Planned, before: Mapping[str, str], after: Mapping[str, str]) -> None:
    times = Counter(state.works)
    times.update(before[name] for name, subtask in live(state).items() if subtask.attempt)
    for name in [*change.add, *change.again]:
        times[after[name]] += 1
        if times[after[name]] >= state.replan.repeats:
            spec = change.add.get(name) or state.subtasks[name].spec
            raise RepeatedWork(
                f"{name!r} would be {spec.capability!r} with the same input for time {times[after[name]]}.",
                hint="Ask for something else, or for an end.",
                path=[name],
            )
