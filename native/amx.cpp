// AMX: bfloat16 products in tiles, the rest in AVX-512.
#include <sys/syscall.h>
#include <unistd.h>

#include <cpuid.h>

#include "avx512.hpp"
#include "instruction_sets.hpp"
#include "tiles.hpp"

namespace {

// By assembly: compilers differ in whether they take a template's argument as a tile's number, and not all of their
// intrinsics say that memory is read.
struct Tiles {
    static LONGATTN_INLINE void begin() {
        // palette 1: eight tiles of 16 rows of 64 bytes
        struct alignas(64) {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } const shape;
        static_assert(sizeof shape == 64, "LDTILECFG reads 64 bytes");
        asm volatile("ldtilecfg %0" ::"m"(shape));
    }
    static LONGATTN_INLINE void end() { asm volatile("tilerelease"); }

    template <int Tile>
    static LONGATTN_INLINE void zero() {
        asm volatile("tilezero %%tmm%c0" ::"i"(Tile));
    }
    template <int Tile>
    static LONGATTN_INLINE void load(const uint16_t* from) {
        asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(int64_t{64}), "i"(Tile) : "memory");
    }
    template <int Tile>
    static LONGATTN_INLINE void store(float* to, int64_t row_stride) {
        const int64_t bytes = row_stride * static_cast<int64_t>(sizeof(float));
        asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(bytes), "i"(Tile) : "memory");
    }
    template <int Sums, int A, int B>
    static LONGATTN_INLINE void multiply() {
        asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sums), "i"(A), "i"(B));
    }
};

template <class Source>
using Product = TileProduct<Wide, Tiles, Source>;

// The kernel keeps tile registers for a process only after it has asked for them.
bool permitted() {
    constexpr int kRequestPermission = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

bool runs_here() {
    constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
    static const bool here = [] {
        unsigned a, b, c, d;
        return has_avx512() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kAmxBf16) && (d & kAmxTile) &&
               permitted();
    }();
    return here;
}

}  // namespace

const InstructionSet kAmx = {"amx", runs_here, kernel<Product<float>, float>(), kernel<Product<uint16_t>, uint16_t>()};
