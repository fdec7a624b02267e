// AVX-512 without bfloat16 products: those inputs are widened when they are packed.
#include "avx512.hpp"
#include "instruction_sets.hpp"

namespace {

bool runs_here() { return has_avx512(); }

}  // namespace

const InstructionSet kAvx512 = {"avx512", runs_here, kernel<WideFloatProduct<float>, float>(),
                                kernel<WideFloatProduct<uint16_t>, uint16_t>()};
