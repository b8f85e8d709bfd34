import itertools

from hypothesis import given
from hypothesis import strategies as st

from gateway.policies.citations import MarkerFilter

ANSWERS = st.lists(
    st.sampled_from(
        [
            "It was 1901",
            " [1]",
            "[2]",
            " [9]",
            "[1, 9]",
            "[9,8]",
            " ",
            "[",
            "]",
            "`",
            "```",
            "x[0]",
            "3",
            ",",
            "\n",
        ]
    ),
    max_size=20,
).map("".join)


def run(pieces: list[str], numbers: set[int]) -> tuple[str, MarkerFilter]:
    marker_filter = MarkerFilter(numbers)
    text = "".join(marker_filter.feed(piece) for piece in pieces) + marker_filter.flush()
    return text, marker_filter


@given(ANSWERS, st.lists(st.integers(0, 200), max_size=6))
def test_any_split_gives_the_same_text_and_citations(answer: str, cuts: list[int]) -> None:
    places = [0, *sorted(cut % (len(answer) + 1) for cut in cuts), len(answer)]
    pieces = [answer[a:b] for a, b in itertools.pairwise(places)]
    whole_text, whole = run([answer], {1, 2})
    text, parts = run(pieces, {1, 2})
    assert text == whole_text
    assert parts.citations == whole.citations


@given(ANSWERS)
def test_every_citation_points_at_its_own_marker_and_only_at_known_passages(answer: str) -> None:
    text, marker_filter = run([answer], {1, 2})
    for citation in marker_filter.citations:
        assert citation.number in {1, 2}
        marker = text[citation.start : citation.end]
        assert marker[0] == "["
        assert marker[-1] == "]"
        assert str(citation.number) in marker


def test_an_unknown_number_goes_with_the_space_before_it() -> None:
    text, marker_filter = run(["Röntgen won [1] in 1901 [7]."], {1})
    assert text == "Röntgen won [1] in 1901."
    assert [(c.number, c.start, c.end) for c in marker_filter.citations] == [(1, 12, 15)]


def test_a_list_keeps_the_numbers_that_exist() -> None:
    assert run(["So it is [1, 9, 2]."], {1, 2})[0] == "So it is [1, 2]."


def test_code_is_left_alone() -> None:
    code = "See [1]:\n```\nitems[0] = rows[7]\n```\nand [7]."
    assert run([code], {1})[0] == "See [1]:\n```\nitems[0] = rows[7]\n```\nand."


def test_text_without_markers_passes_at_once() -> None:
    marker_filter = MarkerFilter({1})
    assert marker_filter.feed("Nothing held.") == "Nothing held."
    assert marker_filter.feed(" See [") == " See"
    assert marker_filter.feed("sic]") == " [sic]"
