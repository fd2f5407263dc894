"""The demo's plan: load, features (shared out by capacity and merged), train, evaluate. Only capabilities are named here, no agents."""

from __future__ import annotations

from agentexecutor.schemas import Plan, Split, Subtask

__all__ = ["make_plan"]


def make_plan() -> Plan:
    """The seed's text classification (its sections 4.3 and 5).

    What `load` gives is over the limit of a message and travels by reference; each share of `features` fetches it and takes its part.
    The held-out tweets go to `evaluate` alone.
    """
    plan = Plan(result="evaluate")
    tweets = plan.add("load", Subtask("data.load"))
    shared = Split(over="texts", by="capacity", merge="text.merge")
    counts = plan.add("features", Subtask("text.features", {"texts": tweets["train"]["texts"]}, split=shared, tailored=True))
    classifier = plan.add("train", Subtask("text.train", {"counts": counts, "labels": tweets["train"]["labels"]}, retries=2))
    held_out = {"texts": tweets["held_out"]["texts"], "labels": tweets["held_out"]["labels"]}
    plan.add("evaluate", Subtask("text.evaluate", {"classifier": classifier, **held_out}))
    return plan
