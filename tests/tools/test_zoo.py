"""The zoo's verdicts and page; its models need packages of their own and run by `make test-zoo`."""

import pathlib
import re
import subprocess
import sys
import time

import pytest

from tools.zoo import models, page, verdicts
from tools.zoo.entries import CHECKS, ENTRIES, Entry

ROOT = pathlib.Path(__file__).parent.parent.parent


def entry(**options):
    return Entry("network", "package", lambda: None, **options)


def record(**outcomes):
    return {"checks": {check: {"value": 0.0} for check in CHECKS} | outcomes, "inputs": [[8, 8, 3]]}


def test_a_record_within_the_bounds_is_as_expected():
    assert verdicts.wrong(entry(), record()) == []
    assert verdicts.wrong(entry(bounds={"float32": 1e-3}), record(float32={"value": 1e-4})) == []


@pytest.mark.parametrize(
    ("options", "outcomes", "said"),
    [
        ({}, {"float32": {"value": 2e-5}}, "float32: 2.0e-05"),
        ({}, {"float32": {"value": float("nan")}}, "float32: nan"),
        ({}, {"export": {"refusal": "no images"}}, "export: no images"),
        ({"refused": {"export": "no images"}}, {}, "expected a refusal"),
        ({"refused": {"export": "no images"}}, {"export": {"refusal": "other"}}, "export: other"),
        ({"refused": {"export": "no"}}, {"export": {"error": "ValueError: no"}}, "ValueError: no"),
    ],
)
def test_what_is_not_as_expected_is_said(options, outcomes, said):
    (fault,) = verdicts.wrong(entry(**options), record(**outcomes))
    assert said in fault


def test_a_declared_refusal_with_its_message_is_as_expected():
    outcome = {"refusal": "model 'm': takes\nno images"}
    expecting = entry(refused={"export": "takes no images"})
    assert verdicts.wrong(expecting, record(export=outcome)) == []


def test_what_a_package_cannot_is_declared_by_the_cause_alone():
    text = (
        "not built in float64: \x1b[1m"
        + "TypeError: of many words " * 30
        + "float32 is not float64"
    )
    expecting = entry(refused={"float64": "float32 is not float64"})
    found = record(float64={"message": text})
    assert verdicts.wrong(expecting, found) == []
    assert "not built in float64: “float32 is not float64”" in page.text(
        [expecting], {"network": found}
    )
    (fault,) = verdicts.wrong(entry(), found)
    assert "\x1b" not in fault


def test_a_check_that_says_nothing_is_no_fault_and_is_explained():
    expecting = entry(skipped={"difference": "it has steps"})
    found = record(difference={"value": 0.4})
    assert verdicts.wrong(expecting, found) == []
    text = page.text([expecting], {"network": found})
    assert "| 0 | — | 0 |" in text and "- **network**, difference: it has steps." in text


def test_a_process_that_died_and_a_missing_check_are_faults():
    assert verdicts.wrong(entry(), record() | {"died": "at maps: code -11"}) == [
        "the process died at maps: code -11"
    ]
    missing = {"checks": {check: {"value": 0.0} for check in CHECKS if check != "maps"}}
    assert verdicts.wrong(entry(), missing) == ["maps: not run"]


def test_the_page_has_a_row_and_each_refusal():
    expecting = entry(refused={"export": "no images"}, remark="a series")
    text = page.text([expecting], {"network": record(export={"refusal": "x: got no images"})})
    assert (
        "| network | package  | 8×8×3 |  | 0 | 0 | F, C, I | 0 | 0 | refused | a series |" in text
    )
    assert "- **network**, export: “x: got no images”" in text


def test_a_process_ends_with_the_one_that_started_it(tmp_path):
    alive = tmp_path / "alive"
    child = (
        "import os, pathlib, time; from tools.zoo import parent\n"
        "parent.watch(int(os.environ['STARTER']), interval=0.01)\n"
        f"for _ in range(4000): pathlib.Path({str(alive)!r}).touch(); time.sleep(0.01)"
    )
    starter = (
        "import os, pathlib, subprocess, sys, time\n"
        "os.environ['STARTER'] = str(os.getpid())\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        f"while not pathlib.Path({str(alive)!r}).exists(): time.sleep(0.01)"
    )
    subprocess.run([sys.executable, "-c", starter], cwd=ROOT, check=True, timeout=60)
    deadline = time.monotonic() + 30
    while alive.exists():
        assert time.monotonic() < deadline, "the child goes on without its parent"
        alive.unlink()
        time.sleep(0.5)


def test_every_package_of_the_zoo_is_pinned():
    models.load_all()
    pins = (ROOT / "requirements-zoo.txt").read_text().lower()
    names = set(re.findall(r"^([\w.-]+)==", pins, flags=re.MULTILINE))
    assert {e.package.lower() for e in ENTRIES.values()} <= names
    assert len(ENTRIES) >= 40 and len({e.package for e in ENTRIES.values()}) >= 18
