"""No program passes tests that its answers do not pass, whatever it does to its own process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from automerge.evaluation.lm_eval.cage.launch import passes
from tests.evaluation.cage.test_honest import HUMANEVAL, naive

SECONDS = 20.0
ASSERTS = "assert f(3) == 9\nassert f(4) == 16"
CHECK = HUMANEVAL.format(
    body="    import math\n    assert sorted([candidate(3)]) == [9]\n"
    "    assert abs(candidate(4) - 16) < 1e-6 and math.isclose(candidate(4), 16.0), 'no'\n"
    "    assert len({candidate(4), 16}) == 1 and all(candidate(n) == n * n for n in range(5))",
    entry="f",
)
WRONG = "def f(x): return 0\n"
EQUAL = """
class Any{base}:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __gt__ = __le__ = __ge__ = __contains__ = __lt__
    def __hash__(self): return 9
    def __bool__(self): return True
    def __sub__(self, other): return 0
    __rsub__ = __abs__ = __float__ = __index__ = __int__ = lambda self, *a: 0
    def __getattr__(self, name): return lambda *a, **k: True
"""
ALL_DESCRIPTORS = """
import os
WORDS = [b"passed", b"passed\\n", b'{"ready": true}', b'{"value": true}']
def shout():
    for end in range(64):
        for word in WORDS:
            for data in (word, len(word).to_bytes(4, "little") + word):
                try: os.write(end, data)
                except OSError: pass
"""
EVERY_FRAME = """
import gc, sys
def frames():
    frame = sys._getframe()
    while frame:
        yield frame
        frame = frame.f_back
def found():
    names = [s for frame in frames() for s in (frame.f_locals, frame.f_globals)]
    return [value for s in names for value in s.values()] + gc.get_objects()
