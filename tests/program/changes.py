"""What can happen to a file while a process has it mapped; with the exit status and the words that tell of it."""

import os


def cut_to(num_bytes):
    return lambda path: os.truncate(path, num_bytes)


def cut_by_one(path):
    os.truncate(path, path.stat().st_size - 1)


def lengthen(path):
    with open(path, "ab") as file:
        file.write(b"x")


def rewrite(path):
    """The same bytes again, in place: only the time tells."""
    start = path.read_bytes()[:100]
    with open(path, "r+b") as file:
        file.write(start)


def touch(path):
    os.utime(path)


def replace(path):
    other = path.with_name("other")
    other.write_bytes(os.urandom(path.stat().st_size))
    os.rename(other, path)


def restrict(path):
    path.chmod(0o400)


SHORTER, LONGER, WRITTEN = "became shorter", "became longer", "was written to"
POOL_CHANGES = [
    (cut_to(0), 4, SHORTER),
    (cut_to(4096), 4, SHORTER),
    (cut_by_one, 4, SHORTER),  # no page is lost, so no SIGBUS
    (lengthen, 5, LONGER),
    (rewrite, 5, WRITTEN),
    (touch, 5, WRITTEN),
]
MODEL_CHANGES = [
    (cut_to(0), 5, SHORTER),
    (cut_by_one, 5, SHORTER),
    (lengthen, 5, LONGER),
    (rewrite, 5, WRITTEN),
    (touch, 5, WRITTEN),
]
NO_CHANGES = [replace, os.remove, restrict]
