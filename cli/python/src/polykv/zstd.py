"""One zstd frame (RFC 8878): the source text of a pool is one. Functions raise ValueError where a frame is not sound.

Python before 3.14 has no zstd, and a text is short beside keys and values: about a second for a megabyte.
"""

from .hashes import xxh64
from .zstd_entropy import BackwardBits, fse_table, read_fse_table, read_huffman_table

MAGIC = bytes.fromhex("28b52ffd")
BLOCK_BYTES = 1 << 17

# Section 3.1.1.3.2.1: for codes of literal lengths and match lengths, the base and how many bits are added to it.
LITERAL_LENGTHS = [(i, 0) for i in range(16)] + list(
    zip(
        [16, 18, 20, 22, 24, 28, 32, 40, 48, 64] + [1 << i for i in range(7, 17)],
        [1, 1, 1, 1, 2, 2, 3, 3, 4, 6] + list(range(7, 17)),
        strict=True,
    )
)
MATCH_LENGTHS = [(i + 3, 0) for i in range(32)] + list(
    zip(
        [35, 37, 39, 41, 43, 47, 51, 59, 67, 83, 99] + [(1 << i) + 3 for i in range(7, 17)],
        [1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5] + list(range(7, 17)),
        strict=True,
    )
)
OFFSETS = [(1 << i, i) for i in range(32)]

# Section 3.1.1.3.2.2: default distributions.
DEFAULT_LITERAL_LENGTHS = [4, 3] + [2] * 11 + [1] * 3 + [2] * 9 + [3, 2] + [1] * 5 + [-1] * 4
DEFAULT_MATCH_LENGTHS = [1, 4, 3] + [2] * 6 + [1] * 37 + [-1] * 7
DEFAULT_OFFSETS = [1] * 6 + [2] * 3 + [1] * 15 + [-1] * 5

# Literal lengths, offsets, match lengths: codes, default distribution, its accuracy, the greatest accuracy.
SEQUENCE_PARTS = [
    (LITERAL_LENGTHS, DEFAULT_LITERAL_LENGTHS, 6, 9),
    (OFFSETS, DEFAULT_OFFSETS, 5, 8),
    (MATCH_LENGTHS, DEFAULT_MATCH_LENGTHS, 6, 9),
]


def expect(condition, message):
    if not condition:
        raise ValueError(message)


def read_header(frame):
    """Where the blocks begin, the declared size of the content, whether a checksum follows the blocks."""
    expect(frame[:4] == MAGIC, "it is not a zstd frame")
    descriptor = frame[4] if len(frame) > 4 else 0
    expect(not descriptor & 8, "a reserved bit of the zstd frame is set")
    single_segment = descriptor >> 5 & 1
    begin = 5 + (not single_segment)
    end = begin + (0, 1, 2, 4)[descriptor & 3]
    expect(not any(frame[begin:end]), "the zstd frame needs a dictionary")
    size_bytes = (single_segment, 2, 4, 8)[descriptor >> 6]
    expect(size_bytes > 0, "the zstd frame does not declare the size of its content")
    size = int.from_bytes(frame[end : end + size_bytes], "little") + (256 if size_bytes == 2 else 0)
    return end + size_bytes, size, bool(descriptor & 4)


def content_size(frame):
    return read_header(frame)[1]


def decompress(frame):
    """The content of a frame that is all of `frame`, and no longer than it declares."""
    frame = bytes(frame)
    offset, size, has_checksum = read_header(frame)
    decoder, last = Decoder(size), False
    while not last:
        expect(offset + 3 <= len(frame), "the zstd frame is cut off")
        word = int.from_bytes(frame[offset : offset + 3], "little")
        last, kind, block_size = word & 1, word >> 1 & 3, word >> 3
        offset += 3
        stored = 1 if kind == 1 else block_size
        expect(kind != 3, "a zstd block is of a reserved type")
        expect(offset + stored <= len(frame), "the zstd frame is cut off")
        expect(block_size <= BLOCK_BYTES, "a zstd block is too large")
        data = frame[offset : offset + stored]
        if kind == 2:
            decoder.compressed_block(data)
        else:
            decoder.append(data * block_size if kind == 1 else data)
        offset += stored
    expect(offset + 4 * has_checksum == len(frame), "the zstd frame does not end with the section")
    content = bytes(decoder.out)
    expect(len(content) == size, "the zstd frame declares another size")
    if has_checksum:
        stored = int.from_bytes(frame[offset:], "little")
        expect(xxh64(content) & 0xFFFFFFFF == stored, "the zstd frame's checksum differs")
    return content


def store(content):
    """A frame that holds the content as it is."""
    blocks = [content[i : i + BLOCK_BYTES] for i in range(0, len(content), BLOCK_BYTES)] or [b""]
    frame = MAGIC + bytes([3 << 6 | 1 << 5 | 1 << 2]) + len(content).to_bytes(8, "little")
    for i, block in enumerate(blocks):
        frame += (len(block) << 3 | (i == len(blocks) - 1)).to_bytes(3, "little") + block
    return frame + (xxh64(content) & 0xFFFFFFFF).to_bytes(4, "little")


