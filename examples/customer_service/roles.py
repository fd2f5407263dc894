"""Who there is: the boxes of the seed's figure 1, and the agent that each is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from typing import NamedTuple

from agentexecutor.agents import Agent
from agentexecutor.bus import Bus

__all__ = ["ROLES", "Role", "in_this_process"]

PACKAGE = "examples.customer_service.boxes"


class Role(NamedTuple):
    """An agent's name on the bus, its module, the seed's letter and word for it, and what it does."""

    name: str
    module: str
    box: str
    does: str

    @property
    def where(self) -> str:
        """As ``agentexecutor agent`` takes it."""
        return f"{PACKAGE}.{self.module}:agent"

    @property
    def agent(self) -> Agent:
        """The agent itself."""
        found: Agent = import_module(f"{PACKAGE}.{self.module}").agent
        return found


ROLES = (
    Role("service", "service", "B 客服代理", "plans each turn, hands over what the staff says"),
    Role("database", "database", "C 数据库", "customers and orders"),
    Role("dialogue", "dialogue", "D 对话引擎", "opens turns and writes them down"),
    Role("response", "response", "E 响应生成器", "writes what the customer reads"),
    Role("feedback-generator", "feedback_generator", "F 反馈生成器", "asks whether it helped"),
    Role("query-engine", "query_engine", "G 查询引擎", "finds orders"),
    Role("understanding", "understanding", "H 对话理解器", "reads a text"),
    Role("knowledge-base", "knowledge_base", "I 知识库", "full-text search, answers"),
    Role("feedback-manager", "feedback_manager", "J 反馈管理", "keeps what customers thought"),
    Role("cache", "cache", "K 数据缓存", "remembers orders for a minute"),
    Role("recogniser", "recogniser", "L 意图识别器", "learnt: which intents a text may have"),
    Role("intent-matcher", "intent_matcher", "M 意图匹配器", "decides for one"),
    Role("knowledge-matcher", "knowledge_matcher", "N 知识匹配器", "how alike questions are"),
    Role("reasoner", "reasoner", "O 知识推理器", "decides for an answer, or for none"),
    Role("knowledge-store", "store", "P 知识存储器", "keeps what a person taught"),
    Role("knowledge-updater", "updater", "Q 知识更新器", "makes it an entry that is found"),
)


@asynccontextmanager
async def in_this_process(bus: Bus) -> AsyncIterator[None]:
    """All of them in this process, for tests: the first takes a share of coordinating."""
    async with AsyncExitStack() as stack:
        for place, role in enumerate(ROLES):
            await stack.enter_async_context(role.agent.serve(bus, name=role.name, coordinate=place < 1))
        yield
