// What `bench` measures, and how it is said.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace polykv::cli {

// Times are milliseconds, each the shortest of several runs.
struct BenchFigures {
  std::string pool, model, codec, kernels;
  std::size_t threads = 0;
  std::uint64_t tokens = 0, pool_bytes = 0, weight_bytes = 0;

  std::uint64_t read_bytes = 0;  // of a buffer, read by all threads
  double read_ms = 0;

  struct Start {
    double open_ms;        // pool and model
    double first_step_ms;  // the same, and a step of one token that sees the whole pool
  };
  Start warm{};
  std::optional<Start> cold;  // nullopt: could not be measured

  std::optional<std::uint64_t> private_bytes;  // nullopt: the kernel does not say
  std::uint64_t tail_bytes_per_token = 0;

  struct Attention {
    std::size_t agents;
    std::uint32_t depth;
    std::uint64_t page_bytes;
    double ms;
    double f16_ms;  // the same on float16 pages of the same shape
  };
  std::vector<Attention> attention;

  struct Step {
    std::size_t agents;
    std::uint32_t depth;
    double ms;
  };
  std::vector<Step> steps;
};

std::string bench_text(const BenchFigures& figures);
nlohmann::ordered_json bench_json(const BenchFigures& figures);  // schema polykv.bench/1

}  // namespace polykv::cli
