"""conf/container/Dockerfile, without a container engine.

The steps that install the filter are run here, as an ordinary user and under another path; what only an
engine can do is compared with what it has to be.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support import DROPPED, KEPT, POLICY, ROOT, line
from tests.support.forward_peers import Client, Receiver, entry, packed
from tests.support.processes import DEADLINE, wait_for_line

pytestmark = pytest.mark.xdist_group("container")  # one worker installs it
DOCKERFILE = ROOT / "conf/container/Dockerfile"
IGNORE = ROOT / "conf/container/Dockerfile.dockerignore"
COMPILERS = re.compile(r"build-essential|.*-dev|gcc.*|g\+\+.*|clang.*|cpp.*|make|rustc|cargo")


class Instruction(NamedTuple):
    name: str
    value: str


class Stage(NamedTuple):
    name: str
    base: str
    instructions: list[Instruction]

    def values(self, name: str) -> list[str]:
        return [instruction.value for instruction in self.instructions if instruction.name == name]


def read_dockerfile() -> dict[str, Stage]:
    """The stages in their order, with the defaults of the arguments put into the names of base images."""
    code = re.sub(r"^\s*#.*\n|^\s*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    instructions = [
        Instruction(name.upper(), value.strip())
        for name, value in (text.split(maxsplit=1) for text in code.replace("\\\n", " ").splitlines())
    ]
    arguments = dict(
        value.split("=", 1)
        for _, value in takewhile(lambda instruction: instruction.name == "ARG", instructions)
    )
    stages: dict[str, Stage] = {}
    for instruction in instructions[len(arguments) :]:
        if instruction.name == "FROM":
            base, name = re.fullmatch(r"(\S+) AS (\S+)", instruction.value).groups()
            stages[name] = stage = Stage(name, expand(base, arguments), [])
        else:
            stage.instructions.append(instruction)
    return stages


def expand(text: str, variables: Mapping[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda match: variables[match[1]], text)


STAGES = read_dockerfile()
IMAGES = [STAGES["filter"], STAGES["fluentd"]]


def layers(stage: Stage) -> list[Stage]:
    """A stage and the stages that it builds upon, the first of them first."""
    return [*(layers(STAGES[stage.base]) if stage.base in STAGES else []), stage]


def built_from(image: Stage) -> Stage:
    """The stage that the virtual environment is copied from."""
    (name,) = re.findall(r"--from=(\S+)", " ".join(image.values("COPY")))
    return STAGES[name]


def sources(stage: Stage) -> list[Path]:
    """What a stage copies from the repository."""
    copies = [value.split() for value in stage.values("COPY") if "--from" not in value]
    return [ROOT / source for *copied, _ in copies for source in copied]


def reaches_the_builder(path: Path) -> bool:
    """Whether the ignore file lets a file through. The last pattern that matches decides."""
    ignored = False
    for pattern in IGNORE.read_text().splitlines():
        if pattern and not pattern.startswith("#"):
            regex = re.escape(pattern.removeprefix("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
            if re.fullmatch(f"{regex}(/.*)?", path.relative_to(ROOT).as_posix()):
                ignored = not pattern.startswith("!")
    return not ignored


@pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: stage.name)
def test_what_is_copied_exists_and_reaches_the_builder(stage: Stage) -> None:
    for source in sources(stage):
        assert source.exists()
        files = [source] if source.is_file() else [*source.rglob("*.py"), source / "py.typed"]
        assert all(reaches_the_builder(file) for file in files), source


@pytest.mark.parametrize(
    "path",
    [".git/config", ".venv/bin/python", "tests/support.py", "conf/policies/gce.yaml", "a-private-key.pem"],
)
def test_nothing_else_reaches_the_builder(path: str) -> None:
    assert not reaches_the_builder(ROOT / path)
    assert not reaches_the_builder(ROOT / "plugin/policies/__pycache__/__init__.cpython-313.pyc")


def test_base_images_are_pinned() -> None:
    for stage in STAGES.values():
        if stage.base not in STAGES:
            assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+[\w.-]*", stage.base)


@pytest.mark.parametrize("image", IMAGES, ids=lambda stage: stage.name)
def test_an_image_runs_as_an_ordinary_user(image: Stage) -> None:
    # By number: Kubernetes can't tell with runAsNonRoot whether a name is root's.
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", image.values("USER")[-1])


@pytest.mark.parametrize("image", IMAGES, ids=lambda stage: stage.name)
def test_an_image_has_no_compiler(image: Stage) -> None:
    for stage in layers(image):
        for command in stage.values("RUN"):
            for packages in re.findall(r"apt-get install ([^&;|]+)", command):
                assert not [name for name in packages.split() if COMPILERS.fullmatch(name)]


@pytest.mark.parametrize("image", IMAGES, ids=lambda stage: stage.name)
def test_a_virtual_environment_is_built_by_the_python_that_runs_it(image: Stage) -> None:
    assert built_from(image).base == image.base
    assert "${PREFIX} ${PREFIX}" in " ".join(image.values("COPY"))
    assert image.values("ENV")[0] == "PATH=${PREFIX}/bin:${PATH}"


def test_the_filter_is_installed_in_the_same_way_in_both_images() -> None:
    filter_build, fluentd_build = map(built_from, IMAGES)
    assert filter_build.values("COPY") == fluentd_build.values("COPY")
    assert filter_build.values("RUN") == fluentd_build.values("RUN")[-1:]
    assert STAGES["filter"].values("RUN") == STAGES["fluentd"].values("RUN")[-1:]


def test_fluentd_is_what_is_built_by_default_and_starts_the_filter() -> None:
    image = list(STAGES.values())[-1]
    assert image.name == "fluentd"
    # The entrypoint of the base image reads this file.
    assert "conf/fluentd/exec_filter.conf /fluentd/etc/fluent.conf" in image.values("COPY")
    assert not {"ENTRYPOINT", "CMD"} & {instruction.name for instruction in image.instructions}


def test_the_documented_commands_are_those_of_this_dockerfile() -> None:
    commands = re.findall(
        r"docker build .*", DOCKERFILE.read_text() + (ROOT / "docs/kubernetes.md").read_text()
    )
    assert len(commands) > 2
    for command in commands:
        words = command.split()
        assert words[words.index("-f") + 1] == DOCKERFILE.relative_to(ROOT).as_posix()
        assert words[-1] == "."
        assert "--target" not in words or words[words.index("--target") + 1] in STAGES


class User:
    """Runs programs as an ordinary user, to whom ``home`` belongs: as nobody in place of root.

    As root after all, if this Python can't be used by others.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._options: dict[str, Any] = {}
        self._own: dict[str, str] = {}
        nobody = {"user": 65534, "group": 65534, "extra_groups": []}
        if os.geteuid() == 0 and self._can_run_python(nobody):
            self._options, self._own = nobody, {"HOME": str(home)}
            subprocess.run(["chown", "-R", "65534:65534", str(home)], check=True)

    @staticmethod
    def _can_run_python(options: dict[str, Any]) -> bool:
        try:
            subprocess.run([sys.executable, "-c", ""], cwd="/", check=True, capture_output=True, **options)
        except (OSError, subprocess.CalledProcessError):
            return False
        return True

    def run(
        self, command: list[str], input: bytes = b"", cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program with nothing of the Python that runs the tests."""
        return subprocess.run(
            command,
            input=input,
            capture_output=True,
            cwd=cwd or self.home,
            env=self._environment(environment),
            timeout=300,
            check=False,
            **self._options,
        )

    @contextmanager
    def running(self, command: list[str], **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """The same for a program that goes on until it is told to end; killed if it is left behind."""
        with subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            cwd=self.home,
            env=self._environment(environment),
            **self._options,
        ) as child:
            try:
                yield child
            finally:
                child.kill()

    def _environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return {**inherited, **self._own, **variables}


class Installation(NamedTuple):
    user: User
    prefix: Path
    path: str

    def run(self, *command: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return self.user.run(self.command(*command), input, PATH=self.path)

    def command(self, name: str, *arguments: str) -> list[str]:
        return [str(self.prefix / "bin" / name), *arguments]


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    """What the steps of the stage filter-build install, read-only as in a container."""
    # Not under pytest's directory, which only its owner may enter.
    home = Path(tempfile.mkdtemp(prefix="kube-audit-filter-"))
    home.chmod(0o755)
    prefix, build = home / "opt", home / "src"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    try:
        copy_sources(STAGES["filter-build"], build)
        user = User(home)
        for command in STAGES["filter-build"].values("RUN"):
            result = user.run(["/bin/sh", "-c", command], cwd=build, PATH=path, PREFIX=str(prefix))
            assert result.returncode == 0, result.stderr.decode()
        subprocess.run(["chmod", "-R", "a-w", str(prefix)], check=True)
        yield Installation(user, prefix, f"{prefix}/bin{os.pathsep}{path}")
    finally:
        subprocess.run(["chmod", "-R", "u+w", str(home)], check=True)
        shutil.rmtree(home)


def copy_sources(stage: Stage, directory: Path) -> None:
    for source in sources(stage):
        for file in [source] if source.is_file() else source.rglob("*"):
            if file.is_file() and reaches_the_builder(file):
                copy = directory / file.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, copy)


def content(directory: Path) -> dict[str, tuple[int, int]]:
    """Each file under a directory, with its size and the time when it was written."""
    states = {str(path): path.lstat() for path in directory.rglob("*")}
    return {path: (state.st_size, state.st_mtime_ns) for path, state in states.items()}


def test_the_installed_filter_runs_and_writes_nothing(installation: Installation) -> None:
    before = content(installation.prefix)
    policy = installation.user.home / "policy.yaml"
    policy.write_text(POLICY)
    result = installation.run(
        "kube-audit-filter",
        "exec",
        "--format",
        "json",
        "--policy",
        str(policy),
        input=line(DROPPED) + line(KEPT),
    )
    assert (result.returncode, result.stdout) == (0, line(KEPT)), result.stderr.decode()
    assert b"records in=2 kept=1 dropped=1 " in result.stderr
    assert content(installation.prefix) == before


def test_the_installed_proxy_filters_and_writes_nothing(installation: Installation) -> None:
    before = content(installation.prefix)
    policy = installation.user.home / "policy.yaml"
    policy.write_text(POLICY)
    with Receiver() as receiver:
        options = [
            f"--policy={policy}",
            "--listen=127.0.0.1:0",
            f"--upstream={receiver.address}",
            "--metrics-listen=127.0.0.1:0",
        ]
        command = installation.command("kube-audit-filter", "forward", *options)
        with installation.user.running(command, PATH=installation.path) as proxy:
            said = wait_for_line(proxy.stderr, b"listening on ").decode()
            with Client(re.search(r"listening on (\S+)", said)[1]) as client:
                client.send(packed("audit", [entry(DROPPED), entry(KEPT)], chunk="a chunk"))
                assert client.answer() == {b"ack": b"a chunk"}
            proxy.terminate()
            _, said = proxy.communicate(timeout=DEADLINE)
        assert proxy.returncode == 0, said
        assert b"records in=2 kept=1 dropped=1 " in said
        ((tag, entries, _),) = receiver.messages
        assert (tag, entries) == (b"audit", entry(KEPT))
    assert content(installation.prefix) == before


@pytest.mark.parametrize("image", IMAGES, ids=lambda stage: stage.name)
def test_the_check_at_the_end_of_the_build_passes(installation: Installation, image: Stage) -> None:
    command = image.values("RUN")[-1]
    assert command.startswith("kube-audit-filter ")
    result = installation.user.run(["/bin/sh", "-c", command], PATH=installation.path)
    assert result.returncode == 0, result.stderr.decode()
    # Both of what needs the byte code that this leaves behind.
    assert b"records in=0 " in result.stderr
    assert b"listening on " in result.stderr


def test_the_entrypoint_of_the_filter_alone_is_the_command(installation: Installation) -> None:
    (entrypoint,), (arguments,) = STAGES["filter"].values("ENTRYPOINT"), STAGES["filter"].values("CMD")
    result = installation.run(*json.loads(entrypoint), *json.loads(arguments))
    assert result.returncode == 0
    assert b"Usage: kube-audit-filter" in result.stdout
    result = installation.run(*json.loads(entrypoint), "forward", "--help")
    assert result.returncode == 0
    assert b"Usage: kube-audit-filter forward " in result.stdout


def test_the_probe_of_the_manifests_is_there(installation: Installation) -> None:
    result = installation.run("python3", "-m", "kube_audit_filter.service.probe", "127.0.0.1:9/healthz")
    assert (result.returncode, result.stdout) == (1, b"127.0.0.1:9: [Errno 111] Connection refused\n")


def test_all_byte_code_is_installed_and_valid_for_good(installation: Installation) -> None:
    modules = [*installation.prefix.rglob("site-packages/**/*.py")]
    assert modules
    for module in modules:
        (byte_code,) = (module.parent / "__pycache__").glob(f"{module.stem}.*.pyc")
        # PEP 552: hash-based, and not compared with the source.
        assert byte_code.read_bytes()[4:8] == b"\1\0\0\0", module


def test_nothing_is_left_of_the_installer(installation: Installation) -> None:
    (packages,) = installation.prefix.glob("lib/python3*/site-packages")
    names = {path.name for path in packages.iterdir()}
    assert {"filter_engine", "kube_audit_filter"} <= names
    assert not {"pip", "setuptools", "wheel", "pkg_resources"} & names
