"""How numbers and untrusted text are written for people."""

import math
import unicodedata

MINUS = "−"
EXPLAIN = {
    "test_loss": "Loss on held-out real data; lower is better.",
    "perplexity": "exp of the test loss per token on held-out real data.",
    "bits_per_byte": "Test loss per byte of real text, in bits: comparable across tokenizers.",
    "train_loss": "Loss on the rows the generation was fitted on, mean over the fit.",
    "unigram_entropy": "Entropy of the token frequencies in the samples.",
    "distinct_1": "Share of different tokens among the tokens of the samples.",
    "distinct_2": "Share of different token pairs among the pairs in the samples.",
    "distinct_3": "Share of different token triples among the triples in the samples.",
    "tail_recall": "Share of the rarest decile of the real vocabulary that still appears in the samples.",
    "sample_loss_under_first": "Loss of each generation's samples under generation 1. Falling: the samples "
    "become more typical of what generation 1 knew. Rising: they drift away from it.",
}


def spoken(name: str) -> str:
    """A metric's name as words: `test_loss` -> `test loss`."""
    return name.replace("_", " ")


def quantity(metric: str, unit: str) -> str:
    """A metric with its unit, as an axis says it."""
    return f"{spoken(metric)} [{unit}]" if unit and unit != "1" else spoken(metric)


def _decimals(value: float, half: float) -> int | None:
    """Decimals that keep two digits of the uncertainty; None where scientific notation reads better."""
    size = abs(value)
    if size and not 1e-3 <= max(size, half if math.isfinite(half) else 0) < 1e5:
        return None
    step = half if math.isfinite(half) and half > 0 else size * 0.01
    return max(0, min(6, 1 - math.floor(math.log10(step)))) if step else 0


def number(value: float, half: float = math.nan, sign: bool = False) -> str:
    """A number to the digits its uncertainty allows (four significant ones when that is unknown)."""
    if not math.isfinite(value):
        return "n/a" if math.isnan(value) else "∞" if value > 0 else f"{MINUS}∞"
    decimals = _decimals(value, half)
    text = f"{value:.2e}" if decimals is None else f"{value:.{decimals}f}"
    if sign and value > 0 and not text.startswith("+"):
        text = f"+{text}"
    return text.replace("-", MINUS)


def plus_minus(mean: float, half: float, sign: bool = False, scale: float = math.nan) -> str:
    """`0.832 ± 0.051`; without an interval the mean alone, to two digits of `scale` where that is given."""
    if not math.isfinite(half):
        return number(mean, abs(scale), sign)
    decimals = _decimals(mean, half)
    width = f"{half:.1e}" if decimals is None else f"{half:.{decimals}f}"
    return f"{number(mean, half, sign)} ± {width.replace('-', MINUS)}"


def listed(items: list[str]) -> str:
    """`a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def visible(text: str) -> str:
    """Text safe to show: line ends and tabs stay; control, format and unpaired characters are spelt out.

    Bidirectional overrides would reorder a page, NUL and lone surrogates cannot be written in it.
    """
    out = []
    for char in text.replace("\r\n", "\n"):
        code = ord(char)
        if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            out.append(char)
        elif code < 32:
            out.append(chr(0x2400 + code))
        else:
            out.append(f"⟨U+{code:04X}⟩")
    return "".join(out)
