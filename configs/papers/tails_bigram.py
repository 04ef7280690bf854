"""Dohmatob et al. 2402.07043, "Hutter++": bigrams with Zipf contexts and continuations, c = min(1 - 1/beta, 1/2).

Panels are beta and n; generation 2 is fitted on samples at top-p 0.9 of the model before it ("model"), or of a
teacher that knows the truth ("perfect"), which plateaus at the lost mass. Sizes are ours.
"""

from ml_collections import ConfigDict

from collapse_jax.closed_form import panel, template

ROWS, EXPONENTS, TEACHERS = (100, 1000, 10_000), (1.3, 1.5, 2.0), ("model", "perfect")


def get_config() -> ConfigDict:
    return template(
        "tails_bigram",
        {
            f"{teacher}_beta{round(10 * exponent)}_n{n}": panel(
                "bigram",
                ("replace",),
                rows=n,
                generations=5 if teacher == "model" else 2,
                seeds=200,
                metrics=("test_loss", "pairs"),
                exponent=exponent,
                teacher=teacher,
                top_p=0.9,
            )
            for teacher in TEACHERS
            for exponent in EXPONENTS
            for n in ROWS
        },
    )


def sweep():
    """How the sampler loses the tail: top-p 0.9 and 0.95, or temperature 0.9."""
    names = [f"{t}_beta{round(10 * e)}_n{n}" for t in TEACHERS for e in EXPONENTS for n in ROWS]
    for top_p, temperature in ((0.9, 1.0), (0.95, 1.0), (1.0, 0.9)):
        yield {
            f"panels.{name}.settings.{key}": value
            for name in names
            for key, value in (("top_p", top_p), ("temperature", temperature))
        }
