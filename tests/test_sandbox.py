"""What a worker can reach and use, with all layers of the sandbox and where some are refused."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from batches import running
from typer.testing import CliRunner

from autograder import sandbox
from autograder.cli import app
from autograder.remote import RemoteError
from autograder.runner import Cell, Limits, StudentZygote, ZygoteError, run_exercise
from autograder.sandbox import BOUNDS, LAYERS, SandboxError
from course.testing import AnswerLost, Test

if sandbox.missing(sandbox.available()):
    pytest.skip("this machine cannot isolate anything", allow_module_level=True)

# As in most places; as in a container, which refuses namespaces; as with an old kernel.
MACHINES = {
    "all": sorted(LAYERS),
    "container": ["landlock", "seccomp", "user"],
    "namespaces": ["network", "processes", "user", "view"],
}
SMALL = replace(
    BOUNDS, together=1 << 30, processes=12, cpu=1, file=1 << 20, scratch=4 << 20, files=50,
    open_files=32,
)  # fmt: skip


@pytest.fixture(scope="module", params=MACHINES)
def zygote(request):
    layers = MACHINES[request.param]
    if not sandbox.available() >= {*layers}:
        pytest.skip("this machine refuses one of these layers")
    with StudentZygote(layers=layers, bounds=SMALL) as warm:
        assert warm.layers == {*layers}
        yield warm


@pytest.fixture
def answer(zygote):
    """Runs a cell in a worker and returns its names."""
    opened = []

    def run(source, **limits):
        opened.append(zygote.spawn([Cell("answer", source)], Limits(**limits)))
        return opened[-1].student

    yield run
    for process in opened:
        process.close()


def is_confined_by(zygote, layer):
    return layer in zygote.layers


# --- what can be reached --------------------------------------------------------------------------


FILES = """
import os
def read(path): return open(path).read(1)
def names(path): return os.listdir(path)
def write(path): open(path, "w").write("x")
def remove(path): os.remove(path)
def link(path): os.symlink(path, "link"); return open("link").read(1)
"""


def test_files_of_others_can_neither_be_read_nor_changed(answer, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("hidden")
    for path in (tmp_path, secret, *tmp_path.parents):  # anyone could, but for the sandbox
        if path.owner() == Path.home().owner() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o755 | (0o022 if path in (tmp_path, secret) else 0))
    student = answer(FILES)
    here = Path(__file__)
    for path in (secret, here, here.parents[1] / "pyproject.toml", "/etc/passwd", "/proc/1/maps"):
        for use in (student.read, student.link):
            with pytest.raises(OSError):
                use(str(path))
        student.remove("link")
    for folder in (tmp_path, here.parent):
        with pytest.raises(OSError):
            student.names(str(folder))
    with contextlib.suppress(OSError):  # the folder is in view, with what may be read in it
        assert {*student.names(str(here.parents[1]))} <= {"autograder", "course", ".venv"}
    for change in (student.write, student.remove):
        with pytest.raises(OSError):
            change(str(secret))
    for path in (tmp_path / "new", here.parents[1] / "course" / "new", "/usr/lib/new", "/etc/new"):
        with pytest.raises(OSError):
            student.write(str(path))
    assert [p.name for p in tmp_path.iterdir()] == ["secret.txt"]
    assert secret.read_text() == "hidden"


def test_its_own_folder_is_its_own(zygote):
    source = """
import os, tempfile
def write():
    folder = os.getcwd()
    with tempfile.TemporaryFile() as file, open("a.txt", "w") as other:
        file.write(b"x"); other.write("y")
    assert tempfile.gettempdir() == os.environ["HOME"] == folder
    return os.listdir()
"""
    for _ in range(2):
        with zygote.spawn([Cell("c", source)]) as process:
            assert process.student.write() == ["a.txt"]
    assert list(zygote._scratch.iterdir()) == []


def test_folders_within_folders_do_not_stop_the_cleaning(zygote):
    source = """
import os
def dig():
    try:
        for _ in range(1500): os.mkdir("d"); os.chdir("d")
    except OSError: pass
