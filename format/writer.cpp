#include "format/writer.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "format/bytes.h"
#include "format/chunk_digests.h"
#include "format/file.h"
#include "format/fingerprint.h"
#include "format/messages.h"
#include "format/page_layout.h"
#include "format/section.h"
#include "format/superblock.h"
#include "format/utf8.h"

namespace polykv::format {
namespace {

// A section, and what was hashed of it on its way to the file.
struct WrittenSection {
  SectionEntry entry;
  std::uint64_t written = 0;  // bytes
  ChunkDigests digests;
};

Error wrong_size(const char* what, std::size_t found, std::uint64_t expected) {
  return Error{ErrorCode::kBadSectionSize, std::string(what) + " of a layer: " + std::to_string(found) +
                                               " bytes, expected " + std::to_string(expected)};
}

}  // namespace

struct PoolWriter::State {
  AtomicFile file;
  Superblock superblock;
  Layout layout;
  std::string text;
  std::vector<WrittenSection> sections;  // in file order
  std::uint64_t sinks_per_layer = 0;
  std::uint64_t means_per_layer = 0;
  std::vector<std::uint64_t> layer_pages;  // [num_layers + 1], offsets into the pages section
  std::uint32_t next_layer = 0;
  bool scratch = false;
  bool failed = false;
  std::optional<MappedRange> map;

  explicit State(AtomicFile atomic_file) : file(std::move(atomic_file)) {}

