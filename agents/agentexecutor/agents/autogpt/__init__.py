"""AutoGPT on the bus: a planner that asks a language model, a critic, a memory, and tools, each an ordinary agent (docs/autogpt.md).

Importing this package imports no model's library: that is the extra ``llm``.
"""

from agentexecutor.agents.autogpt.settings import MODEL_PLANNER

__all__ = ["MODEL_PLANNER"]
