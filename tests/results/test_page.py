"""page: one file with everything inside; opened in a real browser with no network, where one is installed."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from segcli import formats
from segcli.errors import EngineError
from segcli.models.card import ModelCard, parse
from segcli.results.evaluate import compare, evaluate, rows, summarise
from segcli.results.measure import measure
from segcli.results.page import case_page, cohort_page, evaluation_page, niivue
from segcli.results.tissues import tissues
from segcli.space.volume import Grid, Volume
from segcli.structures import Label

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)">'
CARD: ModelCard = parse(
    {
        "format": 1,
        "name": "toy",
        "architecture": {"name": "pointwise.Pointwise"},
        "channels": ["MR"],
        "labels": {"background": 0, "left_box": 1, "right_box": 2, "absent": 3},
        "pairs": [["left_box", "right_box"]],
        "volumes_ml": {"left_box": [1, 20], "right_box": [1, 20]},
        "volumes_source": "made up",
        "patch_size": [8, 8, 8],
    }
)


def scan() -> tuple[Volume, Volume]:
    affine = np.eye(4)[[2, 1, 0, 3]] * 1.0
    affine[:3, :3] *= 2
    grid = Grid((20, 24, 28), affine)
    image = np.random.default_rng(0).normal(100, 10, (1, 20, 24, 28)).astype(np.float32)
    labels = np.zeros((1, 20, 24, 28), np.uint8)
    labels[0, 5:15, 6:16, 16:24] = 1
    labels[0, 5:15, 6:16, 4:10] = 2
    return Volume(image, grid), Volume(labels, grid)


def facts(case: str = "toy case") -> dict[str, Any]:
    image, labels = scan()
    return {
        "case": case,
        "model": {"name": "toy", "sha256": "ab" * 32},
        "labels": {"file": f"{Path(case).name}_seg.nii.gz"},
        "grid": {"shape": [20, 24, 28], "affine_lps": labels.grid.affine.tolist()},
        "structures": msgspec.to_builtins(measure(labels, CARD.labels, image).structures),
        "confidence": {"1": 0.81, "2": 0.35},
        "verdict": "review",
        "checks": [
            {"code": "confidence", "severity": "review", "structure": "right_box", "sentence": "the network was unsure"}
        ],
        "warnings": ["one slice was filled"],
        "run": {"seconds": {"read": 0.123}},
    }


def case(**changes: Any) -> str:
    return case_page(*scan(), CARD, facts() | changes).decode()


def addresses(html: str) -> list[str]:
    """Whatever the elements of a page refer to."""
    found: list[str] = []

    class Collect(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(v or "" for k, v in attrs if k in ("src", "href", "srcset", "action", "data", "poster"))

    Collect().feed(html)
    return found


def test_everything_is_inside_the_file() -> None:
    assert all(a.startswith("data:") for a in addresses(case()))
    assert "default-src 'none'" in case()
    assert "url(" not in case()
    assert "@import" not in case()


def test_warnings_come_before_pictures_and_tables() -> None:
    html = case()
    places = [html.index(x) for x in ("the network was unsure", "one slice was filled", "<figure", "<table", "<svg")]
    assert places == sorted(places)


def test_a_warning_of_the_run_is_a_note_and_says_nothing_of_the_verdict() -> None:
    html = case(verdict="pass", checks=[])
    (said,) = re.findall(r'<li class="(\w+)"><b>(.*?)</b>one slice was filled</li>', html)
    assert said == ("note", "note")
    assert "review" not in html.partition("<h2>Slices")[0].partition("<h1>")[2]


def test_the_pictures_are_there_without_scripts() -> None:
    html = re.sub(r"<script.*?</script>", "", case(), flags=re.DOTALL)
    assert html.count('src="data:image/png') == 3
    assert html.count('src="data:image/jpeg') == 6  # each slice with labels over it, and without


def test_a_pair_is_one_row_with_both_sides_and_its_asymmetry() -> None:
    row = next(r for r in case().split("<tr") if ">box<" in r)
    plain = re.sub(r"<[^>]*>", " ", row).split()
    assert [plain[i + 1] for i, word in enumerate(plain) if word in ("1", "2")] == ["left", "right"]
    assert plain.index("6.40") == plain.index("4.80") - 1  # 10 x 10 x 8 and x 6 voxels of 8 mm3
    assert "+28.6" in plain  # 1.6 mL over the mean of 5.6
    assert "1.00 to 20.0" in " ".join(plain)
    assert plain.index("0.81") == plain.index("0.35") - 1
    assert "confidence" in plain


def test_a_brain_has_the_sums_of_its_tissues_and_a_box_has_none() -> None:
    ml = {"left_cerebral_cortex": 200.0, "right_cerebral_cortex": 210.0, "left_cerebral_white_matter": 190.0,
          "brain_stem": 20.0, "left_ventral_dc": 5.0, "third_ventricle": 1.0, "csf": 2.0}  # fmt: skip
    assert tissues(ml) == {"total brain": 625.0, "grey matter": 410.0, "white matter": 190.0, "fluid": 3.0}
    assert tissues(ml | {"csf": 40.0}) == {
        "total brain": 625.0, "grey matter": 410.0, "white matter": 190.0, "fluid": 41.0, "intracranial": 666.0
    }  # fmt: skip
    assert "intracranial" not in tissues(ml | {"csf": 31.2})  # 5 % of the brain is 31.25
    assert tissues({"left_renal_cortex": 100.0, "liver": 1500.0}) == {}
    assert "total brain" not in case()


def test_the_slices_begin_in_the_middle_of_the_organ_and_reach_what_lies_far_away() -> None:
    image, labels = scan()
    labels.data[0, 0, 23, 0] = 3
    html = case_page(image, labels, CARD, facts()).decode()
    assert re.findall(r"<output>([^<]*)</output>", html)[0] == "18.0 mm S"  # plane 9 of 5 to 14, 2 mm each
    (_, text), *_ = [found for found in scripts(html) if found[0].get("id") == "slices"]
    assert json.loads(text)["axial"][0]["at"] == "0.0 mm S"


def test_names_from_outside_stay_text() -> None:
    html = case(case=HOSTILE, warnings=[HOSTILE])
    assert "<script>alert" not in html
    assert "onerror=&#34;alert" in html


def scripts(html: str) -> list[tuple[dict[str, str | None], str]]:
    """The attributes and the text of each script element, as a browser takes the page apart."""
    found: list[tuple[dict[str, str | None], str]] = []

    class Collect(HTMLParser):
        inside = False

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.inside = tag == "script"
            if self.inside:
                found.append((dict(attrs), ""))

        def handle_endtag(self, tag: str) -> None:
            self.inside = self.inside and tag != "script"

        def handle_data(self, data: str) -> None:
            if self.inside:
                found[-1] = (found[-1][0], found[-1][1] + data)

    Collect().feed(html)
    return found


@pytest.mark.parametrize("name", [HOSTILE, "<!-- <script>", 'a < b & c\'s "d"'])
def test_no_text_in_the_data_of_a_page_can_end_its_element(name: str) -> None:
    card = replace(CARD, labels=tuple(replace(x, name=name) if x.id == 1 else x for x in CARD.labels))
    html = case_page(*scan(), card, facts(), niivue="var niivue;").decode()
    data = {attrs["id"]: text for attrs, text in scripts(html) if attrs.get("type") == "application/json"}
    assert data.keys() == {"slices", "volumes"}
    assert json.loads(data["volumes"])["colours"]["labels"][1] == name.replace("_", " ")
    assert not any("<" in text for text in data.values())


def test_what_a_button_carries_is_whole_as_a_browser_takes_it_apart() -> None:
    carried: list[str | None] = []

    class Collect(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            carried.extend(value for name, value in attrs if name == "data-go")

    Collect().feed(case())
    assert carried
    assert all(set(json.loads(value or "")) == {"axial", "coronal", "sagittal"} for value in carried)


def test_the_same_record_gives_the_same_bytes_whatever_the_run_took() -> None:
    assert case() == case(run={"seconds": {"read": 99.0}})


def test_structures_absent_from_the_map_are_listed() -> None:
    assert any('class="absent"' in r and ">absent<" in r and "<div>0</div>" in r for r in case().split("<tr"))


def test_a_cohort_lists_what_to_look_at_first_and_links_to_the_cases() -> None:
    html = cohort_page([facts("a") | {"verdict": "pass"}, facts("sub/b c"), facts("d") | {"verdict": "fail"}]).decode()
    links = ["./d_seg.html", "./sub/b%20c_seg.html", "./a_seg.html"]
    assert re.findall(r'href="(\./[^"]*)"', html) == links * 2  # the verdicts, and the volumes of each case
    assert "3 of 3" in html


def test_a_note_is_shown_and_is_no_doubt() -> None:
    note = {"code": "volume", "severity": "note", "structure": "left_box", "sentence": "a little more than usual"}
    assert '<li class="note"><b>note: volume</b>a little more than usual</li>' in case(checks=[note])
    html = cohort_page([facts("a") | {"checks": [note]}, facts("b")]).decode()
    assert "a little more than usual" not in html


def test_a_cohort_has_a_dot_for_each_case() -> None:
    html = cohort_page([facts("a"), facts("b")]).decode()
    assert html.count("<circle") == 4  # two cases, two structures that are there


def test_an_evaluation_states_its_rule_and_shows_interval_and_p() -> None:
    _, ref = scan()
    pred = Volume(np.roll(ref.data, 1, axis=1), ref.grid)
    first = {"a": evaluate(pred, ref, CARD.structures), "b": evaluate(ref, ref, CARD.structures)}
    second = {"a": evaluate(ref, ref, CARD.structures), "b": evaluate(ref, ref, CARD.structures)}
    document = {"tolerance_mm": 1.0, "scores": rows(first, {}), "summary": summarise(first)}
    html = evaluation_page(document | {"difference": compare(first, second)}).decode()
    assert "never scores better for being left out" in html
    assert "0.900 to 1.000" in html  # 9 of 10 slices overlap in one case, all in the other
    assert "p 1.000" in html
    assert all(a.startswith("data:") for a in addresses(html))


WIDGET = """let v;class t2{};var Ih={async initialize({model:A}){if(!v){console.log("Creating new Niivue instance");\
let B=A.get("opts")??{},C=Yg(B);v=new t2(C)}return v}};export{Ih as default};
"""


def test_niivues_class_is_taken_out_of_the_widget_that_it_comes_in() -> None:
    assert niivue.adapted(WIDGET) == WIDGET[: WIDGET.index("export")] + "globalThis.niivue={Niivue:t2};"
    for other in ("", WIDGET.replace("Creating", "Making"), WIDGET.replace("export", "expert")):
        with pytest.raises(EngineError, match="this version of ipyniivue is not known"):
            niivue.adapted(other)


def test_without_niivue_the_viewer_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(niivue, "distribution", absent)
    monkeypatch.setattr(niivue, "BUILT", "absent.js.gz")
    with pytest.raises(EngineError, match="NiiVue, is not in this installation") as refused:
        niivue.script.__wrapped__()
    assert refused.value.hint == "pip install ipyniivue"


def test_with_niivue_the_page_holds_it_and_both_volumes() -> None:
    html = case_page(*scan(), CARD, facts(), niivue="var niivue = '</script>';").decode()
    assert "var niivue = '<\\/script>';" in html
    assert 'id="viewer"' in html
    nib = pytest.importorskip("nibabel", reason="nibabel is not installed")
    volumes = json.loads(re.search(r'id="volumes">(.*?)</script>', html)[1])  # type: ignore[index]
    labels = nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(volumes["labels"])))
    _, ours = scan()
    assert np.array_equal(np.asarray(labels.dataobj).transpose(2, 1, 0), ours.data[0])
    corner = labels.affine @ [27, 0, 0, 1]  # i = 27 is the last W, which points left
    assert corner[:3].tolist() == [-54, 0, 0]


def held(image: Volume, labels: Volume, name: str, folder: Path) -> Volume:
    """A volume that the page of a scan gives to the viewer, read as any file is."""
    html = case_page(image, labels, CARD, facts(), niivue="var niivue;").decode()
    volumes = json.loads(re.search(r'id="volumes">(.*?)</script>', html)[1])  # type: ignore[index]
    (folder / "held.nii.gz").write_bytes(base64.b64decode(volumes[name]))
    return formats.read([folder / "held.nii.gz"])


@pytest.mark.parametrize("name", ["image", "labels"])
def test_the_viewers_volumes_have_the_grid_of_the_scan(tmp_path: Path, name: str) -> None:
    image, labels = scan()
    c, s = np.cos(0.3), np.sin(0.3)
    turned = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ labels.grid.affine
    sheared = turned @ np.array([[1, 0, 0, 3], [0.2, 1, 0, 0], [0, 0, 1, -5], [0, 0, 0, 1]])
    for affine in (labels.grid.affine, turned, sheared):
        grid = Grid(labels.grid.shape, affine)
        there = held(Volume(image.data, grid), Volume(labels.data, grid), name, tmp_path)
        assert there.grid.same_as(grid)


def test_of_a_long_scan_the_viewer_gets_every_second_slice_where_it_lies(tmp_path: Path) -> None:
    grid = Grid((202, 4, 4), np.eye(4))
    labels = np.zeros((1, 202, 4, 4), np.uint8)
    labels[0, 100] = 2
    there = held(Volume(labels.astype(np.float32), grid), Volume(labels, grid), "labels", tmp_path)
    assert there.grid.same_as(Grid((101, 4, 4), np.diag([2.0, 1, 1, 1])))
    assert np.flatnonzero(there.data[0].any((1, 2))).tolist() == [50]


# ---- in a browser --------------------------------------------------------------------------------------------------


class Browser:
    """Headless Chromium spoken to through a pair of pipes: JSON messages that end in a zero byte.

    No name is resolved, so nothing can be loaded from a network; every request and every console message is kept.
    """

    def __init__(self, program: str, profile: Path) -> None:
        to_read, self.to = os.pipe()
        self.source, from_write = os.pipe()

        def connect() -> None:
            a, b = os.dup(to_read), os.dup(from_write)
            os.dup2(a, 3)
            os.dup2(b, 4)

        self.process = subprocess.Popen(
            [
                program, "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking",
                "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND", "--use-angle=swiftshader",
                "--enable-unsafe-swiftshader", f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank",
            ],
            preexec_fn=connect, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_read)
        os.close(from_write)
        self.count, self.buffer = 0, b""
        self.requests: list[str] = []
        self.complaints: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self.send(method, self.session, **params)

    def send(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        self.count += 1
        message = {"id": self.count, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.count:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def receive(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            piece = os.read(self.source, 1 << 20)
            assert piece, "the browser ended"
            self.buffer += piece
        line, self.buffer = self.buffer.split(b"\0", 1)
        message = json.loads(line)
        params = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        if message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        if message.get("method") == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(params["args"]))
        if message.get("method") == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(str(params["entry"]))
        return message

    def open(self, path: Path) -> None:
        self.requests.clear()
        self.complaints.clear()
        self.call("Page.navigate", url=path.as_uri())
        while self.run("document.readyState") != "complete":
            pass

    def run(self, code: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, code: int) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def fetched(self) -> list[str]:
        return [u for u in self.requests if not u.startswith(("data:", "blob:", "file:", "about:"))]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        os.close(self.to)
        os.close(self.source)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine")
    opened = Browser(program, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Browser:
    path = tmp_path / "case.html"
    path.write_bytes(case_page(*scan(), CARD, facts()))
    browser.open(path)
    return browser


def test_a_browser_loads_nothing_and_does_not_complain(opened: Browser) -> None:
    opened.run("new Promise((done) => setTimeout(done, 300))")
    assert opened.fetched() == []
    assert [u for u in opened.requests if u.startswith("file:")] == [opened.run("location.href")]
    assert opened.complaints == []


def test_hostile_names_run_nothing(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "hostile.html"
    path.write_bytes(case_page(*scan(), CARD, facts() | {"case": HOSTILE, "warnings": [HOSTILE], "note": HOSTILE}))
    browser.open(path)
    assert browser.run("document.querySelectorAll('img[src=x]').length") == 0
    assert browser.complaints == []


def test_a_slider_moves_by_key_and_changes_the_slice(opened: Browser) -> None:
    state = "[document.querySelector('figure img').src, document.querySelector('figure output').textContent]"
    before = opened.run(state)
    opened.run("document.querySelector('figure input').focus()")
    opened.press("ArrowRight", 39)
    after = opened.run(state)
    assert after[0] != before[0]
    assert after[1] != before[1]


def test_every_control_is_reached_by_tab(opened: Browser) -> None:
    want = opened.run("document.querySelectorAll('input:not([disabled]), button, summary, .scroll').length")
    opened.run("window.seen = new Set(); addEventListener('focusin', (e) => seen.add(e.target)); document.body.focus()")
    for _ in range(want + 5):
        opened.press("Tab", 9)
    assert opened.run("seen.size") == want


def test_a_heading_sorts_by_number_and_says_so(opened: Browser) -> None:
    opened.run("[...document.querySelectorAll('th button')].find((b) => b.textContent === 'mL').click()")
    first = "document.querySelector('tbody tr').textContent"
    assert "left" in opened.run(first)  # 6.40 mL, the most
    assert opened.run("document.querySelectorAll('th[aria-sort=descending]').length") == 1
    opened.run("[...document.querySelectorAll('th button')].find((b) => b.textContent === 'mL').click()")
    assert "absent" in opened.run(first)


def test_a_structures_name_goes_to_its_slice(opened: Browser) -> None:
    opened.run("[...document.querySelectorAll('td button')].find((b) => b.textContent === '1').click()")
    assert (
        opened.run("document.querySelectorAll('figure')[2].querySelector('output').textContent") == "38.0 mm L"
    )  # its middle is at 39


def test_light_and_dark_are_both_readable(opened: Browser) -> None:
    for scheme in ("light", "dark"):
        opened.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        for where in ("body", "li.review", "dt", "td button", ".flag.review", "caption"):
            assert opened.run(CONTRAST % where) >= 4.5, (scheme, where)
    opened.call("Emulation.setEmulatedMedia", features=[])


def test_print_shows_pictures_and_tables_without_controls(opened: Browser) -> None:
    opened.call("Emulation.setEmulatedMedia", media="print")
    shown = "getComputedStyle(document.querySelector('%s')).display"
    assert opened.run(shown % ".controls") == "none"
    assert opened.run(shown % "figure") != "none"
    assert opened.run("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert opened.run("getComputedStyle(document.querySelector('tbody tr')).breakAfter") == "avoid"  # no row alone
    assert opened.run(shown % "caption .screen") == "none"  # nobody clicks on paper
    assert opened.run(shown % "th button") == "contents"  # a heading that holds a button is not on each sheet
    opened.call("Emulation.setEmulatedMedia", media="")


def pages() -> dict[str, bytes]:
    """A page of each kind."""
    _, ref = scan()
    scores = {"a": evaluate(ref, ref, CARD.structures)}
    return {
        "case": case_page(*scan(), CARD, facts()),
        "cohort": cohort_page([facts("a"), facts("b")]),
        "two": cohort_page([facts("a"), facts("b") | {"model": {"name": "other", "sha256": "cd" * 32}}]),
        "evaluation": evaluation_page({"tolerance_mm": 1.0, "scores": rows(scores, {}), "summary": summarise(scores)}),
    }


def test_cohort_and_evaluation_do_not_complain_either(browser: Browser, tmp_path: Path) -> None:
    for name, data in pages().items():
        (tmp_path / f"{name}.html").write_bytes(data)
        browser.open(tmp_path / f"{name}.html")
        browser.run("document.querySelector('th button').click()")
        assert browser.fetched() == []
        assert browser.complaints == []


def test_a_cohort_is_filtered_by_words_and_by_verdict(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "cohort.html").write_bytes(cohort_page([facts("a") | {"verdict": "pass"}, facts("b"), facts("c")]))
    browser.open(tmp_path / "cohort.html")
    shown = (
        "[...document.querySelectorAll('tr[data-verdict]')].filter((r) => !r.hidden).map((r) => r.cells[0].innerText)"
    )
    enter = "(() => { const at = document.querySelector('%s'); at.value = '%s'; "
    enter += "at.dispatchEvent(new Event('input', { bubbles: true })); })()"
    assert browser.run(shown) == ["b", "c", "a"] * 2
    browser.run(enter % ("#only", "review"))
    assert browser.run(shown) == ["b", "c"] * 2
    browser.run(enter % ("#find", "C"))
    assert browser.run(shown) == ["c"] * 2
    assert browser.run("document.querySelector('.filter output').textContent") == "1 of 3 cases"


def test_a_phone_scrolls_tables_and_never_the_page(browser: Browser, tmp_path: Path) -> None:
    browser.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
    for name, data in pages().items():
        (tmp_path / f"{name}.html").write_bytes(data)
        browser.open(tmp_path / f"{name}.html")
        assert browser.run("document.documentElement.scrollWidth") == 390, name
    browser.call("Emulation.clearDeviceMetricsOverride")


def test_on_paper_no_column_is_cut_off(browser: Browser, tmp_path: Path) -> None:
    """A sheet of A4 between its margins is 718 pixels wide, and nothing scrolls on it."""
    _, ref = scan()
    long = [Label(1, "a_very_long_name_of_a_structure_" * 3), *CARD.structures[1:]]
    case = "case_0123456_of_a_site_with_a_long_name"
    scores = {case: evaluate(ref, ref, long)}
    made = {
        "evaluation": evaluation_page({"tolerance_mm": 1.0, "scores": rows(scores, {}), "summary": summarise(scores)}),
        "cohort": cohort_page([facts(f"site/{case}/{case}/{case}"), facts("b")]),
    }
    browser.call("Emulation.setDeviceMetricsOverride", width=718, height=1000, deviceScaleFactor=1, mobile=False)
    browser.call("Emulation.setEmulatedMedia", media="print")
    for name, data in made.items():
        (tmp_path / f"{name}.html").write_bytes(data)
        browser.open(tmp_path / f"{name}.html")
        assert browser.run("document.documentElement.scrollWidth") == 718, name
    browser.call("Emulation.setEmulatedMedia", media="")
    browser.call("Emulation.clearDeviceMetricsOverride")


AXE = Path(os.environ.get("SEGCLI_TEST_AXE", "node_modules/axe-core/axe.min.js"))


@pytest.mark.skipif(not AXE.is_file(), reason="no axe-core here: npm install axe-core, or SEGCLI_TEST_AXE=axe.min.js")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_that_hinders_anybody(browser: Browser, tmp_path: Path, scheme: str) -> None:
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    for name, data in pages().items():
        (tmp_path / f"{name}.html").write_bytes(data)
        browser.open(tmp_path / f"{name}.html")
        browser.run("for (const part of document.querySelectorAll('details')) part.open = true")
        browser.run(AXE.read_text(encoding="utf-8"))
        found = browser.run("axe.run().then((r) => r.violations.map((v) => [v.id, v.nodes[0].html]))")
        assert found == [], name
    browser.call("Emulation.setEmulatedMedia", features=[])


def test_the_interactive_viewer_starts_without_a_request(browser: Browser, tmp_path: Path) -> None:
    try:
        shown = niivue.script()
    except EngineError as error:
        pytest.skip(error.message)
    path = tmp_path / "viewer.html"
    path.write_bytes(case_page(*scan(), CARD, facts(), shown))
    browser.open(path)
    browser.run("document.querySelector('#viewer button').click()")
    while (state := browser.run("document.getElementById('viewer').dataset.state")) is None:
        browser.run("new Promise((done) => setTimeout(done, 100))")
    assert state == "ready", browser.run("document.querySelector('#viewer p[role=status]').textContent")
    assert browser.fetched() == []
    assert [c for c in browser.complaints if "GPU stall" not in c] == []


# The contrast of an element's text with what lies behind it, as WCAG 2 defines it.
CONTRAST = """(() => {
  let at = document.querySelector('%s');
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const ink = rgb(getComputedStyle(at).color);
  let paper = [0, 0, 0, 0];
  for (; at && (paper.length > 3 && paper[3] === 0); at = at.parentElement)
    paper = rgb(getComputedStyle(at).backgroundColor);
  const light = (c) => c.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const [a, b] = [light(ink), light(paper)].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
})()"""


def test_the_pictures_of_all_views_have_one_size_so_that_they_are_shown_in_one_scale() -> None:
    html = case_page(*scan(), CARD, facts()).decode()
    inside = re.findall(r'src="data:image/(?:jpeg|png);base64,([^"]+)"', html)
    assert len(inside) == 9
    assert {Image.open(io.BytesIO(base64.b64decode(data))).size for data in inside} == {(320, 274)}
