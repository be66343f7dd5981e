#!/usr/bin/env python3
"""A slow reader of pools, from the specification alone and in its order (../pool-format.md, ../codecs.md).

    read_pool.py POOL             everything in the file but keys and values, as JSON
    read_pool.py --values POOL    and for each (layer, kv_head) the SHA-256 of its keys and of its values as float32,
                                  [num_positions][head_dim], the sinks and all kept positions in ascending order; a
                                  zero has no sign there, as it depends on the order of operations

Every rule is checked, the ones that other readers leave for later too. A file that must be refused: one line on stderr
with the error code, the offset and the reason; the exit status is that of section 17. Needs Python 3.11, and the `zstd`
program where Python has no compression.zstd.
"""

import json
import sys

import pages
from container import (
    CHUNK_TABLE,
    DIGESTS,
    Pool,
    Refused,
    check_sizes,
    check_trailer,
    first_invalid_utf8,
    read_section_table,
    read_superblock,
    refuse_if,
    sha256,
)
from contents import (
    check_optional_sections,
    place_pages,
    read_identity,
    read_layout,
    read_source,
    read_tokens,
    source_text_bytes,
)


def check_fingerprints(pool, fields, ids):
    """Section 14, all but the document's."""
    header = pool.header

    def of(domain, *groups):
        chosen = b"".join(
            len(name).to_bytes(4, "little") + len(value).to_bytes(4, "little") + name + value
            for name, value in sorted(fields.items())
            if name.split(b".")[0] in groups
        )
        return sha256(domain + chosen)

    def digest(kind):
        return pool.by_kind[kind]["digest"] if kind in pool.by_kind else bytes(32)

    numbers = [header["first_position"], header["num_tokens"], *ids]
    computed = {
        "model_fingerprint": of(b"polykv/model/1", b"model", b"rope", b"adapters"),
        "tokenizer_fingerprint": of(b"polykv/tokenizer/1", b"tokenizer", b"template"),
        "tokens_fingerprint": sha256(
            b"polykv/tokens/1"
            + header["parent_tokens_fingerprint"]
            + b"".join(number.to_bytes(4, "little") for number in numbers)
        ),
        "codec_fingerprint": of(b"polykv/codec/1", b"codec"),
    }
    order = ("model_fingerprint", "tokenizer_fingerprint", "tokens_fingerprint", "codec_fingerprint")
    together = b"".join(computed[name] for name in order) + b"".join(digest(kind) for kind in (2, 4, 6, 7, 5))
    computed["file_id"] = sha256(b"polykv/file/1" + together)[:16]
    places = {"file_id": 56, "model_fingerprint": 72, "tokenizer_fingerprint": 104, "tokens_fingerprint": 168}
    for name, value in computed.items():
        refuse_if(value != header[name], "kBadFingerprint", places.get(name, 200), name)


def read_values(pool, sets, heads, check_only):
    """Section 12 and codecs.md: yields for each head its positions, keys and values. Checks the pages' padding."""
    header = pool.header
    head_dim, num_sinks = header["head_dim"], header["num_sinks"]
    vector_bytes = 2 * head_dim
    sinks = pool.contents(6) if num_sinks else b""
    for number, head in enumerate(heads):
        kept = {}
        transform = None
        if 7 in pool.by_kind:
            vectors = pool.contents(7)[3 * vector_bytes * number :]
            transform = [pages.float16s(vectors[i * vector_bytes :][:vector_bytes]) for i in range(3)]
        for p in range(num_sinks):
            at = vector_bytes * (2 * num_sinks * number + p)
            kept[header["first_position"] + p] = tuple(
                pages.rounded(pages.float16s(sinks[begin : begin + vector_bytes]))
                for begin in (at, at + vector_bytes * num_sinks)
            )
        for run in head:
            exponents = (run["key_exponent"], run["value_exponent"])
            positions = [p for low, high in sets[run["position_set"]] for p in range(low, high)]
            for i, (offset, size, in_page) in enumerate(run["pages"]):
                page = pool.contents(5)[offset : offset + size]
                kind = (run["key_codec"], run["value_codec"], head_dim, in_page)
                wrong = pages.first_unused_bit_set(page, *kind)
                at = pool.offset(5) + offset + (wrong or 0)
                refuse_if(wrong is not None, "kBadPadding", at, "an unused slot of a page is not zero")
                if not check_only:
                    keys, values = pages.read_page(page, *kind, exponents, transform)
                    kept.update(zip(positions[64 * i :], zip(keys, values, strict=True), strict=False))
        yield number, kept


