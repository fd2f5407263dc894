"""Any program as an agent: one JSON line for each subtask goes in, JSON lines come out (docs/bridge.md).

A process is kept for the next subtask; one that dies, is cancelled, says what cannot be understood, or says anything while it has nothing to do is ended,
and the next subtask gets a new one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

import msgspec
from opentelemetry import trace

from agentexecutor.agents.agent import Agent
from agentexecutor.agents.context import Context
from agentexecutor.agents.errors import AgentError, Fail, Retry
from agentexecutor.bus import telemetry
from agentexecutor.bus.ends import how_it_ended, signal_name
from agentexecutor.schemas.messages import Award

__all__ = ["bridge"]

logger = logging.getLogger("agentexecutor.bridge")

LINE_LIMIT = 64 * 1024 * 1024
"""Bytes of a line that a program may print."""
TAIL_LINES = 20
"""So many of the last lines that a program printed to stderr are told when it dies."""
TOLD_LINES = 100
"""So many lines of stderr go into the trace of one subtask."""
LINE_SHOWN = 1000
STDOUT = 1
END_S = 2.0
"""A program that is to end has so many seconds after its input was closed, and after SIGTERM as many again."""
SILENCE_S = 10.0
"""A program that has said nothing about its subtask for so long may be waiting in a buffer."""
LAST_WORDS_S = 1.0
"""So long is waited for what a process that has ended may have printed."""
ALMOST_ONE = 1.001
"""Twenty times a twentieth is more than one, as computers add."""
TURNS = 5
"""Turns of the event loop after which all that is in a pipe is known: it is polled, read, and handed over."""


class _Said(msgspec.Struct, forbid_unknown_fields=True):
    """A line that a program prints: progress (`progress`, `step`, `text`), or how the subtask ended (`result`, or `error` with what belongs to it).

    `usage` stands beside any of them, or alone; so do `epoch` and `key`, which say what the line is about.
    """

    progress: Annotated[float, msgspec.Meta(ge=0, le=ALMOST_ONE)] | None = None
    step: str | None = None
    text: str = ""
    result: Any = msgspec.UNSET
    error: str | None = None
    retryable: bool = True
    after_s: float | None = None
    details: dict[str, Any] = {}
    usage: dict[str, float] = {}
    epoch: int | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        if self.error is not None and self.result not in (msgspec.UNSET, None):
            raise ValueError("It has a result and an error")


_decoder = msgspec.json.Decoder(_Said)


def bridge(
    name: str,
    capability: str,
    command: Sequence[str],
    *,
    capacity: int = 1,
    labels: Mapping[str, str] | None = None,
    estimate_s: float | None = None,
    cost: float = 0.0,
    takes: dict[str, Any] | None = None,
    gives: dict[str, Any] | None = None,
) -> Agent:
    """An agent whose one capability is done by `command`, in up to `capacity` processes. `takes`, `gives`: JSON Schemas. Raises AgentError."""

    @asynccontextmanager
    async def programs() -> AsyncIterator[_Programs]:
        pool = _Programs(command)
        try:
            yield pool
        finally:
            await pool.end()

    agent = Agent(name, capacity=capacity, labels=labels, lifespan=programs)

    @agent.capability(capability, estimate_s=estimate_s, cost=cost)
    async def work(ctx: Context, **input: Any) -> Any:
        pool: _Programs = ctx.state
        return await pool.do(ctx, input)

    signature = agent.handlers[capability].signature
    signature.takes, signature.gives = takes, gives
    return agent


class _Broken(Exception):
    """A program is to be ended, and its subtask tried again: it died, or cannot be understood. `details` go into the error."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.details = details


class _Left(_Broken):
    """A program ended well and without a word about its subtask: one that ends after each has not read the next."""


