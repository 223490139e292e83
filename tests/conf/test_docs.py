"""Documentation that is run: its Python, its links, its configurations' policies."""

import asyncio
import base64
import gzip
import json
import re
import sys
import types
from typing import get_args

import pytest
import yaml

from filter_engine import Policy, PolicyEvaluator
from filter_engine.analysis import IDS
from plugin.cli.exec_command import exec_command
from plugin.cli.forward_command import forward_command
from plugin.forward.address import Address
from plugin.forward.metrics import ForwardCollector
from plugin.forward.protocol.entries import PayloadLimits
from plugin.forward.protocol.message_filter import MessageFilter
from plugin.forward.proxy import Proxy
from plugin.forward.route import Upstreams
from plugin.forward.session import SessionContext, SessionSettings
from plugin.forward.upstream import ConnectSettings
from plugin.records.counters import DropReason
from plugin.records.limits import Limits
from plugin.records.record_filter import RecordFilter, Undecided
from plugin.service.diagnostics import Diagnostics
from plugin.service.metrics import PREFIX
from plugin.service.policy_source import PolicySource
from plugin.service.policy_watch import PolicyWatch
from tests.support import DROPPED, KEPT, POLICY, ROOT

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
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", path.read_text()):
        if not target.startswith(("https://", "http://")):
            page = path.parent / target if target else path
            assert page.exists(), target
            assert not anchor or anchor in anchors(page), f"{target}#{anchor}"


def anchors(page):
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.name)
def test_every_policy_loads_strictly(path):
    assert Policy.from_file(path).rules


def test_the_recommended_policy_is_documented_rule_by_rule():
    policy = Policy.from_file(ROOT / "conf/policies/recommended.yaml")
    table = re.findall(r"^\| `(\S+)` \| (\w+) \|", (ROOT / "docs/recommended-policy.md").read_text(), re.M)
    assert table == [(policy.rule_name(index), rule.level.value) for index, rule in enumerate(policy.rules)]


ALERTS = ROOT / "conf/prometheus/rules.yaml"


def proxy(records, diagnostics):
    """A forward proxy that was never started, with one upstream."""

    async def make():
        upstreams = Upstreams(
            [Address.parse("localhost:24224")],
            ConnectSettings(),
            diagnostics,
            ack_timeout=1,
            retry_timeout=1,
        )
        context = SessionContext(
            MessageFilter(records, PayloadLimits(1)),
            upstreams,
            diagnostics,
            SessionSettings(
                security=None,
                max_message_size=1,
                max_entries=1,
                max_in_flight=1,
                idle_timeout=1,
                handshake_timeout=1,
            ),
        )
        return Proxy(context, records, diagnostics, max_connections=1, grace=1)

    return asyncio.run(make())


def exposed_metrics():
    """The filter's own metrics, by name, with their labels."""
    records = RecordFilter()
    diagnostics = Diagnostics()
    policy = PolicyWatch(
        PolicySource("builtin:recommended"),
        prepare=lambda loaded: records.prepare(PolicyEvaluator(loaded)),
        publish=records.use,
        diagnostics=diagnostics,
        settle=0.0,
    )
    policy.load()
    collector = ForwardCollector(proxy(records, diagnostics), policy, diagnostics, {})
    exposed = {sample.name: set(sample.labels) for family in collector.collect() for sample in family.samples}
    # Those that the script of the exec filter for Fluent Bit writes itself.
    script = (ROOT / "conf/fluent-bit/exec_filter.lua").read_text()
    for name, labels in re.findall(rf"({PREFIX}\w+)\{{(.*?)\}}", script):
        exposed[name] = set(re.findall(r"(\w+)=", labels))
    return exposed


def test_every_metric_is_documented_with_its_labels():
    documented = {}
    for row in re.findall(r"^\| (`[a-z].*?) \| ", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE):
        for name, labels in re.findall(r"`([a-z_]+)(?:\{([a-z0-9,]+)\})?`", row):
            documented[PREFIX + name] = set(labels.split(",")) - {""}
    exposed = exposed_metrics()
    assert {name: documented.get(name) for name in exposed} == exposed
    assert {name for name in documented if name.endswith("_total")} <= exposed.keys()


def alerts():
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    return group["rules"]


def test_alerts_are_about_metrics_that_there_are():
    exposed = exposed_metrics()
    for rule in alerts():
        assert rule.keys() <= {"alert", "expr", "for", "annotations"}
        for name, label in re.findall(rf"({PREFIX}\w+)(?:\{{(\w+))?", rule["expr"]):
            assert {label} - {""} <= exposed[name]
        for value in re.findall(r'reason="(\w+)"', rule["expr"]):
            assert value in get_args(DropReason)


def test_it_is_documented_what_to_do_about_each_alert():
    documented = re.findall(r"^\| `(Audit\w+)` \|", (ROOT / "docs/alerts.md").read_text(), re.MULTILINE)
    assert documented == [rule["alert"] for rule in alerts()]


def test_every_kind_of_finding_is_documented():
    table = (ROOT / "docs/policy.md").read_text().partition("## What is warned of")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)) == set(IDS)


def test_policies_in_the_text_can_be_used():
    blocks = code_blocks(ROOT / "docs/policy.md", "yaml")
    assert blocks
    for block in blocks:
        assert Policy.from_yaml(block).rules


def test_every_reason_to_pass_undecided_is_explained():
    table = (ROOT / "docs/exec.md").read_text().partition("## What is never dropped")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(get_args(Undecided))


@pytest.mark.parametrize(
    "option",
    dict.fromkeys([*exec_command.params, *forward_command.params]),
    ids=lambda option: option.opts[0],
)
def test_every_option_is_documented(option):
    pages = "".join(path.read_text() for path in ROOT.glob("docs/*.md"))
    assert option.opts[0] in pages


def test_the_defaults_of_the_limits_are_documented_and_those_of_the_options():
    both, _, of_forward = (ROOT / "docs/limits.md").read_text().partition("\n## forward\n")
    table = dict(re.findall(r"^\| `(--\w[\w-]+)` \| ([\d,]+(?: MiB)?) \|", both, re.MULTILINE))
    forward = re.findall(r"^\| `(--\w[\w-]+)` \| ([\d,]+)(?: (MiB|s))? \|", of_forward, re.MULTILINE)
    context = forward_command.make_context("forward", ["--policy", "x", "--upstream", "localhost:1"])
    for name, value, unit in forward:
        (option,) = (each for each in forward_command.params if name in each.opts)
        default = context.params[option.name]
        assert int(value.replace(",", "")) == (default >> 20 if unit == "MiB" else default), name
    assert len(forward) == 7
    assert table == {
        "--max-record-size": "64 MiB",
        "--max-depth": f"{Limits.depth:,}",
        "--max-list-items": f"{Limits.list_items:,}",
        "--max-groups": f"{Limits.groups:,}",
        "--memo-size": f"{Limits.memo_size >> 20} MiB",
    }
    context = exec_command.make_context("exec", ["--policy", "builtin:recommended"])
    settings = exec_command.settings(context)
    assert (settings.max_record_size, settings.limits) == (64 << 20, Limits())
