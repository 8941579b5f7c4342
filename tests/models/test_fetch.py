"""Downloads against a real server on loopback that does what servers do."""

import hashlib
import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from runs import inside
from servers import BODY, SUM, Server, serving

from segcli.documents import content_of
from segcli.errors import DownloadFailed, OutputError, UsageError
from segcli.models import fetch as room
from segcli.models.addresses import addresses, file_name
from segcli.models.fetch import fetch
from segcli.models.locks import alone


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(room, "_WAIT", 0.01)
    for name in ("SEGCLI_OFFLINE", "HF_HUB_OFFLINE", "SEGCLI_MIRROR", "HF_ENDPOINT", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield from serving(Server())


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"sums.json"}


@pytest.mark.parametrize(
    "plan",
    [
        [],
        ["break"],
        ["break", "break", "break"],
        ["500", "break", "503"],
        ["redirect"],
        ["no length"],
        ["lies"],
        ["break", "no ranges"],
        ["429", ""],
    ],
    ids=" ".join,
)
def test_whatever_a_server_does_the_file_is_whole(server: Server, tmp_path: Path, plan: list[str]) -> None:
    server.plan = list(plan)
    got = fetch([server.address], tmp_path, wanted=f"sha256:{SUM}")
    assert (got.path.read_bytes(), got.sha256, got.known) == (BODY, SUM, True)
    assert leftovers(tmp_path) == {"model.zip"}


def test_a_download_that_broke_off_goes_on_where_it_ended(server: Server, tmp_path: Path) -> None:
    server.plan = ["break"]
    fetch([server.address], tmp_path)
    first, second = server.seen
    assert "Range" not in first
    assert second["Range"] == f"bytes={len(BODY) // 3}-"
    assert second["If-Range"] == server.etag


def test_a_later_run_goes_on_too(server: Server, tmp_path: Path) -> None:
    server.plan = ["break", "404"]
    with pytest.raises(DownloadFailed, match="the server answers 404"):
        fetch([server.address], tmp_path)
    assert fetch([server.address], tmp_path).path.read_bytes() == BODY
    assert server.seen[-1]["Range"] == f"bytes={len(BODY) // 3}-"


def test_a_file_that_changed_meanwhile_is_fetched_from_its_beginning(server: Server, tmp_path: Path) -> None:
    server.plan = ["break", "404"]
    with pytest.raises(DownloadFailed):
        fetch([server.address], tmp_path)
    server.etag, server.body = '"two"', BODY[::-1]
    assert fetch([server.address], tmp_path).path.read_bytes() == BODY[::-1]


def test_what_is_there_is_no_beginning_of_a_file_that_became_shorter(server: Server, tmp_path: Path) -> None:
    server.plan = ["break", "404"]
    with pytest.raises(DownloadFailed):
        fetch([server.address], tmp_path)
    server.body = BODY[:1000]  # under the same mark: the range lies beyond its end
    assert fetch([server.address], tmp_path).path.read_bytes() == BODY[:1000]


@pytest.mark.parametrize("code", ["404", "403", "410"])
def test_an_answer_that_will_not_change_is_not_asked_for_again(server: Server, tmp_path: Path, code: str) -> None:
    server.plan = [code]
    with pytest.raises(DownloadFailed, match=code) as error:
        fetch([server.address], tmp_path)
    assert len(server.seen) == 1
    assert server.address in str(error.value.message)
    assert "bring it as model.zip into a folder here" in str(error.value.hint)


def test_a_server_that_is_always_busy_is_asked_four_times(server: Server, tmp_path: Path) -> None:
    server.plan = ["500"] * 9
    with pytest.raises(DownloadFailed, match="500"):
        fetch([server.address], tmp_path)
    assert len(server.seen) == 4


@pytest.mark.parametrize("text", ["[" * 100_000, "{", ""])
def test_a_note_that_cannot_be_read_says_nothing(tmp_path: Path, text: str) -> None:
    note = tmp_path / "sums.json"
    note.write_text(text)
    assert content_of(note) is None
    assert dict(room._sums(tmp_path)) == {}


def test_other_bytes_than_stated_are_dropped_and_both_sums_are_named(server: Server, tmp_path: Path) -> None:
    server.plan = ["other bytes"]
    with pytest.raises(DownloadFailed, match=SUM) as error:
        fetch([server.address], tmp_path, wanted=f"sha256:{SUM}")
    assert hashlib.sha256(bytes(len(BODY))).hexdigest() in error.value.message
    assert leftovers(tmp_path) == set()


