#include "cli/commands/pool_chain.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "cli/runtime/cards/card_writer.h"
#include "cli/runtime/user_index.h"
#include "format/checksum.h"
#include "format/identity.h"

namespace polykv::cli {
namespace {

using format::Digest;
using format::Error;
using format::ErrorCode;
using format::Result;
using format::Status;

constexpr std::size_t kMostFiles = 65536;  // of a folder that are looked at

bool has_superblock(const std::filesystem::path& path, const Digest& digest) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) return false;  // a pipe would be waited for
  std::vector<char> start(format::kSuperblockBytes);
  std::ifstream file(path, std::ios::binary);
  if (!file.read(start.data(), static_cast<std::streamsize>(start.size()))) return false;
  return format::sha256(std::as_bytes(std::span(start))) == digest;
}

// The pool as it was called when its child was made, or any other.
std::filesystem::path find_in_folder(const std::filesystem::path& folder, const std::string& name,
                                     const Digest& digest) {
  std::error_code error;
  // What a file says is a name, not a way to other folders.
  if (!name.empty() && name.find('/') == std::string::npos && has_superblock(folder / name, digest))
    return folder / name;
  std::vector<std::filesystem::path> pools;
  for (std::filesystem::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    if (at->path().extension() == ".pkv" && at->is_regular_file(error)) pools.push_back(at->path());
    if (pools.size() == kMostFiles) break;
  }
  std::sort(pools.begin(), pools.end());  // of several with the same bytes always the same
  const auto found =
      std::find_if(pools.begin(), pools.end(), [&](const auto& pool) { return has_superblock(pool, digest); });
  return found == pools.end() ? std::filesystem::path() : *found;
}

std::filesystem::path find_parent(const std::string& child, const format::PoolReader& reader,
                                  const ChainOptions& options) {
  const Digest& digest = reader.superblock().parent_digest;
  const std::string name(reader.identity().get(runtime::kParentNameField).value_or(""));
  const std::filesystem::path folder = std::filesystem::path(child).parent_path();
  std::vector<std::filesystem::path> folders = {folder.empty() ? "." : folder};
  folders.insert(folders.end(), options.folders.begin(), options.folders.end());
  for (const std::filesystem::path& one : folders)
    if (std::filesystem::path found = find_in_folder(one, name, digest); !found.empty()) return found;
  std::filesystem::path indexed = runtime::find_indexed(runtime::UserIndex::kPools, format::to_hex(digest));
  return !indexed.empty() && has_superblock(indexed, digest) ? indexed : std::filesystem::path();
}

Status check_parent(const format::PoolReader& parent, const format::PoolReader& child) {
  const format::Superblock &above = parent.superblock(), &below = child.superblock();
  const auto differs = [](const char* field) {
    return Error(ErrorCode::kMismatch, std::string(field) + " is not that of the pool which extends it");
  };
  if (parent.superblock_digest() != below.parent_digest) return differs("the superblock");
  if (above.tokens_fingerprint != below.parent_tokens_fingerprint) return differs("tokens_fingerprint");
  if (above.model_fingerprint != below.model_fingerprint) return differs("model_fingerprint");
  if (above.tokenizer_fingerprint != below.tokenizer_fingerprint) return differs("tokenizer_fingerprint");
  const format::KvShape &a = above.shape, &b = below.shape;
  if (a.num_layers != b.num_layers || a.num_kv_heads != b.num_kv_heads || a.head_dim != b.head_dim)
    return differs("the shape");
  if (above.first_position + a.num_tokens != below.first_position) return differs("the end");
  return {};
}

// `is_named`: the child is the pool that the command is about, whose name stands before the message anyway.
Error missing_parent(const std::string& child, bool is_named, const format::PoolReader& reader) {
  const std::string name(reader.identity().get(runtime::kParentNameField).value_or("a pool"));
  const std::string digest = format::to_hex(reader.superblock().parent_digest).substr(0, 16);
  std::string text =
      (is_named ? "it" : child) + " extends " + name + ", whose superblock has SHA-256 " + digest + "...";
  std::error_code ignored;
  const std::filesystem::path beside = std::filesystem::path(child).parent_path() / name;
  if (name.find('/') == std::string::npos && std::filesystem::is_regular_file(beside, ignored)) {
    text += "; " + beside.string() + " is another pool, or was changed";
  } else {
    text += " and which is not found";
  }
  return Error(ErrorCode::kMismatch, text + ": put it beside it, or name its folder with --pool-path");
}

Error in_pool(const std::string& path, const Error& error) {
  return Error(error.code, error.offset, path + ": " + error.message);
}

}  // namespace

PoolChain::PoolChain(std::vector<std::unique_ptr<PoolFile>> files) : files_(std::move(files)) {
  for (const auto& file : files_) pools_.push_back(std::make_unique<core::KvPool>(file->reader));
}

std::vector<const core::KvPool*> PoolChain::views() const {
  std::vector<const core::KvPool*> views;
  for (const auto& pool : pools_) views.push_back(pool.get());
  return views;
}

std::vector<std::uint32_t> PoolChain::token_ids() const {
  std::vector<std::uint32_t> ids;
  for (const auto& file : files_) {
    const auto& of_pool = file->reader.tokens().ids;
    ids.insert(ids.end(), of_pool.begin(), of_pool.end());
  }
  return ids;
}

Status PoolChain::check_unchanged() const {
  for (const auto& file : files_) {
    const Status unchanged = file->file.check_unchanged();
    if (!unchanged) return file == files_.back() ? unchanged : in_pool(file->file.path().string(), unchanged.error());
  }
  return {};
}

Result<PoolChain> open_pool_chain(const std::string& path, const ChainOptions& options, Report& report) {
  std::vector<std::unique_ptr<PoolFile>> chain;
  POLYKV_TRY(auto last, open_pool_file(path, options.trust, report, options.trusted_owner));
  chain.push_back(std::move(last));
  std::string child = path;
  bool means_below = !chain.front()->reader.means().empty();
  while (chain.back()->reader.superblock().has_parent()) {
    const format::PoolReader& reader = chain.back()->reader;
    if (chain.size() == kMostPools)
      return Error(ErrorCode::kLimitExceeded, "more than " + std::to_string(kMostPools) + " pools extend each other");
    const std::string found = find_parent(child, reader, options).string();
    if (found.empty()) return missing_parent(child, child == path, reader);
    auto parent = open_pool_file(found, options.trust, report, options.trusted_owner);
    if (!parent) return in_pool(found, parent.error());
    if (const Status fits = check_parent((*parent)->reader, reader); !fits) return in_pool(found, fits.error());
    const bool has_means = !(*parent)->reader.means().empty();
    if (has_means && means_below)
      return in_pool(found, Error(ErrorCode::kBadSectionTable, "it has means, and so has a pool that extends it"));
    means_below = means_below || has_means;
    chain.push_back(std::move(*parent));
    child = found;
  }
  std::reverse(chain.begin(), chain.end());
  return PoolChain(std::move(chain));
}

}  // namespace polykv::cli
