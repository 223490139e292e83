"""docs/policy-tests.md: the example does what the page says."""

import re
import subprocess
import sys

from tests.support import ROOT

PAGE = (ROOT / "docs/policy-tests.md").read_text()
EXPLAIN = (ROOT / "docs/explain.md").read_text()


def block(page, language):
    return re.search(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[1]


def test_the_example_writes_what_the_page_says(tmp_path):
    (tmp_path / "policy.yaml").write_text(block(EXPLAIN, "yaml"))
    (tmp_path / "policy.test.yaml").write_text(block(PAGE, "yaml"))
    command = [sys.executable, "-m", "kube_audit_filter", "test"]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, check=False, text=True)
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout == block(PAGE, "text")
