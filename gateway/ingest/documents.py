"""Markdown, HTML and plain text -> titled sections. Pure: text in, values out."""

import re
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token
from selectolax.lexbor import LexborHTMLParser, LexborNode

from gateway.policies.chunking import Section

PATH_MARK: Final = " › "

_FRONT_MATTER: Final = re.compile(r"\A---\s*\n(.*?)\n(?:---|\.\.\.)\s*(?:\n|\Z)", re.DOTALL)
_FRONT_TITLE: Final = re.compile(r"^title:\s*[\"']?(.+?)[\"']?\s*$", re.MULTILINE)
_HEADINGS: Final = {f"h{level}": level for level in range(1, 7)}
_UNREAD: Final = "script, style, noscript, template, svg, nav, footer, aside, form, iframe, button"
_INLINE_TAGS: Final = """
a abbr b bdi bdo cite code data del dfn em font i img ins kbd label mark q s samp small span strong sub sup
time tt u var wbr -text
"""
_INLINE: Final = frozenset(_INLINE_TAGS.split())


class _Outline:
    """Collects blocks of text under the path of the headings above them."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._path: list[tuple[int, str]] = []
        self._blocks: list[str] = []
        self._sections: list[Section] = []

    def head(self, level: int, text: str) -> None:
        self._close()
        self._path = [part for part in self._path if part[0] < level] + [(level, _line(text))]

    def add(self, block: str) -> None:
        if block.strip():
            self._blocks.append(block.strip("\n").rstrip())

    def sections(self) -> list[Section]:
        self._close()
        return self._sections

    def _close(self) -> None:
        if self._blocks:
            names = dict.fromkeys([self._title, *(name for _, name in self._path)])
            title = PATH_MARK.join(name for name in names if name)
            self._sections.append(Section(title, "\n\n".join(self._blocks)))
        self._blocks = []


def read_text(text: str, name: str) -> list[Section]:
    """Plain text: one section, titled by the file's name."""
    return [Section(name, text)] if text.strip() else []


def read_markdown(text: str, name: str) -> list[Section]:
    """CommonMark with tables: a section a heading. The front matter's title, if any, stands first.

    Without headings or front matter the file's name is the title.
    """
    front = _FRONT_MATTER.match(text)
    found = _FRONT_TITLE.search(front.group(1)) if front else None
    tokens = MarkdownIt("commonmark").enable("table").parse(text[front.end() :] if front else text)
    headed = any(token.type == "heading_open" for token in tokens)
    outline = _Outline(found.group(1) if found else "" if headed else name)
    row: list[str] = []
    for before, token in zip([None, *tokens], tokens, strict=False):
        match token.type:
            case "inline" if before is not None and before.type == "heading_open":
                outline.head(_HEADINGS[before.tag], _plain(token))
            case "inline" if before is not None and before.type in ("th_open", "td_open"):
                row.append(_plain(token))
            case "inline":
                outline.add(_plain(token))
            case "tr_close":
                outline.add(" | ".join(row))
                row = []
            case "fence" | "code_block":
                outline.add(token.content)
            case "html_block":
                outline.add(" ".join(LexborHTMLParser(token.content).text(separator=" ").split()))
    return _titled(outline.sections(), name)


def _plain(inline: Token) -> str:
    """An inline's text without its marks; images by their description."""
    parts = []
    for child in inline.children or []:
        if child.type in ("softbreak", "hardbreak"):
            parts.append(" ")
        elif child.type in ("text", "code_inline", "image"):
            parts.append(child.content)
    return "".join(parts)


def read_html(text: str, name: str) -> list[Section]:
    """A page's main part, a section a heading, under the page's title; navigation and scripts left out."""
    tree = LexborHTMLParser(text)
    title = tree.css_first("title")
    outline = _Outline(_line(title.text()) if title else "")
    for node in tree.css(_UNREAD):
        node.decompose()
    root = tree.css_first("main") or tree.css_first("article") or tree.body
    if root is not None:
        _walk(root, outline)
    return _titled(outline.sections(), name)


def _walk(root: LexborNode, outline: _Outline) -> None:
    """Add each run of inline content as a block. Iterative: pages nest as deep as they like."""
    run: list[str] = []
    stack: list[LexborNode | None] = [root]
    while stack:
        node = stack.pop()
        tag = node.tag if node is not None else None
        if node is not None and tag in _INLINE:
            run.append(node.text(deep=True))
            continue
        outline.add(_line("".join(run)))
        run = []
        if node is None or tag == "-comment":
            continue
        if tag in _HEADINGS:
            outline.head(_HEADINGS[tag], node.text(deep=True))
        elif tag == "pre":
            outline.add(node.text(deep=True))
        elif tag == "tr":
            cells = (_line(cell.text(deep=True)) for cell in node.iter())
            outline.add(" | ".join(cell for cell in cells if cell))
        elif tag == "br":
            run.append(" ")
        else:
            # None closes the block: what follows it is another run.
            stack += [None, *reversed(list(node.iter(include_text=True)))]
    outline.add(_line("".join(run)))


def _titled(sections: list[Section], name: str) -> list[Section]:
    return [section if section.title else Section(name, section.text) for section in sections]


def _line(text: str) -> str:
    return " ".join(text.split())
