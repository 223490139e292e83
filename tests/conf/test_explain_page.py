"""docs/explain.md: each command writes what the page says."""

import json
import re
import shlex
import subprocess
import sys

from tests.support import ROOT, event

PAGE = (ROOT / "docs/explain.md").read_text()
RUNS = re.findall(r"^    kube-audit-filter ([^\n]*)\n\n```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
EVENT = event(
    level="RequestResponse",
    verb="delete",
    user={"username": "alice"},
    objectRef={"resource": "pods", "namespace": "shop", "name": "web"},
    responseStatus={"code": 200},
    requestObject={"kind": "DeleteOptions"},
    responseObject={"kind": "Pod"},
)


def test_each_command_writes_what_the_page_says(tmp_path):
    policy = re.search(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "policy.yaml").write_text(policy[1])
    (tmp_path / "event.json").write_text(json.dumps(EVENT))
    assert len(RUNS) == 3
    for arguments, output in RUNS:
        command = [sys.executable, "-m", "kube_audit_filter", *shlex.split(arguments)]
        done = subprocess.run(command, capture_output=True, cwd=tmp_path, check=False, text=True)
        assert done.stdout == output + "\n", done.stderr
