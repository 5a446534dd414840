from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from automerge.errors import PreflightError
from automerge.evaluation.split import SplitPlan, document_hash, split_documents
from automerge.trial import PARTS

DOCS = {
    "a": [{"q": f"question {i}"} for i in range(400)],
    "b": [{"q": f"question {i}"} for i in range(390, 600)],
}
OBJECTIVES = {"a": ("a",), "b": ("b",), "both": ("a", "b")}


def part_of(split):
    return {
        (task, doc_id): part
        for part in PARTS
        for task, ids in split.items(part).items()
        for doc_id in ids
    }


def test_every_document_is_in_exactly_one_part_of_about_its_share():
    split = split_documents(DOCS, OBJECTIVES, SplitPlan())
    listed = [i for part in PARTS for ids in split.items(part).values() for i in ids]
    assert len(listed) == len(part_of(split)) == 610
    assert 160 <= len(split.items("search")["a"]) <= 240
    assert 70 <= len(split.items("test")["a"]) <= 130


def test_equal_documents_share_a_part_within_and_across_tasks():
    docs = {"a": [*DOCS["a"], *DOCS["a"][::-1]], "b": DOCS["b"]}
    where = part_of(split_documents(docs, OBJECTIVES, SplitPlan()))
    for i in range(400):
        assert where["a", i] == where["a", 799 - i]
    for i in range(10):
        assert where["a", 390 + i] == where["b", i]


def test_documents_added_later_move_no_other():
    before = part_of(split_documents(DOCS, OBJECTIVES, SplitPlan()))
    more = {**DOCS, "b": [*DOCS["b"], {"q": "new"}]}
    after = part_of(split_documents(more, OBJECTIVES, SplitPlan()))
    assert before.items() <= after.items()


def test_salt_and_documents_change_the_digest_and_key_order_does_not():
    digest = split_documents(DOCS, OBJECTIVES, SplitPlan()).digest
    assert digest != split_documents(DOCS, OBJECTIVES, SplitPlan(salt="x")).digest
    changed = {**DOCS, "b": [*DOCS["b"][:-1], {"q": "other"}]}
    assert digest != split_documents(changed, OBJECTIVES, SplitPlan()).digest
    assert document_hash({"a": 1, "b": 2}) == document_hash({"b": 2, "a": 1})


def test_limits_keep_a_subset_that_grows_with_the_limit():
    def kept(limit):
        plan = SplitPlan(max_items={"search": limit})
        split = split_documents(DOCS, {"both": ("a", "b")}, plan)
        return {(task, i) for task, ids in split.items("search").items() for i in ids}

    assert len(kept(50)) == 50
    assert kept(50) < kept(80)
    everything = split_documents(DOCS, {"both": ("a", "b")}, SplitPlan())
    whole = {(task, i) for task, ids in everything.items("search").items() for i in ids}
    assert kept(80) < whole


def test_every_part_too_small_is_named_with_its_numbers():
    with pytest.raises(PreflightError) as caught:
        split_documents({"a": DOCS["a"][:12]}, {"tiny": ("a",)}, SplitPlan())
    message = str(caught.value)
    assert message.count("objective 'tiny'") >= 2
    assert "of 12 documents" in message
    assert "at least 8" in message


def test_held_out_objectives_have_test_items_only_and_change_no_other():
    plan = SplitPlan(max_items={"test": 40})
    docs = {"a": DOCS["a"], "b": [{"q": f"other {i}"} for i in range(210)]}
    alone = split_documents({"a": docs["a"]}, {"one": ("a",)}, plan)
    split = split_documents(docs, {"one": ("a",), "two": ("b",)}, plan, held_out={"two"})
    for part in ("search", "select", "test"):
        assert split.items(part)["a"] == alone.items(part)["a"] != ()
    assert split.items("search")["b"] == split.items("select")["b"] == ()
    assert len(split.items("test")["b"]) == 40
    whole = split_documents(docs, {"one": ("a",), "two": ("b",)}, SplitPlan(), held_out={"two"})
    assert whole.items("test")["b"] == tuple(range(len(docs["b"])))


