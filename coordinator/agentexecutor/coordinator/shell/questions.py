"""Rule 7: questions are answered, by whoever holds the task's shard or, where any coordinator can answer, by one of them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
from msgspec.structs import replace

from agentexecutor.bus.answering import Answering, Asked
from agentexecutor.bus.errands import Errands
from agentexecutor.bus.log import TaskLog
from agentexecutor.coordinator import answers, errands
from agentexecutor.coordinator.model import TaskState
from agentexecutor.coordinator.settings import Settings
from agentexecutor.coordinator.shell.driving import Job
from agentexecutor.coordinator.shell.unusable import SHOWN
from agentexecutor.coordinator.states import UNPLANNED
from agentexecutor.coordinator.turns import Desk
from agentexecutor.coordinator.views import state_view, task_view
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import views as v
from agentexecutor.schemas.codec import INLINE_LIMIT, encode

__all__ = ["Questions"]

WAITING = 16
"""So many questions that take long wait for their turn at most; who gets no answer asks again."""

FORGOTTEN_S = 10.0
"""Who has not asked again for so long does not wait any more."""
LOOK_BACK = 16
"""So many records for a task of a list are looked at, and so many times more when that was not enough."""


class _OneByOne:
    """Questions that take long: one is answered after another; one that is asked again meanwhile is answered once, one that is asked no more is dropped."""

    def __init__(self) -> None:
        self._asked: dict[str, float] = {}
        """When each that waits was asked last."""
        self._turn = anyio.Semaphore(1)

    async def answer(self, asked: Asked, work: Callable[[Asked], Awaitable[None]]) -> None:
        again = asked.id in self._asked
        if not again and len(self._asked) >= WAITING:
            return
        self._asked[asked.id] = time.monotonic()
        if again:
            return
        try:
            async with self._turn:
                if time.monotonic() - self._asked[asked.id] <= FORGOTTEN_S:
                    await work(asked)
        finally:
            del self._asked[asked.id]


class Questions:
    """Answers from the stored states, the market and the log.

    `members`: how many coordinators there are. `later`: has a worker do what may take long, so that no task's turn waits for it.
    """

    def __init__(
        self,
        answering: Answering,
        desk: Desk,
        log: TaskLog,
        errands: Errands,
        settings: Settings,
        members: Callable[[], int],
        later: Callable[[Job], None],
    ) -> None:
        self._answering = answering
        self._desk = desk
        self._market = desk.market
        self._log = log
        self._errands = errands
        self._settings = settings
        self._members = members
        self._later = later
        self._scans, self._forecasts = _OneByOne(), _OneByOne()
        """A look at every task reads the whole log's heads; a forecast is work for a thread, which takes time from the loop."""
        self._answers: dict[str, Callable[[Asked], Awaitable[None]]] = {
            "tasks": partial(self._scans.answer, work=self._tasks),
            "agents": self._agents,
            "unserved": self._unserved,
            "blob": self._blob,
            "forecast": partial(self._forecasts.answer, work=self._forecast),
        }

    async def answer(self, asked: Asked) -> None:
        """A question that is not about one task."""
        await self._answers[asked.kind](asked)

    async def of_task(self, asked: Asked, state: TaskState | None) -> None:
        """How a task stands. None: its log makes no sense."""
        if state is None:
            entry = self._desk.tasks.get(asked.task)
            why = "" if entry is None else entry.senseless
            error = m.ErrorInfo(code="lost", message=f"Task {asked.task} stands still. {why}"[:SHOWN])
            await self._answering.answer(asked, None, of=self._members(), error=error)
            return
        body: v.StateView | v.TaskView = replace(state_view(state), keep_s=self._settings.keep_s)
        if asked.ask.what == "view":
            body = task_view(state, self._desk.looked(state, time.monotonic()))
        if state.state in UNPLANNED:  # who waits submits again what was never planned
            body = replace(body, state="waiting" if await self._log.submit_waits(asked.task) else "unknown")
        self._later(partial(self._answer, asked, encode(body)))

    async def of_log(self, asked: Asked) -> None:
        """A page of a task's log."""
        stored, more = await self._log.read_after(asked.task, asked.ask.after, INLINE_LIMIT)
        body, next = await self._errands.run(asked.task, errands.page_of_log(stored, asked.ask.after, more=more))
        await self._answer(asked, body, next)

    async def _tasks(self, asked: Asked) -> None:
        lines = [answers.task_line(head) for head in await self._newest(asked.ask)]
        await self._answer(asked, encode(v.TasksView(tasks=lines, waiting=await self._log.waiting())))

    async def _newest(self, question: m.Ask) -> list[answers.Head]:
        """Read from the end of the logs, and from further back until there are as many as are asked for: a whole look at very many takes long."""
        first, last = await self._log.span()
        back = LOOK_BACK * question.limit
        while True:
            since = last - back if last - back > first else 0
            found = {
                task: answers.Head(head.stamp, task, head.state, head.priority) async for task, _, head in self._log.heads(since=since)
            }
            newest = answers.newest(found.values(), question)
            if not since or len(newest) >= question.limit:
                return newest
            back *= LOOK_BACK

    async def _agents(self, asked: Asked) -> None:
        await self._answer(asked, encode(v.AgentsView(agents=self._market.survey.agents(time.monotonic()))))

    async def _unserved(self, asked: Asked) -> None:
        now = time.monotonic()
        lines = [*self._market.survey.unserved(now), *answers.unserved_splits(now, self._desk.splits)]
        stalled = answers.stalled_lines(self._desk.clock.now(now), self._desk.stalls())
        await self._answer(asked, encode(v.UnservedView(unserved=lines, stalled=stalled)))

    async def _forecast(self, asked: Asked) -> None:
        errand = errands.forecast(asked.ask.submit, self._market.snapshot(time.monotonic()), self._settings)
        made = await self._errands.run(asked.task, errand)
        error = made if isinstance(made, m.ErrorInfo) else None
        await self._answering.answer(asked, None if error else encode(made), of=self._members(), error=error)

    async def _blob(self, asked: Asked) -> None:
        await self._answering.answer_chunk(asked, of=self._members())

    async def _answer(self, asked: Asked, body: bytes, next: int | None = None) -> None:
        await self._answering.answer(asked, body, of=self._members(), next=next)
