"""Whatever the agents and the plan: a forecast gives nobody too much, keeps the plan's order, and says of everything who does it or why nobody does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agentexecutor.coordinator.forecast import make_forecast
from agentexecutor.coordinator.inputs import Demand, Key, SubmitIn
from agentexecutor.coordinator.market import Market, Snapshot
from agentexecutor.coordinator.settings import Settings
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import views as v
from agentexecutor.schemas.names import TaskName

NAMES = ("a", "b", "c")
CAPABILITIES = ("x", "y")
ZONES = st.sampled_from(({}, {}, {}, {"zone": "eu"}, {"zone": "us"}))
TIMES = st.sampled_from((0.0, 0.5, 1.0, 1.5, 7.0))
SETTINGS = Settings()

capability = st.builds(m.Capability, name=st.sampled_from(CAPABILITIES), estimate_s=st.none() | TIMES, cost=TIMES)
running = st.builds(
    m.Running,
    task=st.sampled_from(("o.t1", "o.t2", "o.t3")),
    subtask=st.just("s"),
    epoch=st.just(1),
    state=st.sampled_from(("running", "queued", "waiting")),
)
offer = st.builds(
    m.Offer,
    boot=st.just("1"),
    capabilities=st.lists(capability, min_size=1, max_size=2, unique_by=lambda one: one.name),
    capacity=st.integers(1, 3),
    labels=ZONES,
    running=st.lists(running, max_size=3, unique_by=lambda one: one.task),
    queue_s=TIMES,
    accepting=st.sampled_from((True, True, True, False)),
)


@st.composite
def plans(draw: st.DrawFn) -> dict[str, m.SubtaskSpec]:
    """Up to eight subtasks; each waits for some of those before it."""
    made: dict[str, m.SubtaskSpec] = {}
    for number in range(draw(st.integers(1, 8))):
        made[f"s{number}"] = m.SubtaskSpec(
            capability=draw(st.sampled_from(CAPABILITIES)),
            after=draw(st.lists(st.sampled_from(sorted(made)), unique=True, max_size=3)) if made else [],
            labels=draw(ZONES),
            priority=draw(st.none() | st.integers(-2, 2)),
            award=draw(st.sampled_from((None, "cheapest", "round-robin", "capacity", "least-loaded", "two-choices"))),
            avoid=draw(st.sampled_from(([], [], [], ["a"], ["b", "c"]))),
            prefer=draw(st.none() | st.sampled_from(NAMES)),
        )
    return made


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """Agents, some of them busy, and what waits for them."""
    market = Market(SETTINGS)
    market.share = draw(st.sampled_from((1.0, 0.25)))
    agents = {name: draw(offer) for name in NAMES[: draw(st.integers(0, 3))]}
    for name, said in agents.items():
        market.offer(0.0, name, said)
        for number in range(draw(st.integers(0, 2))):
            key = Key(TaskName("me", f"{name}{number}"), "s")
            market.awarded(0.0, key, 1, name, "1", draw(st.none() | TIMES))
            if draw(st.booleans()):
                market.ended(0.0, key, 1, "declined")
    for number in range(draw(st.integers(0, 3))):
        demand = Demand(
            draw(st.sampled_from(CAPABILITIES)),
            {},
            priority=draw(st.integers(-1, 1)),
            policy=None,
            auction="call",
            tailored=True,
            prefer=None,
        )
        market.want(0.0, Key(TaskName("me", f"w{number}"), "s"), demand)
    return market.snapshot(0.5)


@given(plans(), snapshots())
def test_a_forecast_can_be_kept(subtasks: dict[str, m.SubtaskSpec], snapshot: Snapshot) -> None:
    offers = {agent.name: agent.offer for agent in snapshot.agents if agent.offer is not None}
    again = make_again(snapshot)
    made = make_forecast(SubmitIn(m.Submit(plan=m.PlanSpec(subtasks=subtasks)), "", 0.0), snapshot, SETTINGS)
    assert isinstance(made, v.Forecast)
    assert make_forecast(SubmitIn(m.Submit(plan=m.PlanSpec(subtasks=subtasks)), "", 0.0), again, SETTINGS) == made
    lines = {line.name: line for line in made.subtasks}
    assert sorted(lines) == sorted(subtasks)
    assert len(made.subtasks) == len(subtasks)
    for name, spec in subtasks.items():
        line = lines[name]
        fitting = [agent for agent, said in offers.items() if fits(agent, said, spec)]
        above = [lines[other] for other in spec.after]
        done = bool(fitting) and all(other.agent is not None for other in above)
        assert (line.agent in fitting) if done else (line.agent, line.start_s, line.finish_s, line.cost) == (None, None, None, None)
        assert line.reason
        if line.start_s is not None:
            assert line.start_s >= max((other.finish_s or 0.0 for other in above), default=0.0)
    served = [line for line in made.subtasks if line.start_s is not None]
    assert [line.start_s for line in served] == sorted(line.start_s or 0.0 for line in served)
    assert made.subtasks[: len(served)] == served
    assert made.finish_s == (max(line.finish_s or 0.0 for line in served) if len(served) == len(lines) else None)
    for agent, said in offers.items():
        assert most_at_once([line for line in served if line.agent == agent]) <= said.capacity


def make_again(snapshot: Snapshot) -> Snapshot:
    """The same snapshot for a second forecast: the first uses its own up."""
    copied = Market.of(snapshot).snapshot(snapshot.at)
    return Snapshot(
        at=snapshot.at,
        settings=snapshot.settings,
        policies=snapshot.policies,
        share=snapshot.share,
        awards=snapshot.awards,
        reputation=snapshot.reputation.copy(),
        agents=copied.agents,
        waiting=snapshot.waiting,
    )


def fits(agent: str, said: m.Offer, spec: m.SubtaskSpec) -> bool:
    offered = [capability.name for capability in said.capabilities]
    return spec.capability in offered and said.accepting and spec.labels.items() <= said.labels.items() and agent not in spec.avoid


def most_at_once(lines: list[v.ForecastLine]) -> int:
    """How many of them overlap; one that takes no time takes no slot."""
    changes = [(line.start_s or 0.0, 1) for line in lines if line.start_s != line.finish_s]
    changes += [(line.finish_s or 0.0, -1) for line in lines if line.start_s != line.finish_s]
    most = running = 0
    for _, change in sorted(changes):
        running += change
        most = max(most, running)
    return most
