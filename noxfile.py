"""The quick tests on every Python that tfgrad supports: `nox`, or `nox -s tests-3.12`.

Interpreters that are not installed are reported as failed, not skipped.
"""

import nox

nox.options.error_on_missing_interpreters = True
nox.options.default_venv_backend = "venv"


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """Install the pinned requirements and the project, then run the tests that are not slow."""
    session.install("--requirement", "requirements.txt")
    session.install("--no-deps", "--editable", ".")
    quick = ["-m", "not slow", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
    session.run("python", "-m", "pytest", *(session.posargs or quick))