"""
    with zygote.spawn([Cell("c", source)]) as process, contextlib.suppress(AnswerLost):
        process.student.dig()
    with zygote.spawn([Cell("c", "x = 1")]) as process:
        assert process.student.x == 1
    assert list(zygote._scratch.iterdir()) == []


NETWORK = """
import socket
def connect(port): socket.create_connection(("127.0.0.1", port), 1).close()
def send(port): socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", port))
def find(): return socket.getaddrinfo("example.org", 80)
def unix(path): socket.socket(socket.AF_UNIX).connect(path)
"""


def test_there_is_no_network(answer, tmp_path):
    student = answer(NETWORK)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for use in (lambda: student.connect(port), lambda: student.send(port), student.find):
            with pytest.raises(OSError, match="gives no access to a network"):
                use()
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_sockets_in_files_and_abstract_ones_lead_nowhere(answer, tmp_path):
    student = answer(NETWORK)
    for name in (str(tmp_path / "socket"), "\0autograder-test"):
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(name)
            server.listen()
            with pytest.raises(OSError):
                student.unix(name)


SYSTEM = """
import ctypes, os, resource, signal
libc = ctypes.CDLL(None, use_errno=True)
def kill(pid): os.kill(pid, 0)
def call(number, *args): return libc.syscall(number, *args)
def become_root(): os.setuid(0)
def more(): resource.setrlimit(resource.RLIMIT_NOFILE, (10_000, 10_000))
def slow(pid): resource.prlimit(pid, resource.RLIMIT_CPU, (1, 1))
def everyone(): return os.kill(-1, 0)
def shared(): return libc.shmget(0, 4096, 0o1600)
def space(): return libc.unshare(0x10000000)
def trace(pid): return libc.ptrace(16, pid, 0, 0)
def memory(pid):
    buffer = ctypes.create_string_buffer(8)
    vector = (ctypes.c_uint64 * 2)(ctypes.addressof(buffer), 8)
    return libc.process_vm_readv(pid, vector, 1, vector, 1, 0)
"""


def test_other_processes_are_out_of_reach(zygote, answer):
    student = answer(SYSTEM)
    own, parent = os.getpid(), zygote._process.pid
    for pid in (own, parent):
        for use in (student.kill, student.slow):
            with pytest.raises((ProcessLookupError, PermissionError)):
                use(pid)
        assert student.trace(pid) == -1
        assert student.memory(pid) == -1
    assert student.kill.__name__ == "kill"  # it lives


def test_rights_cannot_be_regained(zygote, answer):
    student = answer(SYSTEM)
    if os.geteuid() == 0:
        with pytest.raises(PermissionError):
            student.become_root()
    with pytest.raises((PermissionError, ValueError)):
        student.more()
    if is_confined_by(zygote, "seccomp"):
        assert student.space() == -1
        assert student.shared() == -1


# Ways round the layers, each of which must fail.
WAYS = {
    "the memory of a process": "open('/proc/self/mem', 'r+b')",
    "a handle of a process": "os.pidfd_open(os.getppid() or 1)",
    "a key ring": "call(*KEYCTL, 0, -3, 0, 0, 0)",
    "io_uring": "call(425, 8, ctypes.create_string_buffer(200))",
    "memory that no limit counts": "os.memfd_create('x')",
    "a namespace by clone3": "call(435, ctypes.create_string_buffer(88), 88)",
    "another root": "os.chroot('.')",
    "a mount": "check(libc.mount(b'none', b'.', b'tmpfs', 0, None))",
    "a socket of the kernel": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
    "a raw socket": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)",
    "a device": "os.mknod('device', 0o20666, os.makedev(1, 1))",
    "priority": "os.nice(-1)",
    "code that Python runs at its start": "open(f'{PACKAGES}/x.pth', 'w')",
    "byte code": "open(f'{PACKAGES}/torch/__pycache__/x.pyc', 'w')",
    "another content": "open(torch.__file__, 'r+')",
    "another mode": "os.chmod(torch.__file__, 0o777)",
    "another name": "os.link(torch.__file__, 'torch.py')",
    "a program with rights": "subprocess.run(['su', '-c', 'true'], input=b'', check=True)",
}
CALLS = {
    "a handle of a process", "a key ring", "io_uring", "memory that no limit counts",
    "a namespace by clone3", "a socket of the kernel",
}  # fmt: skip
REFUSALS = r"refused|not permitted|denied|No such|Read-only|unreachable|Invalid cross|status"
AROUND = """
import ctypes, os, platform, socket, subprocess, sysconfig, torch
PACKAGES = sysconfig.get_paths()["purelib"]
KEYCTL = [250 if platform.machine() == "x86_64" else 219]
libc = ctypes.CDLL(None, use_errno=True)
def check(result):
    if result == -1: raise OSError(ctypes.get_errno(), "refused")
