"""One file from a network, whole or absent: going on where a download broke off, checksums, one process at a time.

Nothing here is called but by `segcli models get`. The library under it is httpx with the system's certificates
(truststore); proxies come from the environment as every program has them, SSL_CERT_FILE is honoured.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from segcli.documents import content_of
from segcli.errors import DownloadFailed, OutputError, UsageError, cause_of, first_few
from segcli.folders import at_home
from segcli.formats.atomic import no_detour, no_link, ours_alone, own_folder, translated, write_bytes
from segcli.models.addresses import HUB, addresses, file_name, hub
from segcli.models.library import file_sha256
from segcli.models.locks import alone
from segcli.system import insistently

if TYPE_CHECKING:
    import httpx

Progress = Callable[[int, int | None], None]  # bytes that are there, bytes in all where the server says so
_TRIES = 4  # of one address, each going on where the last one ended
_WAIT = 1.0  # seconds before the second try, twice as many before each later one
_OF_MODELS = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".model", ".onnx", ".zip", ".tar", ".tar.gz")


@dataclass(frozen=True)
class Download:
    """A file that is there now.

    address  where its bytes came from
    sha256   of its bytes
    known    whether that sum had been stated beforehand, by the catalogue or by an earlier download
    """

    path: Path
    address: str
    sha256: str
    known: bool


def offline() -> str | None:
    """The variable that forbids to use a network, if one does: SEGCLI_OFFLINE or HF_HUB_OFFLINE."""
    names = ("SEGCLI_OFFLINE", "HF_HUB_OFFLINE")
    return next((n for n in names if os.environ.get(n, "").lower() not in ("", "0", "false", "no", "off")), None)


def with_its_file(address: str) -> str:
    """hf:OWNER/REPO@REVISION with the one file of it that may hold a model; every other address as it is.

    errors   UsageError (2): it has none, or several; DownloadFailed (69): offline, or no list of its files comes
    """
    match = HUB.fullmatch(address)
    if match is None or match["file"] is not None:
        return address
    hint = f"name the file: {address}:FILE"
    if forbidden := offline():
        raise DownloadFailed(f"{address}: {forbidden} is set, so nothing is fetched", hint=hint)
    import httpx

    lists = f"{hub()}/api/models/{match['repo']}/revision/{match['revision'] or 'main'}"
    try:
        with _client(lists) as client:
            names = [str(one["rfilename"]) for one in client.get(lists).raise_for_status().json()["siblings"]]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DownloadFailed(
            f"{lists}: no list of files came: {cause_of(error)}{_proxy([lists])}", hint=hint
        ) from error
    found = sorted(name for name in names if name.lower().endswith(_OF_MODELS))
    if len(found) != 1:
        said = f"{len(found)} of its {len(names)} files may be a model"
        raise UsageError(f"{address}: {said}{': ' if found else ''}{first_few(found, 10)}", hint=hint)
    return f"{address}:{found[0]}"


def fetch(
    stated: Sequence[str],
    folder: Path,
    *,
    into: Path | None = None,
    wanted: str | None = None,
    progress: Progress = lambda done, total: None,
) -> Download:
    """The file of the first address that gives it, in `folder`, whole and with the sum that was stated.

    into     in its place the folder where the whole file lies, of the caller alone: another process may fetch a file
             of the same name
    wanted   "sha256:..." or "sha1:..." as the catalogue states it; without one, the sum of an earlier download of the
             same address counts
    errors   DownloadFailed (69): offline, no address answers, or other bytes than stated; OutputError: no room

    A download that breaks off is gone on with, also by a later run. While one process fetches a file, another waits.
    """
    todo = addresses(stated)
    name = file_name(todo[-1])
    final = (into or folder) / name
    if (forbidden := offline()) and not any(here.is_file() for here in map(_on_this_machine, todo) if here):
        raise DownloadFailed(f"{name}: {forbidden} is set, so nothing is fetched", hint=_by_hand(todo, name))
    with translated(folder / name):
        no_detour(folder / name)
        folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{hashlib.sha256(todo[-1].encode()).hexdigest()[:12]}-{name}.part"
    wanted = wanted or _sums(folder).get(todo[-1])
    failures: list[str] = []
    with alone(part.with_suffix(".lock")):
        for address in todo:
            if forbidden and _on_this_machine(address) is None:
                continue
            try:
                total = _complete(address, part, progress)
            except DownloadFailed as error:
                failures.append(error.message)
                continue
            sha256 = file_sha256(part)
            found = f"sha256:{sha256}"
            if wanted is not None and not wanted.startswith("sha256:"):
                found = _other_sum(part, wanted.partition(":")[0])
            if wanted is not None and found != wanted:
                _dropped(part)
                failures.append(f"{address} gave {total:,} bytes with the sum {found}, not {wanted}")
                continue
            with translated(final):
                insistently(partial(part.replace, final))
            _note(part).unlink(missing_ok=True)
            _remember(folder, todo[-1], f"sha256:{sha256}")
            return Download(final, address, sha256, wanted is not None)
    raise DownloadFailed(f"{name} could not be fetched: {'; '.join(failures)}{_proxy(todo)}", hint=_by_hand(todo, name))


def _complete(address: str, part: Path, progress: Progress) -> int:
    """Bytes of the part file once it holds all that the address has; goes on where it ends.

    errors   DownloadFailed with the last cause, after several tries
    """
    import httpx

    if address.startswith("gdrive:"):
        return _from_drive(address.removeprefix("gdrive:"), part)
    if (here := _on_this_machine(address)) is not None:
        return _copied(here, part)
    cause = ""
    for number in range(_TRIES):
        if number:
            time.sleep(_WAIT * 2 ** (number - 1))
        try:
            with _client(address) as client:
                return _once(client, address, part, progress)
        except (_Refused, httpx.InvalidURL) as error:
            raise DownloadFailed(f"{address}: {error}") from error
        except (httpx.HTTPError, _BrokeOff) as error:
            cause = str(error) or type(error).__name__
    raise DownloadFailed(f"{address}: {cause}")


def _on_this_machine(address: str) -> Path | None:
    """The file of a mirror that is a folder here; None for an address of a network."""
    return None if address.startswith(("http://", "https://", "gdrive:")) else Path(at_home(address))


def _copied(here: Path, part: Path) -> int:
    if not here.is_file():
        raise DownloadFailed(f"{here}: no such file")
    _room(part, here.stat().st_size)
    _dropped(part)
    with translated(here), here.open("rb") as file, translated(part), part.open("xb") as copy:
        shutil.copyfileobj(file, copy)
    return part.stat().st_size


def _from_drive(number: str, part: Path) -> int:
    """A file of Google Drive, past the page that asks whether one means it; gdown goes on by itself."""
    try:
        import gdown
    except ImportError as error:
        raise DownloadFailed(
            f"gdrive:{number}: lies on Google Drive, which gdown fetches from: pip install 'segcli[gdrive]'"
        ) from error
    own = part.with_suffix(".drive")  # gdown opens whatever has its names
    own_folder(own)
    try:
        gdown.download(id=number, output=str(own / part.name), quiet=True, resume=True)
    except Exception as error:  # gdown's own errors have no common class
        raise DownloadFailed(f"gdrive:{number}: {cause_of(error)}") from error
    if not (own / part.name).is_file():
        raise DownloadFailed(f"gdrive:{number}: gdown brought no file")
    with translated(part):
        insistently(lambda: (own / part.name).replace(part))
    shutil.rmtree(own, ignore_errors=True)
    return part.stat().st_size


class _Refused(Exception):
    """The server's answer will not change by asking again."""


