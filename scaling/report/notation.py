"""The written notation of equations: what ``Law.equation`` may hold, read into a tree.

Plain text as it stands in a source file: ``L = E + A/N^alpha + B (D/1e8)^-beta exp(k ln X)``. A product needs no sign,
``**`` is ``^``, ``ln``, ``log10``, ``log2``, ``exp``, ``sqrt``, ``min``, ``max``, ``sum_i`` and ``mean_i`` are
functions, an underscore starts a subscript. What follows a top-level comma or semicolon is a further equation.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

FUNCTIONS = ("ln", "log", "log10", "log2", "exp", "sqrt", "min", "max", "tanh", "sigmoid")
INDEXED = ("sum", "mean", "prod", "max", "min")
"""Functions that may carry the index they run over: ``sum_i``."""
BETWEEN = ("where", "with", "and", "for", "if")
"""Words between two equations."""
RELATIONS = ("=", "<=", ">=", "<", ">")
COMMA = ","
CLOSING = {"(": ")", "[": "]", "{": "}"}
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)"
    r"|(?P<name>[^\W\d_]\w*'*)|(?P<sign>\*\*|<=|>=|[-+*/^()\[\]{},=<>|·]))"
)


class NotationError(ValueError):
    """The text is not in the notation; it is shown as it was written."""


@dataclass(frozen=True)
class Number:
    """A number, negative ones included."""

    value: float
    exact: bool = True
    """Whether it was written in the equation rather than estimated."""


@dataclass(frozen=True)
class Name:
    """A parameter or variable."""

    text: str


@dataclass(frozen=True)
class Call:
    """A function of its arguments."""

    function: str
    arguments: tuple["Node", ...]


@dataclass(frozen=True)
class Power:
    """base^exponent."""

    base: "Node"
    exponent: "Node"


@dataclass(frozen=True)
class Fraction:
    """above/below."""

    above: "Node"
    below: "Node"


@dataclass(frozen=True)
class Product:
    """Factors, none of which is itself a product or a bare sum."""

    factors: tuple["Node", ...]


@dataclass(frozen=True)
class Sum:
    """Terms with their signs: +1 or -1."""

    terms: tuple[tuple[int, "Node"], ...]


@dataclass(frozen=True)
class Group:
    """What stands in parentheses."""

    inside: "Node"


Node = Number | Name | Call | Power | Fraction | Product | Sum | Group


@dataclass(frozen=True)
class Equation:
    """Sides with the relations, or commas, between them: ``L = E + ...``."""

    sides: tuple[Node, ...]
    relations: tuple[str, ...]


def read_equations(text: str) -> list[Equation]:
    """Return the equations of ``text``.

    Raises:
        NotationError: it is not in the notation.
    """
    lines = list(_lines([part for part in _split(text) if part.strip()]))
    if not lines:
        raise NotationError("nothing is written")
    return [_Reader(line).equation() for line in lines]


def _lines(parts: Sequence[str]) -> Iterator[str]:
    """Join what belongs to one equation: ``u, v = a, b`` is one, ``L = u, u = a`` are two."""
    line: list[str] = []
    waiting: list[str] = []
    for part in parts:
        if not any(relation in part for relation in RELATIONS):
            waiting.append(part)
            continue
        left = [other for other in waiting if other.strip().isidentifier()]
        line += [other for other in waiting if other not in left]
        if line:
            yield ",".join(line)
        line, waiting = [*left, part], []
    if line or waiting:
        yield ",".join([*line, *waiting])


def substitute(node: Node, values: Mapping[str, float]) -> Node:
    """Return the tree with names replaced by their values; other names stay."""
    made: Node = node
    match node:
        case Name(text) if text in values:
            made = Number(values[text], exact=False)
        case Call(function, arguments):
            made = Call(function, tuple(substitute(part, values) for part in arguments))
        case Power(base, exponent):
            made = Power(substitute(base, values), substitute(exponent, values))
        case Fraction(above, below):
            made = Fraction(substitute(above, values), substitute(below, values))
        case Product(factors):
            made = Product(
                tuple(
                    _factor(before, part, values) for before, part in zip((None, *factors[:-1]), factors, strict=True)
                )
            )
        case Sum(terms):
            made = Sum(tuple(_signed(sign, substitute(part, values)) for sign, part in terms))
        case Group(inside):
            made = _grouped(substitute(inside, values))
    return made


def names(node: Node) -> set[str]:
    """Return the names that a tree holds."""
    parts: Sequence[Node] = ()
    match node:
        case Name(text):
            return {text}
        case Call(_, arguments):
            parts = arguments
        case Power(one, other) | Fraction(one, other):
            parts = (one, other)
        case Product(factors):
            parts = factors
        case Sum(terms):
            parts = [part for _, part in terms]
        case Group(inside):
            parts = (inside,)
        case Number():
            pass
    return set().union(*map(names, parts))


def _signed(sign: int, term: Node) -> tuple[int, Node]:
    """Move the sign of a leading number to the front of the term."""
    match term:
        case Number(value, exact) if value < 0:
            return -sign, Number(-value, exact)
        case Product((Number(value, exact), *rest)) if value < 0:
            return -sign, Product((Number(-value, exact), *rest))
        case Fraction(Number(value, exact), below) if value < 0:
            return -sign, Fraction(Number(-value, exact), below)
    return sign, term


def _factor(before: Node | None, factor: Node, values: Mapping[str, float]) -> Node:
    """A factor with its values; ``p(k)`` may be a function of the author's, so that its parentheses stay."""
    if isinstance(before, Name) and isinstance(factor, Group):
        return Group(substitute(factor.inside, values))
    return substitute(factor, values)


