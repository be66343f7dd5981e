#include "cli/commands/live_readers.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <optional>
#include <string_view>
#include <system_error>

namespace polykv::cli {
namespace {

using format::Error;
using format::ErrorCode;
using format::Result;
namespace fs = std::filesystem;

// A file of /proc, whole; else errno.
struct ProcFile {
  std::string text;
  int error = 0;

  // The process is gone, or is one of the kernel's and has no memory of its own.
  bool is_gone() const { return error == ENOENT || error == ESRCH; }
};

ProcFile read_proc(const fs::path& path) {
  ProcFile file;
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return {{}, errno};
  char buffer[1 << 16];
  while (true) {
    const ssize_t count = ::read(descriptor, buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) file.error = errno;
    if (count <= 0) break;
    file.text.append(buffer, static_cast<std::size_t>(count));
  }
  ::close(descriptor);
  return file;
}

template <typename Line>
void for_each_line(std::string_view text, const Line& line) {
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    line(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

// Takes the next word off the front of `text`; empty at the end.
std::string_view next_word(std::string_view& text) {
  text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
  const std::size_t end = std::min(text.find(' '), text.size());
  const std::string_view word = text.substr(0, end);
  text.remove_prefix(end);
  return word;
}

template <typename Number>
std::optional<Number> number(std::string_view text, int base = 10) {
  Number value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

struct MapLine {
  std::uint64_t begin = 0, end = 0;
  MapName name;
};

// "7f1d5a800000-7f1d5c1f3000 r--s 00000000 fe:00 2146305    /home/me/contract.pkv"; nullopt for any other line.
std::optional<MapLine> parse_map_line(std::string_view text) {
  const std::string_view range = next_word(text);
  const std::size_t dash = range.find('-');
  if (dash == std::string_view::npos) return std::nullopt;
  const auto begin = number<std::uint64_t>(range.substr(0, dash), 16);
  const auto end = number<std::uint64_t>(range.substr(dash + 1), 16);
  next_word(text);  // permissions
  next_word(text);  // offset
  MapLine line;
  line.name.device = next_word(text);
  const auto inode = number<std::uint64_t>(next_word(text));
  if (!begin || !end || !inode) return std::nullopt;
  line.begin = *begin;
  line.end = *end;
  line.name.inode = *inode;
  text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
  line.name.path = text;
  return line;
}

bool is_same_file(const MapName& a, const MapName& b) { return a.inode == b.inode && a.device == b.device; }

// "Pss:    69538 kB"; nullopt for any other line.
struct Amount {
  std::string_view name;
  std::uint64_t bytes;
};
std::optional<Amount> parse_amount(std::string_view text) {
  const std::string_view name = next_word(text);
  const auto kibibytes = number<std::uint64_t>(next_word(text));
  if (!name.ends_with(':') || !kibibytes || next_word(text) != "kB") return std::nullopt;
  return Amount{name.substr(0, name.size() - 1), *kibibytes * 1024};
}

enum class Maps : std::uint8_t { kNone, kPool, kOlder };

// kOlder: a deleted file of the pool's path, as rename leaves the one that it replaces.
Maps what_is_mapped(std::string_view maps, const MapName& pool) {
  const std::string older_path = pool.path + " (deleted)";
  bool older = false, current = false;
  for_each_line(maps, [&](std::string_view text) {
    const auto line = parse_map_line(text);
    if (!line) return;
    current = current || is_same_file(line->name, pool);
    older = older || line->name.path == older_path;
  });
  return current ? Maps::kPool : older ? Maps::kOlder : Maps::kNone;
}

void add_process_amounts(std::string_view smaps_rollup, LiveReader& reader) {
  for_each_line(smaps_rollup, [&](std::string_view line) {
    const auto amount = parse_amount(line);
    if (!amount) return;
    if (amount->name == "Pss") reader.pss_bytes += amount->bytes;
    if (amount->name == "Private_Clean" || amount->name == "Private_Dirty") reader.private_bytes += amount->bytes;
    if (amount->name == "Shared_Clean" || amount->name == "Shared_Dirty") reader.shared_bytes += amount->bytes;
  });
}

void add_pool_amounts(std::string_view smaps, const MapName& pool, LiveReader& reader) {
  bool in_pool = false;
  for_each_line(smaps, [&](std::string_view line) {
    if (const auto amount = parse_amount(line)) {
      if (in_pool && amount->name == "Pss") reader.pool_pss_bytes += amount->bytes;
      if (in_pool && amount->name == "Rss") reader.pool_resident_bytes += amount->bytes;
    } else if (const auto map = parse_map_line(line)) {
      in_pool = is_same_file(map->name, pool);
    }
  });
}

std::string process_name(const fs::path& folder) {
  std::string name = read_proc(folder / "comm").text;
  if (!name.empty() && name.back() == '\n') name.pop_back();
  return name;
}

void look_at(const fs::path& folder, std::uint32_t pid, const MapName& pool, LiveReaders& found) {
  const ProcFile maps = read_proc(folder / "maps");
  if (maps.is_gone()) return;
  const Maps what = maps.error == 0 ? what_is_mapped(maps.text, pool) : Maps::kNone;
  if (what == Maps::kOlder) ++found.num_older;
  if (maps.error == 0 && what != Maps::kPool) return;
  LiveReader reader;
  reader.process = {pid, process_name(folder)};
  if (maps.error == 0) {
    const ProcFile all = read_proc(folder / "smaps_rollup"), each = read_proc(folder / "smaps");
    if (all.is_gone() || each.is_gone()) return;
    if (all.error == 0 && each.error == 0) {
      add_process_amounts(all.text, reader);
      add_pool_amounts(each.text, pool, reader);
      found.readers.push_back(std::move(reader));
      return;
    }
  }
  found.unreadable.push_back(std::move(reader.process));
}

}  // namespace

Result<MapName> find_map_name(const fs::path& proc, const void* address) {
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  const ProcFile maps = read_proc(proc / "self" / "maps");
  std::optional<MapName> name;
  for_each_line(maps.text, [&](std::string_view text) {
    auto line = parse_map_line(text);
    if (line && at >= line->begin && at < line->end && line->name.inode != 0) name = std::move(line->name);
  });
  if (name) return std::move(*name);
  return Error(ErrorCode::kIo, "cannot find the pool in " + (proc / "self" / "maps").string() +
                                   (maps.error != 0 ? ": " + std::generic_category().message(maps.error) : "") +
                                   "; --live needs /proc");
}

Result<LiveReaders> find_live_readers(const fs::path& proc, const MapName& pool) {
  std::error_code error;
  fs::directory_iterator entry(proc, error);
  std::vector<std::uint32_t> pids;
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    if (const auto pid = number<std::uint32_t>(entry->path().filename().string())) pids.push_back(*pid);
  }
  if (error) return Error(ErrorCode::kIo, "cannot read " + proc.string() + ": " + error.message());
  std::sort(pids.begin(), pids.end());
  LiveReaders found;
  for (const std::uint32_t pid : pids) look_at(proc / std::to_string(pid), pid, pool, found);
  return found;
}

}  // namespace polykv::cli