class _BrokeOff(Exception):
    """Not all bytes came, or the server is busy: worth another try."""


def _once(client: httpx.Client, address: str, part: Path, progress: Progress) -> int:
    """One request, for what the part file lacks; the bytes that it holds then."""
    have, mark = _begun(part, address)
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-", "If-Range": mark} if have else {})}
    with client.stream("GET", address, headers=headers) as answer:
        if answer.status_code == 416:  # what is there is not a beginning of the file
            _dropped(part)
            return _once(client, address, part, progress) if have else _unwilling(answer)
        if answer.status_code not in (200, 206):
            return _unwilling(answer)
        if answer.status_code == 200 or not _goes_on(answer, have):
            if answer.status_code == 206:
                raise _Refused("the server sent another part of the file than it was asked for")
            have = 0
        announced = answer.headers.get("Content-Length", "")
        total = have + int(announced) if announced.isdigit() else None
        _room(part, None if total is None else total - have)
        _begin(part, address, answer)
        if not have:
            part.unlink(missing_ok=True)
        with translated(part), open(part, "r+b" if have else "x+b", opener=no_link) as file:
            if have and not ours_alone(os.fstat(file.fileno())):
                raise OutputError(f"{part.name}: somebody else has put another file there", hint=f"remove {part}")
            file.seek(have)
            for chunk in answer.iter_raw():
                file.write(chunk)
                have += len(chunk)
                progress(have, total)
            file.truncate()
    if total is not None and have != total:
        raise _BrokeOff(f"{have:,} of {total:,} bytes came")
    return have


