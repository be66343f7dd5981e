"""A polykv ask that runs for a while: questions in, answers out, one at a time."""

import fcntl
import os
import pathlib
import select
import subprocess
import time

from program import MODEL, PROGRAM, environment, expect

PIPE_BYTES = 4096  # the smallest that Linux gives


class Reader:
    """Reads its questions from a pipe that stays open, so that it idles between them."""

    def __init__(self, place, pool, *options, model=MODEL):
        ours, theirs = os.pipe()
        fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self.out, self.into_out = ours, theirs
        self.process = subprocess.Popen(
            [PROGRAM, "ask", pool, "-t", "1", "-m", model, *options],
            cwd=place.path / "work",
            env=environment(place.path),
            stdin=subprocess.PIPE,
            stdout=theirs,
            stderr=subprocess.PIPE,
        )

    def ask(self, question):
        self.process.stdin.write(question.encode() + b"\n")
        self.process.stdin.flush()

    def line(self):
        """The next line of standard output."""
        line = b""
        while not line.endswith(b"\n"):
            line += self.read(1)
        return line

    def read(self, num_bytes):
        text = b""
        while len(text) < num_bytes:
            # We hold the other end too, so there is no end of file to see.
            if select.select([self.out], [], [], 0.2)[0]:
                text += os.read(self.out, num_bytes - len(text))
            else:
                self.expect_alive()
        return text

    def block(self):
        """Fills the pipe, so that the next write waits; finish() reads it empty."""
        os.write(self.into_out, b"#" * PIPE_BYTES)

    def wait_until_blocked(self):
        """Until it waits in write(2), with a token computed and not yet printed."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            self.expect_alive()
            if pathlib.Path(f"/proc/{self.process.pid}/syscall").read_text().startswith("1 0x1 "):
                return
            time.sleep(0.001)
        expect(False, "it wrote nothing")

    def finish(self):
        """Ends its questions; (status, the rest of standard output, standard error)."""
        os.close(self.into_out)
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        rest = b""
        while part := os.read(self.out, 65536):
            rest += part
        os.close(self.out)
        status = self.process.wait()
        return status, rest, self.error()

    def kill(self):
        self.process.kill()
        status, _, _ = self.finish()
        return status

    def expect_alive(self):
        if self.process.poll() is not None:
            expect(False, f"ask ended with {self.process.returncode}: {self.error()}")

    def error(self):
        return self.process.stderr.read().decode()
