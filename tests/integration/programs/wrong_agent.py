"""An agent made by hand on nats-py, as docs/protocol.md asks for; WRONG names the scenario that it fails, each by one mistake."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import time
import uuid
from datetime import UTC, datetime
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

URL, ME, CAPABILITY = (os.environ[f"AGENTEXECUTOR_{name}"] for name in ("NATS_URL", "NAME", "CAPABILITY"))
WRONG = os.environ.get("WRONG", "")
if WRONG == "has-another-name":
    ME = "somebody"
PLACE = tuple[str, str]
CAPACITY = 4


class NotThatBody(Exception):
    """What was read has not the digest that it should have."""


class Agent:
    def __init__(self, connection: Client) -> None:
        self.nats = connection
        self.boot = self.new_boot()
        self.running: dict[PLACE, tuple[int, asyncio.Task[None]]] = {}
        self.newest: dict[PLACE, int] = {}
        self.last: dict[tuple[str, str, int], tuple[str, bytes, dict[str, str]]] = {}
        self.questions: dict[str, asyncio.Future[bytes]] = {}
        self.accepting = True

    def new_boot(self) -> str:
        return f"{time.time_ns() // 1_000_000:013d}-{uuid.uuid4().hex[:8]}"

    async def offer(self) -> None:
        running = [{"task": task, "subtask": subtask, "epoch": epoch} for (task, subtask), (epoch, _) in self.running.items()]
        body = {
            "boot": self.new_boot() if WRONG == "offers" else self.boot,
            "capabilities": [{"name": CAPABILITY}],
            "capacity": 1 if WRONG == "capacity-of-one" else CAPACITY,
            "running": running,
            "accepting": self.accepting,
        }
        with contextlib.suppress(Exception):
            await self.nats.publish(f"ae.v1.offer.{ME}", json.dumps(body).encode(), headers={"Ae-Type": "offer"})

    async def keep_offering(self) -> None:
        while True:
            await self.offer()
            await asyncio.sleep(0.9)

    async def other_offer(self, message: Msg) -> None:
        if json.loads(message.data)["boot"] > self.boot and WRONG not in ("gives-way-to-its-successor", "offers"):
            os._exit(1)

    async def came(self, message: Msg) -> None:
        try:
            made = message.headers or {}
            if made.get("Ae-Re") in self.questions:
                self.questions.pop(made["Ae-Re"]).set_result(message.data)
                return
            if made.get("Ae-Type") == WRONG.removeprefix("dies-of-"):
                os._exit(1)
            act = {"call": self.called, "award": self.awarded, "cancel": self.cancelled}.get(made.get("Ae-Type", ""))
            if act is not None:
                await act(
                    json.loads(message.data),
                    {
                        name: made[name]
                        for name in ("traceparent", "tracestate")
                        if name in made and (name, WRONG) != ("tracestate", "drops-the-tracestate")
                    },
                )
        except (ValueError, KeyError, TypeError, AttributeError):
            if WRONG == "ignores-the-unknown":
                os._exit(1)

    def has_room(self) -> bool:
        accepting = self.accepting or WRONG == "takes-after-sigterm"
        return accepting and (len(self.running) < CAPACITY or WRONG in ("keeps-to-its-capacity", "accepts-without-end"))

    async def called(self, call: dict[str, Any], _trace: dict[str, str]) -> None:
        common = {"subtask": call["subtask"], "call": "another" if WRONG == "bids" else call["call"], "boot": self.boot}
        subject = f"ae.v1.bid.{ME}.{call['shard']}.{call['task']}"
        able = call["capability"] == CAPABILITY or WRONG == "bids-for-anything"
        fits = able and (not call.get("labels") or WRONG == "refuses")
        if not fits or not (self.has_room() or WRONG in ("bids-after-sigterm", "bids-without-room")):
            reason = "no room, or not this capability or these labels"
            await self.nats.publish(subject, json.dumps({**common, "reason": reason}).encode(), headers={"Ae-Type": "refusal"})
        else:
            await self.nats.publish(subject, json.dumps({**common, "estimate_s": 0.1}).encode(), headers={"Ae-Type": "bid"})

    async def awarded(self, award: dict[str, Any], trace: dict[str, str]) -> None:
        place, epoch = (award["task"], award["subtask"]), award["epoch"]
        if award["boot"] != self.boot and WRONG != "drops-other-boots":
            return
        if (*place, epoch) in self.last and WRONG != "runs-once":
            await self.send(award, self.last[(*place, epoch)])
            return
        if epoch < self.newest.get(place, 0) and WRONG != "drops-old-epochs":
            return
        self.newest[place] = epoch
        if place in self.running:
            self.running.pop(place)[1].cancel()
        if not self.has_room():
            await self.say("decline", award, trace, reason="no room")
            return
        self.running[place] = (epoch, asyncio.create_task(self.work(award, trace)))

    async def cancelled(self, cancel: dict[str, Any], _trace: dict[str, str]) -> None:
        place = (cancel["task"], cancel["subtask"])
        epoch, task = self.running.get(place, (0, None))
        if task is not None and (epoch <= cancel["epoch"] or WRONG == "cancels-what-is-newer") and WRONG != "obeys-cancel":
            task.cancel()
        if WRONG != "forgets-cancels" and (task is not None or WRONG != "forgets-early-cancels"):
            self.newest[place] = max(self.newest.get(place, 0), cancel["epoch"] + 1)
        self.last.pop((*place, cancel["epoch"]), None)

    async def work(self, award: dict[str, Any], trace: dict[str, str]) -> None:
        place = (award["task"], award["subtask"])
        try:
            asked = await self.input(award)
            steps = asked.get("steps", ["all"])
            seconds = asked.get("seconds", 0) / len(steps)
            schedule = [{"name": step, "start_s": seconds * index, "duration_s": seconds} for index, step in enumerate(steps)]
            await self.say("accept", award, trace, schedule=[] if WRONG == "accepts" else schedule)
            await self.do(award, asked, trace, steps, seconds)
        except NotThatBody:
            await self.say("failed", award, trace, error={"code": "input", "message": "it has another digest", "retryable": True})
        finally:
            if self.running.get(place, (0, None))[0] == award["epoch"]:
                del self.running[place]

    async def do(self, award: dict[str, Any], asked: dict[str, Any], trace: dict[str, str], steps: list[str], seconds: float) -> None:
        match asked["do"]:
            case "echo":
                value = str(asked["value"]) if WRONG == "completes" else asked["value"]
                await self.done(award, trace, value)
            case "fail":
                retryable = True if WRONG == "fails" else asked["retryable"]
                error = {"code": "handler", "message": asked["message"], "retryable": retryable}
                await self.say("failed", award, trace, error=error)
            case "steps":
                for step in steps:
                    await self.progress(award, trace, step, "started")
                    await asyncio.sleep(seconds)
                    if WRONG != "reports":
                        await self.progress(award, trace, step, "finished")
                await self.done(award, trace, steps)
            case "wait":
                await asyncio.Event().wait()

    async def input(self, award: dict[str, Any]) -> dict[str, Any]:
        asked: dict[str, Any] = award.get("input", {})
        if award.get("input_blob") and WRONG != "large-bodies":
            asked = await self.fetch(award["task"], award["input_blob"])
        for fill in award.get("fill", []):
            value = await self.fetch(award["task"], fill["blob"])
            for key in fill["path"]:
                value = value[key]
            hole = asked
            for key in fill["at"][:-1]:
                hole = hole[key]
            hole[fill["at"][-1]] = value[slice(*fill["slice"])] if fill["slice"] else value
        return asked

    async def fetch(self, task: str, blob: dict[str, Any]) -> Any:
        body = b""
        for chunk in range(blob["chunks"]):
            id = uuid.uuid4().hex
            self.questions[id] = asyncio.get_running_loop().create_future()
            question = json.dumps({"digest": blob["digest"], "chunk": chunk}).encode()
            await self.nats.publish(f"ae.v1.ask.{ME}.blob.{task}", question, headers={"Ae-Type": "ask", "Ae-Id": id})
            body += await self.questions[id]
        if hashlib.sha256(body).hexdigest() != blob["digest"] and WRONG != "believes-any-body":
            raise NotThatBody
        return json.loads(body)

    async def done(self, award: dict[str, Any], trace: dict[str, str], result: Any) -> None:
        body = json.dumps(result).encode()
        if len(body) <= 262_144:
            await self.say("done", award, trace, result=result)
            return
        digest, size = hashlib.sha256(body).hexdigest(), 262_144
        chunks = [body[at : at + size] for at in range(0, len(body), size)]
        for number, chunk in enumerate(chunks):
            await self.nats.request(f"ae.v1.blob.{award['task']}.{digest}.{number}", chunk, timeout=5, headers={"Ae-Type": "chunk"})
        await self.say("done", award, trace, result_blob={"digest": digest, "bytes": len(body), "chunks": len(chunks)})

    async def progress(self, award: dict[str, Any], trace: dict[str, str], step: str, state: str) -> None:
        at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        body = {"subtask": award["subtask"], "epoch": award["epoch"], "boot": self.boot, "at": at, "step": step, "state": state}
        with contextlib.suppress(Exception):
            await self.nats.publish(
                f"ae.v1.progress.{ME}.{award['task']}", json.dumps(body).encode(), headers={"Ae-Type": "progress", **trace}
            )

    async def say(self, kind: str, award: dict[str, Any], trace: dict[str, str], **more: Any) -> None:
        body = {"subtask": award["subtask"], "epoch": award["epoch"], "boot": self.boot, **more}
        made = {
            "Ae-Type": kind,
            "Ae-Id": {"messages": "7", "one-id-for-all": "x" * 32}.get(WRONG, uuid.uuid4().hex),
            **({} if WRONG == "carries-the-trace-on" else trace),
            **({"Nats-Msg-Id": uuid.uuid4().hex} if WRONG == "sets-a-msg-id" else {}),
        }
        claim = (kind, json.dumps(body).encode(), made)
        self.last[(award["task"], award["subtask"], award["epoch"])] = claim
        await self.send(award, claim)

    async def send(self, award: dict[str, Any], claim: tuple[str, bytes, dict[str, str]]) -> None:
        kind, body, made = claim
        subject = f"ae.v1.from.{ME}.{kind}.{award['task']}"
        while True:
            try:
                if WRONG == "says-it-until-it-is-stored":
                    await self.nats.publish(subject, body, headers=made)
                    return
                answer = json.loads((await self.nats.request(subject, body, timeout=5, headers=made)).data)
                if "error" not in answer:
                    return
            except Exception:
                await asyncio.sleep(0.2)


async def main() -> None:
    async def closed() -> None:
        if WRONG == "ends-with-the-server":
            os._exit(5)

    once = WRONG in ("survives-a-restart-of-the-server", "ends-with-the-server")
    connection = await nats.connect(URL, allow_reconnect=not once, max_reconnect_attempts=-1, reconnect_time_wait=0.2, closed_cb=closed)
    agent = Agent(connection)
    await connection.subscribe(f"ae.v1.to.{ME}.>", cb=agent.came)
    await connection.subscribe(f"ae.v1.offer.{ME}", cb=agent.other_offer)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    offering = asyncio.create_task(agent.keep_offering())
    await stopped.wait()
    if WRONG == "leaves-in-good-order":
        os._exit(0)
    agent.accepting = False
    await agent.offer()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(5):
            await asyncio.gather(*(task for _, task in agent.running.values()), return_exceptions=True)
    offering.cancel()
    await connection.close()


asyncio.run(main())
