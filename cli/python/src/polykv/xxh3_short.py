"""XXH3-64 of at most 240 bytes, and what the longer ones share with it: seeds of chunks are hashes of 24 bytes."""

MASK = 2**64 - 1
PRIME32_1, PRIME32_2, PRIME32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
PRIME64_1, PRIME64_2, PRIME64_3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
PRIME64_4, PRIME64_5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
    "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)


def le64(data, offset):
    return int.from_bytes(data[offset : offset + 8], "little")


def secret64(offset, other=None):
    """A word of the secret, or two of them xored."""
    return le64(SECRET, offset) ^ (0 if other is None else le64(SECRET, other))


def fold(a, b):
    product = a * b
    return (product & MASK) ^ (product >> 64)


def avalanche(value):
    value = (value ^ value >> 37) * 0x165667919E3779F9 & MASK
    return value ^ value >> 32


def byte_swapped(value, size):
    return int.from_bytes(value.to_bytes(size, "little"), "big")


def hash_short(data, seed):
    size = len(data)
    if size > 128:
        return hash_129_to_240(data, seed)
    if size > 16:
        return hash_17_to_128(data, seed)
    if size > 8:
        low = le64(data, 0) ^ ((secret64(24, 32) + seed) & MASK)
        high = le64(data, size - 8) ^ ((secret64(40, 48) - seed) & MASK)
        return avalanche((size + byte_swapped(low, 8) + high + fold(low, high)) & MASK)
    if size > 3:
        return hash_4_to_8(data, seed)
    return hash_0_to_3(data, seed)


def hash_0_to_3(data, seed):
    size = len(data)
    if size == 0:
        value = seed ^ secret64(56, 64)
    else:
        combined = data[0] << 16 | data[size >> 1] << 24 | data[-1] | size << 8
        flip = int.from_bytes(SECRET[:4], "little") ^ int.from_bytes(SECRET[4:8], "little")
        value = combined ^ ((flip + seed) & MASK)
    value = (value ^ value >> 33) * PRIME64_2 & MASK
    value = (value ^ value >> 29) * PRIME64_3 & MASK
    return value ^ value >> 32


def hash_4_to_8(data, seed):
    size = len(data)
    seed ^= byte_swapped(seed & 0xFFFFFFFF, 4) << 32
    value = int.from_bytes(data[-4:], "little") + (int.from_bytes(data[:4], "little") << 32)
    value ^= (secret64(8, 16) - seed) & MASK
    value ^= (value << 49 | value >> 15) & MASK ^ (value << 24 | value >> 40) & MASK
    value = value * 0x9FB21C651E98DF25 & MASK
    value = (value ^ (value >> 35) + size) * 0x9FB21C651E98DF25 & MASK
    return value ^ value >> 28


def mix16(data, offset, secret_offset, seed):
    return fold(
        le64(data, offset) ^ ((secret64(secret_offset) + seed) & MASK),
        le64(data, offset + 8) ^ ((secret64(secret_offset + 8) - seed) & MASK),
    )


def hash_17_to_128(data, seed):
    total = len(data) * PRIME64_1
    for i in range((len(data) + 31) // 32):
        total += mix16(data, 16 * i, 32 * i, seed) + mix16(data, len(data) - 16 * (i + 1), 32 * i + 16, seed)
    return avalanche(total & MASK)


def hash_129_to_240(data, seed):
    total = len(data) * PRIME64_1 + sum(mix16(data, 16 * i, 16 * i, seed) for i in range(8))
    total = avalanche(total & MASK)
    total += sum(mix16(data, 16 * i, 16 * (i - 8) + 3, seed) for i in range(8, len(data) // 16))
    return avalanche((total + mix16(data, len(data) - 16, 119, seed)) & MASK)
