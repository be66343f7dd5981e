"""What is wrong with a pool, and where: spec/pool-format.md, section 17."""

CODES = {
    "kNotAPool": 400, "kUnfinished": 401, "kTruncated": 402, "kBadChecksum": 500, "kMalformed": 501,
    "kLimitExceeded": 502, "kBadReserved": 503, "kBadSectionTable": 504, "kBadSectionSize": 505, "kBadIdentity": 506,
    "kBadFingerprint": 507, "kBadTokens": 508, "kBadLayout": 509, "kBadSource": 510, "kBadPadding": 511,
    "kBadDigest": 512, "kUnsupportedVersion": 600, "kUnsupportedFeature": 601, "kForeignByteOrder": 602,
    "kUnknownSection": 603, "kUnknownAlgorithm": 604, "kUnknownCodec": 605, "kNotFinite": None, "kMismatch": 1000,
}  # fmt: skip


class PoolError(ValueError):
    """A pool that cannot be used or made. `code` is a name of the specification's section 17 (kNotFinite is that of
    codecs.md), `number` its number, `offset` the first wrong byte of the file, or None where no byte is wrong."""

    def __init__(self, code, reason, offset=None, path=None):
        self.code, self.number, self.reason, self.offset, self.path = code, CODES[code], reason, offset, path
        super().__init__(code, reason, offset, path)

    def __str__(self):
        where = "" if self.offset is None else f" at {self.offset:#x}"
        file = "" if self.path is None else f"{self.path}: "
        return f"{file}{self.reason}{where} ({self.code})"


def refuse_if(condition, code, reason, offset=None):
    if condition:
        raise PoolError(code, reason, None if offset is None else int(offset))
