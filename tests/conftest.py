import os

import pytest
from hypothesis import HealthCheck, settings

from tests.support import POLICY

# A slow machine is not a failure; a run on CI looks at the same examples each time, whatever ran before.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "ci", settings.get_profile("local"), derandomize=True, database=None, print_blob=True
)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture
def policy_file(tmp_path):
    path = tmp_path / "policy.yaml"
    # Without a rule for the rest, each filter would begin with a warning.
    path.write_text(POLICY + "- level: None\n")
    return str(path)
