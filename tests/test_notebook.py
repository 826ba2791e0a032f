"""The reader of submitted notebooks: every file gets a result or a sentence, never a traceback."""

import ast
import copy
import json
import random

import pytest

from autograder.chapters import ChapterError
from autograder.notebook import Blank, ReadProblem, _free, read

SETUP = "import torch\nimport torch.nn.functional as F\n\ndef pair(v):\n    return (v, v)"
CORR = '''def corr2d(x, k):
    """Cross-correlate."""
    # your code here
    raise NotImplementedError("`corr2d` is not written yet.")


def conv2d(x, w):
    # your code here
    raise NotImplementedError("`conv2d` is not written yet.")'''
POOL = """class Pool:
    def __init__(self):
        # your code here
        raise NotImplementedError("`Pool.__init__` is not written yet.")"""
DEMO = "SCALE = 3\n\ndef grid(n):\n    return SCALE * n\n\nimage = torch.rand(4, 4)"

RIGHT_CORR = "def corr2d(x, k):\n    return x * k\n\n\ndef conv2d(x, w):\n    return x @ w"
RIGHT_POOL = "class Pool:\n    def __init__(self):\n        self.n = 0"


def code(source, **metadata):
    return {"cell_type": "code", "metadata": metadata, "source": source, "outputs": []}


def notebook(*cells, chapter="convolution"):
    text = {"cell_type": "markdown", "metadata": {}, "source": "# Title"}
    metadata = {"course": {"chapter": chapter}} if chapter else {}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": [text, *cells]}


def encoded(*cells, **options):
    return json.dumps(notebook(*cells, **options)).encode()


FORBID = ["torch.nn.functional.conv2d", "torch.nn.Conv2d"]
BLANK = Blank.released(
    encoded(
        code(SETUP, setup=True), code(CORR, exercise="corr", forbid=FORBID), code('check("corr")'),
        code(DEMO), code(POOL, exercise="pool"),
    ),
    "convolution.ipynb",
)  # fmt: skip
OTHER = Blank.released(
    encoded(
        code("import math", setup=True),
        code("def vjp(f):\n    raise NotImplementedError", exercise="vjp"),
        chapter="autograd",
    ),
    "autograd.ipynb",
)
BLANKS = {"convolution": BLANK, "autograd": OTHER}


def submit(*cells, name="alice.ipynb", expected=None, **options):
    return read(encoded(*cells, **options), name, BLANKS, expected)


def statuses(submission):
    return {name: attempt.status for name, attempt in submission.attempts.items()}


def namespace(submission):
    """What its pieces define when they run, each failing alone."""
    names = {}
    for piece in submission.pieces:
        exec(compile(piece.source, piece.name, "exec"), names)
    return names


BOTH = {"corr": "answered", "pool": "answered"}


