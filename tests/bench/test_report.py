# SPDX-License-Identifier: Apache-2.0
"""``deeplab-bench report`` in every format, of records with made-up figures."""

import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest
from deeplab_bench import command
from deeplab_bench.records import write_record
from deeplab_bench.reports import charts

from deeplab_infer.configs import reference_rows

from .records import HOSTILE, all_records, failed, measurement, peers_record, record, run_record, table_record

VOID = {"meta", "br", "hr", "img", "link"}


class Page(HTMLParser):
    """Checks that every element is closed where it should be, and collects what matters."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.addresses, self.words = [], [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        self.addresses += [value for name, value in attributes if name in ("href", "src", "xlink:href")]
        assert not any(name.startswith("on") for name in found)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def written(tmp_path):
    paths = {}
    for name, one in all_records().items():
        paths[name] = str(tmp_path / f"{name}.json")
        write_record(paths[name], one)
    return paths


def report(*arguments):
    return command.main(["-q", "report", *arguments])


def test_markdown_of_everything(written, capsys):
    assert report(*written.values()) == 0
    text = capsys.readouterr().out
    assert text.startswith("# Benchmark results\n")
    assert text.count("\n## ") == 1 + len(written)
    for line in text.splitlines():
        if line.startswith("| "):
            assert line.endswith(" |")
    for name in written:
        assert f"{name}.json" in text
    assert "OutOfMemoryError: MADE-UP" in text
    assert "tensorrt fp8, every row" in text


def test_tables_of_markdown_are_rectangular(written, capsys):
    report(*written.values())
    lines = capsys.readouterr().out.splitlines()
    width = None
    for line in lines:
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else None
        if cells is not None and width is not None:
            assert cells == width, line
        width = cells


def test_a_gpu_table_stands_beside_the_printed_figures_and_a_cpu_table_does_not(written, capsys):
    report(written["table"])
    on_gpu = capsys.readouterr().out
    report(written["table_cpu"])
    on_cpu = capsys.readouterr().out
    assert "over the printed" in on_gpu
    assert "over the printed" not in on_cpu
    assert "not comparable" in on_cpu
    assert on_cpu.index("Speed-up") < on_cpu.index("not comparable")
    for row in reference_rows()[:37]:
        assert row.name in on_gpu


def test_the_page_is_whole_and_needs_nothing_else(written, tmp_path):
    out = tmp_path / "report.html"
    assert report(*written.values(), "-o", str(out)) == 0
    text = out.read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags
    assert page.tags.count("svg") >= 6
    assert len(page.ids) == len(set(page.ids))
    assert all(address.startswith("#") or address.endswith(".json") for address in page.addresses)
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text)
    for target in [address[1:] for address in page.addresses if address.startswith("#")]:
        assert target in page.ids


@pytest.mark.parametrize("form", ["md", "html", "csv"])
def test_hostile_names_are_shown_not_obeyed(tmp_path, form):
    results = [measurement(HOSTILE, f"{HOSTILE} fp32", 3.0, seed) for seed in range(2)] + [failed(HOSTILE, HOSTILE)]
    path, out = tmp_path / "a.json", tmp_path / f"r.{form}"
    write_record(path, record("run", results, left_out=[{"name": HOSTILE, "reason": HOSTILE}]))
    assert report(str(path), "-o", str(out)) == 0
    text = out.read_text(encoding="utf-8")
    assert "\x1b" not in text
    if form == "html":
        page = Page(text)
        assert "script" not in page.tags
        assert any("<script>" in words for words in page.words)
        assert not any("javascript:" in address for address in page.addresses)
    elif form == "md":
        assert "<script>" not in text
        assert not re.search(r"(?<!\\)\]\(javascript:", text)
    else:
        assert len(list(csv.reader(io.StringIO(text)))) == 4


def test_csv_has_a_line_a_measurement(written, capsys):
    assert report(written["run"], written["kernels"], written["layers"], "--format", "csv") == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    kinds = [line["kind"] for line in lines]
    assert (kinds.count("run"), kinds.count("kernels"), kinds.count("layers")) == (4, 12, 30)
    first = next(line for line in lines if line["kind"] == "run")
    assert float(first["fps"]) == pytest.approx(1000 / float(first["end_to_end_median_ms"]))
    assert any(line["error"] for line in lines if line["kind"] == "run")


def test_json_holds_the_records(written, capsys):
    assert report(written["run"], written["table"], "--format", "json") == 0
    content = json.loads(capsys.readouterr().out)
    assert {one["kind"] for one in content["records"]} == {"run", "table"}


def test_all_formats_into_a_folder_and_again(written, tmp_path):
    folder = tmp_path / "out"
    for _ in range(2):
        assert report(written["run"], "-o", str(folder), "--format", "all") == 0
    assert sorted(path.name for path in folder.iterdir()) == [f"report.{x}" for x in ("csv", "html", "json", "md")]


def test_links_lead_from_the_report_to_its_files(written, tmp_path):
    (tmp_path / "sub").mkdir()
    report(written["run"], "-o", str(tmp_path / "sub" / "r.md"))
    assert "](../run.json)" in (tmp_path / "sub" / "r.md").read_text()


@pytest.mark.parametrize(
    ("name", "pictures"),
    [
        ("table", ("accuracy", "speed_up", "roofline")),
        ("table_cpu", ("speed_up", "roofline")),
        ("run", ("speed_up", "distribution")),
        ("peers", ("speed_up", "distribution")),
        ("layers", ("roofline",)),
    ],
)
def test_pictures_are_drawn_where_there_is_something_to_draw(name, pictures):
    for picture in pictures:
        draw = getattr(charts, picture)(all_records()[name])
        assert draw is not None, picture
        assert draw().axes


def test_an_interrupted_run_says_so(tmp_path, capsys):
    write_record(tmp_path / "a.json", run_record(complete=False))
    report(str(tmp_path / "a.json"))
    assert "interrupted" in capsys.readouterr().out


def test_records_without_a_figure(tmp_path, capsys):
    for name, one in (
        ("a", record("table", [failed("r", "p")])),
        ("b", peers_record(left_out=[])),
        ("c", record("run", [])),
    ):
        write_record(tmp_path / f"{name}.json", one)
    assert report(str(tmp_path), "-o", str(tmp_path / "r.html")) == 0
    Page((tmp_path / "r.html").read_text())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.json"], "no such file"),
        (["."], "no .json file in this folder"),
        (["a.json", "--format", "all"], "add -o FOLDER"),
        (["a.json", "-o", "report.txt"], "the suffix is none of"),
        (["a.json", "-o", "a.json", "--format", "json"], "the only file given is the report itself"),
        (["garbled.txt"], "not a result of deeplab-bench"),
    ],
)
def test_wrong_use(tmp_path, monkeypatch, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty" if arguments == ["."] else tmp_path)
    write_record(tmp_path / "a.json", table_record())
    (tmp_path / "garbled.txt").write_text("{")
    assert report(*arguments) == 2
    assert message in capsys.readouterr().err
