import base64
import json
import re
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from embodied.core.types import UserError
from embodied.report.html import write_report
from embodied.report.run import headline, read_run
from tests.report.lines import evaluation, phase

VOID = {"meta", "img", "br"}


class Balanced(HTMLParser):
    """Fails on tags that are not closed in order; keeps every address."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.text = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.addresses += [v for k, v in attrs if k in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(directory):
    text = write_report(directory).read_text()
    page = Balanced(text)
    return text, page, " ".join(" ".join(page.text).split())


def test_report_of_a_real_run_is_complete_and_self_contained(trained, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(trained, directory)
    (directory / "videos").mkdir()
    (directory / "videos" / "before.mp4").write_bytes(b"old")
    (directory / "videos" / "after.mp4").write_bytes(b"new")
    html, page, text = read(directory)
    assert page.addresses and all(a.startswith("data:") for a in page.addresses)
    assert "http" not in re.sub(r'src="[^"]*"', "", html)
    assert "<script" not in html
    assert "embodied train method=wsrl env=maze/point-v0 'note=<b>&'" in text
    videos = [a.split(",")[1] for a in page.addresses if a.startswith("data:video/mp4")]
    assert [base64.b64decode(v) for v in videos] == [b"old", b"new"]
    images = [a.split(",")[1] for a in page.addresses if a.startswith("data:image")]
    assert len(images) == 3
    for image in images:
        assert ElementTree.fromstring(base64.b64decode(image)).tag.endswith("svg")
    for heading in ("Learning curve", "Value estimates", "Videos", "Evaluations", "Settings"):
        assert heading in text
    assert "downward spiral" in text
    assert "Same initial states verified: before and after began from 4 equal" in text
    assert "method.discount" in text and "f00d" in text and "abc123" in text
    assert "1 (small networks)" in text
    assert "had not finished" not in text


def test_report_table_has_every_evaluation(trained, events):
    html, _, _ = read(trained)
    body = html.split("<h2>Evaluations</h2>")[1].split("</table>")[0]
    logged = [e for e in events if e["kind"] == "evaluation"]
    assert body.count("<tr") == 1 + len(logged)
    assert body.count('class="tag before"') == body.count('class="tag after"') == 1


def test_before_is_the_last_offline_evaluation_and_after_the_last(make_run):
    lines = [evaluation("offline", 1, 10), evaluation("offline", 2, 10), evaluation("online", 9)]
    run = read_run(make_run(lines))
    assert (run.before.successes, run.after.successes) == (2, 9)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (2, 19, ("rose from 10 % (2/20) to 95 % (19/20).", "are apart", "gain")),
        (19, 2, ("fell from 95 %", "are apart", "loss")),
        (10, 12, ("rose from 50 %", "overlap", "do not establish an improvement")),
        (12, 10, ("fell from 60 %", "overlap", "do not establish a loss")),
        (20, 20, ("stayed at 100 % (20/20", "No change")),
    ],
)
def test_headline_says_whether_the_intervals_are_apart(make_run, before, after, words):
    run = read_run(make_run([evaluation("offline", before, 20), evaluation("online", after, 20)]))
    text = " ".join(headline(run.before, run.after))
    assert all(word in text for word in words), text
    assert ("are apart" in text) == ("are apart" in words)


def test_report_without_evaluations_and_without_run_json(make_run):
    _, _, text = read(make_run([phase("online")]))
    assert "This run has no evaluation." in text
    assert "no run.json" in text
    assert "This run has no videos." in text


def test_report_of_an_empty_log(make_run):
    _, _, text = read(make_run([]))
    assert "had not finished" in text


def test_report_of_an_interrupted_run_ignores_a_torn_last_line(make_run):
    directory = make_run([phase("offline"), evaluation("offline", 3, 10, phase="warmup")])
    with open(directory / "log.jsonl", "a") as stream:
        stream.write('{"kind": "train", "st')
    _, _, text = read(directory)
    assert "The log ends in phase warmup" in text
    assert "Success after offline training: 30 % (3/10" in text


def test_report_without_an_offline_phase_has_no_before(make_run):
    lines = [
        phase("random"),
        phase("online", env_steps=50),
        evaluation("online", 5, 10, env_steps=100, phase="done"),
    ]
    html, _, text = read(make_run(lines))
    assert "Success after training: 50 % (5/10" in text
    assert "card before" not in html


def test_report_says_why_there_are_no_videos(make_run):
    directory = make_run([evaluation("online", 5, 10)])
    (directory / "videos").mkdir()
    (directory / "videos" / "unavailable.txt").write_text("no OpenGL <here>\n")
    assert "No videos: no OpenGL <here>" in read(directory)[2]


def test_report_says_when_initial_states_differ(make_run):
    before, after = evaluation("offline", 1, 4), evaluation("online", 4, 4)
    after["ledger"][2]["initial_state"] = "0" * 16
    _, _, text = read(make_run([before, after]))
    assert "1 of 4 episodes began from different first states" in text
    assert "verified" not in text
    assert "3 newly solved, 0 no longer solved, 1 unchanged" in text


def test_report_says_when_an_evaluation_has_other_episodes(make_run):
    lines = [evaluation("offline", 1, 4), evaluation("online", 4, 6)]
    assert "2 episodes are in one evaluation only" in read(make_run(lines))[2]


def test_report_lists_faults(make_run):
    fault = phase("online") | {"kind": "fault", "what": "update skipped: critic loss is nan"}
    _, _, text = read(make_run([fault]))
    assert "Faults (1)" in text and "critic loss is nan" in text


def test_values_that_are_not_finite_do_not_break_the_report(make_run):
    line = evaluation("online", 5, 10, env_steps=10)
    line["metrics"] |= {"probe/offline_q": "nan", "probe/offline_td": float("inf")}
    train = phase("online") | {"kind": "train", "metrics": {"critic/q_mean": "inf"}}
    _, _, text = read(make_run([line, train]))
    assert "5/10" in text or "5 of 10" in text


def test_missing_package_names_the_extra(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r'pip install "embodied\[report\]"'):
        write_report(trained)


def test_a_directory_without_a_log_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no log\.jsonl"):
        write_report(tmp_path)


def test_a_failed_report_leaves_the_old_one(make_run, monkeypatch):
    directory = make_run([phase("online")])
    path = write_report(directory)
    old = path.read_bytes()
    (directory / "config.json").write_text(json.dumps({"new": 1}))

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(directory)
    assert path.read_bytes() == old
    assert not list(directory.glob(".*tmp"))
