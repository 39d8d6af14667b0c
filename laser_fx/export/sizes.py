"""Open dimensions of a file: ``batch``, and expressions of such names, ``2*batch + 1``. Parsed, never evaluated."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence

from laser_fx.errors import InputError

__all__ = ["broken", "is_condition", "rows_from", "shape_at", "symbols_of"]

_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[int, int], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_LONGEST = 256
_MOST_ROWS = 128


def symbols_of(shapes: Iterable[Iterable[object]]) -> tuple[str, ...]:
    """Names in the open dimensions of some shapes, each once.

    >>> symbols_of([["batch", 3], ["2*batch", "width"]])
    ('batch', 'width')
    """
    trees = [_tree(size) for shape in shapes for size in shape if isinstance(size, str)]
    return tuple(dict.fromkeys(node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)))


def shape_at(shape: Iterable[object], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """A shape with sizes for its symbols.

    Raises:
        InputError: a symbol without a size, or a dimension that no number says.

    >>> shape_at(["2*batch", 3], {"batch": 4})
    (8, 3)
    """
    try:
        return tuple(size if isinstance(size, int) else _value(_tree(size), sizes) for size in shape)
    except ZeroDivisionError as error:
        raise _unknown(shape) from error


def broken(conditions: Iterable[str], sizes: Mapping[str, int]) -> str | None:
    """The first condition that sizes do not fulfil; ``None`` where they fulfil all.

    >>> broken(["tokens > 4", "tokens % 2 == 0"], {"tokens": 7})
    'tokens % 2 == 0'
    """
    return next((condition for condition in conditions if not _holds(condition, sizes)), None)


def rows_from(least: int, symbols: Iterable[str], conditions: Sequence[str]) -> int:
    """The next number that may stand in every open dimension.

    Raises:
        InputError: there is none.

    >>> rows_from(1, ["batch", "tokens"], ["tokens > 4", "tokens % 2 == 0"])
    6
    """
    known = list(symbols)
    for rows in range(least, least + _MOST_ROWS):
        if broken(conditions, dict.fromkeys(known, rows)) is None:
            return rows
    raise InputError(
        "no one number may stand in every open dimension",
        where=", ".join(conditions),
        fix="export the model with fewer free_sizes",
    )


def is_condition(text: object, names: Iterable[str]) -> bool:
    """Whether this compares arithmetic of these names.

    >>> is_condition("tokens > 4", ["tokens"]), is_condition("open('x') == 1", ["open"])
    (True, False)
    """
    try:
        _holds(text, dict.fromkeys(names, 1))
    except InputError:
        return False
    return True


def _holds(condition: object, sizes: Mapping[str, int]) -> bool:
    tree = _tree(condition)
    if not isinstance(tree, ast.Compare) or not all(type(sign) in _COMPARISONS for sign in tree.ops):
        raise _unknown(condition)
    try:
        values = [_value(side, sizes) for side in (tree.left, *tree.comparators)]
    except ZeroDivisionError:  # of no size that was traced
        return False
    signs = [_COMPARISONS[type(sign)] for sign in tree.ops]
    return all(sign(*pair) for sign, *pair in zip(signs, values, values[1:], strict=False))


def _tree(size: object) -> ast.expr:
    if not isinstance(size, str) or len(size) > _LONGEST:
        raise _unknown(size)
    try:
        return ast.parse(size, mode="eval").body
    except (SyntaxError, ValueError, RecursionError) as error:
        raise _unknown(size) from error


def _value(tree: ast.expr, sizes: Mapping[str, int]) -> int:
    if isinstance(tree, ast.Name) and tree.id in sizes:
        return sizes[tree.id]
    if isinstance(tree, ast.Constant) and type(tree.value) is int:
        return tree.value
    if isinstance(tree, ast.BinOp) and type(tree.op) in _OPERATORS:
        left, right = _value(tree.left, sizes), _value(tree.right, sizes)
        return _OPERATORS[type(tree.op)](left, right)
    raise _unknown(ast.unparse(tree))


def _unknown(size: object) -> InputError:
    return InputError(f"the open dimension {size!r} has no size", where="sizes", fix="pass inputs of your own instead")
