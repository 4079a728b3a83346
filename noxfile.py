"""Every check of the suite, each in an environment of its own: ``python -m nox -l`` lists them."""

from __future__ import annotations

import os
from pathlib import Path

import nox

nox.options.sessions = ["tests"]
nox.options.reuse_existing_virtualenvs = True
nox.needs_version = ">=2024.4.15"

ROOT = Path(__file__).parent
CI = bool(os.environ.get("CI"))
CONSTRAINTS = ("-c", "constraints.txt")
CONTRACTS = "packages/ptycho-contracts[testing]"
DATA = "packages/ptycho-data[metrics]"
TORCH = "packages/ptycho-torch[tensorboard]"
TF = "packages/ptycho-tf"
CLI = "packages/ptycho-cli"
TEST_TOOLS = ("pytest", "hypothesis")
LINT_TOOLS = ("ruff", "import-linter")
OLDEST = (
    "numpy==1.26.0",
    "scipy==1.12.0",
    "h5py==3.10.0",
    "scikit-image==0.22.0",
    "matplotlib==3.8.0",
    "cyclopts==5.0.0",
    "rich==13.7.0",
    "typing-extensions==4.10.0",
)
PACKAGE_TESTS = (
    "packages/ptycho-contracts/tests",
    "packages/ptycho-data/tests",
    "packages/ptycho-torch/tests",
    "packages/ptycho-cli/tests",
    "tests/test_docs.py",
    "tests/test_left_out.py",
    "tests/test_specs.py",
)
DOCTESTS = ("--doctest-modules", *(f"packages/ptycho-{name}/src" for name in ("contracts", "data", "cli", "torch")))
SOURCES = tuple(f"packages/ptycho-{name}/src" for name in ("contracts", "data", "torch", "tf", "cli"))


def install(session: nox.Session, *packages: str, tools: tuple[str, ...] = ()) -> None:
    """Install packages of this repository, editable, and tools, in the tested versions."""
    editable = [word for package in packages for word in ("-e", package)]
    session.install(*CONSTRAINTS, *editable, *tools)


def install_backend(session: nox.Session, backend: str) -> None:
    """Install one backend with its extras and the commands; TensorFlow in its own tested versions."""
    if backend == "torch":
        install(session, CONTRACTS, DATA, "packages/ptycho-torch[tensorboard,mlflow]", CLI, tools=TEST_TOOLS)
        return
    editable = [word for package in (CONTRACTS, DATA, f"{TF}[cpu,tensorboard,mlflow]", CLI) for word in ("-e", package)]
    session.install("-c", "constraints-tf.txt", *editable, *TEST_TOOLS)


