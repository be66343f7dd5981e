#include "cli/signals.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "cli/report.h"

namespace polykv::cli {
namespace {

using format::Error;
using format::ErrorCode;

// Programs that run others (timeout, shells) send a signal to the process and to its group, so one Ctrl-C can arrive
// twice; a person's second one comes later than this.
constexpr std::int64_t kSecondSignalNs = 200'000'000;

std::atomic<int> g_stop_signal{0};
std::atomic<std::int64_t> g_first_ns{0};

struct GuardedMap {
  std::atomic<std::uintptr_t> begin{0}, end{0};  // end 0: free
  int status = 0;
  std::size_t line_bytes = 0;
  char line[512] = {};
};
GuardedMap g_maps[64];

std::int64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

void on_stop(int signal) {
  int none = 0;
  if (g_stop_signal.compare_exchange_strong(none, signal)) {
    g_first_ns = now_ns();
  } else if (signal == SIGINT && now_ns() - g_first_ns > kSecondSignalNs) {
    _exit(128 + SIGINT);
  }
}

void on_bus_error(int, siginfo_t* info, void*) {
  const auto at = reinterpret_cast<std::uintptr_t>(info->si_addr);
  for (const GuardedMap& map : g_maps) {
    if (at < map.begin || at >= map.end) continue;
    if (::write(STDERR_FILENO, map.line, map.line_bytes) < 0) _exit(map.status);
    _exit(map.status);
  }
  ::signal(SIGBUS, SIG_DFL);  // the access is repeated, and ends the process
}

}  // namespace

void install_signal_handlers() {
  static_assert(std::atomic<int>::is_always_lock_free && std::atomic<std::uintptr_t>::is_always_lock_free);
  struct sigaction action {};
  action.sa_handler = on_stop;  // no SA_RESTART: a read that waits for a question must end
  struct sigaction before {};
  sigaction(SIGINT, nullptr, &before);
  // A shell starts background jobs with SIGINT ignored, so that Ctrl-C for another program leaves them alone.
  if (before.sa_handler != SIG_IGN) sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  action.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &action, nullptr);
  struct sigaction bus {};
  bus.sa_sigaction = on_bus_error;
  bus.sa_flags = SA_SIGINFO;
  sigaction(SIGBUS, &bus, nullptr);
}

bool stop_requested() { return g_stop_signal.load(std::memory_order_relaxed) != 0; }

format::Status check_stop() {
  switch (g_stop_signal.load(std::memory_order_relaxed)) {
    case 0:
      return {};
    case SIGTERM:
      return Error(ErrorCode::kTerminated, "terminated");
    default:
      return Error(ErrorCode::kInterrupted, "interrupted");
  }
}

void forget_stop() { g_stop_signal = 0; }

MapGuard::MapGuard(std::span<const std::byte> map, const std::string& path, Kind kind) {
  if (map.empty()) return;
  const auto begin = reinterpret_cast<std::uintptr_t>(map.data());
  for (int i = 0; i < static_cast<int>(std::size(g_maps)); ++i) {
    GuardedMap& slot = g_maps[i];
    if (slot.line_bytes != 0) continue;
    const std::string line =
        "polykv: " + printable(path).substr(0, 400) +
        (kind == Kind::kPool ? ": became shorter while in use, or its disk failed; build it again\n"
                             : ": changed while in use, or its disk failed; restore it\n");
    slot.line_bytes = std::min(line.size(), sizeof slot.line);
    std::memcpy(slot.line, line.data(), slot.line_bytes);
    slot.status = kind == Kind::kPool ? 4 : 5;
    slot.begin = begin;
    slot.end = begin + map.size();
    slot_ = i;
    return;
  }
}

MapGuard::~MapGuard() {
  if (slot_ < 0) return;
  g_maps[slot_].end = 0;
  g_maps[slot_].begin = 0;
  g_maps[slot_].line_bytes = 0;
}

}  // namespace polykv::cli
