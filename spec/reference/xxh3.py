"""XXH3-64 with a seed, for all lengths: slow, and in the order in which the algorithm is described.

    xxh3_64(bytes, seed) -> int

The algorithm is published with the xxHash library (https://github.com/Cyan4973/xxHash); its constants are pinned there.
"""

MASK = 2**64 - 1
PRIME32_1, PRIME32_2, PRIME32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
PRIME64_1, PRIME64_2, PRIME64_3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
PRIME64_4, PRIME64_5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
PRIME_MX1, PRIME_MX2 = 0x165667919E3779F9, 0x9FB21C651E98DF25

SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
    "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)


def le32(data, offset):
    return int.from_bytes(data[offset : offset + 4], "little")


def le64(data, offset):
    return int.from_bytes(data[offset : offset + 8], "little")


def swap64(value):
    return int.from_bytes(value.to_bytes(8, "little"), "big")


def rotate_left(value, bits):
    return (value << bits | value >> (64 - bits)) & MASK


def fold(a, b):
    """The two halves of the 128-bit product, xored."""
    product = a * b
    return (product & MASK) ^ (product >> 64)


def avalanche(h):
    h = (h ^ (h >> 37)) * PRIME_MX1 & MASK
    return h ^ (h >> 32)


def avalanche_xxh64(h):
    h = (h ^ (h >> 33)) * PRIME64_2 & MASK
    h = (h ^ (h >> 29)) * PRIME64_3 & MASK
    return h ^ (h >> 32)


def mix16(data, offset, secret_offset, seed):
    return fold(
        le64(data, offset) ^ ((le64(SECRET, secret_offset) + seed) & MASK),
        le64(data, offset + 8) ^ ((le64(SECRET, secret_offset + 8) - seed) & MASK),
    )


def hash_0_to_16(data, seed):
    size = len(data)
    if size == 0:
        return avalanche_xxh64(seed ^ le64(SECRET, 56) ^ le64(SECRET, 64))
    if size <= 3:
        combined = data[0] << 16 | data[size >> 1] << 24 | data[-1] | size << 8
        return avalanche_xxh64(combined ^ (((le32(SECRET, 0) ^ le32(SECRET, 4)) + seed) & MASK))
    if size <= 8:
        seed ^= int.from_bytes((seed & 0xFFFFFFFF).to_bytes(4, "little"), "big") << 32
        value = le32(data, size - 4) + (le32(data, 0) << 32)
        h = value ^ (((le64(SECRET, 8) ^ le64(SECRET, 16)) - seed) & MASK)
        h = (h ^ rotate_left(h, 49) ^ rotate_left(h, 24)) * PRIME_MX2 & MASK
        h = (h ^ ((h >> 35) + size)) * PRIME_MX2 & MASK
        return h ^ (h >> 28)
    low = le64(data, 0) ^ (((le64(SECRET, 24) ^ le64(SECRET, 32)) + seed) & MASK)
    high = le64(data, size - 8) ^ (((le64(SECRET, 40) ^ le64(SECRET, 48)) - seed) & MASK)
    return avalanche((size + swap64(low) + high + fold(low, high)) & MASK)


def hash_17_to_240(data, seed):
    size = len(data)
    total = size * PRIME64_1
    if size <= 128:
        for i in reversed(range((size - 1) // 32 + 1)):
            total += mix16(data, 16 * i, 32 * i, seed) + mix16(data, size - 16 * (i + 1), 32 * i + 16, seed)
        return avalanche(total & MASK)
    for i in range(8):
        total += mix16(data, 16 * i, 16 * i, seed)
    total = avalanche(total & MASK)
    for i in range(8, size // 16):
        total += mix16(data, 16 * i, 16 * (i - 8) + 3, seed)
    return avalanche((total + mix16(data, size - 16, 136 - 17, seed)) & MASK)


def words(data):
    return [le64(data, offset) for offset in range(0, len(data) - 7, 8)]


def accumulate(lanes, stripe, keys):
    for lane in range(8):
        keyed = stripe[lane] ^ keys[lane]
        lanes[lane ^ 1] += stripe[lane]
        lanes[lane] = (lanes[lane] + (keyed & 0xFFFFFFFF) * (keyed >> 32)) & MASK


def merge(lanes, secret, offset, start):
    for i in range(4):
        at = offset + 16 * i
        start += fold(lanes[2 * i] & MASK ^ le64(secret, at), lanes[2 * i + 1] & MASK ^ le64(secret, at + 8))
    return avalanche(start & MASK)


def hash_long(data, seed):
    """Blocks of 16 stripes of 64 bytes; the secret moves on by 8 bytes with every stripe."""
    secret = b"".join(
        ((le64(SECRET, i) + (seed if i % 16 == 0 else -seed)) & MASK).to_bytes(8, "little") for i in range(0, 192, 8)
    )
    lanes = [PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1]
    keys = words(secret)
    for number in range((len(data) - 1) // 64):
        accumulate(lanes, words(data[64 * number : 64 * number + 64]), keys[number % 16 : number % 16 + 8])
        if number % 16 == 15:
            for lane in range(8):
                value = lanes[lane] & MASK
                lanes[lane] = (value ^ (value >> 47) ^ keys[16 + lane]) * PRIME32_1 & MASK
    accumulate(lanes, words(data[-64:]), words(secret[192 - 64 - 7 : 192 - 7]))
    return merge(lanes, secret, 11, len(data) * PRIME64_1)


def xxh3_64(data, seed=0):
    data = bytes(data)
    if len(data) <= 16:
        return hash_0_to_16(data, seed)
    return hash_17_to_240(data, seed) if len(data) <= 240 else hash_long(data, seed)
