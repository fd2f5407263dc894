"""examples/node sends spans where OTEL_EXPORTER_OTLP_ENDPOINT says: the agent's and the client's are one trace, and the last ones are sent at the end."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from foreign import environment
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from peers import Place, coordinating

from agentexecutor.coordinator.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from agentexecutor.bus.server import EmbeddedServer

pytestmark = pytest.mark.anyio

PATIENCE_S = 200


@contextmanager
def receiver() -> Iterator[tuple[str, list[Any]]]:
    """A collector: its address, and the spans that it was sent."""
    spans: list[Any] = []

    class Receives(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            sent = ExportTraceServiceRequest.FromString(b"".join(self.chunks()))
            spans.extend(span for resource in sent.resource_spans for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def chunks(self) -> Iterator[bytes]:
            """The body: Node sends it in chunks, without a length."""
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()

        def log_message(self, format: str, *args: Any) -> None:
            """It says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Receives) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", spans
        server.shutdown()
        thread.join()


async def work(node: Path, url: str, endpoint: str, *inputs: dict[str, Any]) -> list[str]:
    """Have the agent do these, one after the other; gives what it said on stderr. It is stopped by SIGTERM."""
    env = environment(url, "node-1", AGENTEXECUTOR_CAPABILITY="work", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    with anyio.fail_after(PATIENCE_S):
        async with await anyio.open_process(["node", str(node / "agent.mjs")], env=env) as agent:
            for input in inputs:
                command = ["node", str(node / "submit.mjs"), "work", json.dumps(input)]
                await anyio.run_process(command, env=env | {"AGENTEXECUTOR_NAME": "me"}, check=False)
            agent.terminate()
            assert agent.stderr is not None
            said = b"".join([part async for part in agent.stderr])
            assert await agent.wait() == 0
    return said.decode().splitlines()


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


async def test_one_trace(server: EmbeddedServer, node: Path) -> None:
    with receiver() as (endpoint, spans):
        async with coordinating(Place(server.url), settings=Settings()):
            await work(node, server.url, endpoint, {"do": "steps", "steps": ["load", "fit"], "seconds": 0.1})
    by_name = {span.name: span for span in spans}
    assert sorted(by_name) == ["execute work", "step fit", "step load", "submit work"]
    assert len({span.trace_id for span in spans}) == 1
    submit, execute = by_name["submit work"], by_name["execute work"]
    assert submit.parent_span_id == b""
    assert execute.parent_span_id == submit.span_id, "what the award carried, as this coordinator makes no spans"
    assert {by_name[name].parent_span_id for name in ("step fit", "step load")} == {execute.span_id}
    told = attributes(execute)
    assert told.pop("ae.task") == attributes(submit)["ae.task"]
    assert told == {"ae.subtask": "main", "ae.epoch": 1, "ae.plan.version": 1, "ae.outcome": "done"}
    assert attributes(by_name["step fit"])["ae.step"] == "fit"
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano for span in spans)


async def test_a_failure_is_one_in_its_span(server: EmbeddedServer, node: Path) -> None:
    with receiver() as (endpoint, spans):
        async with coordinating(Place(server.url), settings=Settings()):
            await work(node, server.url, endpoint, {"do": "fail", "message": "out of paper", "retryable": False})
    (execute,) = [span for span in spans if span.name == "execute work"]
    assert (execute.status.code, execute.status.message) == (execute.status.STATUS_CODE_ERROR, "out of paper")
    assert attributes(execute)["ae.outcome"] == "failed"


async def test_without_a_collector_there_is_one_warning(server: EmbeddedServer, node: Path) -> None:
    async with coordinating(Place(server.url), settings=Settings()):
        said = await work(node, server.url, "http://127.0.0.1:1", *[{"do": "echo", "value": n} for n in range(3)])
    assert [line for line in said if "Traces" in line] == ["Traces cannot be sent to http://127.0.0.1:1; nothing else suffers."]
