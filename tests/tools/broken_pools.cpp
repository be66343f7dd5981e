#include "tests/tools/broken_pools.h"

#include <set>
#include <stdexcept>
#include <utility>

#include "format/reader.h"
#include "tests/support/make_pool.h"
#include "tests/tools/broken_maker.h"

namespace polykv::tests {
namespace {

void append16(Bytes& out, const std::vector<std::uint16_t>& values) {
  for (const std::uint16_t value : values) append(out, Bytes{std::byte(value & 0xff), std::byte(value >> 8)});
}

// Everything but what only a file can have; put_together() fills that in.
Bytes good_pool(std::uint32_t num_tokens) {
  const PoolRecipe recipe{.shape = {1, 1, 8, num_tokens}, .seed = 3};
  const std::uint32_t num_sinks = 4;
  const TestHead head = make_head(recipe, 0, 0);
  format::Identity identity;
  identity.set("codec.name", "k5v4");
  identity.set("model.name", "toy");
  format::Tokens tokens = make_tokens(recipe);
  format::Superblock superblock;
  superblock.shape = recipe.shape;
  superblock.num_sinks = num_sinks;
  const auto page = format::serialize_superblock(superblock, {});
  PoolParts parts{{page.begin(), page.end()}, {}};
  // The frame is made here, of one raw block, so that it does not depend on zstd's version.
  Bytes source = le64(tokens.text.size());
  append(source, le64(format::xxh3_64(format::as_bytes(tokens.text))));
  append(source, le32({0xfd2fb528u}));
  append(source, Bytes{std::byte{0x20}, std::byte(tokens.text.size())});
  const auto block = static_cast<std::uint32_t>(tokens.text.size() << 3 | 1);
  append(source, Bytes{std::byte(block & 0xff), std::byte(block >> 8 & 0xff), std::byte(block >> 16)});
  append(source, bytes_of(tokens.text));
  const bool has_run = num_tokens > num_sinks;
  format::Layout layout = has_run ? format::Layout::uniform(recipe.shape, 0, 5, 4)
                                  : format::Layout{{}, std::vector<std::vector<format::Run>>(1)};
  const auto add = [&](SectionKind kind, Bytes bytes) {
    parts.sections.push_back({kind, format::section_flags(kind), std::move(bytes)});
  };
  add(SectionKind::kIdentity, identity.serialize());
  add(SectionKind::kTokens, format::serialize_tokens(tokens));
  add(SectionKind::kSource, std::move(source));
  Bytes pages, sinks, means;
  const auto middle_of = [&](const std::vector<std::uint16_t>& values, std::size_t begin, std::size_t end) {
    return std::vector<std::uint16_t>(values.begin() + static_cast<std::ptrdiff_t>(begin),
                                      values.begin() + static_cast<std::ptrdiff_t>(end));
  };
  append16(sinks, middle_of(head.keys, 0, num_sinks * 8));
  append16(sinks, middle_of(head.values, 0, num_sinks * 8));
  if (has_run) {
    const auto keys = middle_of(head.keys, num_sinks * 8, head.keys.size());
    const auto values = middle_of(head.values, num_sinks * 8, head.values.size());
    std::vector<std::uint16_t> mean(8);
    core::mean_of_keys(keys, 8, mean);
    pages.resize(format::run_bytes(5, 4, 8, num_tokens - num_sinks));
    const auto exponents = core::quantize_run({5, 4}, keys, values, 8, {.mean = mean}, pages);
    if (!exponents) throw std::runtime_error("cannot quantize");
    layout.runs[0][0].exponents = *exponents;
    append16(means, mean);
    append16(means, std::vector<std::uint16_t>(16, 0x3c00));  // balances of one
  }
  add(SectionKind::kLayout, layout.serialize(recipe.shape));
  if (has_run) add(SectionKind::kPages, std::move(pages));
  add(SectionKind::kSinks, std::move(sinks));
  if (has_run) add(SectionKind::kMeans, std::move(means));
  Bytes pool = put_together(parts);
  const auto reader = format::PoolReader::open(pool);
  if (!reader) throw std::runtime_error("the pool to break is broken already: " + reader.error().message);
  return pool;
}

constexpr std::pair<ErrorCode, const char*> kNames[] = {
    {ErrorCode::kNotAPool, "kNotAPool"},
    {ErrorCode::kUnfinished, "kUnfinished"},
    {ErrorCode::kTruncated, "kTruncated"},
    {ErrorCode::kBadChecksum, "kBadChecksum"},
    {ErrorCode::kMalformed, "kMalformed"},
    {ErrorCode::kLimitExceeded, "kLimitExceeded"},
    {ErrorCode::kBadReserved, "kBadReserved"},
    {ErrorCode::kBadSectionTable, "kBadSectionTable"},
    {ErrorCode::kBadSectionSize, "kBadSectionSize"},
    {ErrorCode::kBadIdentity, "kBadIdentity"},
    {ErrorCode::kBadFingerprint, "kBadFingerprint"},
    {ErrorCode::kBadTokens, "kBadTokens"},
    {ErrorCode::kBadLayout, "kBadLayout"},
    {ErrorCode::kBadSource, "kBadSource"},
    {ErrorCode::kBadPadding, "kBadPadding"},
    {ErrorCode::kBadDigest, "kBadDigest"},
    {ErrorCode::kUnsupportedVersion, "kUnsupportedVersion"},
    {ErrorCode::kUnsupportedFeature, "kUnsupportedFeature"},
    {ErrorCode::kForeignByteOrder, "kForeignByteOrder"},
    {ErrorCode::kUnknownSection, "kUnknownSection"},
    {ErrorCode::kUnknownAlgorithm, "kUnknownAlgorithm"},
    {ErrorCode::kUnknownCodec, "kUnknownCodec"},
};

// Files of 1 MiB, and variants of a rule that another file breaks already: 0.7 MB less to carry around.
const std::set<std::string> kNotKept = {
    "size-identity-limit",
    "size-fidelity-limit",
    "superblock-num-sections-6",
    "superblock-num-layers-0",
    "superblock-num-kv-heads-0",
    "superblock-head-dim-0",
    "superblock-num-tokens-0",
    "superblock-reserved-408",
    "superblock-reserved-3584",
    "superblock-writer-delete",
    "superblock-parent-digest",
    "trailer-one-byte-more",
    "table-kinds-descend",
    "table-offset-overlap",
    "table-bytes-overflow",
    "table-no-tokens",
    "table-no-layout",
    "table-no-sinks",
    "chunk-tokens",
    "chunk-layout-padding",
    "chunk-sinks",
    "chunk-means",
    "chunk-fidelity",
    "padding-tokens",
    "padding-source",
    "padding-layout",
    "padding-means",
    "identity-name-space",
    "identity-value-overlong",
    "identity-value-surrogate",
    "identity-name-dot-first",
    "identity-names-equal",
    "source-byte-after",
    "source-reserved-block",
    "source-content-shorter",
    "layout-key-codec-0",
    "layout-value-codec-17",
    "layout-value-exponent-of-none",
    "layout-range-reversed",
    "layout-ranges-overlap",
    "layout-ranges-descend",
    "layout-set-empty-bitmap",
    "layout-bitmap-cut-off",
    "layout-set-cut-off",
    "layout-set-twice-in-head",
    "page-key-code-1-bit",
    "page-value-dim-trellis-bit",
    "page-value-scale",
    "page-surplus-bytes",
};

}  // namespace

std::string code_name(ErrorCode code) {
  for (const auto& [known, name] : kNames) {
    if (known == code) return name;
  }
  return std::to_string(static_cast<std::uint32_t>(code));
}

BrokenMaker::BrokenMaker() : bare_(good_pool(4)), paged_(good_pool(21)) {}

void BrokenMaker::add(std::string name, ErrorCode code, std::uint64_t offset, Bytes bytes) {
  const bool kept = kNotKept.count(name) == 0;
  pools_.push_back({std::move(name), code, offset, kept, std::move(bytes)});
}

void BrokenMaker::superblock32(const std::string& name, ErrorCode code, std::uint64_t offset, std::uint32_t value) {
  change(name, code, offset, bare_, kSealEnds, [&](Bytes& pool) { poke32(pool, offset, value); });
}

void BrokenMaker::superblock8(const std::string& name, ErrorCode code, std::uint64_t offset, std::uint8_t value) {
  change(name, code, offset, bare_, kSealEnds, [&](Bytes& pool) { pool[offset] = std::byte{value}; });
}

void BrokenMaker::byte(const std::string& name, ErrorCode code, const Bytes& base, SectionKind kind,
                       std::uint64_t offset, std::uint8_t value) {
  const std::uint64_t at = entry_of(base, kind).offset + offset;
  if (base[at] == std::byte{value}) throw std::logic_error(name + " changes nothing");
  change(name, code, at, base, {}, [&](Bytes& pool) { pool[at] = std::byte{value}; });
}

void BrokenMaker::section(const std::string& name, ErrorCode code, const Bytes& base, SectionKind kind,
                          std::uint64_t offset, Bytes bytes) {
  PoolParts parts = take_apart(base);
  parts.at(kind).bytes = std::move(bytes);
  Bytes pool = put_together(parts);
  const std::uint64_t at = entry_of(pool, kind).offset + offset;
  add(name, code, at, std::move(pool));
}

format::SectionEntry entry_of(const Bytes& pool, SectionKind kind) {
  return *format::find_section(reseal_detail::load_table(pool), kind);
}

std::uint64_t index_of(const Bytes& pool, SectionKind kind) {
  const auto table = reseal_detail::load_table(pool);
  return static_cast<std::uint64_t>(format::find_section(table, kind) - table.data());
}

Bytes section_bytes(const Bytes& pool, SectionKind kind) { return take_apart(pool).at(kind).bytes; }

Bytes bytes_of(std::string_view text) {
  const auto bytes = format::as_bytes(text);
  return {bytes.begin(), bytes.end()};
}

void append(Bytes& out, const Bytes& more) { out.insert(out.end(), more.begin(), more.end()); }

Bytes le32(std::initializer_list<std::uint32_t> values) {
  Bytes out(values.size() * 4);
  std::size_t at = 0;
  for (const std::uint32_t value : values) format::store_le32(out.data() + std::exchange(at, at + 4), value);
  return out;
}

Bytes le64(std::uint64_t value) {
  Bytes out(8);
  format::store_le64(out.data(), value);
  return out;
}

std::vector<BrokenPool> broken_pools() {
  BrokenMaker maker;
  break_container(maker);
  break_contents(maker);
  return maker.take();
}

}  // namespace polykv::tests
