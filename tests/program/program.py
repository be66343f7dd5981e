"""Running the program under test, and the few assertions these tests need."""

import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PROGRAM = pathlib.Path(sys.argv[1]).resolve()
MODEL = ROOT / ".deps/models/SmolLM2-135M-Instruct.Q4_1.gguf"


def environment(folder):
    """An environment of the test's own: no user's index or cache, no options from outside."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("POLYKV_") or name == "POLYKV_TORCH_DIR"
    }
    return {**kept, "XDG_CACHE_HOME": f"{folder}/cache", "XDG_DATA_HOME": f"{folder}/data", "POLYKV_MODEL": str(MODEL)}


class Workplace:
    """A temporary folder in which polykv runs."""

    def __enter__(self):
        self.temporary = tempfile.TemporaryDirectory(prefix="polykv-")
        self.path = pathlib.Path(self.temporary.name)
        (self.path / "work").mkdir()
        return self

    def __exit__(self, *_):
        self.temporary.cleanup()

    def run(self, *arguments, status=0, stdin=b"", env=None, timeout=600):
        """Runs polykv in work/; returns (stdout, stderr) as text. Fails unless it ends with `status`."""
        done = subprocess.run(
            [PROGRAM, *map(str, arguments)],
            cwd=self.path / "work",
            env={**environment(self.path), **(env or {})},
            input=stdin,
            capture_output=True,
            timeout=timeout,
        )
        out, err = done.stdout.decode("utf-8", "backslashreplace"), done.stderr.decode("utf-8", "backslashreplace")
        expect(
            done.returncode == status, f"polykv {arguments}: status {done.returncode}, expected {status}\n{out}{err}"
        )
        return out, err

    def files(self):
        return sorted(path.name for path in (self.path / "work").iterdir())


def expect(condition, message):
    if not condition:
        sys.exit(f"FAILED: {message}")