class Decoder:
    """What one block leaves to the next: the content so far, tables, the last three offsets."""

    def __init__(self, size):
        self.size, self.out = size, bytearray()
        self.huffman = None
        self.tables = [None, None, None]
        self.offsets = [1, 4, 8]

    def append(self, data):
        expect(len(self.out) + len(data) <= self.size, "the zstd frame declares another size")
        self.out += data

    def compressed_block(self, block):
        try:
            literals, offset = self.read_literals(block)
            self.read_sequences(block, offset, literals)
        except IndexError:
            raise ValueError("a zstd block is cut off") from None

    def read_literals(self, block):
        """Section 3.1.1.3.1: the literals, and where the sequences begin."""
        kind, form = block[0] & 3, block[0] >> 2 & 3
        if kind < 2:
            header_bytes, shift = {1: (2, 4), 3: (3, 4)}.get(form, (1, 3))
            size = int.from_bytes(block[:header_bytes], "little") >> shift
            expect(size <= BLOCK_BYTES, "zstd literals are too many")
            end = header_bytes + (size if kind == 0 else 1)
            expect(end <= len(block), "zstd literals are cut off")
            data = block[header_bytes:end]
            return data * size if kind == 1 else data, end
        header_bytes, bits = ((3, 10), (3, 10), (4, 14), (5, 18))[form]
        header = int.from_bytes(block[:header_bytes], "little") >> 4
        size, stored = header & (1 << bits) - 1, header >> bits & (1 << bits) - 1
        begin, end = header_bytes, header_bytes + stored
        expect(size <= BLOCK_BYTES and end <= len(block), "zstd literals are cut off")
        if kind == 2:
            self.huffman, begin = read_huffman_table(block[:end], begin)
        expect(self.huffman is not None, "a zstd block repeats a Huffman table that is not there")
        literals = self.read_streams(block[begin:end], size, 1 if form == 0 else 4)
        expect(len(literals) == size, "zstd literals have another number")
        return literals, end

    def read_streams(self, data, size, num_streams):
        if num_streams == 1:
            return self.huffman.read(data, size)
        sizes = [int.from_bytes(data[i : i + 2], "little") for i in (0, 2, 4)]
        expect(6 + sum(sizes) < len(data), "zstd literals are cut off")
        literals, begin, part = b"", 6, (size + 3) // 4
        for stored in [*sizes, len(data) - 6 - sum(sizes)]:
            literals += self.huffman.read(data[begin : begin + stored], min(part, size - len(literals)))
            begin += stored
        return literals

    def read_sequences(self, block, offset, literals):
        """Section 3.1.1.3.2."""
        count = block[offset]
        if count == 0:
            expect(offset + 1 == len(block), "a zstd block goes on after its end")
            return self.append(literals)
        if count < 128:
            offset += 1
        elif count < 255:
            count, offset = (count - 128 << 8) + block[offset + 1], offset + 2
        else:
            count, offset = block[offset + 1] + (block[offset + 2] << 8) + 0x7F00, offset + 3
        modes = block[offset]
        expect(modes & 3 == 0, "reserved bits of a zstd block are set")
        offset += 1
        for part, shift in enumerate((6, 4, 2)):
            offset = self.read_table(part, modes >> shift & 3, block, offset)
        self.execute(BackwardBits(block[offset:]), count, literals)

    def read_table(self, part, mode, block, offset):
        codes, default, accuracy, most = SEQUENCE_PARTS[part]
        if mode == 0:
            self.tables[part] = fse_table(default, accuracy)
        elif mode == 1:
            expect(block[offset] < len(codes), "an unknown code in a zstd block")
            self.tables[part] = [(block[offset], 0, 0)]
            offset += 1
        elif mode == 2:
            self.tables[part], offset = read_fse_table(block, offset, most, len(codes))
        expect(self.tables[part] is not None, "a zstd block repeats a table that is not there")
        return offset

    def execute(self, bits, count, literals):
        tables = self.tables
        states = [bits.read(len(table).bit_length() - 1) for table in tables]
        used = 0
        for i in range(count):
            (literal_code, *_), (offset_code, *_), (match_code, *_) = (
                table[state] for table, state in zip(tables, states, strict=True)
            )
            distance = (1 << offset_code) + bits.read(offset_code)
            base, extra = MATCH_LENGTHS[match_code]
            match_length = base + bits.read(extra)
            base, extra = LITERAL_LENGTHS[literal_code]
            literal_length = base + bits.read(extra)
            expect(used + literal_length <= len(literals), "a zstd block uses more literals than it has")
            self.append(literals[used : used + literal_length])
            used += literal_length
            self.copy(self.next_offset(distance, literal_length), match_length)
            if i + 1 < count:
                for part in (0, 2, 1):
                    _, width, base = tables[part][states[part]]
                    states[part] = base + bits.read(width)
        expect(bits.left == 0, "a zstd block has bits left")
        self.append(literals[used:])

    def next_offset(self, distance, literal_length):
        """Section 3.1.1.5: values up to 3 name the last three offsets."""
        recent = self.offsets
        if distance > 3:
            self.offsets = [distance - 3, recent[0], recent[1]]
            return distance - 3
        index = distance - 1 + (literal_length == 0)
        if index == 0:
            return recent[0]
        chosen = recent[index] if index < 3 else recent[0] - 1
        expect(chosen > 0, "a zstd block has an offset of 0")
        self.offsets = [chosen, recent[0], recent[2] if index == 1 else recent[1]]
        return chosen

    def copy(self, distance, length):
        out = self.out
        expect(distance <= len(out), "a zstd block copies from before the content")
        expect(len(out) + length <= self.size, "the zstd frame declares another size")
        begin = len(out) - distance
        while length > 0:  # the copy may overlap what it makes
            piece = out[begin : begin + length]
            out += piece
            begin += len(piece)
            length -= len(piece)
