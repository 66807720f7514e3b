"""Numbers as a person reads them: ``0.42 M``, ``1.3e21``, ``+0.8 %``, ``3 min 20 s``.

Every function takes None or NaN and answers with a dash, so that a template never has to ask.
"""

import math
import re
from collections.abc import Callable

NO_VALUE = "–"
THIN = "\u202f"
"""Narrow no-break space: between a number and its unit, and between thousands."""
NO_BREAK = "\u00a0"
MINUS = "\u2212"

SHORT = 5
"""Digits of somebody else's number that are left as they are."""
_STEPS = ((1e15, "P"), (1e12, "T"), (1e9, "B"), (1e5, "M"), (9.99e3, "k"))
_MEANING = {"P": 1e15, "T": 1e12, "B": 1e9, "M": 1e6, "k": 1e3}


def _missing(value: float | None) -> bool:
    return value is None or not math.isfinite(value)


def _plain(value: float, digits: int) -> str:
    """Fixed notation with ``digits`` significant digits, never scientific, no superfluous zeros after the point."""
    if value == 0:
        return "0"
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    text = f"{value:,.{decimals}f}".replace(",", THIN)
    return text.rstrip("0").rstrip(".") if "." in text else text


def minus(text: str) -> str:
    """Return ``text`` with a typographic minus sign in place of a leading hyphen."""
    return MINUS + text[1:] if text.startswith("-") else text


def quantity(value: float | None, digits: int = 3) -> str:
    """Parameters or tokens with a suffix: 424_000 -> ``0.424 M``, 64_000 -> ``64 k``, 3 -> ``3``."""
    if value is None or _missing(value):
        return NO_VALUE
    if abs(value) < 9999.5:
        return minus(_plain(value, max(digits, 4)))
    for threshold, suffix in _STEPS:
        # rounding first, so that 999_999_600 is 1 B and not 1000 M
        if float(f"{abs(value):.{digits - 1}e}") >= threshold:
            return minus(_plain(value / _MEANING[suffix], digits)) + THIN + suffix
    raise AssertionError(value)  # the last step is below 9999.5


def power(value: float | None, digits: int = 2) -> str:
    """Floating-point operations and other wide-ranging values: 1.3e21; plain between 0.001 and 10 000."""
    if value is None or _missing(value):
        return NO_VALUE
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return minus(_plain(value, digits + 1))
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return minus(f"{mantissa.removesuffix('.0')}e{int(exponent)}")


def number(value: float | None, digits: int = 3) -> str:
    """Any value with ``digits`` significant digits; scientific only where plain digits would not fit a cell."""
    if value is None or _missing(value):
        return NO_VALUE
    if value != 0 and not 1e-4 <= abs(value) < 1e6:
        return power(value, digits)
    return minus(_plain(value, digits))


def fixed(value: float | None, decimals: int = 3) -> str:
    """Losses, which are compared digit by digit in columns: 1.2 -> ``1.200``."""
    return NO_VALUE if value is None or _missing(value) else minus(f"{value:.{decimals}f}")


def signed(value: float | None, decimals: int = 3) -> str:
    """A difference, always with its sign: 0.012 -> ``+0.012``; zero has none."""
    if value is None or _missing(value):
        return NO_VALUE
    text = f"{value:+.{decimals}f}"
    return text[1:] if float(text) == 0 else minus(text)


def percent(fraction: float | None, decimals: int = 0) -> str:
    """A share of one: 0.153 -> ``15 %``."""
    return NO_VALUE if fraction is None or _missing(fraction) else minus(f"{100 * fraction:.{decimals}f}") + THIN + "%"


def interval(low: float | None, high: float | None, decimals: int = 3) -> str:
    """Two ends of an interval: ``1.180 to 1.240`` (a dash would read as a minus)."""
    if low is None or high is None or _missing(low) or _missing(high):
        return NO_VALUE
    return f"{fixed(low, decimals)} to {fixed(high, decimals)}"


def duration(seconds: float | None) -> str:
    """Wall time: ``4.2 s``, ``3 min 20 s``, ``2 h 05 min``, ``3.1 days``."""
    if seconds is None or _missing(seconds):
        return NO_VALUE
    if seconds < 59.95:
        return f"{seconds:.1f}{THIN}s"
    if seconds < 3600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes}{THIN}min {rest:02d}{THIN}s"
    if seconds < 48 * 3600:
        hours, minutes = divmod(round(seconds / 60), 60)
        return f"{hours}{THIN}h {minutes:02d}{THIN}min"
    return f"{seconds / 86400:.1f}{THIN}days"


def count(n: int, singular: str, plural: str = "") -> str:
    """``1 run``, ``3 runs``."""
    return f"{n:,}".replace(",", THIN) + " " + (singular if n == 1 else plural or singular + "s")


def listed(items: list[str], limit: int = 6) -> str:
    """``a, b and c``; beyond ``limit`` the rest is counted."""
    if len(items) > limit:
        items = [*items[: limit - 1], f"{len(items) - limit + 1} more"]
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1] if items else "none"


def tidy(text: str) -> str:
    """Return somebody else's words with numbers written as in the rest of the report: 1.3e21, ``5 %``, a true minus."""

    def rewrite(found: re.Match[str]) -> str:
        value = float(found[0])
        mantissa, _, exponent = found[0].partition("e")
        if exponent and len(mantissa.replace(".", "")) <= SHORT:
            return f"{mantissa}e{int(exponent)}"
        return power(value) if "e" in found[0] or value >= 1e6 else found[0]

    text = re.sub(r"(?<![\w.])\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.]*\w)", rewrite, text.strip())
    return re.sub(r"(?<![\w.])-(?=\d)", MINUS, re.sub(r" (?=%|GB)", THIN, text))


def sentence(text: str) -> str:
    """Return ``text``, tidied, with a capital and a full stop."""
    text = tidy(text)
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".") if text else ""


def ticks(
    low: float, high: float, *, most: int = 8, write: Callable[[float], str] = quantity
) -> tuple[list[float], list[str]]:
    """Tick values and labels for a logarithmic axis: as fine a 1-2-5 grid, or as many decades, as ``most`` allows."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    grids = [((1, 2, 5), 1), ((1, 3), 1), *(((1,), stride) for stride in range(1, last - first + 2))]
    for steps, stride in grids:
        values = [step * 10.0**exponent for exponent in range(first, last + 1, stride) for step in steps]
        inside = [value for value in values if low * 0.999 <= value <= high * 1.001]
        if len(inside) <= most:
            break
    return inside, [write(value) for value in inside]
