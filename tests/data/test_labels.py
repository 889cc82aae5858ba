"""Files of several classes a picture, good and malformed; what is expected is told by hand, or by other libraries."""

import csv
import json
import pickle
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.preprocessing import MultiLabelBinarizer

from fastcam.data import read_labels
from fastcam.data.labels import split
from tests.support.files import write

NAMES = ("tabby, tabby cat", "Egyptian cat", "dog", "New York", "crane", "crane")
TOLD = {"a.jpg": (0, 2), "b/ü.jpg": (3,), "c.jpg": (), "d, e.jpg": (1, 2, 3)}

NUMBERS = """image_id,class_id
a.jpg,0
b/ü.jpg,3
c.jpg,[]
a.jpg,2
"d, e.jpg","[3, 1, 2]"
"""
WORDS = """note,path,labels
x,a.jpg,tabby;dog
y,b/ü.jpg,new_york
z,c.jpg,[]
,"d, e.jpg",egyptian cat | New York|dog
"""
PLAIN = 'a.jpg,2 0\nb/ü.jpg,3\nc.jpg,[]\n"d, e.jpg","1,2,3"\n'
JSON = """path,classes
a.jpg,"[""dog"", ""tabby""]"
b/ü.jpg,"[""New York""]"
c.jpg,[]
"d, e.jpg","[""Egyptian cat"", ""dog"", ""New York""]"
"""