"""

FORGERIES = {
    "the right answer is needed": WRONG,
    "it ends": "import os\nos._exit(0)",
    "it exits": "raise SystemExit(0)",
    "it ends when it is called": "import os\ndef f(x): os._exit(0)",
    "it exits when it is called": "def f(x): raise SystemExit(0)",
    "it is interrupted": "def f(x): raise KeyboardInterrupt",
    "it says so on every descriptor": f"{ALL_DESCRIPTORS}\nshout()\n{WRONG}",
    "it says so when it is called": f"{ALL_DESCRIPTORS}\ndef f(x):\n    shout()\n    return 0",
    "it says so and ends": f"{ALL_DESCRIPTORS}\nshout()\nos._exit(0)",
    "a thread says so": f"{ALL_DESCRIPTORS}\nimport threading\n"
    f"threading.Thread(target=lambda: [shout() for _ in range(99)]).start()\n{WRONG}",
    "a thread ends it": f"import threading, os\nthreading.Timer(0.01, os._exit, "
    f"(0,)).start()\n{WRONG}",
    "a signal handler": f"{ALL_DESCRIPTORS}\nimport signal\n"
    "signal.signal(signal.SIGALRM, lambda *a: (shout(), os._exit(0)))\n"
    f"signal.setitimer(signal.ITIMER_REAL, 0.01)\n{WRONG}",
    "an exception hook": f"{ALL_DESCRIPTORS}\nimport sys, threading\n"
    f"sys.excepthook = threading.excepthook = lambda *a: shout()\n{WRONG}raise ValueError",
    "at its exit": f"{ALL_DESCRIPTORS}\nimport atexit\natexit.register(shout)\n{WRONG}",
    "a trace": f"{ALL_DESCRIPTORS}\nimport sys\nsys.settrace(lambda *a: shout())\n{WRONG}",
    "a frame's values": f"{ALL_DESCRIPTORS}{EVERY_FRAME}\n"
    "for v in found():\n    if type(v).__name__ == 'Pipe':\n"
    "        v.send({'value': True}); v.send('passed')\n"
    f"{WRONG}",
    "a frame's verdict": f"{EVERY_FRAME}\n"
    "def f(x):\n    for frame in frames():\n"
    "        frame.f_locals.update(verdict='passed', PASSED='failed')\n"
    "    return 0",
    "what equals anything": f"{EQUAL.format(base='')}\ndef f(x): return Any()",
    "an integer that does": f"{EQUAL.format(base='(int)')}\ndef f(x): return Any(5)",
    "a float that does": f"{EQUAL.format(base='(float)')}\ndef f(x): return Any(5)",
    "a list that does": f"{EQUAL.format(base='(list)')}\ndef f(x): return Any([5])",
    "a class that does": f"{EQUAL.format(base='(type)')}\nclass f(metaclass=Any):\n"
    f"    def __new__(cls, x): return cls",
    "the function does": f"{EQUAL.format(base='')}\nf = Any()",
    "a mock's any": "from unittest.mock import ANY, MagicMock\ndef f(x): return ANY",
    "a library replaced": "import sys, types\nm = types.ModuleType('math')\n"
    "m.isclose = m.fabs = lambda *a, **k: True\nsys.modules['math'] = m\n"
    f"import math\n{WRONG}",
    "a library's function replaced": f"import math\nmath.isclose = lambda *a, **k: True\n{WRONG}",
    "a library beside it": "open('math.py', 'w').write('isclose = lambda *a: True')\n"
    f"import sys\nsys.path.insert(0, '.')\nsys.modules.pop('math', None)\n{WRONG}",
    "an import hook": f"import sys\nsys.meta_path.insert(0, None)\n{WRONG}",
    "Python's own names": "import builtins\nfor n in ('sorted', 'abs', 'len', 'all', 'set', "
    "'sum', 'range'):\n"
    f"    setattr(builtins, n, lambda *a: [9])\nbuiltins.AssertionError = SystemExit\n{WRONG}",
    "names like Python's own": "def sorted(x): return [9]\ndef abs(x): return 0\n"
    "def len(x): return 1\n"
    f"def all(x): return True\ndef range(n): return []\nAssertionError = Exception\n{WRONG}",
    "names of the tests": f"def check(f): pass\ncandidate = lambda x: x * x\n{WRONG}",
    "assertions that are off": f"__debug__x = False\nimport sys\nsys.flags\n{WRONG}",
    "its own messages": f"{EVERY_FRAME}\nimport sys\nfor name, m in list(sys.modules.items()):\n"
    "    if name.endswith('cage.wire'):\n"
    "        m.Encoder.value = lambda s, v: ['r', 0, 'object']\n"
    "        m.Encoder.content = m.Encoder.value\n" + WRONG,
    "values of its own making": "import sys\n"
    "m = sys.modules['automerge.evaluation.lm_eval.cage.wire']\n"
    f"m.Encoder.value = lambda s, v: ['global', 'unittest.mock', 'ANY']\n{WRONG}",
    "the judge's code, in its "
    "own process": "import sys\nm = sys.modules['automerge.evaluation.lm_eval.cage.judge']\n"
    f"m.verdict = lambda *a: 'passed'\nm.FAILED = 'passed'\n"
    f"m.Remote.__eq__ = lambda *a: True\n{WRONG}",
    "exceptions of many kinds": "def f(x): raise [AssertionError, StopIteration, "
    "GeneratorExit][x % 3]",
    "an argument turned into the answer": "def f(x):\n    x = 9\n    return 0",
    "the memory of its process": "import ctypes\ndef f(x):\n    t = "
    "ctypes.c_long.from_address(id(9) + 24)\n"
    "    t.value = 0\n    return 0",
}


@pytest.mark.sample(24)
@pytest.mark.parametrize("tests", [ASSERTS, CHECK], ids=["asserts", "check"])
@pytest.mark.parametrize("program", FORGERIES.values(), ids=list(FORGERIES))
def test_a_wrong_program_does_not_pass(program, tests):
    assert naive("def f(x): return x * x", tests), "the tests are fair"
    assert not passes(program, tests, SECONDS)


SWALLOWED = [
    "try:\n    f(1)\nexcept ValueError:\n    pass\nelse:\n    assert False",
    "try:\n    f(1)\nexcept:\n    pass",
    "try:\n    f(1)\nfinally:\n    pass",
]


@pytest.mark.parametrize("tests", SWALLOWED, ids=["an error", "any error", "none"])
@pytest.mark.parametrize(
    "end",
    ["__import__('os')._exit(0)", "raise SystemExit", "raise KeyboardInterrupt", "SEND(b'{}')"],
)
def test_tests_that_catch_errors_do_not_take_an_end_for_one(tests, end):
    program = (
        "import os\ndef SEND(data):\n    for n in range(3, 64):\n"
        "        try: os.write(n, len(data).to_bytes(4, 'little') + data)\n"
        "        except OSError: pass\n"
        f"def f(x): {end}"
    )
    assert not passes(program, tests, SECONDS)


METHODS = {
    "a text's": ("assert f(3).startswith('ab')", "startswith"),
    "a list's": ("assert f(3).count(7) == 2", "count"),
    "a set's": ("assert f(3).issubset({1})", "issubset"),
    "a mapping's": ("assert f(3).get('k') == 2", "get"),
}


@pytest.mark.parametrize(("tests", "name"), METHODS.values(), ids=list(METHODS))
def test_methods_of_plain_values_are_not_asked_of_objects_that_claim_them(tests, name):
    claims = f"class A:\n    def {name}(self, asked): return True if {name!r} != 'get' else 2\n"
    claims += f"    if {name!r} == 'count':\n        def count(self, asked): return 2\n"
    assert not passes(f"{claims}def f(x): return A()", tests, SECONDS)


@pytest.mark.parametrize(
    "tests",
    [
        "assert f(3) == 9",
        "assert sorted([f(3)]) == [9]",
        "import math\nassert math.isclose(f(3), 9)",
    ],
)
def test_the_program_that_answers_rightly_passes_these_too(tests):
    assert passes("def sorted(x): return [9]\ndef f(x): return x * x", tests, SECONDS)
    assert not passes("def sorted(x): return [9]\ndef f(x): return x", tests, SECONDS)


def test_a_program_never_sees_its_tests():
    """Neither in objects and frames, nor in the memory of its process, read page by page."""
    secret = "8f2e61c7a9"
    program = f"""{EVERY_FRAME}
