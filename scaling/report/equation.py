"""Equations as a browser typesets them: MathML made from ``Law.equation``, once with letters and once with numbers.

Browsers lay out MathML themselves, so nothing is loaded; without it (or where an equation is not in the notation of
:mod:`~moe_search.scaling.report.notation`) the text of the law stands as it was written.
"""

import itertools
import math
from collections.abc import Mapping
from html import escape

from markupsafe import Markup

from moe_search.scaling.report.notation import (
    COMMA,
    INDEXED,
    Call,
    Equation,
    Fraction,
    Group,
    Name,
    Node,
    NotationError,
    Number,
    Power,
    Product,
    Sum,
    names,
    read_equations,
    substitute,
)

_GREEK = (
    *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu"),
    *("xi", "omicron", "pi", "rho", "", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega"),
)
LETTERS = {name: chr(0x3B1 + place) for place, name in enumerate(_GREEK)} | {"Eh": "\u00ca", "Ah": "\u00c2"}
"""Greek letters, and the hats of effective expansion and activation ratio, by the names that laws give them."""
DIGITS = 4
"""Significant digits of a fitted number inside an equation."""
MINUS, PRIME = "\u2212", "\u2032"
_SYMBOLS = {"sum": "\u2211", "prod": "\u220f", "<=": "\u2264", ">=": "\u2265"}
_INVISIBLE = "<mspace width='0.17em'/>"


def typeset(text: str, values: Mapping[str, float] | None = None) -> Markup | None:
    """Return ``text`` as MathML, with ``values`` put in for the names they have.

    Returns:
        One block element an equation, in which a line may break before every term; None where the text is not in the
        notation, or where ``values`` name nothing in it.
    """
    try:
        equations = read_equations(text)
    except NotationError:
        return None
    if values is not None:
        known = {name for equation in equations for side in equation.sides for name in names(side)}
        if not known & set(values):
            return None
        # what an equation defines keeps its name
        equations = [
            Equation(tuple(s if isinstance(s, Name) else substitute(s, values) for s in e.sides), e.relations)
            for e in equations
        ]
    return Markup("".join(f"<div class='formula'>{_equation(equation)}</div>" for equation in equations))  # noqa: S704


def symbol(name: str) -> Markup:
    """Return one parameter's or variable's name as MathML."""
    return Markup(f"<math>{_name(name)}</math>")  # noqa: S704 - escaped in _name


def short(name: str) -> str:
    """Return a name in the little HTML that figures understand: ``alpha_N`` is a Greek letter with an index."""
    head, _, index = name.partition("_")
    letter = escape(LETTERS.get(head, head))
    return f"{letter}<sub>{escape(LETTERS.get(index, index).replace('_', ' '))}</sub>" if index else letter


def _equation(equation: Equation) -> str:
    """The sides, cut into pieces between which a line may break."""
    pieces: list[str] = []
    for place, side in enumerate(equation.sides):
        lead = _infix(equation.relations[place - 1]) if place else ""
        terms = side.terms if isinstance(side, Sum) else ((1, side),)
        for number, (sign, term) in enumerate(terms):
            front = _infix(MINUS if sign < 0 else "+") if number else f"<mo form='prefix'>{MINUS}</mo>" * (sign < 0)
            pieces.append(f"{lead}{front}{_node(term)}")
            lead = ""
    # the left side stays with the first term of the right one
    if len(pieces) > 1 and not isinstance(equation.sides[0], Sum):
        pieces[:2] = [pieces[0] + pieces[1]]
    return " ".join(f"<math displaystyle='true'><mrow>{piece}</mrow></math>" for piece in pieces)


def _infix(sign: str) -> str:
    """A sign that keeps its room on both sides at the start of a piece too."""
    if sign == COMMA:
        return "<mo form='infix' separator='true' rspace='0.4em'>,</mo>"
    return f"<mo form='infix' lspace='0.25em' rspace='0.25em'>{escape(_SYMBOLS.get(sign, sign))}</mo>"


def _node(node: Node) -> str:
    match node:
        case Number():
            text = _number(node)
        case Name(name):
            text = _name(name)
        case Group(inside):
            text = f"<mrow><mo>(</mo>{_node(inside)}<mo>)</mo></mrow>"
        case Fraction(above, below):
            text = f"<mfrac><mrow>{_node(_bare(above))}</mrow><mrow>{_node(_bare(below))}</mrow></mfrac>"
        case Power(base, exponent):
            text = f"<msup>{_base(base)}<mrow>{_node(_bare(exponent))}</mrow></msup>"
        case Product(factors):
            text = _product(factors)
        case Sum(terms):
            text = f"<mrow>{''.join(_term(sign, term, first=not n) for n, (sign, term) in enumerate(terms))}</mrow>"
        case Call(function, arguments):
            text = _call(function, arguments)
    return text


def _term(sign: int, term: Node, *, first: bool) -> str:
    """A term of a sum with its sign, which is left out in front of a positive first one."""
    if first:
        return (f"<mo form='prefix'>{MINUS}</mo>" if sign < 0 else "") + _node(term)
    return f"<mo>{MINUS if sign < 0 else '+'}</mo>{_node(term)}"


def _product(factors: tuple[Node, ...]) -> str:
    """Factors beside each other; a sign between two numbers, parentheses around a negative one."""
    text = _node(factors[0])
    for before, factor in itertools.pairwise(factors):
        negative = isinstance(factor, Number) and factor.value < 0
        written = f"<mrow><mo>(</mo>{_node(factor)}<mo>)</mo></mrow>" if negative else _node(factor)
        text += ("<mo>\u00d7</mo>" if _ends_in_number(before) and _starts_with_number(factor) else _INVISIBLE) + written
    return f"<mrow>{text}</mrow>"


def _ends_in_number(node: Node) -> bool:
    return isinstance(node, Number)


def _starts_with_number(node: Node) -> bool:
    match node:
        case Number(value):
            return value >= 0
        case Power(base, _):
            return _starts_with_number(base)
    return False


def _base(base: Node) -> str:
    """What stands under an exponent: a fraction, a function or a number with a power of ten needs parentheses."""
    plain = isinstance(base, Name | Group) or (isinstance(base, Number) and base.value >= 0 and not _scientific(base))
    return f"<mrow>{_node(base)}</mrow>" if plain else f"<mrow><mo>(</mo>{_node(base)}<mo>)</mo></mrow>"


def _bare(node: Node) -> Node:
    return node.inside if isinstance(node, Group) else node


def _call(function: str, arguments: tuple[Node, ...]) -> str:
    stem, _, index = function.partition("_")
    inside = "<mo>,</mo>".join(_node(argument) for argument in arguments)
    if stem == "sqrt":
        return f"<msqrt>{_node(_bare(arguments[0]))}</msqrt>"
    if len(arguments) > 1:
        inside = f"<mrow><mo>(</mo>{inside}<mo>)</mo></mrow>"
    if stem in ("log10", "log2"):
        head = f"<msub><mi>log</mi><mn>{stem[3:]}</mn></msub>"
    elif stem in INDEXED and index:
        operator = f"<mo>{_SYMBOLS[stem]}</mo>" if stem in _SYMBOLS else f"<mi>{stem}</mi>"
        head = f"<munder>{operator}<mi>{escape(index)}</mi></munder>"
    else:
        head = f"<mi>{escape(_SYMBOLS.get(stem, stem))}</mi>"
    bare = not isinstance(arguments[0], Group) and len(arguments) == 1
    return f"<mrow>{head}{_INVISIBLE if bare or stem in INDEXED else ''}{inside}</mrow>"


def _name(text: str) -> str:
    """``alpha`` -> α, ``w_i`` -> w with a subscript, ``D'`` -> D′; a name of several letters stands upright."""
    text, primes = text.rstrip("'"), len(text) - len(text.rstrip("'"))
    stem, _, index = text.partition("_")
    plain = f"<mi>{escape(LETTERS.get(stem, stem))}</mi>"
    if not index and len(stem) > 1 and stem[-1].isdigit() and stem[:-1].isalpha() and len(stem[:-1]) == 1:
        plain, index = f"<mi>{escape(stem[:-1])}</mi>", stem[-1]
    below = f"<mi>{escape(LETTERS.get(index, index).replace('_', ' '))}</mi>" if index else ""
    above = f"<mo>{PRIME * primes}</mo>" if primes else ""
    if below and above:
        return f"<msubsup>{plain}{below}{above}</msubsup>"
    if below:
        return f"<msub>{plain}{below}</msub>"
    return f"<msup>{plain}{above}</msup>" if above else plain


def _scientific(number: Number) -> bool:
    return number.value != 0 and not 1e-3 <= abs(number.value) < 1e5


def _number(number: Number) -> str:
    sign = f"<mo form='prefix'>{MINUS}</mo>" if number.value < 0 else ""
    size = abs(number.value)
    if not _scientific(number):
        return f"{sign}<mn>{_digits(size, exact=number.exact)}</mn>"
    power = math.floor(math.log10(size))
    mantissa = _digits(size / 10.0**power, exact=number.exact)
    if mantissa == "10":
        mantissa, power = "1", power + 1
    exponent = f"<mn>{power}</mn>" if power >= 0 else f"<mrow><mo form='prefix'>{MINUS}</mo><mn>{-power}</mn></mrow>"
    ten = f"<msup><mn>10</mn>{exponent}</msup>"
    return f"{sign}{ten}" if mantissa == "1" and number.exact else f"{sign}<mn>{mantissa}</mn><mo>\u00d7</mo>{ten}"


def _digits(size: float, *, exact: bool) -> str:
    """Fixed notation; a written number with all its digits, an estimate with ``DIGITS`` significant ones."""
    if size == 0:
        return "0"
    decimals = max((10 if exact else DIGITS) - 1 - math.floor(math.log10(size)), 0)
    text = f"{size:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if exact and "." in text else text
