// Vectors of sixteen floats, with the instructions that split a number into whole and fraction.
#pragma once

#include <immintrin.h>

#include "moments.hpp"
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
    static LONGATTN_INLINE V between(V v, int first, int last) {
        const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        const __mmask16 from = _mm512_cmpge_epi32_mask(lane, _mm512_set1_epi32(first));
        return _mm512_maskz_mov_ps(_mm512_mask_cmplt_epi32_mask(from, lane, _mm512_set1_epi32(last)), v);
    }
    static LONGATTN_INLINE V larger(V a, V b) { return _mm512_max_ps(a, b); }
    static LONGATTN_INLINE float largest(V v) { return _mm512_reduce_max_ps(v); }
    static LONGATTN_INLINE float sum(V v) { return _mm512_reduce_add_ps(v); }
};

template <class Source>
using WideFloatProduct = RegisterProduct<Wide, FloatStep<Wide>, Source, 6, 4, 4>;

LONGATTN_INLINE bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
}

}  // namespace
