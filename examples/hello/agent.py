"""The smallest agent: one capability, `greet`. README.md beside it says how to start it."""

from agentexecutor.agents import Agent, Context

agent = Agent("greeter", capacity=2)


@agent.capability("greet", estimate_s=0.01)
async def greet(ctx: Context, name: str) -> str:
    """The input is an object whose keys are the parameters: {"name": "Ada"}."""
    async with ctx.step("think"):
        return f"Hello, {name}!"


if __name__ == "__main__":
    agent.run()  # the same as `agentexecutor agent examples/hello/agent.py:agent`
