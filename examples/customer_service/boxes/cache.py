"""The data cache (数据缓存): remembers what was read for a while. It is memory only: a cache that died has forgotten, and nothing else happens."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any

from examples.customer_service.kit import box

__all__ = ["agent"]

agent = box("cache")
FRESH_S = 60.0
MOST = 1000
_kept: OrderedDict[str, tuple[float, dict[str, Any]]] = OrderedDict()


@agent.capability("cache.get", estimate_s=0.001)
async def get(key: str) -> dict[str, Any] | None:
    """What was put under the key within the last minute."""
    at, value = _kept.get(key, (0.0, None))
    return value if value is not None and time.monotonic() - at < FRESH_S else None


@agent.capability("cache.put", estimate_s=0.001)
async def put(key: str, value: dict[str, Any]) -> bool:
    """Remember it; the oldest goes when there are too many."""
    _kept[key] = time.monotonic(), value
    _kept.move_to_end(key)
    while len(_kept) > MOST:
        _kept.popitem(last=False)
    return True
