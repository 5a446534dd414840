"""Honest programs are judged as `exec` of program and tests in one string judges them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from automerge.errors import PreflightError
from automerge.evaluation.guards import MetricError
from automerge.evaluation.lm_eval.cage import launch
from automerge.evaluation.lm_eval.cage.launch import passes
from automerge.evaluation.lm_eval.cage.wire import Broken, Decoder, Encoder

SECONDS = 20.0
HUMANEVAL = """

METADATA = {{'author': 'x'}}


def check(candidate):
{body}

check({entry})
"""

JUDGED = {
    "a plain function": ("def f(x): return x * x", "assert f(3) == 9", "assert f(3) == 8"),
    "tuples": ("def f(x): return x, [x]", "assert f(1) == (1, [1])", "assert f(1) == [1, [1]]"),
    "nothing": ("def f(): pass", "assert f() is None", "assert f() == 0"),
    "truth": ("def f(): return 1 > 0", "assert f() is True", "assert f() is False"),
    "true is one": ("def f(): return True", "assert f() == 1", "assert f() == 2"),
    "sets": ("def f(x): return set(x)", "assert f([1, 1]) == {1}", "assert f([1]) == [1]"),
    "frozen sets": (
        "def f(x): return frozenset(x)",
        "assert {f([1]): 2} == {frozenset({1}): 2}",
        "assert f([1]) == {2}",
    ),
    "nested": (
        "def f(): return {'a': [(1, {2.5}), None], 3: b'x', (1,): 2j}",
        "assert f() == {'a': [(1, {2.5}), None], 3: b'x', (1,): 2j}",
        "assert f() == {'a': [[1, {2.5}], None], 3: b'x', (1,): 2j}",
    ),
    "floats": (
        "def f(x): return x / 3",
        "import math\nassert math.isclose(f(1), 1 / 3) and abs(f(1) - 0.333) < 1e-2",
        "assert f(1) == 0.33",
    ),
    "what is not a number": (
        "def f(s): return s * 1e308 * 10 if s else float('nan')",
        "assert f(0) != f(0) and f(1) == float('inf') and f(-1) < -1e300",
        "assert f(0) == f(0)",
    ),
    "long integers": (
        "def f(n): return n ** 9000 - 1",
        "assert f(10) + 1 == 10 ** 9000 and f(-3) == -(3 ** 9000) - 1 or f(-3) == 3 ** 9000 - 1",
        "assert f(10) == 10 ** 9000",
    ),
    "texts": (
        "def f(x): return x[::-1] + '\\ud800\\x00é'",
        "assert f('ab') == 'ba\\ud800\\x00é' and f('ab').startswith('ba')",
        "assert f('ab').startswith('ab')",
    ),
    "recursion": (
        "def f(n): return 1 if n < 2 else n * f(n - 1)",
        "assert f(200) % 1009 == 0 or f(5) == 120",
        "assert f(5) == 100",
    ),
    "too deep a recursion": (
        "def f(n): return f(n + 1)",
        "try:\n    f(0)\n    raise SystemExit\nexcept RecursionError:\n    pass",
        "f(0)",
    ),
    "an error that is expected": (
        "def f(x):\n    if x < 0: raise ValueError('too small', x)\n    return x",
        "try:\n    f(-1)\n    assert False\nexcept ValueError as e:\n"
        "    assert e.args == ('too small', -1)",
        "f(-1)",
    ),
    "an error of its own": (
        "class Small(ValueError): pass\ndef f(x): raise Small(x)",
        "for kind in (Small, ValueError, Exception):\n    try:\n        f(1)\n"
        "    except kind as e:\n"
        "        assert str(e) == '1'",
        "try:\n    f(1)\nexcept KeyError:\n    pass",
    ),
    "another error": (
        "def f(x): return [][x]",
        "try: f(1)\nexcept IndexError: pass",
        "try: f(1)\nexcept KeyError: pass",
    ),
    "a list that it changes": (
        "def f(xs):\n    xs.sort()\n    xs.append(xs)",
        "a = [3, 1]\nb = (a, 2)\nassert f(a) is None\n"
        "assert a[:2] == [1, 3] and a[2] is a and b[0] is a",
        "a = [3, 1]\nf(a)\nassert a == [3, 1]",
    ),
    "one list twice": (
        "def f(xs, ys):\n    xs.append(1)\n    return xs is ys, ys",
        "a = []\nsame, back = f(a, a)\nassert same and back is a and a == [1]\n"
        "assert f([], [])[0] is False",
        "a = []\nassert f(a, [])[0]",
    ),
    "nested changes": (
        "def f(d):\n    d['x'].append({'y': d['x']})\n    del d['z']",
        "x = [1]\nd = {'x': x, 'z': {1}}\nf(d)\nassert list(d) == ['x'] and x[1]['y'] is x",
        "d = {'x': [], 'z': 1}\nf(d)\nassert d['z'] == 1",
    ),
    "other containers": (
        "from collections import *\ndef f(w):\n    d = defaultdict(list)\n    d[1].append(w)\n"
        "    return Counter(w), OrderedDict(a=1), d, deque(w, maxlen=2), bytearray(b'a')",
        "c, o, d, q, b = f('aab')\nassert c == {'a': 2, 'b': 1} and c.most_common(1) == "
        "[('a', 2)]\n"
        "assert c['z'] == 0 and list(o) == ['a'] and d == {1: ['aab']} and d[2] == []\n"
        "assert list(q) == ['a', 'b'] and q.maxlen == 2 and b == b'a'",
        "assert f('aab')[0] == {'a': 1, 'b': 1}",
    ),
    "subclasses of plain values": (
        "import enum\nfrom collections import namedtuple\nP = namedtuple('P', 'x y')\n"
        "class C(enum.IntEnum): RED = 3\nclass L(list): pass\n"
        "def f(): return P(1, 2), C.RED, L([1])",
        "p, c, xs = f()\nassert p == (1, 2) and c == 3 and xs == [1] and P(1, 2) == (1, 2)",
        "assert f()[1] == 4",
    ),
    "numbers and times": (
        "from decimal import Decimal\nfrom fractions import Fraction\nimport datetime\n"
        "def f(): return Decimal('0.1') * 3, Fraction(1, 3), datetime.date(2020, 2, 29), "
        "datetime.datetime(2020, 1, 1, 2), datetime.timedelta(1, 2), range(1, 9, 3), slice(2)",
        "from decimal import Decimal as D\nfrom fractions import Fraction as F\n"
        "import datetime as t\n"
        "assert f() == (D('0.3'), F(1, 3), t.date(2020, 2, 29), t.datetime(2020, 1, 1, 2), "
        "t.timedelta(1, 2), range(1, 9, 3), slice(2))",
        "assert f()[1] == 0.3",
    ),
    "numpy": (
        "import numpy as np\ndef f(x): return np.array(x) * 2, np.float64(1.5), np.int64(3), "
        "np.bool_(1)",
        "import numpy\na, b, c, d = f([1, 2])\n"
        "assert numpy.allclose(a, [2, 4]) and a.shape == (2,)\n"
        "assert b == 1.5 and c == 3 and d and type(c) is numpy.int64",
        "assert (f([1, 2])[0] == [2, 5]).all()",
    ),
    "generators": (
        "def f(n):\n    for i in range(n): yield i, [i]\n",
        "assert list(f(2)) == [(0, [0]), (1, [1])] and sum(i for i, _ in f(4)) == 6 and "
        "next(f(1))[0] == 0",
        "assert list(f(2)) == []",
    ),
    "iterators without end": (
        "import itertools\ndef f(): return itertools.count(3)",
        "assert [x for x, _ in zip(f(), range(3))] == [3, 4, 5]",
        "assert next(f()) == 4",
    ),
    "views and maps": (
        "def f(d): return d.keys(), d.items(), map(str, d), zip(d, d), filter(None, d), d.values()",
        "k, i, m, z, t, v = f({0: 1})\nassert k == {0} and i == {(0, 1)} and list(m) == ['0']\n"
        "assert list(z) == [(0, 0)] and list(t) == [] and list(v) == [1] and 1 not in k",
        "assert list(f({0: 1})[2]) == [0]",
    ),
    "a class": (
        "class Node:\n    kind = 'n'\n    def __init__(self, value):\n"
        "        self.value, self.left = value, None\n"
        "    def total(self, more=0): return self.value + more + (self.left.total() if "
        "self.left else 0)\n"
        "def depth(node): return 1 + depth(node.left) if node else 0",
        "root = Node(1)\nroot.left = Node(2)\nassert root.total(more=4) == 7 and depth(root) == 2\n"
        "assert root.left.value == 2 and root.left is root.left and Node.kind == 'n'\n"
        "assert isinstance(root, Node) and not isinstance(3, Node)",
        "assert Node(1).total() == 2",
    ),
    "objects in a list": (
        "class Pair:\n    def __init__(self, a, b): self.a, self.b = a, b\n"
        "def longest(pairs, n): return max(p.b - p.a for p in pairs[:n])",
        "assert longest([Pair(5, 24), Pair(15, 25)], 2) == 19",
        "assert longest([Pair(5, 24)], 1) == 18",
    ),
    "a stack": (
        "class Stack:\n    def __init__(self): self.items = []\n"
        "    def append(self, x): self.items.append(x)\n"
        "    def pop(self): return self.items.pop()\n"
        "    def __len__(self): return len(self.items)\n"
        "    def __getitem__(self, i): return self.items[i]\n"
        "    def __str__(self): return 'S'",
        "s = Stack()\ns.append(3)\ns.append(4)\n"
        "assert len(s) == 2 and s[0] == 3 and s.pop() == 4 and str(s) == 'S'",
        "assert len(Stack()) == 1",
    ),
    "an object that a function makes": (
        "class Tree:\n    def __init__(self, v): self.v, self.kids = v, []\n"
        "    def size(self): return 1 + len(self.kids)\n"
        "def grow(n):\n    t = Tree(0)\n    t.kids = [Tree(i) for i in range(n)]\n    return t",
        "t = grow(3)\nassert t.v == 0 and t.size() == 4 and [k.v for k in t.kids] == [0, 1, 2]",
        "assert grow(3).size() == 3",
    ),
    "functions that go over": (
        "def compose(*fs):\n    def inner(x):\n        for f in fs: x = f(x)\n"
        "        return x\n    return inner",
        "calls = []\ndef note(x):\n    calls.append(x)\n    return x\n"
        "assert compose(lambda x: x + 1, abs, note, str)(-5) == '4' and calls == [4]",
        "assert compose(abs)(-5) == -5",
    ),
    "an error in a function that goes over": (
        "def safe(f):\n    try: return f(3)\n    except ZeroDivisionError: return 'none'",
        "assert safe(lambda x: 1 / (x - 3)) == 'none'",
        "assert safe(lambda x: x) == 'none'",
    ),
    "iterators that go over": (
        "def f(xs): return [x for x in xs]",
        "assert f(iter('ab')) == f(c for c in 'ab') == ['a', 'b'] and f({1: 2}.values()) == [2]",
        "assert f(iter('ab')) == []",
    ),
    "a closure with memory": (
        "def counter():\n    n = 0\n    def up():\n        nonlocal n\n        n += 1\n"
        "        return n\n    return up",
        "up = counter()\nassert [up(), up()] == [1, 2]",
        "assert counter()() == 2",
    ),
    "names and modules of the program": (
        "import math\nfrom math import isclose\nLIMIT = [3]\nseen = 0\ndef f():\n"
        "    global seen\n    seen += 1",
        "assert math.fabs(-1) == 1 and isclose(1, 1) and LIMIT == [3] and seen == 0\nf()\n"
        "assert seen == 1",
        "assert LIMIT == [4]",
    ),
    "a name that nobody has": ("def f(): pass", "f()", "assert g() is None"),
    "a function named as one of Python's": (
        "def sum(a, b): return a + b",
        "assert sum(10, 15) == 25\nassert sum(5, 10) == 15",
        "assert sum(1, 1) == 3",
    ),
    "keywords": (
        "def f(a, /, b=2, *c, d=4, **e): return a, b, c, d, e",
        "assert f(1, 5, 6, d=7, z=8) == (1, 5, (6,), 7, {'z': 8}) and f(1) == (1, 2, (), 4, {})",
        "f(b=1)",
    ),
    "the libraries": (
        "import re, heapq, itertools, bisect, functools, string, typing, dataclasses, "
        "collections, random\n"
        "@functools.lru_cache\ndef f(s): return re.findall('[a-z]+', s), "
        "heapq.nlargest(1, [1, 2])\n"
        "@dataclasses.dataclass\nclass D:\n    x: typing.List[int]",
        "assert f('ab1c') == (['ab', 'c'], [2]) and D([1]).x == [1]",
        "assert D([1]).x == [2]",
    ),
    "a match": (
        "import re\ndef f(s): return re.search('b+', s)",
        "assert f('abb') and not f('a') and f('abb').group() == 'bb' and f('abb').span() == (1, 3)",
        "assert f('abb').group() == 'b'",
    ),
    "threads and files of its own": (
        "import threading, tempfile, os, json\ndef f():\n    found = []\n"
        "    t = threading.Thread(target=found.append, args=(1,)); t.start(); t.join()\n"
        "    return found\n"
        "print('noise', flush=True)",
        "assert f() == [1]",
        "assert f() == []",
    ),
    "coroutines": (
        "import asyncio\nasync def g(x):\n    await asyncio.sleep(0)\n    return x\n"
        "def f(x): return asyncio.run(g(x))",
        "assert f(3) == 3",
        "assert f(3) == 4",
    ),
    "a program that fails": ("raise ValueError", None, "pass"),
    "a program that is none": ("def f(: pass", None, "pass"),
    "tests that are none": ("def f(): pass", None, "assert f( == 1"),
    "a program that reads": ("input()", None, "pass"),
    "no tests": ("x = 1", "", None),
    "asserts in a check": (
        "from typing import List\n\n\ndef add(xs: List[int]) -> int:\n    return sum(xs)\n",
        HUMANEVAL.format(
            body="    import random\n    rng = random.Random(4)\n    for n in range(30):\n"
            "        xs = [rng.randint(-9, 9) for _ in range(n)]\n"
            "        assert candidate(xs) == sum(xs), 'x'",
            entry="add",
        ),
        HUMANEVAL.format(body="    assert candidate([1]) == 2", entry="add"),
    ),
    "a helper of the prompt": (
        "def poly(xs, x): return sum(c * x ** i for i, c in enumerate(xs))\n"
        "def zero(xs): return -xs[0] / xs[1]",
        HUMANEVAL.format(
            body="    import math, copy\n    xs = [2, 4]\n"
            "    assert math.fabs(poly(xs, candidate(copy.deepcopy(xs)))) < 1e-4",
            entry="zero",
        ),
        None,
    ),
}


def naive(program: str, tests: str) -> bool:
    """Whether program and tests run, as lm-eval's `code_eval` has them: in one `exec`."""
    try:
        exec(f"{program}\n{tests}", {})
    except BaseException:
        return False
    return True


