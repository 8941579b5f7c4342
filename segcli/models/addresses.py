"""How the addresses of model files are written, and which are tried."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from segcli.errors import UsageError

HUB = re.compile(r"hf:(?P<repo>[^/@:]+/[^/@:]+)(?:@(?P<revision>[^:]+))?(?::(?P<file>.+))?")


def addresses(stated: Sequence[str]) -> list[str]:
    """The addresses to try in their order: the user's mirror first, hf:OWNER/REPO@REVISION:FILE spelt out.

    $SEGCLI_MIRROR is a folder, on a server or on this machine, that holds the files by their names; $HF_ENDPOINT takes
    the Hub's place.
    """
    plain = [_spelt(address) for address in stated]
    mirror = os.environ.get("SEGCLI_MIRROR", "").rstrip("/")
    named = [f"{mirror}/{file_name(plain[-1])}"] if mirror and plain else []
    return list(dict.fromkeys([*named, *plain]))


def _spelt(address: str) -> str:
    if match := HUB.fullmatch(address):
        if match["file"] is None:
            raise UsageError(
                f"{address}: names no file", hint="write hf:OWNER/REPO:FILE, or hf:OWNER/REPO@REVISION:FILE"
            )
        return f"{hub()}/{match['repo']}/resolve/{match['revision'] or 'main'}/{match['file']}"
    if address.startswith("gdrive:"):
        return address
    if urlsplit(address).scheme not in ("http", "https"):
        raise UsageError(
            f"{address}: not an address that segcli fetches from", hint="https://..., or hf:OWNER/REPO:FILE"
        )
    return address


def hub() -> str:
    """The address of Hugging Face's Hub, or of what $HF_ENDPOINT names in its place."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def file_name(address: str) -> str:
    """The last part of an address's path, as a name that any file system takes."""
    if address.startswith("gdrive:"):
        return f"{address.removeprefix('gdrive:')}.download"
    last = unquote(urlsplit(address).path).rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._-]", "_", last).lstrip(".") or "download"