class _Programs:
    """The processes of one command: those at work, and those that wait for more."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._idle: list[_Program] = []
        self._all: set[_Program] = set()

    async def do(self, ctx: Context, input: dict[str, Any]) -> Any:
        while True:
            kept = await self._kept()
            program = kept or await self._start()
            try:
                result = await program.do(ctx, input)
            except (Fail, Retry):
                self._idle.append(program)
                raise
            except _Broken as broken:
                await asyncio.shield(program.end(working=True))
                if kept is not None and isinstance(broken, _Left):
                    continue
                raise Retry(str(broken), **broken.details) from None
            except BaseException:
                await asyncio.shield(program.end(working=True))
                raise
            self._idle.append(program)
            return result

    async def _start(self) -> _Program:
        program = await _Program.started(self._command)
        self._all = {one for one in self._all if not one.gone} | {program}
        return program

    async def _kept(self) -> _Program | None:
        while self._idle:
            program = self._idle.pop()
            try:
                for _ in range(TURNS):
                    await asyncio.sleep(0)  # what it has printed already must not be taken for an answer to what it is given next
            except asyncio.CancelledError:
                self._idle.append(program)
                raise
            if program.usable:
                return program
            if not program.spoiled:
                logger.info("%s ended with %s while it had nothing to do; it is started again.", self._command[0], program.how)
        return None

    async def end(self) -> None:
        await asyncio.gather(*(program.end(working=False) for program in self._all))


class _Pipes(asyncio.subprocess.SubprocessStreamProtocol):
    """asyncio's own, but it also tells what nobody has read of stdout, and when the process has ended while something that it started keeps its pipes open."""

    def __init__(self) -> None:
        super().__init__(LINE_LIMIT, asyncio.get_running_loop())
        self.exited = asyncio.get_running_loop().create_future()
        self.unread = 0
        """Bytes of stdout that have come and were not read."""
        self.unasked: Callable[[bytes], None] | None = None
        """Gets what comes on stdout while nothing must come; what is read by nobody."""

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        if fd == STDOUT and isinstance(data, bytes):
            if self.unasked is not None:
                self.unasked(data)
                return
            self.unread += len(data)
        super().pipe_data_received(fd, data)

    def process_exited(self) -> None:
        super().process_exited()
        self.exited.set_result(None)


