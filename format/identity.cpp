#include "format/identity.h"

#include <algorithm>
#include <set>

#include "format/bytes.h"
#include "format/messages.h"
#include "format/utf8.h"

namespace polykv::format {
namespace {

constexpr std::uint32_t kMaxNameBytes = 256;
constexpr std::uint32_t kMaxValueBytes = 64 * 1024;
constexpr std::size_t kMaxIdentityBytes = 1024 * 1024;

constexpr std::string_view kModelGroups[] = {"model", "rope", "adapters"};
constexpr std::string_view kTokenizerGroups[] = {"tokenizer", "template"};
constexpr std::string_view kCodecGroups[] = {"codec"};
constexpr std::string_view kMatchingGroups[] = {"model", "rope", "adapters", "tokenizer", "template"};

std::string_view group_of(std::string_view name) { return name.substr(0, name.find('.')); }

bool valid_name(std::string_view name) {
  const std::size_t dot = name.find('.');
  return dot != std::string_view::npos && dot > 0 &&
         std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c <= '~'; });
}

void append_field(std::vector<std::byte>& out, std::string_view name, std::string_view value) {
  append_le32(out, static_cast<std::uint32_t>(name.size()));
  append_le32(out, static_cast<std::uint32_t>(value.size()));
  append_bytes(out, as_bytes(name));
  append_bytes(out, as_bytes(value));
}

Error bad_identity(std::size_t offset, std::string message) {
  return Error{ErrorCode::kBadIdentity, offset, "section identity: " + std::move(message)};
}

// One field at `offset`, which moves past it.
Status parse_field(std::span<const std::byte> bytes, std::size_t& offset, std::string& name, std::string& value) {
  const std::size_t start = offset;
  if (bytes.size() - start < 8) return bad_identity(start, "a field is cut off");
  const std::uint32_t name_bytes = load_le32(bytes.data() + start);
  const std::uint32_t value_bytes = load_le32(bytes.data() + start + 4);
  if (name_bytes == 0 || name_bytes > kMaxNameBytes) {
    return wrong_bytes(ErrorCode::kLimitExceeded, start, "section identity: a name", name_bytes, "1 to 256");
  }
  if (value_bytes > kMaxValueBytes) {
    return wrong_bytes(ErrorCode::kLimitExceeded, start + 4, "section identity: a value", value_bytes, "at most 65536");
  }
  if (bytes.size() - start - 8 < std::size_t{name_bytes} + value_bytes)
    return bad_identity(start, "a field is cut off");
  name = as_text(bytes.subspan(start + 8, name_bytes));
  value = as_text(bytes.subspan(start + 8 + name_bytes, value_bytes));
  if (!valid_name(name)) return bad_identity(start + 8, "a name is not printable ASCII of the form GROUP.NAME");
  if (const std::size_t bad = first_invalid_utf8(value); bad != value.size()) {
    return bad_identity(start + 8 + name_bytes + bad, "the value of " + name + " is not UTF-8");
  }
  offset = start + 8 + name_bytes + value_bytes;
  return {};
}

}  // namespace

std::optional<std::string_view> Identity::get(std::string_view name) const {
  const auto found = fields_.find(name);
  if (found == fields_.end()) return std::nullopt;
  return found->second;
}

Digest Identity::fingerprint(std::string_view domain, std::span<const std::string_view> groups) const {
  std::vector<std::byte> canonical;
  append_bytes(canonical, as_bytes("polykv/"));
  append_bytes(canonical, as_bytes(domain));
  append_bytes(canonical, as_bytes("/1"));
  for (const auto& [name, value] : fields_) {
    if (std::find(groups.begin(), groups.end(), group_of(name)) != groups.end()) append_field(canonical, name, value);
  }
  return sha256(canonical);
}

Digest Identity::model_fingerprint() const { return fingerprint("model", kModelGroups); }
Digest Identity::tokenizer_fingerprint() const { return fingerprint("tokenizer", kTokenizerGroups); }
Digest Identity::codec_fingerprint() const { return fingerprint("codec", kCodecGroups); }

std::optional<Identity::Difference> Identity::first_difference(const Identity& other) const {
  std::set<std::string_view> names;
  for (const auto& field : fields_) names.insert(field.first);
  for (const auto& field : other.fields_) names.insert(field.first);
  for (const std::string_view group : kMatchingGroups) {
    for (const std::string_view name : names) {
      if (group_of(name) != group) continue;
      const auto mine = get(name), theirs = other.get(name);
      if (mine == theirs) continue;
      return Difference{std::string(name), std::string(mine.value_or("(absent)")),
                        std::string(theirs.value_or("(absent)"))};
    }
  }
  return std::nullopt;
}

std::vector<std::byte> Identity::serialize() const {
  std::vector<std::byte> out;
  append_le32(out, static_cast<std::uint32_t>(fields_.size()));
  for (const auto& [name, value] : fields_) append_field(out, name, value);
  return out;
}

Result<Identity> Identity::parse(std::span<const std::byte> bytes) {
  if (bytes.size() > kMaxIdentityBytes) {
    return wrong_bytes(ErrorCode::kLimitExceeded, 0, "section identity: it", bytes.size(), "at most 1048576");
  }
  if (bytes.size() < 4) return bad_identity(0, "its number of fields is cut off");
  const std::uint32_t num_fields = load_le32(bytes.data());
  Identity identity;
  std::size_t offset = 4;
  for (std::uint32_t i = 0; i < num_fields; ++i) {
    const std::size_t start = offset;
    std::string name, value;
    POLYKV_CHECK_STATUS(parse_field(bytes, offset, name, value));
    if (!identity.fields_.empty() && name <= identity.fields_.rbegin()->first) {
      return bad_identity(start + 8, "the name " + name + " does not ascend");
    }
    identity.fields_.emplace_hint(identity.fields_.end(), std::move(name), std::move(value));
  }
  if (offset != bytes.size()) return bad_identity(offset, "bytes follow its last field");
  return identity;
}

std::string to_hex(std::span<const std::uint8_t> bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(bytes.size() * 2);
  for (const std::uint8_t byte : bytes) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

}  // namespace polykv::format
