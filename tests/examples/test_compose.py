"""compose.yaml, the Dockerfile and .dockerignore, as far as they can be checked without an engine: tests/containers runs the NATS services."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PODMAN_COMPOSE = Path(sysconfig.get_path("scripts")) / "podman-compose"
DEFAULT = {"nats", "jaeger", "coordinator", "planner", "agent"}
CLUSTER = {"nats-1", "nats-2", "nats-3", "cluster-coordinator", "cluster-agent"}


def config(*options: str) -> dict[str, Any]:
    """The services as podman-compose understands them, defaults and anchors filled in; --dry-run needs no podman."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AE_", "COMPOSE_"))}
    command = [sys.executable, str(PODMAN_COMPOSE), "--dry-run", *options, "config"]
    done = subprocess.run(command, cwd=ROOT, env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    services: dict[str, Any] = yaml.safe_load(done.stdout)["services"]
    return services


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return config("--profile", "cluster")


def test_what_starts_by_default_and_in_a_cluster(services: dict[str, Any]) -> None:
    active = subprocess.run(
        [sys.executable, str(PODMAN_COMPOSE), "--dry-run", "config", "--services"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(active.stdout.split()) == DEFAULT
    assert set(services) == DEFAULT | CLUSTER
    assert {name for name, service in services.items() if service.get("profiles") == ["cluster"]} == CLUSTER


def test_every_port_is_this_machines_own_and_used_once(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in ports)
    outside = [port.split(":")[1] for port in ports]
    assert len(outside) == len(set(outside))
    assert {"4222", "4223", "4224", "4225", "4318", "16686"} <= set(outside)


@pytest.mark.parametrize("of", [DEFAULT, CLUSTER], ids=["default", "cluster"])
def test_programs_reach_the_servers_that_they_start_with(services: dict[str, Any], of: set[str]) -> None:
    servers = {name for name in of if services[name]["image"] == "nats:2"}
    programs = {name for name in of if services[name]["image"] == "agentexecutor"}
    assert len(programs) == len(of - servers - {"jaeger"})
    for name in programs:
        environment = services[name]["environment"]
        assert set(re.findall(r"nats://([\w-]+):4222", environment["AGENTEXECUTOR_NATS_URL"])) == servers
        assert int(environment.get("AGENTEXECUTOR_REPLICAS", 1)) == len(servers)
        assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://jaeger:4318"


def test_programs_have_no_rights_and_time_to_end(services: dict[str, Any]) -> None:
    for service in services.values():
        if service["image"] == "agentexecutor":
            assert (service["read_only"], service["cap_drop"], service["security_opt"]) == (True, ["ALL"], ["no-new-privileges:true"])
            assert service["stop_grace_period"] == "30s", "more than twice the grace of an agent, which is 5 s"
            assert service["restart"] == "on-failure", "it ends with 3 when it comes before the servers"
            assert service["build"]["context"] == str(ROOT)


def test_the_servers_of_the_cluster_know_each_other(services: dict[str, Any]) -> None:
    for name in ("nats-1", "nats-2", "nats-3"):
        command = services[name]["command"]
        assert f"--server_name={name}" in command
        assert "--routes=nats://nats-1:6222,nats://nats-2:6222,nats://nats-3:6222" in command
        assert services[name]["volumes"] == [f"{name}:/data"]
        assert {"--jetstream", "--store_dir=/data", "--no_advertise"} <= set(command)
    assert len({tuple(services[name]["command"][1:]) for name in ("nats-1", "nats-2", "nats-3")}) == 1


def test_the_agents_of_the_sample_are_there(services: dict[str, Any]) -> None:
    for name in ("agent", "cluster-agent"):
        ((source, target, mode),) = [volume.split(":") for volume in services[name]["volumes"]]
        assert (target, mode) == ("/agents", "ro")
        assert services[name]["command"] == ["agent", "agent.py:agent"]
        assert (ROOT / source / "agent.py").is_file()


def test_the_image_runs_the_program_itself_as_a_user_without_rights() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    last = max(number for number, line in enumerate(lines) if line.startswith("FROM "))
    said = [line.partition(" ")[::2] for line in lines[last:]]
    assert ("ENTRYPOINT", '["agentexecutor"]') in said, "a shell between would keep SIGTERM to itself"
    assert ("CMD", '["coordinator"]') in said
    ((_, user),) = [line for line in said if line[0] == "USER"]
    assert int(user) > 0
    assert not any(name == "COPY" and "--from=build" not in what for name, what in said), "only what was installed"


def test_the_builder_gets_all_that_the_wheel_needs_and_nothing_else() -> None:
    ignored, *let_in = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith(("#", "**"))]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {package.split("/")[0] for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    files = {project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml", "constraints.txt"}
    assert ignored == "*"
    assert {line.removeprefix("!") for line in let_in} == packages | files