def call(*args): check(libc.syscall(*args))
"""


@pytest.mark.parametrize("way", WAYS)
def test_ways_round_are_closed(zygote, answer, way):
    if way in CALLS and not is_confined_by(zygote, "seccomp"):
        pytest.skip("the system's calls are not filtered")
    student = answer(f"{AROUND}\ndef f(): {WAYS[way]}")
    with pytest.raises((OSError, RemoteError), match=REFUSALS):
        student.f()


def test_all_that_it_started_ends_with_it(zygote):
    source = """
import os, signal, time
def leave(escape):
    for _ in range(3):
        if not os.fork():
            for number in (1, 2, 15): signal.signal(number, signal.SIG_IGN)
            if escape:
                try: os.setsid()
                except OSError: pass
                if os.fork(): os._exit(0)
            time.sleep(600)
    import threading
    threading.Thread(target=time.sleep, args=(600,)).start()
"""
    before = running(zygote._process.pid)
    for escape in (False, True):
        with zygote.spawn([Cell("c", source)]) as process:
            process.student.leave(escape)
            assert len(running(zygote._process.pid)) >= len(before) + 4
        assert running(zygote._process.pid) == before


def test_workers_die_when_the_zygote_is_killed():
    zygote = StudentZygote()
    with zygote, zygote.spawn([Cell("c", "x = 1")]) as process:
        assert process.student.x == 1
        workers = running(zygote._process.pid)
        assert workers
        zygote._process.send_signal(signal.SIGKILL)
        zygote._process.wait()
        with pytest.raises(AnswerLost):
            process.student.channel.exchange(b"{}", {}, [])
        with pytest.raises(ZygoteError, match=r"is gone|does not answer"):
            zygote.fork()
        process._worker = None
    assert not any(Path(f"/proc/{pid}/exe").exists() for pid in workers)


# --- limits -----------------------------------------------------------------------------------


LIMITS = {
    "memory": ("torch.empty(100 << 30)", "8 GB of memory"),
    "many tensors": ("[torch.empty(1 << 28) for _ in range(100)]", "8 GB of memory"),
    "a long list": ("bytearray(100 << 30)", "8 GB of memory"),
    "processes": ("[os.fork() or time.sleep(60) for _ in range(100)]", "12 processes"),
    "threads": ("[threading.Thread(target=time.sleep, args=(9,)).start() for _ in range(99)]",
                "12 processes and threads"),
    "a large file": ("open('f', 'wb').write(bytes(2 << 20))", "files of 1 MB"),
    "open files": ("[os.open('.', 0) for _ in range(100)]", "32 open files"),
    "output": ("[print('x' * (1 << 20)) for _ in range(100)]", "64 MB of printed output"),
    "network": ("socket.create_connection(('127.0.0.1', 9))", "no access to a network"),
    "a file of others": ("open('/etc/shadow')", "No such file|only Python, its packages"),
}  # fmt: skip
IMPORTS = "import os, socket, threading, time, torch\n"


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_that_is_broken_is_named(answer, name):
    code, sentence = LIMITS[name]
    student = answer(f"{IMPORTS}def f():\n    return {code}")
    with pytest.raises(Exception, match=sentence):
        student.f()


@pytest.mark.parametrize(
    "code",
    [
        "[open(f'{n}', 'w').close() for n in range(10 ** 6)]",
        "[open(f'{n}', 'wb').write(bytes(1 << 20)) for n in range(100)]",
    ],
)
def test_files_are_limited_together_where_they_are_in_memory(zygote, answer, code):
    if not is_confined_by(zygote, "view"):
        pytest.skip("its files are on disk, limited one by one")
    with pytest.raises(OSError, match="4 MB in 50 files"):
        answer(f"def f(): {code}").f()


def test_memory_is_limited_together(zygote):
    """Each process keeps to its own limit; what they share with each other counts once."""
    source = f"""{IMPORTS}
