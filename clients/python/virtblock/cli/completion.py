# SPDX-License-Identifier: Apache-2.0
"""`completion`: scripts for bash and zsh, made from the tables of commands.

Owns: the two scripts. Invariant: what they offer is what the grammar takes; names of domains, disks and jobs are asked
of the server while one types, and a server that is away offers none.
"""

from __future__ import annotations

import shlex

from virtblock.cli.command_tables import COMMANDS
from virtblock.cli.failures import CommandError
from virtblock.cli.global_options import GLOBAL_WORDS
from virtblock.cli.grammar import COMMON_OPTIONS, Command, Invocation, Kind
from virtblock.cli.output import Output

# What an option of this name is completed with; every other one with files.
_SOURCES = {"domain": "domains", "path": "disks", "device": "disks", "job": "jobs", "command": "commands"}

_BASH = """\
# bash completion of virtblock. Try it: . <(virtblock completion bash)
_virtblock_ask() {
    command virtblock "${globals[@]}" --quiet "$@" 2>/dev/null </dev/null
}

_virtblock_values() {
    case "$1" in
        domains) _virtblock_ask list --all --name ;;
        disks) [[ -n $domain ]] && _virtblock_ask domblklist "$domain" | awk '{ print $1 }' ;;
        jobs) _virtblock_ask jobs --all --id ;;
        commands) printf '%s\\n' COMMAND_NAMES ;;
        *) compgen -f -- "$current" ;;
    esac
}

_virtblock_words() {
    local word
    for word in $1; do
        [[ $word == "$current"* ]] && COMPREPLY+=("$word")
    done
}

_virtblock() {
    COMPREPLY=()
    local current=${COMP_WORDS[COMP_CWORD]} command= domain= wanted= word index positions options values
    local -a globals=() taken=()
    for ((index = 1; index < COMP_CWORD; index++)); do
        word=${COMP_WORDS[index]}
        if [[ -z $command ]]; then
            case "$word" in
                GLOBAL_VALUES) globals+=("$word" "${COMP_WORDS[index + 1]}"); ((index++)) ;;
                -*) globals+=("$word") ;;
                *) command=$word ;;
            esac
        else
            taken+=("$word")
        fi
    done
    if [[ -z $command ]]; then
        _virtblock_words 'GLOBAL_WORDS COMMAND_NAMES'
        return
    fi
    case "$command" in
CASES
        *) return ;;
    esac
    local -a sources=($positions)
    local position=0 expects=
    for word in "${taken[@]}"; do
        if [[ -n $expects ]]; then
            [[ $expects == domains ]] && domain=$word
            [[ " $positions " == *" $expects "* ]] && ((position++))
            expects=
        elif [[ $word == --* ]]; then
            expects=$(for wanted in $values; do [[ ${wanted%%=*} == "$word" ]] && printf '%s' "${wanted#*=}"; done)
        else
            [[ ${sources[position]} == domains ]] && domain=$word
            ((position++))
        fi
    done
    if [[ -n $expects ]]; then
        wanted=$expects
    elif [[ $current == -* ]]; then
        _virtblock_words "$options"
        return
    else
        wanted=${sources[position]}
        [[ -z $wanted ]] && return
    fi
    while IFS= read -r word; do
        [[ -n $word && $word == "$current"* ]] && COMPREPLY+=("$(printf '%q' "$word")")
    done < <(_virtblock_values "$wanted")
}

complete -o nosort -F _virtblock virtblock 2>/dev/null || complete -F _virtblock virtblock
"""

_ZSH = """\
#compdef virtblock
# zsh completion of virtblock: it goes by bash's, which zsh can run.
autoload -U +X bashcompinit && bashcompinit
"""


def run_completion(output: Output, invocation: Invocation) -> None:
    """Print the script for a shell."""
    shell = invocation.required("shell")
    if shell not in ("bash", "zsh"):
        raise CommandError(f"no completion for shell '{shell}'; there is one for bash and one for zsh")
    text = script(shell)
    output.result({"shell": shell, "script": text}, text)


def script(shell: str) -> str:
    """The script for "bash" or "zsh"."""
    text = _BASH.replace("CASES\n", "".join(_case(command) for command in COMMANDS.values()))
    text = text.replace("COMMAND_NAMES", " ".join(COMMANDS)).replace("GLOBAL_WORDS", " ".join(GLOBAL_WORDS))
    text = text.replace("GLOBAL_VALUES", "|".join(word for word, has_value in GLOBAL_WORDS.items() if has_value))
    return _ZSH + text if shell == "zsh" else text


def _case(command: Command) -> str:
    """What one command takes: its options, the sources of its positions, and of its named values."""
    shown = [option for option in command.options if option.stands_for is None]
    options = " ".join(f"--{option.name}" for option in (*command.options, *COMMON_OPTIONS))
    valued = [option for option in shown if option.kind is not Kind.FLAG]
    positions = " ".join(_source(option.name) for option in valued if not option.by_name_only)
    values = " ".join(f"--{option.name}={_source(option.name)}" for option in valued)
    assignments = [
        f"{name}={shlex.quote(text)}"
        for name, text in (("options", options), ("positions", positions), ("values", values))
    ]
    return f"        {command.name}) {' '.join(assignments)} ;;\n"


def _source(name: str) -> str:
    return _SOURCES.get(name, "files")
