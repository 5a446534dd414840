"""What a program can reach outside of itself: nothing, as root or not, namespaces or none."""

from __future__ import annotations

import json
import os
import platform
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from automerge.evaluation.lm_eval.cage.launch import passes

SECONDS = 20.0
HARM = {
    # files
    "a file of the system": "open('/etc/passwd').read()",
    "the home folder": "os.listdir(os.path.expanduser('~') or '/root')",
    "a parent's environment": "open(f'/proc/{os.getppid()}/environ', 'rb').read()",
    "its own": "open('/proc/self/environ', 'rb').read()",
    "its memory": "open('/proc/self/mem', 'rb').read(0)",
    "the processes": "os.listdir('/proc')",
    "a file elsewhere": "open('/evil', 'w')",
    "temporary files of others": "open(OUTSIDE).read()",
    "another's file": "open(OUTSIDE, 'a')",
    "the interpreter": "open(sys.executable, 'ab')",
    "a library": "open(os.__file__, 'a')",
    "a library cut off": "os.open(os.__file__, os.O_RDONLY | os.O_TRUNC) and 0",
    "a library renamed": "os.rename(os.__file__, os.__file__ + 'x')",
    "a library removed": "os.unlink(os.__file__)",
    "a file beside a library": "os.mkdir(os.path.dirname(os.__file__) + '/evil')",
    "a mode": "os.chmod(OUTSIDE, 0o777)",
    "a mode of the interpreter": "os.chmod(sys.executable, 0o4755)",
    "a mode by descriptor": "os.fchmod(os.open(os.__file__, os.O_RDONLY), 0o777)",
    "an owner": "os.chown(os.__file__, os.getuid(), os.getgid())",
    "a time": "os.utime(os.__file__, (0, 0))",
    "an attribute": "os.setxattr(os.__file__, 'user.x', b'1')",
    "reading an attribute": "os.getxattr(os.__file__, 'user.x') if 0 else "
    "os.listxattr(os.__file__)",
    "a link": "os.link(os.__file__, 'linked')",
    "a symbolic link": "os.symlink(os.__file__, 'linked')",
    "a FIFO": "os.mkfifo('fifo')",
    "a device": "os.mknod('device', 0o60600, 1)",
    "a new root": "os.chroot('.')",
    "a mount": "called('mount', b'none', b'/tmp', b'tmpfs', 0, None)",
    "the memory's devices": "open('/dev/shm/x', 'w')",
    # the network
    "a connection": "socket.create_connection(('127.0.0.1', 22), 1)",
    "a datagram": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "a local socket": "socket.socket(socket.AF_UNIX)",
    "a message to a local socket": "socket.socketpair(type=socket.SOCK_DGRAM)[0].sendto(b'x', "
    "'/dev/log')",
    "a netlink socket": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    # processes
    "a process": "os.fork()",
    "a program": "os.execv('/bin/true', ['true'])",
    "a child": "subprocess.run(['/bin/true'])",
    "a spawned child": "os.posix_spawn('/bin/true', ['true'], {})",
    "a signal": "os.kill(os.getppid(), 0)",
    "a signal to all": "os.kill(-1, 0)",
    "a signal by a descriptor": "fcntl.fcntl(1, fcntl.F_SETOWN, 1)",
    "a descriptor of a process": "os.pidfd_open(1)",
    "a tracer": "called('ptrace', 16, os.getppid(), 0, 0)",
    "the memory of a process": "called('process_vm_readv', 1, None, 0, None, 0, 0)",
    "a priority": "os.setpriority(os.PRIO_USER, os.getuid(), 1)",
    "a priority of its own": "os.nice(1)",
    "an affinity": "os.sched_setaffinity(0, {0})",
    "the affinity of another": "os.sched_getaffinity(1)",
    "a scheduler": "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))",
    "a limit of another": "resource.prlimit(os.getppid() or 1, resource.RLIMIT_CPU)",
    "a limit of its own": "resource.prlimit(0, resource.RLIMIT_CPU, (1, 1))",
    "who it is": "os.setuid(os.getuid())",
    "a namespace": "called('unshare', 0x10000000)",
    "the clock": "time.clock_settime(time.CLOCK_REALTIME, time.time())",
    "the name of the machine": "socket.sethostname('evil')",
    # what stays in the kernel
    "shared memory": "called('shmget', 0x5ca1ab1e, 4096, 0o1600)",
    "semaphores": "called('semget', 0x5ca1ab1e, 1, 0o1600)",
    "a queue": "called('msgget', 0x5ca1ab1e, 0o1600)",
    "a POSIX queue": "called('mq_open', b'/evil', 0o102, 0o600, None)",
    "a key": "called('syscall', {'x86_64': 250, 'aarch64': 219}[platform.machine()], 0, -3, 0)",
    "a file in memory": "os.memfd_create('x')",
    "locked memory": "called('mlockall', 1)",
}
OF_PATHS = {
    "what there is outside": "os.stat(OUTSIDE)",
    "whether there is": "os.stat('/etc/passwd')",
    "the folders of the root": "os.stat('/proc')",
}
TRIED = """
import ctypes, fcntl, os, platform, resource, socket, subprocess, sys, time
OUTSIDE = {outside!r}
def called(name, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)
def tried():
    found = {{}}
    for name, harm in {harm!r}.items():
        try:
            eval(harm)
        except OSError:
            continue
        except Exception as error:
            found[name] = repr(error)
        else:
            found[name] = "it was allowed"
    return found
"""
PYTHONS = {
    Path(folder).parts[2]
    for folder in (sys.prefix, sys.base_prefix)
    if Path(folder).is_relative_to("/tmp")
}
"""What a program sees in /tmp: folders of its Python, if that is there."""


