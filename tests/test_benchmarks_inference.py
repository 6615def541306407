"""benchmarks.inference has a line for every file that can be made here."""

from benchmarks.speed import inference


def test_a_line_for_each_file(tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "there", lambda: ["numpy"])
    out = tmp_path / "table.md"
    inference.main(["--quick", "--backbones", "mlp", "--out", str(out)])
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in out.read_text().splitlines()
        if "| mlp" in line
    ]
    assert [line[1] for line in lines] == ["eager", "numpy"]
    assert lines[0][2].endswith(" ms") and float(lines[1][2]) > 0 and float(lines[1][4]) < 1e-12
