"""Arithmetic on text, safe for anybody's text: no names of Python are reachable, and no input is slow."""

from __future__ import annotations

import ast
import decimal
from collections.abc import Callable
from decimal import Decimal
from typing import Final

from cirkelline.configs.errors import CirkellineError

LONGEST: Final = 1000  # characters
DIGITS: Final = 50  # significant digits of every step; results that had to be rounded are shown with SHOWN
SHOWN: Final = 20
LARGEST: Final = 9999  # decimal exponent; this bound is what ends 9**9**9 at once
_PLAIN: Final = 30  # digits before a result is written with an exponent

_CONTEXT: Final = decimal.Context(
    prec=DIGITS,
    rounding=decimal.ROUND_HALF_EVEN,
    Emin=-LARGEST,
    Emax=LARGEST,
    traps=[decimal.InvalidOperation, decimal.DivisionByZero, decimal.Overflow, decimal.Underflow],
)
_SPELLINGS: Final = str.maketrans(
    {
        "^": "**",
        "\N{MULTIPLICATION SIGN}": "*",
        "\N{MIDDLE DOT}": "*",
        "\N{DIVISION SIGN}": "/",
        "\N{MINUS SIGN}": "-",
        "\N{EN DASH}": "-",
    }
)
_CONSTANTS: Final = {
    "pi": Decimal("3.1415926535897932384626433832795028841971693993751"),
    "e": Decimal("2.7182818284590452353602874713526624977572470937000"),
}


class CalculationError(CirkellineError):
    """An expression that has no value here; the sentence says what to write instead."""


def value(expression: str) -> str:
    """Return the value of an arithmetic expression as text, computed in decimals: 0.1 + 0.2 is 0.3."""
    if len(expression) > LONGEST:
        raise CalculationError(f"the expression has {len(expression):,} characters, at most {LONGEST:,} are read")
    source = expression.strip().translate(_SPELLINGS)
    try:
        tree = ast.parse(source, mode="eval")
        with decimal.localcontext(_CONTEXT) as context:
            number = _Evaluation(source).value(tree.body)
            return _written(number, exact=not context.flags[decimal.Inexact])
    except (SyntaxError, ValueError) as error:
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        raise CalculationError(f"this is not arithmetic ({said}); write for example (3 + 4) * 2 ** 0.5") from None
    except (RecursionError, MemoryError):
        raise CalculationError("the expression is nested too deeply; calculate it in parts") from None
    except decimal.DecimalException as error:
        raise CalculationError(_impossible(error)) from None


def _impossible(error: decimal.DecimalException) -> str:
    match error:
        case decimal.Overflow():
            return f"the result is too large (more than {LARGEST:,} digits)"
        case decimal.Underflow():
            return f"the result is too small (more than {LARGEST:,} digits after the point)"
        case decimal.DivisionByZero():
            return "division by zero has no result"
        case _:
            return f"it has no result that is real and has at most {DIGITS} digits"


def _divisor(number: Decimal) -> Decimal:
    if not number:
        raise decimal.DivisionByZero  # Decimal calls 0 / 0 and 5 % 0 something else
    return number


def _floored(left: Decimal, right: Decimal) -> tuple[Decimal, Decimal]:
    """Return quotient and remainder as Python's integers have them: -7 // 2 is -4. Decimal's own cut towards zero."""
    quotient, remainder = divmod(left, _divisor(right))
    if remainder and (remainder < 0) != (right < 0):
        return quotient - 1, remainder + right
    return quotient, remainder


def _power(left: Decimal, right: Decimal) -> Decimal:
    return Decimal(1) if not right else left**right  # 0 ** 0 is 1, as for Python's numbers


_BINARY: Final[dict[type[ast.operator], Callable[[Decimal, Decimal], Decimal]]] = {
    ast.Add: lambda left, right: left + right,
    ast.Sub: lambda left, right: left - right,
    ast.Mult: lambda left, right: left * right,
    ast.Div: lambda left, right: left / _divisor(right),
    ast.FloorDiv: lambda left, right: _floored(left, right)[0],
    ast.Mod: lambda left, right: _floored(left, right)[1],
    ast.Pow: _power,
}