class _Program:
    """One process."""

    def __init__(self, process: asyncio.SubprocessTransport, pipes: _Pipes) -> None:
        if pipes.stdin is None or pipes.stdout is None or pipes.stderr is None:
            raise ValueError("all three pipes are needed")
        self._process = process
        self._stdin, self._stdout, self._stderr = pipes.stdin, pipes.stdout, pipes.stderr
        self._pipes = pipes
        self._exit = pipes.exited
        self._ending: asyncio.Task[None] | None = None
        self.spoiled = False
        """It has printed what belongs to no subtask: nobody knows what the next line would be about."""
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._span: trace.Span = trace.INVALID_SPAN
        self._log = logger
        self._told = 0
        self._silent = True
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def started(cls, command: Sequence[str]) -> _Program:
        """Start it, in a group of its own, so that what it starts ends with it."""
        pipe = subprocess.PIPE
        loop = asyncio.get_running_loop()
        try:
            process, pipes = await loop.subprocess_exec(_Pipes, *command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
        except OSError as error:
            raise Fail(f"{command[0]} cannot be started: {error.strerror or error}. Is it installed, and may it be run?") from error
        logger.info("%s runs as process %d.", command[0], process.get_pid())
        return cls(process, pipes)

    @property
    def alive(self) -> bool:
        return not self._exit.done()

    @property
    def usable(self) -> bool:
        """It can be given a subtask."""
        return self.alive and not self.spoiled

    @property
    def gone(self) -> bool:
        """Nothing is left of it."""
        return self._ending is not None and self._ending.done()

    @property
    def how(self) -> str:
        """How it ended."""
        code = self._process.get_returncode()
        return "its stdout is closed" if code is None else how_it_ended(code)

    async def do(self, ctx: Context, input: dict[str, Any]) -> Any:
        """One subtask. Raises Fail or Retry for what the program says, _Broken when it is to be ended."""
        self._span, self._log, self._told = trace.get_current_span(), ctx.log, 0
        self._tail.clear()
        self._pipes.unasked = None
        self._silent = True
        warning = asyncio.get_running_loop().call_later(SILENCE_S, self._warn_of_buffers)
        try:
            return await self._work(ctx, input)
        finally:
            warning.cancel()

    async def _work(self, ctx: Context, input: dict[str, Any]) -> Any:
        with suppress(ConnectionError, RuntimeError):  # it is dead (a RuntimeError is uvloop's word), which reading tells better
            self._stdin.write(msgspec.json.encode(_question(ctx.award, input)) + b"\n")
            await self._stdin.drain()
        while True:
            said = await self._said(ctx.award)
            self._silent = False
            try:
                ctx.spend(**said.usage)
                if said.error is None and said.result is msgspec.UNSET:
                    _tell(ctx, said)
                    continue
                failed = None if said.error is None else _failure(said.error, said)
            except (AgentError, ValueError, TypeError) as error:
                raise _Broken(f"The program printed a line that makes no sense: {error}") from error
            self._rest()
            if failed is not None:
                raise failed
            return said.result

    def _warn_of_buffers(self) -> None:
        if self._silent:
            self._log.warning(
                "Process %d has said nothing for %g s. If it should have: its input or its output may be held in a buffer, see docs/bridge.md.",
                self._process.get_pid(),
                SILENCE_S,
            )

    def _rest(self) -> None:
        """It has answered: until the next subtask it has nothing to say."""
        self._pipes.unasked = self._spoil
        if self._pipes.unread:
            self._spoil(b"")

    def _spoil(self, data: bytes) -> None:
        """It has spoken out of turn: no subtask is charged with that, and none is given to it any more."""
        if self.spoiled or self._ending is not None:
            return
        self.spoiled = True
        shown = f": {data[:LINE_SHOWN].decode(errors='backslashreplace').rstrip()!r}" if data else ""
        logger.warning(
            "Process %d has printed more after it had answered%s. It is ended, because its next line might be taken for the answer to another "
            "subtask: one `result` or `error` belongs to each line that it reads.",
            self._process.get_pid(),
            shown,
        )
        self._end_soon(working=True)

    async def _said(self, award: Award) -> _Said:
        try:
            line = await self._line()
        except ValueError as error:
            raise _Broken(f"The program printed a line of more than {LINE_LIMIT} bytes.") from error
        if not line.endswith(b"\n"):
            await asyncio.wait({self._exit, self._listening}, timeout=LAST_WORDS_S)
            raise self._ended()
        self._pipes.unread -= len(line)
        shown = line[:LINE_SHOWN].decode(errors="backslashreplace").rstrip()
        try:
            said = _decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise _Broken(
                f"The program printed a line that is not understood ({error}): {shown!r}. It prints JSON objects with progress, result or error, "
                "one a line, and flushes each; anything else belongs to stderr."
            ) from error
        if said.epoch not in (None, award.epoch) or said.key not in (None, award.key):
            raise _Broken(f"The program printed a line about other work than epoch {award.epoch} with the key {award.key!r}: {shown!r}.")
        return said

    def _ended(self) -> _Broken:
        code = self._process.get_returncode()
        if self._silent and code == 0:
            return _Left("The program ended (exit code 0) without a result.", exit_code=0, stderr=list(self._tail))
        words = f" Its last words:\n{chr(10).join(self._tail)}" if self._tail else ""
        ended: dict[str, Any] = {}
        if code is not None:
            ended = {"exit_code": code} if code >= 0 else {"signal": signal_name(-code)}
        return _Broken(f"The program ended ({self.how}) without a result.{words}", **ended, stderr=list(self._tail))

    async def _line(self) -> bytes:
        """The next line; what is there when the process has ended, also when something that it has started keeps its stdout open."""
        reading = asyncio.ensure_future(self._stdout.readline())
        try:
            await asyncio.wait({reading, self._exit}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({reading}, timeout=None if self.alive else LAST_WORDS_S)
            return reading.result() if reading.done() else b""
        finally:
            reading.cancel()

    async def _listen(self) -> None:
        """What it prints to stderr goes to the log and the trace."""
        while True:
            try:
                line = await self._stderr.readline()
            except ValueError:
                continue  # too long to be read by anybody
            if not line:
                return
            text = line[:LINE_SHOWN].decode(errors="backslashreplace").rstrip()
            self._tail.append(text)
            self._log.info("%s", text)
            self._told += 1
            if self._told <= TOLD_LINES:
                self._span.add_event("stderr", {"text": text})

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.get_pid(), number)

    def _end_soon(self, *, working: bool) -> asyncio.Task[None]:
        if self._ending is None:
            self._ending = asyncio.create_task(self._end(working=working))
        return self._ending

    async def end(self, *, working: bool) -> None:
        """Close its input and let it end; one that is `working` is told by SIGTERM. Who does not obey is killed, with what it has started."""
        await asyncio.shield(self._end_soon(working=working))

    async def _end(self, *, working: bool) -> None:
        self._stdin.close()
        if not working:
            await asyncio.wait({self._exit}, timeout=END_S)
        if self.alive:
            self._signal(signal.SIGTERM)
            await asyncio.wait({self._exit}, timeout=END_S)
        self._signal(signal.SIGKILL)
        self._listening.cancel()
        self._process.close()


def _question(award: Award, input: dict[str, Any]) -> dict[str, Any]:
    """The line that a program reads."""
    return {
        "task": award.task,
        "subtask": award.subtask,
        "capability": award.capability,
        "attempt": award.attempt,
        "epoch": award.epoch,
        "key": award.key,
        "deadline": award.deadline,
        **telemetry.inject(),
        "input": input,
    }


def _tell(ctx: Context, said: _Said) -> None:
    """Pass on how far it is."""
    if said.step is not None:
        fraction = None if said.progress is None else min(said.progress, 1.0)
        ctx.host.tell(step=said.step, state="started", fraction=fraction, text=said.text)
    elif said.progress is not None or said.text or not said.usage:
        ctx.progress(said.progress, said.text)


def _failure(message: str, said: _Said) -> Fail | Retry:
    error = Retry(message, after_s=said.after_s) if said.retryable else Fail(message)
    error.fields.update(said.details)
    return error
