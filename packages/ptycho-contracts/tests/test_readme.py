"""The example of the README runs."""

import re
from pathlib import Path


def test_the_example_runs():
    readme = Path(__file__).parents[1] / "README.md"
    (code,) = re.findall(r"```python\n(.*?)```", readme.read_text(), flags=re.DOTALL)
    exec(compile(code, str(readme), "exec"), {})