def _round(number: Decimal, places: Decimal = Decimal(0)) -> Decimal:
    """Round halves away from zero, as people and invoices do."""
    if places != places.to_integral_value() or abs(places) > DIGITS:
        raise CalculationError(f"round takes a whole number of places, at most {DIGITS}")
    exponent = number.as_tuple().exponent
    if isinstance(exponent, int) and exponent >= -places:
        return number
    return number.quantize(Decimal(1).scaleb(-int(places)), decimal.ROUND_HALF_UP)


def _absolute(number: Decimal) -> Decimal:
    return abs(number)


def _ceiling(number: Decimal) -> Decimal:
    return number.to_integral_value(decimal.ROUND_CEILING)


def _floor(number: Decimal) -> Decimal:
    return number.to_integral_value(decimal.ROUND_FLOOR)


def _maximum(*numbers: Decimal) -> Decimal:
    return max(numbers)


def _minimum(*numbers: Decimal) -> Decimal:
    return min(numbers)


def _sum(*numbers: Decimal) -> Decimal:
    return sum(numbers, Decimal(0))


# name -> (function, fewest arguments, most arguments)
_FUNCTIONS: Final[dict[str, tuple[Callable[..., Decimal], int, int]]] = {
    "abs": (_absolute, 1, 1),
    "ceil": (_ceiling, 1, 1),
    "exp": (Decimal.exp, 1, 1),
    "floor": (_floor, 1, 1),
    "ln": (Decimal.ln, 1, 1),
    "log10": (Decimal.log10, 1, 1),
    "max": (_maximum, 1, 100),
    "min": (_minimum, 1, 100),
    "round": (_round, 1, 2),
    "sqrt": (Decimal.sqrt, 1, 1),
    "sum": (_sum, 1, 100),
}
_KNOWN: Final = f"numbers, + - * / // % **, parentheses, pi, e and {', '.join(_FUNCTIONS)}"


class _Evaluation:
    """Walks one parsed expression; the source is kept because Python has already rounded its decimals to binary."""

    def __init__(self, source: str) -> None:
        self._source = source

    def value(self, node: ast.expr) -> Decimal:
        match node:
            case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
                return self._number(node)
            case ast.Name(id=name) if name in _CONSTANTS:
                decimal.getcontext().flags[decimal.Inexact] = True
                return _CONSTANTS[name]
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.value(operand)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self.value(operand)
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _BINARY:
                return _BINARY[type(operator)](self.value(left), self.value(right))
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
                return self._called(name, arguments)
            case ast.Tuple():
                raise CalculationError(
                    "a comma separates nothing here: write 1000.5 and not 1,000.5, and one expression"
                )
            case _:
                part = ast.get_source_segment(self._source, node) or self._source
                raise CalculationError(f"{part[:60]!r} cannot be calculated; there are {_KNOWN}")

    def _number(self, node: ast.Constant) -> Decimal:
        if isinstance(node.value, int):
            return +Decimal(node.value)
        return +Decimal(ast.get_source_segment(self._source, node) or repr(node.value))

    def _called(self, name: str, arguments: list[ast.expr]) -> Decimal:
        function, fewest, most = _FUNCTIONS[name]
        if not fewest <= len(arguments) <= most:
            wanted = f"{fewest}" if fewest == most else f"{fewest} to {most}"
            raise CalculationError(f"{name} takes {wanted} numbers, not {len(arguments)}")
        return function(*map(self.value, arguments))


def _written(number: Decimal, *, exact: bool) -> str:
    """Write an exact number in full, any other rounded to SHOWN digits, which hides how 1 / 3 * 3 missed 1."""
    if not number.is_finite():  # the logarithm of zero
        raise decimal.InvalidOperation
    if exact and number == number.to_integral_value() and number.adjusted() < DIGITS:
        return f"{number.to_integral_value() + 0:f}"
    shown = (
        decimal.Context(prec=DIGITS if exact else SHOWN, Emin=-2 * LARGEST, Emax=2 * LARGEST).plus(number).normalize()
    )
    plain = -_PLAIN < shown.adjusted() < _PLAIN
    return f"{shown:f}" if plain else f"{shown:E}"
