#include "format/tokens.h"

#include <zstd.h>

#include "format/bytes.h"
#include "format/checksum.h"
#include "format/messages.h"
#include "format/utf8.h"

namespace polykv::format {
namespace {

constexpr std::uint64_t kMaxTextBytes = std::uint64_t{1} << 30;
constexpr std::uint32_t kMaxTokenId = 0x7fffffff;
constexpr std::size_t kSourceHeaderBytes = 16;  // raw length, XXH3-64 of the raw bytes
constexpr std::uint32_t kZstdMagic = 0xfd2fb528;

// Below 13: zstd 1.5.0 to 1.5.4 could write a corrupt frame from level 13 on.
constexpr int kZstdLevel = 9;

Error bad_tokens(std::uint64_t offset, std::string message) {
  return Error{ErrorCode::kBadTokens, offset, "section tokens: " + std::move(message)};
}

Error bad_source(std::uint64_t offset, std::string message) {
  return Error{ErrorCode::kBadSource, offset, "section source: " + std::move(message)};
}

struct ZstdContext {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZstdContext() = default;
  ZstdContext(const ZstdContext&) = delete;
  ZstdContext& operator=(const ZstdContext&) = delete;
  ~ZstdContext() { ZSTD_freeCCtx(context); }
};

}  // namespace

std::string_view Tokens::open_text() const {
  const std::size_t begin = text_end.empty() ? 0 : text_end.back();
  return begin < text.size() ? std::string_view(text).substr(begin) : std::string_view();
}

std::vector<std::byte> serialize_tokens(const Tokens& tokens) {
  const std::size_t num_tokens = tokens.ids.size();
  std::vector<std::byte> out(num_tokens * kTokenBytes);
  std::byte* at = out.data();
  for (const std::vector<std::uint32_t>* column : {&tokens.ids, &tokens.text_begin, &tokens.text_end}) {
    for (const std::uint32_t value : *column) {
      store_le32(at, value);
      at += 4;
    }
  }
  return out;
}

Status parse_tokens(std::span<const std::byte> bytes, std::uint32_t num_tokens, std::uint64_t text_bytes, Tokens& out) {
  if (bytes.size() != std::uint64_t{num_tokens} * kTokenBytes) {
    return wrong_bytes(ErrorCode::kBadSectionSize, 0, "section tokens: it", bytes.size(),
                       "12 for each of " + std::to_string(num_tokens) + " tokens");
  }
  std::vector<std::uint32_t>* const columns[] = {&out.ids, &out.text_begin, &out.text_end};
  for (std::size_t c = 0; c < 3; ++c) {
    columns[c]->resize(num_tokens);
    for (std::size_t i = 0; i < num_tokens; ++i) (*columns[c])[i] = load_le32(bytes.data() + 4 * (c * num_tokens + i));
  }
  const auto at = [&](std::size_t column, std::size_t i) { return 4 * (column * num_tokens + i); };
  for (std::size_t i = 0; i < num_tokens; ++i) {
    const std::string token = "token " + std::to_string(i);
    if (out.ids[i] > kMaxTokenId) return bad_tokens(at(0, i), token + " has an id above 2147483647");
    const std::uint32_t begin = out.text_begin[i], end = out.text_end[i];
    if (i > 0 && begin < out.text_begin[i - 1]) return bad_tokens(at(1, i), token + " begins before the one before it");
    if (end < begin) return bad_tokens(at(2, i), token + " ends before it begins");
    if (i > 0 && end < out.text_end[i - 1]) return bad_tokens(at(2, i), token + " ends before the one before it");
    if (end > text_bytes) {
      return bad_tokens(at(2, i), token + " ends at byte " + std::to_string(end) + " of a text of " +
                                      std::to_string(text_bytes) + " bytes");
    }
  }
  return {};
}

Result<std::vector<std::byte>> serialize_source(std::string_view text) {
  if (text.size() > kMaxTextBytes) {
    return Error{ErrorCode::kUnusableText,
                 "the text has " + std::to_string(text.size()) + " bytes, expected at most 2^30"};
  }
  if (const std::size_t bad = first_invalid_utf8(text); bad != text.size()) {
    return Error{ErrorCode::kUnusableText, "the text is not UTF-8 at byte " + std::to_string(bad)};
  }
  std::vector<std::byte> out;
  append_le64(out, text.size());
  append_le64(out, xxh3_64(as_bytes(text)));
  out.resize(kSourceHeaderBytes + ZSTD_compressBound(text.size()));
  ZstdContext zstd;
  ZSTD_CCtx_setParameter(zstd.context, ZSTD_c_compressionLevel, kZstdLevel);
  ZSTD_CCtx_setParameter(zstd.context, ZSTD_c_checksumFlag, 1);
  const std::size_t frame_bytes = ZSTD_compress2(zstd.context, out.data() + kSourceHeaderBytes,
                                                 out.size() - kSourceHeaderBytes, text.data(), text.size());
  if (ZSTD_isError(frame_bytes)) {
    return Error{ErrorCode::kFailed, std::string("zstd: ") + ZSTD_getErrorName(frame_bytes)};
  }
  out.resize(kSourceHeaderBytes + frame_bytes);
  return out;
}

Result<std::uint64_t> source_text_bytes(std::span<const std::byte> bytes) {
  if (bytes.size() < kSourceHeaderBytes + 4) return bad_source(0, "it is too short for a header and a frame");
  const std::uint64_t text_bytes = load_le64(bytes.data());
  if (text_bytes > kMaxTextBytes) {
    return wrong_bytes(ErrorCode::kLimitExceeded, 0, "section source: the text", text_bytes, "at most 2^30");
  }
  const std::span<const std::byte> frame = bytes.subspan(kSourceHeaderBytes);
  // Only a real frame: zstd would also take skippable ones, which could hide anything.
  if (load_le32(frame.data()) != kZstdMagic) return bad_source(kSourceHeaderBytes, "no zstd frame starts here");
  const unsigned long long declared = ZSTD_getFrameContentSize(frame.data(), frame.size());
  if (declared != text_bytes) {
    return bad_source(kSourceHeaderBytes, "the frame does not declare " + std::to_string(text_bytes) + " bytes");
  }
  return text_bytes;
}

Result<std::string> parse_source(std::span<const std::byte> bytes) {
  POLYKV_TRY(const std::uint64_t text_bytes, source_text_bytes(bytes));
  const std::span<const std::byte> frame = bytes.subspan(kSourceHeaderBytes);
  const std::size_t frame_bytes = ZSTD_findFrameCompressedSize(frame.data(), frame.size());
  if (ZSTD_isError(frame_bytes) || frame_bytes != frame.size()) {
    return bad_source(kSourceHeaderBytes, "it is not exactly one zstd frame");
  }
  std::string text(text_bytes, '\0');
  const std::size_t written = ZSTD_decompress(text.data(), text.size(), frame.data(), frame.size());
  if (ZSTD_isError(written) || written != text.size()) {
    return bad_source(kSourceHeaderBytes, std::string("zstd: ") + ZSTD_getErrorName(written));
  }
  const std::uint64_t expected = load_le64(bytes.data() + 8), found = xxh3_64(as_bytes(text));
  if (found != expected) {
    return wrong_value(ErrorCode::kBadSource, 8, "section source: checksum of the text", hex_checksum(found),
                       hex_checksum(expected));
  }
  if (const std::size_t bad = first_invalid_utf8(text); bad != text.size()) {
    return bad_source(kNoOffset, "the text is not UTF-8 at its byte " + std::to_string(bad));
  }
  return text;
}

}  // namespace polykv::format
