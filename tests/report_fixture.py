"""Made-up experiments on disk, as a run leaves them, for the tests of the report."""

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from collapse_jax.workflows import Arm, Workflow

UNITS = {
    "test_loss": "nats/token",
    "perplexity": "1",
    "bits_per_byte": "bits/byte",
    "unigram_entropy": "nats",
    "distinct_1": "share",
    "distinct_2": "share",
    "distinct_3": "share",
    "tail_recall": "share",
    "sample_loss_under_first": "nats/token",
    "train_loss": "nats/token",
}
SLOPE = {"replace": 0.21, "accumulate": 0.004, "accumulate_subsample": 0.05}
IMAGE_UNITS = {
    "bits_per_dim": "bits/dim",
    "class_coverage": "share",
    "class_entropy": "nats",
    "coverage": "share",
    "density": "1",
    "divergence": "nats/dim",
    "frechet_distance": "1",
    "memorisation": "1",
    "pixel_variance": "1",
    "precision": "share",
    "recall": "share",
    "reconstruction": "nats/dim",
    "sample_loss_under_first": "nats/dim",
    "smallest_share": "share",
    "test_loss": "nats/dim",
    "train_loss": "nats/dim",
    "variance_ratio": "ratio",
}
# 3 x 5 pixels of the digits 0 to 9.
DIGITS = [
    "111101101101111",
    "010110010010111",
    "111001111100111",
    "111001111001111",
    "101101111001001",
    "111100111001111",
    "111100111101111",
    "111001010010010",
    "111101111101111",
    "111101111001111",
]
WORDS = [
    "the",
    "module",
    "returns",
    "an",
    "object",
    "whose",
    "value",
    "is",
    "a",
    "string",
    "of",
    "text",
    "and",
    "class",
    "method",
    "called",
    "with",
    "keys",
]


