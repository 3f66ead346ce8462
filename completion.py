"""What the shell offers when Tab is pressed, and the scripts that make it ask.

`click` brings the protocol and a script for each shell; those for bash and zsh are written here, as click's put a
space after `pretrain_steps=` and after a folder, and bash's takes `precision=bf16` for three words. A key press must
not wait: nothing of ours is imported but the command line itself. So the keys that `-o` takes are read out of the
source of the configurations, since torch and pydantic take a second to import.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import click
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

HERE: Final = Path(__file__).parent
CONFIGS: Final[Mapping[str, tuple[str, str]]] = {
    "train murauer": ("learn/murauer_recipe.py", "MurauerConfig"),
    "train crossing": ("learn/crossing_recipe.py", "CrossingConfig"),
    "synth": ("synth/config.py", "SynthConfig"),
    "bootstrap": ("learn/murauer_recipe.py", "MurauerConfig"),
}
"""Where the keys of a command's `-o` are written: file and class."""
ARMS: Final[Mapping[str, tuple[str, str]]] = {
    "preview": ("learn/preview.py", "PreviewConfig"),
    "nearest": ("learn/nearest.py", "NearestConfig"),
    "paper-nearest": ("learn/nearest.py", "NearestConfig"),
}
"""Arms of a training with a configuration of their own."""
INSTALL: Final[Mapping[str, str]] = {
    "bash": "handloom completion bash > ~/.local/share/bash-completion/completions/handloom",
    "zsh": "handloom completion zsh > ~/.zfunc/_handloom   (a folder of your $fpath, read before compinit)",
    "fish": "handloom completion fish > ~/.config/fish/completions/handloom.fish",
}

