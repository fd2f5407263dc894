"""The shop's customers and orders: 200 orders of 60 customers, made here and always the same. Parameterised SQL only."""

from __future__ import annotations

import random
from datetime import date, timedelta
from typing import Any

from examples.customer_service.files import opened

__all__ = ["FIRST_ORDER", "ORDERS", "create", "order"]

NAME = "shop"
FIRST_ORDER = 1001
ORDERS = 200
CUSTOMERS = 60
SEED = 6
DAY_ONE = date(2026, 11, 1)
FIRST = ("Ada", "Alan", "Grace", "Edsger", "Barbara", "Donald", "Radia", "Ken", "Frances", "Niklaus")
LAST = ("Archer", "Baker", "Carter", "Dyer", "Fletcher", "Mason")
GOODS = (("laptop", 89900), ("printer", 14900), ("webcam", 4900), ("mouse", 1900), ("keyboard", 5900), ("router", 7900), ("headset", 6900))
STATES = ("being packed", "on its way", "delivered", "delayed at the warehouse")
SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE orders (number TEXT PRIMARY KEY, customer INTEGER NOT NULL REFERENCES customers (id), state TEXT NOT NULL, due TEXT NOT NULL);
CREATE TABLE items (number TEXT NOT NULL REFERENCES orders (number), item TEXT NOT NULL, cents INTEGER NOT NULL);
"""


def create() -> None:
    """A new shop."""
    dice = random.Random(SEED)  # noqa: S311  # made-up orders, the same every time
    with opened(NAME) as db:
        db.executescript(SCHEMA)
        db.executemany(
            "INSERT INTO customers VALUES (?, ?)",
            [(id, f"{FIRST[id % len(FIRST)]} {LAST[id // len(FIRST) % len(LAST)]}") for id in range(CUSTOMERS)],
        )
        for number in range(FIRST_ORDER, FIRST_ORDER + ORDERS):
            due = DAY_ONE + timedelta(days=dice.randrange(60))
            db.execute(
                "INSERT INTO orders VALUES (?, ?, ?, ?)", (str(number), dice.randrange(CUSTOMERS), dice.choice(STATES), due.isoformat())
            )
            goods = dice.sample(GOODS, dice.randrange(1, 4))
            db.executemany("INSERT INTO items VALUES (?, ?, ?)", [(str(number), item, cents) for item, cents in goods])


def order(number: str) -> dict[str, Any] | None:
    """An order with its customer and items; None: there is no such order."""
    with opened(NAME) as db:
        row = db.execute(
            "SELECT number, state, due, name FROM orders JOIN customers ON customers.id = customer WHERE number = ?", (number,)
        ).fetchone()
        if row is None:
            return None
        items = db.execute("SELECT item, cents FROM items WHERE number = ? ORDER BY rowid", (number,)).fetchall()
    total = sum(item["cents"] for item in items)
    return {
        "state": row["state"],
        "due": row["due"],
        "customer": row["name"],
        "items": [item["item"] for item in items],
        "total": f"{total // 100}.{total % 100:02}",
    }
