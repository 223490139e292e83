"""Groups of options: headings in ``--help``, and one object of settings in place of many parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click

# Columns of the options' names; the help of a longer one begins on the next line.
_NAME_WIDTH = 30


@dataclass(frozen=True)
class OptionGroup:
    """Options that stand under one heading and become one object.

    Attributes:
        heading: the heading in ``--help``. Groups with the same heading are shown together.
        options: the options, in the order in which ``--help`` shows them. An argument may be among them.
        name: the field of the command's settings that holds the object. If it is empty, each option is a
            field of its own.
        settings: makes the object. It is called with the options' values by parameter name. If a
            parameter's name begins with the group's name and an underscore, these are left out.
    """

    heading: str
    options: Sequence[click.Parameter]
    name: str = ""
    settings: Callable[..., Any] | None = None

    def take(self, values: dict[str, Any]) -> Any:
        """Take this group's values out of all values and make the object of them."""
        assert self.settings is not None
        own = {option.name or "": values.pop(option.name or "") for option in self.options}
        return self.settings(**{name.removeprefix(f"{self.name}_"): value for name, value in own.items()})


class GroupedCommand(click.Command):
    """A command whose function takes all options as one object, ``settings``.

    Args:
        groups: the groups of options, in the order of ``--help``.
        settings: makes the object. It is called with an object for each named group, and with the values
            of the options that are in no named group.
    """

    def __init__(
        self, *args: Any, groups: Sequence[OptionGroup], settings: Callable[..., Any], **kwargs: Any
    ) -> None:
        kwargs["params"] = [option for group in groups for option in group.options]
        super().__init__(*args, **kwargs)
        self._groups = groups
        self._make_settings = settings

    def settings(self, ctx: click.Context) -> Any:
        """The settings that a parsed command line makes."""
        values = dict(ctx.params)
        objects = {group.name: group.take(values) for group in self._groups if group.name}
        return self._make_settings(**objects, **values)

    def invoke(self, ctx: click.Context) -> Any:
        """Call the function with the settings."""
        ctx.params = {"settings": self.settings(ctx)}
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each group of options under its heading, all with one width of names."""
        headings = {option: group.heading for group in self._groups for option in group.options}
        sections: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx)
            if record is not None and not isinstance(option, click.Argument):
                sections.setdefault(headings.get(option, "Other"), []).append(record)
        width = min(_NAME_WIDTH, max(len(name) for rows in sections.values() for name, _ in rows))
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), text) for name, text in rows], _NAME_WIDTH)
