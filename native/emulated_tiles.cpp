// The tile kernel on plain vectors, each tile instruction spelled out: tests the layout on any machine.
#include "instruction_sets.hpp"
#include "kernel.hpp"
#include "tiles.hpp"

namespace {

struct Tiles {
    static thread_local unsigned char memory[8][1024];

    static void begin() { std::memset(memory, 0xff, sizeof memory); }  // what is not set first shows as NaN
    static void end() {}

    template <int Tile>
    static void zero() {
        std::memset(memory[Tile], 0, sizeof memory[Tile]);
    }
    template <int Tile>
    static void load(const uint16_t* from) {
        std::memcpy(memory[Tile], from, sizeof memory[Tile]);
    }
    template <int Tile>
    static void store(float* to, int64_t row_stride) {
        for (int row = 0; row < 16; ++row) std::memcpy(to + row * row_stride, memory[Tile] + row * 64, 64);
    }
    // TDPBF16PS: sums[m][n] += a[m][2 i] b[i][2 n] + a[m][2 i + 1] b[i][2 n + 1]
    template <int Sums, int A, int B>
    static void multiply() {
        float sums[16][16], left[16][2][16], right[16][2][16];
        std::memcpy(sums, memory[Sums], sizeof sums);
        widen_pairs(memory[A], left);
        widen_pairs(memory[B], right);
        for (int m = 0; m < 16; ++m)
            for (int i = 0; i < 16; ++i)
                for (int n = 0; n < 16; ++n)
                    sums[m][n] += left[m][0][i] * right[i][0][n] + left[m][1][i] * right[i][1][n];
        std::memcpy(memory[Sums], sums, sizeof sums);
    }

   private:
    static void widen_pairs(const unsigned char* tile, float (&to)[16][2][16]) {
        uint16_t bits[16][16][2];
        std::memcpy(bits, tile, sizeof bits);
        for (int row = 0; row < 16; ++row)
            for (int i = 0; i < 16; ++i)
                for (int half = 0; half < 2; ++half) to[row][half][i] = widen(bits[row][i][half]);
    }
};

thread_local unsigned char Tiles::memory[8][1024];

template <class Source>
using Product = TileProduct<Lanes<4>, Tiles, Source>;

bool always() { return true; }

}  // namespace

const InstructionSet kEmulatedTiles = {"emulated_tiles", always, kernel<Product<float>, float>(),
                                       kernel<Product<uint16_t>, uint16_t>()};
