"""The query engine (查询引擎): what the shop knows of an order, from the cache, else from the database."""

from __future__ import annotations

from typing import Any

from examples.customer_service.kit import box
from examples.customer_service.shapes import Facts, Intent

from agentexecutor.agents import Context

__all__ = ["agent"]

agent = box("query-engine")


@agent.capability("orders.query", estimate_s=0.02)
async def query(ctx: Context, intent: Intent) -> Facts:
    """The order that the intent names, if it names one and there is one."""
    number = intent.order
    if number is None:
        return Facts(number=None, found=False)
    remembered: dict[str, Any] | None = await (await ctx.submit("cache.get", {"key": f"order {number}"})).result(dict[str, Any] | None)
    if remembered is not None:
        return Facts(number=number, found=True, cached=True, **remembered)
    row: dict[str, Any] | None = await (await ctx.submit("database.order", {"number": number})).result(dict[str, Any] | None)
    if row is None:
        return Facts(number=number, found=False)
    await (await ctx.submit("cache.put", {"key": f"order {number}", "value": row})).result()
    return Facts(number=number, found=True, **row)
