"""Made-up experiments on disk, as a run leaves them, for the tests of the report."""

import json
from collections.abc import Mapping, Sequence
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
    metrics: Sequence[str] = tuple(UNITS),
    rows: int = 1000,
    reference: Sequence[Mapping[str, Any]] = (),
    name: str = "quickstart",
) -> Path:
    """A language-model experiment; `committed` leaves only so many generations done, in chain order."""
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
    lines = _records(arms, seeds, generations, ids, status, metrics)
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
        "units": UNITS,
        "versions": {"collapse_jax": "0.1.0", "jax": "0.10.2", "python": "3.11.9"},
        "device": "cpu x 2",
        "reference": list(reference),
        "status": status,
    }
    (folder / "experiment.json").write_text(json.dumps(experiment))
    _shows(folder, ids, status)
    return folder


def _records(
    arms: Any, seeds: Any, generations: int, ids: Any, status: Any, metrics: Any
) -> list[dict[str, Any]]:
    out = []
    for at, (arm, settings) in enumerate(arms.items()):
        for s in seeds:
            noise = np.random.default_rng([s, at]).normal(0, 0.03, generations + 1)
            noise[0] = np.random.default_rng(s).normal(0, 0.05)
            for t in range(1, generations + 1):
                i = ids[arm][str(s)][t - 1]
                if status[i] == "missing":
                    continue
                rise = SLOPE.get(settings.workflow, 0.1) * (t - 1) * (1 + 0.02 * at) * 5 / generations
                loss = 3.2 + rise + noise[0] + (t > 1) * noise[t]
                for metric in metrics:
                    number = None if status[i] == "diverged" else _value(metric, loss, rise)
                    out.append(
                        {
                            "arm": arm,
                            "seed": s,
                            "generation": t,
                            "generation_id": i,
                            "metric": metric,
                            "value": number,
                            "unit": UNITS[metric],
                            "predicted": None,
                            "split": "train" if metric == "train_loss" else "real_test",
                        }
                    )
    return out


def _value(metric: str, loss: float, rise: float) -> float:
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
    }
    return float(table[metric])


def _shows(folder: Path, ids: Any, status: Any) -> None:
    for chains in ids.values():
        for t, i in enumerate(next(iter(chains.values())), 1):
            if status[i] != "committed":
                continue
            rng = np.random.default_rng(t)
            lines = ["The file " + " ".join(rng.choice(WORDS[: max(3, 18 - 3 * t)], 40)) for _ in range(4)]
            path = folder / "generations" / i / "show.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"lines": lines, "prompts": ["The file"] * 4}))


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