def _unwilling(answer: httpx.Response) -> int:
    told = f"the server answers {answer.status_code} {answer.reason_phrase}".strip()
    if answer.status_code in (408, 425, 429) or answer.status_code >= 500:
        raise _BrokeOff(told)
    raise _Refused(told)


def _goes_on(answer: httpx.Response, have: int) -> bool:
    """Whether a partial answer begins where the part file ends."""
    match = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return match is not None and int(match[1]) == have


def _client(address: str) -> httpx.Client:
    import ssl

    import httpx
    import truststore

    token = os.environ.get("HF_TOKEN", "")
    own = {"Authorization": f"Bearer {token}"} if token and urlsplit(address).netloc == urlsplit(hub()).netloc else {}
    return httpx.Client(
        verify=truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        follow_redirects=True,  # to another host without the token
        timeout=httpx.Timeout(30.0),
        headers={"User-Agent": "segcli", **own},
    )


# ---- what is kept beside a download that is not whole


def _note(part: Path) -> Path:
    return part.with_suffix(".json")


def _begun(part: Path, address: str) -> tuple[int, str]:
    """Bytes that are there, and the mark by which the server knows whether they are of the same file; 0 without one."""
    try:
        note = content_of(_note(part))
        mark = str(note["mark"]) if note["address"] == address else ""
        there = part.lstat()
        return (there.st_size, mark) if mark and ours_alone(there) else (0, "")
    except (OSError, KeyError, TypeError):
        return 0, ""


def _begin(part: Path, address: str, answer: httpx.Response) -> None:
    """Note which file of the server the part belongs to; a weak mark does not say that bytes are equal."""
    mark = answer.headers.get("ETag", "")
    if not mark or mark.startswith("W/"):
        mark = answer.headers.get("Last-Modified", "")
    write_bytes(_note(part), json.dumps({"address": address, "mark": mark}).encode())


def _dropped(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _room(part: Path, size: int | None) -> None:
    free = shutil.disk_usage(part.parent).free
    if size is not None and size > free:
        raise OutputError(
            f"{part.parent}: {size:,} bytes are needed, {free:,} are free", hint="free some space, or set SEGCLI_HOME"
        )


def _other_sum(path: Path, algorithm: str) -> str:
    """A sum of another kind than models are known by, as lists state it: "sha1:..."."""
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


def _sums(folder: Path) -> Mapping[str, str]:
    """Address -> sum of the files that were fetched before."""
    known = content_of(folder / "sums.json")
    return {str(k): str(v) for k, v in known.items()} if isinstance(known, dict) else {}


def _remember(folder: Path, address: str, found: str) -> None:
    write_bytes(folder / "sums.json", json.dumps({**_sums(folder), address: found}, indent=1).encode())


# ---- what to say


def _proxy(todo: Sequence[str]) -> str:
    """The proxy that the environment names for these addresses; words for the end of a sentence."""
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(todo[-1])
    named = getproxies().get(parts.scheme)
    if not named or proxy_bypass(parts.hostname or ""):
        return ""
    shown = urlsplit(named)
    return f" (by the proxy {shown.scheme}://{shown.hostname}:{shown.port})"  # without a password


def _by_hand(todo: Sequence[str], name: str) -> str:
    where = todo[-1].replace("gdrive:", "https://drive.google.com/uc?id=")
    return (
        f"fetch {where} on a machine with a network, bring it as {name} into a folder here, and run the same command "
        "with SEGCLI_MIRROR=FOLDER"
    )
