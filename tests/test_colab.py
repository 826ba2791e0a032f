"""A notebook in an environment like Colab's: torch and the rest are there, nothing of ours is."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "tensors.ipynb"
RUN = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
source = "import course, torch; print(course.__file__, torch.__version__)"
where = nbformat.v4.new_code_cell(source)
notebook.cells.append(where)
NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
print(notebook.cells[-1].outputs[0].text)
"""
pytestmark = pytest.mark.skipif(
    not (ROOT / ".git").exists() or shutil.which("git") is None,
    reason="the first cell installs from the repository, and this is no clone",
)


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """Of a fresh environment that sees all installed packages but those of this repository."""
    folder = tmp_path_factory.mktemp("colab")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout
    # A path file that is found through another path file is not read, so the editable install of
    # this repository, which is one, stays out.
    Path(own.strip(), "colab.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_the_first_cell_installs_the_course_and_leaves_the_rest_alone(python, tmp_path):
    hidden = subprocess.run([python, "-c", "import course"], cwd=tmp_path, capture_output=True)
    assert hidden.returncode != 0, "the environment has the course already"
    url = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
    environment = {
        **os.environ,
        # The repository's address leads here; the build needs hatchling only, which is there.
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": f"url.{ROOT.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": url,
        "GIT_CONFIG_KEY_1": "safe.directory",
        "GIT_CONFIG_VALUE_1": "*",
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip's way to say yes
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    environment.pop("PYTHONPATH", None)
    source = tmp_path / "tensors.ipynb"
    source.write_text(NOTEBOOK.read_text(encoding="utf-8"), encoding="utf-8")
    first = next(c for c in json.loads(source.read_text())["cells"] if c["cell_type"] == "code")
    assert "--no-deps" in "".join(first["source"]), "it must not touch Colab's torch"
    done = subprocess.run(
        [python, "-c", RUN, source], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    where, version = done.stdout.split()[-2:]
    assert Path(where).is_relative_to(python.parents[1]), "the course comes from the clone"
    import torch

    assert version == torch.__version__
