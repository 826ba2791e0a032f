"""course.testing: each assertion accepts what is right, refuses what is not, and says why."""

import types
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from course.testing import (
    Counterexample,
    Mismatch,
    Student,
    Test,
    assert_close,
    assert_equal,
    assert_gradcheck,
    assert_gradgradcheck,
    assert_same_gradients,
    assert_shape,
    assert_true,
    brief,
    collect,
    does_not_call,
    misconception,
    probe,
    raises,
    randint,
    randn,
    seed_inputs,
    unchanged,
)


def reason(*args, by=assert_close, **kwargs) -> str:
    with pytest.raises(Mismatch) as caught:
        by(*args, **kwargs)
    return str(caught.value)


def test_close_accepts_rounding_and_refuses_more():
    x = torch.tensor([1.0, 2.0])
    assert_close(x + 1e-6, x)
    assert reason(x + 1e-2, x) == "The output should be 1 at [0], not 1.01 (2 of 2 values differ)."


def test_close_tells_kind_shape_and_dtype_before_values():
    x = torch.zeros(2, 3)
    assert "None (is a `return` missing?)" in reason(None, x)
    assert "shape (2, 3), not (3, 2)" in reason(x.T, x)
    assert "dtype torch.float32, not torch.float64" in reason(x.double(), x)
    assert "NumPy array" in reason(x, x.numpy())


def test_a_missing_return_is_suspected_only_where_something_was_expected():
    assert reason(3, None) == "The output should be None, not an int."


def test_close_counts_nan_as_equal_to_nan_only():
    nan = torch.tensor([float("nan")])
    assert_close(nan, nan)
    assert "It holds NaN" in reason(nan, torch.zeros(1))


def test_close_looks_into_containers():
    assert_close({"a": [torch.ones(1), 2.0]}, {"a": (torch.ones(1), 2.0)})
    assert "the output['a'][1]".casefold() in reason({"a": [1, 3]}, {"a": [1, 2]}).casefold()
    assert "hold 2 values" in reason([1], [1, 2])


def test_numbers_are_shown_with_the_digits_that_tell_them_apart():
    near, x = 1 + 2e-8, torch.tensor([1.0, 1 + 2e-8], dtype=torch.float64)
    for by in (assert_close, assert_equal):
        with pytest.raises(Mismatch, match=r"should be 1, not 1\.00000002") as caught:
            by(near, 1.0, **({"rtol": 0, "atol": 0} if by is assert_close else {}))
        assert (caught.value.got, caught.value.expected) == ("1.00000002", "1")
    with pytest.raises(Mismatch, match=r"should be 1 at \[1\], not 1.00000002") as caught:
        assert_close(x, torch.ones(2, dtype=torch.float64), rtol=0, atol=0)
    assert "1.00000002" in caught.value.got


def test_symptom_names_a_known_mistake():
    x = torch.arange(4.0)
    with pytest.raises(Mismatch) as caught:
        assert_close(x * x, 2 * x, symptoms={"halved": x / 2, "squared": x * x})
    assert caught.value.symptom == "squared"


def test_equal_is_exact_and_knows_bool_from_int():
    assert_equal((1, 2), (1, 2))
    assert_equal(torch.tensor(3), 3)
    assert "a bool, not an int" in reason(1, True, by=assert_equal)
    assert "should be 2, not 3" in reason(3, 2, by=assert_equal)
    assert "a tuple, not a list" in reason([1], (1,), by=assert_equal)


def test_equal_shows_the_place_where_long_values_begin_to_differ():
    numbers = list(range(12))
    assert "result[10] should be 10, not -1" in reason(
        [*numbers[:10], -1, 11], numbers, by=assert_equal
    )
    assert "result (its length) should be 12, not 11" in reason(
        numbers[:-1], numbers, by=assert_equal
    )
    assert "result[0][9] should be 9, not 0" in reason(
        [[*numbers[:9], 0]], [numbers[:10]], by=assert_equal
    )
    assert "result[200:] should be 'b', not 'c'" in reason(
        "a" * 200 + "c", "a" * 200 + "b", by=assert_equal
    )
    assert "should be 0.29999999999999999, not 0.30000000000000004" in reason(
        0.1 + 0.2, 0.3, by=assert_equal
    )