def test_a_sum_of_another_kind_is_compared_too(server: Server, tmp_path: Path) -> None:
    good = f"sha1:{hashlib.sha1(BODY).hexdigest()}"
    assert fetch([server.address], tmp_path, wanted=good).sha256 == SUM
    with pytest.raises(DownloadFailed, match=good):
        fetch([server.address], tmp_path, wanted=f"sha1:{'0' * 40}")


def test_google_drive_needs_gdown_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEGCLI_OFFLINE", raising=False)
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(DownloadFailed, match=r"pip install 'segcli\[gdrive\]'") as error:
        fetch(["gdrive:abc"], tmp_path)
    assert "https://drive.google.com/uc?id=abc" in str(error.value.hint)


def test_google_drive_is_fetched_from_by_gdown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(id: str, output: str, **_: object) -> None:
        Path(output).write_bytes(id.encode())

    monkeypatch.setitem(sys.modules, "gdown", type("gdown", (), {"download": staticmethod(download)}))
    assert fetch(["gdrive:abc"], tmp_path).path.read_bytes() == b"abc"


@pytest.fixture
def drive(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server in place of every address that gdown asks for."""
    pytest.importorskip("gdown", reason="gdown is in the extra [gdrive]")
    requests = pytest.importorskip("requests")
    true = requests.Session.get

    def get(session: object, url: str, **options: object) -> object:
        asked = urlsplit(url)
        return true(session, urlunsplit(urlsplit(server.address)[:2] + asked[2:]), **options)

    monkeypatch.setattr(requests.Session, "get", get)
    return server


def test_gdown_goes_past_the_page_that_google_drive_shows_before_large_files(drive: Server, tmp_path: Path) -> None:
    drive.plan = ["confirm"]
    found = fetch(["gdrive:abc"], tmp_path)
    assert found.path.read_bytes() == BODY
    assert [urlsplit(one["path"]).path for one in drive.seen] == ["/uc", "/download"]
    assert "confirm=t" in drive.seen[1]["path"]


def test_a_file_that_gdown_did_not_bring_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gdown", type("gdown", (), {"download": staticmethod(lambda **_: None)}))
    with pytest.raises(DownloadFailed, match="gdrive:abc: gdown brought no file"):
        fetch(["gdrive:abc"], tmp_path)


def test_another_part_of_the_file_than_was_asked_for_is_refused(server: Server, tmp_path: Path) -> None:
    server.plan = ["other part"]
    with pytest.raises(DownloadFailed, match="the server sent another part of the file than it was asked for"):
        fetch([server.address], tmp_path)
    assert len(server.seen) == 1


def test_a_weak_mark_does_not_say_that_bytes_are_equal(server: Server, tmp_path: Path) -> None:
    server.etag, server.plan = 'W/"one"', ["break"]
    assert fetch([server.address], tmp_path).path.read_bytes() == BODY
    assert ["Range" in request for request in server.seen] == [False, False]


def test_the_next_mirror_is_asked_where_one_has_other_bytes(server: Server, tmp_path: Path) -> None:
    server.plan = ["other bytes"]
    other = server.address.replace("/models/", "/mirror/")
    got = fetch([other, server.address], tmp_path, wanted=f"sha256:{SUM}")
    assert (got.address, got.path.read_bytes()) == (server.address, BODY)


def test_a_sum_that_nobody_stated_is_remembered_and_compared_next_time(server: Server, tmp_path: Path) -> None:
    first = fetch([server.address], tmp_path)
    assert (first.sha256, first.known) == (SUM, False)
    assert fetch([server.address], tmp_path).known
    server.body = BODY[::-1]
    with pytest.raises(DownloadFailed, match=f"not sha256:{SUM}"):
        fetch([server.address], tmp_path)


def test_the_users_mirror_is_asked_first(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGCLI_MIRROR", server.address.rpartition("/models/")[0] + "/near/")
    got = fetch(["http://127.0.0.1:9/far/model.zip"], tmp_path)
    assert got.address.endswith("/near/model.zip")


def test_a_mirror_has_the_file_under_the_name_that_the_refusal_asks_for(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stated = [server.address, server.address.replace("model.zip", "second.zip")]
    monkeypatch.setenv("SEGCLI_OFFLINE", "1")
    with pytest.raises(DownloadFailed) as refused:
        fetch(stated, tmp_path / "cache")
    name = str(refused.value.hint).partition("bring it as ")[2].partition(" ")[0]
    (tmp_path / name).write_bytes(BODY)
    monkeypatch.setenv("SEGCLI_MIRROR", str(tmp_path))
    assert fetch(stated, tmp_path / "cache").address == str(tmp_path / name)


@pytest.mark.parametrize("name", ["SEGCLI_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_refuses_at_once(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(DownloadFailed, match=name):
        fetch([server.address], tmp_path)
    assert server.seen == []


def test_a_file_of_the_hub_is_fetched_with_the_token_which_stays_there(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.address.rpartition("/models/")[0])
    monkeypatch.setenv("HF_TOKEN", "secret")
    fetch(["hf:owner/repo@v1:sub/model.zip"], tmp_path)
    assert server.seen[0]["path"] == "/owner/repo/resolve/v1/sub/model.zip"
    assert server.seen[0]["Authorization"] == "Bearer secret"
    other = server.address.replace("127.0.0.1", "localhost")
    fetch([other], tmp_path)
    assert "Authorization" not in server.seen[1]


def test_a_disk_that_is_too_small_is_said_before_a_byte_is_written(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(OutputError, match="1,048,576 bytes are needed, 1,000 are free"):
        fetch([server.address], tmp_path)
    assert leftovers(tmp_path) == set()


def test_a_proxy_is_used_and_named_without_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_WAIT", 0.01)
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(DownloadFailed, match=r"by the proxy http://127\.0\.0\.1:9") as error:
        fetch(["http://example.invalid/model.zip"], tmp_path)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("address", ["ftp://host/file", "file:///etc/passwd", "model.zip", "hf:owner/repo"])
def test_only_the_web_and_the_hub_are_fetched_from(address: str) -> None:
    with pytest.raises(UsageError):
        addresses([address])


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://zenodo.org/records/1/files/a%20b.zip?download=1", "a_b.zip"),
        ("https://host/..%2f..%2fetc", "etc"),
        ("https://host/", "download"),
        ("https://host/.hidden", "hidden"),
    ],
)
def test_a_file_is_called_by_a_harmless_name(address: str, name: str) -> None:
    assert file_name(address) == name


def test_a_private_certificate_is_trusted_where_the_system_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trustme = pytest.importorskip("trustme")
    monkeypatch.setattr(room, "_WAIT", 0.01)
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    for served in serving(Server(), context):
        with pytest.raises(DownloadFailed, match="CERTIFICATE_VERIFY_FAILED"):
            fetch([served.address], tmp_path / "out")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert fetch([served.address], tmp_path / "out").path.read_bytes() == BODY


def test_a_link_that_was_planted_under_the_name_of_a_download_is_not_followed(server: Server, tmp_path: Path) -> None:
    victim = tmp_path / "thesis.txt"
    victim.write_bytes(b"three years")
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / f".{room.hashlib.sha256(server.address.encode()).hexdigest()[:12]}-model.zip.part").symlink_to(victim)
    got = fetch([server.address], folder)
    assert victim.read_bytes() == b"three years"
    assert (got.path.read_bytes(), got.path.is_symlink()) == (BODY, False)


def test_one_process_waits_for_another_and_takes_over_from_a_dead_one(server: Server, tmp_path: Path) -> None:
    part = room.hashlib.sha256(server.address.encode()).hexdigest()[:12]
    code = (
        "import sys, time; from pathlib import Path; from segcli.models.locks import alone\n"
        "with alone(Path(sys.argv[1])): print(flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", code, tmp_path / f".{part}-model.zip.lock"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        waiting = threading.Thread(target=fetch, args=([server.address], tmp_path))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        holder.kill()
    waiting.join(20)
    assert not waiting.is_alive()
    assert leftovers(tmp_path) == {"model.zip"}


def test_a_lock_file_that_is_left_is_free_and_many_have_it_one_by_one(tmp_path: Path) -> None:
    lock = tmp_path / "a.lock"
    lock.write_text(json.dumps({"host": "another", "pid": os.getpid()}))
    assert inside(lambda: alone(lock), threads=8, turns=20, seconds=0) == [1] * 160
    assert not lock.exists()


@pytest.mark.slow
def test_killed_at_twenty_moments_it_goes_on_to_the_same_bytes(server: Server, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from segcli.models.fetch import fetch; "
        "fetch([sys.argv[1]], Path(sys.argv[2]), progress=lambda *_: print('.', flush=True))"
    )
    begun: list[str | None] = []
    for moment in range(20):
        server.plan = ["slow"]
        before = len(server.seen)
        run = subprocess.Popen([sys.executable, "-c", code, server.address, tmp_path], stdout=subprocess.PIPE)
        assert run.stdout is not None
        for _ in range(1 + moment % 3):
            if not run.stdout.readline():
                break
        run.kill()
        run.wait()
        run.stdout.close()
        begun += [seen.get("Range") for seen in server.seen[before:]]
        assert "model.zip" not in leftovers(tmp_path) or (tmp_path / "model.zip").read_bytes() == BODY
    server.plan = []
    assert fetch([server.address], tmp_path).path.read_bytes() == BODY
    assert any(begun)
    assert leftovers(tmp_path) == {"model.zip"}
