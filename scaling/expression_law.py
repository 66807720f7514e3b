"""A law that a user writes down: an equation of parameters and of the table's columns, in a YAML file.

    name: over_training
    equation: E + A * n_active**-alpha + B * tokens**-beta
    parameters:
      E: {center: 1.8, positive: true, spread: 0.5}
      A: {center: 480, positive: true}
      B: {center: 2000, positive: true}
      alpha: {center: 0.34, lower: 0.001, upper: 2.5}
      beta: {center: 0.37, lower: 0.001, upper: 2.5}

Nothing of it is executed. The equation is parsed into a tree; numbers, names, ``+ - * / **`` and the functions of
``FUNCTIONS`` are all that it may hold, and value and derivatives are computed by walking the tree (forward-mode
differentiation), so that the Jacobian is exact.

Where every addend of the equation is positive whatever the parameters, each is a term of the loss, and starts are set
for each; otherwise the loss is one term.
"""

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import yaml
from pydantic import Field, ValidationError

from moe_search.scaling.columns import positive
from moe_search.scaling.law import Array, Law, Parameter, Term, Unit, Variables
from moe_search.spaces.errors import InvalidInputError
from moe_search.spaces.frozen import Frozen

LONGEST_EQUATION = 2000
DEEPEST_EQUATION = 150
"""Operations within operations; an addend more is one."""
LARGEST_NUMBER = 1e300
LARGEST = 1e18
"""Bound of a positive parameter, and its inverse; others lie between -1000 and 1000 unless the file says."""

FUNCTIONS: Mapping[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "exp": (np.exp, np.exp),
    "log": (np.log, lambda u: 1 / u),
    "log2": (np.log2, lambda u: 1 / (u * np.log(2))),
    "log10": (np.log10, lambda u: 1 / (u * np.log(10))),
    "sqrt": (np.sqrt, lambda u: 0.5 / np.sqrt(u)),
}
"""Name to the function and its derivative."""
ALLOWED = f"numbers, names, + - * / ** and {', '.join(FUNCTIONS)}"


class ParameterText(Frozen):
    """A parameter as the file states it."""

    center: float
    positive: bool = False
    spread: float | None = Field(default=None, gt=0)
    """Of the weak prior; of the logarithm where ``positive``. None: 3 where positive, else 0.2."""
    lower: float | None = None
    upper: float | None = None
    meaning: str = ""


class LawText(Frozen):
    """The file."""

    name: str = Field(pattern=r"^[A-Za-z]\w*$")
    equation: str = Field(max_length=LONGEST_EQUATION)
    parameters: dict[str, ParameterText] = Field(min_length=1)
    source: str = "a file of the user's"
    convention: str = "columns of the runs table by their names"
    unit: Unit = "nats/token"
    """Of the loss that the centres of a term's scale are stated for."""


@dataclass(frozen=True)
class Dual:
    """A value (batch, runs) or what broadcasts to it, with its derivatives by some parameters."""

    value: Array
    slopes: Mapping[int, Array]

    def times(self, factor: Array) -> dict[int, Array]:
        """Return the derivatives, each times ``factor``."""
        return {j: slope * factor for j, slope in self.slopes.items()}


