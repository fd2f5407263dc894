"""The forecast: the market's own choices in virtual time, from offers and a plan. Pure."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from agentexecutor.coordinator.forecast import make_forecast
from agentexecutor.coordinator.inputs import Demand, Key, SubmitIn
from agentexecutor.coordinator.market import Market
from agentexecutor.coordinator.settings import Settings
from agentexecutor.schemas import messages as m
from agentexecutor.schemas import views as v
from agentexecutor.schemas.names import TaskName

NOW = 100.0
SETTINGS = Settings(policies=frozenset({"fastest", "cheapest", "round-robin"}))


@pytest.fixture
def market() -> Market:
    return Market(SETTINGS)


def offers(market: Market, name: str, **capabilities: float | None) -> None:
    """An agent of capacity 1 with these capabilities (``_`` for the dot) and their estimates."""
    say(market, name, [m.Capability(name=key.replace("_", "."), estimate_s=estimate) for key, estimate in capabilities.items()])


def say(market: Market, name: str, capabilities: list[m.Capability], **more: Any) -> None:
    market.offer(NOW, name, m.Offer(boot="1", capabilities=capabilities, **more))


def plan(**subtasks: m.SubtaskSpec) -> m.Submit:
    return m.Submit(plan=m.PlanSpec(subtasks=subtasks))


def sub(capability: str = "c", input: Any = None, **more: Any) -> m.SubtaskSpec:
    return m.SubtaskSpec(capability=capability, input=Raw(msgspec.json.encode(input or {})), **more)


def forecast(market: Market, submit: m.Submit, now: float = NOW) -> v.Forecast:
    made = make_forecast(SubmitIn(submit, "", 0.0), market.snapshot(now), SETTINGS)
    assert isinstance(made, v.Forecast), made
    return made


def refusal(market: Market, submit: m.Submit) -> m.ErrorInfo:
    made = make_forecast(SubmitIn(submit, "", 0.0), market.snapshot(NOW), SETTINGS)
    assert isinstance(made, m.ErrorInfo), made
    return made


def who(made: v.Forecast) -> list[tuple[str, str | None, float | None, float | None]]:
    return [(line.name, line.agent, line.start_s, line.finish_s) for line in made.subtasks]


def test_a_capability_goes_to_the_best_offer(market: Market) -> None:
    say(market, "slow", [m.Capability(name="c", estimate_s=3.0, cost=1.0)])
    say(market, "fast", [m.Capability(name="c", estimate_s=2.0, cost=5.0)])
    made = forecast(market, m.Submit(capability="c", input=Raw(b'{"x":1}')))
    (line,) = made.subtasks
    assert line == v.ForecastLine(name="main", capability="c", agent="fast", start_s=0.0, finish_s=2.0, cost=5.0, reason="2 s of work")
    assert (made.finish_s, made.cost, made.unserved) == (2.0, 5.0, [])
    assert made.plan == m.PlanSpec(subtasks={"main": m.SubtaskSpec(capability="c", input=Raw(b'{"x":1}'))})
    cheap = forecast(market, m.Submit(capability="c", award="cheapest"))
    assert [(line.agent, line.cost) for line in cheap.subtasks] == [("slow", 1.0)]


def test_an_input_that_does_not_fit_is_told(market: Market) -> None:
    takes = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"], "additionalProperties": False}
    say(market, "a", [m.Capability(name="greet", takes=takes)])
    made = forecast(
        market, plan(good=sub("greet", {"name": "Ada"}), lacks=sub("greet"), odd=sub("greet", {"name": 5}), nobody=sub("none", {"x": 1}))
    )
    assert made.misfits == ["The input of 'lacks' lacks 'name'.", "'name' in the input of 'odd' is no string."]
    assert made.unserved == ["none"]


def test_what_waits_starts_when_the_last_of_what_it_waits_for_ends(market: Market) -> None:
    offers(market, "a", c=1.0, d=0.5)
    offers(market, "b", c=4.0)
    made = forecast(market, plan(end=sub("d", {"x": {"$ref": "one"}, "y": {"$ref": "two/rows"}}), one=sub(prefer="a"), two=sub(prefer="b")))
    assert who(made) == [("one", "a", 0.0, 1.0), ("two", "b", 0.0, 4.0), ("end", "a", 4.0, 4.5)]
    assert made.finish_s == 4.5


def test_an_agent_does_no_more_at_once_than_its_capacity_and_the_urgent_first(market: Market) -> None:
    say(market, "a", [m.Capability(name="c", estimate_s=2.0)], capacity=2)
    made = forecast(market, plan(s1=sub(), s2=sub(), s3=sub(priority=5), s4=sub(priority=-1)))
    assert [(line.name, line.start_s) for line in made.subtasks] == [("s3", 0.0), ("s1", 0.0), ("s2", 2.0), ("s4", 2.0)]
    assert made.finish_s == 4.0


def test_promises_are_corrected_by_how_they_were_kept(market: Market) -> None:
    offers(market, "liar", c=1.0)
    offers(market, "honest", c=2.0)
    for _ in range(20):
        market.reputation.learn("liar", "c", 5.0, 1.0)
    made = forecast(market, plan(s1=sub(), s2=sub()))
    assert who(made)[0] == ("s1", "honest", 0.0, 2.0)
    assert made.subtasks[1].agent == "liar"
    assert made.subtasks[1].finish_s == pytest.approx(5.0, rel=0.01)


def test_without_an_estimate_what_was_measured_counts(market: Market) -> None:
    offers(market, "a", c=None)
    assert who(forecast(market, plan(s=sub()))) == [("s", "a", 0.0, 0.0)]
    market.reputation.learn("a", "c", 3.0, None)
    assert who(forecast(market, plan(s=sub()))) == [("s", "a", 0.0, 3.0)]


def test_why_nobody_does_it_and_what_waits_for_it(market: Market) -> None:
    say(market, "a", [m.Capability(name="c", estimate_s=1.0)], labels={"zone": "us"})
    say(market, "b", [m.Capability(name="c", estimate_s=1.0)], accepting=False)
    made = forecast(
        market,
        plan(
            last=sub(after=["sung", "fine"]),
            sung=sub("sing"),
            eu=sub(labels={"zone": "eu"}),
            never=sub(avoid=["a"]),
            fine=sub(),
        ),
    )
    assert who(made)[0] == ("fine", "a", 0.0, 1.0)
    assert [(line.name, line.agent, line.start_s, line.finish_s, line.cost, line.reason) for line in made.subtasks[1:]] == [
        ("last", None, None, None, None, "waits for sung"),
        ("sung", None, None, None, None, "no agent offers sing"),
        ("eu", None, None, None, None, "none of the 2 agents that offer it fits: labels (1), not accepting (1)"),
        ("never", None, None, None, None, "none of the 2 agents that offer it fits: not accepting (1), to be avoided (1)"),
    ]
    assert (made.finish_s, made.unserved, made.cost) == (None, ["sing", "c"], 0.0)


def test_silent_agents_do_not_count(market: Market) -> None:
    offers(market, "a", c=1.0)
    made = forecast(market, plan(s=sub()), now=NOW + SETTINGS.lost_after_s + 0.1)
    assert made.subtasks[0].reason == "no agent offers c"


def test_options_of_the_submit_count_where_a_subtask_says_nothing(market: Market) -> None:
    say(market, "us", [m.Capability(name="c", estimate_s=1.0)], labels={"zone": "us"})
    say(market, "eu", [m.Capability(name="c", estimate_s=5.0)], labels={"zone": "eu"})
    submit = msgspec.structs.replace(plan(s1=sub(), s2=sub(labels={"zone": "us"})), labels={"zone": "eu"})
    assert sorted(who(forecast(market, submit))) == [("s1", "eu", 0.0, 5.0), ("s2", "us", 0.0, 1.0)]


def test_awards_of_ours_end_as_promised(market: Market) -> None:
    offers(market, "a", c=4.0)
    key = Key(TaskName("me", "t1"), "main")
    market.awarded(NOW, key, 7, "a", "1", 4.0)
    market.awards.accepted(NOW, key, 7)
    assert who(forecast(market, plan(s=sub()), now=NOW + 1)) == [("s", "a", 3.0, 7.0)]
    assert who(forecast(market, plan(s=sub()))) == [("s", "a", 4.0, 8.0)]
    market.ended(NOW + 1, key, 7, "completed", took_s=4.0)
    assert who(forecast(market, plan(s=sub()), now=NOW + 1)) == [("s", "a", 0.0, 4.0)]


def test_a_full_agent_s_word_for_when_it_has_room_counts(market: Market) -> None:
    running = [m.Running(task="x.t1", subtask="main", epoch=1), m.Running(task="x.t2", subtask="main", epoch=2)]
    say(market, "a", [m.Capability(name="c", estimate_s=10.0)], capacity=2, running=running, queue_s=1.5)
    made = forecast(market, plan(s1=sub(), s2=sub()))
    assert who(made) == [("s1", "a", 1.5, 11.5), ("s2", "a", 10.0, 20.0)]


def test_what_an_agent_queues_is_waited_for(market: Market) -> None:
    say(market, "a", [m.Capability(name="c", estimate_s=1.0), m.Capability(name="d", estimate_s=1.0)], queue_s=2.0)
    assert who(forecast(market, plan(s1=sub(), s2=sub("d")))) == [("s1", "a", 2.0, 3.0), ("s2", "a", 3.0, 4.0)]


def test_what_waits_already_has_its_turn(market: Market) -> None:
    offers(market, "a", c=1.0)
    for number in range(3):
        key = Key(TaskName("me", f"t{number}"), "s")
        market.want(NOW, key, Demand("c", {}, priority=number - 1, policy=None, auction="call", tailored=True, prefer=None))
    assert who(forecast(market, plan(s=sub()))) == [("s", "a", 2.0, 3.0)], "after the urgent one and the one that came before"
    assert len(market.snapshot(NOW).waiting) == 3, "nothing of it is given away"


def test_who_is_suspended_comes_back(market: Market) -> None:
    offers(market, "a", c=1.0)
    key = Key(TaskName("me", "t"), "s")
    market.awarded(NOW, key, 1, "a", "1", None)
    market.ended(NOW, key, 1, "declined")
    assert who(forecast(market, plan(s=sub()))) == [("s", "a", 1.0, 2.0)]


def test_a_split_is_cut_for_those_that_fit(market: Market) -> None:
    for name, capacity in (("small", 1), ("large", 3)):
        say(market, name, [m.Capability(name="c", estimate_s=8.0), m.Capability(name="join", estimate_s=1.0)], capacity=capacity)
    split = m.Split(over="texts", merge="join")
    made = forecast(market, plan(s=sub(input={"texts": list("abcd")}, split=split), after=sub("join", {"x": {"$ref": "s"}})))
    assert sorted(who(made)) == [
        ("after", "small", 7.0, 8.0),
        ("s-1", "large", 0.0, 6.0),
        ("s-2", "small", 0.0, 2.0),
        ("s-merge", "large", 6.0, 7.0),
    ]
    assert made.plan.subtasks["s"].split == split
    later = forecast(market, plan(first=sub(), s=sub(input={"texts": {"$ref": "first"}}, split=m.Split(over="texts", by="equal", into=4))))
    assert [line.finish_s for line in later.subtasks if line.name.startswith("s-")] == [10.0] * 4, "a list that is not there yet"


@pytest.mark.parametrize(
    ("submit", "said"),
    [
        (plan(a=sub(after=["b"]), b=sub(after=["a"])), "cycle: a -> b -> a"),
        (plan(a=sub(award="nonsense")), "no award policy 'nonsense'"),
        (m.Submit(), "exactly one of capability, plan, goal"),
        (m.Submit(goal="be happy"), "be happy"),
        (plan(s=sub(input={"texts": "none"}, split=m.Split(over="texts"))), "'texts' is no list"),
        (plan(**{"s": sub(input={"x": [1]}, split=m.Split(over="x")), "s-1": sub()}), "The share 's-1' has the name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_be_refused_is_refused(market: Market, submit: m.Submit, said: str) -> None:
    offers(market, "a", c=1.0)
    error = refusal(market, submit)
    assert error.code == "input"
    assert said in error.message


def test_a_refused_plan_names_the_path(market: Market) -> None:
    assert refusal(market, plan(a=sub(after=["b"]), b=sub(after=["a"]))).details == {"path": ["a", "b", "a"]}


def test_the_market_is_left_as_it_was_and_the_forecast_is_the_same_again(market: Market) -> None:
    for name in ("a", "b", "c"):
        say(market, name, [m.Capability(name="c", estimate_s=1.0)], capacity=2)
    submit = plan(**{f"s{number}": sub(award="round-robin") for number in range(20)})
    before = [(agent.name, agent.free) for agent in market.survey.agents(NOW)]
    made = forecast(market, submit)
    assert [(agent.name, agent.free) for agent in market.survey.agents(NOW)] == before
    assert market.poll(NOW, 1) == []
    assert forecast(market, submit) == made


def test_endless_promises_make_numbers(market: Market) -> None:
    say(market, "a", [m.Capability(name="c", estimate_s=1.7e308)], queue_s=1.7e308)
    made = forecast(market, plan(s1=sub(), s2=sub()))
    assert made.finish_s is not None
    assert math.isfinite(made.finish_s)
    assert msgspec.json.decode(msgspec.json.encode(made), type=v.Forecast) == made
