"""Hostile submissions, each graded among honest ones: none earns a point that it did not earn.

In the tiny chapter `double` has 40 points for its values and 20 for leaving its input alone, and
`count` has 40. A wrong `double` that is harmless otherwise has earned 20 + 40.
"""

import json
import os
import socket
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import make_submissions as make
import pytest
from batches import running, snapshot, tiny_course

import autograder
import course.testing
from autograder import grade as grading
from autograder.chapters import load
from autograder.grade import read_records

SECONDS = 3.0  # for one case of a test, on a busy machine

# What an attack does while the cell runs and again in every call, before the wrong answer.
WRONG = 60
AROUND = """
import os, sys, time, torch
PLACES

def attack():
ATTACK

def quietly():
    try:
        attack()
    except Exception:
        pass

at_once = quietly()

def answer(x):
    return 3 * x

def double(x):
    quietly()
    return answer(x)
"""
# Code → the most that it may earn. Whoever breaks their own process may earn less than the rest.
ATTACKS = {
    "patches the comparisons of torch": """
        torch.allclose = torch.equal = torch.isclose = lambda *a, **k: True
        torch.testing.assert_close = lambda *a, **k: None
        torch.Tensor.__eq__ = torch.Tensor.equal = torch.Tensor.allclose = lambda *a, **k: True""",
    "patches builtins": """
        import builtins
        builtins.all = builtins.any = builtins.isinstance = lambda *a: True
        builtins.AssertionError = ZeroDivisionError""",
    "patches pytest and the course's tests": """
        import pytest, course.testing
        pytest.raises = pytest.approx = lambda *a, **k: True
        for name in dir(course.testing):
            if name.startswith("assert_"): setattr(course.testing, name, lambda *a, **k: None)""",
    "patches the worker": """
        import autograder.worker as w, autograder.wire as wire
        w.Worker.do_call = lambda self, *a: 2
        wire.Encoder.node = lambda self, value: ["int", "0x2"]""",
    "sends answers of its own": """
        import json, struct
        for fd in range(3, 64):
            try: os.write(fd, b'{"score": 100, "passed": true}' * 10)
            except OSError: pass""",
    "closes what is open": """
        os.closerange(0, 256)""",
    "looks into modules for tests": """
        import importlib
        for name in [*sys.modules]:
            if "test_keeps_its_input" in getattr(sys.modules[name], "__dict__", ()):
                globals()["answer"] = lambda x: 2 * x
        importlib.import_module("solutions.mini.tests")
        globals()["answer"] = lambda x: 2 * x""",
    "looks into the environment": """
        if "hunter2" in os.environ.values(): globals()["answer"] = lambda x: 2 * x""",
    "walks the frames": """
        frame = sys._getframe()
        while frame:
            for name in ("expected", "ref", "reference", "answer"):
                if name in frame.f_locals: globals()["answer"] = lambda x: 2 * x
            frame = frame.f_back""",
    "searches the garbage": """
        import gc
        for thing in gc.get_objects():
            if getattr(thing, "__name__", "") in ("test_double", "test_keeps_its_input"):
                globals()["answer"] = lambda x: 2 * x""",
    "inspects who calls": """
        import inspect
        for info in inspect.stack():
            if "tests.py" in info.filename:
                globals()["answer"] = lambda x: 2 * x""",
    "reads the solutions": """
        for path in (f"{ROOT}/solutions/mini/chapter.md", f"{ROOT}/solutions/mini/tests.py"):
            text = open(path).read()
            globals()["answer"] = lambda x: 2 * x""",
    "reads what others handed in": """
        for name in os.listdir(SUBMISSIONS):
            if open(f"{SUBMISSIONS}/{name}").read(): globals()["answer"] = lambda x: 2 * x""",
    "reads and writes grades": """
        open(f"{OUT}/forged.json", "w").write('{"score": 100}')
        globals()["answer"] = lambda x: 2 * x""",
    "changes the tests": """
        open(f"{ROOT}/solutions/mini/tests.py", "w").write("def test(): pass")
        globals()["answer"] = lambda x: 2 * x""",
    "changes the grader": """
        import autograder, course.testing
        for module in (autograder, course.testing):
            open(module.__file__, "a").write("raise SystemExit")
        globals()["answer"] = lambda x: 2 * x""",
    "looks into /proc": """
        for pid in ("self", "1", str(os.getppid())):
            for name in ("environ", "maps", "cmdline", "mem"):
                if os.path.exists(f"/proc/{pid}/{name}"):
                    open(f"/proc/{pid}/{name}").read(10)
                    globals()["answer"] = lambda x: 2 * x""",
    "asks the network": """
        import socket
        for address in (("127.0.0.1", PORT), ("1.1.1.1", 53), ("example.org", 80)):
            try: socket.create_connection(address, 1)
            except OSError: continue
            globals()["answer"] = lambda x: 2 * x""",
    "goes below Python": """
        import ctypes
        if ctypes.CDLL(None).open(f"{ROOT}/solutions/mini/tests.py".encode(), 0) >= 0:
            globals()["answer"] = lambda x: 2 * x""",
    "leaves code for others to load": """
        for folder in (".", *sys.path, *map(os.path.dirname, (torch.__file__, ROOT, OUT))):
            for name in ("sitecustomize", "conftest", "torch", "course", "numpy"):
                try: open(f"{folder}/{name}.py", "w").write("raise SystemExit")
                except OSError: pass
        os.environ["LD_PRELOAD"] = os.environ["PYTHONSTARTUP"] = os.path.abspath("torch.py")
        os.environ["PYTHONPATH"] = os.getcwd()""",
    "prints scores": """
        print('{"score": 100, "passed": true}')
        sys.__stdout__.write("100 passed")
        os.write(1, b"100 passed")
        open("results.json", "w").write('{"score": 100}')""",
    "kills everyone": """
        import signal
        for pid in (os.getppid(), -1, TESTER):
            try: os.kill(pid, signal.SIGKILL)
            except OSError: pass""",
    "leaves a handler for the end": """
        import atexit, signal
        atexit.register(lambda: open(f"{OUT}/late", "w"))
        for number in range(1, 32):
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass""",
    "leaves threads behind": """
        import threading
        for _ in range(4): threading.Thread(target=max, args=(iter(int, 1),)).start()""",
    "leaves processes behind": """
        for _ in range(3):
            if not os.fork():
                try: os.setsid()
                except OSError: pass
                if os.fork(): os._exit(0)
                time.sleep(600)""",
    "sets resource limits": """
        import resource
        for pid in (0, os.getppid(), TESTER):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, 3))""",
    "changes how torch works": """
        import warnings
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.set_num_threads(2)
        torch.use_deterministic_algorithms(True)
        torch.manual_seed(0)
        warnings.simplefilter("error")
        torch.inference_mode(True).__enter__()""",
    "fills the disk": """
        for n in range(100):
            with open(f"{n}", "wb") as file: file.write(bytes(64 << 20))""",
    "makes files without end": """
        for n in range(10 ** 6): open(f"{n}", "w").close()""",
    "takes all addresses": """
        globals()["held"] = [torch.empty(1 << 28) for _ in range(1000)]""",
    "forks without end": """
        while True: os.fork()""",
    "prints without end": """
        while True: print("x" * 10 ** 6)""",
}  # fmt: skip
# Whole cells, the points that they may earn at most, and what the student is told.
CELLS = {
    "equals everything": ("""
class Yes:
    def __eq__(self, other): return True
    def __getattr__(self, name): return self
    def __call__(self, *a, **k): return self
    def __len__(self): return 1
    __hash__ = None
def double(x): return Yes()
""", 60, ""),
    "a tensor that agrees": ("""
import torch
class Agrees(torch.Tensor):
    @classmethod
    def __torch_function__(cls, f, types, args=(), kwargs=None):
        return True if f in (torch.equal, torch.allclose) else super().__torch_function__(
            f, types, args, kwargs or {})
def double(x): return (3 * x).as_subclass(Agrees)
""", 60, ""),
    "remembers the public checks": ("""
def double(x): return {(1.0, 3.0): x * 2}.get(tuple(x.tolist()), x * 3)
""", 60, "should be"),
    "tells the tests apart": ("""
calls = 0
def double(x):
    global calls
    calls += 1
    return 2 * x if calls % 2 else 3 * x
""", 60, ""),
    "is forbidden": ("import torch\ndef double(x): return torch.add(x, x)", 40, "torch.add"),
    "is forbidden by another name": ("""
from torch import add as plus
def double(x): return plus(x, x)
""", 40, "without"),
    "is forbidden by getattr": ("""
import torch
def double(x): return getattr(torch, "add")(x, x)
""", 40, "without"),
    "is forbidden in a helper": ("""
import torch
helper = vars(torch)["add"]
def double(x): return helper(x, x)
""", 40, "without"),
    "exits": ("import sys\ndef double(x): sys.exit(0)", 40, "SystemExit"),
    "exits at once": ("import os\ndef double(x): os._exit(0)", 40, "exit code 0"),
    "crashes": ("import ctypes\ndef double(x): ctypes.string_at(0)", 40, "segmentation fault"),
    "aborts": ("import os\ndef double(x): os.abort()", 40, "killed by signal"),
    "loops": ("def double(x):\n    while True: pass", 40, "did not finish within 3 s"),
    "loops and holds on": ("""
def double(x):
    while True:
        try:
            while True: pass
        except BaseException: pass
""", 40, "did not finish within 3 s"),
    "prints too much": ("""
def double(x):
    while True: print("x" * 10 ** 6)
""", 40, "64 MB of printed output"),
    "a huge tensor": ("import torch\ndef double(x): return torch.zeros(100 << 30)", 40,
                      "8 GB of memory"),
    "a huge tensor of one number": (
        "import torch\ndef double(x): return torch.zeros(1).expand(100 << 30)", 40,
        "larger than its memory"),
    "not a number": ("def double(x): return x * float('nan')", 60, ""),
    "forks without end, and is told": ("""
import os, time
def double(x):
    # Only the first one goes on: 64 that all fork meet the time limit first on a busy machine.
    while os.fork(): pass
    time.sleep(60)
""", 40, "the grader allows 64 processes and threads"),
    "a huge file": ("def double(x): open('f', 'wb').truncate(1 << 40)", 40, "files of 256 MB"),
    "too many files": ("""
import os
def double(x):
    for n in range(10 ** 6): os.mknod(str(n))
""", 40, "512 MB in 20,000 files"),
    "a call home": ("""
import socket
def double(x): socket.create_connection(("127.0.0.1", 80), 1)
""", 40, "gives no access to a network"),
    "another's file": ("def double(x): open('/etc/passwd', 'a')", 40,
                       "only Python, its packages and its own folder"),
    "nested without end": ("""
def double(x):
    whole = []
    for _ in range(10 ** 5): whole = [whole]
    return whole
""", 40, "nested"),
    "contains itself": ("""
def double(x):
    whole = []
    whole.append(whole)
    return whole
""", 40, "contains itself"),
    "a repr without end": ("""
class Long:
    def __repr__(self): return "x" * 10 ** 9
    __str__ = __repr__
def double(x): return Long()
""", 60, ""),
    "changes its input on the sly": ("""
import threading
def double(x):
    y = 2 * x
    x.data.mul_(5)
    return y
""", 40, ""),
    "an error that lies": ("""
class AssertionError(BaseException):
    def __str__(self): raise SystemExit
def double(x): raise AssertionError
""", 40, ""),
    "skips the test": ("import pytest\ndef double(x): pytest.skip('passed')", 40, ""),
}  # fmt: skip
# Right answers that change the state of their process: they hurt nobody, not even themselves.
HARMLESS = """
import random, sys, warnings, torch, numpy as np
done = [
    torch.set_default_dtype(torch.float64), torch.set_grad_enabled(False),
    torch.set_num_threads(2), torch.manual_seed(1), random.seed(1), np.random.seed(1),
    warnings.simplefilter("error"), sys.setrecursionlimit(200), np.seterr(all="raise"),
]
def double(x):
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(2)
    warnings.simplefilter("error")
    print("working")
    print("on it", file=sys.stderr)
    return 2 * x
"""


