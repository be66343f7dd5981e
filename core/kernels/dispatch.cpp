#include <atomic>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "core/kernels/kernels.h"
#include "core/kernels/prefill.h"
#include "core/kernels/trellis_quantizer.h"

namespace polykv::core {

extern const AttentionKernels kAttentionScalar;
extern const LinearKernels kLinearScalar;
extern const RowKernels kRowsScalar;
#if defined(__x86_64__)
extern const AttentionKernels kAttentionAvx2, kAttentionAvx512;
extern const LinearKernels kLinearAvx2, kLinearAvx512;
extern const RowKernels kRowsAvx2, kRowsAvx512;
#endif

namespace {

const KernelTable kScalar{"scalar", &kAttentionScalar, &kLinearScalar, &kRowsScalar, &kTrellisScalar};

#if defined(__x86_64__)
const KernelTable kAvx2{"avx2", &kAttentionAvx2, &kLinearAvx2, &kRowsAvx2, &kTrellisAvx2};
const KernelTable kAvx512{"avx512", &kAttentionAvx512, &kLinearAvx512, &kRowsAvx512, &kTrellisAvx512};

// __builtin_cpu_supports reads XGETBV too; F16C is not among the names that clang 14 knows.
bool has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c(); }

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
}

// Not among the names that clang 14 knows, either.
bool has_avx512_bf16() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return has_avx512() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & (1u << 5)) != 0;
}
#endif

std::atomic<const KernelTable*> g_active{nullptr};

}  // namespace

std::vector<const KernelTable*> compiled_kernels() {
#if defined(__x86_64__)
  return {&kAvx512, &kAvx2, &kScalar};
#else
  return {&kScalar};
#endif
}

std::vector<const KernelTable*> supported_kernels() {
  std::vector<const KernelTable*> tables;
#if defined(__x86_64__)
  if (has_avx512()) tables.push_back(&kAvx512);
  if (has_avx2()) tables.push_back(&kAvx2);
#endif
  tables.push_back(&kScalar);
  return tables;
}

const KernelTable& active_kernels() {
  const KernelTable* table = g_active.load(std::memory_order_acquire);
  if (table == nullptr) {
    table = supported_kernels().front();
    g_active.store(table, std::memory_order_release);
  }
  return *table;
}

format::Status select_kernels(std::string_view name) {
  std::string names;
  for (const KernelTable* table : supported_kernels()) {
    if (table->name == name) {
      g_active.store(table, std::memory_order_release);
      return {};
    }
    names += names.empty() ? "" : ", ";
    names += table->name;
  }
  return format::Error(format::ErrorCode::kUnsupportedKernels,
                       "kernels '" + std::string(name) + "' cannot run here; this machine has " + names);
}

bool cpu_has_bf16() {
#if defined(__x86_64__)
  return has_avx512_bf16();
#else
  return false;
#endif
}

const PrefillKernels* active_prefill_kernels() {
#if defined(__x86_64__)
  if (&active_kernels() == &kAvx512 && has_avx512_bf16()) return &kPrefillAvx512Bf16;
#endif
  return nullptr;
}

}  // namespace polykv::core
