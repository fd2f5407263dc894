"""Data-parallel shares: how a list is cut, and the subtasks that do the parts.

Equal shares are the seed's C_j = C / n; the other way is in proportion to the capacities on offer.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw

from agentexecutor.coordinator.model import SubtaskState
from agentexecutor.schemas import messages as m
from agentexecutor.schemas.codec import digest
from agentexecutor.schemas.errors import PlanRefused

__all__ = ["child_name", "cut", "list_reference", "share_specs"]


def cut(length: int, weights: list[int]) -> list[tuple[int, int]]:
    """Cut `length` items into ranges in proportion to `weights` (largest remainder); an empty range is left in its place."""
    total = sum(weights)
    exact = [length * weight / total for weight in weights]
    sizes = [int(part) for part in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: (sizes[i] - exact[i], i))
    for index in by_remainder[: length - sum(sizes)]:
        sizes[index] += 1
    ranges, start = [], 0
    for size in sizes:
        ranges.append((start, start + size))
        start += size
    return ranges


def child_name(parent: str, suffix: str) -> str:
    """The name of a child: the parent's and the suffix, shortened by a digest when that is too long."""
    name = f"{parent}-{suffix}"
    return name if len(name) <= 64 else f"{digest(parent.encode())[:12]}-{suffix}"  # noqa: PLR2004  # the wire's limit of a name


def list_reference(input: Raw, over: str) -> object:
    """What stands at `over` in an input: the list itself, or the reference to it. Raises PlanRefused."""
    value = msgspec.json.decode(input)
    if not isinstance(value, dict) or over not in value:
        raise PlanRefused(f"The input has no {over!r} to split over.", hint="Name a key of the input that holds a list.", path=[over])
    return value[over]


def share_specs(
    subtask: SubtaskState, length: int, capacities: list[tuple[str | None, int]]
) -> tuple[dict[str, m.SubtaskSpec], dict[str, tuple[int, int]]]:
    """The shares of a split subtask, its merge last when it has one, and the range of each. Raises PlanRefused."""
    split = subtask.spec.split
    if split is None:
        raise PlanRefused(f"Subtask {subtask.name!r} is not to be split.", path=[subtask.name])
    agents = _agents(split, capacities)
    weights = [1 if split.by == "equal" else max(1, capacity) for _, capacity in agents]
    ranges = [(agent, part) for (agent, _), part in zip(agents, cut(length, weights), strict=True) if part[0] < part[1]]
    if not ranges:
        ranges = [(None, (0, 0))]
    specs: dict[str, m.SubtaskSpec] = {}
    shares: dict[str, tuple[int, int]] = {}
    for number, (agent, part) in enumerate(ranges, 1):
        name = child_name(subtask.name, str(number))
        specs[name] = msgspec.structs.replace(
            subtask.spec, input=_input(subtask.spec, split.over, part), after=[], split=None, prefer=agent, on_failure="fail"
        )
        shares[name] = part
    if split.merge is not None:
        parts = [{"$ref": name} for name in specs]
        specs[child_name(subtask.name, "merge")] = m.SubtaskSpec(
            capability=split.merge,
            input=Raw(msgspec.json.encode({"parts": parts})),
            retries=subtask.spec.retries,
            priority=subtask.spec.priority,
        )
    return specs, shares


def _agents(split: m.Split, capacities: list[tuple[str | None, int]]) -> list[tuple[str | None, int]]:
    """Who the shares are cut for: the largest first when there are more agents than shares, round again when there are fewer."""
    agents = capacities or [(None, 1)]
    if split.into is None:
        return agents
    largest = sorted(agents, key=lambda agent: (-agent[1], agent[0] or ""))
    return [largest[i % len(largest)] for i in range(split.into)]


def _input(spec: m.SubtaskSpec, over: str, part: tuple[int, int]) -> Raw:
    """The input of one share. A large input that came by reference is cut by whoever composes it."""
    if spec.input_blob is not None:
        return spec.input
    value = msgspec.json.decode(spec.input)
    held = list_reference(spec.input, over)
    if isinstance(held, list):
        value[over] = held[part[0] : part[1]]
    elif isinstance(held, dict) and "$ref" in held:
        start = held.get("$slice", [0, 0])[0]
        value[over] = {"$ref": held["$ref"], "$slice": [start + part[0], start + part[1]]}
    else:
        raise PlanRefused(f"{over!r} is no list, so it cannot be split.", hint="Split over a list.", path=[over])
    return Raw(msgspec.json.encode(value))
