"""Extension of griffe: the site shows the constructor arguments that the fields of a class body declare.

At run time, `pg_agents.arguments` makes the signature and the "Args" section of a class from its fields. The site is
built from the source without importing it, so this extension does the same with the expressions in the source.
"""

from __future__ import annotations

import ast
from typing import Any

from griffe import (
    Attribute,
    Class,
    Docstring,
    Expr,
    ExprCall,
    ExprKeyword,
    ExprSubscript,
    Extension,
    Function,
    Module,
    Object,
    Parameter,
    ParameterKind,
    Parameters,
)

ARGUMENTS = "pg_agents.arguments.Arguments"


class ConstructorArguments(Extension):
    """Gives each class below `pg_agents.arguments.Arguments` the constructor that its fields make."""

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        """Complete the classes of a package that is loaded."""
        for cls in classes(pkg):
            if ARGUMENTS in {base.canonical_path for base in cls.mro()} and not describes_itself(cls):
                complete(cls, taken(cls))


def classes(parent: Object) -> list[Class]:
    """All classes of a module and its submodules."""
    found: list[Class] = []
    for member in parent.members.values():
        if isinstance(member, Class):
            found.append(member)
        elif isinstance(member, Module):
            found += classes(member)
    return found


def describes_itself(cls: Class) -> bool:
    """Whether the class has a constructor or an "Args" section of its own, which only the root of all may replace."""
    return "Args:" in (cls.docstring.value if cls.docstring else "") or ("__init__" in cls.members and not is_root(cls))


def is_root(cls: Class) -> bool:
    """The root of all algorithms: it takes every argument."""
    return ARGUMENTS in {base.canonical_path for base in cls.resolved_bases}


def taken(cls: Class) -> dict[str, Parameter]:
    """The arguments that a class takes: those that it declares, in the order of its body, and those common to all.

    The root takes all, and so do classes below it that declare none.

    Those that can be given by position come first, in the order of `same_order_as` if it lists names. (A class, which
    cannot be read here, can give a position to more of them at run time.)
    """
    lineage = [cls, *cls.mro()]
    root = next(one for one in lineage if is_root(one))
    declared: dict[str, Parameter] = {}
    common: dict[str, Parameter] = {}
    own: list[str] = []
    for one in reversed(lineage):
        found = fields(one, declared)
        declared |= found
        if one is root:
            common = found
        elif root in one.mro():
            own += found
    required = [name for name, field in declared.items() if field.default is None]
    first = [name for name in common if not is_by_keyword(common[name])]
    names = dict.fromkeys([*first, *([*required, *own] if own else declared), *common])
    if listed := [name for name in listed_order(lineage) if name in names]:
        by_position = {name: with_kind(declared[name], ParameterKind.positional_or_keyword) for name in listed}
        others = {name: with_kind(declared[name], ParameterKind.keyword_only) for name in names if name not in listed}
        return by_position | others
    return {name: declared[name] for name in sorted(names, key=lambda name: is_by_keyword(declared[name]))}


def listed_order(lineage: list[Class]) -> tuple[str, ...]:
    """The names in `same_order_as` of the first class that has it, if it is a tuple of them."""
    value = next((str(one.members["same_order_as"].value) for one in lineage if "same_order_as" in one.members), "")
    return ast.literal_eval(value) if value.startswith("(") else ()


def with_kind(field: Parameter, kind: ParameterKind) -> Parameter:
    """The same argument, given in another way."""
    return Parameter(
        field.name, annotation=field.annotation, kind=kind, default=field.default, docstring=field.docstring
    )


def is_by_keyword(field: Parameter) -> bool:
    """Whether an argument is given by keyword only."""
    return field.kind is ParameterKind.keyword_only


def fields(cls: Class, known: dict[str, Parameter]) -> dict[str, Parameter]:
    """The fields of a class body; one that only has a default keeps the documentation of the known one."""
    found = {}
    for name, member in cls.members.items():
        # A class variable is no instance attribute, an attribute set by a method no class attribute.
        if (
            not isinstance(member, Attribute)
            or member.annotation is None
            or not member.labels >= {"class-attribute", "instance-attribute"}
        ):
            continue
        value, doc, kw_only = member.value, "", cls.canonical_path == ARGUMENTS
        if isinstance(value, ExprCall) and value.canonical_path == "pg_agents.arguments.argument":
            given = {one.name: one.value for one in value.arguments if isinstance(one, ExprKeyword)}
            value, doc = given.get("default"), ast.literal_eval(str(given.get("doc", '""')))
            kw_only = kw_only or str(given.get("kw_only")) == "True"
        elif name.startswith("_"):
            continue
        if not doc and name in known and known[name].docstring is not None:
            doc = known[name].docstring.value
        kind = ParameterKind.keyword_only if kw_only else ParameterKind.positional_or_keyword
        annotation = without_init_var(member.annotation)
        found[name] = Parameter(name, annotation=annotation, kind=kind, default=value, docstring=Docstring(doc))
    return found


def without_init_var(annotation: str | Expr) -> str | Expr:
    """The type in `InitVar[...]`."""
    if isinstance(annotation, ExprSubscript) and annotation.canonical_path == "dataclasses.InitVar":
        return annotation.slice
    return annotation


def complete(cls: Class, arguments: dict[str, Parameter]) -> None:
    """Give a class its signature, and its docstring an "Args" section."""
    itself = Parameter("self", kind=ParameterKind.positional_or_keyword)
    constructor = Function("__init__", parameters=Parameters(itself, *arguments.values()), returns="None", parent=cls)
    cls.set_member("__init__", constructor)
    if cls.docstring is not None:
        lines = [f"    {one.name}: {one.docstring.value}" for one in arguments.values() if one.docstring.value]
        cls.docstring.value += "\n\nArgs:\n" + "\n".join(lines)
