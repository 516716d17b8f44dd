# SPDX-License-Identifier: Apache-2.0
"""virsh's grammar: a table of options per command, and the reading of words by it.

Owns: what a command line may say. Invariants: every option that takes a value may be given by name (`--path vda`,
`--path=vda`) or, but for the few that are `by_name_only`, by position, in the table's order; no option is given twice
unless it is a LIST; after `--` nothing is an option any more. The texts of the errors are virsh's.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from virtblock.cli.failures import CommandError, UsageError

INT32_MAX = 2**31 - 1
UINT32_MAX = 2**32 - 1
UINT64_MAX = 2**64 - 1
MS_PER_S = 1000


class Kind(enum.Enum):
    """What an option takes."""

    FLAG = "flag"
    TEXT = "string"
    NUMBER = "number"
    LIST = "list"
    """Texts; may be given any number of times."""


@dataclass(frozen=True)
class Option:
    """One option of a command."""

    name: str
    help: str = ""
    kind: Kind = Kind.FLAG
    required: bool = False
    by_name_only: bool = False
    stands_for: tuple[str, str] | None = None
    """Another option and its value: the option is an alias, which help does not list."""

    @property
    def value_name(self) -> str:
        """What help and errors call its value."""
        return "<number>" if self.kind is Kind.NUMBER else "<string>"


# Accepted by every command and listed by none, as `--help` is by virsh.
COMMON_OPTIONS = (Option("help"), Option("json"))


@dataclass(frozen=True)
class Command:
    """A command: its name, its texts, its options in the order of their positions, and what runs it."""

    name: str
    help: str
    description: str
    options: tuple[Option, ...]
    run: str
    """What runs it, as `module:function` of this package, loaded when it is needed."""

    def option(self, name: str) -> Option | None:
        """The option of that name, a common one included."""
        return next((option for option in (*self.options, *COMMON_OPTIONS) if option.name == name), None)


@dataclass
class Invocation:
    """A command with the values that were given. The readers raise CommandError with virsh's text for a bad value."""

    command: Command
    flags: set[str] = field(default_factory=set)
    texts: dict[str, str] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Whether the option was given."""
        return name in self.flags or name in self.texts or name in self.lists

    def flags_of(self, bits: Mapping[str, int]) -> int:
        """The bits of those options that were given."""
        flags = 0
        for name, value in bits.items():
            if self.has(name):
                flags |= int(value)
        return flags

    def text(self, name: str) -> str | None:
        """The option's text, or None. An empty one is refused."""
        value = self.texts.get(name)
        if value == "":
            raise CommandError(f"Failed to get option '{name}': Option argument is empty")
        return value

    def required(self, name: str) -> str:
        """The text of an option that the grammar requires."""
        value = self.text(name)
        assert value is not None, f"the grammar lets {self.command.name} through without {name}"
        return value

    def whole_number(self, name: str, maximum: int) -> int | None:
        """The option as a whole number from 0 to `maximum`, or None."""
        value = self.texts.get(name)
        if value is None:
            return None
        digits = value.strip().removeprefix("+")
        if not (digits.isascii() and digits.isdecimal()) or int(digits) > maximum:
            raise CommandError(f"Numeric value '{value}' for <{name}> option is malformed or out of range")
        return int(digits)

    def timeout_s(self) -> float | None:
        """The option `timeout`, in seconds above 0, or None."""
        value = self.whole_number("timeout", INT32_MAX // MS_PER_S)
        if value == 0:
            raise CommandError("Numeric value '0' for <timeout> option is malformed or out of range")
        return value

    def exclude(self, first: str, second: str) -> None:
        """Refuse the two options together."""
        if self.has(first) and self.has(second):
            raise CommandError(f"Options --{first} and --{second} are mutually exclusive")


def parse(words: Sequence[str], commands: dict[str, Command]) -> Invocation:
    """Read one command, its name first. UsageError says what is wrong, as virsh does."""
    command = commands.get(words[0])
    if command is None:
        raise UsageError(f"unknown command: '{words[0]}'")
    reader = _Reader(command, words[1:])
    invocation = reader.read()
    if not invocation.has("help"):
        _require(invocation)
    return invocation


class _Reader:
    """Reads the words after a command's name."""

    def __init__(self, command: Command, words: Sequence[str]) -> None:
        self._command = command
        self._words = list(words)
        self._invocation = Invocation(command)

    def read(self) -> Invocation:
        """Use up all words."""
        only_data = False
        while self._words:
            word = self._words.pop(0)
            if only_data or not word.startswith("--"):
                self._take_position(word)
            elif word == "--":
                only_data = True
            else:
                self._take_option(word.removeprefix("--"))
        return self._invocation

    def _take_option(self, text: str) -> None:
        name, equals, value = text.partition("=")
        option = self._command.option(name)
        if option is None:
            raise UsageError(f"command '{self._command.name}' doesn't support option --{name}")
        if option.kind is Kind.FLAG:
            self._take_flag(option, has_value=bool(equals))
            return
        self._refuse_repetition(option)
        if not equals:
            if not self._words:
                raise UsageError(f"expected syntax: --{name} {option.value_name}")
            value = self._words.pop(0)
        self._keep(option, value)

    def _take_flag(self, option: Option, *, has_value: bool) -> None:
        if option.stands_for is not None:
            if has_value:
                raise UsageError(f"invalid '=' after option --{option.name}")
            meant = self._command.option(option.stands_for[0])
            assert meant is not None
            self._refuse_repetition(meant)
            self._keep(meant, option.stands_for[1])
            return
        if option not in COMMON_OPTIONS:
            self._refuse_repetition(option)
        if has_value:
            raise UsageError(f"invalid '=' after option --{option.name}")
        self._invocation.flags.add(option.name)

    def _take_position(self, word: str) -> None:
        for option in self._command.options:
            if option.kind is Kind.FLAG or option.by_name_only:
                continue
            if option.kind is Kind.LIST or option.name not in self._invocation.texts:
                self._keep(option, word)
                return
        raise UsageError(f"unexpected data '{word}'")

    def _refuse_repetition(self, option: Option) -> None:
        if option.kind is not Kind.LIST and self._invocation.has(option.name):
            raise UsageError(f"option --{option.name} already seen")

    def _keep(self, option: Option, value: str) -> None:
        if option.kind is Kind.LIST:
            self._invocation.lists.setdefault(option.name, []).append(value)
        else:
            self._invocation.texts[option.name] = value


def _require(invocation: Invocation) -> None:
    command = invocation.command
    missing = [option for option in command.options if option.required and not invocation.has(option.name)]
    if missing:
        raise UsageError(*(f"command '{command.name}' requires {_required_name(option)} option" for option in missing))


def _required_name(option: Option) -> str:
    return f"<{option.name}>" if option.kind is Kind.TEXT else f"--{option.name}"


def split_commands(text: str) -> list[list[str]]:
    """Cut a command string into commands, each a list of words.

    As virsh reads it: `;` and the end of a line end a command, `#` at a word's begin starts a comment, `'…'` keeps all,
    `"…"` keeps all but a backslash, and a backslash keeps the character after it.
    """
    commands: list[list[str]] = [[]]
    position = 0
    while position < len(text):
        character = text[position]
        if character in ";\n":
            commands.append([])
            position += 1
        elif character.isspace():
            position += 1
        elif character == "#":
            position = _end_of_line(text, position)
        else:
            word, position = _read_word(text, position)
            commands[-1].append(word)
    return [words for words in commands if words]


def _end_of_line(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end


def _read_word(text: str, position: int) -> tuple[str, int]:
    """The word at `position`, without its quotes, and where it ends."""
    word: list[str] = []
    quote = ""
    while position < len(text):
        character = text[position]
        if not quote and (character.isspace() or character == ";"):
            break
        if character == "\\" and quote != "'" and position + 1 < len(text):
            position += 1
            word.append(text[position])
        elif quote and character == quote:
            quote = ""
        elif not quote and character in "'\"":
            quote = character
        else:
            word.append(character)
        position += 1
    if quote:
        raise UsageError(f"missing {quote}")
    return "".join(word), position
