// polykv bench POOL: how fast this machine works on a pool, and what that costs it.
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/commands/bench_figures.h"
#include "cli/commands/commands.h"
#include "cli/commands/desk.h"
#include "cli/progress.h"
#include "cli/runtime/attention_step.h"
#include "cli/runtime/best_time.h"
#include "cli/runtime/page_cache.h"
#include "cli/runtime/random_pool.h"
#include "cli/runtime/read_speed.h"
#include "cli/signals.h"
#include "core/kernels/kernels.h"
#include "format/page_layout.h"

namespace polykv::cli {
namespace {

using format::Result;
using format::Status;
using runtime::best_ms;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kAgents[] = {1, 4, 15, 64};
static_assert(std::size(kAgents) > 0 && kAgents[std::size(kAgents) - 1] <= runtime::kMaxStepRows);
constexpr std::uint32_t kDepths[] = {1024, 4096, 8192};  // those that the pool has, and its end

// About 40 figures, half of them of the first kind, in 20 seconds.
constexpr double kAttentionLimitMs = 250;
constexpr double kStepLimitMs = 700;
constexpr double kStartLimitMs = 1000;
constexpr int kMaxRuns = 1000;

// More than the last level cache of nearly any CPU.
constexpr std::size_t kReadBytes = std::size_t{256} << 20;

// Float16 pages for comparison stop here: with a larger pool its first layers stand for the others, and are still more
// than a cache holds.
constexpr std::size_t kMaxFloat16Bytes = std::size_t{512} << 20;

// What this process allocated or changed: heap, stacks, relocated constants. That is what one more process on the same
// files costs; pages of files are not counted, not even those that nobody else maps.
std::optional<std::uint64_t> private_bytes() {
  std::ifstream file("/proc/self/smaps_rollup");
  for (std::string word; file >> word;) {
    std::uint64_t kibibytes = 0;
    if (word == "Anonymous:" && file >> kibibytes) return kibibytes * 1024;
  }
  return std::nullopt;
}

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// Agents on a desk, each with a tail of its own, who take steps of one token together. What the tokens are changes no
// time.
class Agents {
 public:
  Agents(Desk& desk, std::size_t num_agents, std::uint32_t depth)
      : desk_(desk),
        visible_{{desk.pages().first_position(), desk.pages().first_position() + depth}},
        tokens_(num_agents),
        logits_(num_agents * desk.model.config().vocab_size) {
    for (std::size_t i = 0; i < num_agents; ++i) tails_.push_back(desk.runner.make_tail(kTailTokens));
    for (std::size_t i = 0; i < num_agents; ++i) {
      steps_.push_back(
          {&tails_[i], {&tokens_[i], 1}, visible_, 1, logits_.data() + i * desk.model.config().vocab_size});
    }
  }
  Agents(const Agents&) = delete;  // steps point into the object
  Agents& operator=(const Agents&) = delete;

  // At most kTailTokens times.
  static constexpr int kTailTokens = core::Tail::kBlockTokens;
  Status step() {
    const std::uint32_t vocab_size = desk_.model.config().vocab_size;
    for (std::uint32_t& token : tokens_) token = static_cast<std::uint32_t>(next_token_++ * 7919 % vocab_size);
    return desk_.runner.step(steps_);
  }

 private:
  Desk& desk_;
  const std::vector<format::PositionRange> visible_;
  std::vector<std::uint32_t> tokens_;
  std::vector<float> logits_;
  std::vector<core::Tail> tails_;
  std::vector<runtime::AgentStep> steps_;
  std::uint64_t next_token_ = 0;
};

class Bench {
 public:
  Bench(const Options& options, Report& report) : options_(options), report_(report), progress_(report) {}

  Result<BenchFigures> run() {
    POLYKV_CHECK_STATUS(measure_starts());
    list_depths();
    POLYKV_CHECK_STATUS(measure_reading());
    POLYKV_CHECK_STATUS(measure_attention());
    POLYKV_CHECK_STATUS(measure_steps());
    return std::move(figures_);
  }

 private:
  // The desk of the last start stays for what follows.
  Result<BenchFigures::Start> start(Report& report) {
    desk_.reset();
    POLYKV_CHECK_STATUS(check_stop());
    const Clock::time_point begin = Clock::now();
    POLYKV_TRY(desk_, open_desk(options_.operands.front(), options_, report));
    POLYKV_CHECK_STATUS(require_base(*desk_, "bench"));
    const double open_ms = ms_since(begin);
    Agents agent(*desk_, 1, desk_->pages().shape().num_tokens);
    POLYKV_CHECK_STATUS(agent.step());
    const double first_step_ms = ms_since(begin);
    if (figures_.tokens == 0) describe();
    return BenchFigures::Start{open_ms, first_step_ms};
  }

  // In the first start, while `agent` lives: a process that has answered its first token.
  void describe() {
    const runtime::ModelConfig& config = desk_->model.config();
    const format::Identity& identity = desk_->pool().reader.identity();
    figures_.pool = options_.operands.front();
    figures_.model = identity.get("model.name").value_or("");
    if (figures_.model.empty()) figures_.model = desk_->model.file.path().filename().string();
    figures_.codec = identity.get("codec.name").value_or("");
    figures_.kernels = core::active_kernels().name;
    figures_.threads = desk_->workers.num_threads();
    figures_.tokens = desk_->pages().shape().num_tokens;
    figures_.pool_bytes = desk_->pool().file.bytes().size();
    for (const format::MappedFile& file : desk_->model.file.weight_files())
      figures_.weight_bytes += file.bytes().size();
    figures_.tail_bytes_per_token = std::uint64_t{config.num_layers} * config.num_kv_heads *
                                    (config.head_dim + format::padded_value_dim(config.head_dim)) * 2;
    const std::uint64_t tail_bytes = figures_.tail_bytes_per_token * Agents::kTailTokens;
    figures_.private_bytes = private_bytes();
    if (figures_.private_bytes) *figures_.private_bytes -= std::min(*figures_.private_bytes, tail_bytes);
  }

