"""How numbers and untrusted text are written for people."""

import math
import re
import unicodedata

MINUS = "−"
HELD_OUT = "held_out_"
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
    "copied_rows": "Share of the sampled rows that are, prompt included, token for token one of the real rows.",
    "sample_loss_under_first": "Loss of each generation's samples under generation 1. Falling: the samples "
    "become more typical of what generation 1 knew. Rising: they drift away from it.",
    "frechet_distance": "Squared distance of Gaussians fitted to the features of samples and real data: 0 where "
    "they agree.",
    "precision": "Share of the samples that lie among real data.",
    "recall": "Share of the real data that lie among samples: falls when the tails are lost.",
    "density": "How many real neighbourhoods a sample lies in; 1 for real data.",
    "coverage": "Share of the real data with a sample in their neighbourhood.",
    "memorisation": "Share of the samples that are copies of training rows, beyond what held-out rows show.",
    "class_coverage": "Effective number of classes in the samples over the number of real ones.",
    "smallest_share": "Smallest share of a class in the samples over its real share: 0 where one has vanished.",
    "class_entropy": "Entropy of the classes in the samples.",
    "class_confusion": "How far the classes of the samples run into each other.",
    "pixel_variance": "Variance of the samples, mean over pixels.",
    "variance_ratio": "Variance of the samples over that of the real data.",
    "coverage_recall": "Share of the real conformations with a sample within the distance.",
    "matching_recall": "Distance of a real conformation from the nearest sample, mean; lower is better.",
    "coverage_precision": "Share of the samples with a real conformation within the distance.",
    "matching_precision": "Distance of a sample from the nearest real conformation, mean; lower is better.",
    "bond_distance": "Wasserstein-1 distance of bond lengths from the real ones; lower is better.",
    "angle_distance": "Wasserstein-1 distance of bond angles from the real ones; lower is better.",
    "torsion_distance": "Wasserstein-1 distance of torsion angles from the real ones; lower is better.",
    "valid_share": "Share of the samples with possible bond lengths and without clashes.",
    "diversity": "How far samples of one molecule lie apart, mean.",
    "real_diversity": "How far real conformations of one molecule lie apart, mean.",
}

SPELT = {"frechet": "Fréchet", "kl": "KL"}


def stem(metric: str) -> str:
    """The metric without the threshold it may end in, nor what it begins with where it was measured on samples
    for held-out rows: `held_out_coverage_recall_0.5` -> `coverage_recall`.
    """
    metric = metric.removeprefix(HELD_OUT)
    return metric if metric in EXPLAIN else re.sub(r"_\d+(\.\d+)?$", "", metric)


def explained(metric: str) -> str:
    """What a metric says, in a sentence; empty where nothing is known of it."""
    told = EXPLAIN.get(stem(metric), "")
    return f"{told} Of samples drawn for held-out rows." if told and metric.startswith(HELD_OUT) else told


def spoken(name: str) -> str:
    """A metric's name as words: `test_loss` -> `test loss`."""
    return " ".join(SPELT.get(word, word) for word in name.split("_"))


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


def cut(name: str, most: int) -> str:
    """A name of at most `most` letters that keeps both its ends: names made by a sweep differ in the last letters."""
    tail = (most - 1) // 2
    return name if len(name) <= most else f"{name[: most - 1 - tail]}…{name[len(name) - tail :]}"


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