@pytest.mark.parametrize("text", [NUMBERS, WORDS, PLAIN, JSON])
@pytest.mark.parametrize("code", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("name", ["l.csv", "l.CSV", "l.txt", "l"])
def test_texts(tmp_path, text, code, name):
    assert read_labels(write(tmp_path / name, text.encode(code)), NAMES) == TOLD
    assert read_labels(write(tmp_path / name, text.replace("\n", "\r\n").encode(code)), NAMES) == TOLD


def test_numbers_need_no_names(tmp_path):
    path = write(tmp_path / "l.csv", NUMBERS)
    assert read_labels(path) == read_labels(path, count=4) == read_labels(path, ("9", "8", "7", "6")) == TOLD


def test_tables_of_lists(tmp_path):
    rows = {"image_id": list(TOLD), "labels": list(map(list, TOLD.values()))}
    pq.write_table(pa.table(rows), tmp_path / "numbers.parquet")
    words = [[NAMES[place] for place in places] for places in TOLD.values()]
    pq.write_table(pa.table(rows | {"labels": words, "x": [1, 2, 3, 4]}), tmp_path / "names.parquet")
    frame = pd.DataFrame(rows).explode("labels").dropna()
    frame.rename(columns={"labels": "class_id"}).to_parquet(tmp_path / "rows.parquet")
    assert read_labels(tmp_path / "numbers.parquet") == TOLD
    assert read_labels(tmp_path / "names.parquet", NAMES) == TOLD
    assert read_labels(tmp_path / "rows.parquet") == {id: told for id, told in TOLD.items() if told}  # none: no row


def test_a_run_tells_classes(tmp_path):
    """A table as runs have it, with a row for each class."""
    pq.write_table(
        pa.table({"image_id": ["a", "a", "b"], "rank": [1, 2, 1], "class_id": [4, 1, 0]}), tmp_path / "b.parquet"
    )
    assert read_labels(tmp_path / "b.parquet") == {"a": (1, 4), "b": (0,)}


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_zeros_and_ones(tmp_path, kind, order):
    told = MultiLabelBinarizer(classes=range(6)).fit_transform(TOLD.values()).astype(kind, order=order)
    np.save(tmp_path / "l.npy", told)
    np.savez(tmp_path / "l.npz", ids=list(TOLD), labels=told)
    np.savez_compressed(tmp_path / "c.npz", ids=list(TOLD), labels=told, more=np.zeros(3))
    for path, ids in (("l.npy", list(TOLD)), ("l.npz", None), ("c.npz", None)):
        assert read_labels(tmp_path / path, NAMES, ids=ids) == read_labels(tmp_path / path, ids=ids) == TOLD
        assert read_labels(tmp_path / path, count=6, ids=ids) == TOLD


def test_columns_of_another_order(tmp_path):
    names = ("dog", "tabby", "New York", "egyptian cat")
    told = [[NAMES[place].split(",")[0].lower() for place in places] for places in TOLD.values()]
    array = MultiLabelBinarizer(classes=[name.lower() for name in names]).fit_transform(told)
    np.savez(tmp_path / "l.npz", ids=list(TOLD), labels=array, class_names=names)
    assert read_labels(tmp_path / "l.npz", NAMES) == TOLD
    for wrong, message in (
        (("dog", "tabby", "New York", "owl"), r"l\.npz: class_names\[3\]: no class 'owl'"),
        (("dog", "tabby", "New York", "crane"), r"class_names\[3\]: 'crane' may be class 4 .* or 5"),
        (("dog", "Dog", "New York", "tabby"), r"class_names\[1\]: 'dog' and 'Dog' are the same class, 2"),
        (("dog", "dog", "New York", "tabby"), "expected each of `class_names` once"),
        (names[:3], r"expected 0 and 1 \[4, 3\], a column for each class, got int64 \[4, 4\]"),
    ):
        np.savez(tmp_path / "l.npz", ids=list(TOLD), labels=array, class_names=wrong)
        with pytest.raises(ValueError, match=message):
            read_labels(tmp_path / "l.npz", NAMES)


def test_pictures_called_without_suffix(tmp_path):
    """As lists of the segmentation field do."""
    ids = ["JPEGImages/2007_000032.jpg", "JPEGImages/2007_000033.jpg", "x/a.png", "y/a.png"]
    np.savez(tmp_path / "l.npz", ids=["2007_000032", "x/a", "y/a.png", "nowhere"], labels=np.eye(4))
    told = {ids[0]: (0,), "x/a.png": (1,), "y/a.png": (2,), "nowhere": (3,)}
    assert read_labels(tmp_path / "l.npz", ids=ids) == told
    path = write(tmp_path / "l.csv", "a,1\n")  # the whole path but for the suffix, before what is in a folder
    assert read_labels(path, ids=["x/a.png", "a.jpg", "y/a.png"]) == {"a.jpg": (1,)}
    path = write(tmp_path / "l.csv", "a,1\n")
    with pytest.raises(ValueError, match=r"l\.csv: 'a' may be 'x/a\.png' or 'y/a\.png': give its path"):
        read_labels(path, ids=ids)
    path = write(tmp_path / "l.csv", "2007_000032,1\nJPEGImages/2007_000032,2\n")
    with pytest.raises(
        ValueError, match=r"'2007_000032' and 'JPEGImages/2007_000032' are both 'JPEGImages/2007_000032"
    ):
        read_labels(path, ids=ids)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"l\.csv is empty: expected lines `image_id,class_id`"),
        ("image_id,class_id\n", r"l\.csv is empty"),
        ("path,split\na,b\n", r"l\.csv:2: expected columns image_id and class_id, got path, split alone"),
        ("path,label,labels\na,0,0\n", r"l\.csv:1: expected columns path, .* each once"),
        ("a;0\n", r"l\.csv:1: expected 2 columns, got 1: 'a;0'"),
        ("a,0\nb,0,1\n", r"l\.csv:2: expected 2 columns, got 3: 'b,0,1'"),
        ("a,0\nb,\n", r"l\.csv:2: expected a label, got none; \[\] is a picture with none"),
        ("a,0\nb,6\n", r"l\.csv:2: no class 6: expected one of 6, counted from 0"),
        ("a,0\nb,1 6\n", r"l\.csv:2: no class 6"),
        ("a,0\nb,-1\n", r"l\.csv:2: no class '-1'"),
        ("a,0\nb,1.5\n", r"l\.csv:2: no class '1.5'"),
        ("a,dog\nb,dogs\n", r"l\.csv:2: no class 'dogs'; did you mean dog"),
        ("a,dog\nb,crane\n", r"l\.csv:2: 'crane' may be class 4 \('crane'\) or 5 \('crane'\): give its number"),
        (
            "a,dog\nb,tabby;2\n",
            r"l\.csv:2: expected names or numbers of classes, not both: 2 here, but 'dog' in",
        ),
        ("a,dog\nb,1\n", r"l\.csv:2: expected names or numbers of classes, not both: 1 here, but 'dog' in .*l\.csv:1"),
        ("a,dog;tabby;dog\n", r"l\.csv:1: expected each class once, got 'dog' 2 times"),
        ("a,1 2 1\n", r"l\.csv:1: expected each class once, got '1' 2 times in 1 2 1"),
        ("a,dog;Dog\n", r"l\.csv:1: 'dog' and 'Dog' are the same class, 2: expected each once"),
        ("a,dog\na,DOG\n", r"l\.csv:2: 'dog' and 'DOG' are the same class, 2"),
        ("a,dog;\n", r"l\.csv:1: expected a name at each place, got dog;"),
        (
            'a,"[""dog"", 2]"\n',
            r'l\.csv:1: expected names, or numbers, as \["cat", "dog"\] or \[0, 2\], got \["dog", 2\]',
        ),
        ("a,[1.0]\n", r"l\.csv:1: expected names, or numbers"),
        ("a,[true]\n", r"l\.csv:1: expected names, or numbers"),
        ("a,[null]\n", r"l\.csv:1: expected names, or numbers"),
        ("a,[dog]\n", r"l\.csv:1: expected names, or numbers"),
        ("a,[[1]]\n", r"l\.csv:1: expected names, or numbers"),
        ("a," + "[" * 100_000 + "\n", r"l\.csv:1: expected names, or numbers"),
        ("a,[" + "9" * 5000 + "]\n", r"l\.csv:1: expected names, or numbers"),
        ("a," + "9" * 5000 + "\n", r"l\.csv:1: no class '999"),
        (
            "a,0 1\nb,2\na,2\n",
            r"l\.csv:3: a has '2' here, but the list '0', '1' in .*l\.csv:1: expected one list, or a row",
        ),
        ("a,2\na,0 1\n", r"l\.csv:2: a has the list '0', '1' here, but '2' in .*l\.csv:1"),
        ("a,0 1\na,0 2\n", r"l\.csv:2: a has the list '0', '2' here, but the list '0', '1'"),
        ("a,[]\na,0\n", r"l\.csv:2: a has '0' here, but an empty list in .*l\.csv:1"),
        ("a,1\na,[]\n", r"l\.csv:2: a has an empty list here, but '1' in"),
        ('a,"dog\n', r"l\.csv:1: expected a row of CSV"),
    ],
)
def test_malformed_texts(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_labels(write(tmp_path / "l.csv", text), NAMES)


def test_the_same_row_twice_says_nothing_else(tmp_path):
    path = write(tmp_path / "l.csv", "a,2\nb,0 1\na,2\nb,1 0\na,2\n")
    assert read_labels(path) == {"a": (2,), "b": (0, 1)}


def test_names_without_those_of_the_classes(tmp_path):
    with pytest.raises(ValueError, match=r"l\.csv:1: no class 'dog': names need those of the classes"):
        read_labels(write(tmp_path / "l.csv", "a,dog\n"), count=6)
    with pytest.raises(ValueError, match=r"l\.csv:1: no class 2000000: expected one of 1048576"):
        read_labels(write(tmp_path / "l.csv", "a,2000000\n"))


def test_texts_of_another_encoding(tmp_path):
    with pytest.raises(ValueError, match="expected UTF-8, got UTF-16 by its byte order mark"):
        read_labels(write(tmp_path / "l.csv", "a,1\n".encode("utf-16")))
    with pytest.raises(ValueError, match=r"l\.csv:2: expected UTF-8"):
        read_labels(write(tmp_path / "l.csv", b"a,1\n\xff,2\n"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"image_id": ["a", "b"], "labels": [[0], None]}, r"row 1: expected a label, got none"),
        ({"image_id": ["a", "b"], "labels": [[0], [1, None]]}, r"row 1: expected names, or numbers"),
        ({"image_id": ["a", "b"], "labels": [[0.5], [1.5]]}, r"row 0: expected names, or numbers"),
        ({"image_id": ["a", "b"], "labels": [[b"x"], []]}, r"row 0: expected names, or numbers"),
        ({"image_id": ["a", "b"], "labels": [[[0]], []]}, r"row 0: expected names, or numbers"),
        (
            {"image_id": ["a", "a"], "labels": [[0], [1]]},
            r"row 1: a has the list '1' here, but the list '0' in .*row 0",
        ),
        ({"image_id": ["a", "b"], "labels": [[0], [6]]}, r"row 1: no class 6"),
        ({"image_id": ["a", "b"], "labels": [[0], [1, 1]]}, r"row 1: expected each class once"),
        ({"labels": [[0]]}, "expected columns path"),
    ],
)
def test_malformed_tables(tmp_path, rows, message):
    pq.write_table(pa.table(rows), tmp_path / "l.parquet")
    with pytest.raises(ValueError, match=r"l\.parquet: " + message):
        read_labels(tmp_path / "l.parquet", NAMES)


