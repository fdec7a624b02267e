// AVX-512 with dot products of bfloat16 pairs.
#include "avx512.hpp"
#include "instruction_sets.hpp"

namespace {

struct PairStep {
    using Element = uint16_t;
    using V = Wide::V;
    static constexpr int numbers = 2;

    static LONGATTN_INLINE uint16_t element(uint16_t bits, bool negated) { return negated ? bits ^ 0x8000 : bits; }
    static LONGATTN_INLINE V accumulate(V sum, V keys, const float* query) {
        int32_t pair;
        std::memcpy(&pair, query, sizeof pair);
        return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(keys), reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair)));
    }
};

using Product = RegisterProduct<Wide, PairStep, uint16_t, 6, 4, 4>;

bool runs_here() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }

}  // namespace

const InstructionSet kAvx512Bf16 = {"avx512_bf16", runs_here, kernel<WideFloatProduct<float>, float>(),
                                    kernel<Product, uint16_t>()};
