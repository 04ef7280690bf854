"""The row codec, shards and random access over them."""

import hashlib
import json
import struct
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from collapse_jax.config import BadInput
from collapse_jax.data import records

SPEC = {"tokens": ((3,), "uint16"), "weight": ((), "float32"), "grid": ((2, 2), "int64")}


def rows(count, offset=0):
    base = np.arange(offset, offset + count)
    return {
        "tokens": (base[:, None] * 3 + np.arange(3)).astype(np.uint16),
        "weight": base.astype(np.float32) / 7,
        "grid": base[:, None, None] * np.array([[1, 2], [3, -4]]),
    }


def write(directory, counts):
    files, offset = [], 0
    for i, count in enumerate(counts):
        path = directory / records.shard_name(i, len(counts))
        with records.ShardWriter(path, SPEC) as writer:
            writer.write_batch(rows(count, offset))
        files.append((path, count))
        offset += count
    return files


def equal(a, b):
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and (a[k] == b[k]).all() for k in a
    )


@st.composite
def specs_and_batches(draw):
    kinds = st.sampled_from(["uint8", "uint16", "int32", "int64", "float32", "float64", "bool"])
    shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=4)
    fields = draw(st.dictionaries(st.sampled_from("abcd"), st.tuples(shapes, kinds), min_size=1))
    count = draw(st.integers(0, 4))
    batch = {name: draw(hnp.arrays(kind, (count, *shape))) for name, (shape, kind) in fields.items()}
    return fields, batch


@given(specs_and_batches())
@settings(max_examples=60, deadline=None)
def test_codec_round_trip_of_any_spec(case):
    spec, batch = case
    encoded = records.encode(batch, spec)
    decoded = records.decode(encoded, spec)
    for name, (shape, kind) in spec.items():
        assert decoded[name].shape == (len(encoded), *shape) and decoded[name].dtype == kind
        assert decoded[name].tobytes() == batch[name].tobytes()
    for i, record in enumerate(encoded):
        one = records.decode_row(record, spec)
        assert all(one[name].tobytes() == batch[name][i].tobytes() for name in spec)
        assert records.encode_row(one, spec) == record


def test_a_record_is_the_raw_little_endian_arrays_in_spec_order():
    row = {"weight": np.float32(0.5), "grid": np.array([[1, 2], [3, 4]]), "tokens": np.array([1, 2, 515])}
    assert records.encode_row(row, SPEC) == struct.pack("<3H f 4q", 1, 2, 515, 0.5, 1, 2, 3, 4)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"tokens": np.array([[1, 2, 70000]])}, "outside uint16"),
        ({"tokens": np.array([[-1, 2, 3]])}, "outside uint16"),
        ({"tokens": np.array([[1.5, 2, 3]])}, "does not fit"),
        ({"tokens": np.array([[1, 2]])}, "shape"),
        ({"more": np.zeros(1)}, "spec"),
    ],
)
def test_rows_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        records.encode({**rows(1), **change}, SPEC)


def test_wrong_record_length_and_object_types_are_refused():
    with pytest.raises(ValueError, match="bytes"):
        records.decode([b"123"], SPEC)
    with pytest.raises(ValueError, match="number type"):
        records.row_dtype({"x": ((), "object")})


def test_spec_survives_json():
    listed = records.spec_to_json(SPEC)
    assert listed == [["tokens", [3], "uint16"], ["weight", [], "float32"], ["grid", [2, 2], "int64"]]
    assert list(records.spec_from_json(json.loads(json.dumps(listed))).items()) == list(SPEC.items())


