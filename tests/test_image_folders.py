"""Folders of pictures as people have them: which split and class each picture gets, and what is told of the rest."""

import os

import pytest

from collapse_jax.config import BadInput
from collapse_jax.data import image_folders
from collapse_jax.data.pictures import split_of


def loaded(root, *files, of=""):
    """Name below the folder -> (split, class or None), and the notes; no picture is looked into."""
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = image_folders.load(str(root) + of)
    places = {}
    for i, held_out in enumerate(found.held_out):
        _, label = found.read(i)
        name = os.path.relpath(found.where(i), root)
        places[name] = (held_out or "train", found.classes[label] if label >= 0 else None)
    return places, "\n".join(found.notes)


LAYOUTS = {
    "flat": ({"1.png": ("train", None), "2.jpg": ("train", None)}, []),
    "one folder": ({"cats/1.png": ("train", None), "cats/2.png": ("train", None)}, []),
    "classes": ({"a/1.png": ("train", "a"), "b/2.WEBP": ("train", "b"), "b/c/3.tif": ("train", "b/c")}, []),
    "beside classes": (
        {"a/1.png": ("train", "a"), "b/1.png": ("train", "b"), "1.png": ("train", None)},
        [],
    ),
    "splits": (
        {
            "Training/a/1.png": ("train", "a"), "Training/b/1.png": ("train", "b"),
            "DEV/a/1.png": ("validation", "a"), "testing/b/1.png": ("test", "b"), "preview.png": None,
        },
        ["splits by folders: DEV (validation), Training (train), testing (test)", "of the splits: preview.png"],
    ),
    "splits with years": ({"train2017/1.jpg": ("train", None), "val2017/2.jpg": ("validation", None)}, ["splits"]),
    "splits below classes": (
        {
            "bottle/train/good/1.png": ("train", None), "bottle/test/good/2.png": ("test", None),
            "bottle/test/broken/3.png": ("test", None), "bottle/ground_truth/broken/3.png": None,
        },
        ["left out, outside the folders of the splits: bottle/ground_truth/broken/3.png"],
    ),
    "Tiny ImageNet": (
        {
            "tiny/train/n01/images/1.JPEG": ("train", "n01"), "tiny/train/n02/images/1.JPEG": ("train", "n02"),
            "tiny/val/images/val_0.JPEG": ("validation", "n02"), "tiny/val/images/val_1.JPEG": ("validation", None),
            "tiny/test/images/test_0.JPEG": ("test", None), "tiny/train/n01/n01_boxes.txt": None,
        },
        ["whose class val_annotations.txt says: 1", "left out, no pictures of a kind that is read: 1 .txt"],
    ),
    "ImageNet": (
        {
            "ILSVRC/Data/CLS-LOC/train/n01/1.JPEG": ("train", "n01"),
            "ILSVRC/Data/CLS-LOC/train/n02/1.JPEG": ("train", "n02"),
            "ILSVRC/Data/CLS-LOC/val/1.JPEG": ("validation", None),
            "ILSVRC/Data/CLS-LOC/test/2.JPEG": ("test", None),
            "ILSVRC/Annotations/CLS-LOC/val/1.xml": None,
        },
        ["1 .xml"],
    ),
    "held out in other folders": (
        {"train/a/1.png": ("train", "a"), "train/b/1.png": ("train", "b"), "test/all/1.png": ("test", None)},
        ["splits", "no class of the training pictures: all"],
    ),
    "trains are a class": ({"train/1.png": ("train", "train"), "plane/1.png": ("train", "plane")}, []),
    "hidden": (
        {
            "a/1.png": ("train", "a"), "b/1.png": ("train", "b"),
            ".cache/1.png": None, "a/._1.png": None, ".DS_Store": None,
        },
        ["left out, hidden: .cache, a/._1.png"],
    ),
    "other kinds": (
        {"1.png": ("train", None), "2.heic": None, "3.HEIC": None, "README": None},
        ["left out, no pictures of a kind that is read: 1 .HEIC, 1 .heic, 1 README"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_split_and_class(tmp_path, layout):
    expected, notes = LAYOUTS[layout]
    if layout == "Tiny ImageNet":
        (tmp_path / "tiny" / "val").mkdir(parents=True)
        lines = ("val_0.JPEG\tn02\t0\t0\t7\t7", "val_1.JPEG\tn99\t0\t0\t7\t7")
        (tmp_path / "tiny" / "val" / "val_annotations.txt").write_text("\n".join(lines))
    places, told = loaded(tmp_path, *expected)
    assert places == {name: place for name, place in expected.items() if place}
    assert all(note in told for note in notes), told
    assert notes or not told


def test_links_to_folders_are_followed_and_their_loops_end(tmp_path):
    root, away = tmp_path / "photos", tmp_path / "away" / "dogs"
    for folder in (root / "cats", away):
        folder.mkdir(parents=True)
    (root / "dogs").symlink_to(away)
    (root / "cats" / "again").symlink_to(root)
    (away / "cats").symlink_to(root / "cats")  # a loop whose links never lead to a folder above them by name
    (root / "gone.png").symlink_to(tmp_path / "nowhere")
    (away / "2.png").touch()
    with pytest.raises(BadInput, match=r"gone\.png cannot be read: No such file"):
        loaded(root, "cats/1.png")
    (root / "gone.png").unlink()
    expected = {
        "cats/1.png": ("train", "cats"),
        "dogs/2.png": ("train", "dogs"),
        "dogs/cats/1.png": ("train", "dogs/cats"),
    }
    places, told = loaded(root)
    assert places == expected and "left out, links to folders above them: cats/again, dogs/cats/again" in told
    places, again = loaded(root, of="/**/*.png")
    assert places == expected and again == told


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["val/a/1.png", "test/a/1.png"], "has pictures of test, validation and none of train"),
        (["train/a/1.png", "train/b/1.png", "extra/a/1.png"], "has train beside extra/a; give one folder"),
        (["val/a/1.png", "extra/a/1.png"], "has val beside extra/a; give one folder"),
        (["a.txt"], "has no .png, .jpg or other picture"),
    ],
)
def test_what_the_names_leave_open_is_refused(tmp_path, files, words):
    with pytest.raises(BadInput, match=words):
        loaded(tmp_path, *files)


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(BadInput, match=rf"{tmp_path} cannot be read: Permission denied"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("names", "split"),
    [
        ("train Train training TRAIN2017 train_set training-images trainset", "train"),
        ("val valid Validation dev val2017 validation_data eval", "validation"),
        ("test Testing test_images test1", "test"),
        ("trainer data cats trainA protest validate 2017 unlabeled contest set", ""),
    ],
)
def test_names_of_splits(names, split):
    assert {split_of(name) for name in names.split()} == {split}
