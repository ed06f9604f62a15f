import pytest

from embodied.report.page import Gate, Section, table, write_page

PNG = b"\x89PNG\r\n" + b"0" * 20
COMMON = {
    "title": "WSRL",
    "paper": "https://arxiv.org/abs/2412.07762",
    "summary": "Keeps what it learnt.",
    "command": "embodied reproduce wsrl",
    "seeds": [0, 1],
    "versions": {"torch": "2", "numpy": "1"},
}


def gate(holds):
    return Gate("dip at most 20 %", "measured 12 %", holds)


def test_page_with_gates_that_hold(tmp_path):
    section = Section("Dip", "Text.", ("arm", "dip"), [("wsrl", 0.123456)], (PNG, "dip"), [gate(1)])
    path = write_page(tmp_path / "methods" / "wsrl.md", sections=[section], **COMMON)
    text = path.read_text()
    assert "**Every gate holds (1 of 1).**" in text.split("## Dip")[0]
    assert "Seeds: 0, 1" in text and "Versions: numpy 1, torch 2" in text
    assert "| wsrl | 0.1235 |" in text
    assert "| dip at most 20 % | measured 12 % | yes |" in text
    assert "![Dip](figures/wsrl-dip.png)" in text
    assert (tmp_path / "methods" / "figures" / "wsrl-dip.png").read_bytes() == PNG
    first = path.read_bytes()
    assert write_page(path, sections=[section], **COMMON).read_bytes() == first


def test_failed_gates_are_named_at_the_top(tmp_path):
    sections = [Section("A", gates=[gate(True)]), Section("B", gates=[gate(False)])]
    text = write_page(tmp_path / "a.md", sections=sections, **COMMON).read_text()
    top = text.split("## A")[0]
    assert "1 of 2 gates do not hold" in top and "dip at most 20 %; measured: measured 12 %" in top
    assert "**no**" in text and "Every gate" not in text


def test_figures_that_do_not_belong_in_a_repository_are_refused(tmp_path):
    for figure, message in ((PNG + bytes(150_000), "at most"), (b"GIF89a", "neither")):
        with pytest.raises(ValueError, match=message):
            write_page(tmp_path / "a.md", sections=[Section("A", figure=(figure, "x"))], **COMMON)
    assert not (tmp_path / "a.md").exists()


def test_table_escapes_and_checks_its_rows():
    assert table(("a",), [("x|y\nz",)]).endswith("| x\\|y z |")
    with pytest.raises(ValueError, match="2 cells"):
        table(("a",), [(1, 2)])
