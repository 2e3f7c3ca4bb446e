"""litellm's own arithmetic is the oracle of ours: every difference is meant and documented."""

import json
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def test_every_difference_to_litellm_is_in_the_documented_table() -> None:
    """No unexplained difference, no stale explanation."""
    script = Path(__file__).with_name("litellm_prices.py")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    least = {"tokens": 12_000, "tiers": 1_500, "claude": 60, "kinds": 400, "pieces": 400}
    assert all(found["compared"][group] > number for group, number in least.items())
    rules = found["rules"]
    assert "unexplained" not in rules, rules["unexplained"]
    page = (REPOSITORY / "docs/prices.md").read_text()
    rows = re.findall(r"^\| ([a-z -]+) \| (\d+) \|", page, re.MULTILINE)
    assert {rule: int(count) for rule, count in rows} == {
        rule: len(models) for rule, models in rules.items()
    }
