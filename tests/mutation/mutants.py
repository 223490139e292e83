"""Small faults that can be put into a module: a comparison turned round, an operand left out, a call gone."""

import ast
import itertools
from dataclasses import dataclass

COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
    ast.LShift: ast.RShift,
}
# Parts of the tree that say what a value is, not what is done with it; messages of errors are in ``exc``.
UNTOUCHED = {"annotation", "returns", "decorator_list", "bases", "exc", "cause"}


@dataclass(frozen=True)
class Mutant:
    """A module with one fault.

    Attributes:
        line: the number of the line at which the fault is, counted from 1.
        source: the whole text of the module.
    """

    line: int
    source: str


def mutants_of(source):
    """All mutants of a module, in the order of its lines."""
    tree = ast.parse(source)
    offsets = list(itertools.accumulate(map(len, source.encode().splitlines(keepends=True)), initial=0))
    for node in _nodes(tree):
        for replacement in _replacements(node):
            mutated = _replaced(source.encode(), offsets, node, replacement)
            try:
                is_other = ast.dump(ast.parse(mutated)) != ast.dump(tree)
            except SyntaxError:
                continue
            if is_other:
                yield Mutant(node.lineno, mutated)


def _replaced(source, offsets, node, replacement):
    start = offsets[node.lineno - 1] + node.col_offset
    end = offsets[node.end_lineno - 1] + node.end_col_offset
    return (source[:start] + replacement.encode() + source[end:]).decode()


def _nodes(node):
    """The nodes that a fault may be put into."""
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and name not in UNTOUCHED and not _says_nothing(child):
                yield child
                yield from _nodes(child)


def _says_nothing(node):
    """Whether a node does nothing: a docstring, a name for a type. In an f-string, no position is right."""
    match node:
        case ast.Expr(value=ast.Constant()) | ast.JoinedStr() | ast.Import() | ast.ImportFrom():
            return True
        case ast.Assign(targets=[ast.Name(id=name)]):
            return name == "__slots__" or not (name.isupper() or name.islower())
    return False


def _replacements(node):
    """The texts that may stand in place of a node."""
    match node:
        case ast.Raise() | ast.Expr() | ast.AugAssign() | ast.Delete():
            yield "pass"
        case ast.Return(value=ast.expr()):
            yield "return None"
        case ast.Break():
            yield "continue"
        case ast.Continue():
            yield "break"
        case ast.Constant(value=value):
            yield from map(repr, _other_values(value))
        case ast.expr():
            for other in _other_expressions(node):
                yield f"({ast.unparse(other)})"


def _other_values(value):
    match value:
        case bool():
            return [not value]
        case int():
            return [value + 1, value - 1]
        case str():
            return [value + "X"]
        case bytes():
            return [value + b"X"]
    return []


def _other_expressions(node):
    match node:
        case ast.Compare(left=left, ops=ops, comparators=right):
            for index, op in enumerate(ops):
                others = [*ops[:index], COMPARISONS[type(op)](), *ops[index + 1 :]]
                yield ast.Compare(left, others, right)
        case ast.BoolOp(op=op, values=values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
            for index in range(len(values)):
                yield ast.BoolOp(op, values[:index] + values[index + 1 :])
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
            yield ast.BinOp(left, ARITHMETIC[type(op)](), right)
        case ast.IfExp(body=body, orelse=orelse):
            yield body
            yield orelse
        case ast.Call(func=func, args=args, keywords=keywords):
            for index in range(len(args) - 1):
                swapped = [*args[:index], args[index + 1], args[index], *args[index + 2 :]]
                yield ast.Call(func, swapped, keywords)
