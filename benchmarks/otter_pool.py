"""Grades a folder with Otter's own API in a pool of processes; run by `grading.py`.

`otter run` starts one Python for each submission and is slower; `otter grade` needs Docker.
"""

import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path


def grade(job: tuple[str, str]) -> float:
    from otter.api import grade_submission

    archive, notebook = job
    with open(os.devnull, "w") as nowhere:
        sys.stdout = sys.stderr = nowhere
        return grade_submission(notebook, ag_path=archive, quiet=True).total


def main() -> None:
    archive, folder, workers = sys.argv[1:]
    notebooks = sorted(Path(folder).rglob("*.ipynb"))
    jobs = [(archive, str(path)) for path in notebooks]
    with ProcessPoolExecutor(int(workers)) as pool:
        totals = list(pool.map(grade, jobs))
    print(json.dumps({p.parts[-3]: total for p, total in zip(notebooks, totals, strict=True)}))


if __name__ == "__main__":
    main()