  WrittenSection* find(SectionKind kind);
  bool is_complete() const { return !failed && next_layer == superblock.shape.num_layers; }
  Error incomplete() const;
  Status pad_last_section();
  std::span<const std::byte> mapped(SectionKind kind);
  std::uint64_t end() const;
  void add_section(SectionKind kind, std::uint64_t bytes);
  Status append(SectionKind kind, std::span<const std::byte> bytes);
  void seal_sections();
  std::vector<SectionEntry> entries() const;
  Result<std::vector<std::byte>> read_back();
  Status write_unchunked(SectionKind kind, std::span<const std::byte> bytes);
  Status commit();
};

WrittenSection* PoolWriter::State::find(SectionKind kind) {
  for (WrittenSection& section : sections) {
    if (section.entry.kind == kind) return &section;
  }
  return nullptr;
}

// Where the next section starts.
std::uint64_t PoolWriter::State::end() const {
  return sections.empty() ? kSuperblockBytes : sections.back().entry.offset + sections.back().entry.padded_bytes;
}

// Places a section after the last one. Sections are added in ascending order of their kinds.
void PoolWriter::State::add_section(SectionKind kind, std::uint64_t bytes) {
  if (bytes == 0) return;
  WrittenSection section;
  section.entry.kind = kind;
  section.entry.flags = section_flags(kind);
  section.entry.offset = end();
  section.entry.bytes = bytes;
  section.entry.padded_bytes = *checked_align(bytes, kSectionAlignment);
  sections.push_back(std::move(section));
}

// The next bytes of a section. Padding is never written: the file is new and what is not written in it is zero.
Status PoolWriter::State::append(SectionKind kind, std::span<const std::byte> bytes) {
  if (bytes.empty()) return {};
  WrittenSection& section = *find(kind);
  POLYKV_CHECK_STATUS(file.write_at(section.entry.offset + section.written, bytes));
  section.written += bytes.size();
  if (!scratch) section.digests.update(bytes);
  return {};
}

Error PoolWriter::State::incomplete() const {
  return Error{ErrorCode::kFailed, "the pool is not complete: " + std::to_string(next_layer) + " of " +
                                       std::to_string(superblock.shape.num_layers) + " layers are written"};
}

// So that the file is long enough to be read back or mapped.
Status PoolWriter::State::pad_last_section() {
  const SectionEntry& last = sections.back().entry;
  const std::vector<std::byte> padding(last.padded_bytes - last.bytes);
  return file.write_at(last.offset + last.bytes, padding);
}

std::span<const std::byte> PoolWriter::State::mapped(SectionKind kind) {
  const WrittenSection* section = find(kind);
  if (section == nullptr) return {};
  return map->bytes().subspan(section->entry.offset, section->entry.bytes);
}

std::vector<SectionEntry> PoolWriter::State::entries() const {
  std::vector<SectionEntry> out;
  for (const WrittenSection& section : sections) out.push_back(section.entry);
  return out;
}

// Ends the digests of what was written; with them the file's id is known, and with that the salts and the rest.
void PoolWriter::State::seal_sections() {
  std::uint64_t num_chunks = 0;
  for (WrittenSection& section : sections) {
    section.digests.finish(section.entry.padded_bytes);
    section.entry.digest = section.digests.section_digest();
    section.entry.first_chunk = num_chunks;
    section.entry.num_chunks = section.digests.digests().size();
    num_chunks += section.entry.num_chunks;
  }
  superblock.num_chunks = static_cast<std::uint32_t>(num_chunks);
  superblock.file_id = compute_file_id(superblock, entries());
  superblock.document_fingerprint = document_fingerprint(superblock.file_id, text);
}

// Reads every section from the file, compares it with what was written, and returns the chunk table: the checksums are
// of the bytes that are there, not of those that should be.
Result<std::vector<std::byte>> PoolWriter::State::read_back() {
  std::vector<std::byte> chunk_table;
  std::vector<std::byte> buffer(kChunkBytes);
  file.drop_cache();
  for (const WrittenSection& section : sections) {
    for (std::uint64_t i = 0; i < section.entry.num_chunks; ++i) {
      const ChunkExtent chunk = chunk_extent(section.entry, i);
      const std::span<std::byte> bytes = std::span(buffer).first(chunk.bytes);
      POLYKV_CHECK_STATUS(file.read_at(chunk.offset, bytes));
      if (sha256(bytes) != section.digests.digests()[i]) {
        return Error{ErrorCode::kReadBack, chunk.offset,
                     "section " + std::string(section_name(section.entry.kind)) + ", chunk " + std::to_string(i) +
                         " at " + hex_offset(chunk.offset) + ": what was read back is not what was written"};
      }
      append_le64(chunk_table, xxh3_64(bytes, chunk_seed(superblock.file_id, chunk.index)));
    }
  }
  return chunk_table;
}

Status PoolWriter::State::write_unchunked(SectionKind kind, std::span<const std::byte> bytes) {
  add_section(kind, bytes.size());
  SectionEntry& entry = sections.back().entry;
  std::vector<std::byte> padded(bytes.begin(), bytes.end());
  padded.resize(entry.padded_bytes);
  entry.checksum = xxh3_64(padded, section_seed(superblock.file_id, kind));
  entry.digest = sha256(padded);
  return file.write_at(entry.offset, padded);
}

// Everything after the values are in the file. The superblock comes last: until then the file has no magic.
Status PoolWriter::State::commit() {
  POLYKV_CHECK_STATUS(pad_last_section());
  POLYKV_CHECK_STATUS(file.sync_data());
  seal_sections();
  POLYKV_TRY(const std::vector<std::byte> chunk_table, read_back());
  std::vector<std::byte> digests;
  for (const WrittenSection& section : sections) {
    append_bytes(digests, std::as_bytes(std::span(section.digests.digests())));
  }
  POLYKV_CHECK_STATUS(write_unchunked(SectionKind::kChunkTable, chunk_table));
  POLYKV_CHECK_STATUS(write_unchunked(SectionKind::kDigests, digests));
  superblock.file_bytes = end() + kTrailerBytes;
  superblock.num_sections = static_cast<std::uint32_t>(sections.size());
  const Page page = serialize_superblock(superblock, entries());
  POLYKV_CHECK_STATUS(file.write_at(end(), serialize_trailer(superblock, page)));
  POLYKV_CHECK_STATUS(file.write_at(0, page));
  return file.publish();
}

PoolWriter::PoolWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
PoolWriter::PoolWriter(PoolWriter&&) noexcept = default;
PoolWriter& PoolWriter::operator=(PoolWriter&&) noexcept = default;
PoolWriter::~PoolWriter() = default;

const Layout& PoolWriter::layout() const { return state_->layout; }

namespace {

// The metadata as it will stand in the file, checked with the reader's own parsers: what is written can be read.
struct Metadata {
  std::vector<std::byte> identity, tokens, source, layout;
  std::uint64_t pages_bytes = 0;
};

Result<Metadata> serialize_metadata(PoolSpec& spec) {
  POLYKV_CHECK_STATUS(check_shape(spec.shape));
  const Tokens& tokens = spec.tokens;
  const std::size_t num_tokens = spec.shape.num_tokens;
  if (tokens.ids.size() != num_tokens || tokens.text_begin.size() != num_tokens ||
      tokens.text_end.size() != num_tokens) {
    return Error{ErrorCode::kBadTokens, "the tokens are not as many as the shape's " + std::to_string(num_tokens)};
  }
  Metadata metadata;
  POLYKV_TRY(metadata.pages_bytes, spec.layout.place(spec.shape));
  metadata.identity = spec.identity.serialize();
  metadata.tokens = serialize_tokens(tokens);
  metadata.layout = spec.layout.serialize(spec.shape);
  POLYKV_TRY(metadata.source, serialize_source(tokens.text));
  if (const auto parsed = Identity::parse(metadata.identity); !parsed) return parsed.error();
  Tokens parsed_tokens;
  POLYKV_CHECK_STATUS(parse_tokens(metadata.tokens, spec.shape.num_tokens, tokens.text.size(), parsed_tokens));
  const std::uint32_t first_position = spec.parent ? spec.parent->end : 0;
  if (const auto parsed = Layout::parse(metadata.layout, spec.shape, first_position, metadata.pages_bytes); !parsed)
    return parsed.error();
  bool needs_means = false;
  for (const std::vector<Run>& runs : spec.layout.runs) {
    for (const Run& run : runs) needs_means = needs_means || key_codec_removes_mean(run.key_codec);
  }
  needs_means = needs_means && !(spec.parent && spec.parent->chain_has_means);
  if (needs_means != spec.has_means) {
    return Error{ErrorCode::kBadLayout, needs_means ? "a key codec of the layout needs means, has_means is false"
                                                    : "no key codec of the layout needs means, has_means is true"};
  }
  return metadata;
}

std::vector<std::uint64_t> layer_offsets(const Layout& layout, const KvShape& shape, std::uint64_t pages_bytes) {
  std::vector<std::uint64_t> offsets(shape.num_layers + std::size_t{1}, pages_bytes);
  for (std::size_t layer = shape.num_layers; layer-- > 0;) {
    offsets[layer] = offsets[layer + 1];
    for (std::size_t head = (layer + 1) * shape.num_kv_heads; head-- > layer * shape.num_kv_heads;) {
      if (!layout.runs[head].empty()) offsets[layer] = layout.runs[head].front().pages_offset;
    }
  }
  return offsets;
}

}  // namespace

Result<PoolWriter> PoolWriter::create(const std::filesystem::path& path, PoolSpec spec, const WriterOptions& options) {
  POLYKV_TRY(AtomicFile file, AtomicFile::create(path, options.force, options.mode));
  POLYKV_TRY(const Metadata metadata, serialize_metadata(spec));
  const KvShape& shape = spec.shape;
  auto state = std::make_unique<State>(std::move(file));
  if (options.scratch) state->file.unlink();
  state->scratch = options.scratch;
  Superblock& superblock = state->superblock;
  superblock.shape = shape;
  if (spec.parent) {
    superblock.features_incompat = kFeatureParent;
    superblock.first_position = spec.parent->end;
    superblock.parent_tokens_fingerprint = spec.parent->tokens_fingerprint;
    superblock.parent_digest = spec.parent->digest;
  } else {
    superblock.num_sinks = std::min(kNumSinks, shape.num_tokens);
  }
  superblock.created = spec.created;
  superblock.model_fingerprint = spec.identity.model_fingerprint();
  superblock.tokenizer_fingerprint = spec.identity.tokenizer_fingerprint();
  superblock.codec_fingerprint = spec.identity.codec_fingerprint();
  superblock.tokens_fingerprint =
      tokens_fingerprint(spec.tokens.ids, superblock.first_position, superblock.parent_tokens_fingerprint);

  const std::uint64_t values_per_layer = std::uint64_t{shape.num_kv_heads} * shape.head_dim;
  state->sinks_per_layer = values_per_layer * superblock.num_sinks * 4;
  state->means_per_layer = spec.has_means ? values_per_layer * kMeanVectors * 2 : 0;
  state->layer_pages = layer_offsets(spec.layout, shape, metadata.pages_bytes);
  state->add_section(SectionKind::kIdentity, metadata.identity.size());
  state->add_section(SectionKind::kTokens, metadata.tokens.size());
  state->add_section(SectionKind::kSource, metadata.source.size());
  state->add_section(SectionKind::kLayout, metadata.layout.size());  // written by finish(), with the exponents
  state->add_section(SectionKind::kPages, metadata.pages_bytes);
  state->add_section(SectionKind::kSinks, state->sinks_per_layer * shape.num_layers);
  state->add_section(SectionKind::kMeans, state->means_per_layer * shape.num_layers);
  if (state->end() > kMaxFileBytes / 2) {
    return Error{ErrorCode::kLimitExceeded, "the pool would have more than 2^45 bytes"};
  }
  POLYKV_CHECK_STATUS(state->file.reserve(state->end()));
  POLYKV_CHECK_STATUS(state->append(SectionKind::kIdentity, metadata.identity));
  POLYKV_CHECK_STATUS(state->append(SectionKind::kTokens, metadata.tokens));
  POLYKV_CHECK_STATUS(state->append(SectionKind::kSource, metadata.source));
  state->text = std::move(spec.tokens.text);
  state->layout = std::move(spec.layout);
  return PoolWriter(std::move(state));
}

Status PoolWriter::write_layer(std::uint32_t layer, std::span<const ScaleExponents> exponents,
                               std::span<const std::byte> pages, std::span<const std::byte> sinks,
                               std::span<const std::byte> means) {
  State& state = *state_;
  if (layer != state.next_layer || layer >= state.superblock.shape.num_layers) {
    return Error{ErrorCode::kFailed, "layer " + std::to_string(layer) + " is written, expected layer " +
                                         std::to_string(state.next_layer) + " of " +
                                         std::to_string(state.superblock.shape.num_layers)};
  }
  const std::uint64_t pages_bytes = state.layer_pages[layer + 1] - state.layer_pages[layer];
  const std::size_t num_kv_heads = state.superblock.shape.num_kv_heads;
  const std::span<std::vector<Run>> heads = std::span(state.layout.runs).subspan(layer * num_kv_heads, num_kv_heads);
  std::size_t num_runs = 0;
  for (const std::vector<Run>& runs : heads) num_runs += runs.size();
  if (exponents.size() != num_runs) {
    return Error{ErrorCode::kBadSectionSize, "exponents of a layer: " + std::to_string(exponents.size()) +
                                                 ", expected " + std::to_string(num_runs)};
  }
  if (pages.size() != pages_bytes) return wrong_size("pages", pages.size(), pages_bytes);
  if (sinks.size() != state.sinks_per_layer) return wrong_size("sinks", sinks.size(), state.sinks_per_layer);
  if (means.size() != state.means_per_layer) return wrong_size("means", means.size(), state.means_per_layer);
  auto exponent = exponents.begin();
  for (std::vector<Run>& runs : heads)
    for (Run& run : runs) run.exponents = *exponent++;
  state.failed = true;  // until all three are written: finish() must not publish half a layer
  POLYKV_CHECK_STATUS(state.append(SectionKind::kPages, pages));
  POLYKV_CHECK_STATUS(state.append(SectionKind::kSinks, sinks));
  POLYKV_CHECK_STATUS(state.append(SectionKind::kMeans, means));
  state.failed = false;
  ++state.next_layer;
  return {};
}

std::uint64_t PoolWriter::file_bytes(std::uint64_t fidelity_bytes) const {
  const auto chunks_of = [](std::uint64_t bytes) { return (bytes + kChunkBytes - 1) / kChunkBytes; };
  const auto padded = [](std::uint64_t bytes) { return *checked_align(bytes, kSectionAlignment); };
  std::uint64_t num_chunks = chunks_of(padded(fidelity_bytes));
  for (const WrittenSection& section : state_->sections) num_chunks += chunks_of(section.entry.padded_bytes);
  return state_->end() + padded(fidelity_bytes) + padded(num_chunks * 8) + padded(num_chunks * 32) + kTrailerBytes;
}

Result<WrittenValues> PoolWriter::written() {
  State& state = *state_;
  if (!state.is_complete()) return state.incomplete();
  if (!state.map) {
    POLYKV_CHECK_STATUS(state.pad_last_section());
    POLYKV_TRY(state.map, MappedRange::map(state.file.descriptor(), state.end()));
  }
  return WrittenValues{state.mapped(SectionKind::kPages), state.mapped(SectionKind::kSinks),
                       state.mapped(SectionKind::kMeans)};
}

Status PoolWriter::finish(std::string_view fidelity) {
  State& state = *state_;
  if (!state.is_complete()) return state.incomplete();
  if (state.scratch) return Error{ErrorCode::kFailed, "scratch is never published"};
  if (fidelity.size() > kMaxFidelityBytes || first_invalid_utf8(fidelity) != fidelity.size()) {
    return Error{ErrorCode::kFailed, "the fidelity is not UTF-8 of at most 1 MiB"};
  }
  state.failed = true;  // finish() once
  state.map.reset();    // what is mapped stays in the cache, and would be read back from there
  const std::vector<std::byte> layout = state.layout.serialize(state.superblock.shape);
  if (const auto parsed =
          Layout::parse(layout, state.superblock.shape, state.superblock.first_position, state.layer_pages.back());
      !parsed)
    return parsed.error();
  POLYKV_CHECK_STATUS(state.append(SectionKind::kLayout, layout));
  state.add_section(SectionKind::kFidelity, fidelity.size());
  POLYKV_CHECK_STATUS(state.append(SectionKind::kFidelity, as_bytes(fidelity)));
  return state.commit();
}

}  // namespace polykv::format