def take(size):
    for _ in range(6):
        if not os.fork():
            held = torch.ones(size << 18)
            time.sleep(60)
    time.sleep(3)
"""
    cell = [Cell("c", source)]
    with zygote.spawn(cell) as process:
        process.student.take(8)
    told = pytest.raises(AnswerLost, match="1 GB of memory to all processes of an answer together")
    with zygote.spawn(cell) as process, told:
        process.student.take(256)
    assert running(zygote._process.pid) == []


def test_what_one_exercise_leaves_behind_is_not_held_against_the_next(zygote):
    def take(student):
        """take() should return."""
        student.take()

    def nothing(student):
        """one() should be 1."""
        assert student.one() == 1

    source = f"""{IMPORTS}
def take():
    for _ in range(6):
        if not os.fork():
            held = torch.ones(1 << 26)
            time.sleep(60)
def one():
    time.sleep(1)
    return 1
"""
    with zygote.spawn([Cell("c", source)]) as process:
        for function, name in ((take, "a"), (nothing, "b")):
            test = Test("test", name, function.__doc__, 1, function)
            assert [o.status for o in run_exercise([test], process)] == ["passed"]


LEFT = {
    "files": "open(f'{n}', 'wb').write(bytes(1 << 20))",
    "files without a name":
        "o = open('f', 'wb'); o.write(bytes(1 << 20)); os.remove('f'); kept.append(o)",
}  # fmt: skip


@pytest.mark.parametrize("kind", LEFT)
def test_files_on_disk_are_limited_together(zygote, answer, kind):
    if is_confined_by(zygote, "view"):
        pytest.skip("its files are in memory, where the system limits them")
    student = answer(f"{IMPORTS}kept = []\ndef f(n): {LEFT[kind]}; time.sleep(0.05)")
    with pytest.raises(AnswerLost, match="4 MB in 50 files"):
        for n in range(200):
            student.f(n % 20)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("open(f'{n}', 'wb').write(bytes(1 << 20))", "The grader allows 4 MB in 50 files."),
        ("held.append(b'x' * (32 << 20))", "512 MB of memory to all processes"),
        ("break", ""),
    ],
)
def test_a_whole_program_keeps_to_the_bounds(tmp_path, monkeypatch, code, sentence):
    if not sandbox.available() >= sandbox._FOR_PROGRAMS:
        pytest.skip("this machine cannot isolate a program")
    bounds = replace(BOUNDS, together=512 << 20, scratch=4 << 20, files=50)
    monkeypatch.setattr(sandbox, "BOUNDS", bounds)
    program = f"import time\nheld = []\nfor n in range(500):\n    {code}\n    time.sleep(0.05)"
    found = sandbox.run([sys.executable, "-c", program], tmp_path, sandbox.course_home(), 60)
    assert sentence in found and bool(sentence) == bool(found)


def test_cpu_time_is_limited(answer):
    student = answer("def f():\n    while True: pass")
    with pytest.raises(AnswerLost, match="used up its 1 s of CPU time"):
        student.f()


# --- right code feels nothing ---------------------------------------------------------------------


def test_numbers_are_those_of_an_unconfined_process(answer):
    """Libraries choose their ways by what they can find out about the processor."""
    source = """
import torch
def f(x):
    y = torch.tanh(x @ x.T).exp().softmax(0)
    return y, torch.nn.functional.conv2d(x[None, None], x[None, None, :3, :3])
