// Which processes map a pool now, and what the kernel says they cost: /proc/PID/maps, smaps_rollup and smaps.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "format/status.h"

namespace polykv::cli {

// How /proc/PID/maps names a mapped file. On overlays and btrfs that is not what stat says, so it is taken from a map
// of our own.
struct MapName {
  std::string device;  // "fe:00"
  std::uint64_t inode = 0;
  std::string path;  // newlines as \012
};

// The file that this process has mapped at `address`. `proc` is /proc. kIo, if /proc does not show it.
format::Result<MapName> find_map_name(const std::filesystem::path& proc, const void* address);

struct ProcessName {
  std::uint32_t pid = 0;
  std::string name;  // as the kernel keeps it, at most 15 bytes; chosen by its owner: print it with printable()
};

// Pages that only this process maps are private, those that others map too are shared; PSS counts a page that N
// processes map as an N-th of it in each.
struct LiveReader {
  ProcessName process;
  std::uint64_t pss_bytes = 0, private_bytes = 0, shared_bytes = 0;  // of the whole process
  std::uint64_t pool_pss_bytes = 0, pool_resident_bytes = 0;         // of its maps of the pool

  std::uint64_t resident_bytes() const { return private_bytes + shared_bytes; }
  // Had it a copy of the pool, and of everything else that it now uses.
  std::uint64_t without_sharing_bytes(std::uint64_t pool_bytes) const {
    const std::uint64_t resident = resident_bytes();
    return pool_bytes + (resident > pool_resident_bytes ? resident - pool_resident_bytes : 0);
  }
};

struct LiveReaders {
  std::vector<LiveReader> readers;      // by pid
  std::vector<ProcessName> unreadable;  // what they map is not for us to see; by pid
  std::size_t num_older = 0;  // processes that map a file which was at the pool's path before, and none of this
};

// Looks at all processes. One that ends meanwhile is left out. kIo, if `proc` cannot be read.
format::Result<LiveReaders> find_live_readers(const std::filesystem::path& proc, const MapName& pool);

}  // namespace polykv::cli
