// Ctrl-C, SIGTERM, a closed pipe, and a mapped file that is cut under us.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "format/status.h"

namespace polykv::cli {

// SIGINT and SIGTERM set a flag that long work polls, so that what was begun is cleaned up by unwinding; a second
// Ctrl-C ends the process at once. SIGINT stays ignored if it was. System calls that wait return EINTR. SIGPIPE is
// ignored: writes give EPIPE instead. SIGBUS inside a registered map is reported as MapGuard says; any other one ends
// the process as usual.
void install_signal_handlers();

bool stop_requested();
// Success, or kInterrupted (exit 130) or kTerminated (143).
format::Status check_stop();
void forget_stop();  // for tests

// While one lives, a page of `map` that can no longer be read (the file became shorter, its disk failed) ends the
// process with one line on stderr and the exit status, not with a signal: 4 for a pool, 5 for a model.
class MapGuard {
 public:
  enum class Kind { kPool, kModel };
  MapGuard(std::span<const std::byte> map, const std::string& path, Kind kind);
  MapGuard(MapGuard&& other) noexcept : slot_(other.slot_) { other.slot_ = -1; }
  MapGuard& operator=(MapGuard&&) = delete;
  ~MapGuard();

 private:
  int slot_ = -1;  // -1: too many maps, or an empty one
};

}  // namespace polykv::cli