import ctypes, os, re
def pages():
    libc, (end, begin) = ctypes.CDLL(None), os.pipe()
    libc.sbrk.restype = ctypes.c_void_p
    top = libc.sbrk(ctypes.c_long(0))
    arenas = {{id(thing) >> 20 for thing in found()}}
    starts = [arena << 20 for arena in arenas] + list(range(top - 2 ** 24, top, 2 ** 20))
    for start in starts:
        for page in range(start, start + 2 ** 20, 4096):
            if libc.write(begin, ctypes.c_void_p(page), ctypes.c_size_t(4096)) == 4096:
                yield os.read(end, 4096)
def f():
    wanted = re.compile(b"{secret[:5]}" + b"[0-9a-f]{{5}}")
    read = 0
    for page in pages():
        read += 1
        hit = wanted.search(page)
        if hit: return hit.group().decode()
    return read
"""
    assert passes(program, f"assert f() != '{secret}' and f() > 500", SECONDS)
    assert not passes(program, f"assert f() == '{secret}'", SECONDS)
    assert passes(f"{program}\nkept = b'8f2e6' + b'1c7a9'", f"assert f() == '{secret}'", SECONDS)


LATE = {
    "a loop": "while True: pass",
    "sleep": "import time; time.sleep(99)",
    "an alarm that it cancels": "import signal, time\nsignal.setitimer(signal.ITIMER_REAL, 0)\n"
    "signal.alarm(0)\ntime.sleep(99)",
    "signals that it ignores": "import signal, time\nfor n in range(1, 65):\n"
    "    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): pass\n"
    "time.sleep(99)",
    "a thread that stays": "import threading, time\n"
    "threading.Thread(target=time.sleep, args=(99,)).start()\ntime.sleep(99)",
    "a call without end": "def f(x):\n    while True: pass",
    "an iterator without end": "def f(x):\n    while True: yield 1",
    "a flood of messages": "import os\nwhile True:\n    for n in range(3, 64):\n"
    "        try: os.write(n, bytes(4))\n        except OSError: pass",
}


@pytest.mark.parametrize("program", LATE.values(), ids=list(LATE))
def test_the_clock_is_not_the_programs(program):
    assert not passes(program, "assert list(f(3)) == 9", 0.5)


def test_nothing_of_a_program_survives_it():
    """Orphans would become children of the process that asked, which says so itself."""
    asked = (
        "import ctypes, os\n"
        "from automerge.evaluation.lm_eval.cage.launch import passes\n"
        "ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n"  # PR_SET_CHILD_SUBREAPER
        "for program in ('import time; time.sleep(99)', 'def f(): return 1', 'import os; "
        "os._exit(0)'):\n"
        "    print(passes(program, 'assert f() == 1', 0.5 if 'sleep' in program else 20.0))\n"
        "    try:\n        os.waitpid(-1, 0)\n        print('one was left')\n"
        "    except ChildProcessError:\n        pass\n"
    )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "False"]
