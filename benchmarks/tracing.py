"""`make bench-tracing`: what spans and metrics cost. The same load without them, with a collector that takes them, and with one that is not there.

The load is that of ours.py: coordinator, agent and client are processes that set up OpenTelemetry as the variables say. It reports, it does not judge.

    python benchmarks/tracing.py [--rounds 3] [--seconds 4]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

OURS = Path(__file__).with_name("ours.py")
NOBODY = "http://127.0.0.1:1"
WAYS = ("off", "nobody", "collector")
FIGURES = ("tasks_per_s", "median_ms", "p99_ms", "cpu_ms")
"""cpu_ms: processor time a task of coordinator, agent and client; on a machine that does other things too it says more than the rate."""


class Sink(BaseHTTPRequestHandler):
    """Takes everything, looks at nothing."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:  # the name that http.server calls
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Quiet."""


def sink() -> None:
    """A process of its own: the address, then requests until it is killed."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


@contextmanager
def collector() -> Iterator[str]:
    """The address of a sink."""
    process = subprocess.Popen([sys.executable, __file__, "--role", "sink"], stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().strip()  # type: ignore[union-attr]  # it is a pipe
    finally:
        process.kill()
        process.communicate()


def run(endpoint: str, passed_on: list[str]) -> dict[str, Any]:
    """One load, in processes of its own; endpoint empty: nothing is sent."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    if endpoint:
        environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
    command = [sys.executable, str(OURS), *passed_on]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    load: dict[str, Any] = json.loads(done.stdout)["loads"][0]
    load["cpu_ms"] = sum(spent for who, spent in load["cpu_ms_per_task"].items() if who != "server")
    load["warnings"] = done.stderr.count("cannot be sent")
    return load


def rounds(count: int, passed_on: list[str], address: str) -> dict[str, list[dict[str, Any]]]:
    """All rounds; who begins moves on, so that a machine that warms up or slows down favours none."""
    results: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    endpoints = {"off": "", "nobody": NOBODY, "collector": address}
    for number in range(count):
        for way in WAYS[number % len(WAYS) :] + WAYS[: number % len(WAYS)]:
            load = run(endpoints[way], passed_on)
            results[way].append(load)
            said = f"{load['tasks_per_s']} tasks/s, {load['cpu_ms']:.2f} ms of CPU a task, {load['warnings']} warnings"
            print(f"round {number + 1} of {count}, {way}: {said}", file=sys.stderr)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of all three ways (default 3)")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of the load (default 4)")
    parser.add_argument("--in-flight", type=int, default=128, help="tasks at once (default 128)")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.role == "sink":
        sink()
        return
    with collector() as address:
        results = rounds(asked.rounds, ["--seconds", str(asked.seconds), "--in-flight", str(asked.in_flight)], address)
    medians = {way: {figure: median(load[figure] for load in loads) for figure in FIGURES} for way, loads in results.items()}
    pairs = {way: list(zip(results[way], results["off"], strict=True)) for way in WAYS}
    ratios = {way: {figure: round(median(a[figure] / b[figure] for a, b in pairs[way]), 3) for figure in FIGURES} for way in WAYS}
    table = Table("", *WAYS, title=f"{asked.in_flight} in flight", title_justify="left")
    for figure in FIGURES:
        table.add_row(figure, *(f"{medians[way][figure]:.2f} (x {ratios[way][figure]})" for way in WAYS))
    Console().print(table)
    print(json.dumps({"rounds": asked.rounds, "seconds": asked.seconds, "medians": medians, "ratio": ratios}))


if __name__ == "__main__":
    main()
