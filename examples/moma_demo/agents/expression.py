"""Arithmetic on text by walking its syntax tree: no eval, and bounded in size and in result."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable

__all__ = ["evaluate"]

_MAX_CHARS = 200
_MAX_BITS = 2_048

_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_UNARY: dict[type[ast.unaryop], Callable[[float], float]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_FUNCTIONS: dict[str, Callable[[float], float]] = {"sqrt": math.sqrt, "abs": abs}


def evaluate(expression: str) -> float:
    """Compute ``+ - * / // % **``, brackets, ``sqrt`` and ``abs``.

    Raises:
        ValueError: The expression is too long, too large in result, or is not arithmetic.

    Example:
        >>> evaluate("(3 + 4) * 2")
        14
        >>> evaluate("__import__('os')")
        Traceback (most recent call last):
        ...
        ValueError: "__import__('os')" is not arithmetic that I can do.
    """
    if len(expression) > _MAX_CHARS:
        raise ValueError(f"an expression may have {_MAX_CHARS} characters at most.")
    try:
        result = _walk(ast.parse(expression.strip(), mode="eval").body)
    except ZeroDivisionError:
        raise ValueError("nothing can be divided by zero.") from None
    except OverflowError:
        raise ValueError("the result is too large for me.") from None
    except (SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        raise ValueError(f"{expression!r} is not arithmetic that I can do.") from None
    return result


def _walk(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return value
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_walk(left), _walk(right))
        case ast.BinOp(left=left, op=sign, right=right):
            return _BINARY[type(sign)](_walk(left), _walk(right))
        case ast.UnaryOp(op=sign, operand=operand):
            return _UNARY[type(sign)](_walk(operand))
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]):
            return _FUNCTIONS[name](_walk(argument))
        case _:
            raise TypeError


def _power(base: float, exponent: float) -> float:
    # 9**9**9 would fill the memory before any limit on the result could act.
    if abs(base) > 1 and math.log2(abs(base)) * abs(exponent) > _MAX_BITS:
        raise OverflowError
    result = base**exponent
    if isinstance(result, complex):
        raise TypeError
    return float(result) if isinstance(result, float) else int(result)
