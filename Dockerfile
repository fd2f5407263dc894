# AgentExecutor's command line as an image: a coordinator unless told otherwise, or any agent.
#
#   docker build -t agentexecutor .
#   docker run -e AGENTEXECUTOR_NATS_URL=nats://HOST:4222 agentexecutor
#   docker run -e AGENTEXECUTOR_NATS_URL=nats://HOST:4222 -v ./examples/hello:/agents:ro agentexecutor agent agent.py:agent
FROM python:3.12-slim AS build
WORKDIR /source
# pip as constraints.txt names it: an older one knows no --build-constraint.
COPY constraints.txt ./
RUN python -m venv /opt/agentexecutor \
    && /opt/agentexecutor/bin/pip install --no-cache-dir --constraint constraints.txt --upgrade pip
COPY . ./
ARG EXTRAS=otlp,fast
RUN /opt/agentexecutor/bin/pip wheel --no-cache-dir --no-deps --build-constraint constraints.txt --wheel-dir /wheels . \
    && /opt/agentexecutor/bin/pip install --no-cache-dir --constraint constraints.txt "$(ls /wheels/agentexecutor-*.whl)[$EXTRAS]" \
    && /opt/agentexecutor/bin/pip uninstall --yes pip

FROM python:3.12-slim
COPY --from=build /opt/agentexecutor /opt/agentexecutor
ENV PATH=/opt/agentexecutor/bin:$PATH PYTHONUNBUFFERED=1
# A user of its own, without rights, home or shell. By number, so that a cluster can see that it is not root.
RUN useradd --uid 10001 --no-create-home --home-dir /agents --shell /usr/sbin/nologin agentexecutor
WORKDIR /agents
USER 10001
# As a list, without a shell between: the program is process 1 and gets SIGTERM itself. It finishes or gives back what runs.
ENTRYPOINT ["agentexecutor"]
CMD ["coordinator"]