GOOD = np.eye(3, 6)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.eye(3, 5), r"expected 0 and 1 \[3, 6\], a column for each class, got float64 \[3, 5\]"),
        (np.eye(3, 7, dtype=bool), r"expected 0 and 1 \[3, 6\], a column for each class, got bool \[3, 7\]"),
        (np.eye(6)[0], r"expected 0 and 1 \[3, 6\], .* got float64 \[6\]"),
        (np.eye(4, 6), r"expected a row for each of 3 pictures, \[3, 6\], got \[4, 6\]"),
        (GOOD * 2, r"row 0 \(a\), column 0: expected 0 or 1, got 2\.0"),
        (np.where(GOOD > 0, np.nan, 0), r"row 0 \(a\), column 0: expected 0 or 1, got nan"),
        (np.full((3, 6), -1, np.int8), r"row 0 \(a\), column 0: expected 0 or 1, got -1"),
        (GOOD.astype(str), r"expected 0 and 1 \[3, 6\], .* got <U32 \[3, 6\]"),
        (GOOD.astype(complex), r"expected 0 and 1"),
        (np.zeros((3, 6), "M8[s]"), r"expected 0 and 1"),
    ],
)
def test_malformed_arrays(tmp_path, array, message):
    np.save(tmp_path / "l.npy", array)
    np.savez(tmp_path / "l.npz", ids=["a", "b", "c"], labels=array)
    for name in ("l.npy", "l.npz"):
        with pytest.raises(ValueError, match=rf"{name}: " + message):
            read_labels(tmp_path / name, NAMES, ids=["a", "b", "c"])


