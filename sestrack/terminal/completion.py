"""Completion for bash, zsh and fish, by the machinery that Typer carries with it.

`sestrack completion SHELL` prints a script.  On Tab the script runs `sestrack` with
`_SESTRACK_COMPLETE=complete_SHELL` and the line up to the cursor in `COMP_LINE`; what comes
back is what the shell is to do:

    bash    a line `plain`, then a word a line as it is to be inserted; or one line `file`, `dir`
    others  lines of kind, word, and help, with tabs between; a file's line ends in what stands
            before its name in the word, like `--report=`

Typer's own classes for shells are not used: they know no files, and its bash breaks at the
at-signs, colons and equals signs that bash takes for ends of words (`COMP_WORDBREAKS`).

A Tab never talks: trouble of any kind offers nothing, and so does a store that keeps it
waiting for `PATIENCE` seconds.
"""

from __future__ import annotations

import os
import re
import threading
from typing import Any, NamedTuple

from typer._click.shell_completion import CompletionItem, ShellComplete, add_completion_class

VARIABLE = "_SESTRACK_COMPLETE"
PATIENCE = 2.0


class Line(NamedTuple):
    """A command line up to the cursor."""

    words: list[str]
    """As the program would get them; the last one is being typed, and may be empty."""
    quote: str
    """The quote that the last word stands in, or ""."""
    kept: int
    """Characters of the last word that the shell will not replace."""


def read_line(line: str, breaks: str = "") -> Line:
    """Split a line as a shell does; `breaks` are the characters that end a word for readline."""
    words: list[str] = []
    word: str | None = None
    quote, kept = "", 0
    characters = iter(line)
    for character in characters:
        if quote and character == quote:
            quote = ""
        elif character == "\\" and quote != "'":
            word = (word or "") + next(characters, "")
        elif not quote and character in "\"'":
            quote, kept = character, len(word or "")
            word = word or ""
        elif not quote and character.isspace():
            if word is not None:
                words.append(word)
            word, kept = None, 0
        else:
            word = (word or "") + character
            if not quote and character in breaks:
                # of all that end a word, bash lets two begin the next (`rl_special_prefixes`)
                kept = len(word) - (character in "$@")
    return Line([*words, word or ""], quote, kept)


class _Shell(ShellComplete):
    source_template = ""

    def source_vars(self) -> dict[str, Any]:
        return {}

    def get_completion_args(self) -> tuple[list[str], str]:
        self.line = read_line(os.environ.get("COMP_LINE", ""), self._breaks())
        return self.line.words[1:-1], self.line.words[-1]

    def _breaks(self) -> str:
        return ""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        """Return whole words, with the `--option=` before a value too."""
        items = super().get_completions(args, incomplete)
        name, equals, value = incomplete.partition("=")
        self.before = f"{name}{equals}" if equals and name.startswith("--") else ""
        for item in items:
            if item.type == "plain":
                item.value = self.before + item.value
            else:
                item.value = value if self.before else incomplete
        return items

    def format_completion(self, item: CompletionItem) -> str:
        words = (item.type, item.value, item.help if item.type == "plain" else self.before)
        return "\t".join(re.sub(r"\s", " ", word or "") for word in words)

    def complete(self) -> str:
        guard = threading.Timer(PATIENCE, os._exit, (0,))
        guard.daemon = True
        guard.start()
        try:
            return super().complete()
        except Exception:  # noqa: BLE001 - a Tab never talks
            return ""
        finally:
            guard.cancel()


class _Bash(_Shell):
    name = "bash"

    def _breaks(self) -> str:
        return os.environ.get("COMP_WORDBREAKS", "")

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        items = super().get_completions(args, incomplete)
        if items and items[0].type == "plain":
            return [CompletionItem("plain", type="kind"), *items]
        return [CompletionItem(items[0].type, type="kind")] if items else []

    def format_completion(self, item: CompletionItem) -> str:
        """Write the part of a word that readline replaces, quoted as that part is."""
        if item.type == "kind":
            return str(item.value)
        rest: str = item.value[self.line.kept :]
        match self.line.quote:
            case "'":
                return rest.replace("'", "'\\''")
            case '"':
                return re.sub(r'([\\"$`])', r"\\\1", rest)
        return re.sub(r"([^\w@%+=:,./-])", r"\\\1", rest)


class _Zsh(_Shell):
    name = "zsh"


class _Fish(_Shell):
    name = "fish"


def register() -> None:
    """Tell Typer's machinery of the shells."""
    for shell in (_Bash, _Zsh, _Fish):
        add_completion_class(shell, shell.name)


SCRIPTS = {
    "bash": r"""# completion of sestrack for bash 4.4 or newer
_sestrack_completion() {
    local -a answer
    mapfile -t answer < <(
        COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" \
            _SESTRACK_COMPLETE=complete_bash "$1" 2>/dev/null
    )
    COMPREPLY=()
    case "${answer[0]}" in
        file) compopt -o default ;;
        dir) compopt -o dirnames ;;
        plain) compopt -o nosort; COMPREPLY=("${answer[@]:1}") ;;
    esac
}
complete -F _sestrack_completion sestrack
""",
    "zsh": r"""#compdef sestrack
# completion of sestrack for zsh
_sestrack_completion() {
    local line kind word help
    local -a plain described
    for line in "${(@f)$(
        COMP_LINE="${words[1,CURRENT-1]} $PREFIX" _SESTRACK_COMPLETE=complete_zsh \
            ${words[1]} 2>/dev/null
    )}"; do
        IFS=$'\t' read -r kind word help <<< "$line"
        case "$kind" in
            file|dir)
                [[ $PREFIX == --*=* ]] && compset -P '*='
                if [[ $kind == dir ]]; then _files -/; else _files; fi
                return
                ;;
            plain)
                if [[ -n $help ]]; then
                    described+=("${word//:/\\:}:$help")
                else
                    plain+=("$word")
                fi
                ;;
        esac
    done
    (( $#described )) && _describe -V sestrack described
    (( $#plain )) && compadd -V sestrack -a plain
}
if [[ ${zsh_eval_context[-1]} == loadautofunc ]]; then
    _sestrack_completion "$@"
else
    compdef _sestrack_completion sestrack
fi
""",
    "fish": r"""# completion of sestrack for fish
function _sestrack_completion
    set -l command (commandline -opc)[1]
    for line in (COMP_LINE=(commandline -cp | string collect) \
            _SESTRACK_COMPLETE=complete_fish $command 2>/dev/null)
        set -l parts (string split \t -- $line)
        switch $parts[1]
            case file
                for path in (__fish_complete_path $parts[2])
                    printf '%s%s\n' $parts[3] $path
                end
            case dir
                for path in (__fish_complete_directories $parts[2])
                    printf '%s%s\n' $parts[3] $path
                end
            case plain
                printf '%s\t%s\n' $parts[2] $parts[3]
        end
    end
end
complete --keep-order --no-files --command sestrack --arguments "(_sestrack_completion)"
""",
}
"""What is to be sourced, by the name of the shell."""