# --- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (b"%PDF-1.4 ...", "is a PDF"),
        (b"PK\x03\x04....", "a zip archive"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"\x89PNG\r\n", "a picture"),
        (bytes(range(256)), "cannot be read"),
        (encoded(code(RIGHT_CORR))[:-40], "cannot be read"),
        (b'{\n<<<<<<< HEAD\n"cells": []\n=======\n>>>>>>> x\n}', "git merge"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[1, 2]", "no list of cells"),
        (b'"text"', "no list of cells"),
        (b'{"cells": 3}', "no list of cells"),
        (b'{"cells": []}', "holds no exercise"),
        (b'{"cells": [null, 3, {"cell_type": "code"}], "metadata": []}', "holds no exercise"),
        (b" " * (33 * 2**20), "clear its outputs"),
    ],
)
def test_what_is_no_notebook_gets_one_sentence(data, says):
    with pytest.raises(ReadProblem) as problem:
        read(data, "alice.ipynb", BLANKS)
    assert says in str(problem.value)
    assert str(problem.value).startswith("alice.ipynb") and "\n" not in str(problem.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1"])
def test_encodings(encoding):
    book = notebook(code(f"# Größe\n{RIGHT_CORR}", exercise="corr"))
    data = json.dumps(book, ensure_ascii=False).encode(encoding)
    assert statuses(read(data, "a.ipynb", BLANKS))["corr"] == "answered"


def test_format_3_and_sources_as_lists():
    cells = [
        {"cell_type": "code", "input": RIGHT_CORR.splitlines(True), "metadata": None},
        {"cell_type": "code", "input": [RIGHT_POOL, None]},
    ]
    data = json.dumps({"nbformat": 3, "worksheets": [None, {"cells": cells}]}).encode()
    assert statuses(read(data, "a.ipynb", BLANKS)) == BOTH


def test_mutated_notebooks_never_raise_anything_else():
    rng = random.Random(0)
    whole = encoded(
        code(SETUP, setup=True), code(RIGHT_CORR, exercise="corr"), code("x = [1,\n2]"),
        code(RIGHT_POOL),
    )  # fmt: skip
    read_well = 0
    for _ in range(1000):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            place = rng.randrange(len(data))
            kind = rng.randrange(4)
            if kind == 0:
                data[place] = rng.randrange(256)
            elif kind == 1:
                del data[place : place + rng.randrange(1, 30)]
            elif kind == 2:
                data[place:place] = rng.choice([b'"', b"{", b"]", b"null", b"\\ud800", b"("])
            else:
                other = rng.randrange(len(data))
                data[place:place] = data[other : other + 40]
        try:
            read(bytes(data), "a.ipynb", BLANKS)
            read_well += 1
        except ReadProblem as problem:
            assert str(problem)
    assert 50 < read_well < 950


def test_notebooks_of_the_wrong_shape_never_raise_anything_else():
    rng = random.Random(1)
    whole = encoded(code(SETUP, setup=True), code(RIGHT_CORR, exercise="corr"), code("x = 1"))
    junk = [None, 3, -1.5, True, "text", [], {}, [[]], {"exercise": ["corr"]}, ["a", 1], "\ud800"]
    read_well = 0
    for _ in range(1000):
        book = json.loads(whole)
        for _ in range(rng.randint(1, 4)):
            place, key = rng.choice(list(containers(book)))
            place[key] = copy.deepcopy(rng.choice(junk))
        try:
            read(json.dumps(book).encode(), "a.ipynb", BLANKS)
            read_well += 1
        except ReadProblem as problem:
            assert str(problem)
    assert 50 < read_well < 1000


def containers(value):
    """Every place in a JSON value: (container, key)."""
    if isinstance(value, (dict, list)):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from containers(value[key])


# --- chapters --------------------------------------------------------------------------------


def test_chapter_by_metadata_then_exercises_then_name():
    assert submit(code(RIGHT_CORR, exercise="corr")).chapter == "convolution"
    assert submit(code("def vjp(f): return 1"), chapter=None).chapter == "autograd"
    assert submit(code("x = 1"), chapter=None, name="bob_autograd.ipynb").chapter == "autograd"
    pasted = submit(code("def vjp(f): return 1"), chapter="convolution")
    assert pasted.chapter == "autograd"


def test_a_chapter_that_is_being_written_harms_no_other():
    class Blanks(dict):
        def __getitem__(self, chapter):
            if chapter == "unfinished":
                raise ChapterError("the header is missing")
            return super().__getitem__(chapter)

    blanks = Blanks({"unfinished": None, **BLANKS})
    found = read(encoded(code(RIGHT_CORR), chapter=None), "a.ipynb", blanks)
    assert found.chapter == "convolution"


def test_wrong_chapter():
    vjp = code("def vjp(f): return 1", exercise="vjp")
    with pytest.raises(ReadProblem, match=r"notebook of autograd, not of convolution") as problem:
        submit(vjp, chapter="autograd", expected="convolution")
    assert problem.value.status == "wrong chapter"
    misnamed = submit(vjp, chapter="autograd", name="alice/convolution.ipynb")
    assert misnamed.chapter == "autograd"
    assert misnamed.notes == ("This is the notebook of autograd, not of convolution.",)


# --- exercises -------------------------------------------------------------------------------


def test_blank_and_missing():
    blank = submit(code(CORR, exercise="corr"))
    assert statuses(blank) == {"corr": "not attempted", "pool": "missing"}
    assert blank.notes == ("Exercise pool is missing.",)
    assert blank.attempts["pool"].reason == "No cell defines `Pool`."
    commented = CORR.replace("# your code here", "# I do not know")
    assert statuses(submit(code(commented, exercise="corr")))["corr"] == "not attempted"
    emptied = submit(code("", exercise="corr"), code(RIGHT_POOL))
    assert statuses(emptied) == {"corr": "missing", "pool": "answered"}


def test_answers_found_by_name_where_metadata_is_lost():
    found = submit(code(RIGHT_CORR), code(RIGHT_POOL, exercise="pool"))
    assert statuses(found) == BOTH
    assert found.notes == ("The metadata of exercise corr was lost; found by the names defined.",)
    corr2d, conv2d = RIGHT_CORR.split("\n\n\n")
    split = submit(code(corr2d, exercise="corr"), code(conv2d), code(RIGHT_POOL, exercise="pool"))
    assert statuses(split) == BOTH and split.notes == ()
    merged = submit(code(f"{RIGHT_CORR}\n\n{RIGHT_POOL}", exercise="corr"))
    assert statuses(merged) == BOTH


def test_last_of_two_answers_counts():
    twice = submit(
        code(RIGHT_CORR, exercise="corr"), code("corr2d = lambda x, k: 'second'"), code(RIGHT_POOL)
    )
    assert "2 cells answer corr; the last one (code cell 2) counts." in twice.notes
    assert namespace(twice)["corr2d"](1, 2) == "second"


def test_stub_below_an_answer_does_not_overwrite_it():
    above = submit(code(RIGHT_CORR), code(CORR, exercise="corr"), code(RIGHT_POOL))
    assert statuses(above)["corr"] == "answered"
    assert namespace(above)["corr2d"](3, 4) == 12


def test_half_an_exercise_keeps_the_other_stub():
    half = RIGHT_CORR.split("\n\n\n")[0] + "\n\n\n" + CORR.split("\n\n\n")[1]
    names = namespace(submit(code(half, exercise="corr")))
    assert names["corr2d"](3, 4) == 12
    with pytest.raises(NotImplementedError, match="conv2d"):
        names["conv2d"](3, 4)


def test_syntax_error_costs_its_cell_alone():
    broken = submit(code("def corr2d(x, k):\n  return (x", exercise="corr"), code(RIGHT_POOL))
    assert statuses(broken) == {"corr": "syntax error", "pool": "answered"}
    assert broken.attempts["corr"].reason.startswith("Its cell is no valid Python in line 2: ")
    assert broken.notes[0].startswith("Code cell 1 is no valid Python in line 2: ")
    lost = submit(code("def corr2d(x, k):\n  return (x"), code(RIGHT_POOL))
    assert statuses(lost)["corr"] == "syntax error"
    elsewhere = submit(code("a b"), code(RIGHT_CORR, exercise="corr"), code(RIGHT_POOL))
    assert statuses(elsewhere) == BOTH


@pytest.mark.parametrize(
    "source",
    ["a\0b", "(" * 999, "-" * 9_000 + "1", *(f"z = x{'.y' * n}" for n in (140, 300, 900, 50_000))],
)
def test_code_that_the_parser_gives_up_on(source):
    assert statuses(submit(code(source), code(RIGHT_CORR), code(RIGHT_POOL))) == BOTH


# --- what runs -------------------------------------------------------------------------------


def test_set_up_is_the_chapters_own_and_changes_to_it_are_the_students():
    mine = "import torch\nimport math as m\nimport nonsense_that_is_missing\nprint('hello')"
    pieces = submit(code(mine, setup=True), code(RIGHT_CORR, exercise="corr")).pieces
    assert pieces[0].source == SETUP
    assert [p.source.strip() for p in pieces[1:3]] == [
        "import math as m", "import nonsense_that_is_missing"
    ]  # fmt: skip


def test_of_added_cells_only_definitions_run():
    added = """from math import pi
HALF, names = pi / 2, ["a", "b"]
table: dict = {1: 2}
table[3] = 4
f = lambda x: torch.relu(x)
try:
    import numpy as np
except ImportError:
    np = None
@torch.no_grad()
def helper(x): return x
class Box:
    size = max(1, 2)
data = torch.rand(3)
print("no")
for i in range(3): names.append(i)
while True: pass
if torch.cuda.is_available(): device = "cuda"
raise ValueError"""
    names = namespace(submit(code(added), code(RIGHT_CORR, exercise="corr")))
    assert {"HALF", "table", "f", "np", "helper", "Box", "names"} <= names.keys()
    assert names["table"] == {1: 2, 3: 4} and names["names"] == ["a", "b"]
    assert not names.keys() & {"data", "i", "device"}


def test_an_exercise_s_own_cell_may_compute_but_not_try_things_out():
    cell = f"WEIGHTS = torch.arange(3)\n{RIGHT_CORR}\nprint(corr2d(image, image))\nwhile True: pass"
    pieces = submit(code(cell, exercise="corr")).pieces
    assert [p.source.strip().split("\n")[0] for p in pieces[1:]] == [
        "WEIGHTS = torch.arange(3)", "def corr2d(x, k):", "def conv2d(x, w):"
    ]  # fmt: skip


def test_lines_are_those_of_the_cell_and_names_differ():
    cell = f"# a comment\na = 1; b = 2; c = 3\n\n{RIGHT_CORR}"
    pieces = submit(code(cell, exercise="corr")).pieces[1:]
    assert [p.name for p in pieces] == [
        "code cell 1, line 2", "code cell 1, line 2, column 8", "code cell 1, line 2, column 15",
        "code cell 1, line 4", "code cell 1, line 8",
    ]  # fmt: skip
    assert pieces[3].source.startswith("\n\n\ndef corr2d")


def test_magics_are_no_errors():
    cell = f"%%time\n%matplotlib inline\n!pip install x\nfiles = !ls\ntorch.rand?\n{RIGHT_CORR}"
    assert statuses(submit(code(cell, exercise="corr")))["corr"] == "answered"
    assert statuses(submit(code("%%bash\nls ("), code(RIGHT_CORR), code(RIGHT_POOL))) == BOTH


def test_the_chapters_demonstrations_run_where_an_answer_uses_them():
    uses = submit(code(DEMO), code("def corr2d(x, k):\n    return grid(3)", exercise="corr"))
    assert namespace(uses)["corr2d"](0, 0) == 9
    unused = submit(code(DEMO), code(RIGHT_CORR, exercise="corr"))
    assert "grid" not in namespace(unused)


def test_what_an_answer_takes_from_elsewhere_is_noted():
    takes = submit(
        code("ROOT = torch.sqrt(torch.tensor(2.))"),
        code("def corr2d(x, k):\n    return ROOT * x", exercise="corr"),
    )
    assert any("corr uses `ROOT`, which another cell computes" in note for note in takes.notes)


# --- forbidden calls -------------------------------------------------------------------------


def corr_with(body, *above):
    cells = [code(source) for source in above]
    lines = f"def conv2d(x, w):\n    return x\n\n\ndef corr2d(x, k):\n    {body}"
    return submit(*cells, code(lines, exercise="corr")).attempts["corr"]


@pytest.mark.parametrize(
    ("body", "above"),
    [
        ("return F.conv2d(x, k)", ()),
        ("return torch.conv2d(x, k)", ()),
        ("return torch.nn.functional.conv2d(x, k)", ()),
        ("import torch.nn.functional as nf; return nf.conv2d(x, k)", ()),
        ("from torch import conv2d as c; return c(x, k)", ()),
        ("f = F.conv2d; return f(x, k)", ()),
        ("return getattr(F, 'conv2d')(x, k)", ()),
        ("return vars(F)['conv2d'](x, k)", ()),
        ("return F.__dict__['conv2d'](x, k)", ()),
        ("return __import__('torch').conv2d(x, k)", ()),
        ("return torch.ops.aten.conv2d.default(x, k)", ()),
        ("return list(map(F.conv2d, x, k))", ()),
        ("return torch.nn.Conv2d(1, 1, 2)(x)", ()),
        ("return torch.nn.modules.conv.Conv2d(1, 1, 2)(x)", ()),
        ("return c(x, k)", ("from torch.nn.functional import conv2d as c",)),
        ("return mine(x, k)", ("mine = F.conv2d",)),
        ("return mine(x, k)", ("G = torch.nn.functional", "mine = G.conv2d")),
        ("return helper(x, k)", ("def helper(x, k):\n    return F.conv2d(x, k)",)),
        ("return one(x)", ("def two(x): return F.conv2d(x, x)", "def one(x): return two(x)")),
        ("return Layer(x)", ("class Layer(torch.nn.Conv2d): pass",)),
    ],
)
def test_forbidden_calls_are_seen(body, above):
    attempt = corr_with(body, *above)
    assert attempt.status == "forbidden"
    assert "which this exercise is to be solved without" in attempt.reason
    assert "Line" in attempt.reason and "code cell" in attempt.reason


@pytest.mark.parametrize(
    ("body", "above"),
    [
        ("return conv2d(x, k)", ()),
        ("return conv2d(x, k)", ("from torch.nn.functional import *",)),
        ("return F.unfold(x, 2)", ()),
        ("'''not F.conv2d(x, k)'''; return x", ()),
        ("return x if isinstance(x, torch.nn.Conv2d) else k", ()),
        ("layer: torch.nn.Conv2d = k; return layer", ()),
        ("return x", ("def unused(x, k):\n    return F.conv2d(x, k)",)),
        ("return x", ("y = F.conv2d(torch.rand(1, 1, 2, 2), torch.rand(1, 1, 2, 2))",)),
    ],
)
def test_other_code_is_not_forbidden(body, above):
    assert corr_with(body, *above).status == "answered"


def test_forbidden_function_names_its_line():
    assert corr_with("y = 1\n    return F.conv2d(x, k)").reason.startswith(
        "Line 7 of code cell 1 uses `F.conv2d`"
    )


@pytest.mark.parametrize(
    ("forbid", "body", "status"),
    [
        ("torch.matmul", "return x @ k", "forbidden"),
        ("torch.matmul", "return x.matmul(k)", "forbidden"),
        ("torch.Tensor.chunk", "return torch.chunk(x, 2)", "forbidden"),
        ("torch.chunk", "return x.chunk(2)", "forbidden"),
        ("torch.split", "return 'a b'.split()", "answered"),
        ("torch.nn.functional.unfold", "return x.unfold(0, 2, 1)", "answered"),
        ("torch.autograd.grad", "return x.grad", "answered"),
        ("numpy.linspace", "import numpy as np; return np.linspace(0, 1)", "forbidden"),
        ("torch.linspace", "import numpy as np; return np.linspace(0, 1)", "answered"),
    ],
)
def test_tensor_methods_and_operators(forbid, body, status):
    given = code("def f(x, k):\n    raise NotImplementedError", exercise="f", forbid=[forbid])
    blanks = {"mini": Blank.released(encoded(given, chapter="mini"), "mini.ipynb")}
    setup = code("import torch")
    data = encoded(setup, code(f"def f(x, k):\n    {body}", exercise="f"), chapter="mini")
    assert read(data, "a.ipynb", blanks).attempts["f"].status == status


def test_what_a_function_defines_inside_comes_from_nowhere_else():
    source = """
def f(x):
    from math import log as ln
    class K: pass
    def ratio(a): return ln(a)
    try: return ratio(x)
    except ValueError as error: return K, error, g
"""
    assert _free(ast.parse(source).body[0]) == {"g"}
    assert _free(ast.parse("class Net(Net): pass").body[0]) == {"Net"}
    method = "class Net:\n    def dense(self, x): return dense(x)"
    assert _free(ast.parse(method).body[0]) == {"dense"}, "a method is no name inside"
