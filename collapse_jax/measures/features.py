"""The feature space that images are compared in, and the classifier that names what they show.

Made once for a data set, kept in `store/features/<key>.npz` and identified by the digest of its weights.
"""

import hashlib
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from collapse_jax import files
from collapse_jax.config import BadInput
from collapse_jax.console import loud
from collapse_jax.data.dataset import Dataset
from collapse_jax.data.records import row_dtype
from collapse_jax.measures import inception, networks

VERSION = 1  # raise when the same rows would give other weights
SPACES = ("auto", "classifier", "random")
FITTED_ON = 20_000  # training rows at most,
FITTED_BYTES = 1 << 28  # and bytes of them
BATCH = 256

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Features:
    """Images uint8 [N, H, W, C] -> features float32 [N, D], the same for every generation of an experiment.

    space: "classifier" (the last hidden layer of a LeNet trained on the real rows), "random" (fixed random
        convolutions, in units of the real rows' standard deviation) or "inception".
    classes: names; empty where the rows have none, and then `classify` is not to be called.
    accuracy: share of held-out real rows that the classifier names rightly; NaN where there is none.
    arrays: weights, named "classifier/..." and "SPACE/...". digest: of these.
    kept: what is worked out once from the real rows.
    """

    space: str
    classes: tuple[str, ...]
    accuracy: float
    arrays: Arrays = field(repr=False)
    digest: str
    kept: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def about(self) -> str:
        """A line for people."""
        said = {
            "classifier": "last hidden layer of a LeNet trained on the training rows",
            "random": "random convolutions",
            "inception": "InceptionV3",
        }[self.space]
        if not self.classes:
            return said
        share = "no" if np.isnan(self.accuracy) else f"{self.accuracy:.1%} of"
        return f"{said}; {share} held-out rows {'have a class' if share == 'no' else 'named rightly'}"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Features float32 [N, D]."""
        if self.space == "classifier":
            return _batches(_lenet, self._of("classifier"), images, BATCH)[0]
        if self.space == "random":
            return _batches(_random, self._of("random"), images, BATCH)[0]
        return _batches(_inception, self._of("inception"), images, inception.BATCH)[0]

    def classify(self, images: np.ndarray) -> np.ndarray:
        """Class int32 [N] that the classifier gives each image."""
        return _batches(_lenet, self._of("classifier"), images, BATCH)[1]

    def _of(self, network: str) -> Arrays:
        start = f"{network}/"
        return {name.removeprefix(start): a for name, a in self.arrays.items() if name.startswith(start)}


@jax.jit
def _lenet(weights: networks.Weights, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    features_ND, logits_NK = networks.lenet(weights, images)
    return features_ND, logits_NK.argmax(1).astype(np.int32)


@jax.jit
def _random(weights: networks.Weights, images: jax.Array) -> tuple[jax.Array]:
    return (networks.random_features(weights, images),)


@jax.jit
def _inception(weights: networks.Weights, images: jax.Array) -> tuple[jax.Array]:
    return (inception.features(weights, images),)


def _batches(apply: Callable[..., tuple], weights: Arrays, images: np.ndarray, size: int) -> list[np.ndarray]:
    """The outputs of a compiled network for all images, whose last batch is filled up, on one device."""
    found: list[tuple] = []
    with jax.set_mesh(None):
        placed = jax.device_put(weights)
        for first in range(0, len(images), size):
            batch = images[first : first + size]
            full = np.concatenate([batch, np.zeros((size - len(batch), *batch.shape[1:]), batch.dtype)])
            found.append(tuple(np.asarray(out)[: len(batch)] for out in apply(placed, full)))
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def problem(space: str) -> str:
    """What is wrong with the setting, or nothing."""
    if space in SPACES:
        return ""
    if not space.endswith(".safetensors"):
        return f"features={space!r} is not one of {', '.join(SPACES)} or the path of a .safetensors file"
    return "" if Path(space).expanduser().is_file() else f"features={space!r}: there is no such file"


def obtain(space: str, dataset: Dataset, store: Path) -> Features:
    """The features of a data set of images, from `store/features` when they are there and sound, made otherwise.

    space: as in the settings. The digest depends on the rows, the space and this code alone (to the rounding of
    the device that trained a classifier). A damaged file is set aside and made again, with a line on stderr.
    Raises `BadInput` where the rows have no classes to learn or a file does not allow it, `OSError` where the disk
    does not.
    """
    classes = tuple(dataset.info.get("classes", ()))
    if space == "auto":
        space = "classifier" if len(classes) > 1 else "random"
    if space == "classifier" and len(classes) < 2:
        raise BadInput(
            f"features='classifier' needs rows of at least two classes, and {dataset.info['source']} has "
            f"{len(classes)}; use 'random'"
        )
    given: Arrays = {}
    if space not in SPACES:
        given, space = inception.load(Path(space).expanduser()), "inception"
    matter = {"version": VERSION, "rows": dataset.digest, "space": space, "given": digest(given)}
    key = hashlib.sha256(files.canonical(matter)).hexdigest()[:20]
    path = files.inside(Path(store), Path(store) / "features" / f"{key}.npz")
    made = _load(path)
    if made is None:
        made = _made(space, classes, dataset)
        _save(path, made)
    accuracy = float(made.pop("accuracy"))
    arrays = {**made, **{f"inception/{name}": a for name, a in given.items()}}
    if bad := [name for name, a in arrays.items() if not np.isfinite(a).all()]:
        raise BadInput(f"features: {bad[0]} is not finite; give other weights, or set features='random'")
    return Features(space, classes if len(classes) > 1 else (), accuracy, arrays, digest(arrays))


def _made(space: str, classes: tuple[str, ...], dataset: Dataset) -> Arrays:
    """The weights of whatever networks the space and the classes call for, and the classifier's accuracy."""
    made: Arrays = {"accuracy": np.array(np.nan)}
    rows = _rows(dataset, "train")
    with jax.set_mesh(None):
        if len(classes) > 1:
            known = rows["label"] >= 0
            trained = networks.train_lenet(rows["image"][known], rows["label"][known], len(classes))
            made |= {f"classifier/{name}": np.asarray(a) for name, a in trained.items()}
            held_out = _rows(dataset, "test")
            named = _batches(_lenet, jax.device_get(trained), held_out["image"], BATCH)[1]
            known = held_out["label"] >= 0
            made["accuracy"] = np.array((named == held_out["label"])[known].mean() if known.any() else np.nan)
        if space == "random":
            weights = networks.random_weights(rows["image"].shape[1:])
            raw_ND = _batches(_random, weights, rows["image"][:5000], BATCH)[0]
            weights["mean"], scale_D = raw_ND.mean(0), raw_ND.std(0)
            weights["scale"] = 1 / np.where(scale_D > 1e-6, scale_D, 1).astype(np.float32)
            made |= {f"random/{name}": a for name, a in weights.items()}
    return made