"""
    x = torch.randn(37, 41, generator=torch.Generator().manual_seed(0))
    got = answer(source).f(x)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as over there; more of them add in another order
    y = torch.tanh(x @ x.T).exp().softmax(0)
    z = torch.nn.functional.conv2d(x[None, None], x[None, None, :3, :3])
    torch.set_num_threads(threads)
    assert torch.equal(got[0], y) and torch.equal(got[1], z)


def test_processes_and_programs_can_be_used():
    source = """
import subprocess, sys, torch
from torch.utils.data import DataLoader, TensorDataset
def load():
    loader = DataLoader(TensorDataset(torch.arange(10.0)), 2, num_workers=2)
    return sum(batch[0].sum().item() for batch in loader)
def program():
    return subprocess.check_output([sys.executable, "-c", "print(1 + 1)"])
"""
    with StudentZygote() as zygote:
        if "view" not in zygote.layers:
            pytest.skip("processes need a folder of shared memory, which only a view has")
        with zygote.spawn([Cell("c", source)]) as process:
            assert process.student.load() == 45
            assert process.student.program() == b"2\n"


# --- where isolation is not to be had -------------------------------------------------------------


def test_what_each_layer_is_needed_for():
    assert sandbox.missing(LAYERS) == []
    assert sandbox.missing(MACHINES["container"]) == sandbox.missing(MACHINES["namespaces"]) == []
    assert sandbox.missing({"landlock", "network", "processes"}) == ["the machine's resources"]
    assert sandbox.missing({"user", "network", "processes"}) == ["files"]
    assert sandbox.missing({"user", "view", "processes"}) == ["the network"]
    assert sandbox.missing({"user", "view", "network"}) == ["other processes"]


@pytest.mark.parametrize("layers", [["view", "user"], ["seccomp", "user"], ["nonsense"]])
def test_a_zygote_that_cannot_isolate_does_not_start(layers):
    with pytest.raises(SandboxError, match="--no-sandbox"):
        StudentZygote(layers=layers)


def test_without_a_sandbox_limits_still_hold():
    with StudentZygote(layers=()) as zygote:
        assert zygote.layers == frozenset()
        source = f"{IMPORTS}def f(): torch.empty(100 << 30)\ndef g(): open('/etc/passwd').close()"
        with zygote.spawn([Cell("c", source)]) as process:
            process.student.g()
            with pytest.raises(RuntimeError, match="8 GB of memory"):
                process.student.f()


@pytest.mark.parametrize("broken", ["landlock_restrict_self", "mount_setattr", "capset", "prctl"])
def test_a_layer_that_fails_ends_the_process(broken, tmp_path):
    """What was promised and cannot be kept must stop the student's code, not the protection."""
    program = f"""
import os, sys
from pathlib import Path
from autograder import sandbox
layers = sandbox.available()
def fail(*args): raise OSError(38, "refused")
if {broken!r} == "prctl": sandbox._prctl = fail
real = sandbox._syscall
sandbox._syscall = lambda name, *args: fail() if name == {broken!r} else real(name, *args)
if {broken!r} == "capset" and os.geteuid() == 0: os.setresuid = fail
box = sandbox.Sandbox(layers, sandbox.BOUNDS, Path({str(tmp_path)!r}))
box.enter()
box.shut()
box.confine(box.new_folder(1))
print("ran")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ran" not in done.stdout
    assert done.returncode == 1


@pytest.fixture
def no_isolation(monkeypatch):
    monkeypatch.setattr(sandbox, "available", frozenset)
    monkeypatch.setattr("autograder.grade.available", frozenset)


def test_grade_stops_where_nothing_is_isolated(no_isolation, tmp_path):
    result = CliRunner().invoke(app, ["grade", str(tmp_path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "files and the network and other processes" in " ".join(result.stderr.split())
    assert "--no-sandbox" in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_doctor_tells(monkeypatch):
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert {name for name, works in told["layers"].items() if works} == sandbox.available()
    assert told["machine"]["torch"] == torch.__version__
    assert "isolated here" in CliRunner().invoke(app, ["doctor"]).stdout


def test_the_doctor_fails_where_nothing_is_isolated(no_isolation):
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "Not isolated: files, the network, other processes" in " ".join(result.stdout.split())
