// One contract, one scalar truth, one file per instruction set: the table of kernels that this process uses.
//
// scalar  C++ only; it defines the right answer
// avx2    AVX2, FMA, F16C
// avx512  AVX-512 F BW DQ VL, VNNI, VBMI (what Ice Lake and Zen 4 and later have)
#pragma once

#include <string_view>
#include <vector>

#include "format/status.h"

namespace polykv::core {

struct AttentionKernels;  // core/kernels/attention.h
struct LinearKernels;     // core/kernels/linear.h
struct RowKernels;        // core/kernels/rows.h
struct TrellisQuantizer;  // core/kernels/trellis_quantizer.h
struct PrefillKernels;    // core/kernels/prefill.h

struct KernelTable {
  const char* name;
  const AttentionKernels* attention;
  const LinearKernels* linear;
  const RowKernels* rows;
  const TrellisQuantizer* trellis;
};

// Best first; scalar is always there.
std::vector<const KernelTable*> compiled_kernels();
// Those of compiled_kernels() that this CPU and operating system can run (the system must save the registers).
std::vector<const KernelTable*> supported_kernels();

// The table in use: the best supported one, or what select_kernels chose.
const KernelTable& active_kernels();

// Chooses a table by name for the whole process, before any thread uses one. An unavailable name is an error
// (kUnsupportedKernels, naming those that are there), never another table.
format::Status select_kernels(std::string_view name);

// AVX512_BF16, and the rest of what avx512 needs (every CPU with AMX has it too).
bool cpu_has_bf16();

// The prefill's kernels in bfloat16: there where the table in use is avx512 and the CPU has AVX512_BF16, else null.
const PrefillKernels* active_prefill_kernels();

}  // namespace polykv::core