def _rows(dataset: Dataset, split: str) -> Arrays:
    with dataset.rows(split) as source:
        return source.read(0, min(len(source), FITTED_ON, FITTED_BYTES // row_dtype(dataset.spec).itemsize))


def digest(arrays: Arrays) -> str:
    """Hash of the names, types, shapes and bytes of arrays."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        a = np.ascontiguousarray(arrays[name])
        found.update(files.canonical([name, a.dtype.str, list(a.shape)]))
        found.update(a.tobytes())
    return found.hexdigest()


def _seal(name: str, arrays: Arrays) -> np.ndarray:
    """What a file of this name with these arrays is sealed with, uint8 [32]."""
    return np.frombuffer(hashlib.sha256(files.canonical([name, digest(arrays)])).digest(), np.uint8)


def _save(path: Path, arrays: Arrays) -> None:
    """Write the arrays and their seal, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = io.BytesIO()
    np.savez(packed, **arrays, seal=_seal(path.name, arrays))  # pyright: ignore
    files.write_bytes(path, packed.getbuffer())


def read(path: Path) -> Arrays:
    """The arrays of a file. Raises `BadInput` where it is damaged, another's or was never sealed."""
    raw = path.read_bytes()
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path} is damaged ({' '.join(str(error).split())})") from error
    seal = arrays.pop("seal", None)
    if seal is None:
        raise BadInput(f"{path} has no seal: a version of collapse_jax without seals made it")
    if not np.array_equal(seal, _seal(path.name, arrays)):
        raise BadInput(f"{path} is damaged: it does not match its seal")
    return arrays


def _load(path: Path) -> Arrays | None:
    """The arrays of a sound file; None where there is none, after setting aside a damaged one."""
    if not path.exists():
        return None
    try:
        return read(path)
    except BadInput as error:
        aside = files.set_aside(path, "damaged")
        loud(f"{error}, set aside as {aside}, made again")
        return None
