from __future__ import annotations

import json
import random
import time
from collections import Counter
from pathlib import Path

import pytest

import automerge.demo
from automerge.evaluation.duplicates import SIMILAR, find_clusters
from automerge.evaluation.split import document_hash

RARE = [f"r{i}" for i in range(4000)]


def cluster(documents):
    hashes = {task: [document_hash(d) for d in docs] for task, docs in documents.items()}
    return find_clusters(documents, hashes)


def together(documents):
    """The partition of all documents, as sets of (task, doc id)."""
    groups = {}
    for task, labels in cluster(documents).of.items():
        for doc_id, label in enumerate(labels):
            groups.setdefault(label, set()).add((task, doc_id))
    return {frozenset(group) for group in groups.values()}


def text(rng, words):
    return " ".join(rng.choice(RARE) for _ in range(words))


def noise(rng, n, words=30):
    return [{"q": text(rng, words)} for _ in range(n)]


def naive_similarity(a, b):
    def bag(words):
        padded = ["", "", "", "", *words.split(), "", "", "", ""]
        return Counter(tuple(padded[i : i + 5]) for i in range(len(padded) - 4))

    a, b = bag(a), bag(b)
    common = sum((a & b).values())
    return common / (sum(a.values()) + sum(b.values()) - common)


def test_questions_on_one_passage_are_one_cluster():
    rng = random.Random(0)
    docs = [
        {"passage": passage, "question": text(rng, 8), "label": i % 2}
        for passage in (text(rng, 40) for _ in range(50))
        for i in range(3)
    ]
    assert together({"boolq": docs}) == {
        frozenset(("boolq", 3 * k + i) for i in range(3)) for k in range(50)
    }


def test_a_passage_is_found_within_lists_and_across_tasks():
    rng = random.Random(1)
    passage = text(rng, 60)
    docs = {
        "a": [{"story": {"input_text": [passage, text(rng, 5)]}}, *noise(rng, 20)],
        "b": [{"context": f" {passage}\n", "q": text(rng, 30)}, *noise(rng, 20)],
    }
    assert frozenset({("a", 0), ("b", 0)}) in together(docs)
    assert len(together(docs)) == 41


def test_an_instruction_joins_nothing():
    rng = random.Random(2)
    instruction = text(rng, 80)
    docs = [{"instruction": instruction, "question": text(rng, 10)} for _ in range(100)]
    assert len(together({"t": docs})) == 100
    assert cluster({"t": docs}).notes == ()


def test_a_text_in_many_documents_that_is_no_sure_instruction_is_noted():
    rng = random.Random(3)
    passage = text(rng, 80)
    docs = [{"passage": passage, "question": text(rng, 60)} for _ in range(30)]
    (note,) = cluster({"t": docs + noise(rng, 70)}).notes
    assert "task 't': 1 texts each occur in more than 10 documents" in note


def test_an_edited_copy_is_a_near_duplicate_and_its_name_does_not_count():
    rng = random.Random(4)
    original = text(rng, 60)
    words = original.split()
    words[30] = "other"
    docs = [
        {"id": "x1", "q": original},
        {"id": "x2", "q": " ".join(words)},
        {"id": "x3", "q": f"{original.upper()} "},
        {"id": "x4", "q": "Is it so?"},
        {"id": "x5", "q": "is  IT so?"},
        *noise(rng, 50),
    ]
    found = together({"t": docs})
    assert frozenset({("t", 0), ("t", 1), ("t", 2)}) in found
    assert frozenset({("t", 3), ("t", 4)}) in found
    assert len(found) == 52


def test_clusters_are_those_of_all_pairs_compared_naively():
    rng = random.Random(5)
    texts = []
    for _ in range(40):
        known = RARE[: rng.choice([30, 4000])]
        original = [rng.choice(known) for _ in range(rng.randint(15, 150))]
        for _ in range(rng.randint(1, 4)):
            copy = list(original)
            for _ in range(rng.randint(0, 3)):
                copy[rng.randrange(len(copy))] = rng.choice(known)
            texts.append(" ".join(copy))
    for length in range(36, 50):  # one changed word in 41 is the threshold
        for _ in range(2):
            original = text(rng, length).split()
            copy = list(original)
            copy[rng.randrange(length)] = rng.choice(RARE)
            texts += [" ".join(original), " ".join(copy)]
    parent = list(range(len(texts)))

    def root(i):
        return i if parent[i] == i else root(parent[i])

    edges = 0
    for i in range(len(texts)):
        for j in range(i):
            if naive_similarity(texts[i], texts[j]) >= SIMILAR:
                parent[root(i)] = root(j)
                edges += 1
    assert edges > 20
    expected = {}
    for i in range(len(texts)):
        expected.setdefault(root(i), set()).add(("t", i))
    assert together({"t": [{"q": t} for t in texts]}) == {
        frozenset(group) for group in expected.values()
    }


