"""Hiding a chapter and renaming the course take no more than the commands of CONTRIBUTING.md."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from copies import copy_of

from autograder.chapters import chapter_ids, find_root
from autograder.lint import lint
from autograder.pack import pack_student

ROOT = find_root(Path(__file__).parent)
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
OLD = "Learn PyTorch by Writing It"
ADDRESS = "github.com/torch-by-writing/torch-by-writing"

sys.path.append(str(ROOT / "book" / "_ext"))
from check_pages import pages  # noqa: E402
from released import syllabus  # noqa: E402


def commands(heading: str) -> str:
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", GUIDE, re.MULTILINE | re.DOTALL)[1]
    (block,) = re.findall(r"^```bash\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return block


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return copy_of(ROOT, tmp_path / "course")


# --- hiding a chapter ------------------------------------------------------------------------


@pytest.mark.skipif("gan" not in chapter_ids(ROOT), reason="a copy without solutions")
def test_a_hidden_chapter_is_in_no_list_and_lint_is_content(copy, tmp_path):
    subprocess.run(["bash", "-eu", "-c", commands("Hide a chapter")], cwd=copy, check=True)
    before, after = set(pages(ROOT)), set(pages(copy))
    assert "book/chapters/gan" not in after and before - after <= {"book/chapters/gan"}
    assert lint(["gan"], copy) == []
    with zipfile.ZipFile(pack_student([], copy, tmp_path / "student.zip")) as archive:
        names = set(archive.namelist())
    assert "gan.ipynb" not in names and "distillation.ipynb" in names


PAGES = {
    "index.md": "# Front\n\n```{toctree}\nbook/chapters/a\n```\n",
    "book/chapters/a.md": "# A\n\n1 {doc}`gan`, 2 {doc}`this <gan>`, 3 [that](/book/chapters/gan)\n"
    "4 [there](gan.md#part), 5 {doc}`gone`, 6 [lost](/book/chapters/gone)\n",
    "_toc.yml": "  - file: book/chapters/a\n  # - file: book/chapters/gan\n",
}


def test_links_to_a_hidden_chapter_become_text_and_others_still_warn(tmp_path):
    for name, text in PAGES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    extensions = "extensions=myst_parser,hidden"
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-n", "-C", "-D", extensions, ".", "html"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "book" / "_ext")},
    )  # fmt: skip
    page = (tmp_path / "html" / "book" / "chapters" / "a.html").read_text(encoding="utf-8")
    text = " ".join(re.sub(r"<[^>]+>", "", page).split())
    title = next(c["title"] for c in syllabus()["chapters"] if c["id"] == "gan")
    assert f"1 {title}, 2 this, 3 that 4 there, 5" in text
    assert "gan.html" not in page and 'href="gan' not in page
    warnings = done.stderr.strip().splitlines()
    assert len(warnings) == 2 and all("gone" in warning for warning in warnings)


# --- renaming the course ---------------------------------------------------------------------


@pytest.mark.skipif(
    OLD not in (ROOT / "README.md").read_text(encoding="utf-8"), reason="it has a new name already"
)
def test_the_old_name_stays_only_where_it_credits_the_authors(copy):
    subprocess.run(["bash", "-eu", "-c", commands("Rename the course")], cwd=copy, check=True)
    config = yaml.safe_load((copy / "_config.yml").read_text(encoding="utf-8"))
    assert config["title"] == "Deep Learning for Biologists" and OLD in config["author"]
    assert config["repository"]["url"] == "https://github.com/you/deep-learning"
    json.loads((copy / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    kept = {"_config.yml", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "LICENSE-text"}
    tests = f"tests/{Path(__file__).name}"
    for path in sorted(copy.rglob("*")):
        name = path.relative_to(copy).as_posix()
        if not path.is_file() or name == tests:
            continue
        text = path.read_bytes()
        assert OLD.encode() not in text or name in kept, f"{name} has the old title"
        # `autograder release` writes the address into the notebooks.
        generated = name.startswith("notebooks/") or name == "CONTRIBUTING.md"
        assert ADDRESS.encode() not in text or generated, f"{name} has the old address"
