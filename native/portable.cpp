// Plain vectors of four floats: SSE2 on x86-64, NEON on arm64, ordinary code elsewhere.
#include "instruction_sets.hpp"
#include "kernel.hpp"
#include "products.hpp"

namespace {

using Simd = Lanes<4>;
#if defined(__aarch64__)
constexpr int kRows = 6;  // 32 registers
#else
constexpr int kRows = 2;  // 16
#endif

template <class Source>
using Product = RegisterProduct<Simd, FloatStep<Simd>, Source, kRows, 4, 24 / kRows>;

bool always() { return true; }

}  // namespace

const InstructionSet kPortable = {"portable", always, kernel<Product<float>, float>(),
                                  kernel<Product<uint16_t>, uint16_t>()};