@pytest.mark.parametrize(
    "template",
    [
        "clock:{a}-{b}=",
        "is {a} more than {b} ?",
        "The {a} did not fit into the {b} because it was too large. What was too large?",
    ],
)
def test_templated_questions_that_differ_in_decisive_words_stay_apart(template):
    rng = random.Random(6)
    docs = {}
    while len(docs) < 500:
        a, b = rng.randrange(100), rng.randrange(100)
        question = template.format(a=a, b=b)
        docs[question] = {"prompt": question, "answer": str(a), "choices": ["a", "b", "c"]}
    assert len(together({"t": list(docs.values())})) == 500


def test_long_templates_with_short_gaps_stay_apart():
    rng = random.Random(7)
    frame = text(rng, 300).split()
    docs = []
    for i in range(300):
        words = list(frame)
        words[10], words[150] = f"v{i // 5}", f"w{i % 60}"
        docs.append({"q": " ".join(words)})
    assert len(together({"t": docs})) == 300
    assert cluster({"t": docs}).notes == ()


def test_rare_names_in_a_common_frame_stay_apart():
    rng = random.Random(11)
    frame = text(rng, 8)
    ends = [text(rng, 6) for _ in range(4)]
    docs = [{"q": f"r{i} s{i} {frame} {end}"} for i in range(30) for end in ends]
    assert len(together({"t": docs})) == 120


def test_texts_that_repeat_a_word_differ_by_how_often():
    rng = random.Random(12)
    docs = [{"q": "go " * 30 + "on " * 6}, {"q": "go " * 6 + "on " * 30}, *noise(rng, 20)]
    assert len(together({"t": docs})) == 22


def test_the_documents_of_the_demo_stay_apart():
    docs = {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(Path(automerge.demo.__file__).parent.glob("tasks/*.jsonl"))
    }
    found = cluster(docs)
    assert found.notes == ()
    assert [len(set(labels)) for labels in found.of.values()] == [2000] * 4


def test_a_chain_without_end_falls_apart_into_equal_documents():
    rng = random.Random(8)
    links = [text(rng, 40) for _ in range(41)]
    docs = [{"contexts": [links[i], links[i + 1]], "q": text(rng, 100)} for i in range(40)]
    docs += [docs[0], *noise(rng, 60)]
    found = cluster({"t": docs})
    assert len(set(found.of["t"])) == 100
    assert found.of["t"][0] == found.of["t"][40]
    assert "task 't': 40 documents resemble each other in chains of more than 10" in found.notes[0]


def test_documents_without_words_are_clusters_of_their_own():
    docs = [{"q": ""}, {"q": None}, {"q": []}, {"x": True}, {"q": "   "}]
    assert len(together({"t": docs, "empty": []})) == 5


def test_languages_without_spaces_are_compared_sign_by_sign():
    rng = random.Random(9)
    signs = [chr(0x4E00 + i) for i in range(3000)]
    original = rng.choices(signs, k=80)
    other = [*original[:40], "一", *original[41:]]
    docs = [{"q": "".join(original)}, {"q": "".join(other)}]
    docs += [{"q": "".join(rng.choices(signs, k=80))} for _ in range(10)]
    assert len(together({"t": docs})) == 11


@pytest.mark.slow
def test_ten_thousand_documents_take_seconds():
    rng = random.Random(10)
    docs = [{"passage": text(rng, 120), "question": text(rng, 15)} for _ in range(10_000)]
    began = time.perf_counter()
    assert len(set(cluster({"t": docs}).of["t"])) == 10_000
    assert time.perf_counter() - began < 20