def test_shape_and_true():
    assert_shape(torch.zeros(2, 1), (2, 1))
    assert "a tensor, not an int" in reason(3, (1,), by=assert_shape)
    assert reason(torch.tensor(False), "Nope.", by=assert_true) == "Nope."


def test_gradchecks_find_a_wrong_gradient():
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, g):
            return g * ctx.saved_tensors[0]

    x = randn(3, requires_grad=True)
    assert_gradcheck(torch.sin, x)
    assert_gradgradcheck(torch.sin, x)
    assert "finite differences" in reason(Wrong.apply, x, by=assert_gradcheck)
    assert "detached" in reason(lambda t: t.detach() * 2, x, by=assert_gradcheck)


def test_same_gradients():
    x, w = randn(2, 3), randn(3, 2)
    assert_same_gradients(lambda a, b: a @ b, torch.matmul, x, w)
    wrong = reason(lambda a, b: a @ b * 1.1, torch.matmul, x, w, by=assert_same_gradients)
    assert "with respect to input 1" in wrong
    assert "detached" in reason(
        lambda a, b: (a @ b).detach(), torch.matmul, x, w, by=assert_same_gradients
    )


def test_raises_wants_the_type_and_the_message():
    with raises(ValueError, match="positive"):
        raise ValueError("n should be positive")
    with pytest.raises(Mismatch, match="no error came"), raises(ValueError):
        pass
    with pytest.raises(Mismatch, match="raised TypeError"), raises(ValueError):
        raise TypeError
    with pytest.raises(Mismatch, match="message"), raises(ValueError, match="positive"):
        raise ValueError("bad")


def test_an_unwritten_stub_is_never_the_wanted_error():
    with pytest.raises(NotImplementedError), raises(RuntimeError):
        raise NotImplementedError("`f` is not written yet.")


@pytest.mark.parametrize("value", [torch.ones(2), np.ones(2), [torch.ones(2)]])
def test_unchanged(value):
    with unchanged(value):
        pass
    with pytest.raises(Mismatch, match="in place"), unchanged(value):
        inner = value[0] if isinstance(value, list) else value
        inner[0] = 5


def test_does_not_call_sees_functions_and_methods():
    student = Student({"f": lambda x: x.sort().values, "g": lambda x: F.relu(x)})
    with does_not_call(student, "topk"):
        student.f(torch.ones(2))
    with pytest.raises(Mismatch, match="without `sort`"), does_not_call(student, "sort"):
        student.f(torch.ones(2))
    with pytest.raises(Mismatch, match="without `relu`"), does_not_call(student, "relu"):
        student.g(torch.ones(2))


def test_missing_name_is_said_plainly():
    with pytest.raises(Mismatch, match="`corr2d` is not defined"):
        Student({}).corr2d  # noqa: B018


@probe
def alone(x):
    return torch.sum(x) + math.pi  # noqa: F821


@probe
def leans_on_its_file(x):
    return reason(x)


def test_a_probe_sees_torch_and_math_only():
    assert alone(torch.zeros(2)) == pytest.approx(3.14159, abs=1e-4)
    with pytest.raises(NameError):
        leans_on_its_file(1)


def test_inputs_are_seeded_and_private():
    seed_inputs("a")
    first = randn(3), randint(0, 100, (3,))
    seed_inputs("a")
    torch.rand(7)  # what an answer draws changes nothing
    assert torch.equal(first[0], randn(3))
    assert torch.equal(first[1], randint(0, 100, (3,)))


def test_brief_is_short_and_free_of_addresses():
    assert brief(torch.tensor([[1.0, 2.5]])) == "[[1, 2.5]]"
    assert brief(torch.zeros(100)) == "float32[100] [0, 0, 0, …]"
    assert "0x" not in brief(object())
    assert brief((1,)) == "(1,)"
    assert brief(torch.eye(2).to_sparse()) == "[[1, 0], [0, 1]]"
    assert brief(np.array(["a", "b"])) == "['a', 'b']"
    assert brief(torch.empty(0, 3)) == "an empty tensor of shape (0, 3)"


