"""Options of commands, made from declarations (:class:`..manager.settings.Declaration`)."""

from __future__ import annotations

import difflib
import math
import os
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ..manager.settings import VARIABLE_PREFIX, Declaration
from ..protocol.names import RUN_VARIABLES


def click_option(declaration: Declaration) -> click.Option:
    """Return click's option for a declaration. Precedence: command line, environment variable, default."""
    option = declaration.option
    name = f"{option.name}/{option.negative}" if option.negative else option.name
    text = option.help
    if option.default_text:
        text += f"  [default: {option.default_text}]"
    return DeclaredOption(
        declaration,
        [name, declaration.parameter],
        type=_click_type(declaration),
        is_flag=declaration.kind is bool,
        default=declaration.default,
        show_default=option.default_text is None and declaration.default not in (None, False),
        multiple=option.multiple,
        # click would split the variable's value at blanks, although it is one value. So serve reads the variable.
        envvar=None if option.multiple else option.variable,
        metavar=option.unit or ("NUMBER" if declaration.kind is int else None),
        help=text,
    )


def environment_variables(context: click.Context) -> list[str]:
    """Return the names of the environment variables that set options of the running command."""
    return [
        parameter.declaration.option.variable
        for parameter in context.command.params
        if isinstance(parameter, DeclaredOption) and _is_from_environment(context, parameter)
    ]


def unknown_variables(context: click.Context) -> list[str]:
    """Return the environment variables ``KRUISE_AGENTS_*`` that set no option. A similar known name is added.

    Example: ``KRUISE_AGENTS_NO_INTERNET (did you mean KRUISE_AGENTS_INTERNET?)``.
    """
    known = [each.declaration.option.variable for each in context.command.params if isinstance(each, DeclaredOption)]
    found = []
    for name in sorted(os.environ):
        if not name.startswith(VARIABLE_PREFIX) or name in (*known, *RUN_VARIABLES):
            continue
        # The common prefix would make every name look alike.
        words = [each.removeprefix(VARIABLE_PREFIX) for each in known]
        likely = difflib.get_close_matches(name.removeprefix(VARIABLE_PREFIX), words, 1)
        found.append(f"{name} (did you mean {VARIABLE_PREFIX}{likely[0]}?)" if likely else name)
    return found


def _is_from_environment(context: click.Context, option: DeclaredOption) -> bool:
    source = context.get_parameter_source(str(option.name))
    if option.multiple:  # click is not told the variable
        return source is ParameterSource.DEFAULT and bool(os.environ.get(option.declaration.option.variable))
    return source is ParameterSource.ENVIRONMENT


class DeclaredOption(click.Option):
    """A click option that keeps the ``Declaration`` it was made from, for scripts that write the reference pages."""

    def __init__(self, declaration: Declaration, names: list[str], **attributes: Any) -> None:
        super().__init__(names, **attributes)
        self.declaration = declaration

    def get_error_hint(self, ctx: click.Context | None) -> str:
        if ctx is not None and ctx.get_parameter_source(str(self.name)) is ParameterSource.ENVIRONMENT:
            return f"environment variable {self.envvar}"
        return super().get_error_hint(ctx)


class _Seconds(click.FloatRange):
    """A range of numbers that also refuses ``nan``, which is neither below a minimum nor above a maximum."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


class _WholeNumber(click.IntRange):
    """A range of whole numbers, which errors and help call so."""

    name = "whole number"


def _click_type(declaration: Declaration) -> Any:
    option = declaration.option
    if option.choices:
        return click.Choice(option.choices)
    if declaration.kind is int:
        return _WholeNumber(option.least, option.most)
    if declaration.kind is float:
        return _Seconds(option.least, option.most)
    if declaration.kind is Path:
        return click.Path(file_okay=not option.folder)
    return None