def pytest(session: nox.Session, *arguments: str, least: int, profile: str | None = None) -> None:
    """Run pytest in a process of its own; on continuous integration the property tests draw the same every time.

    Fewer tests than ``least`` fail it, so that none can go missing in silence; arguments of a user may select fewer.
    """
    profile = profile or ("ci" if CI else "dev")
    if not session.posargs:
        arguments += ("--least", str(least))
    env = {"HYPOTHESIS_PROFILE": profile, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    session.run("python", "-m", "pytest", *arguments, *session.posargs, env=env)


def existing(*paths: str) -> list[str]:
    """Those of the paths that are in this checkout."""
    return [path for path in paths if (ROOT / path).exists()]


@nox.session
def demo(session: nox.Session) -> None:
    """Simulate, train, image another object and compare with its truth; writes demo-output/."""
    install(session, CONTRACTS, DATA, TORCH, CLI)
    session.run("ptycho-cli", "demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Unit tests, property tests and the linters: what to run before a commit."""
    install(session, CONTRACTS, DATA, TORCH, TF, CLI, tools=(*TEST_TOOLS, *LINT_TOOLS))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")
    pytest(
        session, *existing(*PACKAGE_TESTS), *DOCTESTS, "-m", "not slow", least=3000, profile="quick" if CI else "dev"
    )


@nox.session
def unit(session: nox.Session) -> None:
    """Unit tests only."""
    install(session, CONTRACTS, DATA, TORCH, CLI, tools=TEST_TOOLS)
    pytest(session, *existing(*PACKAGE_TESTS), "-m", "not slow and not hypothesis", least=2750)


@nox.session
def properties(session: nox.Session) -> None:
    """Property tests with many more examples."""
    install(session, CONTRACTS, DATA, TORCH, CLI, tools=TEST_TOOLS)
    pytest(session, *existing(*PACKAGE_TESTS), "-m", "hypothesis", least=215, profile="ci")


@nox.session
@nox.parametrize("backend", ["torch", "tf"])
def conformance(session: nox.Session, backend: str) -> None:
    """Physics, losses and network of each backend against the NumPy reference; the two never meet."""
    install_backend(session, backend)
    pytest(session, f"packages/ptycho-{backend}/tests", "-k", "conformance", least={"torch": 98, "tf": 62}[backend])


@nox.session
@nox.parametrize("backend", ["torch", "tf"])
def integration(session: nox.Session, backend: str) -> None:
    """Real runs across packages: train, save, load, image; every flag at its consumer; each wheel alone."""
    install_backend(session, backend)
    python = Path(session.virtualenv.location) / "bin" / "python"
    (session.cache_dir / f"python-{backend}").write_text(str(python))
    if backend == "torch":
        pytest(
            session, "tests", "--ignore", "tests/tf", "--ignore", "tests/both", "--ignore", "tests/ptychodus", least=355
        )
        slow = [f"packages/ptycho-{name}/tests" for name in ("data", "torch", "cli")]
        pytest(session, *slow, "-m", "slow", least=8)
    else:
        pytest(session, "packages/ptycho-tf/tests", "tests/tf", least=430)


@nox.session
def exchange(session: nox.Session) -> None:
    """Bundles from one backend to the other, with the interpreters of the integration sessions, which come first."""
    for backend in ("torch", "tf"):
        variable, noted = f"PTYCHO_{backend.upper()}_PYTHON", session.cache_dir / f"python-{backend}"
        python = os.environ.get(variable) or (noted.read_text() if noted.exists() else "")
        if not Path(python).is_file():
            session.error(f"no environment with {backend}: run nox -s integration first, or set {variable}")
        session.env[variable] = python
    install(session, CONTRACTS, DATA, CLI, tools=TEST_TOOLS)
    pytest(session, "tests/both", least=12)


@nox.session
def ptychodus(session: nox.Session) -> None:
    """What we write, opened by Ptychodus itself, in an environment of its own."""
    install(session, CONTRACTS, DATA, CLI, tools=(*TEST_TOOLS, "ptychodus==1.7.0"))
    pytest(session, "tests/ptychodus", least=3)


@nox.session
def minimums(session: nox.Session) -> None:
    """Unit tests with the oldest versions that the metadata admits (without PyTorch)."""
    session.install("-e", CONTRACTS, "-e", DATA, "-e", CLI, *TEST_TOOLS, *OLDEST)
    # Old releases use what new releases of their own requirements have deprecated.
    forgiving = ("-W", "default::DeprecationWarning")
    folders = [f"packages/ptycho-{name}/tests" for name in ("contracts", "data", "cli")]
    pytest(session, *folders, "-m", "not slow", *forgiving, least=2500)


@nox.session
def lint(session: nox.Session) -> None:
    """Style and import rules."""
    install(session, CONTRACTS, DATA, TORCH, TF, CLI, tools=LINT_TOOLS)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    """Static types of the five packages."""
    install(session, CONTRACTS, DATA, TORCH, TF, CLI, tools=("mypy",))
    session.run("mypy", *SOURCES)


@nox.session
def docs(session: nox.Session) -> None:
    """Write the generated pages anew (docs/options.md, docs/commands.md)."""
    install(session, CONTRACTS, DATA, CLI)
    session.run("python", "docs/generate.py", *session.posargs)


@nox.session
def pretrain(session: nox.Session) -> None:
    """Train the learned prior anew and put it in the place of the one that is shipped (some CPU minutes)."""
    install(session, CONTRACTS, DATA, TORCH)
    file = "packages/ptycho-data/src/ptycho_data/pretrained/prior.safetensors"
    session.run("python", "scripts/pretrain.py", file, *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmark scripts; each prints JSON."""
    install(session, CONTRACTS, DATA, TORCH, CLI)
    for script in session.posargs or sorted(map(str, Path("benchmarks").glob("*.py"))):
        session.run("python", script)