def test_arrays_of_objects_are_refused_with_what_to_do(tmp_path):
    told = {"2007_000032": np.eye(3)[0]}
    np.save(tmp_path / "cls_labels.npy", told, allow_pickle=True)
    np.savez(tmp_path / "l.npz", ids=["2007_000032"], labels=np.array([told], object))
    (tmp_path / "p.npy").write_bytes(pickle.dumps(told))
    for name in ("cls_labels.npy", "l.npz", "p.npy"):
        with pytest.raises(ValueError, match=rf"{name}: it holds Python objects, .* numpy\.savez\('labels\.npz'"):
            read_labels(tmp_path / name, ids=["2007_000032"])
    found = np.load(tmp_path / "cls_labels.npy", allow_pickle=True).item()
    np.savez(tmp_path / "labels.npz", ids=[str(id) for id in found], labels=list(found.values()))  # as it says
    assert read_labels(tmp_path / "labels.npz") == {"2007_000032": (0,)}


def test_damaged_archives(tmp_path):
    np.save(tmp_path / "l.npy", GOOD)
    np.savez(tmp_path / "l.npz", ids=["a", "b", "c"], labels=GOOD)
    for name in ("l.npy", "l.npz"):
        whole = (tmp_path / name).read_bytes()
        for content in (whole[:20], whole[:-60], b"", b"image_id,class_id\n", whole.replace(b"f8", b"f9")):
            (tmp_path / f"x{name[1:]}").write_bytes(content)
            with pytest.raises(ValueError, match=r"x\.np[yz]: "):
                read_labels(tmp_path / f"x{name[1:]}", ids=["a", "b", "c"])
    (tmp_path / "l.npz").rename(tmp_path / "z.npy")
    (tmp_path / "l.npy").rename(tmp_path / "y.npz")
    for name in ("z.npy", "y.npz"):
        with pytest.raises(ValueError, match=rf"{name}: "):
            read_labels(tmp_path / name, ids=["a", "b", "c"])
    for arrays in ({"ids": ["a"]}, {"labels": GOOD}, {"ids": [1, 2, 3], "labels": GOOD}, {"ids": "a", "labels": GOOD}):
        np.savez(tmp_path / "l.npz", **arrays)
        with pytest.raises(
            ValueError, match=r"l\.npz: expected `ids`, texts \[N\], and `labels`, 0 and 1 \[N, C\], got"
        ):
            read_labels(tmp_path / "l.npz")
    np.savez(tmp_path / "l.npz", ids=["a", "b", "a"], labels=GOOD)
    with pytest.raises(ValueError, match=r"l\.npz: `ids`: a comes 2 times"):
        read_labels(tmp_path / "l.npz")


