"""Where a subject is named: every subject is built and parsed here, nowhere else (docs/protocol.md sections 2 and 10).

Names are checked by `agentexecutor.schemas.names` before they come here.
"""

from __future__ import annotations

from typing import NamedTuple

from agentexecutor.schemas.names import TaskName

__all__ = ["CLASSES", "DEFAULT_PREFIX", "NOBODY", "FromSubject", "Subjects", "TaskSubject", "class_of", "shard_of"]

DEFAULT_PREFIX = "ae.v1"
CLASSES = ("high", "normal", "low")
NOBODY = TaskName("-", "-")
"""Stands for the task in a question that is about no task."""


def class_of(priority: int) -> str:
    """The class of submits in which a priority travels."""
    return "high" if priority > 0 else "low" if priority < 0 else "normal"


def shard_of(task: TaskName, shards: int) -> int:
    """The shard that the streams' own ``{{partition(N,...)}}`` gives a task: FNV-1a of owner and id (nats-server, subject_transform.go)."""
    value = 2166136261
    for byte in (task.owner + task.id).encode():
        value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
    return value % shards


class TaskSubject(NamedTuple):
    """A subject that names a peer (or a shard, or a class), a kind and a task."""

    first: str
    second: str
    task: TaskName


class FromSubject(NamedTuple):
    """A claim as AE_INBOX keeps it."""

    shard: int
    kind: str
    task: TaskName
    peer: str


