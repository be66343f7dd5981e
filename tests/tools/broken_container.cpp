// Superblock, trailer, section table, chunks, digests, fingerprints: spec/pool-format.md, sections 3 to 7 and 14.
// Offsets of fields are those of the specification's tables.
#include "tests/tools/broken_maker.h"

namespace polykv::tests {
namespace {

constexpr std::uint64_t kTableAt = 512;

void break_start(BrokenMaker& maker) {
  const Bytes& good = maker.bare();
  const auto copy = [&](std::size_t size) {
    return Bytes(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size));
  };
  const auto poked = [&](std::uint64_t offset, std::uint8_t value) {
    Bytes pool = good;
    pool[offset] = std::byte{value};
    return pool;
  };
  maker.add("start-empty", ErrorCode::kNotAPool, 0, {});
  maker.add("start-text", ErrorCode::kNotAPool, 0, bytes_of("This is not a pool."));
  maker.add("start-magic-after-text-transfer", ErrorCode::kNotAPool, 4, poked(4, '\n'));
  Bytes unfinished = good;
  std::fill_n(unfinished.begin(), 4096, std::byte{0});
  maker.add("start-unfinished", ErrorCode::kUnfinished, 0, std::move(unfinished));
  maker.add("start-cut-in-magic", ErrorCode::kTruncated, 3, copy(3));
  maker.add("start-cut-in-superblock", ErrorCode::kTruncated, 4095, copy(4095));
  Bytes foreign = good;
  poke32(foreign, 8, 0x04030201);
  maker.add("start-big-endian", ErrorCode::kForeignByteOrder, 8, std::move(foreign));
  maker.add("start-byte-order", ErrorCode::kMalformed, 8, poked(8, 5));
  maker.superblock8("start-major", ErrorCode::kUnsupportedVersion, 12, 1);
  // The version is one field of two numbers.
  maker.change("start-minor", ErrorCode::kUnsupportedVersion, 12, good, kSealEnds,
               [](Bytes& pool) { pool[14] = std::byte{4}; });
  maker.change("start-incompat-unknown", ErrorCode::kUnsupportedFeature, 48, good, kSealEnds,
               [](Bytes& pool) { pool[55] = std::byte{0x80}; });
  maker.add("superblock-checksum", ErrorCode::kBadChecksum, 4088, poked(272, 1));
}

void break_superblock(BrokenMaker& maker) {
  const Bytes& good = maker.bare();
  const auto limit = ErrorCode::kLimitExceeded;
  const auto malformed = ErrorCode::kMalformed;
  maker.superblock32("superblock-bytes", malformed, 16, 8192);
  maker.superblock32("superblock-num-sections-6", limit, 20, 6);
  maker.superblock32("superblock-num-sections-25", limit, 20, 25);
  maker.change("superblock-file-bytes-limit", limit, 24, good, kSealEnds,
               [](Bytes& pool) { poke64(pool, 24, (std::uint64_t{1} << 46) + 1); });
  maker.superblock32("superblock-file-bytes-8191", malformed, 24, 8191);
  maker.superblock32("superblock-num-layers-0", limit, 232, 0);
  maker.superblock32("superblock-num-layers-1025", limit, 232, 1025);
  maker.superblock32("superblock-num-kv-heads-0", limit, 236, 0);
  maker.superblock32("superblock-num-kv-heads-1025", limit, 236, 1025);
  maker.superblock32("superblock-head-dim-0", limit, 240, 0);
  maker.superblock32("superblock-head-dim-12", malformed, 240, 12);
  maker.superblock32("superblock-head-dim-520", limit, 240, 520);
  maker.superblock32("superblock-num-tokens-0", limit, 244, 0);
  maker.superblock32("superblock-num-tokens-limit", limit, 244, (1u << 30) + 1);
  maker.superblock32("superblock-num-chunks-limit", limit, 248, (1u << 26) + 1);
  maker.superblock32("superblock-num-chunks", ErrorCode::kBadSectionSize, 248, 6);
  maker.superblock32("superblock-chunk-bytes", malformed, 252, 262145);
  maker.superblock32("superblock-first-position", malformed, 256, 1);
  maker.change("superblock-parent-at-0", malformed, 256, good, kSealEnds, [](Bytes& pool) { pool[48] = std::byte{1}; });
  maker.superblock32("superblock-num-sinks", malformed, 260, 3);
  maker.superblock8("superblock-checksum-algorithm", ErrorCode::kUnknownAlgorithm, 264, 2);
  maker.superblock8("superblock-digest-algorithm", ErrorCode::kUnknownAlgorithm, 265, 0);
  maker.superblock8("superblock-reserved-266", ErrorCode::kBadReserved, 271, 1);
  maker.superblock8("superblock-writer-not-ascii", malformed, 281, 0xe9);
  maker.superblock8("superblock-writer-delete", malformed, 280 + 12, 0x7f);
  // Wrong from where the zeros begin.
  maker.change("superblock-min-reader", malformed, 312 + 12, good, kSealEnds,
               [](Bytes& pool) { pool[343] = std::byte{'0'}; });
  maker.superblock8("superblock-parent-tokens", malformed, 344, 1);
  maker.superblock8("superblock-parent-digest", malformed, 407, 1);
  maker.superblock8("superblock-reserved-408", ErrorCode::kBadReserved, 408, 1);
  maker.superblock8("superblock-unused-entry", ErrorCode::kBadReserved, 512 + 7 * 128, 66);
  maker.superblock8("superblock-reserved-3584", ErrorCode::kBadReserved, 4087, 1);
}

void break_trailer(BrokenMaker& maker) {
  const Bytes& good = maker.bare();
  const std::uint64_t trailer = good.size() - 4096;
  const auto sealed = [&](const std::string& name, ErrorCode code, std::uint64_t offset) {
    Bytes pool = good;
    pool[trailer + offset] ^= std::byte{1};
    poke64(pool, trailer, format::xxh3_64(std::span<const std::byte>(pool).subspan(trailer + 8)));
    maker.add(name, code, trailer + offset, std::move(pool));
  };
  Bytes pool = good;
  pool.pop_back();
  maker.add("trailer-one-byte-missing", ErrorCode::kTruncated, pool.size(), pool);
  pool = good;
  pool.push_back(std::byte{0});
  maker.add("trailer-one-byte-more", ErrorCode::kTruncated, good.size(), pool);
  pool = good;
  std::fill(pool.end() - 4096, pool.end(), std::byte{0});  // what a copy leaves that was cut off and then extended
  maker.add("trailer-zeros", ErrorCode::kTruncated, trailer + 4088, pool);
  pool = good;
  pool.back() ^= std::byte{1};
  maker.add("trailer-end-magic", ErrorCode::kTruncated, good.size() - 1, pool);
  pool = good;
  pool[trailer + 40] ^= std::byte{1};
  maker.add("trailer-checksum", ErrorCode::kBadChecksum, trailer, pool);
  // A field of several bytes is wrong as a whole.
  pool = good;
  poke64(pool, trailer + 8, good.size() + 64);
  poke64(pool, trailer, format::xxh3_64(std::span<const std::byte>(pool).subspan(trailer + 8)));
  maker.add("trailer-file-bytes", ErrorCode::kMalformed, trailer + 8, pool);
  sealed("trailer-file-id", ErrorCode::kMalformed, 16);
  sealed("trailer-superblock-digest", ErrorCode::kBadDigest, 32);
  sealed("trailer-reserved", ErrorCode::kBadReserved, 4087);
}

void break_table_entries(BrokenMaker& maker) {
  const Bytes& good = maker.bare();
  const auto entry32 = [&](const std::string& name, ErrorCode code, std::uint64_t i, std::uint64_t field,
                           std::uint32_t value) {
    const std::uint64_t at = kTableAt + 128 * i + field;
    maker.change(name, code, at, good, kSealEnds, [&](Bytes& pool) { poke32(pool, at, value); });
  };
  const auto table = ErrorCode::kBadSectionTable;
  entry32("table-kind-twice", table, 1, 0, 1);
  maker.change("table-kinds-descend", table, kTableAt + 128, good, kSealEnds, [](Bytes& pool) {
    poke32(pool, kTableAt, 2);
    poke32(pool, kTableAt + 128, 1);
  });
  entry32("table-flags-unknown", ErrorCode::kBadReserved, 0, 4, 5);
  entry32("table-flags-of-known-kind", table, 0, 4, 3);
  entry32("table-offset-gap", table, 1, 8,
          static_cast<std::uint32_t>(entry_of(good, SectionKind::kTokens).offset + 64));
  entry32("table-offset-overlap", table, 1, 8, 4096);
  entry32("table-bytes-0", table, 0, 16, 0);
  maker.change("table-bytes-overflow", table, kTableAt + 16, good, kSealEnds,
               [](Bytes& pool) { poke64(pool, kTableAt + 16, ~std::uint64_t{0} - 4096); });
  entry32("table-padded-bytes", table, 0, 24,
          static_cast<std::uint32_t>(entry_of(good, SectionKind::kIdentity).padded_bytes + 64));
  entry32("table-checksum-of-chunked", ErrorCode::kBadReserved, 0, 32, 1);
  maker.change("table-reserved", ErrorCode::kBadReserved, kTableAt + 127, good, kSealEnds,
               [](Bytes& pool) { pool[kTableAt + 127] = std::byte{1}; });
  PoolParts parts = take_apart(good);
  parts.add({static_cast<SectionKind>(9), 1, bytes_of("of a later version")});
  maker.add("table-unknown-critical", ErrorCode::kUnknownSection, kTableAt + 5 * 128, put_together(parts));
  maker.change("table-gap-before-trailer", table, good.size() - 4096, good, kSealEnds, [](Bytes& pool) {
    const Bytes gap(64);
    pool.insert(pool.end() - 4096, gap.begin(), gap.end());
    poke64(pool, 24, pool.size());
  });
}

void break_table(BrokenMaker& maker) {
  const auto table = ErrorCode::kBadSectionTable;
  for (const auto& [name, kind] : {std::pair("identity", SectionKind::kIdentity),
                                   {"tokens", SectionKind::kTokens},
                                   {"source", SectionKind::kSource},
                                   {"layout", SectionKind::kLayout},
                                   {"sinks", SectionKind::kSinks},
                                   {"means", SectionKind::kMeans}}) {
    PoolParts parts = take_apart(maker.paged());
    parts.drop(kind);
    maker.add(std::string("table-no-") + name, table, kTableAt, put_together(parts));
  }
  PoolParts parts = take_apart(maker.paged());
  parts.drop(SectionKind::kPages);
  Bytes no_pages = put_together(parts);
  const std::uint64_t layout = entry_of(no_pages, SectionKind::kLayout).offset;
  maker.add("table-no-pages", ErrorCode::kBadLayout, layout, std::move(no_pages));
  const std::uint64_t last = index_of(maker.paged(), SectionKind::kDigests);
  const auto drop_entry = [&](const std::string& name, std::uint64_t i) {
    maker.change(name, table, kTableAt, maker.paged(), kSealEnds, [&](Bytes& pool) {
      const auto at = pool.begin() + static_cast<std::ptrdiff_t>(kTableAt + 128 * i);
      std::copy(at + 128, pool.begin() + static_cast<std::ptrdiff_t>(kTableAt + 128 * (last + 1)), at);
      std::fill_n(pool.begin() + static_cast<std::ptrdiff_t>(kTableAt + 128 * last), 128, std::byte{0});
      poke32(pool, 20, static_cast<std::uint32_t>(last));
    });
  };
  drop_entry("table-no-chunk-table", last - 1);
  drop_entry("table-no-digests", last);
  parts = take_apart(maker.bare());
  parts.add({SectionKind::kPages, 1, Bytes(64)});
  Bytes surplus = put_together(parts);
  maker.add("table-surplus-pages", ErrorCode::kBadLayout, entry_of(surplus, SectionKind::kLayout).offset, surplus);
  parts = take_apart(maker.bare());
  parts.add({SectionKind::kMeans, 1, Bytes(48)});
  maker.add("table-surplus-means", table, kTableAt, put_together(parts));
}

void break_sizes(BrokenMaker& maker) {
  for (const auto& [name, kind] : {std::pair("tokens", SectionKind::kTokens), {"sinks", SectionKind::kSinks}}) {
    Bytes bytes = section_bytes(maker.bare(), kind);
    bytes.resize(bytes.size() + 12);
    maker.section(std::string("size-") + name, ErrorCode::kBadSectionSize, maker.bare(), kind, 0, std::move(bytes));
  }
  maker.section("size-means", ErrorCode::kBadSectionSize, maker.paged(), SectionKind::kMeans, 0, Bytes(46));
  for (const auto& [name, kind] :
       {std::pair("chunk-table", SectionKind::kChunkTable), {"digests", SectionKind::kDigests}}) {
    const format::SectionEntry entry = entry_of(maker.bare(), kind);
    const std::uint64_t at = kTableAt + 128 * index_of(maker.bare(), kind) + 16;
    maker.change(std::string("size-") + name, ErrorCode::kBadSectionSize, entry.offset, maker.bare(), kSealEnds,
                 [&](Bytes& pool) { poke64(pool, at, entry.bytes + 8); });
  }
  // One field of 64 KiB more than 1 MiB in all.
  Bytes identity = le32({17});
  for (int i = 0; i < 17; ++i) {
    append(identity, le32({3, 65536}));
    append(identity, bytes_of(std::string("a.") + static_cast<char>('a' + i)));
    identity.resize(identity.size() + 65536, std::byte{'x'});
  }
  maker.section("size-identity-limit", ErrorCode::kLimitExceeded, maker.bare(), SectionKind::kIdentity, 0,
                std::move(identity));
  PoolParts parts = take_apart(maker.bare());
  parts.add({SectionKind::kFidelity, 0, Bytes(1024 * 1024 + 1, std::byte{' '})});
  Bytes fidelity = put_together(parts);
  const std::uint64_t at = entry_of(fidelity, SectionKind::kFidelity).offset;
  maker.add("size-fidelity-limit", ErrorCode::kLimitExceeded, at, std::move(fidelity));
}

// A byte of each section is changed, and nothing is sealed again.
void break_chunks(BrokenMaker& maker) {
  PoolParts parts = take_apart(maker.paged());
  parts.add({SectionKind::kFidelity, 0, bytes_of("{}")});
  const Bytes whole = put_together(parts);
  const auto flip = [&](const char* name, ErrorCode code, SectionKind kind, std::uint64_t at) {
    const format::SectionEntry entry = entry_of(whole, kind);
    Bytes pool = whole;
    pool[entry.offset + at] ^= std::byte{0x10};
    maker.add(std::string("chunk-") + name, code, entry.offset, std::move(pool));
  };
  flip("identity", ErrorCode::kBadChecksum, SectionKind::kIdentity, 20);
  flip("tokens", ErrorCode::kBadChecksum, SectionKind::kTokens, 0);
  flip("source", ErrorCode::kBadChecksum, SectionKind::kSource, 30);
  flip("layout-padding", ErrorCode::kBadChecksum, SectionKind::kLayout,
       entry_of(whole, SectionKind::kLayout).padded_bytes - 1);
  flip("pages", ErrorCode::kBadChecksum, SectionKind::kPages, 200);
  flip("sinks", ErrorCode::kBadChecksum, SectionKind::kSinks, 1);
  flip("means", ErrorCode::kBadChecksum, SectionKind::kMeans, 15);
  flip("fidelity", ErrorCode::kBadChecksum, SectionKind::kFidelity, 1);
  flip("chunk-table", ErrorCode::kBadChecksum, SectionKind::kChunkTable, 0);
  flip("digests", ErrorCode::kBadChecksum, SectionKind::kDigests, 255);
  // Two chunks and their checksums change places: the seeds differ.
  Bytes pool = maker.bare();
  const std::uint64_t table = entry_of(pool, SectionKind::kChunkTable).offset;
  std::swap_ranges(pool.begin() + static_cast<std::ptrdiff_t>(table),
                   pool.begin() + static_cast<std::ptrdiff_t>(table + 8),
                   pool.begin() + static_cast<std::ptrdiff_t>(table + 8));
  const auto padded =
      std::span<const std::byte>(pool).subspan(table, entry_of(pool, SectionKind::kChunkTable).padded_bytes);
  format::FileId file_id;
  std::memcpy(file_id.data(), pool.data() + 56, file_id.size());
  poke64(pool, kTableAt + 128 * index_of(pool, SectionKind::kChunkTable) + 32,
         format::xxh3_64(padded, format::section_seed(file_id, SectionKind::kChunkTable)));
  reseal(pool, kSealEnds);
  maker.add("chunk-checksums-exchanged", ErrorCode::kBadChecksum, 4096, std::move(pool));
}

// Padding that is not zero, everything sealed.
void break_padding(BrokenMaker& maker) {
  for (const auto& [name, kind] : {std::pair("identity", SectionKind::kIdentity),
                                   {"tokens", SectionKind::kTokens},
                                   {"source", SectionKind::kSource},
                                   {"layout", SectionKind::kLayout},
                                   {"means", SectionKind::kMeans},
                                   {"chunk-table", SectionKind::kChunkTable},
                                   {"digests", SectionKind::kDigests}}) {
    const format::SectionEntry entry = entry_of(maker.paged(), kind);
    if (entry.bytes == entry.padded_bytes) continue;
    maker.byte(std::string("padding-") + name, ErrorCode::kBadReserved, maker.paged(), kind, entry.bytes, 1);
  }
}

void break_digests(BrokenMaker& maker) {
  const Seal upwards{.fingerprints = false, .digests = false, .checksums = true, .trailer = true};
  maker.change("digest-of-section", ErrorCode::kBadDigest, kTableAt + 40, maker.bare(), upwards,
               [](Bytes& pool) { pool[kTableAt + 40] ^= std::byte{1}; });
  const std::uint64_t digests = entry_of(maker.bare(), SectionKind::kDigests).offset;
  maker.change("digest-of-chunk", ErrorCode::kBadDigest, 4096, maker.bare(), upwards, [&](Bytes& pool) {
    pool[digests] ^= std::byte{1};
    const format::Digest digest = format::sha256(std::span<const std::byte>(pool).subspan(digests, 32));
    std::memcpy(pool.data() + kTableAt + 40, digest.data(), digest.size());
  });
  for (const auto& [name, kind] :
       {std::pair("chunk-table", SectionKind::kChunkTable), {"digests", SectionKind::kDigests}}) {
    const std::uint64_t at = kTableAt + 128 * index_of(maker.bare(), kind) + 40;
    maker.change(std::string("digest-of-") + name, ErrorCode::kBadDigest, at, maker.bare(), kSealEnds,
                 [&](Bytes& pool) { pool[at] ^= std::byte{1}; });
  }
}

void break_fingerprints(BrokenMaker& maker) {
  const Seal seal{.fingerprints = false};
  const std::pair<const char*, std::uint64_t> fingerprints[] = {{"file-id", 56},   {"model", 72},   {"tokenizer", 104},
                                                                {"document", 136}, {"tokens", 168}, {"codec", 200}};
  for (const auto& [name, at] : fingerprints) {
    maker.change(std::string("fingerprint-") + name, ErrorCode::kBadFingerprint, at, maker.bare(), seal,
                 [at = at](Bytes& pool) { pool[at] ^= std::byte{1}; });
  }
}

}  // namespace

void break_container(BrokenMaker& maker) {
  break_start(maker);
  break_superblock(maker);
  break_trailer(maker);
  break_table_entries(maker);
  break_table(maker);
  break_sizes(maker);
  break_chunks(maker);
  break_padding(maker);
  break_digests(maker);
  break_fingerprints(maker);
}

}  // namespace polykv::tests
