#include "cli/runtime/weights_digest.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <sstream>

#include "cli/runtime/program_path.h"
#include "format/checksum.h"
#include "format/identity.h"

namespace polykv::runtime {
namespace {

constexpr std::size_t kHeaderBytes = 64 * 1024;
constexpr std::size_t kSampleBytes = 4096;
constexpr std::size_t kNumSamples = 64;

// XXH3 over the first 64 KiB and 64 blocks of 4 KiB spread evenly over the rest: an edit that keeps size and times is
// unlikely to miss all of them if it is a different model, and this costs under a millisecond.
std::uint64_t sample(std::span<const std::byte> file) {
  const std::span<const std::byte> header = file.first(std::min(kHeaderBytes, file.size()));
  std::uint64_t hash = format::xxh3_64(header, file.size());
  const std::span<const std::byte> rest = file.subspan(header.size());
  if (rest.size() <= kSampleBytes) return format::xxh3_64(rest, hash);
  const std::size_t stride = (rest.size() - kSampleBytes) / (kNumSamples - 1);
  for (std::size_t i = 0; i < kNumSamples; ++i) hash = format::xxh3_64(rest.subspan(i * stride, kSampleBytes), hash);
  return hash;
}

struct CacheEntry {
  format::FileStamp stamp;
  std::uint64_t sample = 0;
  std::string digest;

  bool operator==(const CacheEntry&) const = default;
};

std::filesystem::path cache_path(const format::FileStamp& stamp) {
  const std::filesystem::path folder = user_cache_folder();
  if (folder.empty()) return {};
  return folder / "digests" / (std::to_string(stamp.device) + "-" + std::to_string(stamp.inode));
}

std::string serialize(const CacheEntry& entry) {
  std::ostringstream out;
  out << "polykv-digest/1 " << entry.stamp.device << ' ' << entry.stamp.inode << ' ' << entry.stamp.size << ' '
      << entry.stamp.mtime_ns << ' ' << entry.stamp.ctime_ns << ' ' << entry.sample << ' ' << entry.digest << '\n';
  return out.str();
}

std::optional<CacheEntry> parse(std::string_view text) {
  std::istringstream in{std::string(text)};
  std::string magic;
  CacheEntry entry;
  in >> magic >> entry.stamp.device >> entry.stamp.inode >> entry.stamp.size >> entry.stamp.mtime_ns >>
      entry.stamp.ctime_ns >> entry.sample >> entry.digest;
  if (!in || magic != "polykv-digest/1" || entry.digest.size() != 64) return std::nullopt;
  return entry;
}

std::optional<std::string> cached_digest(const format::MappedFile& file, std::uint64_t sampled) {
  const std::filesystem::path path = cache_path(file.stamp());
  if (path.empty()) return std::nullopt;
  const auto bytes = format::read_file(path);
  if (!bytes) return std::nullopt;
  const auto entry = parse({reinterpret_cast<const char*>(bytes->data()), bytes->size()});
  if (!entry || entry->stamp != file.stamp() || entry->sample != sampled) return std::nullopt;
  return entry->digest;
}

void remember(const format::MappedFile& file, std::uint64_t sampled, const std::string& digest) {
  const std::filesystem::path path = cache_path(file.stamp());
  if (path.empty()) return;
  std::error_code error;
  std::filesystem::create_directories(path.parent_path(), error);
  const std::string text = serialize({file.stamp(), sampled, digest});
  auto out = format::AtomicFile::create(path, /*force=*/true, 0600);
  if (!out || !out->write_at(0, std::as_bytes(std::span(text)))) return;
  // A cache that could not be written costs the next start a hash, nothing else.
  (void)out->publish().has_value();
}

std::string file_digest(const format::MappedFile& file, DigestPolicy policy) {
  const std::uint64_t sampled = sample(file.bytes());
  if (policy == DigestPolicy::kCached) {
    if (auto digest = cached_digest(file, sampled)) return std::move(digest).value();
  }
  std::string digest = format::to_hex(format::sha256(file.bytes()));
  remember(file, sampled, digest);
  return digest;
}

}  // namespace

format::Result<std::string> weights_digest(const ModelFile& model, DigestPolicy policy) {
  const std::vector<format::MappedFile>& files = model.weight_files();
  if (files.size() == 1) return file_digest(files.front(), policy);
  const std::vector<std::string> names = model.weight_file_names();
  format::Sha256 all;
  for (std::size_t i = 0; i < files.size(); ++i) {
    const std::string line = names[i] + '\0' + file_digest(files[i], policy);
    all.update(std::as_bytes(std::span(line)));
  }
  return format::to_hex(all.finish());
}

}  // namespace polykv::runtime
