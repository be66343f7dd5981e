#include "format/reader.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <optional>
#include <string>

#include "format/bytes.h"
#include "format/fingerprint.h"
#include "format/messages.h"
#include "format/utf8.h"

namespace polykv::format {
namespace {

std::string describe(const SectionEntry& section) { return "section " + std::string(section_name(section.kind)); }

Status compare_checksums(const std::string& what, std::uint64_t offset, std::uint64_t found, std::uint64_t expected) {
  if (found == expected) return {};
  return wrong_value(ErrorCode::kBadChecksum, offset, what + " at " + hex_offset(offset) + ": checksum",
                     hex_checksum(found), hex_checksum(expected));
}

// An error of a section's own parser counts from the section's start.
Error in_file(Error error, const SectionEntry& section) {
  if (error.offset == kNoOffset) {
    error.offset = section.offset;
  } else {
    error.offset += section.offset;
  }
  error.message += ", at " + hex_offset(error.offset);
  return error;
}

Status check_section_bytes(const SectionEntry* section, std::uint64_t expected, const char* name) {
  const std::uint64_t found = section != nullptr ? section->bytes : 0;
  if (found == expected) return {};
  return wrong_bytes(ErrorCode::kBadSectionSize, section != nullptr ? section->offset : kSectionTableOffset,
                     std::string("section ") + name + ": it", found, std::to_string(expected));
}

Status check_fingerprint(const char* name, std::uint64_t offset, std::span<const std::uint8_t> stored,
                         std::span<const std::uint8_t> computed) {
  if (std::equal(stored.begin(), stored.end(), computed.begin(), computed.end())) return {};
  return wrong_value(ErrorCode::kBadFingerprint, offset, std::string("superblock: ") + name, to_hex(stored),
                     to_hex(computed));
}

}  // namespace

struct PoolReader::State {
  std::span<const std::byte> file;
  Page superblock_page;
  Superblock superblock;
  std::vector<SectionEntry> sections;
  std::vector<std::uint64_t> checksums;                   // of the chunks, private
  std::unique_ptr<std::atomic<std::uint64_t>[]> checked;  // a bit per chunk
  Identity identity;
  Layout layout;
  Tokens tokens;
  std::string fidelity;

  const SectionEntry* find(SectionKind kind) const { return find_section(sections, kind); }
  std::span<const std::byte> view(SectionKind kind) const;

  Status open();
  Status check_sizes() const;
  Status load_chunk_table();
  Status check_fingerprints() const;
  Status load_tokens();
  Status check_means() const;
  Status load_fidelity();

  Status check_chunk(const SectionEntry& section, std::uint64_t i, std::span<const std::byte> bytes) const;
  Status check_padding(const SectionEntry& section, std::span<const std::byte> padded) const;
  Result<std::vector<std::byte>> copy_section(SectionKind kind) const;
  Status check_touched(std::span<const std::byte> range) const;

