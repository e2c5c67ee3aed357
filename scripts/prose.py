"""Find wording that does not read as plain English: `python scripts/prose.py [FILE...]`.

Checks the comments, docstrings and strings of Python files, and the whole text of other files.
Without arguments these are all files that git tracks.  The patterns are few: each of them is nearly
always wrong here, and says what to write instead.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PATTERNS", "Pattern", "find", "main", "tracked"]

ROOT = Path(__file__).parents[1]

_SUFFIXES = {".css", ".html", ".js", ".md", ".py", ".sh", ".toml"}
# The patterns themselves, and a program that is not ours to change.
_EXCLUDED = {"scripts/prose.py", "tests/test_prose.py", "examples/seed_example.py"}

# What begins the lines of comments: not words of their text.
_MARKS = {"#", "#:", "//", "*"}


@dataclass(frozen=True)
class Pattern:
    """A wording to avoid, as a regular expression with single spaces between words."""

    wrong: str
    instead: str
    """What to write instead."""
    example: str
    """A text that has it."""
    right: tuple[str, ...]
    """Texts that do not, though they look alike."""


_VERBS = "asks|connects|expects|needs|publishes|reads|relies|sends|subscribes|waits|wants|writes"
_GOES = "clos(?:e|es|ed|ing)|end(?:s|ed|ing)?|stop(?:s|ped|ping)?"

PATTERNS = [
    Pattern(
        rf"(?:for|of|by|from) who (?:does|do|has|is|can|{_VERBS})",
        "'if you do X', 'for authors of X', 'of the caller'",
        "The protocol, for who writes a client.",
        ("It depends on who sends it.", "a list of users who can write"),
    ),
    Pattern(
        rf"Who (?:does not|has|{_VERBS})(?![^.]*\?)|who (?:{_VERBS}) is",
        "'if you do X', 'a client that does X'",
        "Who sends once in a turn waits.",
        ("Who sends it?", "a client who asks in time"),
    ),
    Pattern(
        r"(?<!here )(?:is|are|was|were) no (?!longer|more|less|different|one\b|\w+er than)\w+",
        "'is not a(n) X', 'is not valid X'",
        "the payload is no JSON",
        ("there is no connection", "it is no longer open", "if there are no topics"),
    ),
    Pattern(
        r"(?:that|it|which|this) (?:is|are|was) none",
        "say what it is: 'is invalid', 'is missing'",
        "an id that is none",
        ("there is none", "it is None"),
    ),
    Pattern(
        r"what (?:can't|cannot|can not) be",
        "name it: 'an invalid X', 'messages that can't be ...'",
        "It drops what can't be sent.",
        ("messages that can't be sent", "He asked what can be sent."),
    ),
    Pattern(
        r"(?:broker|peer|service|client)'s word|(?:its|their) word (?:that|for)",
        "'confirmation', 'reply'",
        "Wait for the broker's word.",
        ("the broker's words are logged", "Wait for the broker's confirmation."),
    ),
    Pattern(
        r"stands? (?:in(?! for)|behind|beside|above|below)",
        "'is (documented) in', 'follows'",
        "What cancellation does stands in the docstrings.",
        ("A stand-in for the clock.", "a fake that stands in for it"),
    ),
    Pattern(
        r"hear(?:s|d)? of",
        "'is notified of', 'receives'",
        "`on_error` hears of it.",
        ("the subscriber receives it", "he heard offers"),
    ),
    Pattern(
        r"(?:is|are|was|were|be|been) told(?! (?:to|not to|otherwise|apart))",
        "'is notified of', 'gets', 'is reported to'",
        "`on_error` is told.",
        ("unless it is told otherwise", "if it is told to stop"),
    ),
    Pattern(
        r"tells? (?:whether|what|when|where|why|how|which)",
        "'shows', 'explains', 'returns whether'",
        "The help tells which options there are.",
        ("It tells the broker which one.", "It shows which one."),
    ),
    Pattern(
        r"so many(?! \w+ (?:\w+ )?that)",
        "'up to N', 'that many', 'as many as'",
        "Stop after so many messages.",
        ("There are so many tests that it takes an hour.",),
    ),
    Pattern(
        r"(?:at|to|until|till) its end|to the end(?! of)|(?:have|has|had) done with",
        "'shutdown', 'until it closes', 'drop'",
        "Handlers run to the end.",
        ("appended to the end of the list", "it is done"),
    ),
    Pattern(
        r"(?:graver|befall(?:s|en)?|befell|anew|thereof|therein|whereof|lest|in vain)",
        "'more severe', 'happens to', 'again', 'in it', 'so that ... not', 'without success'",
        "The list is made anew.",
        ("The list is made again.", "a new list"),
    ),
    Pattern(
        r"[Ww]hoever|[Ww]homever",
        "'the caller', 'anyone who', 'the client that'",
        "The task of whoever calls it.",
        ("Anyone who calls it.",),
    ),
    Pattern(
        r"whatever (?:becomes|comes) of|comes? of (?:it|them)",
        "'what happens to', 'the result'",
        "Commit what comes of it.",
        ("It becomes one of the others.", "what became of the request"),
    ),
    Pattern(
        r"(?:no|none|nothing|nobody|nowhere) (?:\w+ )?but (?:by|for|in|with|what|the)",
        "'except', 'only'",
        "It is left by nobody but the loop.",
        ("It takes no time, but by then it is late.", "nothing except the loop"),
    ),
    Pattern(
        rf"(?:{_GOES}) in order(?! (?:to|of))",
        "'closed cleanly', 'shut down cleanly'",
        "The connection has ended in order.",
        ("It stops in order to save time.", "they end in order of age"),
    ),
    Pattern(
        r"(?:to|can|can't|cannot|could|will) be had",
        "'is available', 'can be installed'",
        "If it can't be had, the test is skipped.",
        ("It can be handled.",),
    ),
    Pattern(
        r"all the same(?=[.,;:)])",
        "'anyway', 'nevertheless'",
        "It serves all the same.",
        ("They are all the same length.",),
    ),
    Pattern(
        r"the house|door to|strangers",
        "'architecture', 'package', 'untrusted clients'",
        "The batteries-included door to MB.",
        ("It runs indoors.", "a warehouse"),
    ),
]

_COMPILED = [
    (re.compile(rf"(?<![\w-])(?:{pattern.wrong})(?![\w-])"), pattern) for pattern in PATTERNS
]


def find(text: str) -> Iterator[tuple[int, str, Pattern]]:
    """Yield each wording to avoid: where it begins in `text`, its text, and its pattern."""
    words = [word for word in re.finditer(r"\S+", text) if word[0] not in _MARKS]
    sentence = " ".join(word[0] for word in words)
    for expression, pattern in _COMPILED:
        for match in expression.finditer(sentence):
            index = sentence.count(" ", 0, match.start())
            yield words[index].start(), match[0], pattern


def tracked(root: Path = ROOT) -> list[Path]:
    """Return the files that are checked: those with text for people that git tracks."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True
    )
    names = [name for name in listed.stdout.splitlines() if name not in _EXCLUDED]
    paths = [root / name for name in names]
    return [path for path in paths if path.suffix in _SUFFIXES and path.is_file()]