def test_brief_says_so_where_there_are_no_values_to_show():
    unreadable = [
        torch.empty(2, 3, device="meta"),
        torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        torch.nn.LazyLinear(3).weight,
    ]
    for tensor in unreadable:
        assert brief(tensor) == f"a float32 tensor on {tensor.device} without readable values"
    assert brief(torch.eye(2).to_sparse_csr()) == "[[1, 0], [0, 1]]"


def test_an_answer_without_values_is_wrong_and_not_unattempted():
    def test(student):
        """f(x) should be x."""
        assert_close(student.f(student.make()), torch.ones(2))

    names = {"f": lambda x: x, "make": lambda: torch.empty(2, device="meta")}
    outcome = Test("test", "f", "f(x) should be x.", 1, test).run(Student(names))
    assert outcome.status == "failed"
    assert outcome.reason == "The output should be on cpu, not meta."
    assert "without readable values" in outcome.counterexample.inputs


# --- collecting and running ---


def module_of(*functions) -> types.ModuleType:
    module = types.ModuleType("checks")
    for function in functions:
        setattr(module, function.__name__, function)
    return module


@pytest.mark.exercise("sum", points=3)
@pytest.mark.parametrize("n", [1, pytest.param(2, id="two")])
@pytest.mark.parametrize("shape, k", [((2,), 1), ((3, 1), 2)])
def example(student, n, shape, k):
    """It should
    add up."""
    assert_equal(student.f(n, shape), n + len(shape))


def test_cases_are_the_product_of_all_parameters():
    (test,) = collect(module_of(example))
    assert (test.name, test.exercise, test.points) == ("example", "sum", 3)
    assert test.statement == "It should add up."
    assert len(test.cases) == 4
    assert {"n": 2, "shape": (3, 1), "k": 2} in test.cases


def test_outcomes_tell_inputs_expected_and_got():
    (test,) = collect(module_of(example))
    assert test.run(Student({"f": lambda n, s: n + len(s)})).passed
    outcome = test.run(Student({"f": lambda n, s: n + 1}))
    assert outcome.status == "failed"
    assert outcome.counterexample == Counterexample("f(1, (3, 1))", expected="3", got="2")


def test_an_error_of_the_answer_is_shown_with_its_line():
    namespace: dict = {}
    source = "def f(n, s):\n    return 1 / 0\n"
    exec(compile(source, "<cell>", "exec"), namespace)
    (test,) = collect(module_of(example))
    outcome = test.run(Student(namespace))
    assert outcome.reason.startswith("It raised ZeroDivisionError: division by zero (in f, line 2")


def test_a_stub_is_not_attempted():
    def f(n, s):
        raise NotImplementedError("`f` is not written yet.")

    (test,) = collect(module_of(example))
    assert test.run(Student({"f": f})).status == "not attempted"


def test_collect_refuses_tests_that_no_student_could_read_or_run():
    @pytest.mark.exercise("x")
    def silent(student): ...

    @pytest.mark.exercise("x")
    def greedy(student, monkeypatch):
        """It should."""

    with pytest.raises(ValueError, match="docstring"):
        collect(module_of(silent))
    with pytest.raises(ValueError, match="monkeypatch"):
        collect(module_of(greedy))


def test_answers_register_with_their_source():
    answers = globals().setdefault("ANSWERS", [])
    answers.clear()

    @misconception("sum", hint="Add.")
    def f(n, s):
        return 0

    @misconception(
        "sum",
        hint="A class, of the same name as the next one.",
    )
    @dataclass
    class A:
        number = 1

    @misconception("sum", hint="Another.")
    class A:  # noqa: F811
        number = 2

    assert [(a.exercise, a.name, a.hint) for a in answers[:1]] == [("sum", "f", "Add.")]
    assert answers[0].source == "def f(n, s):\n    return 0\n"
    assert answers[1].source == "@dataclass\nclass A:\n    number = 1\n"
    assert answers[2].source.startswith("class A:") and "number = 2" in answers[2].source


def test_what_is_code_keeps_its_small_letter():
    assert reason(1, 2, "f(x)").startswith("f(x) should")
    assert reason(1, 2, "the sum").startswith("The sum should")
    assert randn().shape == ()
