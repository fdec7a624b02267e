// Vectors of Width floats by the compiler's own vector extension: one source for SSE2, NEON and AVX2.
#pragma once

#include <cstdint>
#include <cstring>

#define LONGATTN_INLINE inline __attribute__((always_inline))

namespace {

// Least relative error over [0, 1) among polynomials of degree five: 7.5e-8, about float32's own rounding.
constexpr float kExp2[6] = {0.9999999250637488f,  0.6931530731962867f,   0.24015361706152938f,
                            0.05582631802684332f, 0.008989340102523918f, 0.0018775766765153634f};

// Spelled out per width: not every compiler takes a template's argument as the size.
template <int Width>
struct Vectors;
#define LONGATTN_VECTORS(WIDTH)                                              \
    template <>                                                              \
    struct Vectors<WIDTH> {                                                  \
        typedef float V __attribute__((vector_size(WIDTH * 4), may_alias));  \
        typedef int32_t I __attribute__((vector_size(WIDTH * 4), may_alias)); \
    }
LONGATTN_VECTORS(1);
LONGATTN_VECTORS(2);
LONGATTN_VECTORS(4);
LONGATTN_VECTORS(8);
LONGATTN_VECTORS(16);
#undef LONGATTN_VECTORS

template <int Width>
struct Lanes {
    static constexpr int width = Width;
    using V = typename Vectors<Width>::V;
    using I = typename Vectors<Width>::I;

    static LONGATTN_INLINE V load(const float* from) { return *reinterpret_cast<const V*>(from); }
    static LONGATTN_INLINE void store(float* to, V v) { *reinterpret_cast<V*>(to) = v; }
    static LONGATTN_INLINE V splat(float x) { return x - V{}; }

    // 2^x, from 2^-126 to 2^127 and clamped there; NaN gives NaN.
    static LONGATTN_INLINE V exp2(V x) {
        const V lowest = splat(-126.0f), highest = splat(127.0f);
        x = x < lowest ? lowest : x;
        x = x > highest ? highest : x;
        // positive numbers truncate to their floor
        const I biased = __builtin_convertvector(x + 127.0f, I);
        const V fraction = x - (__builtin_convertvector(biased, V) - 127.0f);
        return polynomial(fraction) * reinterpret_cast<V>(biased << 23);
    }

    static LONGATTN_INLINE V polynomial(V f) {
        V p = f * kExp2[5] + kExp2[4];
        p = p * f + kExp2[3];
        p = p * f + kExp2[2];
        p = p * f + kExp2[1];
        return p * f + kExp2[0];
    }

    // The first `count` lanes as they are, the others zero.
    static LONGATTN_INLINE V before(V v, int count) {
        I lane;
        for (int i = 0; i < Width; ++i) lane[i] = i;
        return lane < count ? v : V{};
    }

    static LONGATTN_INLINE V larger(V a, V b) { return a > b ? a : b; }

    // Whether a lane is not below the limit; NaN is not.
    static LONGATTN_INLINE bool reaches(V v, float limit) {
        const I below = v < splat(limit);
        int32_t all = -1;
        for (int i = 0; i < Width; ++i) all &= below[i];
        return all == 0;
    }

    static LONGATTN_INLINE void sums(V a, V b, float* two) {
        if constexpr (Width == 2) {
            two[0] = a[0] + a[1];
            two[1] = b[0] + b[1];
        } else {
            using Half = Lanes<Width / 2>;
            Half::sums(fold(a), fold(b), two);
        }
    }

    static LONGATTN_INLINE typename Vectors<Width / 2>::V fold(V v) {
        typename Vectors<Width / 2>::V low, high;
        std::memcpy(&low, &v, sizeof low);
        std::memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof low, sizeof high);
        return low + high;
    }

    static LONGATTN_INLINE float largest(V v) {
        float most = v[0];
        for (int i = 1; i < Width; ++i) most = v[i] > most ? v[i] : most;
        return most;
    }
};

}  // namespace