def without_checks(notebook):
    return [c for c in notebook["cells"] if "check(" not in "".join(c["source"])]


def retagged(notebook):
    for cell in notebook["cells"]:
        if "exercise" in cell["metadata"]:
            cell["metadata"] |= {"points": 1000, "forbid": [], "tags": ["skip-execution"]}
        elif "check(" in "".join(cell["source"]):
            cell["metadata"] = {"exercise": "double", "points": 60, "nbgrader": {"grade": True}}
            cell["source"] = "print('all checks hold')"
    return notebook["cells"]


NOTEBOOKS = {"deletes the checks": without_checks, "rewrites the checks": retagged}


def slug(name):
    return "-".join("".join(c if c.isalnum() else " " for c in name).split())


@pytest.fixture(scope="module")
def course_root(tmp_path_factory):
    with tiny_course(tmp_path_factory.mktemp("cheats")) as root:
        yield root


@pytest.fixture(scope="module")
def answered(course_root):
    """A notebook with this source for `double`, and an attack's source."""
    chapter = load("mini", course_root)
    references = make.references(chapter)
    return lambda source: make.answered(chapter, references | {"double": source})


@pytest.fixture(scope="module")
def attacking(course_root, answered):
    """A notebook with an attack."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        places = tuple(str(course_root.parent / place) for place in (course_root, "in", "out"))
        known = (*places, os.getpid(), server.getsockname()[1])

        def notebook(name):
            source = AROUND.replace("PLACES", f"ROOT, SUBMISSIONS, OUT, TESTER, PORT = {known}")
            attack = textwrap.indent(textwrap.dedent(ATTACKS[name]).strip(), "    ")
            return answered(source.replace("ATTACK", attack))

        yield notebook


@pytest.fixture(scope="module")
def graded(course_root, answered, attacking):
    """Grades all cheats between two honest students; the records by student."""
    chapter = load("mini", course_root)
    submissions, out = course_root.parent / "in", course_root.parent / "out"
    made = [make.Made("a-right-one", make.encoded(make.answered(chapter)), 100)]
    for name in ATTACKS:
        made.append(make.Made(slug(name), make.encoded(attacking(name)), WRONG))
    for name, (source, most, _) in CELLS.items():
        made.append(make.Made(slug(name), make.encoded(answered(source)), most))
    made.append(make.Made("harmless", make.encoded(answered(HARMLESS)), 100))
    for name, change in NOTEBOOKS.items():
        notebook = answered("import torch\ndef double(x): return torch.add(x, x)")
        notebook["cells"] = change(notebook)
        made.append(make.Made(slug(name), make.encoded(notebook), 40))
    made.append(make.Made("z-right-one", make.encoded(make.answered(chapter)), 100))
    make.write_flat(submissions, made)
    out.mkdir()
    for folder in (submissions, out, course_root, course_root.parent):
        folder.chmod(0o777)  # the sandbox alone shall protect them
    targets = [Path(module.__file__) for module in (autograder, course.testing)]
    before = snapshot(course_root, submissions), [t.read_bytes() for t in targets]
    processes = running(os.getpid())
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as executor:
        patch.setenv("A_SECRET", "hunter2")
        grading.grade([submissions], out, course_root, executor=executor, seconds=SECONDS)
    grading.close_slot()
    left = [pid for pid in running(os.getpid()) if pid not in processes]
    after = snapshot(course_root, submissions), [t.read_bytes() for t in targets]
    records = {r["student"]: r for r in read_records(out)}
    return {m.student: (records[m.student], m.score) for m in made}, left, before == after, out


def reasons(record):
    exercise = record["exercises"]["double"]
    return " ".join([exercise["reason"], *(t["reason"] for t in exercise["tests"])])


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_earns_nothing(graded, name):
    record, most = graded[0][slug(name)]
    assert record["status"] == "graded"
    assert record["score"] <= most
    assert not record["exercises"]["double"]["tests"][0]["passed"]


@pytest.mark.parametrize("name", CELLS)
def test_a_trick_earns_only_what_is_right_and_is_named(graded, name):
    record, most = graded[0][slug(name)]
    assert record["status"] == "graded"
    assert record["score"] == most
    assert CELLS[name][2] in reasons(record)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_forged_notebook_earns_nothing(graded, name):
    record, most = graded[0][slug(name)]
    assert (record["status"], record["score"], record["max"]) == ("graded", most, 100)


@pytest.mark.parametrize("name", ["a-right-one", "harmless", "z-right-one"])
def test_honest_submissions_beside_them_keep_all_points(graded, name):
    record, _ = graded[0][name]
    assert record["score"] == 100
    assert record["notes"] == []


def test_no_process_is_left_and_no_file_changed(graded):
    students, left, unchanged, out = graded
    assert left == []
    assert unchanged
    assert {path.name for path in out.iterdir()} == {*students, "gradebook.csv"}
    for student in students:
        assert [path.name for path in (out / student).iterdir()] == ["mini.json"]


def test_no_secret_is_in_a_record(graded):
    students, _, _, _ = graded
    told = "".join(json.dumps(record) for record, _ in students.values())
    assert "hunter2" not in told
    assert "secret_factor" not in told


# Those that change nothing.
READING = [
    "looks into modules for tests", "reads the solutions", "reads what others handed in",
    "looks into /proc", "asks the network", "goes below Python",
]  # fmt: skip


def test_these_attacks_work_where_nothing_is_isolated(course_root, attacking, monkeypatch):
    """So they test the sandbox; and `--no-sandbox` is the instructor's own risk."""
    monkeypatch.setattr(grading, "available", frozenset)
    folder, out = course_root.parent / "in", course_root.parent / "careless-out"
    made = [
        make.Made(f"careless-{slug(name)}", make.encoded(attacking(name)), 100) for name in READING
    ]
    make.write_flat(folder, made)
    paths = [folder / f"{m.student}.ipynb" for m in made]
    with ThreadPoolExecutor(1) as executor:
        options = {"executor": executor, "seconds": SECONDS, "sandbox": False}
        rows = grading.grade(paths, out, course_root, **options)
    assert {row.student: row.score for row in rows} == {m.student: m.score for m in made}
