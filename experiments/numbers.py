"""How numbers look to a person: three significant digits, the field's suffixes, times in the largest two units."""

_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))


def count(value: float) -> str:
    """Return parameters or tokens as the field writes them: ``30.5B``, ``251K``."""
    for size, suffix in _SUFFIXES:
        if abs(value) >= size * 0.9995:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def flops(value: float) -> str:
    """Return floating-point operations with an exponent: ``1.2e+15``."""
    return f"{value:.2e}"


def size(n_bytes: float) -> str:
    """Return bytes in decimal units: ``61 GB``."""
    for unit, suffix in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= unit * 0.9995:
            return f"{n_bytes / unit:.3g} {suffix}"
    return f"{n_bytes:.0f} B"


def duration(seconds: float) -> str:
    """Return a time in its two largest units: ``7 min 40 s``."""
    whole = round(seconds)
    for unit, name, rest, rest_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            tail = whole % unit // rest
            return f"{whole // unit} {name} {tail} {rest_name}" if tail else f"{whole // unit} {name}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"


def ratio(value: float) -> str:
    """Return an activation ratio as the fraction people say: ``1/8`` for 0.125, else a percentage: ``18%``."""
    inverse = 1 / value if value else 0.0
    return f"1/{inverse:.0f}" if inverse >= 1.5 and abs(inverse - round(inverse)) < 1e-3 * inverse else f"{value:.0%}"