def test_a_held_out_objective_shares_the_test_items_of_a_searched_task():
    objectives = {"one": ("a",), "both": ("a", "b")}
    docs = {"a": DOCS["a"], "b": [{"q": f"other {i}"} for i in range(210)]}
    split = split_documents(docs, objectives, SplitPlan(), held_out={"both"})
    alone = split_documents({"a": docs["a"]}, {"one": ("a",)}, SplitPlan())
    assert split.items("search") == {"a": alone.items("search")["a"], "b": ()}
    assert split.items("test")["a"] == alone.items("test")["a"]


def test_what_is_like_a_held_out_document_is_left_out_of_the_search():
    docs = {"a": passages(0, 60), "b": passages(55, 90)}
    split = split_documents(docs, {"one": ("a",), "two": ("b",)}, SplitPlan(), held_out={"two"})
    shared = {i for i, document in enumerate(docs["a"]) if document in docs["b"]}
    assert shared
    for part in ("search", "select"):
        assert not shared & set(split.items(part)["a"])


def test_a_part_with_no_share_may_be_empty():
    plan = SplitPlan(fractions={"search": 0.5, "select": 0.0, "test": 0.5})
    split = split_documents(DOCS, OBJECTIVES, plan)
    assert not any(split.items("select").values())


def test_shares_must_add_up():
    with pytest.raises(ValueError, match="add up to 1"):
        SplitPlan(fractions={"search": 0.5, "select": 0.1, "test": 0.1})


@given(st.recursive(st.none() | st.floats() | st.text() | st.binary(), st.lists, max_leaves=5))
def test_any_document_can_be_hashed(value):
    assert document_hash({"x": value}) == document_hash({"x": value})


def passages(first, last):
    return [
        {"passage": f"passage {p} " * 12, "question": f"what of {q} in {p}"}
        for p in range(first, last)
        for q in range(4)
    ]


def test_questions_on_one_passage_share_a_part_and_later_ones_join_it():
    before = split_documents({"a": passages(0, 60)}, {"a": ("a",)}, SplitPlan())
    where = part_of(before)
    assert all(where["a", i] == where["a", i - i % 4] for i in range(240))
    assert 0.35 < sum(part == "search" for part in where.values()) / 240 < 0.65
    assert set(where.values()) == set(PARTS)
    assert [before.clusters["a"][i] for i in (0, 3, 4)] == [0, 0, 1]
    more = {"a": [*passages(0, 60), *passages(60, 80)]}
    assert where.items() <= part_of(split_documents(more, {"a": ("a",)}, SplitPlan())).items()


def test_without_clusters_parts_are_those_of_the_documents_own_hashes():
    split = split_documents(DOCS, OBJECTIVES, SplitPlan())
    for (task, i), part in part_of(split).items():
        unit = int(document_hash(DOCS[task][i], "automerge")[:16], 16) / 2.0**64
        assert part == ("search" if unit < 0.5 else "select" if unit < 0.75 else "test")
    assert split.notes == ()
    assert split.digest == "deb5b5c0b1d2a6e83be23bbec8e97cb13278b1f21e79701c7ca95c1b06046e76"


def test_a_task_with_dataset_splits_of_its_own_keeps_them():
    docs = {"a": DOCS["a"][:100], "a@train": DOCS["b"]}
    own = {"a": ("select", "test"), "a@train": ("search",)}
    split = split_documents(docs, {"a": ("a", "a@train")}, SplitPlan(), own)
    assert split.items("search") == {"a": (), "a@train": tuple(range(210))}
    assert split.items("test")["a@train"] == split.items("select")["a@train"] == ()
    assert len(split.items("select")["a"]) + len(split.items("test")["a"]) == 100
    assert 30 <= len(split.items("test")["a"]) <= 70


def test_what_a_later_part_holds_is_left_out_of_an_earlier_one():
    docs = {"a": passages(0, 30), "a@train": passages(25, 90)}
    own = {"a": ("test",), "a@train": ("search", "select")}
    split = split_documents(docs, {"a": ("a", "a@train")}, SplitPlan(), own)
    assert split.items("test")["a"] == tuple(range(120))
    assert min(min(split.items(part)["a@train"]) for part in ("search", "select")) == 20
    (note,) = split.notes
    assert "'a@train': 20 documents are left out" in note