class ExpressionLaw(Law):
    """The law of one text.

    Args:
        text: the YAML.
        where: what to call it in errors.

    Raises:
        InvalidInputError: it is no such file, or its equation holds something else than it may.
    """

    def __init__(self, text: str, *, where: str) -> None:
        stated = _read(text, where)
        self.definition = text
        self.name, self.equation = stated.name, f"L = {stated.equation}"
        self.source, self.convention = stated.source, stated.convention
        tree = _parse(stated.equation, where)
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - set(FUNCTIONS)
        unused = sorted(set(stated.parameters) - names)
        if unused:
            raise InvalidInputError(
                f"the equation does not use the parameter {unused[0]!r}", where=where, allowed=", ".join(sorted(names))
            )
        self.columns = tuple(sorted(names - set(stated.parameters)))
        if not self.columns:
            raise InvalidInputError("the equation reads no column of the table", where=where, fix="n_active, tokens")
        self._positive = {name for name, one in stated.parameters.items() if one.positive} | set(self.columns)
        addends = _addends(tree)
        self._terms = addends if all(self._is_positive(node) for node in addends) else [tree]
        scales = {name for node in self._terms for name in self._scales(node)} - set(self.columns)
        self.parameters = tuple(
            _parameter(name, one, stated.unit if name in scales else "", self._beside(name, addends), where)
            for name, one in stated.parameters.items()
        )
        self._index = {name: j for j, name in enumerate(self.names)}

    def variables(self, frame: pl.DataFrame) -> Variables:
        """Return the columns that the equation names; they must be positive numbers."""
        return {name: positive(frame, name, law=self.name) for name in self.columns}

    def terms(self, theta: Sequence[Array], x: Variables) -> Sequence[Term]:
        """Return one term an addend, or the whole loss as one."""
        with np.errstate(all="ignore"):  # far starts overflow, and a loss below zero has no logarithm
            return [self._term(node, theta, x) for node in self._terms]

    def _term(self, node: ast.expr, theta: Sequence[Array], x: Variables) -> Term:
        whole = self._evaluate(node, theta, x)
        gradient: dict[int, Array | float] = dict(whole.times(1 / whole.value))
        gradient |= {self._index[name]: 1.0 for name in self._scales(node) if name in self._index}  # exactly
        return Term(np.log(whole.value), gradient)

    def _scales(self, node: ast.expr) -> list[str]:
        """Names of what a term is proportional to: positive factors that occur nowhere else in it."""
        names = [n.id for n in ast.walk(node) if isinstance(n, ast.Name)]
        factors = [factor.id for factor in _factors(node) if isinstance(factor, ast.Name)]
        return [name for name in factors if name in self._positive and names.count(name) == 1]

    def _beside(self, name: str, addends: Sequence[ast.expr]) -> tuple[str, ...]:
        """The columns in the addends that a parameter is in: without their variation it has no value."""
        found: set[str] = set()
        for node in addends:
            names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
            found |= names & set(self.columns) if name in names else set()
        return tuple(sorted(found))

    def _is_positive(self, node: ast.expr) -> bool:  # noqa: PLR0911 - a rule each
        """Whether an expression is positive whatever the parameters."""
        match node:
            case ast.Constant(value=int() | float() as number):
                return number > 0
            case ast.Name(id=name):
                return name in self._positive
            case ast.BinOp(left, ast.Pow(), _):
                return self._is_positive(left)
            case ast.BinOp(left, ast.Add() | ast.Mult() | ast.Div(), right):
                return self._is_positive(left) and self._is_positive(right)
            case ast.Call(func=ast.Name(id="exp")):
                return True
            case ast.Call(func=ast.Name(id="sqrt"), args=[argument]):
                return self._is_positive(argument)
        return False

    def _evaluate(self, node: ast.expr, theta: Sequence[Array], x: Variables) -> Dual:  # noqa: PLR0911 - a rule each
        """Value and derivatives by the internal parameters, one rule a kind of node."""
        match node:
            case ast.Constant(value=int() | float() as number):
                return Dual(np.array([[float(number)]]), {})
            case ast.Name(id=name) if name in self._index:
                j = self._index[name]
                value = np.exp(theta[j]) if self.parameters[j].transform == "log" else theta[j]
                return Dual(value, {j: value if self.parameters[j].transform == "log" else np.ones_like(value)})
            case ast.Name(id=name):
                return Dual(x[name][None, :], {})
            case ast.UnaryOp(ast.USub(), operand):
                inner = self._evaluate(operand, theta, x)
                return Dual(-inner.value, inner.times(np.array(-1.0)))
            case ast.UnaryOp(_, operand):
                return self._evaluate(operand, theta, x)
            case ast.Call(func=ast.Name(id=name), args=[argument]):
                function, derivative = FUNCTIONS[name]
                inner = self._evaluate(argument, theta, x)
                return Dual(function(inner.value), inner.times(derivative(inner.value)))
            case ast.BinOp(left, operator, right):
                return _combine(self._evaluate(left, theta, x), operator, self._evaluate(right, theta, x))
        raise AssertionError(f"_parse let {ast.dump(node)} pass")


def _combine(u: Dual, operator: ast.operator, v: Dual) -> Dual:
    match operator:
        case ast.Add():
            return Dual(u.value + v.value, _sum(u.slopes, v.slopes))
        case ast.Sub():
            return Dual(u.value - v.value, _sum(u.slopes, v.times(np.array(-1.0))))
        case ast.Mult():
            return Dual(u.value * v.value, _sum(u.times(v.value), v.times(u.value)))
        case ast.Div():
            ratio = u.value / v.value
            return Dual(ratio, _sum(u.times(1 / v.value), v.times(-ratio / v.value)))
        case _:  # a power; its logarithm is needed only where the exponent has parameters
            power = np.power(u.value, v.value)
            by_base = u.times(v.value * np.power(u.value, v.value - 1))
            return Dual(power, _sum(by_base, v.times(power * np.log(u.value)) if v.slopes else {}))