def trial(outside: Path, harm: dict[str, str]) -> str:
    """A program that tries all of it and says what was not refused."""
    return TRIED.format(outside=str(outside), harm=harm)


@pytest.fixture
def outside(tmp_path):
    path = tmp_path / "outside"
    path.write_text("whole")
    path.chmod(0o666)
    return path


def test_a_program_can_do_no_harm(outside):
    before = outside.stat()
    libraries = Path(os.__file__).stat()
    assert passes(trial(outside, HARM | OF_PATHS), "assert tried() == {}", SECONDS)
    assert outside.stat() == before
    assert outside.read_text() == "whole"
    after = Path(os.__file__).stat()
    assert (after.st_mode, after.st_uid, after.st_mtime) == (
        *(libraries.st_mode, libraries.st_uid),
        libraries.st_mtime,
    )


SHAPED = """
import ctypes, os, sys
user, group = os.geteuid(), os.getegid()
libc = ctypes.CDLL(None)
if libc.unshare(0x10000000):
    sys.exit(77)
maps = ("setgroups", "deny"), ("uid_map", f"1000 {user} 1"), ("gid_map", f"1000 {group} 1")
for name, text in maps:
    open(f"/proc/self/{name}", "w").write(text)
if sys.argv[1] == "bare":
    try: open("/proc/sys/user/max_user_namespaces", "w").write("0")
    except OSError: sys.exit(77)
os.execv(sys.executable, [sys.executable, "-c", sys.argv[2], *sys.argv[3:]])
"""
ASKED = """
import json, os, sys
from automerge.evaluation.lm_eval.cage.launch import passes
assert os.geteuid() == 1000
print(json.dumps([passes(program, tests, 20.0) for program, tests in json.load(sys.stdin)]))
"""


