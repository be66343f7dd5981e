// Threads of ours for one process: a fixed team that runs numbered tasks.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace polykv::core {

// A team of `num_threads` (the caller is one of them). Idle workers spin at most 50 microseconds, then sleep, because
// many processes share a machine. With one thread no thread is ever started.
class Workers {
 public:
  explicit Workers(std::size_t num_threads);
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  std::size_t num_threads() const { return num_threads_; }

  // Calls task(i, worker) once for every i < num_tasks, each i on some thread; worker < num_threads() tells which.
  // Returns when all are done. Which thread runs which task is not fixed, so a task's result must not depend on it.
  // Tasks must not throw. Not reentrant, and one caller at a time.
  void run(std::size_t num_tasks, const std::function<void(std::size_t task, std::size_t worker)>& task);

 private:
  struct Team;
  std::size_t num_threads_;
  std::unique_ptr<Team> team_;
};

// What this process may use: CPU affinity, cut to the cgroup's CPU quota; at least 1.
std::size_t default_num_threads();

// The smallest CPU quota, in CPUs, of this process's cgroup and all that enclose it, version 2 or 1; nullopt: none is
// set.
//   cgroups    the text of /proc/self/cgroup
//   read_file  the text of a file of the cgroup tree, or nullopt if it cannot be read
std::optional<double> cgroup_cpu_quota(
    std::string_view cgroups, const std::function<std::optional<std::string>(const std::string& path)>& read_file);

}  // namespace polykv::core