def write(
    folder: Path,
    arms: Mapping[str, Arm],
    seeds: Sequence[int] = (0, 1),
    generations: int = 5,
    committed: int | None = None,
    diverged: Sequence[tuple[str, int, int]] = (),
    metrics: Sequence[str] = (),
    rows: int = 1000,
    reference: Sequence[Mapping[str, Any]] = (),
    name: str = "quickstart",
    images: bool = False,
) -> Path:
    """A language-model or image experiment; `committed` leaves only so many generations done, in chain order."""
    units = IMAGE_UNITS if images else UNITS
    flows = {arm: Workflow(a, rows, generations) for arm, a in arms.items()}
    ids: dict[str, dict[str, list[str]]] = {arm: {} for arm in arms}
    parents: dict[str, list[str]] = {}
    for arm in arms:
        for s in seeds:
            chain: list[str] = []
            for t in range(1, generations + 1):
                chain.append(f"first-{s}" if t == 1 else f"{arm.replace(' ', '_')}-{s}-{t}")
                parents[chain[-1]] = [chain[k - 1] for k in flows[arm].mixture(t).sources if k]
            ids[arm][str(s)] = chain
    bad = {ids[a][str(s)][t - 1] for a, s, t in diverged}
    order = list(dict.fromkeys(ids[a][str(s)][t] for s in seeds for t in range(generations) for a in arms))
    status = dict.fromkeys(order, "missing")
    for i in order[:committed]:
        if not any(status.get(p) != "committed" for p in parents[i]):
            status[i] = "diverged" if i in bad else "committed"
    folder.mkdir(parents=True, exist_ok=True)
    lines = _records(arms, seeds, generations, ids, status, metrics or units, units)
    (folder / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    experiment = {
        "name": name,
        "config": {"model": {"preset": "gpt2_9m", "width": 256}, "seeds": list(seeds)},
        "arms": {a: {"workflow": arm.workflow, "budget": arm.budget} for a, arm in arms.items()},
        "seeds": list(seeds),
        "generations": generations,
        "rows": rows,
        "engine": "chain",
        "tables": {a: f.table().tolist() for a, f in flows.items()},
        "ids": ids,
        "parents": parents,
        "store": ".",
        "units": units,
        "versions": {"collapse_jax": "0.1.0", "jax": "0.10.2", "python": "3.11.9"},
        "device": "cpu x 2",
        "reference": list(reference),
        "status": status,
    }
    (folder / "experiment.json").write_text(json.dumps(experiment))
    _shows(folder, arms, ids, status, look if images else read)
    return folder


def _records(
    arms: Any, seeds: Any, generations: int, ids: Any, status: Any, metrics: Any, units: Any
) -> list[dict[str, Any]]:
    out, base = [], -0.6 if units is IMAGE_UNITS else 3.2
    for at, (arm, settings) in enumerate(arms.items()):
        for s in seeds:
            noise = np.random.default_rng([s, at]).normal(0, 0.03, generations + 1)
            noise[0] = np.random.default_rng(s).normal(0, 0.05)
            for t in range(1, generations + 1):
                i = ids[arm][str(s)][t - 1]
                if status[i] == "missing":
                    continue
                rise = SLOPE.get(settings.workflow, 0.1) * (t - 1) * (1 + 0.02 * at) * 5 / generations
                loss = base + rise + noise[0] + (t > 1) * noise[t]
                for metric in metrics:
                    number = None if status[i] == "diverged" else _value(metric, loss, rise, base)
                    out.append(
                        {
                            "arm": arm,
                            "seed": s,
                            "generation": t,
                            "generation_id": i,
                            "metric": metric,
                            "value": number,
                            "unit": units[metric],
                            "predicted": None,
                            "split": "train" if metric == "train_loss" else "real_test",
                        }
                    )
    return out


def _value(metric: str, loss: float, rise: float, base: float) -> float:
    noise = loss - rise - base
    table = {
        "test_loss": loss,
        "perplexity": np.exp(loss),
        "bits_per_byte": loss / 2.9,
        "train_loss": loss - 0.2,
        "unigram_entropy": 6.4 - 0.8 * rise,
        "distinct_1": 0.07 * np.exp(-rise),
        "distinct_2": 0.42 * np.exp(-rise),
        "distinct_3": 0.77 * np.exp(-rise),
        "tail_recall": 0.6 * np.exp(-2 * rise),
        "sample_loss_under_first": loss - 1.6 * rise,
        "bits_per_dim": loss / np.log(2),
        "reconstruction": loss - 0.3,
        "divergence": 0.3 + 0.1 * rise + 0.02 * noise,
        "frechet_distance": 4 * np.exp(1.6 * rise + noise),
        "precision": 0.83 - 0.1 * rise + 0.1 * noise,
        "recall": 0.71 * np.exp(-1.5 * rise - noise),
        "density": 0.9 + 0.3 * rise + 0.4 * noise,
        "coverage": 0.88 * np.exp(-rise + 0.3 * noise),
        "memorisation": 1.02 + 0.02 * rise - 0.1 * noise,
        "class_coverage": 1.0 if rise < 0.5 else 0.9,
        "smallest_share": 0.08 * np.exp(-2.5 * rise + 2 * noise),
        "class_entropy": np.log(10) - 0.6 * rise - abs(noise),
        "pixel_variance": 0.081 * np.exp(-0.7 * rise + 0.5 * noise),
        "variance_ratio": 0.97 * np.exp(-0.7 * rise + 0.5 * noise),
    }
    return float(table[metric])


def _shows(folder: Path, arms: Any, ids: Any, status: Any, show: Callable[..., dict[str, Any]]) -> None:
    for arm, chains in ids.items():
        for s, chain in chains.items():
            for t, i in enumerate(chain, 1):
                if status[i] != "committed" or (show is read and s != next(iter(chains))):
                    continue
                path = folder / "generations" / i / "show.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                rise = SLOPE.get(arms[arm].workflow, 0.1) * (t - 1) * 5 / max(len(chain), 5)
                path.write_text(json.dumps(show(rise, int(s), t)))


def read(rise: float, seed: int, t: int) -> dict[str, Any]:
    """Rows of text that lose words."""
    rng = np.random.default_rng(t)
    lines = ["The file " + " ".join(rng.choice(WORDS[: max(3, 18 - 3 * t)], 40)) for _ in range(4)]
    return {"lines": lines, "prompts": ["The file"] * 4}


def look(rise: float, seed: int, t: int) -> dict[str, Any]:
    """Pictures of digits that lose classes and sharpness, their shares, lengths that lose their second mode."""
    rng = np.random.default_rng(seed)  # not of t: the same noise
    shares_C = np.exp(-2.2 * rise * np.arange(10) / 9)
    shares_C /= shares_C.sum()
    classes = np.searchsorted(np.cumsum(shares_C), rng.uniform(0, 1 - 1e-9, 32))
    samples = np.stack([glyph(c, rng, 0.1 + 0.35 * rise) for c in classes])
    real = np.stack([glyph(c, rng, 0.05) for c in rng.integers(10, size=16)])
    blurred = real + rng.normal(0, 0.05 + 0.15 * rise, real.shape)
    edges = np.linspace(1.3, 1.7, 41)
    middle = (edges[1:] + edges[:-1]) / 2

    def bonds(second: float, wide: float) -> np.ndarray:
        modes = np.array([[1.39, 0.012, 1 - second], [1.52, 0.018, second]])
        y = sum(w * np.exp(-(((middle - m) / (s + wide)) ** 2) / 2) / (s + wide) for m, s, w in modes)
        return y / np.sum(y)

    count = np.random.default_rng([seed, t]).multinomial(400, shares_C)
    return {
        "lines": [],
        "pictures": [
            {"title": "Samples (same noise)", "png": grid(samples), "pixelated": True},
            {
                "title": "Real, reconstructed",
                "png": grid(np.stack([real, blurred], 1).reshape(-1, 8, 8)),
                "pixelated": True,
            },
        ],
        "shares": [
            {
                "title": "Class share of samples",
                "names": [str(c) for c in range(10)],
                "values": (count / 400).tolist(),
                "real": [0.1] * 10,
            }
        ],
        "histograms": [
            {
                "title": "C-C bond length",
                "unit": "Å",
                "edges": edges.tolist(),
                "values": bonds(0.5 * np.exp(-1.5 * rise), 0.004 + 0.015 * rise).tolist(),
                "real": bonds(0.5, 0.0).tolist(),
            }
        ],
    }


def glyph(digit: int, rng: np.random.Generator, noise: float) -> np.ndarray:
    """A digit somewhere in 8 x 8 pixels, float about [0, 1]."""
    image = np.zeros((8, 8))
    y, x = rng.integers(1, 3), rng.integers(1, 5)
    image[y : y + 5, x : x + 3] = np.array(list(DIGITS[digit]), float).reshape(5, 3)
    return image + noise * rng.normal(size=(8, 8))


def grid(images_N88: np.ndarray, columns: int = 8) -> str:
    """A PNG (base64) of grey images in rows of `columns`, a white line between them."""
    grey = np.clip(images_N88 * 255, 0, 255).astype(np.uint8)
    padded = np.pad(grey, ((0, 0), (0, 1), (0, 1)), constant_values=255)
    sheet = padded.reshape(-1, columns, 9, 9).transpose(0, 2, 1, 3).reshape(-1, 9 * columns)
    return base64_png(sheet[:-1, :-1])


def base64_png(pixels: np.ndarray) -> str:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def three_arms() -> dict[str, Arm]:
    return {name: Arm(name) for name in ("replace", "accumulate", "accumulate_subsample")}


def twelve_arms() -> dict[str, Arm]:
    return {
        f"{model} {name}": Arm(name)
        for model in ("GPT-2 9M", "Llama2 12M", "Llama2 42M", "Llama2 126M")
        for name in three_arms()
    }


def closed_form(
    folder: Path,
    seeds: int = 200,
    generations: int = 100,
    d: int = 10,
    n: int = 100,
    wrong: float = 1.0,
    name: str = "theory",
) -> Path:
    """Least squares whose exact error is sigma^2 d/(n-d-1) times t (replace) or sum of 1/k^2 (accumulate)."""
    rng = np.random.default_rng(0)
    base, t_G = d / (n - d - 1), np.arange(1, generations + 1)
    laws = {"replace": base * t_G, "accumulate": base * np.cumsum(1 / t_G**2)}
    lines = []
    for arm, law_G in laws.items():
        values_SG = law_G * rng.gamma(5, 1 / 5, (seeds, generations))
        for s in range(seeds):
            for t in t_G:
                lines.append(
                    {
                        "arm": arm,
                        "seed": s,
                        "generation": int(t),
                        "generation_id": "",
                        "metric": "test_loss",
                        "value": float(values_SG[s, t - 1]),
                        "unit": "squared error",
                        "split": "real_test",
                        "predicted": float(law_G[t - 1] * wrong),
                    }
                )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    flows = {a: Workflow(Arm(a), n, generations) for a in laws}
    (folder / "experiment.json").write_text(
        json.dumps(
            {
                "name": name,
                "config": {"d": d, "n": n},
                "arms": {a: {"workflow": a} for a in laws},
                "seeds": list(range(seeds)),
                "generations": generations,
                "rows": n,
                "engine": "closed_form",
                "tables": {a: f.table().tolist() for a, f in flows.items()},
                "versions": {"jax": "0.10.2"},
                "device": "cpu x 2",
            }
        )
    )
    return folder
