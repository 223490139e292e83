"""Records made to cost much more than their bytes: memory and time stay in proportion to a usual record's."""

import msgpack
import pytest

from tests.support.hostile_records import RECORDS, SIZE, TEMPLATE, cost_of


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """The cost of a record as usual, of the same size, and that of no record at all."""
    directory = tmp_path_factory.mktemp("usual")
    policy_file = directory / "policy.yaml"
    policy_file.write_text("apiVersion: audit.k8s.io/v1\nrules: [{level: Metadata, userGroups: [g]}]\n")
    body = {"data": {f"key-{index}": "value" * 20 for index in range(SIZE // 115)}}
    record, nothing = directory / "record", directory / "nothing"
    record.write_bytes(msgpack.packb({**TEMPLATE, "responseObject": body}))
    nothing.write_bytes(b"")
    return str(policy_file), cost_of(str(policy_file), nothing), cost_of(str(policy_file), record)


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_costs_no_more_than_its_size_allows(name, usual, tmp_path):
    policy_file, (empty_memory, empty_time), (_, usual_time) = usual
    make, options = RECORDS[name]
    path = tmp_path / "record"
    path.write_bytes(make())
    size = path.stat().st_size
    assert size >= SIZE // 2
    memory, time = cost_of(policy_file, path, *options)
    assert memory - empty_memory < 3 * size, f"{(memory - empty_memory) / size:.1f} times its size"
    # Ten times what this was when it was measured; decoded whole, it is hundreds of times as much.
    assert time - empty_time < 200 * max(usual_time - empty_time, 0.01)
