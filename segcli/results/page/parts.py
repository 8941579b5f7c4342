"""How a page is made of its template: everything that a page says is escaped, and everything it needs is inside."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from segcli import __version__
from segcli.results.picture import significant


def page(template: str, **values: object) -> bytes:
    """A whole page: `template` filled with `values`, each of them escaped unless it is Markup."""
    return (_templates().get_template(template).render(version=__version__, **values) + "\n").encode()


def is_page(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a page of segcli."""
    return b'<meta name="generator" content="segcli">' in head


@cache
def _templates() -> Environment:
    found = Environment(
        loader=PackageLoader("segcli.results.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.policies["json.dumps_kwargs"] = {"sort_keys": False}
    found.filters["code"] = _code
    found.filters["significant"] = significant
    return found


def _code(script: str) -> Markup:
    """A script of this machine's as it is, but for what would end its element."""
    return Markup(script.replace("</script", r"<\/script"))


def words(name: object) -> str:
    """A structure's name as it is read."""
    return str(name).replace("_", " ")


def css_colour(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def in_one_line(value: object) -> str:
    """A value of a record in one line; what is nested is joined, what is empty left out."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {in_one_line(v)}" for k, v in value.items() if not is_empty(v))
    if isinstance(value, list | tuple):
        return ", ".join(in_one_line(v) for v in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def is_empty(value: object) -> bool:
    return value in (None, "", [], {}, ())
