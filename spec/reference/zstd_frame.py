"""One zstd frame (RFC 8878): its header and its length are read here, its blocks are left to a zstd decompressor.

    content_size(frame) -> the declared size of the content
    frame_bytes(frame) -> how many bytes the frame has, from its blocks' headers
    decompress(frame) -> the content
All raise ValueError where the frame is not one.
"""

import subprocess

MAGIC = bytes.fromhex("28b52ffd")


def header(frame):
    """The header's length, the declared size of the content, and whether a checksum follows the blocks."""
    if frame[:4] != MAGIC:
        raise ValueError("it is not a zstd frame")
    if len(frame) < 18:
        frame = frame + bytes(18 - len(frame))  # a header has at most 18 bytes; that it is cut off shows at its blocks
    descriptor = frame[4]
    if descriptor >> 3 & 1:
        raise ValueError("a reserved bit of the frame's header is set")
    single_segment = descriptor >> 5 & 1
    offset = 5 + (1 - single_segment)
    dictionary_bytes = (0, 1, 2, 4)[descriptor & 3]
    if any(frame[offset : offset + dictionary_bytes]):
        raise ValueError("the frame needs a dictionary")
    offset += dictionary_bytes
    size_bytes = (single_segment, 2, 4, 8)[descriptor >> 6]
    if size_bytes == 0:
        raise ValueError("the frame does not declare the size of its content")
    size = int.from_bytes(frame[offset : offset + size_bytes], "little") + (256 if size_bytes == 2 else 0)
    return offset + size_bytes, size, descriptor >> 2 & 1


def content_size(frame):
    return header(frame)[1]


def frame_bytes(frame):
    offset, _, has_checksum = header(frame)
    last = 0
    while not last:
        if offset + 3 > len(frame):
            raise ValueError("the frame is cut off")
        block = int.from_bytes(frame[offset : offset + 3], "little")
        last, kind, size = block & 1, block >> 1 & 3, block >> 3
        if kind == 3:
            raise ValueError("a block is of a reserved type")
        offset += 3 + (1 if kind == 1 else size)
    return offset + 4 * has_checksum


def decompress(frame):
    try:
        from compression import zstd
    except ImportError:
        done = subprocess.run(["zstd", "-d", "-c", "-q", "--long=31"], input=frame, capture_output=True)
        if done.returncode != 0:
            raise ValueError(f"zstd: {done.stderr.decode(errors='replace').strip()}") from None
        return done.stdout
    try:
        return zstd.decompress(frame)
    except zstd.ZstdError as error:
        raise ValueError(str(error)) from error
