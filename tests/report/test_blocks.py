"""Tables, tiles, facts and verdicts."""

from interlock.report import blocks


def test_table_aligns_numbers_and_escapes_the_rest() -> None:
    html = blocks.table(["step", "asked"], [["model <x>", "10,000"], ["analytic", "-3"]], "Steps")
    assert html.count('<td class="number">') == 2
    assert "<td>model &lt;x&gt;</td>" in html
    assert "<caption>Steps</caption>" in html
    sentence = blocks.table(["finding"], [["159 prompts name something that is not in their list"]])
    assert 'class="number"' not in sentence


def test_tiles_carry_their_tone() -> None:
    html = blocks.tiles([blocks.Tile("lost", "0", "after kill -9", "accepted")])
    assert '<div class="tile accepted">' in html
    assert "<strong>0</strong>" in html


def test_facts_and_verdicts_escape() -> None:
    assert "<dd>a&amp;b</dd>" in blocks.facts([("name", "a&b")])
    assert "<p>&lt;p&gt;</p>" in blocks.verdict("refused", "title", "<p>")


def test_lists_quotations_and_details_escape_what_they_hold() -> None:
    hostile = "<script>"
    html = (
        blocks.listing([hostile])
        + blocks.quotation("refused", hostile, hostile, hostile, hostile)
        + blocks.details(hostile, [blocks.preformatted(hostile)])
    )
    assert "<script>" not in html
    assert html.count("&lt;script&gt;") == 7


def test_a_tree_opens_without_a_script_and_escapes_its_texts() -> None:
    leaf = blocks.Branch("a.py", "Counts <b>.", "model's", "accepted")
    html = blocks.tree([blocks.Branch("src/", "Code.", children=(leaf,))])
    assert html.count("<details") == 1
    assert " open" in html
    assert "Counts &lt;b&gt;." in html
    assert 'class="leaf accepted"' in html
