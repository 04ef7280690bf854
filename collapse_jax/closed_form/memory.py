"""An associative memory of limited width: facts interfere, so data, width and the tail all bound the loss.

Cabannes et al. 2310.02984 and Dohmatob et al. 2402.07043 (triplet law): facts x with p(x) ~ x^-beta have random
embeddings e_x ~ N(0, I_d / d) and here one of two answers y_x = +-1; the memory is the vector
w = sum_x q_x y_x e_x and answers sign(<w, e_x>). Strengths q follow the counts c_x of T rows: "counts"
(q = c/T), "seen" (q = [c > 0]) or "head" (q = [c > 0] for the d most probable facts: what is stored beyond
the width only disturbs). A fact never stored is guessed, so the loss starts from one half.

Given q the interference of the other facts is Gaussian and the signal is q_x |e_x|^2, hence exactly
P(wrong) = P(t_d > q_x sqrt(d / sum_{i != x} q_i^2)) with Student's t of d degrees of freedom. `predict` averages
over the counts with sum q^2 at its mean, to leading order in the number of stored facts. The paper's triplet law is
E ~ T^-c + d^-c_q + k^-(beta-1): data, width and the rank k at which the teacher's tail is cut.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import t as student

from collapse_jax.closed_form import binomial, draws
from collapse_jax.closed_form.family import Family, Prediction
from collapse_jax.closed_form.hutter import absence, locate, zipf
from collapse_jax.config import choice, number
from collapse_jax.workflows import Workflow

Arrays = dict[str, jax.Array]
COUNTS, COUNTS_OF_TWO = 200, 64  # of a fact's rows that a sum visits: of one law, of each of two


@dataclass(frozen=True)
class Memory(Family):
    """exponent: beta. symbols: K facts. width: d. strength: how q follows the counts, see the module.
    rank_cut: facts that a teacher asks about (0: all). teacher: whose answers synthetic rows have, the "model"'s
    or the "perfect" ones.
    """

    exponent: float = number(1.5, 0.0)
    symbols: int = number(1000, 2, 1 << 24)
    width: int = number(100, 1, 65536)
    strength: str = choice("seen", ("counts", "seen", "head"))
    rank_cut: int = number(0, 0)
    teacher: str = choice("perfect", ("model", "perfect"))

    units: ClassVar = {"test_loss": "probability", "stored": "facts"}

    def problems(self) -> Iterator[str]:
        if self.rank_cut > self.symbols:
            yield f"rank_cut={self.rank_cut} is beyond the {self.symbols} symbols; use 0 to keep all"

    @property
    def asked(self) -> np.ndarray:
        """[K], the law of the facts in synthetic rows."""
        p = zipf(self.exponent, self.symbols)
        q = np.where(np.arange(self.symbols) < (self.rank_cut or self.symbols), p, 0.0)
        return q / q.sum()

    def truth(self, key: jax.Array, rows: int) -> Arrays:
        """Embeddings [K, d]; the answers are +1, which by symmetry loses nothing."""
        embeddings = draws.normal(key, (self.symbols, self.width)) / np.sqrt(self.width)
        return {"embeddings": embeddings}

    def real(self, truth: Arrays, key: jax.Array, rows: int) -> Arrays:
        x = locate(jnp.asarray(zipf(self.exponent, self.symbols)), draws.uniform(key, (rows,)))
        return {"fact": x, "answer": jnp.ones(rows)}

    def draw(self, truth: Arrays, params: Arrays, key: jax.Array, rows: int, **_: Any) -> Arrays:
        x = locate(jnp.asarray(self.asked), draws.uniform(key, (rows,)))
        answers = jnp.ones(self.symbols) if self.teacher == "perfect" else params["answers"]
        return {"fact": x, "answer": answers[x]}

    def streams(self, workflow: Workflow) -> bool:
        return True

    def statistics(self, truth: Arrays, rows: Arrays, weight: jax.Array) -> Arrays:
        """Per fact: rows, and the sum of their answers."""
        zero = jnp.zeros(self.symbols)
        return {
            "count": zero.at[rows["fact"]].add(weight),
            "answers": zero.at[rows["fact"]].add(weight * rows["answer"]),
        }

    def estimate(self, truth: Arrays, statistics: Arrays) -> Arrays:
        answers = statistics["answers"]
        stored = answers / statistics["count"].sum() if self.strength == "counts" else jnp.sign(answers)
        if self.strength == "head":
            stored = jnp.where(jnp.arange(self.symbols) < self.width, stored, 0.0)
        memory = stored @ truth["embeddings"]
        return {"answers": jnp.sign(truth["embeddings"] @ memory), "stored": stored}

    def measure(self, truth: Arrays, params: Arrays) -> Arrays:
        """A fact that is not stored is guessed: its error is one half whatever the interference says."""
        wrong = jnp.where(params["stored"] == 0, 0.5, (params["answers"] != 1).astype(float))
        p = jnp.asarray(zipf(self.exponent, self.symbols))
        return {"test_loss": p @ wrong, "stored": (params["stored"] != 0).sum()}

    def predict(self, workflow: Workflow) -> dict[str, Prediction]:
        """Generations whose rows have right answers: real ones, and a perfect teacher's."""
        p, asked = zipf(self.exponent, self.symbols), self.asked
        loss, stored = np.full((2, workflow.generations), np.nan)
        for t, m in enumerate(workflow.mixtures):
            if m.take < m.available or (self.teacher == "model" and m.sources != (0,)):
                continue
            sizes = (
                sum(s.rows for s in m.slices if s.source == 0),
                sum(s.rows for s in m.slices if s.source),
            )
            if not self.rank_cut:  # one law
                sizes = (m.available, 0)
            stored[t], loss[t] = self._expected(p, ((p, sizes[0]), (asked, sizes[1])))
        law = "sum_x p_x E P(t_d > q_x sqrt(d / sum q^2)), a half where unseen; interference at its mean"
        exact = "sum over facts of P(seen)"
        return {"test_loss": Prediction(loss, law, False), "stored": Prediction(stored, exact)}

    def _expected(self, p: np.ndarray, parts: tuple[tuple[np.ndarray, int], ...]) -> tuple[float, float]:
        """(facts stored, loss) of rows drawn from these (law, rows)."""
        seen = 1 - absence(parts)
        if self.strength == "head":
            seen = np.where(np.arange(self.symbols) < self.width, seen, 0.0)
        if self.strength != "counts":
            noise = np.maximum(seen.sum() - seen, 1e-300)
            wrong = student.sf(np.sqrt(self.width / noise), self.width)
            return float(seen.sum()), float(p @ (seen * wrong + 0.5 * (1 - seen)))
        total = sum(rows for _, rows in parts)
        mean = sum((rows * q for q, rows in parts), np.zeros(len(p)))
        squares = sum((rows * q * (1 - q) for q, rows in parts), mean**2) / total**2  # E (c/T)^2
        noise = np.maximum(squares.sum() - squares, 1e-300)
        scale = np.sqrt(self.width / noise[:, None]) / total
        most = COUNTS if min(rows for _, rows in parts) == 0 else COUNTS_OF_TWO
        (real, of_real), (made, of_made) = (binomial.counts(rows, q, most) for q, rows in parts)
        terms = (
            weight * (of_real * student.sf((real + level[:, None]) * scale, self.width)).sum(1)
            for level, weight in zip(made.T, of_made.T, strict=True)
        )
        return float(seen.sum()), float(p @ sum(terms, np.zeros(len(p))))