def _grouped(inside: Node) -> Node:
    """Parentheses around a number alone go, and those around its sign alone."""
    match inside:
        case Sum(((sign, Number(value, exact)),)):
            return Number(sign * value, exact)
        case Number():
            return inside
    return Group(inside)


def _split(text: str) -> Iterator[str]:
    """Cut at commas, semicolons, line ends and joining words outside of parentheses."""
    depth, start = 0, 0
    joining = re.compile(rf"[,;\n]|(?<!\w)(?:{'|'.join(BETWEEN)})(?!\w)|[()\[\]{{}}]")
    for found in joining.finditer(text):
        if found[0] in "([{":
            depth += 1
        elif found[0] in ")]}":
            depth -= 1
        elif depth == 0:
            yield text[start : found.start()]
            start = found.end()
    yield text[start:]


class _Reader:
    """Recursive descent over the tokens of one equation."""

    def __init__(self, text: str) -> None:
        self._tokens = list(self._cut(text.strip().rstrip(".")))
        self._at = 0

    @staticmethod
    def _cut(text: str) -> Iterator[tuple[str, str]]:
        at = 0
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None or found.lastgroup is None:
                raise NotationError(f"{text[at:]!r} cannot be read")
            yield found.lastgroup, {"**": "^", "·": "*"}.get(found[found.lastgroup], found[found.lastgroup])
            at = found.end()

    def equation(self) -> Equation:
        sides, relations = [self._sum()], []
        while (sign := self._sign(*RELATIONS, COMMA)) is not None:
            relations.append(sign)
            sides.append(self._sum())
        if self._at < len(self._tokens):
            raise NotationError(f"{self._tokens[self._at][1]!r} is not expected here")
        return Equation(tuple(sides), tuple(relations))

    def _sign(self, *wanted: str) -> str | None:
        """Take the next token if it is one of the signs ``wanted``."""
        if self._at < len(self._tokens):
            kind, text = self._tokens[self._at]
            if kind == "sign" and text in wanted:
                self._at += 1
                return text
        return None

    def _sum(self) -> Node:
        terms = [_signed(-1 if self._sign("+", "-") == "-" else 1, self._product())]
        while (sign := self._sign("+", "-")) is not None:
            terms.append(_signed(-1 if sign == "-" else 1, self._product()))
        return terms[0][1] if len(terms) == 1 and terms[0][0] > 0 else Sum(tuple(terms))

    def _product(self) -> Node:
        factors = [self._power()]
        while True:
            if self._sign("/"):
                factors[-1] = Fraction(factors[-1], self._power())
            elif self._sign("*") or self._factor_follows():
                factors.append(self._power())
            else:
                return factors[0] if len(factors) == 1 else Product(tuple(factors))

    def _factor_follows(self) -> bool:
        if self._at == len(self._tokens):
            return False
        kind, text = self._tokens[self._at]
        return kind in ("number", "name") or text in CLOSING

    def _power(self) -> Node:
        base = self._atom()
        if not self._sign("^"):
            return base
        if self._sign("-"):
            exponent = self._power()
            return Power(base, Number(-exponent.value) if isinstance(exponent, Number) else Sum(((-1, exponent),)))
        return Power(base, self._power())

    def _atom(self) -> Node:
        if self._at == len(self._tokens):
            raise NotationError("the equation ends too early")
        kind, text = self._tokens[self._at]
        if kind == "number":
            self._at += 1
            return Number(float(text))
        if kind == "name":
            self._at += 1
            return self._call(text) if _is_function(text) else Name(text)
        opening = self._sign(*CLOSING)
        if opening is None:
            raise NotationError(f"{text!r} is not expected here")
        inside = self._sum()
        if self._sign(CLOSING[opening]) is None:
            raise NotationError(f"a {CLOSING[opening]!r} is missing")
        return Group(inside)

    def _call(self, function: str) -> Node:
        if (opening := self._sign(*CLOSING)) is None:
            return Call(function, (self._power(),))
        arguments = [self._sum()]
        while self._sign(","):
            arguments.append(self._sum())
        if self._sign(CLOSING[opening]) is None:
            raise NotationError(f"a {CLOSING[opening]!r} is missing")
        return Call(function, (Group(arguments[0]),) if len(arguments) == 1 else tuple(arguments))


def _is_function(text: str) -> bool:
    stem, _, index = text.partition("_")
    return (stem in FUNCTIONS and not index) or stem in INDEXED
