"""Markdown, HTML and text become titled sections of readable text."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ingest.documents import read_html, read_markdown, read_text
from gateway.policies.chunking import Section

Read = Callable[[str, str], list[Section]]

MARKDOWN = """---
title: "The guide"
---
Before any heading.

# Install

Run *this* in a
[shell](http://x):

```sh
pip install x
```

## On Debian

- first
- second `code`

| a | b |
|---|---|
| 1 | 2 |

# Use
![a picture](x.png) of it
"""

HTML = """<html><head><title> A   page </title><style>p{}</style></head><body>
<nav>menu</nav><main><h1>Top</h1><p>Hello <b>bold</b>
 world.<br>More</p>loose <a href=x>link</a> end
<h2>Sub</h2><ul><li>one<li>two</ul><table><tr><th>a</th><td>b</td></tr></table>
<pre>x
  y</pre><script>evil()</script></main><footer>legal</footer></body></html>"""


def test_markdown_is_cut_at_its_headings_and_titled_by_their_path() -> None:
    assert read_markdown(MARKDOWN, "guide.md") == [
        Section("The guide", "Before any heading."),
        Section("The guide › Install", "Run this in a shell:\n\npip install x"),
        Section("The guide › Install › On Debian", "first\n\nsecond code\n\na | b\n\n1 | 2"),
        Section("The guide › Use", "a picture of it"),
    ]


def test_html_keeps_the_main_part_and_drops_menus_and_scripts() -> None:
    assert read_html(HTML, "page.html") == [
        Section("A page › Top", "Hello bold world.\n\nMore\n\nloose link end"),
        Section("A page › Top › Sub", "one\n\ntwo\n\na | b\n\nx\n  y"),
    ]


@pytest.mark.parametrize("read", [read_text, read_markdown, read_html])
def test_without_headings_the_files_name_is_the_title(read: Read) -> None:
    assert read("only words", "notes") == [Section("notes", "only words")]


@pytest.mark.parametrize("read", [read_text, read_markdown, read_html])
def test_nothing_readable_is_no_section(read: Read) -> None:
    assert read("  \n ", "notes") == []


@given(st.text(alphabet="<>/pbh1 #*-`|[]()\n&;=\"'a", max_size=400))
def test_any_text_is_read_without_an_error(text: str) -> None:
    for read in (read_text, read_markdown, read_html):
        assert all(section.title and section.text.strip() for section in read(text, "name"))


def test_a_page_nested_beyond_any_recursion_limit_is_read() -> None:
    page = "<div>" * 3000 + "deep" + "</div>" * 3000
    assert (
        "deep" in "".join(section.text for section in read_html(page, "name")) or read_html(page, "n") == []
    )