def main(arguments: list[str]) -> str | None:
    """Print what is found, and return how much it is; None if there is nothing."""
    count = 0
    for path in [Path(each) for each in arguments] or tracked():
        shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        for line, wording, pattern in sorted(_found(path), key=lambda each: each[0]):
            print(f"{shown}:{line}: {wording!r}: write {pattern.instead}")
            count += 1
    return f"{count} wordings to change" if count else None


def _found(path: Path) -> Iterator[tuple[int, str, Pattern]]:
    source = path.read_text(encoding="utf-8")
    texts = _python_texts(source) if path.suffix == ".py" else [(1, source)]
    for line, text in texts:
        for position, wording, pattern in find(text):
            yield line + text.count("\n", 0, position), wording, pattern


def _python_texts(source: str) -> Iterator[tuple[int, str]]:
    """Yield the strings and comments, each with the number of its first line."""
    parts: set[ast.AST] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            parts.update(node.values)
            yield node.lineno, "".join(_text_of(value) for value in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in parts:
            yield node.lineno, node.value
    yield from _comments(tokenize.generate_tokens(io.StringIO(source).readline))


def _text_of(value: ast.expr) -> str:
    """Return a part of an f-string; a replacement field is a word of its own kind."""
    return str(value.value) if isinstance(value, ast.Constant) else "{}"


def _comments(tokens: Iterable[tokenize.TokenInfo]) -> Iterator[tuple[int, str]]:
    """Yield comments; those on lines that follow each other are one text."""
    first, lines = 0, list[str]()
    for token in tokens:
        if token.type != tokenize.COMMENT:
            continue
        if lines and token.start[0] == first + len(lines) and token.line.lstrip().startswith("#"):
            lines.append(token.string)
        else:
            if lines:
                yield first, "\n".join(lines)
            first, lines = token.start[0], [token.string]
    if lines:
        yield first, "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
