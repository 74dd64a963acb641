"""The tiers of the suite: what is left to `make test-all` is listed, and shards are a partition."""

import re
from pathlib import Path

import pytest
import tiers

CONTRIBUTING = Path(__file__).resolve().parent.parent / "CONTRIBUTING.md"


def listed():
    text = CONTRIBUTING.read_text().partition("<!-- full -->\n")[2].partition("<!-- /full -->")[0]
    return {line.removeprefix("- ") for line in text.splitlines()}


def test_what_is_left_to_the_whole_suite_is_listed(request):
    """Each reason is a line of CONTRIBUTING, and each line is a reason, where all files are collected."""
    reasons = request.config.stash[tiers.REASONS]
    missing = sorted(f"- {reason}" for reason in reasons - listed())
    assert not missing, "CONTRIBUTING.md must list, between its marks:\n" + "\n".join(missing)
    if request.config.args_source == pytest.Config.ArgsSource.TESTPATHS and not request.config.getoption("keyword"):
        assert reasons == listed(), "no test has these reasons any more"
    assert listed()


def test_shards_are_a_partition():
    """Each test is in one of them, and what a file asks of a loss stays together."""
    nodes = [f"tests/test_{i % 9}.py::test_{i % 7}[huber_loss_{i % 11}-torch.float{i}-fused]" for i in range(500)]
    shards = [{node for node in nodes if tiers.in_shard(node, f"{i}/4")} for i in range(1, 5)]
    assert set.union(*shards) == set(nodes) and sum(map(len, shards)) == len(set(nodes))
    assert min(map(len, shards)) > 50
    same = [re.sub(r"test_\d\[", "test_other[", node) for node in nodes]
    assert all(tiers.in_shard(a, "1/4") == tiers.in_shard(b, "1/4") for a, b in zip(nodes, same, strict=True))
    for wrong in ("0/4", "5/4"):
        with pytest.raises(pytest.UsageError, match=f"SHARD must be 1/N to N/N, got {wrong}"):
            tiers.in_shard(nodes[0], wrong)


def test_first_of_each():
    """Of a function that is tested with many parameters the first stays."""

    class Item:
        def __init__(self, nodeid):
            self.nodeid, self.marks = nodeid, []
            self.add_marker = self.marks.append

    items = [Item(f"a.py::one[{i}]") for i in range(5)] + [Item("a.py::two"), Item("a.py::three[x]")]
    tiers.first_of_each(items, "why")
    assert [len(item.marks) for item in items] == [0, 1, 1, 1, 1, 0, 0]


def test_representatives_are_there():
    import row_samples
    import samples

    assert {str(setup) for setup in [*samples.setups(), *row_samples.SAMPLES]} >= tiers.REPRESENTATIVES