def as_somebody(kind: str, asked: list[tuple[str, str]]) -> list[bool]:
    """Verdicts in a process of an ordinary user; `bare` is one that gets no namespaces."""
    done = subprocess.run(
        [sys.executable, "-c", SHAPED, kind, ASKED],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("the system gives no user namespaces to test with")
    assert done.returncode == 0, done.stderr
    found: list[bool] = json.loads(done.stdout)
    return found


EMPTY = (
    "import os\ndef f(): return [os.getpid(), os.path.exists('/etc/passwd'), os.uname()[1]]",
    "assert f() == [1, False, 'cage']",
)
PLAIN = ("def f(x): return x * x", "assert f(3) == 9")
WRONG = ("def f(x): return x", "assert f(3) == 9")


@pytest.mark.parametrize(("kind", "harm"), [("user", HARM | OF_PATHS), ("bare", HARM)])
def test_nor_for_an_ordinary_user_with_namespaces_or_without(kind, harm, outside):
    asked = [PLAIN, WRONG, (trial(outside, harm), "assert tried() == {}"), EMPTY]
    assert as_somebody(kind, asked) == [True, False, True, kind == "user"]
    assert outside.read_text() == "whole"


def grandchildren(of: int) -> dict[int, int]:
    """Processes whose parent's parent is that one, with their parent."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    return {own: parent for own, parent in parents.items() if parents.get(parent) == of}


def locked_in(of: int) -> dict[int, int]:
    """Those of them under a filter of system calls: the program's and the judge's."""
    return {
        own: keeper
        for own, keeper in grandchildren(of).items()
        if status(own).get("Seccomp") == "2"
    }


def status(pid: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_both_processes_are_locked_in_as_seen_from_outside():
    """By what the kernel says of them: user, powers, filter, namespaces, descriptors, files."""
    verdicts: list[bool] = []
    program = "import time; time.sleep(99)"
    asking = threading.Thread(target=lambda: verdicts.append(passes(program, "pass", SECONDS)))
    asking.start()
    locked: dict[int, int] = {}
    while asking.is_alive() and len(locked) < 2:
        locked = locked_in(os.getpid())
        time.sleep(0.01)
    try:
        assert len(locked) == 2, "the program's and the judge's"
        users = set()
        for pid in locked:
            seen = status(pid)
            assert {seen[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
            assert seen["NoNewPrivs"] == "1"
            users |= set(seen["Uid"].split())
            if os.geteuid() == 0:
                assert "0" not in (seen["Uid"] + seen["Gid"]).split()
                assert not seen["Groups"]
                for kind in ("net", "ipc", "mnt", "uts"):
                    assert (
                        Path(f"/proc/{pid}/ns/{kind}").readlink()
                        != Path(f"/proc/self/ns/{kind}").readlink()
                    )
                assert {p.name for p in Path(f"/proc/{pid}/root/tmp").iterdir()} == PYTHONS
                assert len(list(Path(f"/proc/{pid}/fd").iterdir())) <= 6, (
                    "three that lead nowhere, and pipes"
                )
                assert stat.S_ISCHR(Path(f"/proc/{pid}/fd/0").stat().st_mode)
                assert b"=" not in b"".join(
                    part
                    for part in Path(f"/proc/{pid}/environ").read_bytes().split(b"\\0")
                    if not part.startswith((b"OMP_NUM_THREADS", b"PYTHONHASHSEED", b"LC_CTYPE"))
                )
        if os.geteuid() == 0:
            assert len(users) == 2, "each is a user of its own"
            inner = {status(pid)["NSpid"].split()[-1] for pid in locked}
            assert "1" in inner, "the program's process sees no other"
    finally:
        for pid in locked:
            with suppress(ProcessLookupError):  # the end of one may be that of the other
                os.kill(pid, signal.SIGKILL)
        asking.join()
    assert verdicts == [False]


def test_so_they_are_for_an_ordinary_user():
    name = test_both_processes_are_locked_in_as_seen_from_outside.__name__
    here = f"from {__name__} import {name}; {name}()"
    done = subprocess.run(
        [sys.executable, "-c", SHAPED, "user", here],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("the system gives no user namespaces to test with")
    assert done.returncode == 0, done.stderr


def test_both_end_with_what_keeps_them():
    program = "import time; time.sleep(99)"
    launch = "automerge.evaluation.lm_eval.cage.launch"
    asked = f"from {launch} import passes\npasses({program!r}, '', 60.0)"
    asking = subprocess.Popen([sys.executable, "-c", asked])
    locked: dict[int, int] = {}
    while asking.poll() is None and len(locked) < 2:
        locked = locked_in(asking.pid)
        time.sleep(0.01)
    assert len(locked) == 2
    asking.kill()
    asking.wait()
    for keeper in set(locked.values()):
        os.kill(keeper, signal.SIGKILL)
    until = time.monotonic() + 20
    while left := [pid for pid in locked if status(pid).get("State", "Z")[0] != "Z"]:
        assert time.monotonic() < until, left
        time.sleep(0.01)


def test_what_a_program_may_do():
    program = (
        "import math, re, json, threading, collections, os, sys, tempfile\n"
        "open('here', 'w').write('x')\n"
        "assert open('here').read() == 'x'\n"
        "with tempfile.TemporaryDirectory() as d: open(d + '/a', 'w').write('y')\n"
        "os.rename('here', 'there'); os.unlink('there')\n"
        f"assert set(os.listdir()) == {PYTHONS or 'set()'}\n"
        "assert os.getcwd() == '/tmp' and len(os.sched_getaffinity(0)) > 0 and os.cpu_count()\n"
        "thread = threading.Thread(target=print); thread.start(); thread.join()\n"
        "assert not sys.stdin.read() and not sys.stdout.isatty() and os.urandom(3)\n"
        "def f(): return 1\n"
    )
    assert passes(program, "assert f() == 1", SECONDS)
    gone = "import os\ndef f(): return os.listdir('/tmp')"
    assert passes(gone, f"assert set(f()) == {PYTHONS or 'set()'}", SECONDS), "nothing stays"


@pytest.mark.parametrize(
    "program",
    [
        "'x' * 2**34",
        "bytearray(2**32)",
        "open('big', 'wb').write(bytes(2**25))",
        "for n in range(99): open(f'{n}', 'wb').write(bytes(2**23))",
        "kept = [open('/dev/null') for _ in range(99)]",
        "import mmap\nmmap.mmap(-1, 2**33)",
    ],
)
def test_a_program_has_limits(program):
    assert not passes(program, "pass", SECONDS)


def test_an_answer_has_limits():
    assert not passes("def f(): return 'x' * 2**27", "assert len(f()) == 2**27", SECONDS)


def test_secrets_of_the_environment_stay_outside(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_planted")
    program = "import os\ndef f(): return dict(os.environ)"
    assert passes(program, "assert 'hf_planted' not in str(f()) and len(f()) < 5", SECONDS)


def test_no_descriptor_of_ours_goes_along():
    read, write = os.pipe()
    os.set_inheritable(write, True)
    program = (
        "import os\ndef f():\n    found = []\n    for n in range(64):\n        try: os.fstat(n)\n"
    )
    program += "        except OSError: continue\n        found.append(n)\n    return found"
    assert passes(program, "assert f()[:3] == [0, 1, 2] and len(f()) == 5", SECONDS)
    os.close(read)
    os.close(write)


WITHOUT = """
import ctypes, struct, sys
from automerge.evaluation.lm_eval.cage import syscalls
from automerge.evaluation.lm_eval.cage.launch import caging_fault
number, argument, value = map(int, sys.argv[1:])
code = [(0x20, 0, 0, 0), (0x15, 0, 3, number), (0x20, 0, 0, 16 + 8 * argument), (0x15, 0, 1, value)]
code += [(0x06, 0, 0, 0x50000 | 38), (0x06, 0, 0, 0x7FFF0000)]
held = ctypes.create_string_buffer(syscalls.assembled(code))
libc = ctypes.CDLL(None)
libc.prctl(38, 1, 0, 0, 0)
assert libc.prctl(22, 2, struct.pack("HxxxxxxP", len(code), ctypes.addressof(held)), 0, 0) == 0
print(caging_fault())
"""
MISSING = {
    "Landlock": ((444, 444), 1, 0, "Landlock is missing (Linux 5.13 or newer has it)"),
    "seccomp": ((157, 167), 0, 22, "prctl: Function not implemented"),
    "no new privileges": ((157, 167), 0, 38, "prctl: Function not implemented"),
    "another user": ((116, 159), 0, 0, "root cannot become another user"),
}


@pytest.mark.parametrize("what", MISSING)
def test_a_machine_that_lacks_it_refuses(what):
    """Each on a system that is made to lack it, by a filter that all children inherit."""
    if what == "another user" and os.geteuid() != 0:
        pytest.skip("only root has to become another user")
    numbers, argument, value, message = MISSING[what]
    number = numbers[platform.machine() == "aarch64"]
    asked = [sys.executable, "-c", WITHOUT, str(number), str(argument), str(value)]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert f"model-written code cannot be locked in here: {message}" in done.stdout
    assert "leave the task out" in done.stdout