def test_files_that_are_not_there(tmp_path):
    for name in ("l.csv", "l.npy", "l.npz", "l.parquet"):
        with pytest.raises(FileNotFoundError, match=rf"no file of classes at .*{name}"):
            read_labels(tmp_path / name, ids=[])
    np.save(tmp_path / "l.npy", GOOD)
    with pytest.raises(ValueError, match=r"l\.npy does not tell its pictures: expected `ids`"):
        read_labels(tmp_path / "l.npy")


def test_arrays_that_would_swell(tmp_path):
    with zipfile.ZipFile(tmp_path / "l.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        np.save(tmp_path / "ids.npy", ["a"])
        archive.write(tmp_path / "ids.npy", "ids.npy")
        with archive.open("labels.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(
                member, {"descr": "|b1", "fortran_order": False, "shape": (1, 300 << 20)}
            )
            for _ in range(300):
                member.write(bytes(1 << 20))
    assert (tmp_path / "l.npz").stat().st_size < 1 << 20
    with pytest.raises(ValueError, match=r"l\.npz: its arrays unpack to \d+ bytes"):
        read_labels(tmp_path / "l.npz")
    header = {"descr": "|b1", "fortran_order": False, "shape": (1 << 40, 1 << 20)}
    with (tmp_path / "l.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(ValueError, match=r"l\.npy: "):
        read_labels(tmp_path / "l.npy", ids=["a"])
    lists = pa.ListArray.from_arrays([0, 20 << 20], np.zeros(20 << 20, np.int32))
    pq.write_table(pa.table({"image_id": ["a"], "labels": lists}), tmp_path / "l.parquet", compression="zstd")
    with pytest.raises(ValueError, match=r"l\.parquet: \d+ values in \d+ bytes cannot be classes of pictures"):
        read_labels(tmp_path / "l.parquet")


names = st.text(st.characters(categories=("L", "N", "P", "Zs"), exclude_characters=";|["), min_size=1).map(
    lambda text: " ".join(text.split())
)
names = names.filter(lambda text: text and not text.replace(",", " ").replace(" ", "").isdigit())


@settings(max_examples=200, deadline=None)
@given(st.lists(names, min_size=2, unique=True), st.sampled_from([";", "|", " ; "]))
def test_what_is_joined_is_split_again(texts, separator):
    import unicodedata

    plain = [unicodedata.normalize("NFC", text) for text in texts]
    if len(set(plain)) == len(plain) and all(not set(text) & {"\u200b", "\u2060", "\ufeff"} for text in plain):
        assert split(separator.join(plain)) == tuple(plain)
        assert split(json.dumps(plain)) == split(json.dumps(plain, ensure_ascii=False)) == tuple(plain)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}\.jpg", fullmatch=True), st.sets(st.integers(0, 8)), min_size=1))
def test_all_forms_of_a_file_tell_the_same(tmp_path_factory, told):
    folder, expected = tmp_path_factory.mktemp("l"), {id: tuple(sorted(classes)) for id, classes in told.items()}
    with (folder / "lists.csv").open("w", newline="") as file:
        csv.writer(file).writerows([id, json.dumps(list(classes))] for id, classes in told.items())
    frame = pd.DataFrame({"image_id": list(told), "labels": [list(classes) for classes in told.values()]})
    frame["labels"] = frame["labels"].astype(pd.ArrowDtype(pa.list_(pa.int64())))
    frame.to_parquet(folder / "lists.parquet")
    array = MultiLabelBinarizer(classes=range(9)).fit_transform(told.values())
    np.savez(folder / "l.npz", ids=list(told), labels=array)
    np.save(folder / "l.npy", array)
    for name in ("lists.csv", "lists.parquet", "l.npz", "l.npy"):
        assert read_labels(folder / name, count=9, ids=list(told)) == expected
