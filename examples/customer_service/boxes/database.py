"""The database (数据库) of customers and orders, for reading only."""

from __future__ import annotations

from typing import Any

from examples.customer_service import shop
from examples.customer_service.kit import box

__all__ = ["agent"]

agent = box("database")


@agent.capability("database.order", estimate_s=0.004)
def order(number: str) -> dict[str, Any] | None:
    """The order with its customer and items; none when there is no such number."""
    return shop.order(number)
