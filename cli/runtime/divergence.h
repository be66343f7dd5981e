// How far a model's output with a compressed cache is from its output with the uncompressed one, over scored positions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/workers.h"

namespace polykv::runtime {

// Over the positions scored; zeros if there was none. Standard errors are those of a mean over positions that are
// independent; neighbours in a text are not quite, so they are a little low.
struct Divergence {
  std::uint32_t positions = 0;
  double kld_mean = 0.0;  // KL(reference || compressed) of the next token's distribution, in nats
  double kld_stderr = 0.0;
  double kld_p99 = 0.0;  // the smallest that 99 % of the positions do not exceed
  double kld_max = 0.0;
  double same_top = 0.0;  // share of positions with the same most likely token
  double same_top_stderr = 0.0;
  double rms_dp = 0.0;     // root mean square difference of the probability of the text's own next token
  double ppl_ratio = 1.0;  // perplexity of the text, compressed to reference
  double ppl_ratio_stderr = 0.0;
};

// ln of the sum of exp(logits), to a few 1e-7.
double log_sum_exp(std::span<const float> logits);

// Collects positions.
class DivergenceMeter {
 public:
  struct Position {
    double kld;
    bool same_top;
    double probability_change;  // compressed - reference, of the target
    double log_ratio;           // ln p_reference - ln p_compressed, of the target
  };

  // reference, compressed [targets.size()][vocab_size] logits of the same positions; targets: the tokens that follow.
  void add(std::span<const float> reference, std::span<const float> compressed, std::span<const std::uint32_t> targets,
           core::Workers& workers);

  std::span<const Position> positions() const { return positions_; }
  Divergence summary() const;

 private:
  std::vector<Position> positions_;
};

}  // namespace polykv::runtime