@pytest.mark.sample(16)
@pytest.mark.parametrize(("program", "right", "wrong"), JUDGED.values(), ids=list(JUDGED))
def test_verdicts_are_those_of_one_exec(program, right, wrong):
    for tests, expected in ((right, True), (wrong, False)):
        if tests is not None:
            assert naive(program, tests) is expected or "input" in program, "the oracle"
            assert passes(program, tests, SECONDS) is expected


def test_many_values_of_one_call_go_over_and_back():
    program = "def f(xs): return sorted(xs)"
    tests = "xs = list(range(10 ** 5, 0, -1))\nassert f(xs) == xs[::-1]"
    assert passes(program, tests, SECONDS)


def test_an_object_of_the_tests_own_class_is_refused_and_not_taken_for_a_failure():
    tests = "class A: pass\nassert f(A()) == 1"
    with pytest.raises(MetricError, match="an object of class A, which automerge cannot give"):
        passes("def f(x): return 1", tests, SECONDS)


def test_processes_that_do_not_come_up_are_an_error_and_not_a_failed_program(monkeypatch):
    from automerge.evaluation.lm_eval.cage import keeper

    monkeypatch.setattr(launch, "BEGIN", "import os; os.write(1, b'late') # {paths} {home}")
    assert keeper.LATE == "late"
    with pytest.raises(MetricError, match="did not come up within 15 s, 3 times"):
        passes("def f(): pass", "f()", SECONDS)


