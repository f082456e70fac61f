"""Numbers as people read them, in figures and sentences."""

from __future__ import annotations

import math

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


def decimals(std_error: float) -> int:
    """Decimal places that give a standard error two significant digits."""
    if not math.isfinite(std_error) or std_error <= 0:
        return 3
    return max(0, 1 - math.floor(math.log10(std_error)))


def number(value: float, places: int) -> str:
    """A number with a true minus sign; large ones, and those of more than eight decimal places,
    with four digits, NaN as a dash."""
    if math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    text = f"{value:.4g}" if abs(value) >= 1e5 or places > 8 else f"{value:.{places}f}"
    return text.replace("-", MINUS) if float(text) else text.lstrip("-")


def interval(low: float, high: float, places: int) -> str:
    """An interval in words, ``"0.45 to 0.55"``; a dash where there is none."""
    if math.isnan(low) or math.isnan(high):
        return DASH
    return f"{number(low, places)} to {number(high, places)}"


def f_statistic(value: float) -> str:
    """A first-stage F with one decimal below 100; a dash where there is no first stage."""
    if math.isnan(value):
        return DASH
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def p_value(value: float) -> str:
    """A p-value with two digits; an underflow is written as a bound, NaN as a dash."""
    if math.isnan(value):
        return DASH
    return "<1e-300" if value < 1e-300 else f"{value:.2g}"


def statistic(value: float) -> str:
    """A test statistic of unknown scale with three digits; a dash where there is none."""
    if math.isnan(value):
        return DASH
    text = f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"
    return text.replace("-", MINUS)


def share(value: float) -> str:
    """A share as a percentage; one below a tenth of a per mille as a bound."""
    if math.isnan(value):
        return "an unknown share"
    return "less than 0.01 %" if 0 < value < 1e-4 else f"{100 * value:.2f} %"