def little_endian(vector):
    unsigned_zeros = pages.rounded(x + 0.0 for x in vector)
    if sys.byteorder == "big":
        unsigned_zeros.byteswap()
    return unsigned_zeros.tobytes()


def hash_values(header, head, kept):
    keys, values = (b"".join(little_endian(kept[p][side]) for p in sorted(kept)) for side in (0, 1))
    return {
        "layer": head // header["num_kv_heads"],
        "kv_head": head % header["num_kv_heads"],
        "num_positions": len(kept),
        "keys_sha256": sha256(keys).hex(),
        "values_sha256": sha256(values).hex(),
    }


def read(file, with_values=False):
    """Everything that is in a pool. Raises Refused."""
    header = read_superblock(file)
    check_trailer(file, header)
    pool = Pool(file, header, read_section_table(file, header))
    check_sizes(pool)
    pool.check_whole(CHUNK_TABLE)
    pool.check_chunks(pool.by_kind[1])
    fields = read_identity(pool.contents(1), pool.offset(1))
    pool.check_chunk(pool.by_kind[3]["chunks"][0])
    text_bytes = source_text_bytes(pool.contents(3), pool.offset(3))
    pool.check_chunks(pool.by_kind[2])
    ids, begins, ends = read_tokens(pool.contents(2), pool.offset(2), header["num_tokens"], text_bytes)
    pool.check_chunks(pool.by_kind[4])
    sets, heads = read_layout(pool.contents(4), pool.offset(4), header)
    check_optional_sections(pool, heads, place_pages(sets, heads, header["head_dim"], pool.offset(4)))
    fidelity = b""
    if 8 in pool.by_kind:
        pool.check_chunks(pool.by_kind[8])
        fidelity = pool.contents(8)
        wrong = first_invalid_utf8(fidelity)
        refuse_if(wrong is not None, "kMalformed", pool.offset(8) + (wrong or 0), "fidelity is not UTF-8")
    check_fingerprints(pool, fields, ids)
    pool.check_whole(DIGESTS)
    pool.check_section_digests()
    pool.check_every_chunk()
    text = read_source(pool.contents(3), pool.offset(3))
    document = sha256(b"polykv/document/1" + header["file_id"] + text)
    refuse_if(document != header["document_fingerprint"], "kBadFingerprint", 136, "document_fingerprint")
    values = [hash_values(header, *head) for head in read_values(pool, sets, heads, not with_values)]
    shown = ("kind", "name", "flags", "offset", "bytes", "padded_bytes")
    result = {
        "header": {name: value.hex() if isinstance(value, bytes) else value for name, value in header.items()},
        "sections": [{name: section[name] for name in shown} for section in pool.sections],
        "identity": {name.decode(): value.decode() for name, value in fields.items()},
        "tokens": {"id": ids, "text_begin": begins, "text_end": ends},
        "text": text.decode(),
        # Bytes: a token may end inside a character.
        "open_text": text[ends[-1] :].decode(errors="replace"),
        "layout": {"position_sets": sets, "heads": heads},
        "fidelity": fidelity.decode(),
    }
    return result | ({"values": values} if with_values else {})


def main():
    arguments = sys.argv[1:]
    with_values = arguments[:1] == ["--values"]
    paths = arguments[with_values:]
    if len(paths) != 1 or paths[0].startswith("-"):
        print("usage: read_pool.py [--values] POOL", file=sys.stderr)
        return 2
    with open(paths[0], "rb") as file:
        contents = file.read()
    try:
        json.dump(read(contents, with_values), sys.stdout, ensure_ascii=False, indent=1)
        print()
    except Refused as refused:
        print(f"read_pool.py: {paths[0]}: {refused}", file=sys.stderr)
        return refused.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
