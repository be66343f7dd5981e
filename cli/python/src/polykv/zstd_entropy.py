"""The two entropy codes of zstd: finite state entropy and Huffman (RFC 8878, section 4)."""

MOST_HUFFMAN_BITS = 11


def expect(condition, message):
    if not condition:
        raise ValueError(message)


class BackwardBits:
    """Bits from the last one, which is a mark, to the first one. `left` counts those not read."""

    def __init__(self, data):
        expect(len(data) > 0 and data[-1] > 0, "a zstd bit stream has no end mark")
        self.data = data
        self.left = 8 * (len(data) - 1) + data[-1].bit_length() - 1

    def read(self, count):
        if count == 0:
            return 0
        self.left -= count
        expect(self.left >= 0, "a zstd bit stream is cut off")
        first = self.left >> 3
        return int.from_bytes(self.data[first : first + 8], "little") >> (self.left & 7) & (1 << count) - 1


class ForwardBits:
    def __init__(self, data, offset):
        self.data, self.bit = data, 8 * offset

    def peek(self, count):
        first = self.bit >> 3
        return int.from_bytes(self.data[first : first + 8], "little") >> (self.bit & 7) & (1 << count) - 1

    def read(self, count):
        value = self.peek(count)
        self.bit += count
        expect(self.bit <= 8 * len(self.data), "a zstd table is cut off")
        return value


def fse_table(distribution, accuracy):
    """For each state: symbol, bits to read, and what they are added to, for the next state. -1 is "less than 1"."""
    size = 1 << accuracy
    symbols, high = [0] * size, size - 1
    for symbol, probability in enumerate(distribution):
        if probability == -1:
            symbols[high] = symbol
            high -= 1
    state = 0
    for symbol, probability in enumerate(distribution):
        for _ in range(probability):
            symbols[state] = symbol
            state = state + (size >> 1) + (size >> 3) + 3 & size - 1
            while state > high:
                state = state + (size >> 1) + (size >> 3) + 3 & size - 1
    following, table = [abs(probability) for probability in distribution], []
    for symbol in symbols:
        x = following[symbol]
        following[symbol] += 1
        width = accuracy - (x.bit_length() - 1)
        table.append((symbol, width, (x << width) - size))
    return table


def read_fse_table(data, offset, most_accuracy, most_symbols):
    """Section 4.1.1: the table, and where it ends."""
    bits = ForwardBits(data, offset)
    accuracy = bits.read(4) + 5
    expect(accuracy <= most_accuracy, "a zstd table is too large")
    left, distribution = 1 << accuracy, []
    while left > 0:
        expect(len(distribution) < most_symbols, "a zstd table has too many symbols")
        width = (left + 1).bit_length()
        # Values below `short` take a bit less.
        short = (1 << width) - 2 - left
        value = bits.peek(width)
        if value & (1 << width - 1) - 1 < short:
            value &= (1 << width - 1) - 1
            bits.read(width - 1)
        else:
            bits.read(width)
            value -= short if value >> width - 1 else 0
        distribution.append(value - 1)
        left -= abs(value - 1)
        repeat = 3 if value == 1 else 0
        while repeat == 3:
            repeat = bits.read(2)
            distribution += [0] * repeat
            expect(len(distribution) <= most_symbols, "a zstd table has too many symbols")
    expect(left == 0, "the probabilities of a zstd table are too many")
    return fse_table(distribution, accuracy), (bits.bit + 7) // 8


class HuffmanTable:
    """`entries[next bits]`: symbol and how many of the bits it has."""

    def __init__(self, weights):
        total = sum(1 << weight - 1 for weight in weights if weight)
        expect(total > 0, "a zstd Huffman table is empty")
        self.bits = total.bit_length()
        expect(self.bits <= MOST_HUFFMAN_BITS, "a zstd Huffman table is too deep")
        rest = (1 << self.bits) - total
        expect(rest & rest - 1 == 0, "the weights of a zstd Huffman table do not add up")
        weights = [*weights, rest.bit_length()]
        expect(len(weights) <= 256, "a zstd Huffman table has too many symbols")
        self.entries = []
        for weight in range(1, self.bits + 1):
            for symbol, own in enumerate(weights):
                if own == weight:
                    self.entries += [(symbol, self.bits + 1 - weight)] * (1 << weight - 1)

    def read(self, data, most):
        """The symbols of a stream, which are all it holds."""
        stream, out = BackwardBits(data), bytearray()
        left, mask, entries, width = stream.left, (1 << self.bits) - 1, self.entries, self.bits
        while left > 0:
            first = max(left - width, 0)
            window = int.from_bytes(data[first >> 3 : (first >> 3) + 4], "little") >> (first & 7)
            # The code may be shorter than what is looked at, at the stream's end: zeros come after it.
            index = window & mask if left >= width else (window & (1 << left) - 1) << width - left
            symbol, used = entries[index]
            out.append(symbol)
            left -= used
        expect(left == 0 and len(out) <= most, "a zstd Huffman stream does not end where it should")
        return bytes(out)


def read_huffman_table(data, offset):
    """Section 4.2.1: the table, and where it ends."""
    header = data[offset]
    offset += 1
    if header >= 128:
        count = header - 127
        end = offset + (count + 1) // 2
        expect(end <= len(data), "a zstd Huffman table is cut off")
        weights = [nibble for byte in data[offset:end] for nibble in (byte >> 4, byte & 15)][:count]
    else:
        end = offset + header
        expect(end <= len(data), "a zstd Huffman table is cut off")
        table, begin = read_fse_table(data[:end], offset, 6, MOST_HUFFMAN_BITS + 1)
        weights = read_weights(table, BackwardBits(data[begin:end]))
    expect(max(weights, default=0) <= MOST_HUFFMAN_BITS, "a zstd Huffman table is too deep")
    return HuffmanTable(weights), end


def read_weights(table, bits):
    """Two states in turn; the bits' end, not a number, ends them."""
    accuracy = len(table).bit_length() - 1
    states, weights = [bits.read(accuracy), bits.read(accuracy)], []
    while len(weights) < 255:
        turn = len(weights) % 2
        symbol, width, base = table[states[turn]]
        weights.append(symbol)
        if width > bits.left:
            return [*weights, table[states[1 - turn]][0]]
        states[turn] = base + bits.read(width)
    raise ValueError("a zstd Huffman table has too many symbols")
