"""A summary's names and words are looked up in its source."""

import pytest
from support.source_trees import RUST

from interlock.summarize.grounding import Vocabulary, ground, stem

SOURCE = Vocabulary(RUST)


def test_names_that_occur_are_found_in_any_case_and_number() -> None:
    found = ground("The `Acceptor` wraps TcpListeners and std::net::TcpListener", SOURCE, "Rust")
    assert found.names == ("Acceptor", "TcpListeners", "std::net::TcpListener")
    assert found.unknown == ()


@pytest.mark.parametrize(
    "name",
    ["PixelBuffer", "read_frame", "draw()", "`framebuffer`", "std::io::Reader", "self.pixels"],
)
def test_a_name_that_does_not_occur_is_unknown(name: str) -> None:
    found = ground(f"This code defines {name} for connections", SOURCE, "Rust")
    assert found.unknown == (name.strip("`"),)


def test_another_language_than_its_own_is_unknown_and_its_own_is_not() -> None:
    assert ground("A Python listener", SOURCE, "Rust").unknown == ("Python",)
    assert ground("A Rust listener", SOURCE, "Rust").unknown == ()
    assert ground("A JavaScript listener", SOURCE, "JavaScript").unknown == ()


def test_words_are_supported_by_their_stems_and_by_parts_of_names() -> None:
    found = ground("Listening sockets accept TCP connections at an address", SOURCE, "Rust")
    assert found.content == 6
    assert found.supported == 5  # all but "sockets"


def test_words_that_fit_any_code_count_for_nothing() -> None:
    found = ground("This code defines a class with several methods for the user", SOURCE, "Rust")
    assert (found.names, found.content, found.share) == ((), 0, 0.0)


@pytest.mark.parametrize(
    "words",
    [
        ("listen", "listens", "listening", "listener", "listeners"),
        ("stop", "stops", "stopped", "stopping"),
        ("connect", "connected", "connection", "connections"),
    ],
)
def test_forms_of_a_word_have_one_stem(words: tuple[str, ...]) -> None:
    assert len({stem(word) for word in words}) == 1
