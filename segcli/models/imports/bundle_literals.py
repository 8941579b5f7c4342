"""What a "$" text of a MONAI bundle says, as far as it is made of literals: a table of what is known, nothing is run.

Python's own parser makes a tree of the text; each node of the tree has its entry here, or the text stays unknown.
Known are numbers, texts, lists, tuples and mappings of them; + between numbers, texts or lists; - * / // % and signs of
numbers; comparisons, and, or, not, "A if B else C"; an element of a list or mapping; and the calls in `_CALLS`.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping

from segcli.documents import Content

_LONGEST = 2000  # characters of a text; the longest of MONAI's that is not a lambda has a third of that
_MOST = 10_000  # elements of a list, characters of a text
_LARGEST = 2**53  # of a number: beyond it floats are no whole numbers any more

_BETWEEN: Mapping[type[ast.operator], Callable[[Content, Content], Content]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_SIGNS: Mapping[type[ast.unaryop], Callable[[Content], Content]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}
_COMPARED: Mapping[type[ast.cmpop], Callable[[Content, Content], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.In: lambda a, b: a in b,
}
_NAMES = {
    "true": True,
    "false": False,
    "null": None,
    "monai.utils.CommonKeys.IMAGE": "image",
    "monai.utils.CommonKeys.LABEL": "label",
    "monai.utils.CommonKeys.PRED": "pred",
    **{f"{room}.{kind}": kind for room in ("torch", "np", "numpy") for kind in ("float32", "float64", "float16")},
    **{f"{room}.{kind}": kind for room in ("torch", "np", "numpy") for kind in ("uint8", "int16", "int32", "int64")},
}
_CALLS: Mapping[str, Callable[..., Content]] = {
    "len": len,
    "list": list,
    "tuple": list,
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "abs": abs,
    "min": min,
    "max": max,
    "sum": sum,
    "round": round,
    "sorted": sorted,
    "copy.deepcopy": lambda value: value,
    "torch.device": str,
    "torch.cuda.is_available": lambda: False,  # where it runs changes no fact of the model
}


class Unsaid(Exception):
    """A part of a text has no entry in the tables, or values of other kinds than its entry takes."""


def said(text: str, known: Mapping[str, Content]) -> Content:
    """The value of a text.

    known    values of names that stand in it
    errors   Unsaid
    """
    if len(text) > _LONGEST:
        raise Unsaid(text)
    try:
        return _value(ast.parse(text, mode="eval").body, known)
    except (SyntaxError, ValueError, RecursionError, MemoryError, TypeError, LookupError, ArithmeticError) as error:
        raise Unsaid(text) from error


def _value(node: ast.AST, known: Mapping[str, Content]) -> Content:
    found = _of(node, known)
    large = isinstance(found, int | float) and not isinstance(found, bool) and not -_LARGEST <= found <= _LARGEST
    if large or (isinstance(found, str | list | dict) and len(found) > _MOST):
        raise Unsaid
    return found


def _of(node: ast.AST, known: Mapping[str, Content]) -> Content:
    def value(part: ast.AST) -> Content:
        return _value(part, known)

    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None):
            return node.value
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [value(part) for part in parts]
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {str(value(k)): value(v) for k, v in zip(keys, values, strict=True) if k is not None}
        case ast.UnaryOp(op=sign, operand=part) if type(sign) in _SIGNS:
            return _SIGNS[type(sign)](value(part))
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _BETWEEN:
            return _between(value(left), type(sign), value(right))
        case ast.Compare(left=left, ops=[sign], comparators=[right]) if type(sign) in _COMPARED:
            return _COMPARED[type(sign)](value(left), value(right))
        case ast.BoolOp(op=sign, values=parts):
            return _first(value, parts, until=isinstance(sign, ast.Or))
        case ast.IfExp(test=test, body=yes, orelse=no):
            return value(yes if value(test) else no)
        case ast.Subscript(value=whole, slice=at):
            return _element(value(whole), value(at))
        case ast.Call(func=ast.Attribute(value=moved, attr="to")) if isinstance(found := value(moved), dict):
            return found  # a network moved to a device is that network
        case ast.Call(func=called, args=parts, keywords=[]) if _dotted(called) in _CALLS:
            return _CALLS[_dotted(called)](*[value(part) for part in parts])
        case ast.Name() | ast.Attribute():
            name = _dotted(node)
            return known[name] if name in known else _NAMES[name]
    raise Unsaid


def _between(one: Content, sign: type[ast.operator], other: Content) -> Content:
    """A sum of two numbers, texts or lists; any other operation of two numbers."""
    joined = sign is ast.Add and any(isinstance(one, kind) and isinstance(other, kind) for kind in (str, list))
    if not joined and not (isinstance(one, int | float) and isinstance(other, int | float)):
        raise Unsaid
    return _BETWEEN[sign](one, other)


def _first(value: Callable[[ast.AST], Content], parts: list[ast.expr], *, until: bool) -> Content:
    """The first of several values whose truth is `until`, else the last, as "or" and "and" have it."""
    found = None
    for part in parts:
        found = value(part)
        if bool(found) == until:
            break
    return found


def _element(whole: Content, at: Content) -> Content:
    if isinstance(whole, list) and isinstance(at, int):
        return whole[at]
    if isinstance(whole, dict):
        return whole[str(at)]
    raise Unsaid


def _dotted(node: ast.AST) -> str:
    """A name with its dots; empty for what is none."""
    if isinstance(node, ast.Name):
        return node.id
    inside = _dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{inside}.{node.attr}" if inside and isinstance(node, ast.Attribute) else ""