@pytest.mark.parametrize("counts", [(5,), (3, 4), (1, 1, 6, 2)])
def test_random_access_over_shards(tmp_path, counts):
    files, truth = write(tmp_path, counts), rows(sum(counts))
    with records.RowSource(files, SPEC) as source:
        assert len(source) == sum(counts)
        for i in range(len(source)):
            assert equal(source[i], {k: v[i, ...] for k, v in truth.items()})
        for start in range(len(source) + 1):
            for stop in range(start, len(source) + 1):
                assert equal(source.read(start, stop), {k: v[start:stop] for k, v in truth.items()})
        picked = np.random.default_rng(0).integers(0, len(source), 40)
        assert equal(source.take(picked), {k: v[picked] for k, v in truth.items()})
        for bad in (-1, len(source)):
            with pytest.raises(IndexError):
                source[bad]
        with pytest.raises(IndexError):
            source.take(np.array([0, len(source)]))
    with pytest.raises(ValueError, match="closed"):
        source[0]


def test_reading_from_many_threads(tmp_path):
    files, truth, wrong = write(tmp_path, (200, 300)), rows(500), []
    with records.RowSource(files, SPEC) as source:

        def work(seed):
            for _ in range(50):
                picked = np.random.default_rng(seed).integers(0, 500, 20)
                if not equal(source.take(picked), {k: v[picked] for k, v in truth.items()}):
                    wrong.append(seed)

        threads = [threading.Thread(target=work, args=(s,)) for s in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_shard_info_and_determinism(tmp_path):
    infos = []
    for name in ("a", "b"):
        writer = records.ShardWriter(tmp_path / name, SPEC)
        for i in range(20):
            writer.write({k: v[i] for k, v in rows(20).items()})
        assert not (tmp_path / name).exists()
        infos.append(writer.close())
    assert infos[0] == infos[1]
    assert infos[0].rows == 20
    assert infos[0].bytes == (tmp_path / "a").stat().st_size
    assert infos[0].sha256 == hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
    assert records.shard_name(0, 3) == "part-00000-of-00003.array_record"


def test_a_failed_write_leaves_nothing(tmp_path):
    with (
        pytest.raises(RuntimeError, match="interrupted"),
        records.ShardWriter(tmp_path / "a", SPEC) as writer,
    ):
        writer.write_batch(rows(3))
        raise RuntimeError("interrupted")
    assert not list(tmp_path.iterdir())


def test_an_abandoned_partial_file_is_overwritten(tmp_path):
    (tmp_path / ".a.partial").write_bytes(b"left by a killed process" * 1000)
    with records.ShardWriter(tmp_path / "a", SPEC) as writer:
        writer.write_batch(rows(3))
    with records.RowSource([(tmp_path / "a", 3)], SPEC) as source:
        assert equal(source.read(0, 3), rows(3))


def test_a_directory_that_cannot_be_written_is_an_os_error(tmp_path):
    with pytest.raises(OSError):
        records.ShardWriter(tmp_path / "missing" / "a", SPEC)


def test_damaged_shards_are_named(tmp_path):
    (path, _), other = write(tmp_path, (400, 2))
    sound = path.read_bytes()

    path.write_bytes(sound[:-40])
    with pytest.raises(BadInput, match=f"{path.name}.*damaged.*400"):
        records.RowSource([(path, 400), other], SPEC)

    path.write_bytes(b"")
    with pytest.raises(BadInput, match=path.name):
        records.RowSource([(path, 400)], SPEC)

    path.unlink()
    with pytest.raises(BadInput, match=f"{path.name} is missing"):
        records.RowSource([other, (path, 400)], SPEC)

    path.write_bytes(sound)
    with pytest.raises(BadInput, match="400"):
        records.RowSource([(path, 399)], SPEC)

    flipped = bytearray(sound)
    at = sound.index(records.encode(rows(400), SPEC)[150])
    flipped[at + 3] ^= 1
    path.write_bytes(flipped)
    with (
        records.RowSource([(path, 400)], SPEC) as source,
        pytest.raises(BadInput, match=f"{path.name} is damaged"),
    ):
        source.read(0, 400)

    with (
        records.RowSource([other], {"tokens": ((9,), "int32")}) as source,
        pytest.raises(BadInput, match="spec"),
    ):
        source.read(0, 1)
