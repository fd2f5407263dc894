"""A calculator: ``agentexecutor agent agentexecutor.agents.autogpt.tools.calculator:agent``. Arithmetic only; nothing of Python can be reached.

An expression is parsed, and only what stands in the tables below is done; numbers, powers and lengths are bounded, so no expression takes long.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable

import msgspec

from agentexecutor.agents.agent import Agent
from agentexecutor.agents.errors import Fail

__all__ = ["Unreadable", "Value", "agent", "calculate", "make"]

MAX_CHARS = 2000
MAX_DEPTH = 100
MAX_BITS = 4096
"""Of a whole number, also on the way to the result."""
MAX_DIGITS = 400
SAFE = 2**53
"""Larger whole numbers are no numbers of JSON: they are told as text alone."""

Number = int | float
_TWO: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_ONE: dict[type[ast.unaryop], Callable[[Number], Number]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


class Unreadable(Exception):
    """The expression is none, or is too large."""


def _round(number: Number, digits: Number = 0) -> Number:
    """Rounding to 10**9 digits would take for ever."""
    if abs(digits) > MAX_DIGITS:
        raise Unreadable(f"round takes up to {MAX_DIGITS} digits.")
    return round(number, int(digits)) if digits else round(number)


_FUNCTIONS: dict[str, tuple[Callable[..., Number], int, int]] = {
    "abs": (abs, 1, 1),
    "ceil": (math.ceil, 1, 1),
    "cos": (math.cos, 1, 1),
    "exp": (math.exp, 1, 1),
    "floor": (math.floor, 1, 1),
    "log": (math.log, 1, 2),
    "log10": (math.log10, 1, 1),
    "max": (max, 2, 100),
    "min": (min, 2, 100),
    "round": (_round, 1, 2),
    "sin": (math.sin, 1, 1),
    "sqrt": (math.sqrt, 1, 1),
    "tan": (math.tan, 1, 1),
}
"""By name: the function, and how few and how many arguments it takes."""
_CONSTANTS: dict[str, float] = {"pi": math.pi, "e": math.e}


class Value(msgspec.Struct):
    """A result. `value` null: a whole number too large for JSON, which `text` has in full."""

    value: float | int | None
    text: str


def calculate(expression: str) -> Number:
    """The value of an expression: numbers, + - * / // % **, brackets, the functions and constants above. Raises Unreadable."""
    if len(expression) > MAX_CHARS:
        raise Unreadable(f"{len(expression)} characters are too many; at most {MAX_CHARS}.")
    try:
        tree = ast.parse(expression.strip().replace("^", "**"), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise Unreadable(f"That is no expression: {error}.") from None
    try:
        return _value(tree.body, 0)
    except ZeroDivisionError:
        raise Unreadable("It divides by zero.") from None
    except RecursionError:
        raise Unreadable(f"It is nested more than {MAX_DEPTH} deep.") from None
    except (ValueError, OverflowError, TypeError) as error:
        raise Unreadable(f"It has no value: {error}.") from None


def _value(node: ast.expr, depth: int) -> Number:
    if depth > MAX_DEPTH:
        raise Unreadable(f"It is nested more than {MAX_DEPTH} deep.")
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _bounded(number)
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _ONE:
            return _ONE[type(sign)](_value(operand, depth + 1))
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left, depth + 1), _value(right, depth + 1))
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _TWO:
            return _bounded(_TWO[type(sign)](_value(left, depth + 1), _value(right, depth + 1)))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            function, fewest, most = _FUNCTIONS[name]
            if not fewest <= len(args) <= most:
                raise Unreadable(f"{name} takes {fewest} to {most} numbers.")
            return _bounded(function(*(_value(arg, depth + 1) for arg in args)))
    known = ", ".join([*_FUNCTIONS, *_CONSTANTS])
    raise Unreadable(f"{ast.unparse(node)[:100]!r} is not understood; there are numbers, + - * / // % **, brackets, {known}.")


def _power(base: Number, exponent: Number) -> Number:
    """A power whose size is known before it is made."""
    if isinstance(base, int) and isinstance(exponent, int) and exponent > 0 and abs(base) > 1 and base.bit_length() * exponent > MAX_BITS:
        raise Unreadable(f"A power of {base.bit_length() * exponent} bits is too large; at most {MAX_BITS}.")
    value = base**exponent
    if isinstance(value, complex):
        raise Unreadable("It is no real number.")
    return _bounded(value)


def _bounded(number: Number) -> Number:
    if isinstance(number, int):
        if number.bit_length() > MAX_BITS:
            raise Unreadable(f"A whole number of {number.bit_length()} bits is too large; at most {MAX_BITS}.")
    elif not math.isfinite(number):
        raise Unreadable("It is no finite number.")
    return number


def make() -> Agent:
    """A calculator."""
    made = Agent("calculator", capacity=4)

    @made.capability("calculator.evaluate", estimate_s=0.01)
    def evaluate(expression: str) -> Value:
        """The value of an arithmetic expression: numbers, + - * / // % ** and brackets, sqrt, round, min, max, log, exp, sin, ..., pi, e."""
        try:
            number = calculate(expression)
        except Unreadable as error:
            raise Fail(str(error), expression=expression[:200]) from error
        large = isinstance(number, int) and abs(number) >= SAFE
        return Value(None if large else number, str(number))

    return made


agent = make()
