"""The knowledge base (知识库): finds entries by full text, and gives the answer of one."""

from __future__ import annotations

from examples.customer_service import library
from examples.customer_service.kit import box
from examples.customer_service.shapes import Candidate

from agentexecutor.agents import Fail

__all__ = ["agent"]

agent = box("knowledge-base")


@agent.capability("knowledge.search", estimate_s=0.005)
def search(text: str) -> list[Candidate]:
    """Entries that share words or letters with the text; how alike they are the knowledge matcher says."""
    return [library.candidate(row) for row in library.search(text)]


@agent.capability("knowledge.read", estimate_s=0.002)
def read(entry: int) -> str:
    """The answer of an entry."""
    answer = library.answer_of(entry)
    if answer is None:
        raise Fail(f"The knowledge base has no entry {entry}.", entry=entry)
    return answer
