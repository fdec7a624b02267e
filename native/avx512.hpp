// Vectors of sixteen floats, with the instructions that split a number into whole and fraction.
#pragma once

#include <immintrin.h>

#include "kernel.hpp"
#include "products.hpp"

namespace {

struct Wide : Lanes<16> {
    static LONGATTN_INLINE V exp2(V x) {
        // 0x09: what is left of x above its floor, without exceptions; scalef takes the floor itself
        return _mm512_scalef_ps(polynomial(_mm512_reduce_ps(x, 0x09)), x);
    }
    static LONGATTN_INLINE bool reaches(V v, float limit) {
        return _mm512_cmp_ps_mask(v, splat(limit), _CMP_NLT_UQ) != 0;
    }
    static LONGATTN_INLINE V before(V v, int count) {
        return _mm512_maskz_mov_ps(static_cast<__mmask16>((1u << count) - 1), v);
    }
    static LONGATTN_INLINE V larger(V a, V b) { return _mm512_max_ps(a, b); }
    static LONGATTN_INLINE float largest(V v) { return _mm512_reduce_max_ps(v); }
    static LONGATTN_INLINE void sums(V a, V b, float* two) {
        // quarters of a in the lower half, of b in the upper; then as one
        const V both = _mm512_shuffle_f32x4(a, b, 0x44) + _mm512_shuffle_f32x4(a, b, 0xee);
        const V pairs = both + _mm512_shuffle_f32x4(both, both, 0xb1);
        const V fours = pairs + _mm512_permute_ps(pairs, 0x4e);
        const V all = fours + _mm512_permute_ps(fours, 0xb1);
        two[0] = _mm512_cvtss_f32(all);
        two[1] = _mm_cvtss_f32(_mm512_extractf32x4_ps(all, 2));
    }
};

template <class Source>
using WideFloatProduct = RegisterProduct<Wide, FloatStep<Wide>, Source, 6, 4, 4>;

LONGATTN_INLINE bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
}

}  // namespace