_BASH: Final = r"""%(complete_func)s() {
    local IFS=$'\n' word words=() cut="" type value
    # Readline breaks words at = and :, which belong to KEY=VALUE and s3://; what it replaces begins after them.
    for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
        if (( ${#words[@]} )) && [[ $word == [=:]* || ${words[-1]} == *[=:] ]]; then
            words[-1]+=$word
        else
            words+=("$word")
        fi
    done
    word=${words[-1]}
    [[ $COMP_WORDBREAKS == *=* && $word == *=* ]] && cut=${word%%"${word##*=}"}
    [[ $COMP_WORDBREAKS == *:* && $word == *:* ]] && cut=${word%%"${word##*[=:]}"}
    while IFS=, read -r type value; do
        case $type in
            dir) COMPREPLY=(); compopt -o dirnames ;;
            file) COMPREPLY=(); compopt -o default ;;
            plain)
                COMPREPLY+=("$(printf %%q "${value#"$cut"}")")
                [[ $value == *[/=.] ]] && compopt -o nospace ;;
        esac
    done < <(env COMP_WORDS="${words[*]}" COMP_CWORD=$(( ${#words[@]} - 1 )) %(complete_var)s=bash_complete "$1")
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

_ZSH: Final = r"""#compdef %(prog_name)s
%(complete_func)s() {
    local -a whole open described response
    local type key descr
    (( ! $+commands[%(prog_name)s] )) && return 1
    response=("${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) \
        %(complete_var)s=zsh_complete %(prog_name)s)}")
    for type key descr in ${response}; do
        case $type in
            dir) _path_files -/ ;;
            file) _path_files -f ;;
            plain)
                if [[ $key == *[/=.] ]]; then open+=("$key")
                elif [[ $descr == _ ]]; then whole+=("$key")
                else described+=("$key:$descr")
                fi ;;
        esac
    done
    (( $#described )) && _describe -V unsorted described -U
    (( $#whole )) && compadd -U -V unsorted -a whole
    # Another word follows these without a space: a key's value, a folder's contents.
    (( $#open )) && compadd -S '' -U -V unsorted -a open
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""


def script(shell: str, command: click.Command) -> str:
    """What the shell is to run once, with the line that installs it."""
    known = get_completion_class(shell)
    assert known is not None
    asked: ShellComplete = known(command, {}, "handloom", "_HANDLOOM_COMPLETE")
    template = {"bash": _BASH, "zsh": _ZSH}.get(shell, known.source_template)
    return f"{(template % asked.source_vars()).strip()}\n# To install: {INSTALL[shell]}\n"


def marked_folders(incomplete: str, marker: str) -> list[CompletionItem[str]]:
    """Folders that hold a file of this name, whole; others with a slash, to go on in them."""
    typed, start = os.path.split(incomplete)
    prefix = incomplete[: len(incomplete) - len(start)]
    found: list[str] = []
    try:
        with os.scandir(Path(typed).expanduser()) as entries:
            for entry in entries:
                name = entry.name
                if not name.startswith(start) or (name.startswith(".") and not start) or not entry.is_dir():
                    continue
                marked = (Path(entry.path) / marker).is_file()
                # A Zarr group of another kind is nowhere to go on in.
                if marked or not (Path(entry.path) / "zarr.json").is_file():
                    found.append(f"{prefix}{name}" if marked else f"{prefix}{name}/")
    except (OSError, RuntimeError):  # RuntimeError: ~ of nobody
        return []
    return [CompletionItem(value) for value in sorted(found, key=lambda value: (value.endswith("/"), value))]


@dataclass(frozen=True, slots=True)
class _Key:
    help: str
    options: tuple[str, ...]
    inside: tuple[str, str] | None
    """File and class of the value, where it has keys of its own."""


def config_keys(ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
    """`key=` of a command's configuration; after the sign the values, where it takes one of a few."""
    words = ctx.command_path.split()[1:]
    place = next((CONFIGS[name] for name in (" ".join(words), words[0]) if name in CONFIGS), None)
    place = ARMS.get(str(ctx.params.get("arm")), place) if words[0] == "train" else place
    path, sign, _ = incomplete.partition("=")
    *parents, _ = path.split(".")
    for name in parents:
        key = _keys_of(*place).get(name) if place else None
        place = key.inside if key else None
    if place is None:
        return []
    keys, before = _keys_of(*place), "".join(f"{name}." for name in parents)
    if sign:
        key = keys.get(path[len(before) :])
        items = [CompletionItem(f"{path}={value}") for value in (key.options if key else ())]
    else:
        items = [CompletionItem(f"{before}{n}{'.' if k.inside else '='}", help=k.help or None) for n, k in keys.items()]
    return [item for item in items if item.value.startswith(incomplete)]


@cache
def _keys_of(file: str, name: str) -> dict[str, _Key]:
    """The fields of a class, those of its bases first, by what stands in the source."""
    tree = _tree(file)
    found = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name), None)
    keys: dict[str, _Key] = {}
    if found is None:
        return keys
    for base in found.bases:
        if isinstance(base, ast.Name) and (place := _place(file, base.id)) is not None:
            keys |= _keys_of(*place)
    for node, after in zip(found.body, [*found.body[1:], ast.Pass()], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            names = [part.id for part in ast.walk(node.annotation) if isinstance(part, ast.Name)]
            inside = next((p for one in names if (p := _place(file, one)) is not None and _keys_of(*p)), None)
            first = " ".join(str(text).split()).partition(". ")[0].partition("; ")[0].rstrip(".")
            keys[node.target.id] = _Key(first, tuple(_options(file, node.annotation)), inside)
    return keys


@cache
def _tree(file: str) -> ast.Module:
    return ast.parse((HERE / file).read_text(encoding="utf-8"))


def _place(file: str, name: str) -> tuple[str, str] | None:
    """The file of ours in which a class of this name is written, seen from another one."""
    for node in _tree(file).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return file, name
        if isinstance(node, ast.ImportFrom) and node.level and any(a.name == name for a in node.names):
            folder = (HERE / file).parents[node.level - 1]
            path = folder.joinpath(*(node.module or "").split(".")).with_suffix(".py")
            return (str(path.relative_to(HERE)), name) if path.is_file() else None
    return None


def _options(file: str, annotation: ast.expr) -> Iterator[str]:
    """The words that an annotation lists: of `Literal[...]`, of `bool`, of a name of either."""
    for part in ast.walk(annotation):
        if isinstance(part, ast.Subscript) and isinstance(part.value, ast.Name) and part.value.id == "Literal":
            yield from (str(c.value) for c in ast.walk(part.slice) if isinstance(c, ast.Constant))
        elif isinstance(part, ast.Name) and part.id == "bool":
            yield from ("true", "false")
        elif isinstance(part, ast.Name):
            yield from _options_named(file, part.id)


def _options_named(file: str, name: str) -> Iterator[str]:
    """Those of `Name = Literal[...]`, here or where it is imported from."""
    for node in _tree(file).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            yield from _options(file, node.value)
    place = _place(file, name)
    if place is not None and place[0] != file:
        yield from _options_named(place[0], name)