def test_a_machine_that_is_not_linux_is_refused(monkeypatch):
    monkeypatch.delattr(launch.os, "memfd_create")
    with pytest.raises(PreflightError, match="cannot be locked in here: this is not Linux"):
        passes("def f(): pass", "f()", SECONDS)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers() | st.tuples(st.booleans()), inner)
        | st.sets(st.integers() | st.text())
        | st.frozensets(st.floats(allow_nan=False))
    ),
    max_leaves=20,
)


def refuse(value):
    raise AssertionError(value)


@given(PLAIN)
def test_plain_values_arrive_as_they_were(value):
    known = {}
    node = Encoder(known, refuse).value(value)
    found = Decoder({}, refuse).value(node)
    assert found == value
    assert repr(found) == repr(value) or isinstance(value, set | frozenset) or "{" in repr(value)


@given(
    st.recursive(
        st.none() | st.integers() | st.text() | st.sampled_from(["@", "list", "array", "global"]),
        lambda inner: st.lists(inner, max_size=4),
    )
)
def test_any_message_is_a_value_or_broken(node):
    def resolve(found):
        raise ValueError(found)

    with contextlib.suppress(Broken):
        Decoder({}, resolve).value(node)


@pytest.mark.parametrize(
    "node",
    [
        ["global", "os", "system"],
        ["global", "builtins", "eval"],
        ["global", "builtins", "__import__"],
        ["global", "random", "_os"],
        ["global", "heapq", "__builtins__"],
        ["module", "os"],
        ["module", "unittest.mock"],
        ["array", False, "O8", [1], "0000000000000000"],
        {"a": 1},
    ],
)
def test_no_message_names_what_runs_code(node):
    def resolve(found):
        raise ValueError(found)

    with pytest.raises(Broken):
        Decoder({}, resolve).value(node)
