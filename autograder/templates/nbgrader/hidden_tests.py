def hidden_test(name, source):
    """Run one hidden test of a source on this notebook; AssertionError says what does not hold.

    What an answer prints is swallowed: nbgrader takes points off for any line on stderr.
    """
    import contextlib
    import io
    import linecache
    import sys
    import types
    import warnings

    from course.testing import Student, collect

    file = "<hidden tests>"
    if file not in linecache.cache:
        module = types.ModuleType("hidden_tests")
        module.__file__ = file
        sys.modules[module.__name__] = module
        linecache.cache[file] = len(source), None, source.splitlines(True), file
        exec(compile(source, file, "exec"), vars(module))
    test = next(t for t in collect(sys.modules["hidden_tests"]) if t.name == name)
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        outcome = test.run(Student(globals()))
    assert outcome.passed, outcome.reason
