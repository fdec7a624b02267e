// Vectors of eight floats with fused multiply-add: x86-64 since 2013.
#include <immintrin.h>

#include "instruction_sets.hpp"
#include "kernel.hpp"
#include "products.hpp"

namespace {

struct Simd : Lanes<8> {
    static LONGATTN_INLINE bool reaches(V v, float limit) {
        return _mm256_movemask_ps(_mm256_cmp_ps(v, splat(limit), _CMP_NLT_UQ)) != 0;
    }
};

template <class Source>
using Product = RegisterProduct<Simd, FloatStep<Simd>, Source, 6, 2, 4>;

bool runs_here() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

}  // namespace

const InstructionSet kAvx2 = {"avx2", runs_here, kernel<Product<float>, float>(),
                              kernel<Product<uint16_t>, uint16_t>()};