  Status verify_digests_section() const;
  Status verify_digest_tree() const;
  Status verify_chunk_digest(const SectionEntry& section, const ChunkExtent& chunk) const;
};

std::span<const std::byte> PoolReader::State::view(SectionKind kind) const {
  const SectionEntry* section = find(kind);
  return section != nullptr ? file.subspan(section->offset, section->bytes) : std::span<const std::byte>();
}

Status PoolReader::State::check_chunk(const SectionEntry& section, std::uint64_t i,
                                      std::span<const std::byte> bytes) const {
  const ChunkExtent chunk = chunk_extent(section, i);
  return compare_checksums(describe(section) + ", chunk " + std::to_string(i), chunk.offset,
                           xxh3_64(bytes, chunk_seed(superblock.file_id, chunk.index)), checksums[chunk.index]);
}

Status PoolReader::State::check_padding(const SectionEntry& section, std::span<const std::byte> padded) const {
  const std::size_t used = find_nonzero(padded.subspan(section.bytes));
  if (section.bytes + used == section.padded_bytes) return {};
  const std::uint64_t offset = section.offset + section.bytes + used;
  return Error{ErrorCode::kBadReserved, offset,
               describe(section) + ": padding byte at " + hex_offset(offset) + " is not zero"};
}

// A private copy of a metadata section, checked; its padding is dropped. What is parsed is what was checked, even if
// the file changes meanwhile.
Result<std::vector<std::byte>> PoolReader::State::copy_section(SectionKind kind) const {
  const SectionEntry& section = *find(kind);
  const std::span<const std::byte> stored = file.subspan(section.offset, section.padded_bytes);
  std::vector<std::byte> copy(stored.begin(), stored.end());
  for (std::uint64_t i = 0; i < section.num_chunks; ++i) {
    const ChunkExtent chunk = chunk_extent(section, i);
    POLYKV_CHECK_STATUS(check_chunk(section, i, std::span(copy).subspan(chunk.offset - section.offset, chunk.bytes)));
  }
  POLYKV_CHECK_STATUS(check_padding(section, copy));
  copy.resize(section.bytes);
  return copy;
}

// Sizes that follow from the superblock alone. Products fit: at most 2^20 heads, 2^9 dims and 2^5 bytes.
Status PoolReader::State::check_sizes() const {
  const KvShape& shape = superblock.shape;
  const std::uint64_t head_values = std::uint64_t{shape.num_layers} * shape.num_kv_heads * shape.head_dim;
  const std::uint64_t num_chunks = sections.back().first_chunk;
  if (superblock.num_chunks != num_chunks) {
    return wrong_value(ErrorCode::kBadSectionSize, 248, "superblock: num_chunks", std::to_string(superblock.num_chunks),
                       std::to_string(num_chunks));
  }
  POLYKV_CHECK_STATUS(check_section_bytes(find(SectionKind::kChunkTable), num_chunks * 8, "chunk table"));
  POLYKV_CHECK_STATUS(check_section_bytes(find(SectionKind::kDigests), num_chunks * 32, "digests"));
  POLYKV_CHECK_STATUS(check_section_bytes(find(SectionKind::kTokens), shape.num_tokens * kTokenBytes, "tokens"));
  POLYKV_CHECK_STATUS(check_section_bytes(find(SectionKind::kSinks), head_values * superblock.num_sinks * 4, "sinks"));
  if (const SectionEntry* means = find(SectionKind::kMeans)) {
    POLYKV_CHECK_STATUS(check_section_bytes(means, head_values * kMeanVectors * 2, "means"));
  }
  const SectionEntry* fidelity_section = find(SectionKind::kFidelity);
  if (fidelity_section != nullptr && fidelity_section->bytes > kMaxFidelityBytes) {
    return wrong_bytes(ErrorCode::kLimitExceeded, fidelity_section->offset, "section fidelity: it",
                       fidelity_section->bytes, "at most 1048576");
  }
  return {};
}

Status PoolReader::State::load_chunk_table() {
  const SectionEntry& section = *find(SectionKind::kChunkTable);
  const std::span<const std::byte> stored = file.subspan(section.offset, section.padded_bytes);
  const std::vector<std::byte> copy(stored.begin(), stored.end());
  POLYKV_CHECK_STATUS(compare_checksums(describe(section), section.offset,
                                        xxh3_64(copy, section_seed(superblock.file_id, section.kind)),
                                        section.checksum));
  POLYKV_CHECK_STATUS(check_padding(section, copy));
  checksums.resize(superblock.num_chunks);
  for (std::size_t i = 0; i < checksums.size(); ++i) checksums[i] = load_le64(copy.data() + 8 * i);
  checked = std::make_unique<std::atomic<std::uint64_t>[]>((checksums.size() + 63) / 64);
  return {};
}

// The first chunk of the source says how long the text is; the text itself is decompressed when asked for.
Status PoolReader::State::load_tokens() {
  const SectionEntry& source = *find(SectionKind::kSource);
  const ChunkExtent chunk = chunk_extent(source, 0);
  const std::span<const std::byte> stored = file.subspan(chunk.offset, chunk.bytes);
  const std::vector<std::byte> start(stored.begin(), stored.end());
  POLYKV_CHECK_STATUS(check_chunk(source, 0, start));
  const auto text_bytes = source_text_bytes(std::span(start).first(std::min(source.bytes, chunk.bytes)));
  if (!text_bytes) return in_file(text_bytes.error(), source);
  POLYKV_TRY(const std::vector<std::byte> bytes, copy_section(SectionKind::kTokens));
  const Status parsed = parse_tokens(bytes, superblock.shape.num_tokens, *text_bytes, tokens);
  if (!parsed) return in_file(parsed.error(), *find(SectionKind::kTokens));
  return {};
}

Status PoolReader::State::check_means() const {
  const bool expected = std::any_of(layout.runs.begin(), layout.runs.end(), [](const std::vector<Run>& runs) {
    return std::any_of(runs.begin(), runs.end(), [](const Run& run) { return key_codec_removes_mean(run.key_codec); });
  });
  if (expected == (find(SectionKind::kMeans) != nullptr)) return {};
  if (expected && superblock.has_parent()) return {};  // its parent's
  return Error{ErrorCode::kBadSectionTable, kSectionTableOffset,
               expected ? "section table: there is no section means, but a codec that needs it"
                        : "section table: there is a section means, but no codec that needs it"};
}

Status PoolReader::State::load_fidelity() {
  const SectionEntry* section = find(SectionKind::kFidelity);
  if (section == nullptr) return {};
  POLYKV_TRY(const std::vector<std::byte> bytes, copy_section(SectionKind::kFidelity));
  const std::size_t bad = first_invalid_utf8(as_text(bytes));
  if (bad != bytes.size()) {
    return in_file(Error{ErrorCode::kMalformed, bad, "section fidelity: it is not UTF-8"}, *section);
  }
  fidelity = as_text(bytes);
  return {};
}

Status PoolReader::State::check_fingerprints() const {
  const Superblock& stored = superblock;
  POLYKV_CHECK_STATUS(
      check_fingerprint("model_fingerprint", 72, stored.model_fingerprint, identity.model_fingerprint()));
  POLYKV_CHECK_STATUS(
      check_fingerprint("tokenizer_fingerprint", 104, stored.tokenizer_fingerprint, identity.tokenizer_fingerprint()));
  POLYKV_CHECK_STATUS(
      check_fingerprint("tokens_fingerprint", 168, stored.tokens_fingerprint,
                        tokens_fingerprint(tokens.ids, stored.first_position, stored.parent_tokens_fingerprint)));
  POLYKV_CHECK_STATUS(
      check_fingerprint("codec_fingerprint", 200, stored.codec_fingerprint, identity.codec_fingerprint()));
  return check_fingerprint("file_id", 56, stored.file_id, compute_file_id(stored, sections));
}

Status PoolReader::State::open() {
  POLYKV_TRY(superblock, parse_ends(file, superblock_page));
  POLYKV_TRY(sections, parse_section_table(superblock_page, superblock.num_sections, superblock.file_bytes,
                                           superblock.num_sinks > 0));
  POLYKV_CHECK_STATUS(check_sizes());
  POLYKV_CHECK_STATUS(load_chunk_table());
  POLYKV_TRY(const std::vector<std::byte> identity_bytes, copy_section(SectionKind::kIdentity));
  auto parsed_identity = Identity::parse(identity_bytes);
  if (!parsed_identity) return in_file(std::move(parsed_identity).error(), *find(SectionKind::kIdentity));
  identity = std::move(parsed_identity).value();
  POLYKV_CHECK_STATUS(load_tokens());
  POLYKV_TRY(const std::vector<std::byte> layout_bytes, copy_section(SectionKind::kLayout));
  const SectionEntry* pages = find(SectionKind::kPages);
  auto parsed_layout =
      Layout::parse(layout_bytes, superblock.shape, superblock.first_position, pages != nullptr ? pages->bytes : 0);
  if (!parsed_layout) return in_file(std::move(parsed_layout).error(), *find(SectionKind::kLayout));
  layout = std::move(parsed_layout).value();
  POLYKV_CHECK_STATUS(check_means());
  POLYKV_CHECK_STATUS(load_fidelity());
  return check_fingerprints();
}

Status PoolReader::State::check_touched(std::span<const std::byte> range) const {
  if (range.empty()) return {};
  const auto begin = static_cast<std::uint64_t>(range.data() - file.data());
  for (const SectionEntry& section : sections) {
    if (begin < section.offset || begin >= section.offset + section.bytes) continue;
    if (range.size() > section.offset + section.bytes - begin) break;
    const std::uint64_t last = (begin + range.size() - 1 - section.offset) / kChunkBytes;
    for (std::uint64_t i = (begin - section.offset) / kChunkBytes; i <= last && i < section.num_chunks; ++i) {
      const ChunkExtent chunk = chunk_extent(section, i);
      std::atomic<std::uint64_t>& word = checked[chunk.index / 64];
      const std::uint64_t bit = std::uint64_t{1} << (chunk.index % 64);
      // Two threads may both check a chunk at first; each sees the whole of it, so no order between them is needed.
      if ((word.load(std::memory_order_relaxed) & bit) != 0) continue;
      POLYKV_CHECK_STATUS(check_chunk(section, i, file.subspan(chunk.offset, chunk.bytes)));
      word.fetch_or(bit, std::memory_order_relaxed);
    }
    return {};
  }
  return Error{ErrorCode::kFailed, "a range to check is not within a section of the pool"};
}

// The stored bytes of the digests, through their own checksum.
Status PoolReader::State::verify_digests_section() const {
  const SectionEntry& section = *find(SectionKind::kDigests);
  const std::span<const std::byte> padded = file.subspan(section.offset, section.padded_bytes);
  POLYKV_CHECK_STATUS(compare_checksums(describe(section), section.offset,
                                        xxh3_64(padded, section_seed(superblock.file_id, section.kind)),
                                        section.checksum));
  return check_padding(section, padded);
}

Status PoolReader::State::verify_chunk_digest(const SectionEntry& section, const ChunkExtent& chunk) const {
  const std::uint64_t at = find(SectionKind::kDigests)->offset + chunk.index * sizeof(Digest);
  const Digest found = sha256(file.subspan(chunk.offset, chunk.bytes));
  Digest expected;
  std::memcpy(expected.data(), file.data() + at, expected.size());
  if (found == expected) return {};
  return wrong_value(ErrorCode::kBadDigest, chunk.offset,
                     describe(section) + ", chunk " + std::to_string((chunk.offset - section.offset) / kChunkBytes) +
                         " at " + hex_offset(chunk.offset) + ": digest",
                     to_hex(found), to_hex(expected));
}

// From the superblock's entries down to the chunks' digests; the chunks themselves are compared one by one.
Status PoolReader::State::verify_digest_tree() const {
  const SectionEntry& digests = *find(SectionKind::kDigests);
  for (std::size_t i = 0; i < sections.size(); ++i) {
    const SectionEntry& section = sections[i];
    const std::span<const std::byte> hashed =
        is_chunked(section.kind)
            ? file.subspan(digests.offset + section.first_chunk * sizeof(Digest), section.num_chunks * sizeof(Digest))
            : file.subspan(section.offset, section.padded_bytes);
    const Digest found = sha256(hashed);
    if (found == section.digest) continue;
    return wrong_value(ErrorCode::kBadDigest, kSectionTableOffset + i * kSectionEntryBytes + 40,
                       describe(section) + " at " + hex_offset(section.offset) + ": digest", to_hex(found),
                       to_hex(section.digest));
  }
  return {};
}

PoolReader::PoolReader(std::unique_ptr<State> state) : state_(std::move(state)) {}
PoolReader::PoolReader(PoolReader&&) noexcept = default;
PoolReader& PoolReader::operator=(PoolReader&&) noexcept = default;
PoolReader::~PoolReader() = default;

Result<PoolReader> PoolReader::open(std::span<const std::byte> file) {
  auto state = std::make_unique<State>();
  state->file = file;
  POLYKV_CHECK_STATUS(state->open());
  return PoolReader(std::move(state));
}

const Superblock& PoolReader::superblock() const { return state_->superblock; }
std::span<const SectionEntry> PoolReader::sections() const { return state_->sections; }
const KvShape& PoolReader::shape() const { return state_->superblock.shape; }
std::uint32_t PoolReader::first_position() const { return state_->superblock.first_position; }
std::uint32_t PoolReader::num_sinks() const { return state_->superblock.num_sinks; }
Digest PoolReader::superblock_digest() const { return sha256(state_->superblock_page); }
const Identity& PoolReader::identity() const { return state_->identity; }
const Layout& PoolReader::layout() const { return state_->layout; }
const Tokens& PoolReader::tokens() const { return state_->tokens; }
std::string_view PoolReader::fidelity() const { return state_->fidelity; }
std::span<const std::byte> PoolReader::pages() const { return state_->view(SectionKind::kPages); }
std::span<const std::byte> PoolReader::sinks() const { return state_->view(SectionKind::kSinks); }
std::span<const std::byte> PoolReader::means() const { return state_->view(SectionKind::kMeans); }

Result<std::string> PoolReader::source_text() const {
  POLYKV_TRY(const std::vector<std::byte> bytes, state_->copy_section(SectionKind::kSource));
  auto text = parse_source(bytes);
  if (!text) return in_file(std::move(text).error(), *state_->find(SectionKind::kSource));
  const Superblock& stored = state_->superblock;
  POLYKV_CHECK_STATUS(check_fingerprint("document_fingerprint", 136, stored.document_fingerprint,
                                        document_fingerprint(stored.file_id, *text)));
  return text;
}

Status PoolReader::check(std::span<const std::byte> range) const { return state_->check_touched(range); }

Status PoolReader::verify(bool digests, const std::function<void(std::uint64_t, std::uint64_t)>& progress) const {
  const State& state = *state_;
  const auto report = [&](std::uint64_t done) {
    if (progress) progress(done, state.superblock.file_bytes);
  };
  POLYKV_CHECK_STATUS(state.verify_digests_section());
  if (digests) POLYKV_CHECK_STATUS(state.verify_digest_tree());
  for (const SectionEntry& section : state.sections) {
    for (std::uint64_t i = 0; i < section.num_chunks; ++i) {
      const ChunkExtent chunk = chunk_extent(section, i);
      POLYKV_CHECK_STATUS(state.check_chunk(section, i, state.file.subspan(chunk.offset, chunk.bytes)));
      if (digests) POLYKV_CHECK_STATUS(state.verify_chunk_digest(section, chunk));
      report(chunk.offset + chunk.bytes);
    }
    if (is_chunked(section.kind)) {
      POLYKV_CHECK_STATUS(state.check_padding(section, state.file.subspan(section.offset, section.padded_bytes)));
    }
  }
  const Result<std::string> text = source_text();
  if (!text) return text.error();
  report(state.superblock.file_bytes);
  return {};
}

}  // namespace polykv::format
