"""A container engine, or a skip that says what is missing; NATS in a container; the services of compose.yaml."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from boxes import NODES, Compose, Nats
from docker import from_env
from docker.errors import DockerException
from place import free_ports

PODMAN_COMPOSE = Path(sysconfig.get_path("scripts")) / "podman-compose"


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    """What answers the Docker API: Docker, or podman with `podman system service` and DOCKER_HOST."""
    with warnings.catch_warnings():
        # docker-py leaves the socket to the garbage collector when nobody answers.
        warnings.simplefilter("ignore", ResourceWarning)
        why = no_answer()
        gc.collect()
    if why:
        pytest.skip(f"no container engine answers ({why}): start Docker, or podman's service and name its socket in DOCKER_HOST")


def no_answer() -> str:
    """Why the engine does not answer; empty when it does."""
    try:
        client = from_env()
        client.ping()
        client.close()
    except DockerException as error:
        return str(error)
    return ""


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[Nats]:
    """One server, its log kept beside the programs' logs."""
    with free_ports(1) as ports:
        pass
    with Nats(*ports) as running:
        yield running
        (tmp_path / "nats.log").write_text(running.log())


@pytest.fixture(scope="session")
def compose_command() -> list[str]:
    """`docker compose`, else podman-compose from the dev group, which needs podman."""
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0:
        return [docker, "compose"]
    if shutil.which("podman") and PODMAN_COMPOSE.is_file():
        return [sys.executable, str(PODMAN_COMPOSE)]
    pytest.skip("there is neither `docker compose` nor podman: install one")


@pytest.fixture
async def single(compose_command: list[str], tmp_path: Path) -> AsyncIterator[Compose]:
    """The one server that `docker compose up` starts."""
    with free_ports(2) as (port, monitor):
        environment = {"AE_NATS_PORT": str(port), "AE_NATS_MONITOR_PORT": str(monitor)}
    async with Compose(compose_command, tmp_path, ["nats"], environment, [port]) as running:
        running.monitor = monitor
        yield running


@pytest.fixture
async def cluster(compose_command: list[str], tmp_path: Path) -> AsyncIterator[Compose]:
    """The three servers of the profile `cluster`."""
    with free_ports(len(NODES)) as ports:
        environment = {f"AE_NATS_{number}_PORT": str(port) for number, port in enumerate(ports, 1)}
    async with Compose([*compose_command, "--profile", "cluster"], tmp_path, list(NODES), environment, ports) as running:
        yield running