  Status measure_starts() {
    POLYKV_TRY(BenchFigures::Start first, start(report_));
    Report silent(STDOUT_FILENO, STDERR_FILENO, {.quiet = true, .progress = false});  // notices were given
    if (drop_files()) {
      POLYKV_TRY(figures_.cold, start(silent));
    }
    const auto again = [&]() -> Status {
      POLYKV_TRY(const BenchFigures::Start warm, start(silent));
      figures_.warm.open_ms = std::min(figures_.warm.open_ms, warm.open_ms);
      figures_.warm.first_step_ms = std::min(figures_.warm.first_step_ms, warm.first_step_ms);
      return {};
    };
    figures_.warm = first;
    if (const auto best = best_ms(kStartLimitMs, kMaxRuns, again); !best) return best.error();
    return {};
  }

  // Pool and weights out of memory; false if one of them stays.
  bool drop_files() {
    std::vector<std::filesystem::path> paths = {desk_->pool().file.path()};
    for (const format::MappedFile& file : desk_->model.file.weight_files()) paths.push_back(file.path());
    desk_.reset();  // what is mapped stays
    bool dropped = true;
    for (const std::filesystem::path& path : paths) dropped = runtime::drop_from_page_cache(path) && dropped;
    return dropped;
  }

  void list_depths() {
    for (const std::uint32_t depth : kDepths) {
      if (depth < figures_.tokens) depths_.push_back(depth);
    }
    depths_.push_back(static_cast<std::uint32_t>(figures_.tokens));
    num_figures_ = 1 + std::size(kAgents) * (2 * depths_.size() + depths_.size() + 1);
  }

  // Before each figure; also ends the work when it has to.
  Status next_figure(const char* what) {
    progress_.update(num_done_++, num_figures_, "figures", what);
    return desk_->check_unchanged();
  }

  template <typename Work>
  static Result<double> time(double limit_ms, int max_runs, const Work& work) {
    return best_ms(limit_ms, max_runs, [&]() -> Status {
      POLYKV_CHECK_STATUS(check_stop());
      return work();
    });
  }

  Status measure_reading() {
    POLYKV_CHECK_STATUS(next_figure("memory"));
    const std::vector<std::uint64_t> buffer(kReadBytes / sizeof(std::uint64_t), 1);
    runtime::MemoryReader reader(desk_->workers);
    figures_.read_bytes = kReadBytes;
    const auto read = [&]() -> Status {
      if (reader.sum(buffer) == buffer.size()) return {};
      return format::Error(format::ErrorCode::kFailed, "memory was read wrongly");
    };
    POLYKV_TRY(figures_.read_ms, time(kStepLimitMs, kMaxRuns, read));
    return {};
  }

  Status measure_attention() {
    format::KvShape shape = desk_->pages().shape();
    const std::uint32_t num_layers = shape.num_layers, num_q_heads = desk_->model.config().num_q_heads;
    const std::size_t layer_bytes =
        shape.num_kv_heads *
        format::run_bytes(format::kCodecF16, format::kCodecF16, shape.head_dim, std::max(shape.num_tokens, 1u));
    shape.num_layers =
        static_cast<std::uint32_t>(std::clamp<std::size_t>(kMaxFloat16Bytes / layer_bytes, 1, num_layers));
    const runtime::RandomPool float16(shape, {format::kCodecF16, format::kCodecF16});
    for (const std::uint32_t depth : depths_) {
      for (const std::size_t num_agents : kAgents) {
        const auto best = [&](const core::KvPool& pool, std::uint64_t& page_bytes) -> Result<double> {
          POLYKV_CHECK_STATUS(next_figure("attention"));
          runtime::AttentionStep step(pool, num_layers, num_q_heads, num_agents, depth, desk_->workers);
          page_bytes = step.page_bytes();
          return time(kAttentionLimitMs, kMaxRuns, [&] { return step.run(); });
        };
        std::uint64_t page_bytes = 0, float16_bytes = 0;
        POLYKV_TRY(const double ms, best(desk_->pages(), page_bytes));
        POLYKV_TRY(const double f16_ms, best(float16.pool(), float16_bytes));
        figures_.attention.push_back({num_agents, depth, page_bytes, ms, f16_ms});
      }
    }
    return {};
  }

  Status measure_steps() {
    std::vector<std::uint32_t> depths = {0};
    depths.insert(depths.end(), depths_.begin(), depths_.end());
    for (const std::uint32_t depth : depths) {
      for (const std::size_t num_agents : kAgents) {
        POLYKV_CHECK_STATUS(next_figure("step"));
        Agents agents(*desk_, num_agents, depth);
        POLYKV_TRY(const double ms, time(kStepLimitMs, Agents::kTailTokens, [&] { return agents.step(); }));
        figures_.steps.push_back({num_agents, depth, ms});
      }
    }
    return desk_->check_unchanged();
  }

  const Options& options_;
  Report& report_;
  Progress progress_;
  BenchFigures figures_;
  std::unique_ptr<Desk> desk_;
  std::vector<std::uint32_t> depths_;
  std::size_t num_done_ = 0, num_figures_ = 0;
};

}  // namespace

int run_bench(const Options& options, Report& report) {
  const auto figures = Bench(options, report).run();
  if (!figures) return report.error(options.operands.front(), figures.error());
  if (options.json) {
    report.print_line(bench_json(*figures));
  } else {
    report.print(bench_text(*figures));
  }
  return 0;
}

}  // namespace polykv::cli
