"""What one test sets, the next does not find."""

from conftest import ROOT

pytest_plugins = ["pytester"]

SETS_ALL = """
import logging, os, random, signal
import numpy as np, pytest, torch

first = []

def state():
    return (torch.get_num_threads(), torch.get_default_dtype(), torch.get_default_device(),
            signal.getsignal(signal.SIGTERM), logging.getLogger("torch").level, os.environ.get("A_FLAG"),
            os.environ["HOME"], random.random(), float(np.random.rand()), float(torch.rand(())))

def set_all():
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.getLogger("torch").setLevel(logging.ERROR)

@pytest.fixture(scope="module")
def sets():
    set_all()

@pytest.mark.parametrize("i", range(3))
def test_finds_what_the_others_found(i, sets):
    first.append(state())
    assert first[-1] == first[0] and torch.get_default_dtype() == torch.float32
    set_all()
    os.environ["A_FLAG"] = "1"
    os.environ["HOME"] = "elsewhere"
"""


def test_each_test_finds_the_same_globals(pytester):
    pytester.makeconftest((ROOT / "tests" / "conftest.py").read_text())
    pytester.makepyfile(SETS_ALL)
    pytester.runpytest_subprocess().assert_outcomes(passed=3)
