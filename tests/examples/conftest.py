"""What the examples' tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from foreign import installed

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """examples/node with its packages, outside of the checkout."""
    return installed(tmp_path_factory.mktemp("examples"))
