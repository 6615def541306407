"""Tables: what is read is what was written; all else is one line that names the file, the line and the column."""

import numpy as np
import pytest
from conftest import one_line

from kanpde.ground.errors import ConfigError
from kanpde.records import columns


def csv(tmp_path, text, name="t.csv", **options):
    path = tmp_path / name
    path.write_text(text, newline="", **{"encoding": "utf-8", **options})
    return path


def npz(tmp_path, **arrays):
    path = tmp_path / "t.npz"
    np.savez(path, **arrays)
    return path


def test_awkward_csv(tmp_path):
    """A byte order mark, Windows line ends, quotes, a comma in a name, spaces, blank lines, exponents."""
    text = '\ufeff"Temp (C)", p [Pa] ,"Flow, total"\r\n1,2e6,-3\r\n\r\n +4.5 ,"5",.6\r\n , ,\r\n'
    path = csv(tmp_path, text)
    assert columns.names(path) == ["Temp (C)", "p [Pa]", "Flow, total"]
    found = columns.read(path)
    assert list(found) == columns.names(path) and all(c.dtype == np.float64 for c in found.values())
    assert [c.tolist() for c in found.values()] == [[1, 4.5], [2e6, 5], [-3, 0.6]]
    assert list(columns.read(path, ["Flow, total", "Temp (C)"])) == ["Flow, total", "Temp (C)"]


def test_upper_case_endings_are_read(tmp_path):
    assert columns.names(csv(tmp_path, "a\n1\n", "T.CSV")) == ["a"]


@pytest.mark.parametrize("cell", ["", "NA", "n/a", "NaN", "null"])
def test_missing_numbers_are_nan(tmp_path, cell):
    assert np.isnan(columns.read(csv(tmp_path, f"a,b\n{cell},1\n2,3\n"))["a"]).tolist() == [True, False]


def test_text_matters_only_in_the_columns_that_are_asked_for(tmp_path):
    path = csv(tmp_path, "name,a\nfoo,1\nbar,2\n")
    assert columns.read(path, ["a"])["a"].tolist() == [1, 2]
    found = columns.as_written(path)
    assert found["name"].tolist() == ["foo", "bar"] and found["a"].tolist() == ["1", "2"]


def test_written_numbers_are_read_back_bit_for_bit(tmp_path):
    generator = np.random.default_rng(0)
    given = {"a, b": generator.normal(size=50) * 10.0 ** generator.integers(-300, 300, 50), 'say "u"': np.arange(50.0)}
    columns.write(tmp_path / "out.csv", given)
    found = columns.read(tmp_path / "out.csv")
    assert list(found) == list(given) and all(np.array_equal(found[name], given[name]) for name in given)
    again = columns.as_written(tmp_path / "out.csv")
    columns.write(tmp_path / "again.csv", again)
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "out.csv").read_bytes()


def test_npz_of_columns_and_of_a_matrix(tmp_path):
    x = np.arange(6).reshape(3, 2)
    found = columns.read(npz(tmp_path, x=x, y=np.float32([1, 2, 3]), flag=np.array([True, False, True])))
    assert {name: c.tolist() for name, c in found.items()} == {
        "x1": [0, 2, 4],
        "x2": [1, 3, 5],
        "y": [1, 2, 3],
        "flag": [1, 0, 1],
    }
    assert all(c.dtype == np.float64 for c in found.values())


BAD_CSV = {
    "empty": ("", "the file is empty"),
    "blank": ("\n \n", "the file is empty"),
    "names alone": ("a,b\n", "no rows below"),
    "ragged": ("a,b\n1,2\n\n3\n", "line 4 has 1 cells, the first line names 2"),
    "too many": ("a,b\n1,2,3\n", "line 2 has 3 cells, the first line names 2"),
    "text": ("a,b\n1,2\n\n3,x7\n", "line 4, column b: 'x7' is no number"),
    "twice": ("a,b,a\n1,2,3\n", "two columns are named 'a'"),
    "semicolons": ("a;b\n1;2\n", "separated by commas, the first line is 'a;b'"),
    "no names": ("1.5,2\n3,4\n", "the first line has the names"),
    "a quote that does not end": ('a,b\n"1,2\n', "line 3|line 2"),
}


@pytest.mark.parametrize("case", BAD_CSV, ids=list(BAD_CSV))
def test_bad_csv_is_one_line(tmp_path, case):
    text, says = BAD_CSV[case]
    path = csv(tmp_path, text)
    with pytest.raises(ConfigError, match=says) as info:
        columns.read(path)
    assert one_line(info).startswith(str(path))


def test_other_encodings_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="utf-8") as info:
        columns.read(csv(tmp_path, "Temp (°C)\n1\n", encoding="latin-1"))
    one_line(info)


def test_wrong_column_names_the_nearest(tmp_path):
    path = csv(tmp_path, "Temp (C),p,y\n1,2,3\n")
    with pytest.raises(ConfigError, match=r"no column 'Temp \[C\]'; did you mean Temp \(C\)\? \(columns: Temp") as info:
        columns.read(path, ["p", "Temp [C]"])
    one_line(info)


@pytest.mark.parametrize("name", ["none.csv", "t.xlsx", "folder.csv"])
def test_what_is_no_table_is_refused(tmp_path, name):
    (tmp_path / "t.xlsx").write_text("")
    (tmp_path / "folder.csv").mkdir()
    for call in (columns.read, columns.names, columns.as_written):
        with pytest.raises(ConfigError, match="no such file|ending in .csv or .npz") as info:
            call(tmp_path / name)
        one_line(info)


BAD_NPZ = {
    "lengths": ({"a": np.ones(3), "b": np.ones(4)}, r"one number per row in each array, given are a \(3,\), b \(4,\)"),
    "a number": ({"a": np.float64(3)}, r"a \(\)"),
    "three axes": ({"a": np.ones((2, 3, 4))}, r"a \(2, 3, 4\)"),
    "text": ({"a": np.array(["x"]), "b": np.ones(1)}, "array a"),
    "objects": ({"b": np.ones(1), "a": np.array([None])}, "array a"),
    "complex": ({"a": np.array([1j])}, "array a"),
    "nothing": ({}, "empty"),
    "no rows": ({"a": np.ones(0)}, "no rows"),
    "twice": ({"x": np.ones((3, 2)), "x2": np.ones(3)}, "two columns are named 'x2'"),
}


@pytest.mark.parametrize("case", BAD_NPZ, ids=list(BAD_NPZ))
def test_bad_npz_is_one_line(tmp_path, case):
    arrays, says = BAD_NPZ[case]
    path = npz(tmp_path, **arrays)
    with pytest.raises(ConfigError, match=says) as info:
        columns.read(path)
    assert one_line(info).startswith(str(path))


@pytest.mark.parametrize("content", ["nothing", "text", "cut", "one array"])
def test_files_that_are_no_npz_are_one_line(tmp_path, content):
    path = npz(tmp_path, a=np.arange(1000.0))
    whole = path.read_bytes()
    if content == "one array":
        with path.open("wb") as file:
            np.save(file, np.ones(3))
    else:
        path.write_bytes({"nothing": b"", "text": b"a,b\n1,2\n", "cut": whole[: len(whole) // 2]}[content])
    with pytest.raises(ConfigError, match="cannot be read as NPZ") as info:
        columns.read(path)
    one_line(info)