class Subjects:
    """Builds and parses the subjects under one prefix."""

    def __init__(self, prefix: str = DEFAULT_PREFIX) -> None:
        self.prefix = prefix
        self._depth = prefix.count(".") + 1

    # peers

    def submit(self, task: TaskName, klass: str) -> str:
        return f"{self.prefix}.submit.{task.owner}.{klass}.{task.id}"

    def claim(self, peer: str, kind: str, task: TaskName) -> str:
        return f"{self.prefix}.from.{peer}.{kind}.{task.owner}.{task.id}"

    def ask(self, peer: str, kind: str, task: TaskName = NOBODY) -> str:
        return f"{self.prefix}.ask.{peer}.{kind}.{task.owner}.{task.id}"

    def offer(self, peer: str) -> str:
        return f"{self.prefix}.offer.{peer}"

    def progress(self, peer: str, task: TaskName) -> str:
        return f"{self.prefix}.progress.{peer}.{task.owner}.{task.id}"

    def bid(self, peer: str, shard: int, task: TaskName) -> str:
        return f"{self.prefix}.bid.{peer}.{shard}.{task.owner}.{task.id}"

    def blob(self, task: TaskName, digest: str, chunk: int) -> str:
        return f"{self.prefix}.blob.{task.owner}.{task.id}.{digest}.{chunk}"

    # coordinators

    def to(self, peer: str, kind: str, task: TaskName) -> str:
        return f"{self.prefix}.to.{peer}.{kind}.{task.owner}.{task.id}"

    def call(self, capability: str) -> str:
        return f"{self.prefix}.call.{capability}"

    def log(self, shard: int, task: TaskName) -> str:
        return f"{self.prefix}.task.{shard}.{task.owner}.{task.id}"

    def lease(self, shard: int) -> str:
        return f"{self.prefix}.lease.{shard}"

    def start(self) -> str:
        """The mark in the stream of leases: since when it has been keeping what it is given."""
        return f"{self.prefix}.lease.start"

    def member(self, peer: str) -> str:
        return f"{self.prefix}.member.{peer}"

    def watch(self, task: TaskName) -> str:
        return f"{self.prefix}.watch.{task.owner}.{task.id}"

    def inbox(self, shard: int, kind: str, task: TaskName, peer: str) -> str:
        return f"{self.prefix}.in.{shard}.{kind}.{task.owner}.{task.id}.{peer}"

    def new(self, shard: int, klass: str, task: TaskName) -> str:
        return f"{self.prefix}.new.{shard}.{klass}.{task.owner}.{task.id}"

    # what to subscribe to, and what streams hold

    def all_submits(self, klass: str = "*") -> str:
        return f"{self.prefix}.submit.*.{klass}.*"

    def all_claims(self) -> str:
        return f"{self.prefix}.from.*.*.*.*"

    def all_logs(self, shard: int | None = None) -> str:
        return f"{self.prefix}.task.>" if shard is None else f"{self.prefix}.task.{shard}.*.*"

    def all_log_tokens(self) -> str:
        return f"{self.prefix}.task.*.*.*"

    def any_log(self, task: TaskName) -> str:
        return f"{self.prefix}.task.*.{task.owner}.{task.id}"

    def all_leases(self) -> str:
        return f"{self.prefix}.lease.*"

    def all_members(self) -> str:
        return f"{self.prefix}.member.*"

    def all_offers(self) -> str:
        return f"{self.prefix}.offer.*"

    def all_progress(self, task: TaskName | None = None) -> str:
        return f"{self.prefix}.progress.*.*.*" if task is None else f"{self.prefix}.progress.*.{task.owner}.{task.id}"

    def all_blobs(self, task: TaskName | None = None, digest: str = "*") -> str:
        return f"{self.prefix}.blob.*.*.*.*" if task is None else f"{self.prefix}.blob.{task.owner}.{task.id}.{digest}.*"

    def all_to(self, peer: str) -> str:
        return f"{self.prefix}.to.{peer}.*.*.*"

    def all_by(self, peer: str) -> tuple[str, str, str]:
        """All that a peer sends about tasks: claims, bids, progress; also on subjects of a wrong shape."""
        return f"{self.prefix}.from.{peer}.>", f"{self.prefix}.bid.{peer}.>", f"{self.prefix}.progress.{peer}.>"

    def all_asks(self, kind: str) -> str:
        return f"{self.prefix}.ask.*.{kind}.*.*"

    def all_bids(self, shard: int) -> str:
        return f"{self.prefix}.bid.*.{shard}.*.*"

    def all_new(self, shard: int, klass: str) -> str:
        return f"{self.prefix}.new.{shard}.{klass}.*.*"

    def any_new(self, task: TaskName) -> str:
        return f"{self.prefix}.new.*.*.{task.owner}.{task.id}"

    def all_inbox(self, shard: int) -> str:
        return f"{self.prefix}.in.{shard}.*.*.*.*"

    def inbox_of(self, shard: int, task: TaskName, peer: str) -> str:
        return f"{self.prefix}.in.{shard}.*.{task.owner}.{task.id}.{peer}"

    # what the streams make of subjects (the server's own transforms)

    def new_transform(self, shards: int) -> str:
        return f"{self.prefix}.new.{{{{partition({shards},1,3)}}}}.{{{{wildcard(2)}}}}.{{{{wildcard(1)}}}}.{{{{wildcard(3)}}}}"

    def inbox_transform(self, shards: int) -> str:
        return (
            f"{self.prefix}.in.{{{{partition({shards},3,4)}}}}"
            ".{{wildcard(2)}}.{{wildcard(3)}}.{{wildcard(4)}}.{{wildcard(1)}}"
        )

    def watch_transform(self) -> str:
        return f"{self.prefix}.watch.{{{{wildcard(2)}}}}.{{{{wildcard(3)}}}}"

    # parsing; each raises ValueError on a subject of another shape

    def _tokens(self, subject: str, count: int) -> list[str]:
        tokens = subject.split(".")[self._depth :]
        if len(tokens) != count:
            raise ValueError(f"{subject!r} has not the {count} tokens expected after {self.prefix!r}")
        return tokens

    def parse_new(self, subject: str) -> tuple[int, str, TaskName]:
        """``new.<shard>.<class>.<owner>.<id>`` → shard, class, task."""
        _, shard, klass, owner, task_id = self._tokens(subject, 5)
        return int(shard), klass, TaskName(owner, task_id)

    def parse_inbox(self, subject: str) -> FromSubject:
        """``in.<shard>.<kind>.<owner>.<id>.<peer>``."""
        _, shard, kind, owner, task_id, peer = self._tokens(subject, 6)
        return FromSubject(int(shard), kind, TaskName(owner, task_id), peer)

    def parse_log(self, subject: str) -> tuple[int, TaskName]:
        """``task.<shard>.<owner>.<id>`` → shard, task."""
        _, shard, owner, task_id = self._tokens(subject, 4)
        return int(shard), TaskName(owner, task_id)

    def parse_to(self, subject: str) -> TaskSubject:
        """``to.<peer>.<kind>.<owner>.<id>`` → peer, kind, task."""
        _, peer, kind, owner, task_id = self._tokens(subject, 5)
        return TaskSubject(peer, kind, TaskName(owner, task_id))

    parse_ask = parse_to
    """``ask.<peer>.<kind>.<owner>.<id>`` → peer, kind, task."""

    def parse_bid(self, subject: str) -> tuple[str, int, TaskName]:
        """``bid.<peer>.<shard>.<owner>.<id>`` → peer, shard, task."""
        _, peer, shard, owner, task_id = self._tokens(subject, 5)
        return peer, int(shard), TaskName(owner, task_id)

    def parse_blob(self, subject: str) -> tuple[TaskName, str]:
        """``blob.<owner>.<id>.<digest>.<n>`` → task, digest."""
        _, owner, task_id, digest, _ = self._tokens(subject, 5)
        return TaskName(owner, task_id), digest

    def parse_progress(self, subject: str) -> tuple[str, TaskName]:
        """``progress.<peer>.<owner>.<id>`` → peer, task."""
        _, peer, owner, task_id = self._tokens(subject, 4)
        return peer, TaskName(owner, task_id)

    def last_token(self, subject: str) -> str:
        """The peer of ``offer.<peer>`` or ``member.<peer>``, the shard of ``lease.<shard>``."""
        return self._tokens(subject, 2)[1]