def _sum(left: Mapping[int, Array], right: Mapping[int, Array]) -> dict[int, Array]:
    both = dict(left)
    for j, slope in right.items():
        both[j] = both[j] + slope if j in both else slope
    return both


def _addends(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [*_addends(node.left), *_addends(node.right)]
    return [node]


def _factors(node: ast.expr) -> list[ast.expr]:
    match node:
        case ast.BinOp(left, ast.Mult(), right):
            return [*_factors(left), *_factors(right)]
        case ast.BinOp(left, ast.Div(), _):
            return _factors(left)
    return [node]


def _parse(equation: str, where: str) -> ast.expr:
    """Parse the equation and refuse whatever is not arithmetic."""
    where = f"{where}, equation"
    try:
        tree = ast.parse(equation.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InvalidInputError(
            f"{_shortened(repr(equation))} is not an expression", where=where, allowed=ALLOWED
        ) from error
    if _is_deeper(tree, DEEPEST_EQUATION):
        raise InvalidInputError(
            "the equation is nested too deeply", where=where, allowed=f"{DEEPEST_EQUATION} operations within another"
        )
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=bool()) | ast.Constant(value=str()):
                pass
            case ast.Constant(value=int() | float() as number) if not abs(number) < LARGEST_NUMBER:
                pass
            case ast.Constant(value=int() | float()) | ast.Name() | ast.expr_context():
                continue
            case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() | ast.Pow()):
                continue
            case ast.UnaryOp(op=ast.USub() | ast.UAdd()) | ast.operator() | ast.unaryop():
                continue
            case ast.Call(func=ast.Name(id=name), args=[_], keywords=[]) if name in FUNCTIONS:
                continue
        part = ast.unparse(node) if isinstance(node, ast.expr) else type(node).__name__
        raise InvalidInputError(f"{_shortened(part)} is not allowed in an equation", where=where, allowed=ALLOWED)
    return tree


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:60]}..."


def _is_deeper(tree: ast.AST, most: int) -> bool:
    level: list[ast.AST] = [tree]
    for _ in range(most):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    return bool(level)


def _read(text: str, where: str) -> LawText:
    try:
        plain = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML raises the latter ones for a date that is none, a number of 5000 digits, or what is nested too deeply.
        raise InvalidInputError(f"this is not YAML: {(str(error) or 'empty').splitlines()[0]}", where=where) from error
    try:
        return LawText.model_validate(plain)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InvalidInputError(
            f"{field}: {first['msg'].lower()}",
            where=where,
            allowed="name, equation, parameters, source, convention, unit",
        ) from error


def _parameter(name: str, stated: ParameterText, unit: Unit, variables: tuple[str, ...], where: str) -> Parameter:
    least, most = (1 / LARGEST, LARGEST) if stated.positive else (-1e3, 1e3)
    lower, upper = (least if stated.lower is None else stated.lower), (most if stated.upper is None else stated.upper)
    if name in FUNCTIONS or not name.isidentifier():
        raise InvalidInputError(f"a parameter cannot be called {name!r}", where=where, allowed="letters, digits and _")
    if not lower <= stated.center <= upper or lower >= upper or (stated.positive and lower <= 0):
        raise InvalidInputError(
            f"center {stated.center:g} with bounds {lower:g} and {upper:g}",
            where=f"{where}, parameters.{name}",
            allowed="lower <= center <= upper" + (", lower > 0" if stated.positive else ""),
        )
    return Parameter(
        name=name,
        meaning=stated.meaning or name,
        transform="log" if stated.positive else "identity",
        lower=lower,
        upper=upper,
        center=stated.center,
        spread=stated.spread or (3.0 if stated.positive else 0.2),
        variables=variables,
        unit=unit,
    )


def read_law(path: Path) -> ExpressionLaw:
    """Read a law from a YAML file.

    Raises:
        InvalidInputError: there is no such file, or it states no law.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path} cannot be read as a law: {error}", where="--law") from error
    return ExpressionLaw(text, where=str(path))
