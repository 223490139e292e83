"""Documentation that is run: its Python, its links, its configurations' policies."""

import base64
import gzip
import json
import re
import sys
import types
from pathlib import Path

import pytest

from filter_engine import Policy
from tests.support import DROPPED, KEPT, POLICY

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("*/*.md")])
POLICIES = sorted(ROOT.glob("conf/policies/*.yaml"))


def code_blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "docs/library.md"], ids=lambda path: path.name)
def test_python_in_the_documentation_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "audit.log").write_text(json.dumps(KEPT) + "\n")
    blocks = code_blocks(path, "python")
    assert blocks
    for block in blocks:
        exec(compile(block, str(path), "exec"), {})


@pytest.fixture
def function(tmp_path, monkeypatch):
    """The function of docs/cloud-function.md, with an S3 that remembers what is put into it."""
    stored = []
    client = types.SimpleNamespace(put_object=lambda **object: stored.append(object))
    monkeypatch.setitem(sys.modules, "boto3", types.SimpleNamespace(client=lambda *_, **__: client))
    (tmp_path / "policy.yaml").write_text(POLICY)
    monkeypatch.setenv("POLICY_FILE", str(tmp_path / "policy.yaml"))
    monkeypatch.setenv("BUCKET_NAME", "bucket")
    monkeypatch.setenv("CLUSTER_ID", "cluster")
    (block,) = code_blocks(ROOT / "docs/cloud-function.md", "python")
    namespace = {}
    exec(compile(block, "cloud-function.md", "exec"), namespace)
    return namespace["handler"], stored


LINES = [json.dumps(KEPT), json.dumps(DROPPED), "I0501 a klog line", json.dumps(KEPT)]


def yandex(lines):
    return {"messages": [{"details": {"messages": [{"message": line}]}} for line in lines]}


def aws(lines):
    batch = json.dumps({"logEvents": [{"message": line} for line in lines]}).encode()
    return {"awslogs": {"data": base64.b64encode(gzip.compress(batch)).decode()}}


@pytest.mark.parametrize("wrap", [yandex, aws])
def test_the_cloud_function_stores_what_the_policy_keeps(function, wrap):
    handler, stored = function
    assert handler(wrap(LINES), None) == {"received": 4, "kept": 3}
    (put,) = stored
    assert put["Body"].splitlines() == [LINES[0], LINES[2], LINES[3]]
    assert put["Key"].startswith("AUDIT/cluster/")
    assert handler(wrap([LINES[1]]), None)["kept"] == 0
    assert len(stored) == 1


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        if not target.startswith(("https://", "http://")):
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.name)
def test_every_policy_loads_strictly(path):
    assert Policy.from_file(path).rules


def test_the_recommended_policy_is_documented_rule_by_rule():
    rules = Policy.from_file(ROOT / "conf/policies/recommended.yaml").rules
    table = re.findall(r"^\| ([\d, ]+) \| (\w+) \|", (ROOT / "docs/recommended-policy.md").read_text(), re.M)
    documented = {int(index): level for indexes, level in table for index in indexes.split(",")}
    assert documented == {index: rule.level.value for index, rule in enumerate(rules)}
